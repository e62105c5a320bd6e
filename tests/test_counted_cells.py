"""Cells that do not count take no part in what is one answer: in codes, attractors, votes and settling."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.at_attractors import representatives
from eqrlab.attractors.dynamics.certificate import forward_and_return
from eqrlab.attractors.ensemble.judge import Judge, answer_codes
from eqrlab.attractors.ensemble.states import take_points
from eqrlab.core import MapSystem

TINY = 1e-9  # far below the resolution: states that differ by it are one


def flickering() -> MapSystem:
    """Go to z0 = 1 or -1; z1 keeps its sign, of no size, and z2 turns it every step.  Decode the three signs."""

    def step(z, x):
        return torch.stack([torch.sign(z[:, 0]), TINY * torch.sign(z[:, 1]), -TINY * torch.sign(z[:, 2])], 1)

    def start(x, generator):
        return torch.randn((len(x), 3), generator=generator, dtype=torch.float64)

    return MapSystem(step, start, lambda z, x: (z > 0).long() + 1)


PUZZLES = torch.tensor([[1, 1, 1]])
ONE_COUNTS = np.array([[2, 0, 0]])  # the first cell is 2 in a right answer, the others do not count


def sampled(labels, **options):
    return at.sample(flickering(), PUZZLES, labels=labels, restarts=40, depth=32, noise=0, **options)


def test_every_cell_that_counts_tells_answers_apart():
    assert sampled(None).answer_id.values.max() == 7  # three signs
    ensemble = sampled(np.array([[2, 2, 0]]))
    assert ensemble.answer_id.values.max() == 3 and at.basins(ensemble).attractors.item() == 4


def test_answers_that_differ_only_where_nothing_counts_are_one():
    ensemble = sampled(ONE_COUNTS)
    found = at.basins(ensemble)
    right = (ensemble.answer.values[0, :, 0] == 2).mean()
    assert ensemble.answer_id.values.max() == 1 and found.attractors.item() == 2
    assert sorted(found.semantic.values[0].tolist()) == [0, 1]
    np.testing.assert_allclose(found.correct_mass, right)
    np.testing.assert_allclose(np.sort(found.mass.values[0]), np.sort([right, 1 - right]))


def test_a_cell_that_does_not_count_does_not_keep_an_answer_from_settling():
    assert (sampled(None).answer_settled > 30).all()
    assert (sampled(ONE_COUNTS).answer_settled == 1).all()


def test_the_stored_answers_are_whole():
    np.testing.assert_array_equal(sampled(ONE_COUNTS).answer, sampled(None).answer)


def test_an_oracle_looks_at_all_cells():
    whole = lambda inputs, answers: (answers == 2).all(1)
    assert sampled(ONE_COUNTS, oracle=whole).answer_id.values.max() == 7


def test_of_a_puzzle_without_labels_every_cell_counts():
    judge = Judge(np.array([[0, 0], [0, 3]]))
    answers = np.array([[1, 2], [1, 2]]), np.array([[5, 2], [5, 2]])
    first, second = (judge.codes(a) for a in answers)
    assert (first == second).tolist() == [False, True]


def test_where_all_cells_count_codes_are_those_without_labels():
    answers = np.random.default_rng(0).integers(0, 9, (50, 7))
    np.testing.assert_array_equal(Judge(np.full((50, 7), 3)).codes(answers), answer_codes(answers))


def test_majority_votes_are_cast_for_what_counts():
    """Three right runs that differ where nothing counts, and two wrong ones that agree."""
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1], [-1, 1, 1]], dtype=torch.float64)
    given = dict(restarts=5, depth=8, noise=0, initial=signs[None])
    for labels, accuracy in ((ONE_COUNTS, 1.0), (None, 0.0)):
        oracle = (lambda inputs, answers: answers[:, 0] == 2) if labels is None else None
        ensemble = at.sample(flickering(), PUZZLES, labels=labels, oracle=oracle, **given)
        assert at.alignment(ensemble).accuracy.sel(selector="majority").values[-1] == accuracy


def test_estimates_join_rounds_by_what_counts():
    found = at.estimate_basins(flickering(), PUZZLES, labels=ONE_COUNTS, half_width=0.2, depth=32, noise=0)
    assert found.attractors.item() == 2


def test_planes_number_answers_by_what_counts():
    state = torch.tensor([[[1.0, TINY, TINY]]], dtype=torch.float64)
    axes = torch.eye(3, dtype=torch.float64)[None, :2]
    options = dict(states=state, directions=axes, unit=1.0, resolution=8, depth=8, extent=2.0)
    counted = at.plane(flickering(), PUZZLES, labels=ONE_COUNTS, **options)
    assert counted.answer_id.values.max() == 1
    assert at.plane(flickering(), PUZZLES, **options).answer_id.values.max() > 1


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="labels have 3 tokens, answers 2"):
        Judge(ONE_COUNTS).codes(np.ones((1, 2), int))


SHORT = dict(depth=16)
FOLLOWED = {  # analyses of states that compare answers, and what must hold where one cell counts
    "basin_stability": lambda *a, **o: (
        at.basin_stability(*a, sizes=(0.1,), trials=16, **SHORT, **o).answer_stability == 1
    ),
    "basin_radius": lambda *a, **o: np.isinf(
        at.basin_radius(*a, directions=4, reach=0.5, **SHORT, **o).critical_size.values
    ),
    "return_test": lambda *a, **o: at.return_test(*a, sizes=(1e-3,), directions=4, **SHORT, **o).answer_back,
    "certificate": lambda system, inputs, states, **o: forward_and_return(
        take_points(system, inputs, states, **o), torch.arange(2), np.ones(2), 0
    )[2],
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_states_are_followed_by_what_counts(name):
    states = torch.tensor([[[1.0, TINY, TINY], [1.0, -TINY, TINY]]], dtype=torch.float64)
    assert FOLLOWED[name](flickering(), PUZZLES, states, labels=ONE_COUNTS).all()
    assert not FOLLOWED[name](flickering(), PUZZLES, states).all()
    kept = sampled(
        ONE_COUNTS, keep=("summary", "final_state"), initial=states[:, [0, 1, 0, 1]].repeat(1, 10, 1)
    )
    assert FOLLOWED[name](flickering(), PUZZLES, kept).all()  # the ensemble tells which cells count


def test_transitions_and_representatives_know_what_counts():
    kept = sampled(ONE_COUNTS, keep=("summary", "final_state"))
    found = at.transitions(flickering(), PUZZLES, kept, noises=(0.0,), steps=3, trials=8, depth=32)
    assert found.escape.values[0, 0, :2].tolist() == [0, 0]
    attractor, restart = representatives(kept, at.basins(kept))
    assert (attractor >= 0).all() and (kept.answer.values[0, restart[0], 0] == [2, 1]).all()


def test_continued_runs_know_what_counts():
    """After an odd number of further steps the last cell has turned; a push turns the second."""
    states = torch.tensor([[[1.0, TINY, TINY], [1.0, -TINY, TINY]]], dtype=torch.float64)
    kept = at.sample(
        flickering(), PUZZLES, labels=ONE_COUNTS, restarts=2, depth=31, initial=states, noise=0,
        keep=("summary", "final_state"),
    )  # fmt: skip
    longer = at.prolong(flickering(), PUZZLES, kept, depth=62, which="all")
    assert (longer.answer.values[..., 2] != kept.answer.values[..., 2]).all()
    assert at.return_test(
        flickering(), PUZZLES, longer, sizes=(1e-3,), directions=4, depth=16
    ).answer_back.all()


def test_runs_from_other_puzzles_are_compared_by_what_counts():
    """Where all runs go to the same value of the only cell that counts, the others say nothing."""

    def start(x, generator):
        z = torch.randn((len(x), 3), generator=generator, dtype=torch.float64)
        return torch.cat([z[:, :1].abs(), z[:, 1:]], 1)

    two = np.array([[1, 1, 1], [1, 1, 2]])
    kept = at.sample(
        flickering(), two, labels=ONE_COUNTS.repeat(2, 0), restarts=20, depth=8, initial=start, noise=0,
        keep=("summary", "final_state"),
    )  # fmt: skip
    assert float(at.asymptotic_alignment(flickering(), two, kept, depth=3).mean_same_answer) == 1


def test_a_start_with_the_answer_that_counts_has_the_final_answer():
    start = lambda x, generator: torch.tensor([[1.0, TINY, -TINY]], dtype=torch.float64).expand(len(x), 3)
    assert at.noop_test(flickering(), PUZZLES, initial=start, depth=3, labels=ONE_COUNTS).answer_fixed.all()
    assert not at.noop_test(flickering(), PUZZLES, initial=start, depth=3).answer_fixed.any()
