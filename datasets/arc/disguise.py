"""Disguises of ARC tasks: a symmetry of the board and a permutation of colours, told by the name of an identifier."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

SYMMETRIES = 8
_INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
_NAMED = (
    re.compile(r"(.*)\|\|\|t(\d)\|\|\|(\d{10})"),
    re.compile(r"(.*)_t(\d)_(\d{10})"),
)  # TRM and URM; HRM


def turned(grid: np.ndarray, symmetry: int) -> np.ndarray:
    """Return a grid (r, c) under one of the eight symmetries of the square.

    0 leaves it; 1, 2, 3 turn it counter-clockwise so many times; 4 swaps left and right, 5 up and down; 6 transposes,
    7 transposes at the other diagonal.
    """
    if symmetry < 4:
        return np.rot90(grid, symmetry)
    if symmetry < 6:
        return grid[:, ::-1] if symmetry == 4 else grid[::-1]
    return grid.T if symmetry == 6 else np.rot90(grid)[:, ::-1]


class Disguise(NamedTuple):
    """How a task is shown to a model.

    Attributes
    ----------
    task
        Name of the task.
    symmetry
        Of the board, see `turned`.
    colours
        Colour i of the task is shown as colour `colours[i]`.
    """

    task: str
    symmetry: int = 0
    colours: tuple[int, ...] = tuple(range(10))

    def apply(self, grid: np.ndarray) -> np.ndarray:
        """Return a grid (r, c) of colours as the model is shown it: first the colours, then the board."""
        return turned(np.array(self.colours, dtype=np.uint8)[grid], self.symmetry)

    def undo(self, grid: np.ndarray) -> np.ndarray:
        """Return a grid (r, c) of colours that a model was shown, or gave, as one of the task."""
        return np.argsort(self.colours).astype(np.uint8)[turned(grid, _INVERSE[self.symmetry])]


def disguise_of(name: str) -> Disguise:
    """Return the disguise that the name of an identifier tells; one that tells none is the task itself.

    Parameters
    ----------
    name
        `<task>|||t<symmetry>|||<10 digits>` as TRM and URM write it, `<task>_t<symmetry>_<10 digits>` as HRM does.

    Raises
    ------
    ValueError
        For a symmetry or digits that are none.

    Examples
    --------
    >>> disguise_of("0d3d703e|||t4|||0481963275").symmetry, disguise_of("0d3d703e").task
    (4, '0d3d703e')
    >>> grid = np.array([[1, 2], [0, 3]])
    >>> shown = disguise_of("a_t1_0213456789")
    >>> shown.undo(shown.apply(grid)).tolist()
    [[1, 2], [0, 3]]
    """
    match = next(filter(None, (form.fullmatch(name) for form in _NAMED)), None)
    if match is None:
        return Disguise(name)
    symmetry, colours = int(match[2]), tuple(map(int, match[3]))
    if symmetry >= SYMMETRIES or sorted(colours) != list(range(10)):
        raise ValueError(
            f"identifier {name[:80]!r} tells no disguise: t0 to t7 and each of the digits 0 to 9 once are required"
        )
    return Disguise(match[1], symmetry, colours)
