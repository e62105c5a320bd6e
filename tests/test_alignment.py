"""Residual against error, and selectors, where the right answer is known."""

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.answers.alignment import depth_points, selector_accuracy
from eqrlab.attractors.results.schema import STATUS
from eqrlab.core import MapSystem
from tests.zoo import contraction, narrow_in_sea, normal_start, puzzles, selector


def test_residual_of_a_contraction_ranks_the_error_exactly():
    """G10: with error the distance to z*, both fall together: the wrong runs are those of higher residual."""
    ensemble = at.sample(contraction(0.8, 1), puzzles(3), labels=torch.full((3, 1), 2), restarts=40, depth=16)
    result = at.alignment(ensemble)
    wrong = 1 - ensemble.correct.values[..., 7].mean()
    assert 0 < wrong < 1
    right_side = result.auc.sel(depth=8)
    assert float(right_side) > 0.95


def test_a_decoy_leaves_the_residual_uninformative():
    """G11: both sides settle, so late residuals are zero on both and the AUC is about one half."""
    ensemble = at.sample(
        selector([[0.0]] * 6), puzzles(6), labels=torch.full((6, 1), 2), restarts=64, depth=64
    )
    result = at.alignment(ensemble)
    last = result.isel(depth=-1)
    assert abs(float(last.auc) - 0.5) < 0.2
    accuracy = last.accuracy.to_series()
    assert abs(accuracy["top1_converged"] - accuracy["mean"]) < 0.3
    assert accuracy["any_correct"] == 1


def test_a_sea_that_never_settles_is_told_by_the_residual():
    ensemble = at.sample(narrow_in_sea(0.5), puzzles(4), labels=torch.full((4, 1), 3), restarts=48, depth=64)
    last = at.alignment(ensemble).isel(depth=-1)
    assert float(last.auc) > 0.99 and float(last.auc_within) > 0.99 and float(last.spearman) > 0.7
    assert float(last.auc_low) == pytest.approx(0.05 ** (1 / 4) * float(last.auc), abs=1e-3), (
        "four puzzles only"
    )
    accuracy = last.accuracy.to_series()
    assert accuracy["top1_converged"] == 1 and accuracy["mean"] < 0.5


def test_degenerate_correctness_is_nan_with_a_reason():
    all_right = at.alignment(
        at.sample(selector([[-9.0]]), puzzles(), labels=torch.tensor([[2]]), restarts=8, depth=32)
    )
    all_wrong = at.alignment(
        at.sample(selector([[9.0]]), puzzles(), labels=torch.tensor([[2]]), restarts=8, depth=32)
    )
    for result, reason in ((all_right, "all_right"), (all_wrong, "all_wrong")):
        assert np.isnan(result.auc.values[-1]) and np.isnan(result.spearman.values[-1])
        assert STATUS[int(result.status[-1])] == reason
    sign = MapSystem(lambda z, x: torch.sign(z), normal_start(1), lambda z, x: (z > 0).long() + 1)
    at_once = at.alignment(at.sample(sign, puzzles(), labels=torch.tensor([[2]]), restarts=8, depth=8))
    assert np.isnan(at_once.spearman).all() and (at_once.auc == 0.5).all()
    assert {STATUS[i] for i in at_once.status.values} == {"no_residual_spread"}


def test_intervals_contain_their_estimates():
    ensemble = at.sample(selector([[b] for b in np.linspace(-1, 1, 8)]), puzzles(8), labels=torch.full((8, 1), 2),
                         restarts=20, depth=8)  # fmt: skip
    result = at.alignment(ensemble)
    for name in ("auc", "spearman", "accuracy"):
        low, value, high = (result[n].values for n in (f"{name}_low", name, f"{name}_high"))
        known = np.isfinite(low) & np.isfinite(value)
        assert known.any() and (low <= value + 1e-9)[known].all() and (value <= high + 1e-9)[known].all()


def test_mean_accuracy_is_the_share_of_right_runs():
    ensemble = at.sample(
        selector([[0.2], [-0.3]]), puzzles(2), labels=torch.full((2, 1), 2), restarts=50, depth=32
    )
    np.testing.assert_allclose(
        at.alignment(ensemble).accuracy.sel(selector="mean"),
        ensemble.correct.sel(step=[1, 2, 4, 8, 16, 32]).mean(("puzzle", "restart")),
    )


def test_selectors_use_all_restarts_and_ties_share():
    answers = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])
    correct = np.array([[True, True, False, False], [True, False, False, False]])
    each = ("puzzle", "restart", "step")
    ensemble = xr.Dataset(
        {
            "answer_id": (each, answers[:, :, None]),
            "correct": (each, correct[:, :, None]),
            "residual": (each, np.array([[1.0, 1.0, 1.0, 2.0], [np.nan, 3.0, 3.0, 4.0]])[:, :, None]),
        }
    )
    result = selector_accuracy(ensemble, np.array([1]))
    assert {name: value[:, 0].tolist() for name, value in result.items()} == {
        "top1_converged": [pytest.approx(2 / 3), 0.0],
        "majority": [0.5, 0.0],
        "settle_time": [0.5, 0.25],
        "mean": [0.5, 0.25],
        "any_correct": [1.0, 1.0],
    }


def test_depth_points_are_powers_of_two_and_the_last():
    assert depth_points(20).tolist() == [1, 2, 4, 8, 16, 20]
    assert depth_points(1).tolist() == [1]


def test_correctness_must_be_known():
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.alignment(at.sample(contraction(0.5), puzzles(), restarts=2, depth=2))
