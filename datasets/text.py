"""Puzzle files of characters: CSV with a header, or one puzzle a line; plain or gzip."""

from __future__ import annotations

import collections
import csv
import gzip
import io
import math
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eqrlab.datasets import checks, maze, tasks
from eqrlab.datasets.puzzles import PuzzleSet

_PAIRS = (
    ("puzzle", "solution"),
    ("question", "answer"),
)  # the second as in the published Sudoku-Extreme files


_LEAST_TEXT, _MOST_RATIO = (
    1 << 24,
    100,
)  # bytes of text that any gzip file may have, and more in proportion to its size


class Fault(NamedTuple):
    """What is wrong in one place: `place` is "file:line"."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Line(NamedTuple):
    """One puzzle as written: line number, characters, characters of the solution ("": none), further fields."""

    number: int
    puzzle: str
    solution: str
    extra: tuple[str, ...]


def read_text(path: Path) -> str:
    """Read a file of characters, decompressed if need be.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is a broken gzip file or not UTF-8, with file and line.
    """
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
        raise ValueError(f"{path}: is no regular file; a file, a pipe or a folder of puzzles is required")
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = _decompressed(path, data)
    elif path.suffix == ".gz":
        raise ValueError(f"{path}:1: not a gzip file, although its name ends in .gz")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not a text file (byte {data[error.start]:#04x})") from error


def _decompressed(path: Path, data: bytes) -> bytes:
    """Decompress a gzip file as far as puzzles can have been compressed: a small file cannot fill the memory."""
    most, parts, size = _LEAST_TEXT + _MOST_RATIO * len(data), list[bytes](), 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read1(1 << 20):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise ValueError(
                        f"{path}: {len(data)} bytes of gzip give more than {most} bytes of text, which no puzzles do; "
                        "decompress the file if it is sound"
                    )
    except (EOFError, OSError, zlib.error) as error:
        line = sum(part.count(b"\n") for part in parts) + 1
        raise ValueError(f"{path}:{line}: broken or truncated gzip file ({error})") from error
    return b"".join(parts)


def is_csv(path: Path, text: str) -> bool:
    """Say whether a file is CSV: by its name, or because its first line has commas and is no comment."""
    first = text.partition("\n")[0]
    return path.name.lower().removesuffix(".gz").endswith(".csv") or ("," in first and first[0] != "#")


def csv_lines(path: Path, text: str) -> tuple[list[Line], list[str], list[Fault]]:
    """Split a CSV file: lines, names of the further columns, rows with a wrong number of fields.

    Raises
    ------
    ValueError
        If a column is missing or named twice, or the quoting is broken, with file and line.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, wrong = [], []
    header: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                places, extra = _columns(path, reader.line_num, header)
            elif len(row) != len(header):
                reason = f"{len(row)} fields, the header has {len(header)}"
                wrong.append(Fault(f"{path}:{reader.line_num}", reason))
            else:
                puzzle, solution = (_trimmed(row[place]) for place in places)
                lines.append(Line(reader.line_num, puzzle, solution, tuple(row[k] for k in extra)))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: broken CSV ({error})") from error
    if header is None:
        raise ValueError(f"{path}:1: empty file; a header with the columns puzzle,solution is required")
    return lines, [header[k] for k in extra], wrong


def _columns(path: Path, line: int, header: list[str]) -> tuple[tuple[int, int], list[int]]:
    """Find the puzzle and the solution column, and the places of the others."""
    for name, count in collections.Counter(header).items():
        if count > 1:
            raise ValueError(f"{path}:{line}: column {name!r} stands {count} times in the header")
    for pair in _PAIRS:
        if pair[0] in header and pair[1] in header:
            puzzle, solution = header.index(pair[0]), header.index(pair[1])
            return (puzzle, solution), [k for k in range(len(header)) if k not in (puzzle, solution)]
    missing = [name for name in _PAIRS[0] if name not in header]
    raise ValueError(
        f"{path}:{line}: column {missing[0]!r} is missing; the header must name puzzle,solution "
        f"(solution fields may be empty), it names {','.join(header)}"
    )


