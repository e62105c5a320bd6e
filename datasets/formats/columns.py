"""The columns of a table of puzzles, and one of its rows."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eqrlab.core.labels import ELSEWHERE, labels_of
from eqrlab.core.messages import brief
from eqrlab.datasets.faults import Fault, PuzzleFileError

PAIRS = (
    ("puzzle", "solution"),
    ("question", "answer"),  # the published Sudoku-Extreme files
    ("quizzes", "solutions"),  # the files of a million that most tutorials use
    ("quiz", "solution"),
    ("puzzles", "solutions"),
    ("questions", "answers"),
    ("inputs", "labels"),  # as the official folders name them
    ("input", "output"),
    ("input", "label"),
)  # names of columns, in lower case


def rows_of_labels(tokens: np.ndarray) -> np.ndarray:
    """Return the labels that solutions (n, L) of a table stand for; cells of -100 do not count.

    Token 0 counts in a row that marks others so, and does not count in one without such marks; -1 is token 0.
    """
    marked = (tokens == ELSEWHERE).any(axis=1, keepdims=True)
    return np.where(marked, labels_of(tokens, ELSEWHERE), tokens)


class Line(NamedTuple):
    """One puzzle as written: line number, characters, characters of the solution ("": none), further fields."""

    number: int
    puzzle: str
    solution: str
    extra: tuple[str, ...]


def find_columns(place: str, header: Sequence[str]) -> tuple[int, int | None]:
    """Find the puzzle and the solution column; capitals count as small letters, and solutions may be left out.

    Raises
    ------
    ValueError
        If one is missing or named twice; `place` is named.
    """
    spelt = {name for pair in PAIRS for name in pair} - set(header)
    plain = [name.lower() if name.lower() in spelt else name for name in header]
    for name, count in collections.Counter(plain).items():
        if count > 1:
            raise PuzzleFileError(f"{place}: column {brief(name)} stands {count} times in the header")
    for puzzle, solution in PAIRS:
        if puzzle in plain and solution in plain:
            return plain.index(puzzle), plain.index(solution)
    begun = [pair for pair in PAIRS if pair[0] in plain]
    if begun and not any(solution in plain for _, solution in PAIRS):
        return plain.index(begun[0][0]), None
    puzzle, solution = next((pair for pair in (*begun, *PAIRS) if set(pair) & set(plain)), PAIRS[0])
    missing = solution if puzzle in plain else puzzle
    told = ", ".join(brief(name) for name in header[:6]) + (", ..." if len(header) > 6 else "")
    raise PuzzleFileError(
        f"{place}: column {missing!r} is missing; the header must name puzzle,solution or question,answer "
        f"(solutions may be left out), it names {told}"
    )


def as_field(value: Any) -> str:
    """Return a value of a table as a CSV file would hold it: integers of lists, nested or not, set apart by spaces.

    Raises
    ------
    ValueError
        For a value that is neither text nor integers.

    Examples
    --------
    >>> as_field([[1, 2], [3, 4]]), as_field("53..7"), as_field(None)
    ('1 2 3 4', '53..7', '')
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str):
        return value
    cells: list[int] = []
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, np.ndarray):
            one = one.tolist()
        if isinstance(one, list | tuple):
            stack += reversed(one)
        elif type(one) is int and abs(one) < 1 << 31:
            cells.append(one)
        else:
            raise ValueError(f"a text or a list of integers is required, got {brief(one)}")
    return " ".join(map(str, cells))


def line_of(path: Path, number: int, puzzle: Any, solution: Any, extra: list[Any]) -> Line | Fault:
    """Return a row of a table as a line, its values as a CSV file would hold them."""
    try:
        fields = as_field(puzzle), as_field(solution)
    except ValueError as error:
        return Fault(f"{path}:{number}", str(error))
    return Line(number, *fields, tuple("" if value is None else str(value) for value in extra))
