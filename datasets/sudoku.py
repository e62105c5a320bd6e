"""Sudoku boards of any box shape, side 4 to 25: geometry, tokens, conflicts and the validity oracle."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from eqrlab.datasets.registry.task import integers, paired

PAD, BLANK, FIRST_DIGIT = 0, 1, 2
LARGEST = 25
DIGITS = "123456789ABCDEFGHIJKLMNOP"  # how the digits 1 to 25 are written
_CHUNK = 1 << 16  # rows checked at once, so that memory stays bounded


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The shape of a Sudoku board.

    Attributes
    ----------
    side
        Rows, columns and digits N; a board has L = N * N cells, row-major.
    box_rows, box_columns
        Rows and columns of one box; their product is N.

    Notes
    -----
    Tokens are the checkpoints' own: 0 pad, 1 blank, 2 to N + 1 the digits 1 to N.
    """

    side: int
    box_rows: int
    box_columns: int

    @property
    def cells(self) -> int:
        return self.side * self.side

    @property
    def vocab_size(self) -> int:
        return self.side + FIRST_DIGIT

    @functools.cached_property
    def box_of(self) -> np.ndarray:
        """Return the box number of every cell, (L,)."""
        row, column = np.divmod(np.arange(self.cells), self.side)
        return row // self.box_rows * self.box_rows + column // self.box_columns


