"""Grids of ARC and the boards that hold them: 30 x 30 tokens with end marks around the grid."""

from __future__ import annotations

import numpy as np

from eqrlab.datasets.registry.arc import COLOURS, END, FIRST_COLOUR, SIDE, crop_sizes


def crop(board: np.ndarray) -> np.ndarray:
    """Return the grid (r, c) of colours, uint8, that a board (900,) of tokens shows; 0 x 0 where it shows none."""
    rows, columns = crop_sizes(board[None])
    return (np.reshape(board, (SIDE, SIDE))[: rows[0], : columns[0]] - FIRST_COLOUR).astype(np.uint8)


def board_of(grid: np.ndarray) -> np.ndarray:
    """Return the board (900,) of a grid (r, c) of colours: the grid at the top left corner, end marks around it.

    Raises
    ------
    ValueError
        For what is no grid of at most 30 x 30 colours 0 to 9.

    Examples
    --------
    >>> board_of(np.array([[7, 0]])).reshape(30, 30)[:2, :3].tolist()
    [[9, 2, 1], [1, 1, 0]]
    """
    grid = np.asarray(grid)
    if grid.ndim != 2 or not grid.size or grid.dtype.kind not in "iu":
        raise ValueError(f"a grid is rows of colours, got {grid.dtype} of shape {grid.shape}")
    rows, columns = grid.shape
    if max(rows, columns) > SIDE:
        raise ValueError(f"a grid has at most {SIDE} x {SIDE} cells, got {rows} x {columns}")
    if grid.min() < 0 or grid.max() >= COLOURS:
        raise ValueError(f"colours are 0 to {COLOURS - 1}, got {int(grid.min())} to {int(grid.max())}")
    board = np.zeros((SIDE, SIDE), np.int64)
    board[:rows, :columns] = grid + FIRST_COLOUR
    board[rows : rows + 1, :columns] = END
    board[:rows, columns : columns + 1] = END
    return board.reshape(-1)
