"""Pushes come back to attractors and not to saddles, and a map that does nothing is named."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.landscape.return_test import RETURNS
from eqrlab.attractors.results import schema
from eqrlab.core import MapSystem
from tests.zoo import (
    contraction,
    hidden_selector,
    linear,
    normal_start,
    puzzles,
    rotor,
    selector,
    selector_level,
)

M = selector_level(2.0)


def test_a_settled_wrong_attractor_returns_with_its_answer_up_to_its_basin_boundary():
    """G3: from the lower attractor the boundary is m away, m / ||state|| = 1 in relative size."""
    states = torch.full((1, 2, 1), -M, dtype=torch.float64)
    states[0, 1] = M
    result = at.return_test(selector([[0.0]]), puzzles(), states, sizes=(1e-3, 0.1, 0.99, 1.01), directions=8)
    assert [RETURNS[i] for i in result.result.values[0]] == ["returns", "returns"]
    np.testing.assert_allclose(result.margin, 0.99)
    assert bool((~result.answer_back.sel(size=1.01)).any("direction").all())


@pytest.mark.parametrize("off", [0.0, 1e-9])
def test_a_saddle_is_left_even_if_one_direction_of_many_is_unstable(off):
    """G4, 600 dimensions, one unstable direction at the origin (factor 2): the bred push finds it."""
    rest = torch.full((599,), 0.5, dtype=torch.float64)
    system = hidden_selector(600, rest, units=1)
    states = torch.full((1, 1, 600), off, dtype=torch.float64)
    states[0, 0, 0] += 1e-6  # a scale to measure pushes by
    result = at.return_test(system, puzzles(), states, sizes=(1e-3,), directions=2, depth=12)
    assert RETURNS[int(result.result[0, 0])] == "leaves"
    assert float(result.left.sel(direction="bred").max()) > 10


def test_a_slow_contraction_is_undecided_until_the_depth_suffices():
    states = torch.ones(1, 1, 3, dtype=torch.float64)
    results = [
        RETURNS[int(at.return_test(contraction(0.99), puzzles(), states, depth=d).result[0, 0])]
        for d in (64, 600)
    ]
    assert results == ["undecided", "returns"]


def test_the_share_left_is_that_of_a_linear_map():
    states = torch.ones(1, 1, 3, dtype=torch.float64)
    result = at.return_test(contraction(0.9), puzzles(), states, depth=20)
    np.testing.assert_allclose(result.left, 0.9**20, rtol=1e-9)
    np.testing.assert_allclose(result.twin_moved, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("slope", [0.5, 0.9])
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_an_attractor_at_the_origin_returns_like_any_other(center, slope, dtype):
    """A global contraction is one broad basin (mode d), wherever its fixed point is."""
    system = MapSystem(
        lambda z, x: center + torch.tanh(slope * (z - center)),
        lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64).to(dtype),
        lambda z, x: torch.full((len(z), 1), 2),
    )
    labels = torch.full((1, 1), 2)
    runs = at.sample(
        system, puzzles(), labels=labels, restarts=16, depth=256, keep=("summary", "final_state")
    )
    returns = at.return_test(system, puzzles(), runs)
    assert (returns.result == RETURNS.index("returns")).all() and (returns.margin == 0.1).all()
    assert schema.MODES[int(at.modes(runs, returns=returns).mode[0])] == "d"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_origin_itself_is_tested_by_pushes_of_the_size_of_starts(dtype):
    results = []
    for step in (lambda z, x: 2 * z, lambda z, x: torch.tanh(2 * z), lambda z, x: z**3, lambda z, x: z / 2):
        law = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64).to(dtype)
        found = at.return_test(MapSystem(step, law), puzzles(), torch.zeros(1, 1, 1, dtype=dtype))
        results.append(RETURNS[int(found.result[0, 0])])
    assert results == ["leaves", "leaves", "returns", "returns"]


def test_where_nothing_has_a_size_pushes_are_refused():
    system = MapSystem(lambda z, x: 2 * z, lambda x, g: torch.zeros(len(x), 1))
    with pytest.raises(ValueError, match="puzzle 0, point 0 is zero, and so are all starts"):
        at.return_test(system, puzzles(), torch.zeros(1, 1, 1))


def test_a_cycle_takes_a_push_back_in_another_phase():
    system = rotor(2 * np.pi * 2 / 7)
    states = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    result = at.return_test(system, puzzles(), states, sizes=(1e-3,), directions=1, depth=300)
    assert (
        float(result.left.min()) < 1e-3 or float(result.left.max()) > 0.1
    )  # radial pushes die, tangential ones stay
    assert RETURNS[int(result.result[0, 0])] in ("undecided", "leaves")  # a rotor is neutral along its circle


def test_a_run_that_was_only_passing_leaves():
    grow = linear(torch.tensor([[1.1]], dtype=torch.float64))
    result = at.return_test(grow, puzzles(), torch.ones(1, 1, 1, dtype=torch.float64))
    assert RETURNS[int(result.result[0, 0])] == "leaves"


def test_states_come_from_an_ensemble_and_only_some_are_tested():
    ensemble = at.sample(
        selector([[0.0], [0.3]]), puzzles(2), labels=torch.full((2, 1), 2), restarts=6, depth=64,
        keep=("summary", "final_state"),
    )  # fmt: skip
    wrong = ~ensemble.correct.values[..., -1]
    result = at.return_test(selector([[0.0], [0.3]]), puzzles(2), ensemble, select=wrong, directions=2)
    assert (
        result.result.values == np.where(wrong, RETURNS.index("returns"), RETURNS.index("not_tested"))
    ).all()
    assert np.isnan(result.margin.values[~wrong]).all()
    whole = at.return_test(selector([[0.0], [0.3]]), puzzles(2), ensemble, directions=2, batch_size=5)
    np.testing.assert_allclose(whole.left.values[wrong], result.left.values[wrong])


def test_states_that_are_not_finite_are_not_tested():
    states = torch.tensor([[[torch.nan], [M]]], dtype=torch.float64)
    result = at.return_test(selector([[0.0]]), puzzles(), states)
    assert [RETURNS[i] for i in result.result.values[0]] == ["not_tested", "returns"]


def test_misuse_is_named():
    states = torch.ones(1, 1, 3, dtype=torch.float64)
    for change, message in (
        ({"sizes": (0.1, 0.01)}, "sizes must be positive and increasing"),
        ({"directions": 0}, "directions must be an integer >= 1, got 0"),
        ({"sizes": 0.01}, "sizes must be positive and increasing, got 0.01"),
        ({"depth": 7}, "depth must be an integer >= 8, got 7"),
        ({"select": np.ones((2, 1), bool)}, "select must be"),
    ):
        with pytest.raises(ValueError, match=message):
            at.return_test(contraction(0.5), puzzles(), states, **change)


def test_a_map_that_acts_passes_the_no_op_test():
    system = selector([[0.0], [0.6], [-0.4]])
    result = at.noop_test(system, puzzles(3), restarts=16, depth=64)
    assert bool(result.acts.all()) and float(result.moved.min()) > 0
    assert not bool(result.z_survives.any()) and not bool(result.blind.any())


def test_the_identity_is_named_a_no_op():
    system = MapSystem(lambda z, x: z.clone(), normal_start(5), lambda z, x: (z > 0).long())
    result = at.noop_test(system, puzzles(3), restarts=8, depth=16)
    assert not bool(result.acts.any()) and bool(result.z_survives.all())
    np.testing.assert_allclose(result.memory, 1)


def test_a_state_that_keeps_its_start_beside_an_answer_is_named():
    """Half of the state is never touched: the residual may be zero and the start survives in it."""
    step = lambda z, x: torch.cat((1 + 0.5 * (z[:, :2] - 1), z[:, 2:]), 1)
    result = at.noop_test(MapSystem(step, normal_start(4)), puzzles(2), restarts=8, depth=64)
    assert bool(result.acts.all()) and bool(result.z_survives.all())


def test_a_map_blind_to_its_input_and_an_answer_that_ignores_the_state_are_named():
    blind = MapSystem(lambda z, x: torch.tanh(2 * z), normal_start(3), lambda z, x: (z > 0).long())
    result = at.noop_test(blind, puzzles(3), restarts=8, depth=64)
    assert bool(result.blind.all()) and not bool(result.answer_fixed.any())
    fixed = MapSystem(lambda z, x: x + 0.5 * (z - x), normal_start(3), lambda z, x: x.long())
    result = at.noop_test(fixed, puzzles(3), restarts=8, depth=64)
    assert bool(result.answer_fixed.all()) and not bool(result.blind.any())


@pytest.mark.parametrize("order", [(3, 3, 5), (3, 5, 3), (5, 3, 3)])
def test_the_no_op_test_does_not_depend_on_the_order_of_puzzles_nor_on_copies(order):
    """The start depends on the puzzle, too; another input is one of other tokens."""
    reads = MapSystem(
        lambda z, x: 0.5 * z + x[:, :1], lambda x, g: x + torch.randn((len(x), 1), generator=g).double()
    )
    inputs = torch.tensor(order)[:, None]
    result = at.noop_test(reads, inputs)
    assert not result.blind.any()
    np.testing.assert_allclose(result.input_effect, [2 / 3 if o == 3 else 2 / 5 for o in order], rtol=1e-6)
    alone = at.noop_test(reads, torch.tensor([[3], [5]]))
    moved = {3: alone.moved.values[0], 5: alone.moved.values[1]}
    np.testing.assert_allclose(result.moved, [moved[o] for o in order])
    same = at.noop_test(reads, torch.tensor([[3], [3]]))
    assert np.isnan(same.input_effect).all() and not same.blind.any()
