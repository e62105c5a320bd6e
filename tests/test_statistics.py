"""Intervals cover what they should, and agree with SciPy and brute force."""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.attractors.statistics import bootstrap
from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap, share_over_puzzles
from eqrlab.attractors.statistics.intervals import (
    DEFAULT_INTERVAL,
    INTERVALS,
    mass_above,
    proportion_interval,
    unseen_mass,
)
from eqrlab.attractors.statistics.ranks import PooledAuc, PooledSpearman
from eqrlab.core import MapSystem
from tests.zoo import normal_start


@pytest.mark.parametrize(("method", "name"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_intervals_agree_with_scipy(method, name, n):
    for k in range(n + 1):
        expected = stats.binomtest(k, n).proportion_ci(0.9, method=name)
        low, high = proportion_interval(k, n, 0.9, method)
        np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-12)


def coverage(method, n, p, confidence=0.95):
    """Exact: the binomial probability of all counts whose interval contains p."""
    k = np.arange(n + 1)
    low, high = proportion_interval(k, n, confidence, method)
    return stats.binom.pmf(k[:, None], n, p)[(low[:, None] <= p) & (p <= high[:, None])].sum()


def worst_coverage(method, n, confidence=0.95):
    k, p = np.arange(n + 1)[:, None], np.geomspace(1e-5, 0.5, 2000)
    low, high = proportion_interval(k, n, confidence, method)
    return (stats.binom.pmf(k, n, p) * ((low <= p) & (p <= high))).sum(0).min()


def test_coverage_is_exact_where_wald_fails():
    """At N = 100, p = .01 a Wald interval covers 63 %."""
    k = np.arange(101)
    wald = 1.96 * np.sqrt(k / 100 * (1 - k / 100) / 100)
    inside = np.abs(k / 100 - 0.01) <= wald
    assert abs(stats.binom.pmf(k, 100, 0.01)[inside].sum() - 0.633) < 0.002
    assert coverage("wilson", 100, 0.01) >= 0.92
    assert coverage("jeffreys", 100, 0.01) >= 0.92


@pytest.mark.parametrize("p", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("n", [32, 100, 1000])
def test_the_default_interval_covers_at_least_92_percent(n, p):
    assert coverage(DEFAULT_INTERVAL, n, p) >= 0.92


def test_wilson_falls_short_where_the_default_holds():
    assert coverage("wilson", 100, 0.001) < 0.91 < 0.94 < coverage(DEFAULT_INTERVAL, 100, 0.001)
    assert worst_coverage("wilson", 100) < 0.84


@pytest.mark.parametrize("n", [8, 32, 100, 1000])
def test_coverage_at_the_worst_mass(n):
    assert worst_coverage("clopper-pearson", n) >= 0.95
    assert worst_coverage("mid-p", n) >= 0.916
    assert worst_coverage("simultaneous", n) >= 0.95
    assert worst_coverage("sequence", n) >= 0.95
    assert worst_coverage("clopper-pearson", n, 0.8) >= 0.8


def test_the_default_is_narrower_than_clopper_pearson_everywhere():
    k = np.arange(101)
    widths = {m: np.subtract(*proportion_interval(k, 100, 0.95, m)[::-1]) for m in INTERVALS}
    assert (widths[DEFAULT_INTERVAL] < widths["clopper-pearson"]).all()
    np.testing.assert_allclose(widths[DEFAULT_INTERVAL][0], 1 - 0.05**0.01)  # the bound 3 / N for no success


@pytest.mark.parametrize("method", INTERVALS)
def test_bounds_contain_the_estimate_rise_with_the_count_and_nest_in_confidence(method):
    for n in (1, 2, 9, 50):
        k = np.arange(n + 1)
        low, high = proportion_interval(k, n, 0.95, method)
        wide = proportion_interval(k, n, 0.99, method)
        assert (low <= k / n).all() and (k / n <= high).all() and low[0] == 0 and high[-1] == 1
        assert (np.diff(low) >= 0).all() and (np.diff(high) >= 0).all()
        assert (wide[0] <= low + 1e-12).all() and (wide[1] >= high - 1e-12).all()
        if method != "simultaneous":  # its level grows with the mass, so that failures differ from successes
            np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-12)


def test_mid_p_bounds_solve_their_equation():
    low, high = proportion_interval(7, 40)
    for p, tail in ((low, 0.025), (high, 0.975)):
        np.testing.assert_allclose(stats.binom.sf(7, 40, p) + stats.binom.pmf(7, 40, p) / 2, tail, rtol=1e-9)


@pytest.mark.parametrize(("classes", "concentration"), [(2, 5.0), (20, 0.5), (500, 1.0)])
def test_simultaneous_intervals_cover_all_masses_at_once(classes, concentration):
    """The unseen classes too, however many; one interval for each mass alone misses some of them far more often."""
    rng = np.random.default_rng(classes)
    masses = rng.dirichlet(np.full(classes, concentration))
    counts = rng.multinomial(100, masses, size=1000)
    hits = {}
    for method in ("simultaneous", "mid-p"):
        low, high = proportion_interval(counts, 100, 0.95, method)
        hits[method] = ((low <= masses) & (masses <= high)).all(1).mean()
    assert hits["simultaneous"] >= 0.95
    assert classes == 2 or hits["mid-p"] < 0.9


def first_decision(draws, threshold):
    """Walk along rows of draws (m, n): the decision at the first restart at which there is one, else 0."""
    decisions = mass_above(draws.cumsum(1), np.arange(1, draws.shape[1] + 1), threshold)
    first = (decisions != 0).argmax(1)
    return decisions[np.arange(len(draws)), first]


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_the_confidence_sequence_survives_optional_stopping(p):
    """Looking after each of 2,000 restarts, at the threshold itself, where all decisions are wrong."""
    draws = np.random.default_rng(int(1000 * p)).random((2000, 2000)) < p
    assert (first_decision(draws, p) != 0).mean() <= 0.05
    if p == 0.5:  # the first fixed-N interval that excludes the truth comes sooner or later
        low, high = proportion_interval(draws[:400].cumsum(1), np.arange(1, 2001), 0.95, "wilson")
        assert ((low > p) | (high < p))[:, 10:].any(1).mean() > 0.3


@pytest.mark.parametrize(("p", "sign"), [(0.35, -1), (0.65, 1)])
def test_the_confidence_sequence_decides_what_is_clear(p, sign):
    draws = np.random.default_rng(0).random((500, 600)) < p
    decisions = first_decision(draws, 0.5)
    assert (decisions == sign).mean() >= 0.98 and (decisions == -sign).mean() <= 0.02


def test_a_mass_is_decided_exactly_when_the_sequence_excludes_the_threshold():
    k = np.arange(61)
    low, high = proportion_interval(k, 60, 0.9, "sequence")
    expected = np.where(low > 0.3, 1, np.where(high < 0.3, -1, 0))
    np.testing.assert_array_equal(mass_above(k, 60, 0.3, 0.9), expected)
    with pytest.raises(ValueError, match="threshold"):
        mass_above(3, 60, 1.0)


def test_no_trials_give_no_information():
    assert [float(v) for v in proportion_interval(0, 0)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, 2), "counts"), ((1, 2, 1.0), "confidence"), ((1, 2, 0.9, "wald"), "'wald' unknown")],
)
def test_impossible_intervals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        proportion_interval(*arguments)


