"""Symmetries of Sudoku: random disguises of whole batches, and fingerprints that all disguises of a puzzle share."""

from __future__ import annotations

import dataclasses

import numpy as np

from eqrlab.datasets.registry.task import paired
from eqrlab.datasets.sudoku import FIRST_DIGIT, Geometry, board_of

_CELLS_AT_ONCE = 1 << 23  # cells times digits of the boards hashed at a time, 64 MB
_ROUNDS = 6  # of colour refinement; more change nothing on boards of 81 cells in practice


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """One symmetry for every row of a batch; apply it to puzzles, solutions and answers alike.

    Attributes
    ----------
    cells
        Where each new cell takes its token from, (n, L).
    tokens
        What each old token becomes, (n, V); pad and blank stay.
    """

    cells: np.ndarray
    tokens: np.ndarray

    def apply(self, grid: np.ndarray) -> np.ndarray:
        """Disguise boards (n, L)."""
        return np.take_along_axis(self.tokens, np.take_along_axis(grid, self.cells, axis=1), axis=1)


def _lines(n: int, bands: int, lines: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n orders of `bands * lines` rows that keep bands together, (n, bands * lines)."""
    band = rng.random((n, bands, 1)).argsort(axis=1)
    line = rng.random((n, bands, lines)).argsort(axis=2)
    return (band * lines + line).reshape(n, -1)


def random_symmetry(board: Geometry, n: int, rng: np.random.Generator) -> Symmetry:
    """Draw n symmetries uniformly: digits, bands, rows in bands, stacks, columns in stacks, transposition.

    Parameters
    ----------
    board
        The geometry; boards with oblong boxes (6x6) are not transposed.
    n
        How many.
    rng
        Source of randomness.

    Returns
    -------
    Symmetry
        One a row.
    """
    side = board.side
    rows = _lines(n, side // board.box_rows, board.box_rows, rng)
    columns = _lines(n, side // board.box_columns, board.box_columns, rng)
    cells = rows[:, :, None] * side + columns[:, None, :]
    if board.box_rows == board.box_columns:
        flip = rng.random(n) < 0.5
        cells[flip] = cells[flip].transpose(0, 2, 1)
    tokens = np.empty((n, board.vocab_size), dtype=np.int64)
    tokens[:, :FIRST_DIGIT] = np.arange(FIRST_DIGIT)
    tokens[:, FIRST_DIGIT:] = rng.random((n, side)).argsort(axis=1) + FIRST_DIGIT
    return Symmetry(cells.reshape(n, -1), tokens)


def augment(
    inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator, board: Geometry | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Disguise every row of a batch by its own random symmetry.

    Parameters
    ----------
    inputs, labels
        Puzzles and solutions, tokens (n, L); pad, blank and ignored cells keep their token.
    rng
        Source of randomness.
    board
        Their geometry; by default the usual one of their length.

    Returns
    -------
    tuple
        Disguised inputs and labels (n, L) int64; the arguments are left alone.

    Raises
    ------
    ValueError
        If the shapes differ or are not those of a Sudoku board.

    Notes
    -----
    About 0.1 ms for 64 boards of 9x9.
    """
    inputs, labels = paired(inputs, labels, "labels")
    symmetry = random_symmetry(board_of(inputs, board), len(inputs), rng)
    return symmetry.apply(inputs), symmetry.apply(labels)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint64 values (the finaliser of SplitMix64), so that their sums identify multisets."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _pair(*parts: np.ndarray) -> np.ndarray:
    """Hash an ordered tuple of colours, broadcast against each other."""
    total = parts[0]
    for part in parts[1:]:
        total = _mix(total * np.uint64(3)) + part
    return _mix(total + np.uint64(0x9E3779B97F4A7C15))


def _oriented(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Refine colours of cells, rows, columns, boxes, bands, stacks and digits; hash the final colouring, (n,)."""
    n, side, _ = grid.shape
    given = grid >= FIRST_DIGIT
    digits = np.arange(FIRST_DIGIT, FIRST_DIGIT + side)
    member = (grid.reshape(n, -1, 1) == digits).astype(np.uint64)  # (n, L, N)
    cell = given.astype(np.uint64)
    for _ in range(_ROUNDS):
        mixed = _mix(cell + np.uint64(1))
        row, column = mixed.sum(axis=2), mixed.sum(axis=1)  # (n, N): the multiset of colours in a line
        box = mixed.reshape(n, side // height, height, side // width, width).sum(axis=(2, 4))
        band = _mix(row).reshape(n, -1, height).sum(axis=2)
        stack = _mix(column).reshape(n, -1, width).sum(axis=2)
        digit = (member * mixed.reshape(n, -1, 1)).sum(axis=1)  # (n, N)
        row = _pair(row, np.repeat(band, height, axis=1))
        column = _pair(column, np.repeat(stack, width, axis=1))
        box = _pair(box, band[:, :, None], stack[:, None, :]).repeat(height, axis=1).repeat(width, axis=2)
        value = (member * _mix(digit)[:, None, :]).sum(axis=2).reshape(n, side, side)
        cell = _pair(cell, row[:, :, None], column[:, None, :], box, value)
    return _mix(cell).sum(axis=(1, 2))


def fingerprint(tokens: np.ndarray, board: Geometry | None = None) -> np.ndarray:
    """Hash puzzles so that all disguises of a puzzle have one fingerprint.

    Parameters
    ----------
    tokens
        Puzzles (n, L); solutions work as well.
    board
        Their geometry; by default the usual one of their length.

    Returns
    -------
    ndarray
        uint64 (n,).  Different fingerprints prove that no symmetry maps one puzzle to the other.

    Raises
    ------
    ValueError
        If the rows are not Sudoku boards.

    Notes
    -----
    Colour refinement (Weisfeiler and Leman) of cells, lines, bands, boxes and digits, with hashed colours, for the
    board and, where boxes are square, its transpose.  Equal fingerprints are no proof of equivalence: very regular
    boards, full solution grids among them, can share one.  Two sets without a common fingerprint are disjoint.

    Examples
    --------
    >>> import numpy as np
    >>> puzzle = np.array([[2, 1, 1, 5, 1, 1, 2, 1, 1, 2, 1, 1, 5, 1, 1, 1]])
    >>> bool((fingerprint(puzzle) == fingerprint(puzzle.reshape(1, 4, 4)[:, ::-1].reshape(1, 16)))[0])
    True
    """
    tokens = np.atleast_2d(np.asarray(tokens))
    board = board_of(tokens, board)
    prints = np.empty(len(tokens), dtype=np.uint64)
    chunk = max(1, _CELLS_AT_ONCE // (board.cells * board.side))
    for start in range(0, len(tokens), chunk):
        grid = tokens[start : start + chunk].reshape(-1, board.side, board.side)
        hashed = _oriented(grid, board.box_rows, board.box_columns)
        if board.box_rows == board.box_columns:
            flipped = _oriented(grid.transpose(0, 2, 1), board.box_rows, board.box_columns)
            hashed = np.minimum(hashed, flipped)
        prints[start : start + chunk] = hashed
    return prints
