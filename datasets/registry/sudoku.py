"""Sudoku of any box shape, up to 25 x 25."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from eqrlab.datasets import sudoku, symmetry
from eqrlab.datasets.registry.family import Board, Family
from eqrlab.datasets.registry.task import Made, Oracle, Solutions, Task, Tick
from eqrlab.datasets.sudoku import Geometry, geometry

PROOF_SECONDS = 60.0  # for the puzzles of a set, on boards that may take for ever
ALWAYS_PROVED = 9  # side up to which no puzzle takes long


def sudoku_task(side: int, box: Board | None = None) -> Task:
    """Return the task of a side and a box shape, by default the usual one; `sudoku6` has boxes of 2 rows x 3 columns.

    Raises
    ------
    ValueError
        If there are no such boards.
    """
    return _of_geometry(geometry(side, box))


@functools.cache
def _of_geometry(board: Geometry) -> Task:
    """Return the task of a geometry."""
    side, shape = board.side, (board.box_rows, board.box_columns)
    name = f"sudoku{side}" if board == geometry(side) else f"sudoku{side}-{shape[0]}x{shape[1]}"
    digits = sudoku.DIGITS[:side]
    seconds = math.inf if side <= ALWAYS_PROVED else PROOF_SECONDS

    def judge(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return sudoku.sudoku_oracle(inputs, answers, board)

    def device_augment(device: Any) -> Any:
        from eqrlab.datasets.device_symmetry import sudoku_symmetries  # loads torch

        return sudoku_symmetries(board, device)

    def faults(inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
        return _faults(task, board, inputs, labels)

    def count(inputs: np.ndarray, limit: int, tick: Tick | None = None) -> Solutions:
        from eqrlab.datasets.batch_solver import count_solutions

        return count_solutions(inputs, limit, tick, board=board, seconds=seconds)

    def build(
        count: int,
        difficulty: str | None,
        seed: int,
        exclude: Iterable[int],
        first: int = 0,
        workers: int = 1,
    ) -> Made:
        return _build(task, board, count, difficulty, seed, exclude, first, workers)

    task = Task(
        name=name,
        kind="sudoku",
        vocab_size=board.vocab_size,
        board=(side, side),
        alphabet="." + digits,
        spelt={"0": sudoku.BLANK}
        | {d.lower(): sudoku.FIRST_DIGIT + k for k, d in enumerate(digits) if d.isalpha()},
        numbers_from=sudoku.BLANK,
        symbols=("?", ".", *digits),
        boxes=shape,
        variants=tuple(f"sudoku{side}-{rows}x{columns}" for rows, columns in sudoku.boxes_of(side)[1:]),
        blank=sudoku.BLANK,
        oracle=Oracle(name, "sudoku validity", judge, board.cells),
        clues=functools.partial(sudoku.legal_clues, board=board),
        augment=functools.partial(symmetry.augment, board=board),
        device_augment=device_augment,
        prints=functools.partial(symmetry.fingerprint, board=board),
        faults=faults,
        count=count,
        build=build,
    )
    return task


def _explain_puzzle(task: Task, board: Geometry, puzzle: np.ndarray) -> str:
    if (puzzle == sudoku.PAD).any():
        return f"the puzzle has a pad token in {task.cell(np.flatnonzero(puzzle == sudoku.PAD)[0])}"
    return f"contradictory givens: {sudoku.first_conflict(puzzle, board)}"


def _explain_label(task: Task, board: Geometry, puzzle: np.ndarray, label: np.ndarray) -> str:
    moved = (puzzle >= sudoku.FIRST_DIGIT) & (label != puzzle) & (label != sudoku.PAD)
    if moved.any():
        return f"the solution changes the given in {task.cell(np.flatnonzero(moved)[0])}"
    if (label == sudoku.BLANK).any():
        return f"the solution leaves {task.cell(np.flatnonzero(label == sudoku.BLANK)[0])} blank"
    return f"the solution is not valid: {sudoku.first_conflict(label, board)}"


def _faults(task: Task, board: Geometry, inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
    """Find the rows that are no puzzle, or whose solution is wrong; see `Task.faults`."""
    bad = (inputs == sudoku.PAD).any(axis=1) | sudoku.conflicts(inputs, board)
    found = {int(row): _explain_puzzle(task, board, inputs[row]) for row in np.flatnonzero(bad)}
    if labels is not None:
        ignored = labels == sudoku.PAD
        right = sudoku.sudoku_oracle(inputs, labels, board)
        if ignored.any():
            kept = ((labels == inputs) | ignored | (inputs == sudoku.BLANK)).all(axis=1)
            right = np.where(ignored.any(axis=1), kept & ~sudoku.conflicts(labels, board), right)
        for row in np.flatnonzero(~right & ~bad):
            found[int(row)] = _explain_label(task, board, inputs[row], labels[row])
    return dict(sorted(found.items()))


def _build(
    task: Task,
    board: Geometry,
    count: int,
    difficulty: str | None,
    seed: int,
    exclude: Iterable[int],
    first: int,
    workers: int,
) -> Made:
    from eqrlab.datasets.generate import generate
    from eqrlab.datasets.hardest import NAME, generate_hardest

    if difficulty == NAME:
        if task.name != "sudoku9":
            raise ValueError(f"{NAME} puzzles are 9x9, {task.name} has none")
        made = list(generate_hardest(count, seed, exclude, first=first, workers=workers))
    elif (first, workers) != (0, 1):
        raise ValueError(f"first and workers are options of {NAME} puzzles")
    else:
        made = list(generate(board, count, difficulty or "mixed", seed, exclude))
    tokens = np.array([(one.puzzle, one.solution) for one in made], dtype=np.int64).reshape(
        count, 2, task.seq_len
    )
    columns = {
        "difficulty": tuple(one.difficulty for one in made),
        "guesses": tuple(str(one.guesses) for one in made),
        "clues": tuple(str(one.clues) for one in made),
    }
    return Made(tokens[:, 0], tokens[:, 1], columns)


def _find(name: str) -> Task | None:
    match = re.fullmatch(r"sudoku([1-9]\d?)(?:-([1-9]\d?)x([1-9]\d?))?", name)
    if match is None:
        return None
    side, box = int(match[1]), (int(match[2]), int(match[3])) if match[2] else None
    shapes = sudoku.boxes_of(side)
    return sudoku_task(side, box) if shapes and box in (None, *shapes) else None


def _of_shape(vocab: int, length: int, board: Board | None) -> Task | None:
    side = math.isqrt(length)
    fits = side * side == length and vocab == side + sudoku.FIRST_DIGIT and sudoku.boxes_of(side)
    return sudoku_task(side) if fits and board in (None, (side, side)) else None


def _of_text(puzzle: str) -> Task | None:
    side = math.isqrt(len(puzzle))
    if side * side == len(puzzle) and sudoku.boxes_of(side) and "#" not in puzzle:
        return sudoku_task(side)
    return None


FAMILY = Family(
    name="sudoku",
    names=("sudoku4", "sudoku6", "sudoku6-3x2", "sudoku9", "sudoku12", "sudoku16", "sudoku25"),
    more="sudoku8-2x4 tells the rows and columns of a box, N up to 25",
    find=_find,
    of_shape=_of_shape,
    of_text=_of_text,
)
