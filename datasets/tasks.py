"""What a task name stands for: board, tokens, characters, oracle, symmetries, display."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from eqrlab.datasets import maze, sudoku, symmetry

Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
SUDOKU_SIDES = (4, 6, 9)
MAZE_SIDES = range(5, 100)


@functools.cache  # asked once a line of a file
def parse_task(task: str) -> tuple[str, int]:
    """Split a task name into its kind, "sudoku" or "maze", and the side of its board.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    match = re.fullmatch(r"(sudoku|maze)([1-9][0-9]?)", task)
    if match is not None:
        kind, side = match[1], int(match[2])
        if side in (SUDOKU_SIDES if kind == "sudoku" else MAZE_SIDES):
            return kind, side
    raise ValueError(f"task {task!r} unknown; choose from sudoku4, sudoku6, sudoku9, maze5 to maze99")


def task_of(vocab: int, length: int) -> str:
    """Name the task that a vocabulary size and a number of cells stand for.

    Raises
    ------
    ValueError
        If no task has them.
    """
    side = math.isqrt(length) if length > 0 else 0
    if side * side == length:
        if side in SUDOKU_SIDES and vocab == side + sudoku.FIRST_DIGIT:
            return f"sudoku{side}"
        if side in MAZE_SIDES and vocab == maze.VOCAB_SIZE:
            return f"maze{side}"
        if vocab == side + sudoku.FIRST_DIGIT:
            raise ValueError(unsupported_sudoku(side))
    raise ValueError(
        f"no task has {vocab} tokens on {length} cells; "
        "Sudoku has N + 2 on N * N cells (N = 4, 6, 9), a maze 6 on side * side"
    )


def unsupported_sudoku(side: int) -> str:
    """Say that there is no Sudoku of this side here."""
    return f"{side}x{side} Sudoku is not supported (4x4, 6x6, 9x9 are)"


def vocab_size(task: str) -> int:
    """Return the number of tokens V of a task, pad included."""
    kind, side = parse_task(task)
    return side + sudoku.FIRST_DIGIT if kind == "sudoku" else maze.VOCAB_SIZE


def seq_len(task: str) -> int:
    """Return the number of cells L of a task."""
    return parse_task(task)[1] ** 2


def board(task: str) -> tuple[int, int]:
    """Return the rows and columns of a task's board."""
    side = parse_task(task)[1]
    return side, side


def alphabet(task: str) -> str:
    """Return the characters of tokens 1 to V - 1, in order."""
    kind, side = parse_task(task)
    return "." + "123456789"[:side] if kind == "sudoku" else maze.ALPHABET


@functools.cache
def codes(task: str) -> dict[str, int]:
    """Return the characters of a file and the tokens they stand for; in Sudoku `0` is blank too."""
    found = {letter: token for token, letter in enumerate(alphabet(task), start=1)}
    return found | ({"0": sudoku.BLANK} if parse_task(task)[0] == "sudoku" else {})


def encode(task: str, text: str) -> np.ndarray:
    """Read one row of characters as tokens (L,) int64; `0` counts as blank in Sudoku.

    Raises
    ------
    ValueError
        If the number of characters is wrong or one of them is illegal, with its place.
    """
    _, side = parse_task(task)
    if len(text) != side * side:
        raise ValueError(f"{task} has {side * side} characters, got {len(text)}")
    letters = codes(task)
    for place, letter in enumerate(text):
        if letter not in letters:
            row, column = divmod(place, side)
            raise ValueError(
                f"illegal character {letter!r} in row {row + 1}, column {column + 1} "
                f"({task} knows {''.join(letters)!r})"
            )
    return np.array([letters[letter] for letter in text], dtype=np.int64)


def decode(task: str, tokens: np.ndarray) -> str:
    """Write tokens (L,) as characters, row-major; pad and foreign tokens become `?`."""
    letters = alphabet(task)
    return "".join(letters[t - 1] if 1 <= t <= len(letters) else "?" for t in np.asarray(tokens).tolist())


def render(task: str, tokens: np.ndarray) -> list[str]:
    """Write a board (L,) as text rows for display, with boxes set apart in Sudoku.

    Examples
    --------
    >>> import numpy as np
    >>> print("\\n".join(render("sudoku4", np.array([2, 1, 1, 5] + 12 * [1]))))
    1 . | . 4
    . . | . .
    ----+----
    . . | . .
    . . | . .
    """
    kind, side = parse_task(task)
    text = decode(task, tokens)
    lines = [text[start : start + side] for start in range(0, side * side, side)]
    if kind == "maze":
        return lines
    shape = sudoku.geometry(side)
    rows = []
    for number, line in enumerate(lines):
        if number and number % shape.box_rows == 0:
            rule = "-" * (2 * shape.box_columns)
            stacks = side // shape.box_columns
            rows.append("+".join([rule] + ["-" + rule] * (stacks - 2) + [rule]))
        parts = [line[k : k + shape.box_columns] for k in range(0, side, shape.box_columns)]
        rows.append(" | ".join(" ".join(part) for part in parts))
    return rows


def _as_numpy(tokens: Any) -> np.ndarray:
    """Turn a NumPy array or a torch tensor on any device into an array, without importing torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tokens, torch.Tensor):
        return tokens.detach().cpu().numpy()
    return np.asarray(tokens)


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Decide whether answers are right, without labels.

    Attributes
    ----------
    task
        What it judges.
    name
        What to record, e.g. "sudoku validity".
    """

    task: str
    name: str

    def __call__(self, inputs: Any, answers: Any) -> np.ndarray:
        """Judge answers (n, L) to inputs (n, L), arrays or tensors of integers: bool (n,).

        Raises
        ------
        ValueError
            If the shapes differ or are not those of the task.
        """
        inputs, answers = _as_numpy(inputs), _as_numpy(answers)
        length = seq_len(self.task)
        if inputs.ndim != 2 or inputs.shape[1] != length:
            raise ValueError(f"{self.task} takes inputs (n, {length}), got {inputs.shape}")
        judge = sudoku.sudoku_oracle if parse_task(self.task)[0] == "sudoku" else maze.maze_oracle
        return judge(inputs, answers)


def oracle(task: str) -> Oracle:
    """Return the oracle of a task: validity in Sudoku, a shortest path in mazes."""
    kind, _ = parse_task(task)
    return Oracle(task, "sudoku validity" if kind == "sudoku" else "maze shortest path")


def augmentation(task: str) -> Augment:
    """Return `augment(inputs, labels, rng)` of a task, which disguises every row by its own random symmetry."""
    kind, _ = parse_task(task)
    return symmetry.augment if kind == "sudoku" else maze.augment


def fingerprint(task: str, tokens: np.ndarray) -> np.ndarray:
    """Return one uint64 a puzzle (n, L) that all disguises of the puzzle share; see `symmetry.fingerprint`."""
    kind, _ = parse_task(task)
    return symmetry.fingerprint(tokens) if kind == "sudoku" else maze.fingerprint(tokens)
