"""Very hard puzzles: unique, minimal, reproducible one by one, harder than random minimal ones."""

from __future__ import annotations

import numpy as np
import pytest

from eqrlab.datasets import bundled, fingerprint, hardest, oracle
from eqrlab.datasets.generate import generate
from eqrlab.datasets.hardest import generate_hardest, mean_guesses
from eqrlab.datasets.solver import count_guesses, is_unique


@pytest.fixture(scope="module")
def made():
    return list(generate_hardest(3, seed=11))


def test_puzzles_are_unique_minimal_and_come_with_their_solution_and_guesses(made):
    for one in made:
        assert is_unique(one.puzzle) and oracle("sudoku9")(one.puzzle[None], one.solution[None]).all()
        assert one.guesses == count_guesses(one.puzzle) and one.clues == (one.puzzle > 1).sum()
        assert one.difficulty == "hardest"
        for cell in np.flatnonzero(one.puzzle > 1):
            without = one.puzzle.copy()
            without[cell] = 1
            assert not is_unique(without)


def test_each_puzzle_has_its_own_random_numbers(made):
    (later,) = generate_hardest(1, seed=11, first=2)
    assert (later.puzzle == made[2].puzzle).all() and (later.solution == made[2].solution).all()


def test_a_puzzle_that_came_up_before_is_made_again(made):
    mark = int(fingerprint("sudoku9", made[0].puzzle)[0])
    (other,) = generate_hardest(1, seed=11, exclude=[mark])
    assert int(fingerprint("sudoku9", other.puzzle)[0]) != mark and other.clues > 16


def test_several_processes_make_the_same_puzzles(made):
    parallel = list(generate_hardest(2, seed=11, workers=2))
    assert all((one.puzzle == other.puzzle).all() for one, other in zip(made, parallel, strict=False))


def test_moves_never_lose_guesses_and_keep_the_puzzle_minimal():
    rng = np.random.default_rng(2)
    solution = {c: int(t) - 2 for c, t in enumerate(next(iter(generate(9, 1, "hard", 1))).solution)}
    state = hardest._Climb(solution, rng)
    reached = [mean_guesses(hardest._tokens(state.clues), rng)]
    for _ in range(12):
        reached.append(state.move(reached[-1]))
    assert reached == sorted(reached) and reached[-1] > reached[0]
    assert state.clues.keys() == state.witnesses.keys()
    given = hardest._bits(state.clues)
    for cell, digit in state.clues.items():
        assert given & ~state.witnesses[cell] == 1 << (digit * 81 + cell), "a witness breaks its clue alone"


def test_bundled_hard_puzzles_are_much_harder_than_random_minimal_ones():
    test = bundled("sudoku9-hard", "test")
    stored = np.array(test.columns["guesses"], dtype=int)
    counted = [count_guesses(row) for row in test.inputs[:40]]
    assert (stored[:40] == counted).all()
    random = [one.guesses for one in generate(9, 30, "hard,extreme", seed=5)]
    assert np.median(stored) > 10 and stored.mean() > 20 and stored.mean() > 2 * np.mean(random)


@pytest.mark.parametrize("options", [{"count": -1}, {"count": 1, "workers": 0}, {"count": 1, "first": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="count and first must be >= 0 and workers >= 1"):
        list(generate_hardest(**options))
