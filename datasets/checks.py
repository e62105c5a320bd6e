"""What is wrong with a puzzle: one sentence a row, vectorised until a fault is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eqrlab.datasets import maze, sudoku
from eqrlab.datasets.batch_solver import count_solutions
from eqrlab.datasets.tasks import oracle, parse_task, seq_len, vocab_size


def _cell(task: str, wrong: np.ndarray) -> str:
    """Name the first wrong cell of one board (L,)."""
    row, column = divmod(int(np.flatnonzero(wrong)[0]), parse_task(task)[1])
    return f"row {row + 1}, column {column + 1}"


def _explain_puzzle(task: str, puzzle: np.ndarray) -> str:
    if parse_task(task)[0] == "sudoku":
        if (puzzle == sudoku.PAD).any():
            return f"the puzzle has a pad token in {_cell(task, puzzle == sudoku.PAD)}"
        return f"contradictory givens: {sudoku.first_conflict(puzzle)}"
    for token, name in ((maze.PAD, "pad token"), (maze.PATH, "path mark")):
        if (puzzle == token).any():
            return f"the maze has a {name} in {_cell(task, puzzle == token)}"
    for token, name in ((maze.START, "S"), (maze.GOAL, "G")):
        if (puzzle == token).sum() != 1:
            return f"a maze has one {name}, this one has {(puzzle == token).sum()}"
    return "there is no way from S to G"


def _explain_label(task: str, puzzle: np.ndarray, label: np.ndarray) -> str:
    if parse_task(task)[0] == "sudoku":
        moved = (puzzle >= sudoku.FIRST_DIGIT) & (label != puzzle) & (label != sudoku.PAD)
        if moved.any():
            return f"the solution changes the given in {_cell(task, moved)}"
        if (label == sudoku.BLANK).any():
            return f"the solution leaves {_cell(task, label == sudoku.BLANK)} blank"
        return f"the solution is not valid: {sudoku.first_conflict(label)}"
    moved = (label != puzzle) & ~((puzzle == maze.FLOOR) & (label == maze.PATH)) & (label != maze.PAD)
    if moved.any():
        return f"the solution changes the maze in {_cell(task, moved)}"
    steps = int(maze.shortest_path(puzzle)[0][0])
    return (
        f"the solution is no shortest path from S to G: it marks {(label == maze.PATH).sum()} cells, "
        f"a shortest path marks {steps - 1}"
    )


def faults(task: str, inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
    """Find the rows that are no puzzle of the task, or whose solution is wrong.

    Parameters
    ----------
    task
        Task name.
    inputs
        Puzzles, tokens (n, L).
    labels
        Solutions (n, L), or None; cells with token 0 are ignored.

    Returns
    -------
    dict
        Row -> reason, rows ascending.  Whether a puzzle has several solutions is not looked at: see `ambiguous`.

    Raises
    ------
    ValueError
        If the arrays do not have the shape or the tokens of the task.
    """
    limit, length = vocab_size(task), seq_len(task)
    for name, tokens in (("inputs", inputs), ("labels", inputs if labels is None else labels)):
        if tokens.shape != (len(inputs), length):
            raise ValueError(f"{task} takes {name} ({len(inputs)}, {length}), got {tokens.shape}")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= limit):
            raise ValueError(f"{task} has tokens 0 to {limit - 1}, got {tokens.min()} to {tokens.max()}")
    is_sudoku = parse_task(task)[0] == "sudoku"
    bad = (inputs == 0).any(axis=1)
    if is_sudoku:
        bad |= sudoku.conflicts(inputs)
    else:
        bad |= (inputs == maze.PATH).any(axis=1)
        bad |= maze.shortest_path(inputs)[0] < 0
    found = {int(row): _explain_puzzle(task, inputs[row]) for row in np.flatnonzero(bad)}
    if labels is not None:
        ignored = labels == 0
        right = oracle(task)(inputs, labels)
        if ignored.any():
            kept = (labels == inputs) | ignored
            kept |= (inputs == sudoku.BLANK) if is_sudoku else (inputs == maze.FLOOR) & (labels == maze.PATH)
            consistent = kept.all(axis=1)
            if is_sudoku:
                consistent &= ~sudoku.conflicts(labels)
            right = np.where(ignored.any(axis=1), consistent, right)
        for row in np.flatnonzero(~right & ~bad):
            found[int(row)] = _explain_label(task, inputs[row], labels[row])
    return dict(sorted(found.items()))


def solution_faults(
    task: str, inputs: np.ndarray, tick: Callable[[int], object] | None = None
) -> dict[int, str]:
    """Find the puzzles that do not have exactly one solution.

    Parameters
    ----------
    task
        Task name.
    inputs
        Puzzles, tokens (n, L).
    tick
        Called now and then with the number of puzzles that are done.

    Returns
    -------
    dict
        Row -> reason, rows ascending.

    Notes
    -----
    In a maze a solution is a shortest path.  Sudoku is searched for two solutions, up to 0.3 ms a 9x9 in a large set.
    """
    if parse_task(task)[0] == "maze":
        steps, unique = maze.shortest_path(inputs)
        few, many = steps < 0, ~unique
        reasons = ("there is no way from S to G", "there are several shortest paths")
    else:
        count = count_solutions(inputs, 2, tick).count
        few, many = count == 0, count > 1
        reasons = ("the puzzle has no solution", "the puzzle has more than one solution")
    return {int(row): reasons[0] if few[row] else reasons[1] for row in np.flatnonzero(few | many)}


def unsolvable(
    task: str, inputs: np.ndarray, labels: np.ndarray | None, tick: Callable[[int], object] | None = None
) -> np.ndarray:
    """Return the rows whose puzzle has no solution, ascending; a row with a whole solution beside it is not searched.

    Parameters
    ----------
    task, inputs, labels
        Puzzles and their sound solutions, as in `faults`.
    tick
        Called now and then with the number of puzzles that are done.
    """
    open_rows = np.arange(len(inputs)) if labels is None else np.flatnonzero((labels == 0).any(axis=1))
    if not len(open_rows):
        return open_rows
    if parse_task(task)[0] == "maze":
        return open_rows[maze.shortest_path(inputs[open_rows])[0] < 0]
    return open_rows[count_solutions(inputs[open_rows], 1, tick).count == 0]
