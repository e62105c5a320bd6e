"""Maps and states that no local analysis can treat give a sentence that names the fault, or a result code.

`FAULTS` are refused by every analysis that takes derivatives; `CODES` run, and say what the search found instead of a
fixed point.  `make bench` prints what a user reads.
"""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests.zoo import contraction, linear, logistic, normal_start, puzzles, rotor

ANALYSES = {
    "spectrum": lambda system, z: at.spectrum(system, puzzles(), z, k=1),
    "singular_values": lambda system, z: at.singular_values(system, puzzles(), z, k=1),
    "lyapunov": lambda system, z: at.lyapunov(system, puzzles(), z, k=1, steps=20),
    "ftle": lambda system, z: at.ftle(system, puzzles(), z, steps=2),
    "fixed_points": lambda system, z: at.fixed_points(system, puzzles(), z),
}

VALUES = {
    "spectrum": "spectral_radius",
    "singular_values": "singular_value",
    "lyapunov": "lyapunov_exponent",
    "ftle": "ftle",
}


def silent(z, x):
    with torch.no_grad():
        return torch.tanh(z)


def half_silent(z, x):
    """The gradient passes through a part of the step only, as in models that train their last cycle alone."""
    with torch.no_grad():
        z = torch.tanh(2 * z)
    return torch.tanh(z) + 0.1 * z


def late_silent(z, x):
    with torch.no_grad():
        inner = torch.tanh(2 * z)
    return 0.5 * z + inner


FAULTS = {
    "noisy step": (lambda z, x: 0.5 * z + 0.01 * torch.randn_like(z), "not deterministic"),
    "dropout left on": (lambda z, x: torch.nn.functional.dropout(z, 0.5), "not deterministic"),
    "no_grad around the step": (silent, "records no gradient"),
    "no_grad around all that reads the state": (half_silent, "records no gradient"),
    "no_grad around a part": (late_silent, "disagree with finite differences"),
    "rounding": (lambda z, x: torch.round(z), "piecewise constant"),
    "sign": (lambda z, x: torch.sign(z - 0.29), "piecewise constant"),
    "argmax": (lambda z, x: torch.nn.functional.one_hot(z.argmax(1), 3).to(z), "records no gradient"),
    "straight-through rounding": (lambda z, x: z + (z.round() - z).detach(), "finite differences"),
    "cast to single precision": (lambda z, x: torch.tanh(z.float()).double(), "lower precision"),
    "rows mixed": (lambda z, x: z / (1 + z.abs().sum()), "mixes rows"),
    "write into the state": (lambda z, x: z.mul_(0.5), "writes into its state"),
    "NaN out of the step": (lambda z, x: z * torch.nan, "NaN or infinity"),
    "wrong shape": (lambda z, x: z[:, :2], "must return a state"),
}


def faulty(name):
    return MapSystem(FAULTS[name][0], normal_start(3))


def states():
    return torch.tensor([[[0.3, -0.4, 0.7], [0.2, 0.6, -0.45]]], dtype=torch.float64)


def said(analysis, system, z):
    """Return the sentence of the ValueError that an analysis raises, or "" if it raises none."""
    try:
        ANALYSES[analysis](system, z)
    except ValueError as error:
        return str(error)
    return ""


GOLDEN = 2 * math.pi * (math.sqrt(5) - 1) / 2
CODES = {
    "rotor, irrational angle": (rotor(GOLDEN), [1.0, 0.0], "wandering", 0),
    "rotor, angle 2/7 of a turn": (rotor(2 * math.pi * 2 / 7), [0.9, 0.0], "periodic", 7),
    "shift z + 1": (MapSystem(lambda z, x: z + 1, normal_start(1)), [0.3], "wandering", 0),
    "growth 2 z": (linear(2 * torch.eye(1, dtype=torch.float64)), [0.3], "diverged", 0),
    "chaos, logistic r = 4": (logistic(4.0), [0.3], "wandering", 0),
    "slow contraction, 1 - 1e-4": (contraction(0.9999, 1), [3.0], "budget", 0),
    "start that is NaN": (contraction(0.5, 1), [math.nan], "nonfinite", 0),
    "start that is infinite": (contraction(0.5, 1), [math.inf], "nonfinite", 0),
}


def outcome(name):
    """Return result and period of plain iteration, (name of the code, period)."""
    system, z, *_ = CODES[name]
    found = at.fixed_points(
        system, puzzles(), torch.tensor([[z]], dtype=torch.float64), method="picard", max_steps=300
    )
    names = found.result.attrs["flag_meanings"].split()
    return names[int(found.result.item())], int(found.period.item())


@pytest.mark.parametrize("name", FAULTS)
def test_every_analysis_names_the_fault(name):
    for analysis in ANALYSES:
        sentence = said(analysis, faulty(name), states())
        assert FAULTS[name][1] in sentence and "\n" not in sentence, (analysis, sentence)


@pytest.mark.parametrize("name", FAULTS)
def test_a_refused_map_leaves_the_states_as_they_were(name):
    z = states()
    for analysis in ANALYSES:
        said(analysis, faulty(name), z)
    if name != "write into the state":
        assert torch.equal(z, states())


@pytest.mark.parametrize("analysis", [name for name in ANALYSES if name != "fixed_points"])
def test_a_state_with_a_nan_is_named_and_one_that_is_all_nan_is_a_gap(analysis):
    z = states()
    z[0, 1, 2] = torch.nan
    assert "puzzle 0, point 1 contains NaN" in said(analysis, contraction(0.5), z)
    z[0, 1] = torch.nan
    result = ANALYSES[analysis](contraction(0.5), z)
    values = result[VALUES[analysis]]
    assert np.isfinite(values.isel(point=0)).all() and np.isnan(values.isel(point=1)).all()


@pytest.mark.parametrize("name", CODES)
def test_what_is_no_fixed_point_gets_a_code(name):
    assert outcome(name) == CODES[name][2:]


def test_all_stages_together_claim_no_fixed_point_where_there_is_none():
    shift = MapSystem(lambda z, x: z + 1, normal_start(1))
    for system, z in ((shift, [0.3]), (rotor(GOLDEN), [math.nan, 1.0])):
        result = at.fixed_points(system, puzzles(), torch.tensor([[z]], dtype=torch.float64))
        assert result.solution.item() == -1 and np.isnan(result.error_bound.item())
        assert not result.stable.item()


def test_newton_finds_only_the_center_of_a_rotor_and_calls_it_unstable():
    z = torch.tensor([[[1.0, 0.0], [0.3, 0.1]]], dtype=torch.float64)
    result = at.fixed_points(rotor(GOLDEN), puzzles(), z, method="newton")
    solved = result.solution.values[0] >= 0
    assert solved[1] and not result.stable.values.any()
    np.testing.assert_allclose(result.fixed_point.values[0][solved], 0, atol=1e-8)
    np.testing.assert_allclose(result.spectral_radius.values[0][solved], 1.1, rtol=1e-6)
