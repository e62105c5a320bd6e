"""Runs end as what they are planted to end as."""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.endings import KINDS, same_points
from eqrlab.core import MapSystem
from tests.zoo import linear, logistic, narrow_in_sea, normal_start, puzzles, rotor, selector, selector_level

KEEP = ("summary", "final_state")


def names(found):
    return np.array(KINDS)[found.kind.values]


def runs(system, inputs, labels, **options):
    return at.sample(system, inputs, labels=labels, keep=KEEP, **{"restarts": 4, "depth": 32, **options})


@pytest.mark.parametrize(
    ("r", "kind", "period"),
    [(2.5, "stable", 1), (3.2, "cycle", 2), (3.5, "cycle", 4), (3.83, "cycle", 3), (4.0, "chaotic", 0)],
)
def test_logistic_windows(r, kind, period):
    ensemble = runs(logistic(r), puzzles(), torch.ones(1, 1, dtype=torch.long), depth=200)
    found = at.endings(logistic(r), puzzles(), ensemble, steps=400)
    assert (names(found) == kind).all() and (found.period == period).all()
    radius = {2.5: 0.5, 3.2: 0.16, 3.5: 0.0304999760, 3.83: 0.3298817}.get(r)
    if radius is not None:
        np.testing.assert_allclose(found.spectral_radius, radius, atol=2e-6)
        assert np.isnan(found.exponent).all()
    else:
        assert (found.exponent_low > 0).all() and (np.abs(found.exponent - np.log(2)) < 0.1).all()


def test_exponents_that_fall_like_one_over_time_are_marginal():
    def shear(z, x):
        c, s = torch.cos(z[:, 2]), torch.sin(z[:, 2])
        return torch.stack([z[:, 0] * c - z[:, 1] * s, z[:, 0] * s + z[:, 1] * c, z[:, 2]], 1)

    line = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    answer = lambda z, x: torch.ones(len(z), 1, dtype=torch.long)
    for system in (
        MapSystem(shear, normal_start(3), answer),
        MapSystem(lambda z, x: z / (1 + z), line, answer),
    ):
        ensemble = runs(system, puzzles(), torch.ones(1, 1, dtype=torch.long), depth=64)
        found = at.endings(system, puzzles(), ensemble)
        assert (names(found) == "marginal").all()
        assert ((found.exponent_low <= 0) & (found.exponent_high >= 0)).all()


def test_right_and_wrong_attractors_are_counted_apart_and_merged():
    offsets = [[-0.5, 0.2], [0.3, 0.0], [1.0, -1.0]]
    inputs, labels = puzzles(3), torch.full((3, 2), 2)
    ensemble = runs(selector(offsets), inputs, labels, restarts=12)
    found = at.endings(selector(offsets), inputs, ensemble)
    assert (names(found) == "stable").all()
    np.testing.assert_allclose(found.spectral_radius, 0.1663720878, atol=1e-8)
    right = found.correct.values
    assert (found["count"].sel(ending="stable") == [right.sum(), (~right).sum()]).all()
    answers = ensemble.answer.values
    for p in range(3):
        assert len(np.unique(found.solution[p])) == len(np.unique(answers[p], axis=0))
    assert found.solutions.sel(outcome="right") == right.any(1).sum()
    assert found.solutions.sum() == found.stable_solutions.sum() == found.solution.max("point").sum() + 3
    assert (found.share.sel(ending="stable") == 1).all() and (found.share_low.sel(ending="stable") < 1).all()


def test_a_narrow_right_basin_in_a_chaotic_sea():
    inputs = puzzles(4)
    ensemble = runs(narrow_in_sea(0.3), inputs, torch.full((4, 1), 3), restarts=8, seed=1)
    found = at.endings(
        narrow_in_sea(0.3), inputs, ensemble, steps=400, searches=0
    )  # the map has a kink at u = 0
    right = found.correct.values
    assert 0 < right.sum() < right.size
    assert (names(found)[right] == "stable").all() and (names(found)[~right] == "chaotic").all()


def test_a_run_at_rest_on_the_border_is_at_a_saddle():
    system = selector([[0.0, 0.0]])
    starts = torch.tensor([[[0.0, 0.9], [0.0, 0.0], [1e-7, 0.5]]], dtype=torch.float64)
    ensemble = at.sample(
        system, puzzles(), labels=torch.full((1, 2), 2), restarts=3, depth=8, keep=KEEP, initial=starts
    )
    found = at.endings(system, puzzles(), ensemble, max_steps=300)
    assert names(found).tolist() == [["saddle", "saddle", "stable"]]
    np.testing.assert_allclose(found.spectral_radius[0, :2], 2, atol=1e-9)


