"""Many puzzles solved at once: the same counts as the solver that takes them one by one."""

import math
import time

import numpy as np
import pytest

from eqrlab.datasets import batch_solver, build, bundled, oracle, read_puzzles
from eqrlab.datasets.batch_solver import count_solutions
from eqrlab.datasets.solver import BitBoard, solve
from eqrlab.datasets.sudoku import BLANK, FIRST_DIGIT, Geometry


def puzzles_of(side: int) -> np.ndarray:
    """Return puzzles with one solution, with several (clues taken away) and with none (clues changed)."""
    if side == 4:
        made = build("sudoku4", 30, "easy", seed=1)
    else:
        made = bundled("sudoku6" if side == 6 else "sudoku9-hard").take(slice(60))
    draw = np.random.default_rng(side)
    rows = np.repeat(made.inputs, 6, axis=0)
    fewer = np.where(draw.random(rows.shape) < 0.1, BLANK, rows)
    changed = np.where(draw.random(rows.shape) < 0.04, draw.integers(FIRST_DIGIT, side + 2, rows.shape), rows)
    share = draw.uniform(0.3, 0.9, (len(rows), 1))
    solved = np.repeat(made.labels, 6, axis=0)
    opened = np.where(draw.random(rows.shape) < share, BLANK, solved)
    return np.concatenate([made.inputs, fewer, changed, opened, made.labels])


@pytest.mark.parametrize("side", [4, 6, 9])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_counts_are_those_of_the_solver_that_takes_one_puzzle_at_a_time(side, limit):
    tokens = puzzles_of(side)
    found = count_solutions(tokens, limit)
    expected = [len(solve(row, limit)) for row in tokens]
    assert found.count.tolist() == expected
    assert {0, limit} <= set(expected)
    solved = found.count > 0
    assert oracle(f"sudoku{side}")(tokens[solved], found.first[solved]).all()
    assert (found.first[~solved] == BLANK).all()


def test_the_number_of_boards_under_way_does_not_matter(monkeypatch):
    tokens = puzzles_of(9)[:300]
    whole = count_solutions(tokens)
    monkeypatch.setattr(batch_solver, "_CELLS_AT_ONCE", 81 * 7)
    few = count_solutions(tokens)
    np.testing.assert_array_equal(whole.count, few.count)
    unique = whole.count == 1
    np.testing.assert_array_equal(whole.first[unique], few.first[unique])


@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 4), (5, 5)])
def test_larger_boards_are_counted_too(height, width):
    board = Geometry(height * width, height, width)
    row, column = np.divmod(np.arange(board.cells), board.side)
    solution = (row % height * width + row // height + column) % board.side + FIRST_DIGIT
    draw = np.random.default_rng(board.side)
    rows = np.where(draw.random((12, board.cells)) < 0.35, BLANK, solution)
    rows[0] = solution
    rows[1, :2] = solution[0]  # a digit twice in a row
    slow = BitBoard(board)
    expected = []
    for tokens in rows:
        givens = {int(c): int(tokens[c]) - FIRST_DIGIT for c in np.flatnonzero(tokens >= FIRST_DIGIT)}
        expected.append(len(slow.search(*slow.start(givens), 2)[0]))
    found = batch_solver._Search(board, rows, 2).run(None, math.inf)
    assert found.count.tolist() == expected
    assert expected[:2] == [1, 0]


def test_no_puzzles_an_empty_board_and_nothing_but_givens():
    assert count_solutions(np.ones((0, 81), int)).count.shape == (0,)
    assert count_solutions(np.ones((2, 81), int), 3).count.tolist() == [3, 3]
    full = bundled("sudoku9").labels[:2]
    found = count_solutions(full)
    assert found.count.tolist() == [1, 1]
    np.testing.assert_array_equal(found.first, full)


def test_progress_rises_to_the_number_of_puzzles():
    told = []
    count_solutions(puzzles_of(9), tick=told.append)
    assert told == sorted(told)
    assert told[-1] == len(puzzles_of(9))


@pytest.mark.parametrize(
    ("tokens", "limit", "reason"),
    [
        (np.ones((1, 80), int), 2, "16, 36, 64, 81, ... up to 625 tokens"),
        (np.ones(81, int), 2, "puzzles are rows of tokens"),
        (np.full((1, 81), 11), 2, r"tokens in \[0, 10\]"),
        (np.ones((1, 81), int), 0, "limit must be >= 1"),
    ],
)
def test_what_is_no_puzzle_is_refused(tokens, limit, reason):
    with pytest.raises(ValueError, match=reason):
        count_solutions(tokens, limit)


@pytest.mark.slow
def test_hard_puzzles_are_proved_unique_ten_times_faster_than_one_by_one(shared):
    hard = read_puzzles(shared / "data/sudoku/forum-hardest-11plus.csv.gz", limit=2000).inputs
    start = time.process_time()
    assert (count_solutions(hard).count == 1).all()
    together = (time.process_time() - start) / len(hard)
    start = time.process_time()
    for row in hard[:100]:
        solve(row)
    assert (time.process_time() - start) / 100 > 10 * together  # 22 to 25 on a quiet machine
