"""Ensembles, attractors, basins, alignment and modes of any system that implements the protocol.

What other packages add by entry points of the group eqrlab.analyses can be called here, too.
"""

from typing import TYPE_CHECKING, Any

from eqrlab.attractors.answers.adaptive import adaptive
from eqrlab.attractors.answers.alignment import alignment
from eqrlab.attractors.answers.commit import commit
from eqrlab.attractors.answers.outcomes import outcomes
from eqrlab.attractors.answers.policy import Policy, halving
from eqrlab.attractors.answers.replay import best_policy, matched_cost, replay
from eqrlab.attractors.answers.scaling import scaling
from eqrlab.attractors.answers.signals import signals
from eqrlab.attractors.dynamics.at_attractors import local_dynamics
from eqrlab.attractors.dynamics.endings import endings
from eqrlab.attractors.dynamics.fixed_points import fixed_points
from eqrlab.attractors.dynamics.ftle import ftle
from eqrlab.attractors.dynamics.input_sensitivity import input_sensitivity
from eqrlab.attractors.dynamics.lyapunov import lyapunov
from eqrlab.attractors.dynamics.run_exponents import trajectory_exponents
from eqrlab.attractors.dynamics.singular import singular_values
from eqrlab.attractors.dynamics.spectrum import spectrum
from eqrlab.attractors.ensemble.options import (
    AnalysisOptions,
    AnswerOptions,
    DrawOptions,
    RunOptions,
    StateOptions,
    WorkOptions,
)
from eqrlab.attractors.ensemble.prolong import prolong
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.landscape.basins import basins
from eqrlab.attractors.landscape.continuation import continuation
from eqrlab.attractors.landscape.estimate import estimate_basins
from eqrlab.attractors.landscape.foreign_starts import asymptotic_alignment
from eqrlab.attractors.landscape.mode_rule import ModeRule
from eqrlab.attractors.landscape.modes import mode_sensitivity, modes
from eqrlab.attractors.landscape.noop import noop_test
from eqrlab.attractors.landscape.return_test import return_test
from eqrlab.attractors.landscape.shells import shells
from eqrlab.attractors.landscape.transitions import transitions
from eqrlab.attractors.landscape.waves import sample_until_decided
from eqrlab.attractors.perturbation.duels import duels
from eqrlab.attractors.perturbation.ftle_plane import ftle_field
from eqrlab.attractors.perturbation.plane import plane
from eqrlab.attractors.perturbation.radius import basin_radius
from eqrlab.attractors.perturbation.shock import critical_shock
from eqrlab.attractors.perturbation.stability import basin_stability
from eqrlab.attractors.results.archive import completed_part, open_ensemble
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.groups import read
from eqrlab.attractors.results.named import words
from eqrlab.attractors.results.summary import summary
from eqrlab.attractors.streaming.export import export
from eqrlab.core import plugins

__all__ = [
    "AnalysisOptions",
    "AnswerOptions",
    "DrawOptions",
    "ModeRule",
    "Policy",
    "Run",
    "RunOptions",
    "StateOptions",
    "Tolerances",
    "WorkOptions",
    "adaptive",
    "alignment",
    "asymptotic_alignment",
    "basin_radius",
    "basin_stability",
    "basins",
    "best_policy",
    "commit",
    "common_restarts",
    "completed_part",
    "continuation",
    "critical_shock",
    "duels",
    "endings",
    "estimate_basins",
    "export",
    "fixed_points",
    "ftle",
    "ftle_field",
    "halving",
    "input_sensitivity",
    "local_dynamics",
    "lyapunov",
    "matched_cost",
    "mode_sensitivity",
    "modes",
    "noop_test",
    "open_ensemble",
    "outcomes",
    "plane",
    "prolong",
    "read",
    "replay",
    "return_test",
    "sample",
    "sample_until_decided",
    "scaling",
    "shells",
    "signals",
    "singular_values",
    "spectrum",
    "summary",
    "trajectory_exponents",
    "transitions",
    "words",
]

if not TYPE_CHECKING:  # a type checker would let every misspelt name pass

    def __getattr__(name: str) -> Any:
        entry = plugins.installed("eqrlab.analyses").get(name)
        if entry is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return plugins.imported(entry, "analysis")
