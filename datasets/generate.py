"""Generate Sudoku puzzles with one solution, by difficulty, reproducibly from a seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np

from eqrlab.core.seeds import nonnegative
from eqrlab.datasets.solver import BitBoard, bit_board, search
from eqrlab.datasets.sudoku import BLANK, FIRST_DIGIT, Geometry, geometry, geometry_of
from eqrlab.datasets.symmetry import fingerprint, random_symmetry

DIFFICULTIES = ("easy", "medium", "hard", "extreme")
_EASY = {4: (6, 9), 6: (14, 18), 9: (30, 36)}  # clues of an easy puzzle
_MEDIUM = {4: (4, 5), 6: (8, 13), 9: (22, 29)}  # clues of a medium one
_OTHER_EASY, _OTHER_MEDIUM = (0.42, 0.5), (0.33, 0.41)  # of the cells, on other boards up to 9x9,
_LARGE_EASY, _LARGE_MEDIUM = (0.54, 0.6), (0.47, 0.53)  # and on larger ones
_EXTREME = {4: 4, 6: 4, 9: 10}  # guess nodes from which a puzzle is extreme; on others as on 9x9
_GUESSING = 9  # side up to which puzzles that need guesses are generated: beyond, proofs may take for ever
_SEARCHED = 16  # side up to which full boards are found by search
_NODES = 2000  # guess nodes after which the search of a large board begins again
_TRIES = 2000  # fruitless boards in a row after which a difficulty counts as out of reach


@dataclasses.dataclass(frozen=True)
class Generated:
    """One generated puzzle: tokens (L,) of puzzle and solution, its difficulty, guess nodes and clues."""

    puzzle: np.ndarray
    solution: np.ndarray
    difficulty: str
    guesses: int
    clues: int


def board_of_side(side: int | Geometry) -> Geometry:
    """Return the geometry for a geometry or a side."""
    return side if isinstance(side, Geometry) else geometry(side)


def random_solution(side: int | Geometry, rng: np.random.Generator) -> np.ndarray:
    """Draw a full valid board, tokens (L,), by guessing in random order.

    Notes
    -----
    Up to 16x16, every board is possible, but the distribution is not exactly uniform.  Larger boards are disguises of
    one pattern.
    """
    board = board_of_side(side)
    if board.side > _SEARCHED:
        row, column = np.divmod(np.arange(board.cells), board.side)
        shift = row % board.box_rows * board.box_columns + row // board.box_rows
        pattern = (shift + column) % board.side + FIRST_DIGIT
        return random_symmetry(board, 1, rng).apply(pattern[None])[0]
    solver = bit_board(board)
    nodes = math.inf if board.side <= _GUESSING else _NODES
    while True:
        found, _, _ = solver.search(*solver.start({}), 1, rng, nodes)
        if found:
            return solver.tokens(found[0])


def _by_singles(solver: BitBoard, clues: dict[int, int], cell: int) -> bool:
    """Return whether singles alone still solve the board without the clue in `cell`."""
    state = solver.propagate(*solver.start({c: d for c, d in clues.items() if c != cell}))
    return state is not None and solver.solved(state[1])


def _still_unique(solver: BitBoard, clues: dict[int, int], cell: int) -> bool:
    """Return whether the solution stays unique without the clue in `cell`: no solution has another digit there."""
    candidates, placed = solver.start({c: d for c, d in clues.items() if c != cell})
    candidates &= ~(1 << (clues[cell] * solver.board.cells + cell))
    return not solver.search(candidates, placed, 1)[0]


def dig(
    solution: np.ndarray, clues: int, singles: bool, rng: np.random.Generator, board: Geometry | None = None
) -> np.ndarray:
    """Remove clues in random order while the puzzle stays solvable, down to a number of clues or until none can go.

    Parameters
    ----------
    solution
        Full board, tokens (L,).
    clues
        Stop at this many clues; 0 digs until no clue can go (a minimal puzzle where `singles` is false).
    singles
        Keep the puzzle solvable by singles alone (which implies one solution), else only keep it unique.
    rng
        Source of the order.
    board
        The geometry; by default the usual one of the length.

    Returns
    -------
    ndarray
        Puzzle, tokens (L,).
    """
    solver = bit_board(board or geometry_of(solution))
    left = {cell: int(token) - FIRST_DIGIT for cell, token in enumerate(solution)}
    removable = _by_singles if singles else _still_unique
    for cell in rng.permutation(len(solution)).tolist():
        if len(left) <= clues:
            break
        if removable(solver, left, cell):
            del left[cell]
    puzzle = np.full(len(solution), BLANK, dtype=np.int64)
    for cell, digit in left.items():
        puzzle[cell] = digit + FIRST_DIGIT
    return puzzle


def grade(puzzle: np.ndarray, board: Geometry | None = None) -> tuple[str, int]:
    """Return the difficulty of a unique puzzle (L,) and its guess nodes; see `generate` for the classes."""
    side = (board or geometry_of(puzzle)).side
    guesses, clues = search(puzzle, board=board).guesses, int((puzzle >= FIRST_DIGIT).sum())
    if guesses:
        return ("extreme" if guesses >= _EXTREME.get(side, _EXTREME[9]) else "hard"), guesses
    return ("easy" if clues >= clues_of("easy", side)[0] else "medium"), guesses


def clues_of(difficulty: str, side: int) -> tuple[int, int]:
    """Return the fewest and most clues of an easy or medium puzzle."""
    known, other, large = {
        "easy": (_EASY, _OTHER_EASY, _LARGE_EASY), "medium": (_MEDIUM, _OTHER_MEDIUM, _LARGE_MEDIUM),
    }[difficulty]  # fmt: skip
    low, high = large if side > 9 else other
    return known.get(side, (math.ceil(low * side * side), math.floor(high * side * side)))


def parse_mix(difficulty: str) -> dict[str, float]:
    """Read a difficulty or a mix of them: "hard", "mixed", "easy,medium", "easy:4,medium:5,hard:1".

    Returns
    -------
    dict
        Share of every difficulty, summing to 1.

    Raises
    ------
    ValueError
        If a name is unknown or a weight is not a positive number.
    """
    if difficulty == "mixed":
        difficulty = ",".join(DIFFICULTIES)
    weights: dict[str, float] = {}
    for part in difficulty.split(","):
        name, _, weight = part.strip().partition(":")
        if name not in DIFFICULTIES:
            raise ValueError(
                f"difficulty {name!r} unknown; choose from {', '.join(DIFFICULTIES)} or a mixture of these; "
                "outside of mixtures also mixed (all of them) and, for 9x9, hardest"
            )
        if (weight and not weight.isdecimal()) or (weight and not int(weight)):
            raise ValueError(f"the weight of {name} must be a positive whole number, got {weight!r}")
        weights[name] = weights.get(name, 0) + int(weight or 1)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def generate(
    side: int | Geometry,
    count: int,
    difficulty: str = "mixed",
    seed: int = 0,
    exclude: Iterable[int] = (),
) -> Iterator[Generated]:
    """Generate puzzles with exactly one solution, no two of them equivalent under the Sudoku symmetries.

    Parameters
    ----------
    side
        4 to 25, for any boxes a geometry.
    count
        How many puzzles; the first k do not depend on it.
    difficulty
        One of the classes below, or a mix as `parse_mix` reads it.  "mixed" takes all four in turn.

        - "easy": singles suffice, many clues (30-36 on 9x9, 14-18 on 6x6, 6-9 on 4x4);
        - "medium": singles suffice, few clues (22-29, 8-13, 4-5);
        - "hard": singles do not suffice, minimal (no clue can go), fewer guess nodes than "extreme";
        - "extreme": minimal, at least 10 guess nodes on 9x9, 4 on 6x6.
    seed
        Of every random choice.
    exclude
        Fingerprints (see `symmetry.fingerprint`) that must not come up.

    Yields
    ------
    Generated
        One puzzle at a time.

    Raises
    ------
    ValueError
        If the side or the difficulty is unknown, the count is negative, or a difficulty does not turn up: 4x4 has
        no hard puzzles, singles solve them all.

    Notes
    -----
    Beyond 9x9 "easy" has 54 to 60 % of the cells as clues, "medium" 47 to 53 %.  There, and on 4x4, "mixed" is
    "easy,medium".  A 9x9 takes about 10 to 40 ms, a 6x6 1 to 100 ms (6x6 puzzles that need a guess are rare).
    """
    board = board_of_side(side)
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    side = board.side
    if difficulty == "mixed" and (side == 4 or side > _GUESSING):
        difficulty = "easy,medium"
    if side > _GUESSING and {"hard", "extreme"} & set(parse_mix(difficulty)):
        raise ValueError(
            f"hard and extreme puzzles are generated up to 9x9, got {side}x{side}; ask for easy or medium"
        )
    box = () if board == geometry(side) else (board.box_rows, board.box_columns)
    rng = np.random.default_rng([nonnegative(seed), side, *box])
    shares, made = parse_mix(difficulty), dict.fromkeys(DIFFICULTIES, 0)
    seen = {int(value) for value in exclude}
    for k in range(count):
        wanted = max(shares, key=lambda name: shares[name] * (k + 1) - made[name])
        for _ in range(_TRIES):
            candidate = _attempt(board, wanted, rng)
            if candidate.difficulty == wanted:
                mark = int(fingerprint(candidate.puzzle, board)[0])
                if mark not in seen:
                    break
        else:
            raise ValueError(
                f"no new {wanted} {side}x{side} puzzle in {_TRIES} boards after {k} puzzles; ask for fewer puzzles, "
                "or for another difficulty"
            )
        seen.add(mark)
        made[wanted] += 1
        yield candidate


def _attempt(board: Geometry, wanted: str, rng: np.random.Generator) -> Generated:
    """Dig one puzzle as the requested difficulty requires; the result may belong to another class."""
    solution = random_solution(board, rng)
    clues = clues_of(wanted, board.side) if wanted in ("easy", "medium") else None
    target = int(rng.integers(clues[0], clues[1] + 1)) if clues else 0
    puzzle = dig(solution, target, singles=clues is not None, rng=rng, board=board)
    difficulty, guesses = grade(puzzle, board)
    return Generated(puzzle, solution, difficulty, guesses, int((puzzle >= FIRST_DIGIT).sum()))
