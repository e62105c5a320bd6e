"""Mazes: tokens, shortest paths on bit boards, and the shortest-path oracle."""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np

from eqrlab.datasets.registry.task import paired

PAD, WALL, FLOOR, START, GOAL, PATH = range(6)
ALPHABET = "# SGo"  # the characters of tokens 1 to 5
VOCAB_SIZE = 6
_CHUNK = 1 << 14


Board = tuple[int, int]  # rows and columns of a field


def board_of(tokens: np.ndarray, board: Board | None = None) -> Board:
    """Return the rows and columns of the fields that token rows (..., L) hold: those given, else of a square.

    Raises
    ------
    ValueError
        If L does not fit, or is not a square of at least 3 x 3.
    """
    length = tokens.shape[-1] if tokens.ndim else 0
    side = math.isqrt(length)
    if board is not None and board[0] * board[1] != length:
        raise ValueError(f"a maze of {board[0]} x {board[1]} has {board[0] * board[1]} tokens, got {length}")
    if board is None and (side < 3 or side * side != length):
        raise ValueError(f"a maze row has side * side tokens with side >= 3, got {length}")
    return board or (side, side)


def _bits(row: bytes, side: int, tokens: bytes) -> int:
    """Pack the cells that hold one of some tokens into an integer, one unused bit after every row of `side` cells."""
    packed = 0
    for cell, token in enumerate(row):
        if token in tokens:
            packed |= 1 << (cell + cell // side)
    return packed


@functools.lru_cache(maxsize=1 << 14)
def _shortest(row: bytes, side: int) -> tuple[int, int]:
    """Return (steps from S to G, number of shortest paths capped at 2); (-1, 0) where there is no path."""
    open_cells = _bits(row, side, bytes((FLOOR, START, GOAL)))
    start, goal = _bits(row, side, bytes((START,))), _bits(row, side, bytes((GOAL,)))
    width = side + 1
    if start.bit_count() != 1 or goal.bit_count() != 1:
        return -1, 0
    once, twice, unseen, steps = start, 0, open_cells & ~start, 0
    while once and not once & goal:
        left, right, up, down = once << 1, once >> 1, once << width, once >> width
        reached = (left | right | up | down) & unseen
        # a cell has two shortest paths when two neighbours lead to it, or one that has two itself
        again = left & right | (left | right) & (up | down) | up & down
        again |= twice << 1 | twice >> 1 | twice << width | twice >> width
        once, twice, steps = reached, again & reached, steps + 1
        unseen &= ~reached
    if not once:
        return -1, 0
    return steps, 2 if twice & goal else 1


def shortest_path(tokens: np.ndarray, board: Board | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Measure mazes.

    Parameters
    ----------
    tokens
        Mazes (n, L).
    board
        Rows and columns; by default of a square.

    Returns
    -------
    tuple
        Steps of a shortest path from S to G, int64 (n,), -1 where there is none; whether it is the only one,
        bool (n,).

    Raises
    ------
    ValueError
        If the rows are not such fields.
    """
    tokens = np.atleast_2d(np.asarray(tokens))
    side = board_of(tokens, board)[1]
    rows = np.clip(tokens, 0, 255).astype(np.uint8)
    measured = [_shortest(row.tobytes(), side) for row in rows]
    steps = np.array([steps for steps, _ in measured], dtype=np.int64)
    return steps, np.array([count == 1 for _, count in measured], dtype=bool)


def maze_oracle(inputs: np.ndarray, answers: np.ndarray, board: Board | None = None) -> np.ndarray:
    """Return which answers mark a shortest path from S to G (any one) and keep walls, S and G.

    Parameters
    ----------
    inputs
        Mazes, tokens (n, L).
    answers
        Answers, tokens (n, L).
    board
        Rows and columns; by default of a square.

    Returns
    -------
    ndarray
        bool (n,).

    Raises
    ------
    ValueError
        If the shapes differ or are not such fields.

    Notes
    -----
    A right answer marks as many cells as a shortest path has between S and G, every marked cell has exactly two
    neighbours on the path, and S and G have one.  This is checked for all rows at once; the length of a shortest
    path is searched (and remembered) only for mazes with an answer that passed.

    Examples
    --------
    >>> import numpy as np
    >>> maze = np.array([[3, 2, 2, 2, 1, 2, 4, 2, 2]])
    >>> maze_oracle(maze, np.array([[3, 2, 2, 5, 1, 2, 4, 2, 2]]))
    array([ True])
    >>> maze_oracle(maze, np.array([[3, 5, 5, 2, 1, 5, 4, 5, 5]]))  # the way round
    array([False])
    """
    inputs, answers = paired(inputs, answers, "answers")
    board = board_of(inputs, board)
    good = np.zeros(len(inputs), dtype=bool)
    for start in range(0, len(inputs), _CHUNK):
        maze, answer = inputs[start : start + _CHUNK], answers[start : start + _CHUNK]
        marked = answer == PATH
        kept = ((answer == maze) | (marked & (maze == FLOOR))).all(axis=1)
        ends = (maze == START) | (maze == GOAL)
        path = np.pad((marked | ends).reshape(-1, *board), ((0, 0), (1, 1), (1, 1))).astype(np.int8)
        around = path[:, :-2, 1:-1] + path[:, 2:, 1:-1] + path[:, 1:-1, :-2] + path[:, 1:-1, 2:]
        around = around.reshape(len(maze), -1)
        kept &= ((around == 2) | ~marked).all(axis=1) & ((around == 1) | ~ends).all(axis=1)
        good[start : start + _CHUNK] = kept
    rows = np.flatnonzero(good)
    if len(rows):
        steps, _ = shortest_path(inputs[rows], board)
        good[rows] = (answers[rows] == PATH).sum(axis=1) == steps - 1
    return good


def _turned(grid: np.ndarray, turn: int) -> np.ndarray:
    """Turn fields (n, rows, columns) by `turn % 4` right angles, after a transposition where turn >= 4."""
    return np.rot90(grid.transpose(0, 2, 1) if turn >= 4 else grid, turn % 4, axes=(1, 2))


def _symmetries(board: Board) -> tuple[int, ...]:
    """Return the turns that keep a board: all 8 of a square, the 4 of another rectangle that do not swap its sides."""
    return tuple(range(8)) if board[0] == board[1] else (0, 2, 5, 7)


def turns(rows: int, columns: int | None = None) -> np.ndarray:
    """Return where each cell takes its token from under each symmetry of the board (8 of a square, else 4), (k, L)."""
    board = (rows, columns or rows)
    places = np.arange(board[0] * board[1]).reshape(1, *board)
    return np.stack([_turned(places, turn).reshape(-1) for turn in _symmetries(board)])


def augment(
    inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator, board: Board | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn and mirror every row of a batch by its own random symmetry of the board.

    Parameters
    ----------
    inputs, labels
        Mazes and solutions, tokens (n, L).
    rng
        Source of randomness.
    board
        Rows and columns; by default of a square.

    Returns
    -------
    tuple
        Turned inputs and labels (n, L); the arguments are left alone.

    Raises
    ------
    ValueError
        If the shapes differ or are not such fields.
    """
    inputs, labels = paired(inputs, labels, "labels")
    table = turns(*board_of(inputs, board))
    cells = table[rng.integers(0, len(table), len(inputs))]
    return np.take_along_axis(inputs, cells, axis=1), np.take_along_axis(labels, cells, axis=1)


def fingerprint(tokens: np.ndarray, board: Board | None = None) -> np.ndarray:
    """Hash mazes so that turned and mirrored copies share one fingerprint: uint64 (n,).

    Raises
    ------
    ValueError
        If the rows are not such fields.
    """
    tokens = np.atleast_2d(np.asarray(tokens))
    board = board_of(tokens, board)
    grid = np.clip(tokens, 0, 255).astype(np.uint8).reshape(-1, *board)
    views = [np.ascontiguousarray(_turned(grid, turn)) for turn in _symmetries(board)]
    digests = [
        min(hashlib.blake2b(view[k].tobytes(), digest_size=8).digest() for view in views)
        for k in range(len(grid))
    ]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