def test_a_slow_passage_is_a_saddle_by_its_neighbour():
    """u leaves 0 by one part in a thousand a step: after 60 steps it is slow, and its exponent is positive."""
    step = lambda z, x: torch.stack((torch.tanh(1.001 * z[:, 0]), 1 + 0.5 * (z[:, 1] - 1)), 1)
    system = MapSystem(step, lambda x, g: torch.tensor([[1e-3, 2.0]]).double().expand(len(x), 2).clone())
    ensemble = runs(system, puzzles(), torch.ones(1, 1, dtype=torch.long), restarts=1, depth=4)
    found = at.endings(system, puzzles(), ensemble, max_steps=60, steps=20)
    assert names(found).item() == "saddle"
    np.testing.assert_allclose(found.near_radius, 1.001, atol=1e-9)
    assert found.near_distance < 0.01 and found.relative_residual < 1e-5


def test_a_torus_is_marginal_and_escape_is_divergence():
    inputs, labels = puzzles(), torch.full((1, 1), 2)
    found = at.endings(rotor(1.0), inputs, runs(rotor(1.0), inputs, labels), steps=200)
    assert (names(found) == "marginal").all()
    np.testing.assert_allclose(found.exponent, 0, atol=1e-4)
    double = MapSystem(lambda z, x: 2 * z, lambda x, g: torch.rand((len(x), 2), generator=g).double() + 1)
    found = at.endings(double, inputs, runs(double, inputs, torch.ones(1, 1, dtype=torch.long), depth=8))
    assert (names(found) == "diverged").all() and found["count"].sel(ending="diverged").sum() == 4


def test_slow_contraction_is_unfinished():
    system = MapSystem(
        lambda z, x: 0.9999 * z, lambda x, g: torch.rand((len(x), 2), generator=g).double() + 1
    )
    ensemble = runs(system, puzzles(), torch.ones(1, 1, dtype=torch.long), restarts=2, depth=4)
    found = at.endings(system, puzzles(), ensemble, max_steps=100, searches=0)
    assert (names(found) == "unfinished").all() and (found.exponent_high < 0).all()


def test_runs_that_were_not_drawn_are_no_endings():
    system, inputs = selector([[0.0], [0.0]]), puzzles(2)
    ensemble = runs(system, inputs, torch.full((2, 1), 2))
    waves = ensemble.assign(drawn=(("puzzle", "restart"), np.arange(4) < np.array([[4], [2]])))
    with pytest.raises(ValueError, match="endings needs equally many restarts of every puzzle"):
        at.endings(system, inputs, waves)


def test_the_precision_of_the_analysis_is_recorded():
    single = runs(selector([[0.0]]), puzzles(), torch.full((1, 1), 2), restarts=2, dtype="float32")
    assert at.endings(selector([[0.0]]), puzzles(), single, dtype="float64").attrs["dtype"] == "float64"


def test_correctness_must_be_known():
    ensemble = at.sample(logistic(2.5), puzzles(), restarts=2, depth=4, keep=KEEP)
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.endings(logistic(2.5), puzzles(), ensemble)


def test_an_exponent_of_zero_up_to_rounding_is_not_chaos():
    c, s = math.cos(1.0), math.sin(1.0)
    turn = linear(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    shift = MapSystem(
        lambda z, x: (z + torch.tensor([0.1234567, 0.7654321]).to(z)) % 1,
        lambda x, generator: torch.rand((len(x), 2), generator=generator, dtype=torch.float64),
    )
    for system in (turn, shift):
        ensemble = at.sample(
            system, puzzles(), oracle=lambda i, a: np.ones(len(a), bool), depth=100, restarts=4, keep=KEEP
        )
        assert (names(at.endings(system, puzzles(), ensemble)) == "marginal").all()


def test_points_merge_by_their_errors():
    m = selector_level(2.0)
    state = np.array([[[m, m], [m, m + 1e-9], [m, -m], [m + 1e-4, m]]])
    residual, radius, settled = np.full((1, 4), 1.5e-9), np.full((1, 4), 0.166), np.ones((1, 4), bool)
    scale = np.ones((1, 4))
    assert same_points(state, scale, residual, radius, settled, 2e-16).tolist() == [[0, 0, 1, 2]]
    settled[0, 2] = False
    assert same_points(state, scale, residual * 1e5, radius, settled, 2e-16).tolist() == [[0, 0, -1, 0]]


def test_runs_into_the_origin_end_at_one_point():
    system = linear(torch.eye(2, dtype=torch.float64) / 2)
    ensemble = runs(system, puzzles(), torch.full((1, 2), 2), restarts=8, depth=48)
    found = at.endings(system, puzzles(), ensemble)
    assert (names(found) == "stable").all() and (found.solution == 0).all()
