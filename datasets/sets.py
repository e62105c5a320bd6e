"""Build a set of puzzles of any task from a seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.lookup import tasks


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
        "sudoku4" to "sudoku25", with any boxes ("sudoku6-3x2"), "maze7" to "maze30", "maze9x14", or a task that another
        package has added with a generator.
    count
        How many; the first k do not depend on it.
    difficulty
        Sudoku: easy, medium, hard, extreme, or a mix, see `generate.generate`; default "mixed"; or, for 9x9, "hardest",
        see `hardest.generate_hardest`.  Mazes: "unique"
        (default) or "several", see `maze_generate.generate_mazes`.
    seed
        Of every random choice.
    exclude
        Fingerprints (see `fingerprint`) that must not come up, e.g. those of a training set.
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
    known = task_named(task)
    if known.build is None:
        raise ValueError(
            f"puzzles of the task {task} are not generated here; there are {', '.join(generated())}"
        )
    options = {"steps": steps, "first": first, "workers": workers}
    unused = {"steps": None, "first": 0, "workers": 1}
    given = {name: value for name, value in options.items() if value != unused[name]}
    foreign = set(given) - set(inspect.signature(known.build).parameters)
    if foreign:
        raise ValueError(f"{task} puzzles are generated without {' and '.join(sorted(foreign))}")
    made = known.build(count, difficulty, seed, exclude, **given)
    return PuzzleSet(made.inputs, made.labels, known.name, made.columns, f"{known.name}, seed {seed}")


def generated() -> tuple[str, ...]:
    """Return the listed tasks whose puzzles can be generated."""
    return tuple(name for name in tasks() if task_named(name).build is not None)
