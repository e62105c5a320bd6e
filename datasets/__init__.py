"""Puzzles: generate, read, write, disguise, and judge answers to them."""

from eqrlab.datasets.files import bundled, bundled_names, read_puzzles, write_csv, write_npy_folder
from eqrlab.datasets.puzzles import Draw, PuzzleSet
from eqrlab.datasets.sets import build
from eqrlab.datasets.symmetry import augment
from eqrlab.datasets.tasks import (
    Oracle,
    augmentation,
    board,
    fingerprint,
    oracle,
    render,
    seq_len,
    task_of,
    vocab_size,
)

__all__ = [
    "Draw",
    "Oracle",
    "PuzzleSet",
    "augment",
    "augmentation",
    "board",
    "build",
    "bundled",
    "bundled_names",
    "fingerprint",
    "oracle",
    "read_puzzles",
    "render",
    "seq_len",
    "task_of",
    "vocab_size",
    "write_csv",
    "write_npy_folder",
]
