"""Solve Sudoku exactly: singles, then guesses, on bit boards; count solutions and measure difficulty."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from eqrlab.datasets.sudoku import BLANK, FIRST_DIGIT, Geometry, board_of


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes
    ----------
    solutions
        Solutions as tokens, (k, L) int64, k <= limit.
    guesses
        Guess nodes: candidates placed without proof.  0 means that singles solved (or refuted) the puzzle.
    complete
        Whether the whole tree was searched, so that there are no solutions beyond those listed.
    """

    solutions: np.ndarray
    guesses: int
    complete: bool


class BitBoard:
    """Sudoku as an exact cover in one integer: bit `digit * L + cell` says that the candidate is still possible.

    Every constraint (a cell takes one digit; a digit takes one place in a row, a column, a box) is a set of N
    candidates.  Constraints of one kind are disjoint translates of each other, so that counting "none", "one" and
    "more" candidates of all L of them takes N shifts of the whole integer.

    Attributes
    ----------
    full
        All candidates.
    kinds
        For cells, rows, columns, boxes: (first candidate of every constraint, the N shifts, sum of 2**shift).
    keep
        For every candidate, the candidates that stay when it is placed.
    """

    def __init__(self, board: Geometry):
        self.board = board
        side, cells = board.side, board.cells
        self.full = (1 << (side * cells)) - 1
        digits = range(side)
        corners = [
            row * side + column
            for row in range(0, side, board.box_rows)
            for column in range(0, side, board.box_columns)
        ]
        inside = [row * side + column for row in range(board.box_rows) for column in range(board.box_columns)]
        layout = [
            (range(cells), [d * cells for d in digits]),
            ([d * cells + row * side for d in digits for row in digits], list(digits)),
            ([d * cells + column for d in digits for column in digits], [row * side for row in digits]),
            ([d * cells + corner for d in digits for corner in corners], inside),
        ]
        self.kinds = [
            (sum(1 << first for first in firsts), tuple(shifts), sum(1 << shift for shift in shifts))
            for firsts, shifts in layout
        ]
        excluded = [0] * (side * cells)
        for firsts, shifts in layout:
            for first in firsts:
                group = sum(1 << (first + shift) for shift in shifts)
                for shift in shifts:
                    excluded[first + shift] |= group
        self.keep = [self.full & ~others | 1 << candidate for candidate, others in enumerate(excluded)]

    def start(self, givens: dict[int, int]) -> tuple[int, int]:
        """Return (candidates, placed) after placing givens: cell -> digit from 0."""
        candidates, placed = self.full, 0
        for cell, digit in givens.items():
            index = digit * self.board.cells + cell
            candidates &= self.keep[index]
            placed |= 1 << index
        return candidates, placed

    def propagate(self, candidates: int, placed: int) -> tuple[int, int] | None:
        """Place naked and hidden singles until none is left; None where a constraint has no candidate."""
        while True:
            new = 0
            for firsts, shifts, spread in self.kinds:
                once = twice = 0
                for shift in shifts:
                    here = candidates >> shift & firsts
                    twice |= once & here
                    once |= here
                if once != firsts:
                    return None
                # translates of one kind are disjoint: the product is the union of the shifted masks
                new |= candidates & ((once & ~twice) * spread)
            new &= ~placed
            if not new:
                return candidates, placed
            placed |= new
            while new:
                low = new & -new
                candidates &= self.keep[low.bit_length() - 1]
                new ^= low

    def branch(self, candidates: int) -> int:
        """Return the candidates of the constraint to guess in: two candidates, cells before places, or the fewest."""
        for firsts, shifts, spread in self.kinds:
            once = twice = thrice = 0
            for shift in shifts:
                here = candidates >> shift & firsts
                thrice |= twice & here
                twice |= once & here
                once |= here
            pairs = twice & ~thrice
            if pairs:
                return candidates & ((pairs & -pairs) * spread)
        spread = self.kinds[0][2]
        options = (candidates & (spread << cell) for cell in range(self.board.cells))
        return min((option for option in options if option.bit_count() > 1), key=int.bit_count)

    def solved(self, placed: int) -> bool:
        """Say whether every cell is placed."""
        return placed.bit_count() == self.board.cells

    def search(
        self,
        candidates: int,
        placed: int,
        limit: int,
        rng: np.random.Generator | None = None,
        nodes: float = math.inf,
    ) -> tuple[list[int], int, bool]:
        """Search depth first for `limit` solutions, by `nodes` guesses at most; guess in random order with `rng`,
        else digits ascending.

        Returns
        -------
        tuple
            Solutions as placed candidates, guess nodes, and whether the tree was exhausted.
        """
        found: list[int] = []
        guesses, stack = 0, [(candidates, placed)]
        while stack:
            if guesses > nodes:
                return found, guesses, False
            state = self.propagate(*stack.pop())
            if state is None:
                continue
            candidates, placed = state
            if self.solved(placed):
                found.append(placed)
                if len(found) == limit:
                    return found, guesses, False
                continue
            options, group = [], self.branch(candidates)
            while group:
                low = group & -group
                options.append(low)
                group ^= low
            order = rng.permutation(len(options)) if rng is not None else range(len(options) - 1, -1, -1)
            for k in order:
                guesses += 1
                keep = self.keep[options[k].bit_length() - 1]
                stack.append((candidates & keep, placed | options[k]))
        return found, guesses, True

    def tokens(self, placed: int) -> np.ndarray:
        """Write placed candidates as tokens (L,) int64."""
        tokens = np.full(self.board.cells, BLANK, dtype=np.int64)
        while placed:
            low = placed & -placed
            digit, cell = divmod(low.bit_length() - 1, self.board.cells)
            tokens[cell] = digit + FIRST_DIGIT
            placed ^= low
        return tokens


