"""Puzzle files of characters: CSV with a header, or one puzzle a line; plain or gzip."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eqrlab.core.labels import ELSEWHERE, ZERO
from eqrlab.datasets import checks, maze
from eqrlab.datasets.decode import read_text
from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.formats.columns import PAIRS, Line, find_columns, rows_of_labels
from eqrlab.datasets.puzzles import Draw, PuzzleSet, rows_drawn
from eqrlab.datasets.registry.generic import MOST_CELLS, MOST_TOKENS
from eqrlab.datasets.registry.generic import NAME as GENERIC
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.lookup import task_of_text
from eqrlab.datasets.registry.task import Task, are_numbers

_SEPARATORS = ",;\t|"
FIELDS = ("puzzle", "solution")
_MOST_FAULTS = 1000  # a file with more is not looked at any further
_LOOKED_AT = 1000  # lines among which one must tell the task


def csv_separator(path: Path, text: str) -> str | None:
    """Return what separates the fields of a CSV file, or None for a file of plain lines.

    A file is CSV by its name, or because its first line has commas and is no comment, or names a puzzle column.
    """
    first = next(io.StringIO(text.lstrip(), newline=None), "")
    for separator in _SEPARATORS:
        try:
            fields = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            continue
        if {name.strip().lower() for name in fields} & {name for name, _ in PAIRS}:
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
    # Spaces before quotes belong to no field; where there are none, a maze may begin with spaces.
    spaced = re.search(rf'{re.escape(separator)} +"[^"\r\n{re.escape(separator)}]', text) is not None
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, strict=True, delimiter=separator, skipinitialspace=spaced)
    rows = _csv_rows(path, reader)
    header = [name.strip() for name in next(rows, [])]
    if not header:
        raise PuzzleFileError(f"{path}:1: empty file; a header with the columns puzzle,solution is required")
    puzzle, solution = find_columns(f"{path}:{reader.line_num}", header)
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


def _has_spaces_for_blanks(puzzle: str) -> bool:
    """Say whether numbers that stand in no columns look like a Sudoku, of which spaces at both ends may be lost."""
    words = list(re.finditer(r"\S+", puzzle))
    if "  " not in puzzle or all(len(word[0]) == 1 for word in words):
        return False
    for at in (re.Match.start, re.Match.end):
        if len({at(b) - at(a) for a, b in itertools.pairwise(words)}) == 1:
            return False
    side = math.isqrt(len(puzzle) - 1) + 1
    known = task_of_text(puzzle.ljust(side * side))
    return known is not None and {" ", *known.alphabet[1:]} >= set(puzzle)


def guess_task(puzzles: list[str]) -> str:
    """Return the task of the first puzzle that has the length of one.

    Raises
    ------
    ValueError
        If none has, or if it is not told which of two it is.
    """
    for puzzle in puzzles:
        if are_numbers(puzzle):
            if any(map(_has_spaces_for_blanks, puzzles)):
                raise ValueError(
                    "this looks like a Sudoku with spaces for its blanks, which are written '.' or '0'; "
                    f"--task {GENERIC} reads numbers set apart by spaces"
                )
            return GENERIC
        found = task_of_text(puzzle)
        if found is not None:
            return found.name
    side = math.isqrt(len(puzzles[0]))
    if side * side == len(puzzles[0]) >= 16 and not set(puzzles[0]) <= set(maze.ALPHABET):
        raise ValueError(
            f"the boxes of a {side}x{side} Sudoku are not known (4x4, 6x6, 8x8, 9x9, 10x10, 12x12, ... 25x25 are); "
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
    return scan_rows(path, task, columns, rows, limit, draw)


def scan_rows(
    path: Path,
    task: str | None,
    columns: list[str],
    rows: Iterator[Line | Fault],
    limit: int | None,
    draw: Draw | None = None,
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read the rows of a table as far as they are sound; see `files.scan`."""
    asked = task is not None
    head = list(itertools.islice(rows, min(_LOOKED_AT, limit or _LOOKED_AT)))
    if not head:
        raise PuzzleFileError(f"{path}:1: no puzzles in this file")
    wrong = [row for row in head if isinstance(row, Fault)]
    lines = [row for row in head if isinstance(row, Line)]
    if task is None and not lines:
        return None, wrong
    try:
        task = _with_length(task or guess_task([line.puzzle for line in lines]), lines)
    except ValueError as error:
        return None, [*wrong, Fault(f"{path}:{lines[0].number}", str(error))]
    rows = itertools.chain(head, rows)
    if draw is not None:
        rows = iter(every := list(rows))
        available = sum(isinstance(row, Line) for row in every)
        taken = rows_drawn(available, draw)
        if taken is not None:
            draw = dataclasses.replace(draw, available=available)
            return _read_rows(path, task, columns, rows, limit, draw, set(taken.tolist()), asked=asked)
    return _read_rows(path, task, columns, rows, limit, asked=asked)


