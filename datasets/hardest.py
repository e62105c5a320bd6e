"""Very hard 9x9 Sudoku: minimal puzzles improved step by step towards more guesses, each from its own seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from eqrlab.core.seeds import nonnegative
from eqrlab.datasets.generate import Generated, random_solution
from eqrlab.datasets.solver import BitBoard, bit_board, count_guesses
from eqrlab.datasets.sudoku import BLANK, FIRST_DIGIT, geometry
from eqrlab.datasets.symmetry import fingerprint, random_symmetry

NAME = "hardest"
_SIDE, _CELLS = 9, 81
_LEAST = 10  # mean guess nodes of a puzzle at the start of a climb, and of one that is given out
_MEDIAN, _SPREAD = 60.0, 0.8  # of the log-normal law of the guess nodes at which a climb ends
_MOVES = 60  # after which it ends anyway
_DROPPED = 3  # most clues that a move takes away
_DISGUISES = 3  # over which guess nodes are averaged

Clues = dict[int, int]  # cell -> digit from 0


def _solver() -> BitBoard:
    return bit_board(geometry(_SIDE))


def _digits(placed: int) -> Clues:
    """Return the digits of a full board given as placed candidates."""
    digits = {}
    while placed:
        low = placed & -placed
        digit, cell = divmod(low.bit_length() - 1, _CELLS)
        digits[cell] = digit
        placed ^= low
    return digits


def _bits(clues: Clues) -> int:
    return sum(1 << (digit * _CELLS + cell) for cell, digit in clues.items())


def _tokens(clues: Clues) -> np.ndarray:
    tokens = np.full(_CELLS, BLANK, dtype=np.int64)
    for cell, digit in clues.items():
        tokens[cell] = digit + FIRST_DIGIT
    return tokens


class _Climb:
    """A minimal puzzle with one solution, and for every clue a witness: a board that violates only this clue.

    A witness proves that its clue is needed, and remains valid until a clue is added that it violates; most clues
    therefore need no new proof after a move.
    """

    def __init__(self, solution: Clues, rng: np.random.Generator):
        self.solver, self.solution, self.rng = _solver(), solution, rng
        self.placed = _bits(solution)
        self.clues, self.witnesses = self._minimal({}, {})

    def _minimal(self, clues: Clues, witnesses: dict[int, int]) -> tuple[Clues, dict[int, int]]:
        """Add clues of the solution until it is the only one, then remove those that are not needed."""
        clues, witnesses, solver = dict(clues), dict(witnesses), self.solver
        while True:
            found = solver.search(*solver.start(clues), 2)[0]
            other = next((board for board in found if board != self.placed), None)
            if other is None:
                break
            differs = sorted(cell for cell, digit in _digits(other & ~self.placed).items())
            cell = differs[self.rng.integers(len(differs))]
            clues[cell], witnesses[cell] = self.solution[cell], other
        bits = _bits(clues)
        for cell in self.rng.permutation(list(clues)).tolist():
            own = 1 << (clues[cell] * _CELLS + cell)
            if bits & ~own & ~witnesses.get(cell, 0) == 0:
                continue
            candidates, placed = solver.start({c: d for c, d in clues.items() if c != cell})
            found = solver.search(candidates & ~own, placed, 1)[0]
            if found:
                witnesses[cell] = found[0]
            else:
                del clues[cell]
                bits &= ~own
        return clues, {cell: witnesses[cell] for cell in clues}

    def move(self, guesses: float) -> float:
        """Replace up to `_DROPPED` clues; keep the puzzle that arises if it takes more guesses; return its guesses."""
        cells = sorted(self.clues)
        count = int(self.rng.integers(1, _DROPPED + 1))
        gone = {cells[k] for k in self.rng.choice(len(cells), count, replace=False)}
        kept = {c: d for c, d in self.clues.items() if c not in gone}
        clues, witnesses = self._minimal(kept, {c: self.witnesses[c] for c in kept})
        reached = mean_guesses(_tokens(clues), self.rng, least=guesses)
        if reached > guesses:
            self.clues, self.witnesses = clues, witnesses
        return max(reached, guesses)


def mean_guesses(puzzle: np.ndarray, rng: np.random.Generator, least: float = 0.0) -> float:
    """Return the guess nodes of a puzzle (L,), averaged over random disguises of it.

    Parameters
    ----------
    puzzle
        Tokens (L,).
    rng
        Source of the disguises.
    least
        Give up, returning 0, when the first disguise takes less than half of this.

    Notes
    -----
    The solver breaks ties in reading order, so that the count of one disguise is partly luck.  A search for large
    counts would select lucky counts (puzzles chosen by a single count lose about half of it when counted again).
    """
    symmetry = random_symmetry(geometry(_SIDE), _DISGUISES, rng)
    disguised = symmetry.apply(np.repeat(puzzle[None], _DISGUISES, axis=0))
    first = count_guesses(disguised[0])
    if first < least / 2:
        return 0.0
    return float(np.mean([first, *(count_guesses(row) for row in disguised[1:])]))


def climb(key: tuple[int, ...]) -> Generated:
    """Make the puzzle of a key: integers that seed the random numbers of its climb."""
    rng = np.random.default_rng(list(key))
    target = _MEDIAN * float(np.exp(_SPREAD * rng.standard_normal()))
    while True:
        solution = {cell: int(t) - FIRST_DIGIT for cell, t in enumerate(random_solution(_SIDE, rng))}
        state = _Climb(solution, rng)
        guesses = mean_guesses(_tokens(state.clues), rng, least=_LEAST)
        if guesses >= _LEAST:
            break
    for _ in range(_MOVES):
        if guesses >= target:
            break
        guesses = state.move(guesses)
    symmetry = random_symmetry(geometry(_SIDE), 1, rng)
    puzzle, full = (symmetry.apply(_tokens(c)[None])[0] for c in (state.clues, solution))
    return Generated(puzzle, full, NAME, count_guesses(puzzle), len(state.clues))


def generate_hardest(
    count: int, seed: int = 0, exclude: Iterable[int] = (), *, first: int = 0, workers: int = 1
) -> Iterator[Generated]:
    """Generate very hard minimal 9x9 puzzles, no two of them equivalent under the Sudoku symmetries.

    Parameters
    ----------
    count
        How many; the first k do not depend on it.
    seed
        Of every random choice.
    exclude
        Fingerprints (see `symmetry.fingerprint`) that must not come up.
    first
        Skip this many puzzles of the sequence, without making them.
    workers
        Processes that work at a time; the puzzles do not depend on it.

    Yields
    ------
    Generated
        One puzzle at a time, in order; `guesses` are those of the puzzle as it stands, which no choice depended on.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Every puzzle has its own random numbers and its own solution.  A climb starts at a random minimal puzzle of at least
    10 guess nodes; a move takes 1 to 3 clues away, adds clues of the solution until it is the only one, and takes away
    those not needed; it is kept if the guess nodes, averaged over three disguises, rise.  It ends at a target drawn
    from a log-normal law of median 60, or after 60 moves.  About a second of processor time a puzzle.
    """
    if count < 0 or first < 0 or workers < 1:
        raise ValueError(f"count and first must be >= 0 and workers >= 1, got {count}, {first}, {workers}")
    seen = {int(value) for value in exclude}
    keys = [(nonnegative(seed), _SIDE, number) for number in range(first, first + count)]
    if workers == 1:
        yield from _distinct(map(climb, keys), keys, seen)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from _distinct(pool.map(climb, keys, chunksize=4), keys, seen)


def _distinct(
    made: Iterable[Generated], keys: Sequence[tuple[int, ...]], seen: set[int]
) -> Iterator[Generated]:
    """Make again, with another key, what came up before."""
    for key, one in zip(keys, made, strict=True):
        retries = (climb((*key, attempt)) for attempt in itertools.count(1))
        for candidate in itertools.chain([one], retries):
            mark = int(fingerprint(candidate.puzzle)[0])
            if mark not in seen:
                break
        seen.add(mark)
        yield candidate
