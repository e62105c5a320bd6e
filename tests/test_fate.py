"""Fates: every kind of long-run behaviour is recognised on a system where it is known."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.fates.cycles import find_period
from eqrlab.attractors.fates.fate import (
    ANSWER,
    answer_settled,
    classify,
    find_answer_fate,
    is_drifting,
)
from eqrlab.attractors.results.schema import ANSWER_FATES, FATES
from eqrlab.attractors.statistics.trends import block_medians, decay_rate, kendall
from eqrlab.core import MapSystem
from tests.zoo import (
    contraction,
    linear,
    logistic,
    narrow_in_sea,
    noisy_ar,
    normal_start,
    puzzles,
    rotation_blocks,
    rotor,
    selector,
)


def fates(system, depth=200, restarts=20, **options):
    ensemble = at.sample(system, puzzles(), restarts=restarts, depth=depth, **options)
    return ensemble, [FATES[i] for i in ensemble.fate.values[0]]


def test_contractions_settle():
    ensemble, names = fates(contraction(0.5), depth=64)
    assert set(names) == {"settled"} and set(ensemble.period.values[0]) == {1}


def test_the_settling_step_is_when_the_residual_passes_the_threshold():
    ensemble, _ = fates(contraction(0.5), depth=64)
    import json

    threshold = json.loads(ensemble.attrs["tolerances"])["settled_below"]
    relative = ensemble.relative_residual.values[0]
    for row, step in zip(relative, ensemble.settling_step.values[0], strict=True):
        assert (row[step - 1 :] <= threshold).all() and row[step - 2] > threshold


@pytest.mark.parametrize(("r", "period"), [(3.2, 2), (3.5, 4), (3.83, 3)])
def test_logistic_windows_have_their_minimal_period(r, period):
    ensemble, names = fates(logistic(r), depth=600)
    assert set(names) == {"periodic"}
    assert set(ensemble.period.values[0]) == {period}


def test_rational_rotor_is_periodic_and_irrational_one_is_not():
    ensemble, names = fates(rotor(2 * np.pi * 2 / 7), depth=400)
    assert set(names) == {"periodic"} and set(ensemble.period.values[0]) == {7}
    _, names = fates(rotor(2 * np.pi * (np.sqrt(5) - 1) / 2), depth=400)
    assert set(names) == {"wandering"}


def test_a_rotor_with_a_constant_answer_and_a_small_circle_is_recurrent():
    turn = torch.tensor([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]], dtype=torch.float64)
    centre = torch.tensor([5.0, 0.0], dtype=torch.float64)

    def step(z, x):
        w = z - centre
        return centre + (1 + 0.1 * (1 - (w**2).sum(1, keepdim=True))) * w @ turn.T

    _, names = fates(
        MapSystem(step, lambda x, g: centre + 0.5 * torch.randn((len(x), 2), generator=g).double())
    )
    assert set(names) == {"recurrent"}


def test_chaos_wanders():
    ensemble, names = fates(MapSystem(*_chaos()))
    assert set(names) == {"wandering"} and (ensemble.period == 0).all()


def _chaos():
    step = lambda z, x: 3.9 * z * (1 - z)
    start = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    return step, start, lambda z, x: (z > 0.5).long()


def test_slow_contraction_is_unfinished_and_enough_depth_settles_it():
    _, names = fates(contraction(1 - 1e-3), depth=64)
    assert set(names) == {"unfinished"}
    _, names = fates(contraction(1 - 1e-2), depth=2000)
    assert set(names) == {"settled"}


def test_algebraic_decay_is_not_taken_for_settled_early():
    """The logistic map at r = 3 approaches its fixed point like 1 / sqrt(t): no rate fit is right."""
    _, names = fates(logistic(3.0), depth=100)
    assert set(names) == {"unfinished"}


def test_growth_diverges_and_overflow_is_nonfinite():
    grow = linear(torch.diag(torch.tensor([1.2, 0.5], dtype=torch.float64)))
    assert set(fates(grow, depth=60)[1]) == {"diverged"}
    square = MapSystem(lambda z, x: z**2 + 2, normal_start(2))
    assert set(fates(square, depth=60)[1]) == {"nonfinite"}


def test_a_start_near_zero_that_grows_to_a_fixed_point_has_not_diverged():
    system = MapSystem(
        lambda z, x: torch.tanh(1.3 * z), lambda x, g: 1e-3 * torch.randn((len(x), 2), generator=g).double()
    )
    assert "diverged" not in fates(system, depth=24)[1]


def test_noise_around_a_fixed_point_counts_as_settled():
    assert set(fates(noisy_ar(0.5, 0.01), depth=64)[1]) <= {"settled", "recurrent"}


def test_mixed_landscape_is_told_apart():
    ensemble, names = fates(narrow_in_sea(0.5), depth=200, restarts=100, labels=torch.tensor([[3]]))
    right = ensemble.correct.values[0, :, -1]
    assert {n for n, r in zip(names, right, strict=True) if r} == {"settled"}
    assert {n for n, r in zip(names, right, strict=True) if not r} == {"wandering"}


def test_both_sides_of_a_decoy_settle():
    ensemble, names = fates(selector([[0.0]]), depth=64, labels=torch.tensor([[2]]))
    assert set(names) == {"settled"} and 0 < ensemble.correct.values[0, :, -1].mean() < 1


def test_too_few_steps_are_unfinished_never_wandering():
    assert set(fates(rotor(1.0), depth=4)[1]) == {"unfinished"}


def test_the_fall_from_the_start_is_not_taken_for_a_fall_at_the_end():
    """A quick transient onto a noisy cloud: at any depth that outlasts it, the runs are at rest."""
    for depth in (16, 24, 64):
        assert set(fates(noisy_ar(0.3, 0.02), depth=depth)[1]) <= {"settled", "recurrent"}


def test_answer_settled_is_the_first_step_of_the_last_constant_stretch():
    code = np.array([[1, 2, 2, 2], [5, 5, 5, 5], [1, 2, 3, 4]])
    assert answer_settled(code).tolist() == [2, 1, 4]


def test_kendall_agrees_with_scipy():
    from scipy.stats import kendalltau

    series = np.random.default_rng(0).normal(size=(5, 12))
    expected = [kendalltau(np.arange(12), row).statistic for row in series]
    np.testing.assert_allclose(kendall(series), expected, rtol=1e-12)


def test_decay_rate_is_exact_on_geometric_series():
    series = 3.0 * np.array([[0.5], [0.99], [1.1]]) ** np.arange(16)
    np.testing.assert_allclose(decay_rate(series), [0.5, 0.99, 1.1], rtol=1e-12)


def test_the_period_found_is_minimal():
    ring = np.tile(np.array([0.0, 1.0, 5.0, 2.0]), 8)[None, :, None]
    assert find_period(ring, 1e-2)[0].tolist() == [4]
    assert find_period(np.zeros((1, 32, 1)), 1e-2)[0].tolist() == [0]


def axes(ensemble):
    """Sets of the fates of states, of answers, and of both."""
    return tuple(
        {names[i] for i in np.unique(ensemble[variable])}
        for variable, names in (("state_fate", FATES), ("answer_fate", ANSWER_FATES), ("fate", FATES))
    )


def test_state_and_answer_are_judged_apart():
    """One state at rest, read by three clocks kept in a second coordinate: constant, of period 3, never the same."""
    golden = (np.sqrt(5) - 1) / 2

    def with_answer(decode):
        # the clock counts in units so small that the state is at rest to the floor
        tiny = 1e-18
        step = lambda z, x: torch.cat((1 + 0.5 * (z[:, :1] - 1), z[:, 1:] + tiny), 1)
        start = lambda x, g: torch.cat(
            (torch.randn((len(x), 1), generator=g).double(), torch.zeros(len(x), 1).double()), 1
        )
        return MapSystem(
            step, start, lambda z, x: decode(z / torch.tensor([1.0, tiny], dtype=torch.float64), x)
        )

    constant = with_answer(lambda z, x: torch.ones(len(z), 1, dtype=torch.long))
    cycle = with_answer(lambda z, x: z[:, 1:].round().long() % 3)
    never = with_answer(lambda z, x: ((z[:, 1:].round() * golden) % 1 * 1e6).long())
    assert axes(fates(constant, depth=64)[0]) == ({"settled"}, {"constant"}, {"settled"})
    assert axes(fates(cycle, depth=64)[0]) == ({"settled"}, {"periodic"}, {"wandering"})
    assert axes(fates(never, depth=64)[0]) == ({"settled"}, {"changing"}, {"wandering"})


def test_a_noise_cloud_across_a_decision_boundary_is_a_state_at_rest_with_a_changing_answer():
    system = MapSystem(
        lambda z, x, noise=None: 3 + 0.5 * (z - 3) + (noise(z) if noise is not None else 0.0),
        normal_start(40),
        lambda z, x: (z[:, :1] > 3).long() + 1,
        noise_scale=0.01,
    )
    assert axes(fates(system, depth=64)[0]) == ({"settled"}, {"changing"}, {"wandering"})


def test_a_chaotic_state_may_have_a_constant_answer():
    step, start, _ = _chaos()
    ensemble, _ = fates(MapSystem(step, start))
    assert axes(ensemble)[1] == {"constant"} and (ensemble.state_fate == ensemble.fate).all()


@pytest.mark.parametrize("depth", [16, 64, 256])
def test_a_slow_creep_inside_the_band_is_not_settled(depth):
    """At rho = 1 - 1e-5 the residual is tiny from the first step on and falls by less than a thousandth."""
    assert set(fates(contraction(1 - 1e-5), depth=depth)[1]) == {"unfinished"}


def test_algebraic_decay_is_not_taken_for_a_cycle_at_any_depth():
    for depth in (400, 20_000):
        assert set(fates(logistic(3.0), depth=depth, restarts=4)[1]) == {"unfinished"}


def test_a_slow_drift_is_unfinished_not_recurrent():
    """A circle of 628 steps looks like a straight line over the last 32."""
    assert set(fates(linear(rotation_blocks([np.exp(0.01j)])), depth=64)[1]) == {"unfinished"}


def test_a_line_drifts_and_a_zigzag_does_not():
    line = np.arange(32.0)[None, :, None]
    assert is_drifting(np.concatenate([line, line % 2, 0 * line]), 0.7).tolist() == [True, False, False]


def test_answer_fates_by_hand():
    code = np.array(
        [[7] * 12, [1, 2, 3] * 4, [1, 2] * 6, [1, 1, 2, 1, 2, 2, 1, 2, 1, 1, 1, 2], [5] * 8 + [7] * 4]
    )
    names = [ANSWER_FATES[i] for i in find_answer_fate(code, 4)]
    assert names == ["constant", "periodic", "periodic", "changing", "constant"]
    assert ANSWER["constant"] == 0


def test_block_medians_leave_the_start_out():
    np.testing.assert_array_equal(block_medians(np.arange(11.0)[None], 5), [[1.5, 3.5, 5.5, 7.5, 9.5]])


def test_rounding_at_fixed_points_counts_as_settled_where_other_fixed_points_are_quieter():
    """Solved runs rest at 5 machine epsilons, others, where the map stretches rounding more, at 40."""
    epsilon, rng = float(np.finfo(np.float32).eps), np.random.default_rng(0)
    level = np.where(np.arange(40) < 20, 5, 40)[:, None] * epsilon
    residual = level * rng.uniform(0.8, 1.2, (40, 256))
    ring = 1 + level[:, :, None] * rng.normal(size=(40, 32, 4)) / 4
    solved, code = np.arange(40) < 20, np.ones((40, 256), int)
    found = classify(
        residual,
        np.ones((40, 256)),
        code,
        solved,
        ring,
        epsilon=epsilon,
        noise=0.0,
        tolerances=at.Tolerances(),
    )
    assert {FATES[i] for i in found.fate} == {"settled"}


def test_the_numerical_floor_of_half_precision_is_not_above_the_solved_band():
    limits = at.Tolerances()
    assert limits.numerical_floor(float(np.finfo(np.float32).eps)) == limits.floor * np.finfo(np.float32).eps
    assert limits.numerical_floor(2.0**-7) == limits.band_cap, (
        "64 bfloat16 epsilons would be half of the state"
    )
