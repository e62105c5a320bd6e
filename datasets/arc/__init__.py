"""ARC-AGI beyond its boards: disguises undone, grids cropped, answers voted on, and its JSON files read."""

from eqrlab.datasets.arc.disguise import Disguise, disguise_of
from eqrlab.datasets.arc.grids import board_of, crop
from eqrlab.datasets.arc.vote import Candidate, Case, cases_of, pass_at, submission, vote

__all__ = [
    "Candidate",
    "Case",
    "Disguise",
    "board_of",
    "cases_of",
    "crop",
    "disguise_of",
    "pass_at",
    "submission",
    "vote",
]
