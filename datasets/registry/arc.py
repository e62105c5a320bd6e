"""ARC-AGI: grids of up to 30 x 30 cells in ten colours, as HRM, TRM and URM lay them out."""

from __future__ import annotations

import functools

import numpy as np

from eqrlab.datasets.registry.family import family_of
from eqrlab.datasets.registry.task import Task

SIDE = 30
PAD, END, FIRST_COLOUR = 0, 1, 2
COLOURS = 10
# Colours 0 to 9 as the benchmark's own pages show them: black, blue, red, green, yellow, grey, magenta, orange, sky,
# maroon; the end marks around a grid in a tone of their own.
PALETTE = (
    "#000000",
    "#0074d9",
    "#ff4136",
    "#2ecc40",
    "#ffdc00",
    "#aaaaaa",
    "#f012be",
    "#ff851b",
    "#7fdbff",
    "#870c25",
)
MARK = "#d9cfe8"


def crop_sizes(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (n,) of the grids in boards (n, 900).

    Notes
    -----
    The largest rectangle of colours from the top left corner, as the official evaluator crops: for every number of
    rows the columns that are colours in all of them; the first of the largest ones.
    """
    colour = (np.asarray(tokens) >= FIRST_COLOUR) & (np.asarray(tokens) < FIRST_COLOUR + COLOURS)
    colour = colour.reshape(-1, SIDE, SIDE)
    width = np.minimum.accumulate(np.logical_and.accumulate(colour, axis=2).sum(axis=2), axis=1)
    area = width * np.arange(1, SIDE + 1)
    best = area.argmax(axis=1)
    rows = np.where(area.max(axis=1) > 0, best + 1, 0)
    return rows, np.where(rows > 0, width[np.arange(len(width)), best], 0)


def canonical(answers: np.ndarray) -> np.ndarray:
    """Return boards (n, 900) with everything outside of the grid that they show set to pad.

    Examples
    --------
    >>> board = np.ones((1, 900), int)
    >>> board[0, [0, 1, 30, 31, 77]] = 5
    >>> np.flatnonzero(canonical(board)).tolist()
    [0, 1, 30, 31]
    """
    answers = np.asarray(answers)
    rows, columns = crop_sizes(answers)
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    inside = (row < rows[:, None]) & (column < columns[:, None])
    return np.where(inside, answers, PAD)


@functools.cache
def arc() -> Task:
    """Return the task."""
    return Task(
        name="arc",
        vocab_size=FIRST_COLOUR + COLOURS,
        board=(SIDE, SIDE),
        symbols=("·", "|", *map(str, range(COLOURS))),
        colours={END: MARK} | dict(enumerate(PALETTE, start=FIRST_COLOUR)),
        legend="The ten colours of the benchmark; pale violet cells are the marks that end a grid.",
        canonical=canonical,
    )


FAMILY = family_of(arc())