def _with_length(task: str, lines: list[Line]) -> str:
    """Return a task of open sizes with the length of the first puzzle, where it has none of its own."""
    known = task_named(task)
    if known.sized is None or all(known.board) or not lines:
        return task
    cells = max(1, len(lines[0].puzzle.replace(",", " ").split()))
    if cells > MOST_CELLS:
        raise ValueError(f"a puzzle of {cells} cells, of which {MOST_CELLS} are allowed")
    return f"{known.name.partition('-')[0]}-{cells}" + (f"-v{known.vocab_size}" if known.vocab_size else "")


def _read_rows(
    path: Path,
    task: str,
    columns: list[str],
    rows: Iterable[Line | Fault],
    limit: int | None,
    draw: Draw | None = None,
    taken: Container[int] | None = None,
    *,
    asked: bool,
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read the first `limit` puzzles of a task, or those `taken`, as far as they are sound."""
    sound: list[Line] = []
    inputs, labels, wrong = list[np.ndarray](), list[np.ndarray](), list[Fault]()
    seen = 0
    for row in rows:
        if seen == limit:
            break
        if len(wrong) == _MOST_FAULTS:
            wrong.append(Fault(wrong[-1].place, "too many faults, the rest of the file was not looked at"))
            break
        if isinstance(row, Fault):
            wrong.append(row)
            continue
        seen += 1
        if taken is not None and seen - 1 not in taken and _is_well_formed(task, row):
            continue
        try:
            tokens = _encode(task, row.puzzle, "puzzle")
            label = _encode(task, row.solution, "solution") if row.solution else np.zeros_like(tokens)
        except ValueError as error:
            wrong.append(Fault(f"{path}:{row.number}", str(error)))
        else:
            sound.append(row)
            inputs.append(tokens)
            labels.append(label)
    reasons: dict[int, str] = {}
    if sound:
        stacked, known = np.stack(inputs), np.stack(labels)
        solutions = known if known.any() else None
        if task_named(task).sized is None:
            task, reasons = checks.best_fit(task, stacked, solutions, asked)
        else:  # a task of open vocabulary knows no other faults
            reasons = checks.without_solution(solutions)
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


def _reading(task: str) -> Task:
    """Return a task as its rows are read: one of open vocabulary takes any token."""
    known = task_named(task)
    return known if known.sized is None else known.sized(MOST_TOKENS, known.board)


def _is_well_formed(task: str, line: Line) -> bool:
    """Say whether a line has the right length and characters, without reading it."""
    known = _reading(task)
    fields = (line.puzzle, line.solution) if line.solution else (line.puzzle,)
    if known.alphabet and all(len(text) == known.seq_len for text in fields):
        return all(known.codes.keys() >= set(text) for text in fields)
    try:
        return all(len(_encode(task, text, what)) for text, what in zip(fields, FIELDS, strict=False))
    except ValueError:
        return False


def _line_number(fault: Fault) -> int:
    return int(fault.place.rpartition(":")[2])


def _solution(known: Task, text: str) -> np.ndarray:
    """Read a solution of numbers, some of which mark cells that do not count, or a token 0 that does."""
    words = text.replace(",", " ").split()
    marks = [int(word) if word in (str(ZERO), str(ELSEWHERE)) else 0 for word in words]
    try:
        tokens = known.encode(
            " ".join("0" if mark else word for word, mark in zip(words, marks, strict=True))
        )
    except ValueError as error:
        raise ValueError(f"solution: {error}") from None
    return rows_of_labels(np.where(marks, marks, tokens)[None])[0]


def _encode(task: str, text: str, what: str) -> np.ndarray:
    """Read one field; a length that another size has is named as a mixture."""
    known = _reading(task)
    numbers = not known.alphabet or (len(text) != known.seq_len and are_numbers(text))
    if numbers:
        found = len(text.replace(",", " ").split())
        if found != known.seq_len:
            raise ValueError(
                f"wrong length: the {what} has {found} tokens, {task} has {known.seq_len}; one file holds one size"
            )
        if what == "solution" and not known.alphabet:
            return _solution(known, text)
    elif len(text) != known.seq_len:
        other = task_of_text(text) if what == "puzzle" else None
        hint = "; one file holds one size" if other is not None and other.kind == known.kind else ""
        raise ValueError(
            f"wrong length: the {what} has {len(text)} characters, {task} has {known.seq_len}{hint}"
        )
    try:
        return known.encode(text)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
