"""Ensembles, attractors, basins, alignment and modes of any system that keeps the protocol."""

from eqrlab.attractors.adaptive import adaptive
from eqrlab.attractors.alignment import alignment
from eqrlab.attractors.archive import completed_part, open_ensemble
from eqrlab.attractors.asymptotic import asymptotic_alignment
from eqrlab.attractors.basins import basins
from eqrlab.attractors.continuation import continuation
from eqrlab.attractors.endings import endings
from eqrlab.attractors.estimate import estimate_basins
from eqrlab.attractors.exponents import trajectory_exponents
from eqrlab.attractors.export import export
from eqrlab.attractors.fate import Tolerances
from eqrlab.attractors.fixed_points import fixed_points
from eqrlab.attractors.ftle import ftle
from eqrlab.attractors.ftle_field import ftle_field
from eqrlab.attractors.lyapunov import lyapunov
from eqrlab.attractors.modes import ModeRule, mode_sensitivity, modes
from eqrlab.attractors.noop import noop_test
from eqrlab.attractors.outcomes import outcomes
from eqrlab.attractors.plane import plane
from eqrlab.attractors.prolong import prolong
from eqrlab.attractors.racing import Policy, halving
from eqrlab.attractors.replay import best_policy, matched_cost, replay
from eqrlab.attractors.return_test import return_test
from eqrlab.attractors.sample import sample
from eqrlab.attractors.scaling import scaling
from eqrlab.attractors.shells import shells
from eqrlab.attractors.shock import critical_shock
from eqrlab.attractors.singular import singular_values
from eqrlab.attractors.spectrum import spectrum
from eqrlab.attractors.stability import basin_stability
from eqrlab.attractors.transitions import transitions

__all__ = [
    "ModeRule",
    "Policy",
    "Tolerances",
    "adaptive",
    "alignment",
    "asymptotic_alignment",
    "basin_stability",
    "basins",
    "best_policy",
    "completed_part",
    "continuation",
    "critical_shock",
    "endings",
    "estimate_basins",
    "export",
    "fixed_points",
    "ftle",
    "ftle_field",
    "halving",
    "lyapunov",
    "matched_cost",
    "mode_sensitivity",
    "modes",
    "noop_test",
    "open_ensemble",
    "outcomes",
    "plane",
    "prolong",
    "replay",
    "return_test",
    "sample",
    "scaling",
    "shells",
    "singular_values",
    "spectrum",
    "trajectory_exponents",
    "transitions",
]
