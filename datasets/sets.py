"""Build a set of puzzles of any task from a seed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from eqrlab.datasets.generate import generate
from eqrlab.datasets.hardest import NAME as HARDEST
from eqrlab.datasets.hardest import generate_hardest
from eqrlab.datasets.maze_generate import generate_mazes
from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.tasks import parse_task


def build(
    task: str,
    count: int,
    difficulty: str | None = None,
    seed: int = 0,
    exclude: Iterable[int] = (),
    *,
    steps: tuple[int, int] | None = None,
    first: int = 0,
    workers: int = 1,
) -> PuzzleSet:
    """Generate a set of puzzles, no two of them equivalent under the symmetries of the task.

    Parameters
    ----------
    task
        "sudoku4", "sudoku6", "sudoku9", "maze7" to "maze30".
    count
        How many; the first k do not depend on it.
    difficulty
        Sudoku: easy, medium, hard, extreme, or a mix, see `generate.generate`; default "mixed"; or, for 9x9, "hardest",
        see `hardest.generate_hardest`.  Mazes: "unique"
        (default) or "several", see `maze_generate.generate_mazes`.
    seed
        Of every random choice.
    exclude
        Fingerprints (see `tasks.fingerprint`) that must not come up, e.g. those of a training set.
    steps
        Fewest and most steps from S to G, for mazes only.
    first, workers
        Of "hardest" only: puzzles of the sequence to leave out (so that a set can be made in parts), and processes.

    Returns
    -------
    PuzzleSet
        With labels; Sudoku with the columns `difficulty`, `guesses`, `clues`, mazes with `kind`, `steps`.

    Raises
    ------
    ValueError
        If an argument is out of range or such puzzles do not turn up.

    Examples
    --------
    >>> from eqrlab.datasets import build
    >>> build("sudoku4", 3, "easy", seed=1).columns["guesses"]
    ('0', '0', '0')
    """
    kind, side = parse_task(task)
    columns: dict[str, tuple[str, ...]]
    if kind == "sudoku":
        if steps is not None:
            raise ValueError(f"steps is an option of mazes, {task} has none")
        if difficulty == HARDEST:
            if side != 9:
                raise ValueError(f"{HARDEST} puzzles are 9x9, {task} has none")
            made = list(generate_hardest(count, seed, exclude, first=first, workers=workers))
        elif (first, workers) != (0, 1):
            raise ValueError(f"first and workers are options of {HARDEST} puzzles")
        else:
            made = list(generate(side, count, difficulty or "mixed", seed, exclude))
        rows = [(one.puzzle, one.solution) for one in made]
        columns = {
            "difficulty": tuple(one.difficulty for one in made),
            "guesses": tuple(str(one.guesses) for one in made),
            "clues": tuple(str(one.clues) for one in made),
        }
    elif (first, workers) != (0, 1):
        raise ValueError(f"first and workers are options of {HARDEST} Sudoku puzzles, {task} has none")
    else:
        drawn = list(generate_mazes(side, count, difficulty or "unique", seed, exclude, steps=steps))
        rows = [(one.maze, one.solution) for one in drawn]
        columns = {
            "kind": tuple(one.kind for one in drawn),
            "steps": tuple(str(one.steps) for one in drawn),
        }
    tokens = np.array(rows, dtype=np.int64).reshape(count, 2, side * side)
    return PuzzleSet(tokens[:, 0], tokens[:, 1], task, columns, f"{task}, seed {seed}")