def boxes_of(side: int) -> tuple[tuple[int, int], ...]:
    """Return the box shapes (rows, columns) of a side: first the usual one, nearest to a square and not upright.

    Examples
    --------
    >>> boxes_of(6), boxes_of(12), boxes_of(7)
    (((2, 3), (3, 2)), ((3, 4), (4, 3), (2, 6), (6, 2)), ())
    """
    if not 4 <= side <= LARGEST:
        return ()
    flat = [(k, side // k) for k in range(math.isqrt(side), 1, -1) if side % k == 0]
    return tuple(
        dict.fromkeys(shape for rows, columns in flat for shape in ((rows, columns), (columns, rows)))
    )


@functools.cache
def geometry(side: int, box: tuple[int, int] | None = None) -> Geometry:
    """Return the geometry of a side, with its usual boxes (see `boxes_of`) unless others are asked for.

    Raises
    ------
    ValueError
        If there are no such boards.
    """
    shapes = boxes_of(side)
    if not shapes:
        raise ValueError(
            f"Sudoku boards have a side N of 4 to {LARGEST} that boxes fill (4, 6, 8, 9, ...), got {side}"
        )
    if box not in (None, *shapes):
        there = ", ".join(f"{rows}x{columns}" for rows, columns in shapes)
        raise ValueError(f"boxes of a {side}x{side} Sudoku are {there}, got {box}")
    return Geometry(side, *(box or shapes[0]))


def geometry_of(tokens: np.ndarray) -> Geometry:
    """Return the geometry with usual boxes that token rows (..., L) belong to, from their length.

    Raises
    ------
    ValueError
        If L is not the square of a side of Sudoku boards.
    """
    length = tokens.shape[-1] if tokens.ndim else 0
    side = math.isqrt(length)
    if side * side != length or not boxes_of(side):
        raise ValueError(f"a Sudoku row has 16, 36, 64, 81, ... up to 625 tokens, got {length}")
    return geometry(side)


def board_of(tokens: np.ndarray, board: Geometry | None) -> Geometry:
    """Return the board given, which tokens must fit, or the usual one of their length."""
    if board is None:
        return geometry_of(tokens)
    if tokens.shape[-1] != board.cells:
        raise ValueError(f"a row of this Sudoku has {board.cells} tokens, got {tokens.shape[-1]}")
    return board


def _regions(tokens: np.ndarray, board: Geometry) -> list[np.ndarray]:
    """View (n, L) tokens as rows, columns and boxes: three arrays (n, N, N) with the cells of a unit last."""
    n, side, height, width = len(tokens), board.side, board.box_rows, board.box_columns
    grid = tokens.reshape(n, side, side)
    boxes = grid.reshape(n, side // height, height, side // width, width).transpose(0, 1, 3, 2, 4)
    return [grid, grid.transpose(0, 2, 1), boxes.reshape(n, side, side)]


def conflicts(tokens: np.ndarray, board: Geometry | None = None) -> np.ndarray:
    """Say which boards hold one digit twice in a row, column or box.

    Parameters
    ----------
    tokens
        Boards (n, L), blanks allowed.
    board
        Their geometry; by default the usual one of their length.

    Returns
    -------
    ndarray
        bool (n,).
    """
    tokens = integers(tokens)
    board = board_of(tokens, board)
    found = np.zeros(len(tokens), dtype=bool)
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        twice = np.zeros(len(part), dtype=bool)
        bits = np.where(part >= FIRST_DIGIT, 1 << np.maximum(part - FIRST_DIGIT, 0), 0).astype(np.int32)
        for region in _regions(bits, board):
            seen = np.zeros(region.shape[:2], dtype=np.int32)
            for k in range(board.side):
                cell = region[:, :, k]
                twice |= (seen & cell).any(axis=1)
                seen |= cell
        found[start : start + _CHUNK] = twice
    return found


def first_conflict(tokens: np.ndarray, board: Geometry | None = None) -> str | None:
    """Describe the first repeated digit of one board (L,), or return None."""
    board = board_of(tokens, board)
    for kind, region in zip(("row", "column", "box"), _regions(tokens[None], board), strict=True):
        for number, unit in enumerate(region[0]):
            digits = unit[unit >= FIRST_DIGIT]
            values, counts = np.unique(digits, return_counts=True)
            if (counts > 1).any():
                digit = DIGITS[int(values[counts > 1][0]) - FIRST_DIGIT]
                return f"digit {digit} stands twice in {kind} {number + 1}"
    return None


def sudoku_oracle(inputs: np.ndarray, answers: np.ndarray, board: Geometry | None = None) -> np.ndarray:
    """Say which answers are right: every row, column and box holds every digit once, and the givens are kept.

    Parameters
    ----------
    inputs
        Puzzles, tokens (n, L).
    answers
        Answers, tokens (n, L); any integers, so also what an untrained network writes.
    board
        Their geometry; by default the usual one of their length.

    Returns
    -------
    ndarray
        bool (n,).

    Raises
    ------
    ValueError
        If the shapes differ or are not those of a Sudoku board.

    Notes
    -----
    No label is needed, so a puzzle with several solutions has several right answers.  O(n L) time; memory is
    bounded by working on 65,536 rows at once.

    Examples
    --------
    >>> import numpy as np
    >>> puzzle = np.array([[2, 3, 4, 5, 4, 5, 2, 3, 3, 2, 5, 4, 5, 4, 3, 1]])
    >>> sudoku_oracle(puzzle, puzzle), sudoku_oracle(puzzle, np.maximum(puzzle, 2))
    (array([False]), array([ True]))
    """
    inputs, answers = paired(inputs, answers, "answers")
    board = board_of(inputs, board)
    valid = np.zeros(len(inputs), dtype=bool)
    for start in range(0, len(inputs), _CHUNK):
        given, answer = inputs[start : start + _CHUNK], answers[start : start + _CHUNK]
        good = ((given < FIRST_DIGIT) | (given == answer)).all(axis=1)
        digit = (answer >= FIRST_DIGIT) & (answer < board.vocab_size)
        bits = np.where(digit, 1 << np.where(digit, answer - FIRST_DIGIT, 0), 0).astype(np.int32)
        for region in _regions(bits, board):
            seen = np.zeros(region.shape[:2], dtype=np.int32)
            for k in range(board.side):
                seen |= region[:, :, k]
            good &= (seen == (1 << board.side) - 1).all(axis=1)
        valid[start : start + _CHUNK] = good
    return valid


def legal_clues(inputs: np.ndarray, board: Geometry | None = None) -> np.ndarray:
    """Say which tokens may be written into which cells as clues: digits into blanks, against no given of their units.

    Parameters
    ----------
    inputs
        Puzzles, tokens (n, L).
    board
        Their geometry; by default the usual one of their length.

    Returns
    -------
    ndarray
        bool (n, L, V).

    Examples
    --------
    >>> import numpy as np
    >>> clues = legal_clues(np.array([[2, 3, 4, 1] + 12 * [1]]))
    >>> np.flatnonzero(clues[0, 3]).tolist(), clues[0, 0].any()
    ([5], np.False_)
    """
    inputs = np.asarray(inputs)
    board = board_of(inputs, board)
    n, side = len(inputs), board.side
    digits = np.arange(FIRST_DIGIT, board.vocab_size)
    given = inputs[:, :, None] == digits  # (n, L, N)
    row, column = np.divmod(np.arange(board.cells), side)
    legal = np.zeros((n, board.cells, board.vocab_size), dtype=bool)
    free = np.broadcast_to((inputs == BLANK)[:, :, None], given.shape).copy()
    for unit in (row, column, board.box_of):
        cells = np.argsort(unit, kind="stable").reshape(side, side)  # cells of every unit
        free &= ~given[:, cells].any(axis=2)[:, unit]
    legal[:, :, FIRST_DIGIT:] = free
    return legal
