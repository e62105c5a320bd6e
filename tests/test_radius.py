"""Basin radius and duels, where the borders of the basins are known."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.fates.history import Arrival
from eqrlab.attractors.perturbation.follow import Follower
from tests.zoo import one_pattern, puzzles, selector

M = 0.9575040240772688  # m = tanh(2 m)


def test_the_radius_of_g3_is_m_half_of_the_pushes_being_lost_there():
    """One unit: one of two opposite pushes crosses the border, at the distance m."""
    offsets = [[0.0], [0.4]]
    states = torch.tensor(offsets, dtype=torch.float64)[:, None] + torch.tensor(
        [[M], [-M]], dtype=torch.float64
    )
    found = at.basin_radius(selector(offsets), puzzles(2), states, directions=8, tol=1e-9, reach=8.0)
    np.testing.assert_allclose(found.basin_radius, M, rtol=1e-8)
    np.testing.assert_allclose(found.relative_radius, M / np.abs(states[..., 0].numpy()), rtol=1e-8)
    sizes = found.critical_size.values * np.abs(states.numpy())
    assert np.isclose(sizes, M, rtol=1e-8).sum() == np.isinf(sizes).sum() == 4 * 4, "the other push never is"
    assert (found.basin_radius_low <= found.basin_radius).all() and found.settled.all()


@pytest.mark.parametrize("size", [4, 50])
def test_the_radius_of_g5_along_its_pattern_is_m_root_d_and_others_follow_their_angle(size):
    system, pattern = one_pattern(size, beta=2.0)
    state = M * pattern.view(1, 1, size)
    along = torch.stack((pattern, -pattern))
    found = at.basin_radius(system, puzzles(1), state, directions=along, tol=1e-9, reach=3.0)
    np.testing.assert_allclose(found.basin_radius, M * np.sqrt(size), rtol=1e-8)
    np.testing.assert_allclose(found.relative_radius, 1.0, rtol=1e-8)
    way = torch.randn((12, size), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turned = (way / way.norm(dim=1, keepdim=True)) @ pattern
    expected = np.where(turned < 0, -M * size / turned.numpy() / (M * np.sqrt(size)), np.inf)
    found = at.basin_radius(system, puzzles(1), state, directions=way, tol=1e-6, reach=1000.0)
    np.testing.assert_allclose(found.critical_size[0, 0], expected, rtol=2e-6)


def test_the_interval_holds_the_median_of_all_directions_as_often_as_it_says():
    """G3 with two units, both needed: the size along angle t is m / max(-cos t, -sin t), median known by quadrature."""
    system, state = selector([[0.0, 0.0]]), torch.tensor([[[M, M]]], dtype=torch.float64)
    angle = np.linspace(0, 2 * np.pi, 400001)[:-1]
    nearest = np.maximum(-np.cos(angle), -np.sin(angle))
    truth = np.median(np.where(nearest > 0, M / np.where(nearest > 0, nearest, 1), np.inf))
    hits = 0
    for seed in range(60):
        way = torch.randn((20, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        one = at.basin_radius(system, puzzles(1), state, directions=way, tol=1e-3, reach=16.0)
        hits += float(one.basin_radius_low[0, 0]) <= truth * 1.001 and truth <= float(
            one.basin_radius_high[0, 0]
        )
    assert hits >= 52, "of 60, 57 expected; 51 or fewer has a chance of 1 %"


def test_too_few_directions_bound_nothing_and_gaps_stay_gaps():
    states = torch.tensor([[[M], [torch.nan]]], dtype=torch.float64)
    found = at.basin_radius(selector([[0.0]]), puzzles(1), states, directions=4, tol=1e-3)
    assert float(found.basin_radius_low[0, 0]) == 0 and np.isinf(found.basin_radius_high[0, 0])
    assert np.isnan(found.basin_radius[0, 1]) and np.isnan(found.critical_size[0, 1]).all()


def test_answers_are_those_of_the_ends_from_fewer_steps():
    """G3: a state is left where it has come to rest, and earlier where it is back at a known attractor."""
    z, where = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None], np.zeros(41, int)
    follower = Follower(selector([[0.0]]), puzzles(1), depth=64)
    spent = []

    def counted(function, *arguments):
        before = follower.evaluations
        result = function(z, where, *arguments)
        spent.append(follower.evaluations - before)
        return result

    ends = counted(follower)
    home = Arrival(ends.sketch[[-1] * 41], ends.code[[-1] * 41], np.full(41, 0.2))
    rest, back = counted(follower.answers, 1e-3), counted(follower.answers, 0.0, home)
    assert (rest == ends.code).all() and (back == ends.code).all()
    assert max(spent[1:]) < spent[0]


def test_a_duel_at_the_border_is_drawn_exactly():
    """G3: midpoints between b + m and b - m lie on the border b; of both starts aside one goes up."""
    system, inputs = selector([[0.0], [0.3]]), puzzles(2)
    runs = at.sample(
        system, inputs, labels=torch.full((2, 1), 2), restarts=40, depth=64, keep=("final_state",)
    )
    found = at.duels(system, inputs, runs, answers=2, pairs=8)
    off = ~np.eye(2, dtype=bool)
    assert (found.wins.values[:, off] == 0.5).all() and (found.duels.values[:, off] == 8).all()
    assert (found.wins_low.values[:, off] > 0.2).all() and (found.wins_high.values[:, off] < 0.8).all()
    assert np.isnan(found.wins.values[:, ~off]).all() and (found.strength == 0.5).all()
    assert sorted(found.correct.values[0].tolist()) == [False, True]


def test_the_basin_that_reaches_further_wins():
    """z -> attractors at -1 and 3, border at 0: the midpoint 1 is on the side of 3."""
    from eqrlab.core import MapSystem

    step = lambda z, x: torch.where(z > 0, 3 + (z - 3) / 2, -1 + (z + 1) / 2)
    start = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    system = MapSystem(step, start, lambda z, x: (z > 0).long() + 1)
    runs = at.sample(
        system, puzzles(1), labels=torch.tensor([[2]]), restarts=30, depth=64, keep=("final_state",)
    )
    found = at.duels(system, puzzles(1), runs, answers=3).isel(puzzle=0)
    right = int(found.correct.values.argmax())
    wrong = 1 - right
    assert float(found.wins[right, wrong]) == 1 and float(found.wins[wrong, right]) == 0
    assert float(found.strength[right]) == 1 and int(found.answer_id[2]) == -1 and np.isnan(found.strength[2])
    assert found.runs.values[:2].sum() == 30


def test_misuse_of_pushes_and_duels_is_answered_in_a_sentence():
    system, state = selector([[0.0]]), torch.tensor([[[M]]], dtype=torch.float64)
    for options, text in (
        ({"directions": 3}, "even number >= 2"),
        ({"directions": torch.ones(2, 5)}, r"vectors \(k, 1\)"),
        ({"directions": torch.zeros(2, 1)}, "not zero"),
        ({"reach": 0}, "reach must be"),
        ({"tol": -1}, "tol must be"),
    ):
        with pytest.raises(ValueError, match=text):
            at.basin_radius(system, puzzles(1), state, **options)
    runs = at.sample(system, puzzles(1), restarts=4, depth=4)
    with pytest.raises(ValueError, match="holds no states"):
        at.duels(system, puzzles(1), runs)
    kept = at.sample(system, puzzles(1), restarts=4, depth=4, keep=("final_state",))
    for options, text in (
        ({"answers": 1}, "answers must be"),
        ({"pairs": 0}, "pairs must be"),
        ({"aside": 1}, "aside"),
    ):
        with pytest.raises(ValueError, match=text):
            at.duels(system, puzzles(1), kept, **options)
