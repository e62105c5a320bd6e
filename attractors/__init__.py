"""Ensembles, attractors, basins, alignment and modes of any system that keeps the protocol."""

from eqrlab.attractors.alignment import alignment
from eqrlab.attractors.basins import basins
from eqrlab.attractors.fate import Tolerances
from eqrlab.attractors.fixed_points import fixed_points
from eqrlab.attractors.ftle import ftle
from eqrlab.attractors.lyapunov import lyapunov
from eqrlab.attractors.modes import ModeRule, modes
from eqrlab.attractors.outcomes import outcomes
from eqrlab.attractors.prolong import prolong
from eqrlab.attractors.sample import sample
from eqrlab.attractors.singular import singular_values
from eqrlab.attractors.spectrum import spectrum

__all__ = [
    "ModeRule",
    "Tolerances",
    "alignment",
    "basins",
    "fixed_points",
    "ftle",
    "lyapunov",
    "modes",
    "outcomes",
    "prolong",
    "sample",
    "singular_values",
    "spectrum",
]
