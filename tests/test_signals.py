"""Signals: AUC within and across puzzles, risk against coverage, and the choice of one, where they are known."""

import numpy as np
import pytest
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.answers.signals import COVERAGE, risk_area, risk_at
from eqrlab.attractors.statistics.ranks import PooledAuc

EACH = ("puzzle", "restart", "step")


def made(right, entropy, residual):
    """An ensemble of one step, all (puzzle, restart)."""
    right = np.asarray(right, bool)
    answer = np.where(right, 0, 1 + np.arange(right.shape[1]))  # wrong answers all differ
    values = {"answer_id": answer, "correct": right, "residual": residual, "answer_entropy": entropy}
    return xr.Dataset(
        {name: (EACH, np.asarray(v)[:, :, None]) for name, v in values.items()},
        {"puzzle": np.arange(len(right)), "step": [1]},
    )  # fmt: skip


def random_ensemble(puzzles=40, restarts=6, seed=0):
    """Chance to be right by puzzle; entropy ranks right runs before wrong ones, the residual the reverse."""
    rng = np.random.default_rng(seed)
    right = rng.random((puzzles, restarts)) < rng.uniform(0.1, 0.9, (puzzles, 1))
    noise = rng.random(right.shape)
    return made(right, np.where(right, 0.0, 1.0) + noise, np.where(right, 1.0, 0.0) + noise)


def brute_auc(score, wrong, same):
    """Share of pairs of a wrong and a right run, of one puzzle or of two, in which the wrong one scores higher."""
    wins, pairs = 0.0, 0
    puzzles = np.repeat(np.arange(len(score)), score.shape[1])
    s, w = score.ravel(), wrong.ravel()
    for i in np.flatnonzero(w):
        for j in np.flatnonzero(~w):
            if (puzzles[i] == puzzles[j]) == same:
                wins, pairs = wins + (s[i] > s[j]) + (s[i] == s[j]) / 2, pairs + 1
    return wins / pairs


def test_auc_across_puzzles_counts_pairs_of_different_puzzles_only():
    rng = np.random.default_rng(1)
    score, wrong = rng.integers(0, 5, (7, 4)).astype(float), rng.random((7, 4)) < 0.5
    assert PooledAuc(score, wrong).across(np.ones(7)) == pytest.approx(
        brute_auc(score, wrong, same=False), abs=1e-12
    )
    assert np.isnan(PooledAuc(score[:1], wrong[:1]).across(np.ones(1))), "one puzzle has no other"
    twice = PooledAuc(score[[0, 0, 1]], wrong[[0, 0, 1]])
    assert np.isfinite(twice.across(np.ones(3)))


def test_a_signal_that_ranks_right_first_is_told_from_one_that_misleads():
    found = at.signals(random_ensemble())
    entropy, residual = (found.sel(signal=name) for name in ("answer_entropy", "top1_converged"))
    assert float(entropy.auc_within) == float(entropy.auc_across) == 1.0
    assert float(entropy.auc_within_low) > 0.85
    assert float(residual.auc_within) < 0.3 and float(residual.auc_within_high) < 0.5
    any_correct = random_ensemble().correct.values.any(1).mean()
    assert float(entropy.accuracy) == pytest.approx(any_correct)
    assert found.attrs["trusted"] == "answer_entropy"
    assert float(found.trusted_gain_low) > 0
    assert (
        "misleads here" in found.attrs["warning"]
        and "answer_entropy chooses better" in found.attrs["warning"]
    )


def test_a_good_residual_is_not_warned_of():
    ensemble = random_ensemble()
    swapped = ensemble.assign(residual=ensemble.answer_entropy, answer_entropy=ensemble.residual)
    found = at.signals(swapped)
    assert found.attrs["trusted"] == "top1_converged" and found.attrs["warning"] == "none"
    assert float(found.trusted_gain) == 0


def test_the_trusted_signal_is_reported_on_puzzles_that_did_not_choose_it():
    ensemble = random_ensemble(seed=3)
    found = at.signals(ensemble)
    held = found.held_out.values.astype(bool)
    assert held.sum() == 20
    right = (
        ensemble.correct.values[held, :, 0].any(1).mean()
    )  # the entropy finds a right run where there is one
    assert float(found.trusted_accuracy) == pytest.approx(right)
    changed = ensemble.copy(deep=True)
    changed.correct.values[held] = False
    assert at.signals(changed).attrs["trusted"] == found.attrs["trusted"], "the second half has no say"


def test_risk_and_its_area_are_exact():
    """Right answers first: failures begin at coverage a = .6, so that the area is 1 - a + a ln a."""
    score, wrong, weight = np.arange(5.0), np.array([0.0, 0, 0, 1, 1]), np.ones(5)
    np.testing.assert_allclose(
        risk_at(score, wrong, weight), np.maximum(COVERAGE - 0.6, 0) / COVERAGE, atol=1e-12
    )
    assert risk_area(score, wrong, weight) == pytest.approx(1 - 0.6 + 0.6 * np.log(0.6), abs=1e-12)
    assert risk_area(np.zeros(5), wrong, weight) == pytest.approx(0.4, abs=1e-12), (
        "ties: the mean risk throughout"
    )
    assert risk_area(np.array([0, 0, 1, np.inf, np.inf]), wrong, weight) == pytest.approx(
        1 - 0.6 + 0.6 * np.log(0.6)
    )


def test_risks_of_many_resamples_are_those_of_each():
    rng = np.random.default_rng(0)
    score, wrong = rng.integers(0, 4, 9).astype(float), rng.random(9)
    weights = rng.multinomial(9, np.full(9, 1 / 9), size=20).astype(float)
    for risk in (risk_at, risk_area):
        one_by_one = np.stack([risk(score, wrong, weight) for weight in weights])
        np.testing.assert_allclose(risk(score, wrong, weights), one_by_one, rtol=1e-12)


def test_least_risk_area_bounds_every_area_and_intervals_hold_their_estimates():
    found = at.signals(random_ensemble(seed=5))
    assert (found.least_risk_area <= found.risk_area + 1e-12).all()
    assert float(found.risk.sel(signal="majority", coverage=1.0)) == pytest.approx(
        1 - float(found.accuracy.sel(signal="majority"))
    )
    for name in ("auc_within", "auc_across", "accuracy", "gain", "risk", "risk_area", "trusted_accuracy"):
        low, value, high = (found[n].values for n in (f"{name}_low", name, f"{name}_high"))
        assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all(), name


def test_the_auc_of_each_puzzle_is_kept_and_averages_to_that_within():
    found = at.signals(random_ensemble(seed=7))
    np.testing.assert_allclose(
        np.nanmean(found.auc_puzzle.values, axis=0), found.auc_within.values, rtol=1e-12
    )
    right = random_ensemble(seed=7).correct.values[:, :, 0]
    both = right.any(1) & ~right.all(1)
    assert (np.isfinite(found.auc_puzzle.values) == both[:, None]).all()


def test_few_puzzles_choose_no_signal_and_unknown_correctness_is_refused():
    found = at.signals(random_ensemble(puzzles=3))
    assert found.attrs["trusted"] == "none" and np.isnan(found.trusted_accuracy)
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.signals(random_ensemble().drop_vars("correct"))
