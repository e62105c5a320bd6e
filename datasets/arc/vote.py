"""The official vote on ARC: answers to all disguises of a test, in the task's own frame, ranked by how many gave them.

References
----------
The evaluators of the TRM and URM repositories, and the notebook of HRM's, which counts a task only with all its tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eqrlab.datasets.arc.disguise import disguise_of
from eqrlab.datasets.arc.grids import crop

Grid = np.ndarray
ATTEMPTS = 2  # answers to a test that a submission holds


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An answer to a test: its grid (r, c) in the frame of the task, how many voted for it, and their mean certainty.

    `halt` is the mean halting probability of those votes, which decides between equal numbers of them.
    """

    grid: Grid
    votes: int
    halt: float
    correct: bool


@dataclasses.dataclass(frozen=True)
class Case:
    """A test of a task.

    Attributes
    ----------
    task, number
        Name of the task, and the number of the test among the task's.
    target
        The right answer, None where it is not known.
    rows
        Rows of the puzzles that show it, in some disguise.
    """

    task: str
    number: int
    target: Grid | None
    rows: np.ndarray


def _key(grid: Grid) -> tuple[tuple[int, ...], bytes]:
    return grid.shape, np.ascontiguousarray(grid, np.uint8).tobytes()


def undone(boards: np.ndarray, names: Sequence[str]) -> list[Grid]:
    """Return the grids that boards (n, 900) show, disguises undone that the names (n,) of their identifiers tell."""
    disguises = {name: disguise_of(name) for name in set(names)}
    return [disguises[name].undo(crop(board)) for board, name in zip(boards, names, strict=True)]


def cases_of(
    inputs: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str],
    tests: Mapping[str, Any] | None = None,
) -> list[Case]:
    """Return the tests that puzzles show, those of a task together.

    Parameters
    ----------
    inputs, labels
        Boards (P, 900); the grid at the top left corner, as in the test split of an official folder.
    names
        Of the identifiers of the puzzles, (P,).
    tests
        Tests of the tasks, name -> {"test": [{"input", "output"}]} as in test_puzzles.json: all tests of the tasks
        that some puzzle is of then count, also those that no puzzle shows.  None: those that puzzles show.

    Raises
    ------
    ValueError
        For a puzzle whose grid is elsewhere on its board (as in training splits), naming the row, or that shows none of
        the tests of its task.
    """
    found: dict[str, dict[Any, tuple[Grid | None, list[int]]]] = {}
    grids = undone(inputs, names)
    targets = None if labels is None else undone(labels, names)
    for row, (grid, name) in enumerate(zip(grids, names, strict=True)):
        task = disguise_of(name).task
        if not grid.size:
            raise ValueError(
                f"puzzle {row} ({name}): its grid is not at the top left corner of the board; the vote is on puzzles "
                "of the test split"
            )
        if tests is not None and task not in found:
            if task not in tests:
                raise ValueError(f"puzzle {row}: the task {task!r} is not in test_puzzles.json")
            known = [
                (np.array(t["input"], np.uint8), np.array(t["output"], np.uint8)) for t in tests[task]["test"]
            ]
            found[task] = {_key(given): (wanted, []) for given, wanted in known}
        here = found.setdefault(task, {})
        if _key(grid) not in here:
            if tests is not None:
                raise ValueError(
                    f"puzzle {row} ({name}): shows none of the tests of {task!r} in test_puzzles.json"
                )
            wanted = None if targets is None or not targets[row].size else targets[row]
            here[_key(grid)] = (wanted, [])
        here[_key(grid)][1].append(row)
    return [
        Case(task, number, target, np.array(rows, int))
        for task, cases in found.items()
        for number, (target, rows) in enumerate(cases.values())
    ]


def vote(case: Case, answers: np.ndarray, halt: np.ndarray, names: Sequence[str]) -> list[Candidate]:
    """Rank the answers to a test.

    Parameters
    ----------
    answers
        Boards (P, 900) or, of several runs of each puzzle, (P, R, 900).
    halt
        Halting probabilities, (P,) or (P, R).
    names
        Of the identifiers of the puzzles, (P,).

    Returns
    -------
    list
        Different grids, by votes, then by mean halting probability, then in the order in which they came.
    """
    many = int(np.prod(np.shape(halt)[1:]))
    boards = answers[case.rows].reshape(len(case.rows), many, answers.shape[-1])
    weight = np.asarray(halt, np.float64)[case.rows].reshape(boards.shape[:2])
    shown = np.repeat([names[row] for row in case.rows], boards.shape[1]).tolist()
    grids = undone(boards.reshape(-1, boards.shape[-1]), shown)
    seen: dict[Any, tuple[Grid, list[float]]] = {}
    for grid, chance in zip(grids, weight.reshape(-1).tolist(), strict=True):
        seen.setdefault(_key(grid), (grid, []))[1].append(chance)
    right = None if case.target is None else _key(case.target)
    ranked = [Candidate(grid, len(w), sum(w) / len(w), key == right) for key, (grid, w) in seen.items()]
    return sorted(ranked, key=lambda c: (c.votes, c.halt), reverse=True)  # stable, also in reverse


def pass_at(
    cases: Sequence[Case], ranked: Sequence[Sequence[Candidate]], k: int, *, all_tests: bool = False
) -> dict[str, float]:
    """Return for each task the share of its tests with a right answer among the first k.

    Parameters
    ----------
    all_tests
        Count a task only when all its tests have one: 1 or 0.
    """
    hits: dict[str, list[bool]] = {}
    for case, candidates in zip(cases, ranked, strict=True):
        hits.setdefault(case.task, []).append(any(c.correct for c in candidates[:k]))
    return {task: float(all(found)) if all_tests else sum(found) / len(found) for task, found in hits.items()}


def submission(
    cases: Sequence[Case], ranked: Sequence[Sequence[Candidate]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the first two answers to each test as ARC Prize takes them; a test without answers is left out.

    A test with one answer has it twice.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for case, candidates in zip(cases, ranked, strict=True):
        tests = found.setdefault(case.task, [])
        if candidates:
            best = [candidates[min(k, len(candidates) - 1)] for k in range(ATTEMPTS)]
            tests.append({f"attempt_{k + 1}": c.grid.tolist() for k, c in enumerate(best)})
    return found