def _trimmed(field: str) -> str:
    """Strip white space, which means something in mazes only."""
    return field if "#" in field else field.strip()


def plain_lines(path: Path, text: str) -> list[Line]:
    """Split a file with one puzzle a line; empty lines and comments starting with `#` are no puzzles.

    Notes
    -----
    In a file of mazes a line starting with `#` is a comment only if a space and, somewhere, a character that no maze
    has follow.
    """
    rows = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    mazes = any(_looks_like_maze(line) for _, line in rows)
    lines = []
    for number, line in rows:
        comment = (
            line.startswith("# ") and not set(line) <= set(maze.ALPHABET) if mazes else line.startswith("#")
        )
        if line.strip() and not comment:
            lines.append(Line(number, line if mazes else line.strip(), "", ()))
    return lines


def _looks_like_maze(line: str) -> bool:
    return line.count("S") == 1 == line.count("G") and "#" in line and set(line) <= set(maze.ALPHABET)


def guess_task(lines: list[Line]) -> str:
    """Return the task of the first line that has the length of one.

    Raises
    ------
    ValueError
        If no line has.
    """
    for line in lines:
        side = math.isqrt(len(line.puzzle))
        if side * side == len(line.puzzle):
            if "#" in line.puzzle and side in tasks.MAZE_SIDES:
                return f"maze{side}"
            if "#" not in line.puzzle and side in tasks.SUDOKU_SIDES:
                return f"sudoku{side}"
    raise ValueError(
        f"wrong length: a puzzle has 16, 36 or 81 characters (Sudoku) or a square number (maze), "
        f"got {len(lines[0].puzzle)}"
    )


def scan_text(path: Path, task: str | None, limit: int | None) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read a CSV or plain file as far as it is sound; see `files.scan`."""
    text = read_text(path)
    columns: list[str] = []
    wrong: list[Fault] = []
    if is_csv(path, text):
        lines, columns, wrong = csv_lines(path, text)
    else:
        lines = plain_lines(path, text)
    if not lines and not wrong:
        raise ValueError(f"{path}:1: no puzzles in this file")
    if not lines:
        return None, wrong
    lines = lines[:limit]
    if task is None:
        try:
            task = guess_task(lines)
        except ValueError as error:
            return None, [*wrong, Fault(f"{path}:{lines[0].number}", str(error))]
    sound, inputs, labels = [], [], []
    solved = next((line.number for line in lines if line.solution), None)
    for line in lines:
        try:
            tokens = _encode(task, line.puzzle, "puzzle")
            if solved is not None and not line.solution:
                raise ValueError(f"no solution here, but there is one in line {solved}")
            label = _encode(task, line.solution, "solution") if line.solution else tokens
        except ValueError as error:
            wrong.append(Fault(f"{path}:{line.number}", str(error)))
        else:
            sound.append(line)
            inputs.append(tokens)
            labels.append(label)
    if not sound:
        return None, sorted(wrong, key=_line_number)
    stacked, solutions = np.stack(inputs), np.stack(labels) if solved is not None else None
    reasons = checks.faults(task, stacked, solutions)
    wrong += [Fault(f"{path}:{sound[row].number}", reason) for row, reason in reasons.items()]
    keep = [row for row in range(len(sound)) if row not in reasons]
    puzzles = PuzzleSet(
        stacked[keep],
        None if solutions is None else solutions[keep],
        task,
        {name: tuple(sound[row].extra[k] for row in keep) for k, name in enumerate(columns)},
        str(path),
        tuple(f"{path.name}:{sound[row].number}" for row in keep),
    )
    return puzzles, sorted(wrong, key=_line_number)


def _line_number(fault: Fault) -> int:
    return int(fault.place.rpartition(":")[2])


def _encode(task: str, text: str, what: str) -> np.ndarray:
    """Read one field; a length that another size has is named as a mixture."""
    length = tasks.seq_len(task)
    if len(text) != length:
        other = what == "puzzle" and len(text) in {side * side for side in tasks.SUDOKU_SIDES}
        hint = "; one file holds one size" if other else ""
        raise ValueError(f"wrong length: the {what} has {len(text)} characters, {task} has {length}{hint}")
    try:
        return tasks.encode(task, text)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
