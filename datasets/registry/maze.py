"""Mazes of any rectangular size: mark a shortest path from S to G."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from eqrlab.datasets import maze
from eqrlab.datasets.maze import Board
from eqrlab.datasets.registry.family import Family
from eqrlab.datasets.registry.task import Made, Oracle, Solutions, Task, Tick

SIDES = range(5, 100)
_COLOURS = {
    maze.WALL: "var(--wall)",
    maze.START: "var(--start)",
    maze.GOAL: "var(--goal)",
    maze.PATH: "var(--path)",
}


@functools.cache
def maze_task(board: Board) -> Task:
    """Return the task of a field of rows x columns."""
    rows, columns = board
    name = f"maze{rows}" if rows == columns else f"maze{rows}x{columns}"

    def judge(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return maze.maze_oracle(inputs, answers, board)

    def device_augment(device: Any) -> Any:
        from eqrlab.datasets.device_symmetry import maze_symmetries  # loads torch

        return maze_symmetries(board, device)

    def faults(inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
        return _faults(task, inputs, labels)

    def count(inputs: np.ndarray, limit: int, tick: Tick | None = None) -> Solutions:
        steps, unique = maze.shortest_path(inputs, board)
        number = np.where(steps < 0, 0, np.where(unique, 1, 2))
        return Solutions(np.minimum(number, limit), np.ones(len(number), bool))

    def build(
        count: int, difficulty: str | None, seed: int, exclude: Iterable[int], steps: Board | None = None
    ) -> Made:
        return _build(task, count, difficulty, seed, exclude, steps)

    def describe(inputs: np.ndarray) -> dict[str, str]:
        steps, unique = maze.shortest_path(inputs, board)
        span = f"{steps.min():g} to {steps.max():g}, median {np.median(steps):g}"
        return {"steps from S to G": span, "unique path": f"{unique.sum()} of {len(inputs)}"}

    task = Task(
        name=name,
        kind="maze",
        vocab_size=maze.VOCAB_SIZE,
        board=board,
        alphabet=maze.ALPHABET,
        colours=_COLOURS,
        legend="Dark cells are walls, blue ones the path, green the start, orange the goal.",
        oracle=Oracle(name, "maze shortest path", judge, rows * columns),
        augment=functools.partial(maze.augment, board=board),
        device_augment=device_augment,
        prints=functools.partial(maze.fingerprint, board=board),
        faults=faults,
        count=count,
        no_solution="there is no way from S to G",
        several="there are several shortest paths",
        build=build,
        describe=describe,
    )
    return task


def _explain_puzzle(task: Task, puzzle: np.ndarray) -> str:
    for token, name in ((maze.PAD, "pad token"), (maze.PATH, "path mark")):
        if (puzzle == token).any():
            return f"the maze has a {name} in {task.cell(np.flatnonzero(puzzle == token)[0])}"
    for token, name in ((maze.START, "S"), (maze.GOAL, "G")):
        if (puzzle == token).sum() != 1:
            return f"a maze has one {name}, this one has {(puzzle == token).sum()}"
    return "there is no way from S to G"


def _explain_label(task: Task, puzzle: np.ndarray, label: np.ndarray) -> str:
    moved = (label != puzzle) & ~((puzzle == maze.FLOOR) & (label == maze.PATH)) & (label != maze.PAD)
    if moved.any():
        return f"the solution changes the maze in {task.cell(np.flatnonzero(moved)[0])}"
    steps = int(maze.shortest_path(puzzle, task.board)[0][0])
    return (
        f"the solution is no shortest path from S to G: it marks {(label == maze.PATH).sum()} cells, "
        f"a shortest path marks {steps - 1}"
    )


def _faults(task: Task, inputs: np.ndarray, labels: np.ndarray | None) -> dict[int, str]:
    """Find the rows that are no maze, or whose solution is no shortest path; see `Task.faults`."""
    bad = ((inputs == maze.PAD) | (inputs == maze.PATH)).any(axis=1)
    bad |= maze.shortest_path(inputs, task.board)[0] < 0
    found = {int(row): _explain_puzzle(task, inputs[row]) for row in np.flatnonzero(bad)}
    if labels is not None:
        ignored = labels == maze.PAD
        kept = (labels == inputs) | ignored | (inputs == maze.FLOOR) & (labels == maze.PATH)
        right = maze.maze_oracle(inputs, labels, task.board)
        right = np.where(ignored.any(axis=1), kept.all(axis=1), right)
        found |= {
            int(row): _explain_label(task, inputs[row], labels[row]) for row in np.flatnonzero(~right & ~bad)
        }
    return dict(sorted(found.items()))


def _build(
    task: Task, count: int, difficulty: str | None, seed: int, exclude: Iterable[int], steps: Board | None
) -> Made:
    from eqrlab.datasets.maze_generate import generate_mazes

    drawn = list(generate_mazes(task.board, count, difficulty or "unique", seed, exclude, steps=steps))
    tokens = np.array([(one.maze, one.solution) for one in drawn], dtype=np.int64).reshape(
        count, 2, task.seq_len
    )
    columns = {"kind": tuple(one.kind for one in drawn), "steps": tuple(str(one.steps) for one in drawn)}
    return Made(tokens[:, 0], tokens[:, 1], columns)


def _find(name: str) -> Task | None:
    match = re.fullmatch(r"maze([1-9]\d?)(?:x([1-9]\d?))?", name)
    if match is None:
        return None
    board = (int(match[1]), int(match[2] or match[1]))
    return maze_task(board) if all(side in SIDES for side in board) else None


def _of_shape(vocab: int, length: int, board: Board | None) -> Task | None:
    if vocab != maze.VOCAB_SIZE:
        return None
    side = math.isqrt(length)
    if board is None and side * side == length:
        board = (side, side)
    fits = board is not None and board[0] * board[1] == length and all(size in SIDES for size in board)
    return maze_task(board) if fits and board else None


def _of_text(puzzle: str) -> Task | None:
    side = math.isqrt(len(puzzle))
    if "#" in puzzle and side * side == len(puzzle) and side in SIDES:
        return maze_task((side, side))
    return None


FAMILY = Family(
    name="maze",
    names=("maze9", "maze15", "maze21", "maze30"),
    more="maze5 to maze99, maze7x12 tells rows and columns",
    find=_find,
    of_shape=_of_shape,
    of_text=_of_text,
)
