"""Local dynamics at attractors, against maps whose spectra are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.report.local import local_rows, local_sentence
from eqrlab.attractors.dynamics.at_attractors import VERDICTS, judge, local_dynamics, rates
from eqrlab.attractors.dynamics.jacobian import has_weights
from eqrlab.attractors.landscape.return_test import RETURNS
from eqrlab.core import MapSystem, load

M = 0.9575040240772688  # tanh(2 m) = m
RATE = 0.16637208775  # 2 (1 - m^2)


def selector(units=3):
    """z -> tanh(2 z), one answer token: the sign of the first unit; up is right."""
    return MapSystem(
        lambda z, x: torch.tanh(2 * z),
        lambda x, g: torch.randn((len(x), units), generator=g, dtype=torch.float64),
        decode=lambda z, x: (z[:, :1] > 0).long(),
    )


INPUTS, LABELS = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)


def test_rates_and_spectra_at_attractors_are_exact():
    system = selector()
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=24, depth=40)
    found = local_dynamics(at.Run.of(system, INPUTS), ensemble, at.basins(ensemble), depth=20)
    assert (found.attractor.values >= 0).all()
    assert np.allclose(found.spectral_radius, RATE, atol=1e-9)
    assert np.allclose(found.sigma_1, RATE, atol=1e-6)
    assert np.allclose(found.measured_rate, RATE, rtol=0.02)
    assert [VERDICTS[v] for v in found.verdict.values[0]] == ["stable", "stable"]
    answer = ensemble.answer.values[0, found.restart.values[0], 0]
    assert answer.tolist() == [1, 0]


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_a_contraction_to_the_origin_is_stable_like_any_other(center):
    law = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
    system = MapSystem(lambda z, x: center + (z - center) / 2, law, lambda z, x: torch.ones(len(z), 1).long())
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=16, depth=64)
    found = local_dynamics(at.Run.of(system, INPUTS), ensemble, at.basins(ensemble)).isel(puzzle=0, point=0)
    assert VERDICTS[int(found.verdict)] == "stable" and RETURNS[int(found.returns)] == "returns"
    assert np.allclose([found.spectral_radius, found.measured_rate], 0.5, rtol=1e-3)


def test_kept_ends_need_not_be_run_again():
    system = selector()
    runs = {"labels": LABELS, "restarts": 12, "depth": 40}
    kept = at.sample(system, INPUTS, keep=("summary", "final_state"), **runs)
    plain = at.sample(system, INPUTS, **runs)
    found, again = (
        local_dynamics(at.Run.of(system, INPUTS), e, at.basins(e), depth=12) for e in (kept, plain)
    )
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name], again[name], err_msg=str(name))


def test_a_puzzle_without_an_attractor_of_a_kind_has_a_gap():
    system = MapSystem(
        lambda z, x: 0.5 * z, lambda x, g: torch.randn((len(x), 4), generator=g, dtype=torch.float64)
    )
    ensemble = at.sample(system, INPUTS, labels=INPUTS + 1, restarts=4, depth=60)
    found = local_dynamics(at.Run.of(system, INPUTS), ensemble, at.basins(ensemble), depth=12)
    assert found.attractor.values.tolist() == [[-1, 0]]
    assert VERDICTS[int(found.verdict[0, 0])] == "none" and np.isnan(found.spectral_radius[0, 0])
    assert np.isclose(found.spectral_radius[0, 1], 0.5)


def test_without_any_attractor_all_points_are_gaps():
    angle = torch.tensor(2.0).double()
    turn = torch.tensor(
        [[torch.cos(angle), -torch.sin(angle)], [torch.sin(angle), torch.cos(angle)]]
    ).double()
    system = MapSystem(
        lambda z, x: z @ turn.T,
        lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64),
        decode=lambda z, x: (z[:, :1] > 0).long(),
    )
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=3, depth=24)
    found = local_dynamics(at.Run.of(system, INPUTS), ensemble, at.basins(ensemble))
    assert (found.attractor.values == -1).all() and (found.verdict.values == VERDICTS.index("none")).all()


def test_what_keeps_moving_has_its_exponent():
    """Up: a fixed point; down: a chaotic attractor of a hundredth's size, the logistic map at r = 4."""

    def step(z, x):
        side, w = torch.tanh(2 * z[:, 0]), z[:, 1]
        return torch.stack((side, torch.where(side > 0, 0.5 * w, 4 * w * (1 - 100 * w))), 1)

    def start(x, g):
        draw = torch.rand((len(x), 2), generator=g, dtype=torch.float64)
        return torch.stack((2 * draw[:, 0] - 1, 0.001 + 0.008 * draw[:, 1]), 1)

    system = MapSystem(step, start, lambda z, x: (z[:, :1] > 0).long())
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=16, depth=64)
    found = local_dynamics(at.Run.of(system, INPUTS), ensemble, at.basins(ensemble), depth=40)
    assert [VERDICTS[v] for v in found.verdict.values[0]] == ["stable", "no_fixed_point"]
    assert np.isnan(found.exponent[0, 0]) and abs(found.exponent[0, 1] - np.log(2)) < 0.1
    assert 0 < found.exponent_low[0, 1] < np.log(2) < found.exponent_high[0, 1]
    assert "1 wrong state: 1 still moving (1 of these chaotic)" in local_sentence(found)
    moving = next(r for r in local_rows(found, at.basins(ensemble)) if r["answer"] == "wrong")
    assert moving["verdict"] == "chaotic" and 1.8 < float(moving["measured"].split()[0]) < 2.2


