"""Puzzle files of characters: CSV with a header, or one puzzle a line; plain or gzip."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eqrlab.core.messages import brief
from eqrlab.datasets import checks, maze
from eqrlab.datasets.decode import read_text
from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.puzzles import Draw, PuzzleSet, rows_drawn
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.lookup import task_of_text

_PAIRS = (
    ("puzzle", "solution"),
    ("question", "answer"),  # the published Sudoku-Extreme files
    ("quizzes", "solutions"),  # the files of a million that most tutorials use
    ("quiz", "solution"),
    ("puzzles", "solutions"),
    ("questions", "answers"),
)  # names of columns, in lower case
_SEPARATORS = ",;\t|"
_MOST_FAULTS = 1000  # a file with more is not looked at any further
_LOOKED_AT = 1000  # lines among which one must tell the task


class Line(NamedTuple):
    """One puzzle as written: line number, characters, characters of the solution ("": none), further fields."""

    number: int
    puzzle: str
    solution: str
    extra: tuple[str, ...]


def csv_separator(path: Path, text: str) -> str | None:
    """Return what separates the fields of a CSV file, or None for a file of plain lines.

    A file is CSV by its name, or because its first line has commas and is no comment, or names a puzzle column.
    """
    first = next(io.StringIO(text.lstrip(), newline=None), "")
    for separator in _SEPARATORS:
        try:
            names = {name.strip().lower() for name in next(csv.reader([first], delimiter=separator), [])}
        except csv.Error:
            continue
        if names & {name for name, _ in _PAIRS}:
            return separator
    named = path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))
    return "," if named or ("," in first and first[0] != "#") else None


def csv_lines(path: Path, text: str, separator: str) -> tuple[list[str], Iterator[Line | Fault]]:
    """Split a CSV file: names of the further columns, then puzzles and rows with a wrong number of fields.

    Raises
    ------
    ValueError
        If a column is missing or named twice, or the quoting is broken (also while lines are taken), with its place.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows = _csv_rows(path, reader)
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise PuzzleFileError(f"{path}:1: empty file; a header with the columns puzzle,solution is required")
    puzzle, solution = _columns(path, reader.line_num, header)
    extra = [k for k in range(len(header)) if k not in (puzzle, solution)]

    def lines() -> Iterator[Line | Fault]:
        for row in rows:
            if len(row) == len(header):
                known = "" if solution is None else _trimmed(row[solution])
                yield Line(reader.line_num, _trimmed(row[puzzle]), known, tuple(row[k] for k in extra))
            else:
                reason = f"{len(row)} fields, the header has {len(header)}"
                yield Fault(f"{path}:{reader.line_num}", reason)

    return [header[k] for k in extra], lines()


def _csv_rows(path: Path, reader: Any) -> Iterator[list[str]]:
    """Take the rows of a csv.reader that are not empty."""
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise PuzzleFileError(f"{path}:{reader.line_num}: broken CSV ({error})") from error


def _columns(path: Path, line: int, header: list[str]) -> tuple[int, int | None]:
    """Find the puzzle and the solution column; capitals count as small letters, and solutions may be left out."""
    spelt = {name for pair in _PAIRS for name in pair} - set(header)
    plain = [name.lower() if name.lower() in spelt else name for name in header]
    for name, count in collections.Counter(plain).items():
        if count > 1:
            raise PuzzleFileError(f"{path}:{line}: column {brief(name)} stands {count} times in the header")
    for puzzle, solution in _PAIRS:
        if puzzle in plain and solution in plain:
            return plain.index(puzzle), plain.index(solution)
    begun = [pair for pair in _PAIRS if pair[0] in plain]
    if begun and not any(solution in plain for _, solution in _PAIRS):
        return plain.index(begun[0][0]), None
    puzzle, solution = next((pair for pair in (*begun, *_PAIRS) if set(pair) & set(plain)), _PAIRS[0])
    missing = solution if puzzle in plain else puzzle
    told = ", ".join(brief(name) for name in header[:6]) + (", ..." if len(header) > 6 else "")
    raise PuzzleFileError(
        f"{path}:{line}: column {missing!r} is missing; the header must name puzzle,solution or question,answer "
        f"(solutions may be left out), it names {told}"
    )


def _trimmed(field: str) -> str:
    """Strip white space, which means something in mazes only."""
    return field if "#" in field else field.strip()


def plain_lines(text: str) -> Iterator[Line]:
    """Split a file with one puzzle a line; empty lines and comments starting with `#` are no puzzles.

    Notes
    -----
    In a file of mazes a line starting with `#` is a comment only if a space and, somewhere, a character that no maze
    has follow.
    """

    def rows() -> Iterable[str]:
        return (line.rstrip("\n") for line in io.StringIO(text, newline=None))  # any kind of line end

    mazes = any(map(_looks_like_maze, rows()))
    for number, line in enumerate(rows(), start=1):
        comment = (
            line.startswith("# ") and not set(line) <= set(maze.ALPHABET) if mazes else line.startswith("#")
        )
        if line.strip() and not comment:
            yield Line(number, line if mazes else line.strip(), "", ())


def _looks_like_maze(line: str) -> bool:
    return line.count("S") == 1 == line.count("G") and "#" in line and set(line) <= set(maze.ALPHABET)