@functools.cache
def bit_board(board: Geometry) -> BitBoard:
    """Return the bit board of a geometry, built once."""
    return BitBoard(board)


def search(
    tokens: np.ndarray, limit: int = 2, *, board: Geometry | None = None, nodes: float = math.inf
) -> Search:
    """Solve one puzzle and say how hard it was.

    Parameters
    ----------
    tokens
        Puzzle (L,): tokens below 2 are blank.
    limit
        Stop after this many solutions.
    board
        The geometry; by default the usual one of the length.
    nodes
        Stop after this many guess nodes, too.

    Returns
    -------
    Search
        Solutions, guess nodes, and whether the tree was exhausted.

    Raises
    ------
    ValueError
        If `limit` is below 1 or the tokens are not a Sudoku board.

    Notes
    -----
    Guess nodes are counted over the whole tree (a unique puzzle with `limit` 2 is searched to the end), so they do
    not depend on the order of digits.  Ties between cells go to the first in reading order: a disguise of the
    puzzle may count slightly differently.  About 0.3 ms for an easy and 10 ms for a very hard 9x9.
    """
    if limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    tokens = np.asarray(tokens)
    board = board_of(tokens, board)
    if tokens.ndim != 1 or tokens.min() < 0 or tokens.max() >= board.vocab_size:
        raise ValueError(f"a puzzle is one row of tokens in [0, {board.vocab_size - 1}], got {tokens.shape}")
    solver = bit_board(board)
    givens = {int(c): int(tokens[c]) - FIRST_DIGIT for c in np.flatnonzero(tokens >= FIRST_DIGIT)}
    found, guesses, complete = solver.search(*solver.start(givens), limit, nodes=nodes)
    solutions = np.array([solver.tokens(placed) for placed in found], dtype=np.int64)
    return Search(solutions.reshape(len(found), board.cells), guesses, complete)


def solve(tokens: np.ndarray, limit: int = 2, board: Geometry | None = None) -> np.ndarray:
    """Return up to `limit` solutions of one puzzle (L,) as tokens (k, L); see `search`."""
    return search(tokens, limit, board=board).solutions


def is_unique(tokens: np.ndarray, board: Geometry | None = None) -> bool:
    """Say whether a puzzle (L,) has exactly one solution."""
    return len(solve(tokens, 2, board)) == 1


def count_guesses(tokens: np.ndarray) -> int:
    """Return the guess nodes that a singles-and-guess solver needs to solve a puzzle and prove it unique."""
    return search(tokens, 2).guesses