def test_weights_of_a_loaded_checkpoint_ask_for_no_gradients():
    """Then derivatives by the state take plain reverse mode, which does not load the compiler."""
    assert has_weights(load("tied-sudoku6")) and not has_weights(load_checkpoint("tied-sudoku6"))


def test_a_run_that_is_still_settling_tells_its_own_rate():
    """The push adds as much as is left: it shows nothing, the run itself does."""
    system = MapSystem(
        lambda z, x: 1 + 0.985 * (z - 1), lambda x, g: torch.randn(len(x), 2, generator=g).double()
    )
    start = torch.full((1, 1, 2), 1.001, dtype=torch.float64)
    runs = [at.sample(system, INPUTS, restarts=1, depth=64, initial=z) for z in (start + 0.001, start)]
    assert np.allclose(rates(*runs), 0.985, atol=1e-6)
    moving = MapSystem(lambda z, x: 4 * z * (1 - z), lambda x, g: torch.rand(len(x), 1, generator=g).double())
    runs = [at.sample(moving, INPUTS, restarts=1, depth=64, seed=s) for s in (0, 1)]
    assert np.isnan(rates(*runs)).all()


@pytest.mark.parametrize(
    ("present", "residual", "low", "high", "returns", "verdict"),
    [
        (False, np.nan, np.nan, np.nan, "not_tested", "none"),
        (True, 1e-7, 0.8, 0.9, "returns", "stable"),
        (True, 1e-7, 1.1, 1.2, "returns", "saddle"),
        (True, 1e-7, 0.8, 0.9, "leaves", "saddle"),
        (True, 1e-7, 0.8, 1.1, "returns", "undecided"),
        (True, 1e-7, 0.0, np.inf, "returns", "undecided"),
        (True, 1e-2, 0.8, 0.9, "returns", "no_fixed_point"),
    ],
)
def test_verdicts_need_residual_spectrum_and_return(present, residual, low, high, returns, verdict):
    code = judge(*(np.array([v]) for v in (present, residual, low, high, RETURNS.index(returns))))
    assert VERDICTS[int(code[0])] == verdict


def test_given_starts_and_unknown_answers_are_refused():
    system = selector(1)
    starts = torch.ones(1, 2, 1, dtype=torch.float64)
    given = at.sample(system, INPUTS, labels=LABELS, restarts=2, depth=20, initial=starts)
    with pytest.raises(ValueError, match="not given starts"):
        local_dynamics(at.Run.of(system, INPUTS), given, at.basins(given))
    unknown = at.sample(system, INPUTS, restarts=2, depth=20)
    with pytest.raises(ValueError, match="what is correct"):
        local_dynamics(at.Run.of(system, INPUTS), unknown, at.basins(unknown))


def forgotten(x, generator):
    """Starts on the side of the right attractor only."""
    return 1 + torch.rand((len(x), 1), generator=generator, dtype=torch.float64)


def test_runs_are_never_drawn_again_by_another_law_or_system():
    system = selector(1)
    options = {"labels": LABELS, "restarts": 4, "depth": 20, "initial": forgotten}
    plain = at.sample(system, INPUTS, **options)
    with pytest.raises(ValueError, match=r"forgotten.*pass"):
        local_dynamics(at.Run.of(system, INPUTS), plain, at.basins(plain))
    found = local_dynamics(at.Run.of(system, INPUTS, initial=forgotten), plain, at.basins(plain))
    kept = at.sample(system, INPUTS, **options, keep=("summary", "final_state"))
    again = local_dynamics(at.Run.of(system, INPUTS), kept, at.basins(kept))  # nothing has to be drawn
    np.testing.assert_allclose(found.spectral_radius, again.spectral_radius, rtol=1e-9)
    other = lambda x, g: -forgotten(x, g)
    other.__name__ = "forgotten"
    with pytest.raises(ValueError, match="is not that of the ensemble"):
        local_dynamics(at.Run.of(system, INPUTS, initial=other), plain, at.basins(plain))
    with pytest.raises(ValueError, match="puzzles of the ensemble"):
        local_dynamics(at.Run.of(system, INPUTS + 1, initial=forgotten), plain, at.basins(plain))
