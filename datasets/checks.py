"""Faults in puzzles of a task: one sentence per row."""

from __future__ import annotations

import numpy as np

from eqrlab.core.labels import ZERO
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.task import Tick


def faults(task: str, inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
    """Find the rows that are not puzzles of the task, or whose solution is wrong.

    Parameters
    ----------
    task
        Task name.
    inputs
        Puzzles, tokens (n, L).
    labels
        Solutions (n, L), or None; cells with label 0 are ignored, -1 is a token 0.

    Returns
    -------
    dict
        Row -> reason, rows ascending.  Whether a puzzle has several solutions is not checked: see `uniqueness`.

    Raises
    ------
    ValueError
        If the arrays do not have the shape or the tokens of the task.
    """
    known = task_named(task)
    limit, length = known.vocab_size, known.seq_len
    for name, tokens in (("inputs", inputs), ("labels", inputs if labels is None else labels)):
        if tokens.shape != (len(inputs), length):
            raise ValueError(f"{task} takes {name} ({len(inputs)}, {length}), got {tokens.shape}")
        least = 0 if tokens is inputs else ZERO
        if tokens.size and (tokens.min() < least or tokens.max() >= limit):
            raise ValueError(f"{task} has tokens 0 to {limit - 1}, got {tokens.min()} to {tokens.max()}")
    if labels is not None and known.alphabet and (labels == ZERO).any():  # token 0 is the pad, and no answer
        rows = np.flatnonzero((labels == ZERO).any(axis=1))
        return {int(row): "the solution has token 0, the pad, in a cell that counts" for row in rows}
    found = {} if known.faults is None else known.faults(inputs, labels)
    return dict(sorted((found | without_solution(labels)).items()))


def without_solution(labels: np.ndarray | None) -> dict[int, str]:
    """Return the rows of solutions (n, L) in which no cell counts, if there are others: no answer could be right."""
    lacking = np.zeros(0, bool) if labels is None or not labels.any() else ~labels.any(axis=1)
    return {int(row): "no solution here, but other puzzles have one" for row in np.flatnonzero(lacking)}


def best_fit(
    task: str, inputs: np.ndarray, labels: np.ndarray | None, asked: bool
) -> tuple[str, dict[int, str]]:
    """Return the task to which puzzles belong, and their faults.

    Parameters
    ----------
    task, inputs, labels
        As in `faults`.
    asked
        Whether this task was requested.  If not, and some rows do not belong to it, a variant to which all rows
        belong is used: Sudoku with other boxes.
    """
    reasons = faults(task, inputs, labels)
    for other in () if asked or not reasons else task_named(task).variants:
        if not faults(other, inputs, labels):
            return other, {}
    return task, reasons


def uniqueness(task: str, inputs: np.ndarray, tick: Tick | None = None) -> tuple[dict[int, str], np.ndarray]:
    """Find the puzzles that do not have exactly one solution, and those for which this is unknown.

    Parameters
    ----------
    task, inputs
        As in `faults`.
    tick
        Called now and then with the number of puzzles that are done.

    Returns
    -------
    tuple
        Row -> reason, rows ascending; and the rows (k,) where nothing was proved: all of them where the task has no
        solver, those that take too long on large boards.

    Notes
    -----
    In a maze a solution is a shortest path.  Sudoku is searched for two solutions, up to 0.3 ms a 9x9 in a large set;
    on boards of more than 9 digits the search of all puzzles ends after `registry.sudoku.PROOF_SECONDS`.
    """
    known = task_named(task)
    if known.count is None:
        return {}, np.arange(len(inputs))
    found = known.count(inputs, 2, tick)
    few, many = found.proved & (found.count == 0), found.count > 1
    reasons = {
        int(row): known.no_solution if few[row] else known.several for row in np.flatnonzero(few | many)
    }
    return reasons, np.flatnonzero(~found.proved)


def unsolvable(
    task: str, inputs: np.ndarray, labels: np.ndarray | None, tick: Tick | None = None
) -> np.ndarray:
    """Return the rows whose puzzle has no solution, ascending; a row with a whole solution beside it is not searched.

    Parameters
    ----------
    task, inputs, labels
        Puzzles and their sound solutions, as in `faults`.
    tick
        Called now and then with the number of puzzles that are done.

    Notes
    -----
    Puzzles of a task without a solver, and puzzles that take too long, are not reported.
    """
    known = task_named(task)
    open_rows = np.arange(len(inputs)) if labels is None else np.flatnonzero((labels == 0).any(axis=1))
    if known.count is None or not len(open_rows):
        return open_rows[:0]
    found = known.count(inputs[open_rows], 1, tick)
    return open_rows[found.proved & (found.count == 0)]