def guess_task(puzzles: list[str]) -> str:
    """Return the task of the first puzzle that has the length of one.

    Raises
    ------
    ValueError
        If none has.
    """
    for puzzle in puzzles:
        found = task_of_text(puzzle)
        if found is not None:
            return found.name
    side = math.isqrt(len(puzzles[0]))
    if side * side == len(puzzles[0]) >= 16 and not set(puzzles[0]) <= set(maze.ALPHABET):
        raise ValueError(
            f"{side}x{side} Sudoku has no boxes here (4x4, 6x6, 8x8, 9x9, 10x10, 12x12, ... 25x25 have); "
            "--task NAME names any other task"
        )
    raise ValueError(
        f"wrong length: a puzzle has 16, 36, 64, 81, ... characters (Sudoku), or is a maze of 5 x 5 to 99 x 99 "
        f"characters with walls '#', got {len(puzzles[0])} characters; --task NAME names any other task"
    )


def scan_text(
    path: Path, task: str | None, limit: int | None, draw: Draw | None = None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read a CSV or plain file as far as it is sound; see `files.scan`."""
    text = read_text(path)
    separator = csv_separator(path, text)
    columns: list[str] = []
    rows: Iterator[Line | Fault] = plain_lines(text)
    if separator is not None:
        columns, rows = csv_lines(path, text, separator)
    head = list(itertools.islice(rows, min(_LOOKED_AT, limit or _LOOKED_AT)))
    if not head:
        raise PuzzleFileError(f"{path}:1: no puzzles in this file")
    wrong = [row for row in head if isinstance(row, Fault)]
    lines = [row for row in head if isinstance(row, Line)]
    if task is None:
        if not lines:
            return None, wrong
        try:
            task = guess_task([line.puzzle for line in lines])
        except ValueError as error:
            return None, [*wrong, Fault(f"{path}:{lines[0].number}", str(error))]
    rows = itertools.chain(head, rows)
    if draw is not None:
        rows = iter(every := list(rows))
        available = sum(isinstance(row, Line) for row in every)
        taken = rows_drawn(available, draw)
        if taken is not None:
            draw = dataclasses.replace(draw, available=available)
            return _read_rows(path, task, columns, rows, limit, draw, set(taken.tolist()))
    return _read_rows(path, task, columns, rows, limit)


def _read_rows(
    path: Path,
    task: str,
    columns: list[str],
    rows: Iterable[Line | Fault],
    limit: int | None,
    draw: Draw | None = None,
    taken: Container[int] | None = None,
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read the first `limit` puzzles of a task, or those `taken`, as far as they are sound."""
    sound: list[Line] = []
    inputs, labels, wrong = list[np.ndarray](), list[np.ndarray](), list[Fault]()
    seen = 0
    for row in rows:
        if len(wrong) == _MOST_FAULTS:
            wrong.append(Fault(wrong[-1].place, "too many faults, the rest of the file was not looked at"))
            break
        if isinstance(row, Fault):
            wrong.append(row)
            continue
        if seen == limit:
            break
        seen += 1
        if taken is not None and seen - 1 not in taken and _is_well_formed(task, row):
            continue
        try:
            tokens = _encode(task, row.puzzle, "puzzle")
            label = _encode(task, row.solution, "solution") if row.solution else tokens
        except ValueError as error:
            wrong.append(Fault(f"{path}:{row.number}", str(error)))
        else:
            sound.append(row)
            inputs.append(tokens)
            labels.append(label)
    solved = next((line.number for line in sound if line.solution), None)
    reasons: dict[int, str] = {}
    if sound:
        stacked, solutions = np.stack(inputs), np.stack(labels) if solved is not None else None
        reasons = checks.faults(task, stacked, solutions)
    if solved is not None:
        lacking = f"no solution here, but there is one in line {solved}"
        reasons |= {place: lacking for place, line in enumerate(sound) if not line.solution}
    wrong += [Fault(f"{path}:{sound[place].number}", reason) for place, reason in reasons.items()]
    wrong.sort(key=_line_number)
    if not sound:
        return None, wrong
    keep = [place for place in range(len(sound)) if place not in reasons]
    puzzles = PuzzleSet(
        stacked[keep],
        None if solutions is None else solutions[keep],
        task,
        {name: tuple(sound[place].extra[k] for place in keep) for k, name in enumerate(columns)},
        str(path),
        tuple(f"{path.name}:{sound[place].number}" for place in keep),
        draw,
    )
    return puzzles, wrong


def _is_well_formed(task: str, line: Line) -> bool:
    """Say whether a line has the right length and characters, without reading it."""
    known = task_named(task)
    fields = (line.puzzle, line.solution) if line.solution else (line.puzzle,)
    if known.alphabet:
        return all(len(text) == known.seq_len and known.codes.keys() >= set(text) for text in fields)
    try:
        return all(len(known.encode(text)) for text in fields)
    except ValueError:
        return False


def _line_number(fault: Fault) -> int:
    return int(fault.place.rpartition(":")[2])


def _encode(task: str, text: str, what: str) -> np.ndarray:
    """Read one field; a length that another size has is named as a mixture."""
    known = task_named(task)
    if known.alphabet and len(text) != known.seq_len:
        other = task_of_text(text) if what == "puzzle" else None
        hint = "; one file holds one size" if other is not None and other.kind == known.kind else ""
        raise ValueError(
            f"wrong length: the {what} has {len(text)} characters, {task} has {known.seq_len}{hint}"
        )
    try:
        return known.encode(text)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
