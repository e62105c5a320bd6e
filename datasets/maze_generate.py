"""Generate mazes: perfect ones with a unique path, and ones with loops and several shortest paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from eqrlab.core.seeds import nonnegative
from eqrlab.datasets.maze import FLOOR, GOAL, PATH, START, WALL, Board, fingerprint

SIDES = range(7, 31)
KINDS = ("unique", "several")
_TRIES = 500  # fruitless fields in a row after which a range of lengths counts as out of reach


class GeneratedMaze(NamedTuple):
    """One generated maze: tokens (L,) of maze and solution, its kind and the steps from S to G."""

    maze: np.ndarray
    solution: np.ndarray
    kind: str
    steps: int


def board_of_side(side: int | Board) -> Board:
    """Return rows and columns of a field given by them or by the side of a square.

    Raises
    ------
    ValueError
        If such mazes are not generated.
    """
    board = (side, side) if isinstance(side, int) else side
    if board[0] not in SIDES or board[1] not in SIDES:
        told = board[0] if board[0] == board[1] else f"{board[0]} x {board[1]}"
        raise ValueError(f"mazes are generated with side 7 to 30, got {told}")
    return board


def default_steps(side: int | Board, kind: str = "unique") -> tuple[int, int]:
    """Return the usual range of steps from S to G; of a rectangle, that of the square with as many rooms or fewer.

    Notes
    -----
    Unique: 100 to 140 in a 29 x 29 maze as in Maze-Unique, 12 to 22 in a 9 x 9 one, linear in between.  Several:
    paths are shorter once there are loops, from `side` to twice that.
    """
    if not isinstance(side, int):
        side = (
            2 * math.isqrt(((side[0] - 1) // 2) * ((side[1] - 1) // 2)) + 1 if side[0] != side[1] else side[0]
        )
    if kind == "several":
        return side - 1, 2 * side
    rooms = (side - 1) // 2
    return max(2, round(12 + 8.8 * (rooms - 4))), round(22 + 11.8 * (rooms - 4))


def carve(side: int | Board, rng: np.random.Generator) -> np.ndarray:
    """Draw a perfect maze by depth-first search on the odd sub-grid: bool (rows, columns), True where open.

    Notes
    -----
    Rooms are the cells with odd row and column; the search knocks out the wall between a room and a new neighbour
    until it has seen all, so that exactly one path joins any two open cells.  In a field of even side the last row
    and column stay wall.
    """
    board = (side, side) if isinstance(side, int) else side
    down_rooms, rooms = (board[0] - 1) // 2, (board[1] - 1) // 2
    field = np.zeros(board, dtype=bool)
    first = int(rng.integers(down_rooms * rooms))
    turns = rng.permuted(np.tile(np.arange(4), (down_rooms * rooms, 1)), axis=1).tolist()
    seen, stack = {first}, [first]
    field[2 * (first // rooms) + 1, 2 * (first % rooms) + 1] = True
    while stack:
        row, column = divmod(stack[-1], rooms)
        if not turns[stack[-1]]:
            stack.pop()
            continue
        down, right = ((0, 1), (1, 0), (0, -1), (-1, 0))[turns[stack[-1]].pop()]
        room = (row + down) * rooms + column + right
        if 0 <= row + down < down_rooms and 0 <= column + right < rooms and room not in seen:
            seen.add(room)
            stack.append(room)
            field[2 * row + 1 + down, 2 * column + 1 + right] = True
            field[2 * (row + down) + 1, 2 * (column + right) + 1] = True
    return field


def add_loops(field: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a copy of a maze in which a share of the walls between neighbouring rooms is removed."""
    inner, across = (2 * ((size - 1) // 2) for size in field.shape)
    row, column = np.nonzero(~field[:inner, :across])
    between = (row > 0) & (column > 0) & (row % 2 != column % 2)
    walls = np.flatnonzero(between)
    gone = rng.permutation(walls)[: round(share * len(walls))]
    looped = field.copy()
    looped[row[gone], column[gone]] = True
    return looped


def _distances(field: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return steps from a cell to all cells, -1 where unreachable, and numbers of shortest paths capped at 2."""
    side = field.shape[1]
    open_cells = field.reshape(-1).tolist()
    steps, paths = [-1] * len(open_cells), [0] * len(open_cells)
    steps[start], paths[start] = 0, 1
    queue = [start]
    for cell in queue:  # grows while it is walked: breadth first
        for near in (cell - 1, cell + 1, cell - side, cell + side):
            if open_cells[near]:
                if steps[near] < 0:
                    steps[near] = steps[cell] + 1
                    queue.append(near)
                if steps[near] == steps[cell] + 1:
                    paths[near] = min(2, paths[near] + paths[cell])
    return np.array(steps), np.array(paths)


def _solution(side: int, goal: int, steps: np.ndarray) -> list[int]:
    """Walk back from the goal to the start along falling distances from it: the cells strictly between them."""
    cells, cell = [], goal
    while steps[cell] > 1:
        nearby = (cell - side, cell - 1, cell + 1, cell + side)
        cell = next(near for near in nearby if steps[near] == steps[cell] - 1)
        cells.append(cell)
    return cells


def generate_mazes(
    side: int | Board,
    count: int,
    kind: str = "unique",
    seed: int = 0,
    exclude: Iterable[int] = (),
    *,
    steps: tuple[int, int] | None = None,
    loops: float = 0.2,
) -> Iterator[GeneratedMaze]:
    """Generate mazes, no two of them equal up to turning and mirroring.

    Parameters
    ----------
    side
        Side of the field, 7 to 30, or its rows and columns; an even one has one more row and column of wall (30: the
        29 x 29 maze of Maze-Unique).
    count
        How many; the first k do not depend on it.
    kind
        "unique": perfect mazes, one path joins S and G.  "several": some walls are removed, at least two shortest
        paths join S and G, and the label is one of them.
    seed
        Of every random choice.
    exclude
        Fingerprints (see `maze.fingerprint`) that must not come up.
    steps
        Fewest and most steps from S to G; default `default_steps(side, kind)`.
    loops
        Share of the inner walls that "several" removes.

    Yields
    ------
    GeneratedMaze
        One maze at a time.

    Raises
    ------
    ValueError
        If an argument is out of range, or no maze with such a path turns up.

    Notes
    -----
    S is a random open cell and G a random one among those at an allowed distance.  About 1 ms a 30 x 30 field.
    """
    board = board_of_side(side)
    if kind not in KINDS:
        raise ValueError(f"maze kind {kind!r} unknown; choose from {', '.join(KINDS)}")
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    low, high = steps or default_steps(board, kind)
    if not 1 <= low <= high:
        raise ValueError(f"steps must be 1 <= fewest <= most, got {low} and {high}")
    if not 0 < loops <= 1:
        raise ValueError(f"loops must be in (0, 1], got {loops}")
    sizes = board[:1] if board[0] == board[1] else board
    rng = np.random.default_rng([nonnegative(seed), *sizes, KINDS.index(kind)])
    seen = {int(value) for value in exclude}
    for k in range(count):
        for _ in range(_TRIES):
            made = _attempt(board, kind, low, high, loops, rng)
            mark = int(fingerprint(made.maze, board)[0]) if made else None
            if made is not None and mark is not None and mark not in seen:
                break
        else:
            told = f"side {board[0]}" if board[0] == board[1] else f"{board[0]} x {board[1]}"
            raise ValueError(
                f"no new {kind} maze of {told} with {low} to {high} steps in {_TRIES} fields after {k} mazes"
            )
        seen.add(mark)
        yield made


def _attempt(
    board: Board, kind: str, low: int, high: int, loops: float, rng: np.random.Generator
) -> GeneratedMaze | None:
    """Draw one field with S and G; None where no cell is at an allowed distance from S."""
    field = carve(board, rng)
    if kind == "several":
        field = add_loops(field, loops, rng)
    start = int(rng.choice(np.flatnonzero(field)))
    distance, paths = _distances(field, start)
    allowed = (distance >= low) & (distance <= high)
    if kind == "several":
        allowed &= paths > 1
    goals = np.flatnonzero(allowed)
    if not len(goals):
        return None
    goal = int(rng.choice(goals))
    maze = np.where(field.reshape(-1), FLOOR, WALL).astype(np.int64)
    maze[start], maze[goal] = START, GOAL
    solution = maze.copy()
    solution[_solution(field.shape[1], goal, distance)] = PATH
    return GeneratedMaze(maze, solution, kind, int(distance[goal]))
