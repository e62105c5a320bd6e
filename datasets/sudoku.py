"""Sudoku boards of side 4, 6 and 9: geometry, tokens, conflicts and the validity oracle."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

PAD, BLANK, FIRST_DIGIT = 0, 1, 2
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
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


@functools.cache
def geometry(side: int) -> Geometry:
    """Return the geometry of a side.

    Raises
    ------
    ValueError
        If the side is not 4, 6 or 9.
    """
    if side not in _BOXES:
        raise ValueError(f"Sudoku boards have side 4, 6 or 9, got {side}")
    return Geometry(side, *_BOXES[side])


def geometry_of(tokens: np.ndarray) -> Geometry:
    """Return the geometry that token rows (..., L) belong to, from their length.

    Raises
    ------
    ValueError
        If L is not 16, 36 or 81.
    """
    length = tokens.shape[-1] if tokens.ndim else 0
    for side in _BOXES:
        if side * side == length:
            return geometry(side)
    raise ValueError(f"a Sudoku row has 16, 36 or 81 tokens, got {length}")


def _regions(tokens: np.ndarray, board: Geometry) -> list[np.ndarray]:
    """View (n, L) tokens as rows, columns and boxes: three arrays (n, N, N) with the cells of a unit last."""
    n, side, height, width = len(tokens), board.side, board.box_rows, board.box_columns
    grid = tokens.reshape(n, side, side)
    boxes = grid.reshape(n, side // height, height, side // width, width).transpose(0, 1, 3, 2, 4)
    return [grid, grid.transpose(0, 2, 1), boxes.reshape(n, side, side)]


def conflicts(tokens: np.ndarray) -> np.ndarray:
    """Say which boards hold one digit twice in a row, column or box.

    Parameters
    ----------
    tokens
        Boards (n, L), blanks allowed.

    Returns
    -------
    ndarray
        bool (n,).
    """
    tokens = np.asarray(tokens)
    board = geometry_of(tokens)
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


def first_conflict(tokens: np.ndarray) -> str | None:
    """Describe the first repeated digit of one board (L,), or return None."""
    board = geometry_of(tokens)
    for kind, region in zip(("row", "column", "box"), _regions(tokens[None], board), strict=True):
        for number, unit in enumerate(region[0]):
            digits = unit[unit >= FIRST_DIGIT]
            values, counts = np.unique(digits, return_counts=True)
            if (counts > 1).any():
                digit = int(values[counts > 1][0]) - FIRST_DIGIT + 1
                return f"digit {digit} stands twice in {kind} {number + 1}"
    return None


def sudoku_oracle(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Say which answers are right: every row, column and box holds every digit once, and the givens are kept.

    Parameters
    ----------
    inputs
        Puzzles, tokens (n, L).
    answers
        Answers, tokens (n, L); any integers, so also what an untrained network writes.

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
    inputs, answers = np.asarray(inputs), np.asarray(answers)
    if inputs.ndim != 2 or inputs.shape != answers.shape:
        raise ValueError(
            f"inputs and answers must be two equal shapes (n, L), got {inputs.shape} and {answers.shape}"
        )
    board = geometry_of(inputs)
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