def test_unseen_mass_bound_is_exact_without_singletons():
    estimate, high = unseen_mass(0, 0, 64, 0.95)
    assert estimate == 0
    np.testing.assert_allclose(high, 1 - 0.05 ** (1 / 64), rtol=1e-12)
    assert [float(v) for v in unseen_mass(5, 0, 5)] == [1.0, 1.0]


@pytest.mark.parametrize("attractors", [3, 30, 300])
def test_unseen_mass_bound_covers_the_truth(attractors):
    rng = np.random.default_rng(0)
    masses = rng.dirichlet(np.full(attractors, 0.5))
    counts = rng.multinomial(60, masses, size=2000)
    truth = ((counts == 0) * masses).sum(1)
    estimate, high = unseen_mass((counts == 1).sum(1), (counts == 2).sum(1), 60, 0.95)
    assert (truth <= high).mean() >= 0.92  # an approximate bound: 93 to 96 % in these three
    np.testing.assert_allclose(estimate.mean(), truth.mean(), atol=0.02)


def brute_auc(score, wrong):
    pairs = [(a > b) + 0.5 * (a == b) for a in score[wrong] for b in score[~wrong]]
    return np.mean(pairs)


def test_auc_agrees_with_counting_pairs_and_weights_repeat_puzzles():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 5, (4, 6)).astype(float)
    wrong = rng.random((4, 6)) < 0.4
    auc = PooledAuc(score, wrong)
    np.testing.assert_allclose(auc(np.ones(4)), brute_auc(score.ravel(), wrong.ravel()))
    repeated = [0, 0, 2, 3]
    np.testing.assert_allclose(
        auc(np.array([2.0, 0, 1, 1])), brute_auc(score[repeated].ravel(), wrong[repeated].ravel())
    )
    within = auc.within()
    for p in range(4):
        if wrong[p].any() and not wrong[p].all():
            np.testing.assert_allclose(within[p], brute_auc(score[p], wrong[p]))
        else:
            assert np.isnan(within[p])


def test_auc_of_one_side_only_is_undefined():
    assert np.isnan(PooledAuc(np.ones((2, 3)), np.zeros((2, 3), bool))(np.ones(2)))


