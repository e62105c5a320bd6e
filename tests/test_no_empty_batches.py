"""No analysis ever asks a system about zero rows: many maps (einops, attention, reductions) cannot take them."""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.studies.checks import run_checks
from eqrlab.attractors.dynamics.at_attractors import local_dynamics
from tests.zoo import henon, logistic, puzzles, rotor, selector


class Strict:
    """A system that refuses batches without rows, whatever it is asked."""

    def __init__(self, system):
        self.system, self.calls, self.noise_scale = system, 0, 0.0

    def _seen(self, rows):
        assert len(rows) > 0, "an analysis asked about zero rows"
        self.calls += 1

    def encode(self, inputs):
        self._seen(inputs)
        return self.system.encode(inputs)

    def initial(self, x, generator):
        self._seen(x)
        return self.system.initial(x, generator)

    def step(self, z, x, noise=None):
        self._seen(z)
        self._seen(x)
        return self.system.step(z, x)

    def decode(self, z, x):
        self._seen(z)
        return (self.system.decode(z, x) > 1).long() + 1


def two_wells():
    return selector([[0.1, -0.3], [0.2, 0.0]])


SYSTEMS = {
    "two wells": (two_wells, 2),  # everything settles
    "chaos": (lambda: henon(), 2),  # nothing does
    "rotor": (lambda: rotor(2 * math.pi * 2 / 7), 2),  # cycles
    "logistic": (lambda: logistic(4.0), 1),
}
INPUTS = puzzles(2)
LABELS = torch.full((2, 2), 2)


def runs(system, **options):
    width = int(at.sample(system, INPUTS, restarts=1, depth=1).sizes["token"])
    options = {"restarts": 6, "depth": 24, "keep": ("summary", "final_state"), **options}
    return at.sample(system, INPUTS, labels=LABELS[:, :width], **options)


def starts(system, dim):
    return runs(system).final_state.values


def wide(labels, system):
    return labels[:, : int(at.sample(system, INPUTS, restarts=1, depth=1).sizes["token"])]


ANALYSES = {
    "sample": lambda s, d: runs(s),
    "estimate_basins": lambda s, d: at.estimate_basins(s, INPUTS, half_width=0.3, max_restarts=16, depth=16),
    "adaptive": lambda s, d: at.adaptive(s, INPUTS, at.Policy(stop="settled"), labels=wide(LABELS, s)),
    "prolong": lambda s, d: at.prolong(s, INPUTS, runs(s, depth=12), depth=48),
    "shells": lambda s, d: at.shells(s, INPUTS, radii=(0.5, 1.0), restarts=4, depth=16),
    "noop_test": lambda s, d: at.noop_test(s, INPUTS, restarts=3, depth=12),
    "continuation": lambda s, d: at.continuation({0.0: s, 1.0: s}, INPUTS, restarts=4, depth=16),
    "transitions": lambda s, d: at.transitions(s, INPUTS, runs(s), noises=(0.0,), trials=4, depth=16, steps=4),
    "asymptotic_alignment": lambda s, d: at.asymptotic_alignment(s, INPUTS, runs(s), labels=wide(LABELS, s)),
    "return_test": lambda s, d: at.return_test(s, INPUTS, starts(s, d), depth=16),
    "endings": lambda s, d: at.endings(s, INPUTS, runs(s), max_steps=64, steps=20, searches=4),
    "local_dynamics": lambda s, d: local_dynamics(at.Run.of(s, INPUTS), e := runs(s), at.basins(e), depth=24),
    "run_checks": lambda s, d: run_checks(at.Run.of(s, INPUTS), runs(s)),
    "spectrum": lambda s, d: at.spectrum(s, INPUTS, starts(s, d), k=1),
    "singular_values": lambda s, d: at.singular_values(s, INPUTS, starts(s, d), k=1),
    "lyapunov": lambda s, d: at.lyapunov(s, INPUTS, starts(s, d), k=1, steps=20),
    "ftle": lambda s, d: at.ftle(s, INPUTS, starts(s, d), steps=2),
    "trajectory_exponents": lambda s, d: at.trajectory_exponents(s, INPUTS, restarts=2, depth=16),
    "fixed_points": lambda s, d: at.fixed_points(s, INPUTS, starts(s, d), max_steps=200),
    "picard, uncertified": lambda s, d: at.fixed_points(
        s, INPUTS, starts(s, d), method="picard", certify=False, max_steps=100
    ),
    "newton, deflated": lambda s, d: at.fixed_points(s, INPUTS, starts(s, d), method="newton", deflate=1),
    "projection": lambda s, d: at.fixed_points(s, INPUTS, starts(s, d), method="projection"),
    "anderson": lambda s, d: at.fixed_points(s, INPUTS, starts(s, d), method="anderson"),
    "no start is finite": lambda s, d: at.fixed_points(s, INPUTS, np.full((2, 1, d), np.nan)),
    "critical_shock": lambda s, d: at.critical_shock(s, INPUTS, starts(s, d)[:, :2], random=2, depth=32, edge=True),
    "basin_stability": lambda s, d: at.basin_stability(s, INPUTS, starts(s, d)[:, :1], sizes=(0.1,), trials=4),
    "plane": lambda s, d: at.plane(s, INPUTS, resolution=8, depth=24),
    "ftle_field": lambda s, d: at.ftle_field(s, INPUTS, resolution=8, steps=2),
}  # fmt: skip


NOT_FOR = {
    ("plane", "logistic"),
    ("ftle_field", "logistic"),
}  # refused in a sentence


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("analysis", ANALYSES)
def test_an_analysis_never_asks_about_zero_rows(analysis, name):
    make, size = SYSTEMS[name]
    system = Strict(make())
    if (analysis, name) in NOT_FOR:
        with pytest.raises(ValueError, match="at least two numbers"):
            ANALYSES[analysis](system, size)
    else:
        ANALYSES[analysis](system, size)
        assert system.calls > 0


def test_export_never_asks_about_zero_rows(tmp_path):
    system = Strict(two_wells())
    at.export(system, INPUTS, tmp_path / "a.nc", restarts=5, depth=16, batch_size=2)
    assert system.calls > 0
