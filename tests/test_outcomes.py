"""Settling against correctness: counts are right, intervals are clustered, and depth's changes are told apart."""

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.answers.outcomes import CORRECTNESS, SETTLING
from eqrlab.core import MapSystem
from tests.zoo import contraction, puzzles, selector, up_mass

STATES = ("summary", "final_state")


def clock(right_until: int, tiny: float = 1e-18) -> MapSystem:
    """A state at rest, to the floor, with a hidden clock: right before step `right_until`, wrong from then on."""

    def start(x, generator):
        return torch.cat((torch.ones(len(x), 1).double(), torch.zeros(len(x), 1).double()), 1)

    shift = torch.tensor([0.0, tiny], dtype=torch.float64)
    return MapSystem(
        lambda z, x: z + shift, start, lambda z, x: (z[:, 1:] / tiny < right_until - 0.5).long() + 1
    )


def test_the_four_cells_are_counts_of_runs_and_their_shares_sum_to_one():
    ensemble = at.sample(
        selector([[0.0], [0.5], [-1.0]]), puzzles(3), labels=torch.full((3, 1), 2), restarts=50, depth=40
    )
    table = at.outcomes(ensemble)
    assert table["count"].values.sum() == 150 and (table["count"].values[0, 1] == 0).all()
    right = int(ensemble.correct.values[:, :, -1].sum())
    assert table["count"].values[0, 0].tolist() == [right, 150 - right]
    np.testing.assert_allclose(table.share.sum(("settling", "correctness")), 1)
    assert table.settling.values.tolist() == list(SETTLING) and table.correctness.values.tolist() == list(
        CORRECTNESS
    )


def test_shares_cover_the_exact_masses_of_a_population_of_puzzles():
    offsets = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)).double().tolist()
    exact = np.mean([up_mass(b) for (b,) in offsets])
    ensemble = at.sample(selector(offsets), puzzles(60), labels=torch.full((60, 1), 2), restarts=20, depth=40)
    table = at.outcomes(ensemble)
    assert float(table.accuracy_low[0]) < exact < float(table.accuracy_high[0])
    naive = 1.96 * np.sqrt(exact * (1 - exact) / 1200)
    assert float(table.accuracy_high[0] - table.accuracy_low[0]) > 3 * naive  # restarts are not independent


def test_late_solves_are_shares_of_the_first_failures():
    base = at.sample(
        contraction(0.9), puzzles(), labels=torch.tensor([[2]]), restarts=30, depth=16, keep=STATES
    )
    longer = at.prolong(contraction(0.9), puzzles(), base, depth=256, which="all")
    table = at.outcomes(longer)
    assert 0 < (~base.correct.values[..., -1]).sum() < 30
    assert float(table.late_solved[0]) == 0 and float(table.late_solved[-1]) == 1
    assert float(table.unfinished_of_wrong[0]) == 1 and float(table.reverted[-1]) == 0
    assert np.isnan(table.reverted[0]) and np.isnan(table.late_solved_low[-1])  # one puzzle: no interval


def test_a_late_collapse_is_a_settled_right_answer_that_turns_wrong():
    base = at.sample(clock(40), puzzles(3), labels=torch.full((3, 1), 2), restarts=4, depth=16, keep=STATES)
    longer = at.prolong(clock(40), puzzles(3), base, depth=128, which="all")
    table = at.outcomes(longer)
    assert table.accuracy.values.tolist() == [1, 1, 0, 0]
    assert table.collapsed.values[1:].tolist() == [0, 1, 1] == table.reverted.values[1:].tolist()
    assert float(table.collapsed_low[2]) < 1 == float(table.collapsed_high[2])
    partial = at.outcomes(at.prolong(clock(40), puzzles(3), base, depth=64, which="unfinished"))
    assert np.isnan(
        partial.collapsed
    ).all()  # runs that were not followed cannot be said to have stayed right


def test_the_statement_without_threshold_by_hand():
    relative = np.array([[[0.1], [0.2], [0.3], [0.05]], [[0.4], [0.5], [0.25], [0.9]]])
    correct = np.array([[[1], [1], [1], [0]], [[0], [1], [0], [0]]], bool)
    runs = xr.Dataset(
        {
            "fate": (("puzzle", "restart", "depth"), np.zeros((2, 4, 1), np.int8)),
            "correct": (("puzzle", "restart", "depth"), correct),
            "relative_residual": (("puzzle", "restart", "depth"), relative),
        },
        {"depth": [8]},
    )
    table = at.outcomes(runs)
    assert float(table.least_wrong[0]) == 0.05 and float(table.right_below[0]) == 0
    wins = sum(w > r for w in (0.05, 0.4, 0.25, 0.9) for r in (0.1, 0.2, 0.3, 0.5))
    assert float(table.auc[0]) == wins / 16
    assert table.residual_quantile.sel(quantile=0.5).values.tolist() == [[0.2, 0.25]]


def test_intervals_are_never_without_width():
    ensemble = at.sample(contraction(0.5), puzzles(5), labels=torch.full((5, 1), 2), restarts=4, depth=64)
    table = at.outcomes(ensemble)
    assert float(table.accuracy[0]) == 1 == float(table.accuracy_high[0])
    np.testing.assert_allclose(float(table.accuracy_low[0]), 0.05 ** (1 / 5))
    assert np.isnan(table.auc[0]) and np.isnan(table.settled_of_wrong[0]) and np.isnan(table.least_wrong[0])


def test_correctness_must_be_known():
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.outcomes(at.sample(contraction(0.5), puzzles(), restarts=2, depth=2))
    with pytest.raises(ValueError, match="confidence must be between"):
        at.outcomes(
            at.sample(contraction(0.5), puzzles(), labels=torch.tensor([[2]]), restarts=2, depth=2),
            confidence=2,
        )
