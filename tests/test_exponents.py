"""Exponents along runs are the exact ones, and tell wrong runs from right ones where drift cannot."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from eqrlab.core.random import puzzle_key, restart_generator
from tests.zoo import cat_map, ikeda, logistic, narrow_in_sea, noisy_ar, puzzles, rotor

THREE_CYCLE = -0.3696738


def right_cycles_wrong_chaos():
    """The state (side, u): with side > 0, u goes to the 3-cycle of the logistic map at r = 3.83, else r = 4."""

    def step(z, x):
        rate = 4 - 0.17 * (z[:, 0] > 0).double()
        return torch.stack((torch.tanh(2 * z[:, 0]), rate * z[:, 1] * (1 - z[:, 1])), 1)

    def start(x, g):
        draw = torch.rand((len(x), 2), generator=g, dtype=torch.float64)
        return torch.stack((torch.where(draw[:, 0] > 0.4, 1.0, -1.0).double(), 0.05 + 0.9 * draw[:, 1]), 1)

    return MapSystem(step, start, lambda z, x: (z[:, :1] > 0).long() + 1)


def test_the_mean_over_all_steps_is_that_of_lyapunov():
    system, inputs = ikeda(), puzzles(2)
    runs = at.trajectory_exponents(system, inputs, restarts=3, depth=40, window=10, k=2, seed=5)
    x = system.encode(inputs)
    starts = torch.stack([
        torch.cat([system.initial(x[p : p + 1], restart_generator(puzzle_key(5, inputs[p]), r)) for r in range(3)])
        for p in range(2)
    ])  # fmt: skip
    whole = at.lyapunov(system, inputs, starts, k=2, steps=40, transient=0, seed=5)
    np.testing.assert_allclose(runs.window_exponent.mean("window"), whole.lyapunov_exponent, rtol=1e-9)
    np.testing.assert_allclose(runs.step_exponent.sum("eig"), 2 * np.log(0.9), rtol=1e-10)  # at every step
    assert runs.window.values.tolist() == [10, 20, 30, 40]


def test_the_cat_map_is_exact_once_the_vectors_are_aligned():
    runs = at.trajectory_exponents(cat_map(), puzzles(2), restarts=2, depth=68, window=8, k=2)
    value = np.log((3 + np.sqrt(5)) / 2)
    np.testing.assert_allclose(runs.window_exponent.values[:, :, -1], [[[value, -value]] * 2] * 2, rtol=1e-10)
    assert runs.window.values.tolist() == list(range(12, 69, 8))  # the last window ends with the run


def test_contracting_right_runs_and_chaotic_wrong_ones_are_told_apart():
    system, inputs = narrow_in_sea(0.3), puzzles(6)
    labels = torch.full((6, 1), 3)
    runs = at.trajectory_exponents(system, inputs, labels=labels, restarts=10, depth=72, window=24)
    right = runs.correct.values
    assert 0.1 < right.mean() < 0.9
    late = runs.window_exponent.values[:, :, -1, 0]
    np.testing.assert_allclose(late[right], np.log(0.5), atol=1e-9)
    assert abs(late[~right].mean() - np.log(2)) < 0.05
    last = runs.isel(window=-1).sel(score="exponent")
    edge = 0.05 ** (
        1 / min(right.any(1).sum(), (~right).any(1).sum())
    )  # all puzzles agree: as far as six can tell
    assert last.auc == 1 and np.isclose(last.auc_low, edge) and last.auc_high == 1
    np.testing.assert_allclose(runs.mean_exponent.sel(outcome="right")[-1], np.log(0.5), atol=1e-9)
    assert runs.mean_exponent_low.sel(outcome="wrong")[-1] > 0.6


def test_the_exponent_tells_what_drift_does_not():
    """Right runs move for ever, on a 3-cycle, wrong ones are chaotic: both drift."""
    inputs, labels = puzzles(8), torch.full((8, 1), 2)
    runs = at.trajectory_exponents(
        right_cycles_wrong_chaos(), inputs, labels=labels, restarts=12, depth=240, window=60
    )
    late = runs.window_exponent.values[:, :, -1, 0]
    right = runs.correct.values
    settled = np.abs(late - THREE_CYCLE) < 1e-6
    assert settled[right].mean() > 0.9 and not settled[~right].any()
    assert runs.auc.sel(score="exponent").values[-1] == 1
    assert runs.auc.sel(score="drift").values[-1] < 0.9
    assert runs.auc_gain_low.values[-1] > 0
    assert runs.auc_within.sel(score="exponent").values[-1] == 1
    assert runs.puzzles_with_both.item() == ((right.any(1)) & (~right.all(1))).sum()


def test_outcomes_that_do_not_occur_have_no_auc():
    runs = at.trajectory_exponents(
        logistic(3.2), puzzles(3), labels=torch.ones(3, 1, dtype=torch.long), restarts=2, depth=20, window=10
    )
    assert runs.correct.all() and np.isnan(runs.auc).all() and np.isnan(runs.auc_gain_low).all()
    assert np.isfinite(runs.mean_exponent.sel(outcome="right")).all()
    assert np.isnan(runs.mean_exponent.sel(outcome="wrong")).all()


def test_runs_are_those_of_sample_whatever_the_batch():
    system, inputs = noisy_ar(0.8, 0.3, 5), puzzles(3)
    whole = at.trajectory_exponents(system, inputs, restarts=2, depth=16, window=4)
    alone = at.trajectory_exponents(system, inputs[1:2], restarts=2, depth=16, window=4, batch_size=1)
    np.testing.assert_allclose(whole.window_drift[1], alone.window_drift[0], rtol=1e-12)
    np.testing.assert_allclose(whole.step_exponent, np.log(0.8), rtol=1e-12)
    ensemble = at.sample(system, inputs, restarts=2, depth=16, keep=("summary", "final_state"))
    z = np.linalg.norm(ensemble.final_state, axis=2)
    again = at.trajectory_exponents(system, inputs, restarts=2, depth=16, window=1)
    np.testing.assert_allclose(
        np.exp(again.window_drift.values[:, :, -1]), ensemble["update"].values[:, :, -1] / z, rtol=1e-10
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"window": 9, "depth": 8}, "window must be at most the depth 8, got 9"),
        ({"k": 3, "depth": 8}, "k must be between 1 and the 2 numbers"),
        ({"depth": 8, "labels": torch.ones(2, 1, dtype=torch.long)}, "labels must have a row"),
    ],
)
def test_misuse_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        at.trajectory_exponents(rotor(0.3), puzzles(), **{"restarts": 2, "window": 8, **options})


def test_a_mean_over_the_runs_of_one_puzzle_has_no_interval():
    """The first puzzle is wrong, the second right: resampling both shows one of each again and again."""
    labels = torch.tensor([[1], [2]])
    law = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    map_of_two = MapSystem(lambda z, x: z / (1 + z) / 2, law, lambda z, x: torch.full((len(z), 1), 2))
    runs = at.trajectory_exponents(map_of_two, puzzles(2), labels=labels, restarts=4, depth=16)
    assert np.isfinite(runs.mean_exponent).all()
    assert np.isnan(runs.mean_exponent_low).all() and np.isnan(runs.mean_exponent_high).all()


def test_the_difference_of_two_aucs_on_which_all_puzzles_agree_is_known_as_far_as_so_few_can_tell():
    inputs, labels = puzzles(4), torch.tensor([[1], [1], [2], [2]])
    steps = lambda z, x: z * torch.where(x[:, :1] < inputs[2, 0], 0.9, 0.5).to(z.dtype)
    law = lambda x, g: 1 + torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    slow_is_wrong = MapSystem(steps, law, lambda z, x: torch.full((len(z), 1), 2))
    last = at.trajectory_exponents(slow_is_wrong, inputs, labels=labels, restarts=4, depth=16).isel(window=-1)
    assert (
        last.auc.values.tolist() == [1, 0] and last.auc_gain == 1
    )  # halving moves more, relative to what is left
    assert last.auc_gain_low == pytest.approx(2 * 0.05**0.5 - 1) and last.auc_gain_high == 1
