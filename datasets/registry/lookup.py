"""Every task there is: the package's own, and those that other packages add by the entry points `eqrlab.tasks`."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from eqrlab.core import plugins
from eqrlab.core.messages import brief, one_line
from eqrlab.datasets import registry
from eqrlab.datasets.registry import arc, generic, maze, sudoku
from eqrlab.datasets.registry.family import Board, Family, family_of
from eqrlab.datasets.registry.task import Augment, Oracle, Task

GROUP = "eqrlab.tasks"
_FIRST = (sudoku.FAMILY, maze.FAMILY, arc.FAMILY)  # asked before others what a text or a size is


def _own() -> list[Family]:
    """Return what the files of this folder define as FAMILY or TASK, `generic` left out."""
    modules = [
        import_module(f"{registry.__name__}.{file.name}") for file in pkgutil.iter_modules(registry.__path__)
    ]
    found = [family for family in (vars(module).get("FAMILY") for module in modules) if family is not None]
    single = [
        family_of(task) for task in (vars(module).get("TASK") for module in modules) if task is not None
    ]
    return [*_FIRST, *(family for family in (*found, *single) if family not in (*_FIRST, generic.FAMILY))]


@functools.cache
def families() -> tuple[Family, ...]:
    """Return all families, in the order in which they are asked: the package's, those added, and `generic` last.

    Raises
    ------
    ValueError
        If what an entry point names cannot be loaded, is no task, or takes a name that is taken.
    """
    known = _own()
    for entry in plugins.entries(GROUP):
        where = one_line(f"task {entry.name!r} of {plugins.origin(entry)}: {entry.value}", 300)
        found = plugins.imported(entry, "task")
        if not isinstance(found, Task | Family) and callable(found):
            found = found()
        if isinstance(found, Task):
            found = family_of(found)
        if not isinstance(found, Family):
            raise ValueError(f"{where} must be a Task or a Family, got {brief(found)}")
        for name in found.names:
            if any(other.find(name) for other in (*known, generic.FAMILY)):
                raise ValueError(f"{where} adds the task {brief(name)}, which there is already")
        known.append(found)
    return (*known, generic.FAMILY)


def tasks() -> tuple[str, ...]:
    """Return the names of tasks; of families with sizes without end, some members.

    Examples
    --------
    >>> from eqrlab.datasets import tasks
    >>> "sudoku9" in tasks() and "generic" in tasks()
    True
    """
    return tuple(name for family in families() for name in family.names)


@functools.lru_cache(maxsize=256)  # asked once a line of a file
def task(name: str) -> Task:
    """Return the task of a name.

    Raises
    ------
    ValueError
        If there is none, with the list.

    Examples
    --------
    >>> task("sudoku6").board
    (6, 6)
    """
    for family in families():
        found = family.find(name)
        if found is not None:
            return found
    more = "; ".join(family.more for family in families() if family.more)
    raise ValueError(f"task {brief(name)} unknown; choose from {', '.join(tasks())} ({more})")


def known_task(system: Any) -> Task | None:
    """Return the task that a system names, None where it names none that is known, such as a user's own map."""
    try:
        return task(str(getattr(system, "task", "unknown")))
    except ValueError:
        return None


def task_of_shape(vocab: int, length: int, board: Board | None = None) -> Task:
    """Return the task that a vocabulary, a number of cells and, where it is known, a board stand for.

    Notes
    -----
    The first family that knows such a task; `generic` knows all.
    """
    for family in families() if min(vocab, length) > 0 else ():
        found = family.of_shape(vocab, length, board)
        if found is not None:
            return found
    raise ValueError(f"no task has {vocab} tokens on {length} cells")


def task_of(vocab: int, length: int) -> str:
    """Return the name of the task that a vocabulary size and a number of cells stand for; see `task_of_shape`.

    Examples
    --------
    >>> task_of(11, 81), task_of(8, 56)
    ('sudoku9', 'generic-56-v8')
    """
    return task_of_shape(vocab, length).name


def task_of_text(puzzle: str) -> Task | None:
    """Return the task that a row of characters looks like, None where it looks like none."""
    return next((found for family in families() if (found := family.of_text(puzzle)) is not None), None)


def vocab_size(name: str) -> int:
    """Return the number of tokens V of a task, pad included."""
    return task(name).vocab_size


def seq_len(name: str) -> int:
    """Return the number of cells L of a task."""
    return task(name).seq_len


def board(name: str) -> tuple[int, int]:
    """Return the rows and columns of a task's board."""
    return task(name).board


def render(name: str, tokens: np.ndarray) -> list[str]:
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
    return task(name).render(tokens)


def oracle(name: str) -> Oracle | None:
    """Return the oracle of a task (validity in Sudoku, a shortest path in mazes), None where labels are needed."""
    return task(name).oracle


def _symmetries(name: str, field: str) -> Callable[..., Any]:
    found = getattr(task(name), field)
    if found is None:
        raise ValueError(f"symmetries are not known for the task {name}")
    return found


def augmentation(name: str) -> Augment:
    """Return `augment(inputs, labels, rng)` of a task, which disguises every row by its own random symmetry.

    Raises
    ------
    ValueError
        If the task has no symmetries.
    """
    return _symmetries(name, "augment")


def device_augmentation(name: str, device: Any = "cpu") -> Callable:
    """Return `augment(inputs, labels, generator)` of a task on tensors of a device; see `augmentation`.

    Raises
    ------
    ValueError
        If there is no such task, or it has no symmetries.
    """
    return _symmetries(name, "device_augment")(device)


def fingerprint(name: str, tokens: np.ndarray) -> np.ndarray:
    """Return one uint64 a puzzle (n, L) that all disguises of the puzzle share; see `symmetry.fingerprint`."""
    return task(name).fingerprint(tokens)