def test_a_nan_score_ranks_above_all():
    score = np.array([[np.nan, 1.0, 2.0]])
    assert PooledAuc(score, np.array([[True, False, False]]))(np.ones(1)) == 1.0


def test_spearman_agrees_with_scipy_under_repetition():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, (5, 8)).astype(float), rng.random((5, 8))
    rho = PooledSpearman(a, b)
    np.testing.assert_allclose(rho(np.ones(5)), stats.spearmanr(a.ravel(), b.ravel()).statistic)
    repeated = [0, 1, 1, 1, 4]
    np.testing.assert_allclose(
        rho(np.array([1.0, 3, 0, 0, 1])), stats.spearmanr(a[repeated].ravel(), b[repeated].ravel()).statistic
    )
    assert np.isnan(PooledSpearman(np.ones((2, 3)), a[:2, :3])(np.ones(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 95}, "confidence must be between 0 and 1, got 95"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        ({"resamples": 0}, "resamples must be >= 1, got 0"),
    ],
)
def test_a_bootstrap_that_makes_no_sense_is_refused(options, message):
    for puzzles in (1, 3):
        with pytest.raises(ValueError, match=message):
            share_over_puzzles(np.ones(puzzles), **options)


def test_cluster_bootstrap_covers_the_mean_of_clusters_where_pooling_would_not():
    """Within a puzzle all restarts agree: the information is in 20 puzzles, not in 1,280 restarts."""
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(300):
        rate = (rng.random(20) < 0.4).astype(float)
        low, high = cluster_bootstrap(lambda w, r=rate: w @ r / w.sum(), 20, resamples=300, seed=seed)
        hits += low <= 0.4 <= high
    assert hits / 300 >= 0.9


def test_resamples_taken_together_give_the_bounds_of_each_alone(monkeypatch):
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 1000)
    values = np.random.default_rng(0).random((12, 3))
    mean = lambda w: w @ values / w.sum(-1, keepdims=True)
    together = cluster_bootstrap(mean, 12, together=True)
    np.testing.assert_allclose(together, cluster_bootstrap(mean, 12), rtol=1e-12)


def test_one_cluster_has_no_interval():
    low, high = cluster_bootstrap(lambda w: np.float64(w.mean()), 1)
    assert np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("puzzles", [2, 12, 500])
def test_agreeing_puzzles_get_an_interval_of_honest_width(value, puzzles):
    mean, low, high = share_over_puzzles(np.full((puzzles, 2), value))
    np.testing.assert_allclose(mean, value)
    np.testing.assert_allclose(high - low, 1 - 0.05 ** (1 / puzzles), atol=1e-12)
    assert (low >= 0).all() and (high <= 1).all()


@pytest.mark.parametrize("puzzles", [3, 5, 8])
def test_few_puzzles_are_covered_nearly_as_often_as_many(puzzles):
    shares = np.random.default_rng(puzzles).random((300, puzzles))
    ends = [share_over_puzzles(row, resamples=200, seed=i)[1:] for i, row in enumerate(shares)]
    assert np.mean([low <= 0.5 <= high for low, high in ends]) >= 0.9


def test_differing_puzzles_keep_the_interval_of_the_bootstrap():
    share = np.sort(np.random.default_rng(0).random(30))
    mean, low, high = share_over_puzzles(share, seed=3)
    expected = cluster_bootstrap(lambda w: w @ share / w.sum(), 30, resamples=1000, seed=3)
    np.testing.assert_allclose((mean, low, high), (share.mean(), *expected))


def test_a_mean_over_puzzles_has_one_interval_in_any_order_and_counted_either_way_round():
    values = np.random.default_rng(0).random((12, 3))
    _, low, high = share_over_puzzles(values)
    again = share_over_puzzles(values[::-1])
    np.testing.assert_array_equal((low, high), again[1:])
    other = share_over_puzzles(1 - values)
    np.testing.assert_allclose((low, high), (1 - other[2], 1 - other[1]), rtol=1e-12)


@pytest.mark.parametrize(
    "analysis", [at.alignment, at.signals, at.outcomes, at.scaling, at.modes, at.mode_sensitivity]
)
def test_analyses_do_not_depend_on_the_order_of_puzzles(analysis):
    offsets, tokens = torch.tensor([-0.9, 0.0, 0.3, 0.7, -0.2]).double(), torch.arange(5)[:, None]
    system = MapSystem(
        lambda z, x: x + torch.tanh(2 * (z - x)),
        normal_start(1),
        lambda z, x: (z > x).long() + 1,
        lambda inputs: offsets[inputs[:, 0]][:, None],
    )
    runs = at.sample(system, tokens, labels=torch.full((5, 1), 2), restarts=6, depth=16)
    order = [2, 0, 4, 1, 3]
    expected, found = analysis(runs), analysis(runs.isel(puzzle=order))
    if "puzzle" in expected.dims:
        expected = expected.isel(puzzle=order)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=str(name))
