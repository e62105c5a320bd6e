"""A puzzle with two solutions has two correct attractors, told by the oracle, where labels would call one wrong."""

import numpy as np
import torch

from eqrlab import attractors as at
from eqrlab.attractors.results.schema import MODES
from eqrlab.core import MapSystem
from eqrlab.datasets import oracle
from tests.planted import sudoku_solution
from tests.zoo import normal_start


def two_solutions() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A 4x4 board, its twin with an unavoidable rectangle turned, a wrong board, and the puzzle both solve."""
    board = sudoku_solution(4).reshape(4, 4)
    for (r, s), (c, d) in (
        (rows, columns) for rows in ((0, 1), (2, 3)) for columns in ((0, 2), (0, 3), (1, 2), (1, 3))
    ):
        if board[r, c] == board[s, d] and board[r, d] == board[s, c]:
            break
    twin = board.copy()
    twin[[r, s], c] = board[[s, r], c]
    twin[[r, s], d] = board[[s, r], d]
    puzzle = np.where(board == twin, board, 1)
    wrong = board.copy()
    wrong[r, c] = wrong[s, c]
    return board.ravel(), twin.ravel(), wrong.ravel(), puzzle.ravel()


def planted(third: float) -> MapSystem:
    """Starts above .5 end at the board, those between `third` and .5 at the twin, the others at the wrong one."""
    board, twin, wrong, _ = (torch.as_tensor(v) for v in two_solutions())
    edges = torch.tensor([0.5, third], dtype=torch.float64)
    centres = torch.tensor([2.0, (0.5 + third) / 2, third - 2], dtype=torch.float64)
    answers = torch.stack((board, twin, wrong))
    side = lambda z: (z <= edges).sum(1)
    step = lambda z, x: centres[side(z)][:, None] + 0.5 * (z - centres[side(z)][:, None])
    return MapSystem(step, normal_start(1), lambda z, x: answers[side(z)])


def test_the_case_has_two_valid_solutions_of_one_puzzle():
    board, twin, wrong, puzzle = two_solutions()
    judge = oracle("sudoku4")
    assert judge(np.stack([puzzle] * 3), np.stack([board, twin, wrong])).tolist() == [True, True, False]
    assert (board != twin).sum() == 4 == (puzzle == 1).sum()


def test_both_solutions_are_correct_attractors_for_the_oracle():
    _, _, _, puzzle = two_solutions()
    inputs, judge = torch.as_tensor(puzzle)[None], oracle("sudoku4")
    ensemble = at.sample(planted(-9.0), inputs, oracle=judge, restarts=80, depth=64)
    basins = at.basins(ensemble)
    assert int(basins.attractors[0]) == 2 and basins.correct.values[0].tolist() == [True, True]
    assert MODES[int(at.modes(ensemble)["mode"][0])] == "d"


def test_labels_would_call_one_solution_wrong():
    board, _, _, puzzle = two_solutions()
    labels = torch.as_tensor(board)[None]
    ensemble = at.sample(planted(-9.0), torch.as_tensor(puzzle)[None], labels=labels, restarts=80, depth=64)
    assert MODES[int(at.modes(ensemble)["mode"][0])] == "b"


def test_a_wrong_attractor_beside_two_solutions_is_still_found():
    _, _, _, puzzle = two_solutions()
    inputs = torch.as_tensor(puzzle)[None]
    ensemble = at.sample(planted(-0.3), inputs, oracle=oracle("sudoku4"), restarts=200, depth=64)
    basins = at.basins(ensemble)
    assert sorted(basins.correct.values[0].tolist()) == [False, True, True]
    assert MODES[int(at.modes(ensemble)["mode"][0])] == "b"
    assert float(basins.correct_mass[0]) == float(ensemble.correct.values[0, :, -1].mean())
