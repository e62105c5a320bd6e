"""Tables of puzzles that are no CSV: JSON lines, parquet, feather, and NumPy arrays."""

from __future__ import annotations

import dataclasses
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eqrlab.core.labels import ZERO
from eqrlab.core.messages import brief
from eqrlab.datasets import checks
from eqrlab.datasets.decode import parsed, read_text
from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.formats.array_files import read_array
from eqrlab.datasets.formats.columns import Line, find_columns, line_of, rows_of_labels
from eqrlab.datasets.formats.frames import frame_rows
from eqrlab.datasets.puzzles import Draw, PuzzleSet, rows_drawn
from eqrlab.datasets.registry.generic import MOST_CELLS, MOST_TOKENS
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.text import scan_rows

FRAMES = (".parquet", ".feather", ".arrow")
ARRAYS = (".npy", ".npz")
LINES = (".jsonl", ".ndjson")
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    UnicodeDecodeError,  # of a name
    zlib.error,
)
_HALF = re.compile("[\ud800-\udfff]")
_MOST_COLUMNS = 1 << 10  # keys of all JSON objects of a file; one object may have more
_MOST_LINE = 1 << 24  # characters of one JSON object


def is_table(path: Path) -> bool:
    """Say whether a file is one that is read here, by its name."""
    return path.name.lower().removesuffix(".gz").endswith((*FRAMES, *ARRAYS, *LINES))


def json_lines(path: Path, text: str) -> tuple[list[str], Iterator[Line | Fault]]:
    """Split JSON lines: names of the further columns of all objects, then puzzles and lines that hold none.

    Raises
    ------
    ValueError
        If no object names a puzzle, or the first line is no object.
    """
    source = io.StringIO(text, newline=None)  # any kind of line end
    numbered = [(n, line) for n, line in enumerate(source, start=1) if line.strip()]
    if not numbered:
        raise PuzzleFileError(f"{path}:1: no puzzles in this file")
    first = _object(path, *numbered[0])
    if isinstance(first, Fault):
        raise PuzzleFileError(str(first))
    columns = dict.fromkeys(first)
    for number, line in numbered[1:]:
        more = _object(path, number, line)
        columns |= {} if isinstance(more, Fault) else dict.fromkeys(more)
        if len(columns) > max(_MOST_COLUMNS, len(first)):
            raise PuzzleFileError(f"{path}:{number}: more than {_MOST_COLUMNS} keys in all lines together")
    header = list(columns)
    puzzle, solution = find_columns(f"{path}:{numbered[0][0]}", header)
    extra = [name for k, name in enumerate(header) if k not in (puzzle, solution)]

    def lines() -> Iterator[Line | Fault]:
        for number, line in numbered:
            values = _object(path, number, line)
            if isinstance(values, Fault):
                yield values
            elif header[puzzle] not in values:
                yield Fault(f"{path}:{number}", f"key {header[puzzle]!r} is missing")
            else:
                known = None if solution is None else values.get(header[solution])
                yield line_of(
                    path, number, values[header[puzzle]], known, [values.get(name) for name in extra]
                )

    return extra, lines()


def _object(path: Path, number: int, line: str) -> dict[str, Any] | Fault:
    if len(line) > _MOST_LINE:
        return Fault(f"{path}:{number}", f"more than {_MOST_LINE} characters in a line")
    try:
        value = parsed(line, "JSON")
    except PuzzleFileError as error:
        return Fault(f"{path}:{number}", str(error))
    if not isinstance(value, dict):
        return Fault(f"{path}:{number}", f"a JSON object is required, got {brief(value)}")
    for text in (*value, *value.values()):
        if isinstance(text, str) and not text.isascii() and (half := _HALF.search(text)):
            return Fault(f"{path}:{number}", f"half a character ({half[0]!a}), which no text can hold")
    return value


def arrays(
    path: Path, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int] | None]:
    """Read tokens of a .npy or .npz file: puzzles (n, L), their labels, and the board where the arrays have its sides.

    Raises
    ------
    ValueError
        For arrays of another kind or shape.

    Notes
    -----
    A .npy file holds puzzles alone; a .npz file `inputs` and `labels`, or other names that the header of a CSV file may
    have.  Arrays (n, rows, columns) are boards.
    """
    if path.suffix.lower() == ".npy":
        with open(path, "rb") as file:
            found = [read_array(file, path.stat().st_size, path)]
    else:
        found = _members(path)
    inputs, labels = found if len(found) > 1 else (found[0], None)
    if inputs.ndim not in (2, 3) or not inputs.size:
        raise PuzzleFileError(
            f"{path}: puzzles (n, cells) or (n, rows, columns) are required, got {inputs.shape}"
        )
    if labels is not None and labels.shape != inputs.shape:
        raise PuzzleFileError(
            f"{path}: labels must have the shape {inputs.shape} of the inputs, got {labels.shape}"
        )
    board = (inputs.shape[1], inputs.shape[2]) if inputs.ndim == 3 else None
    first = _tokens(path, inputs[:limit])
    return first, None if labels is None else _tokens(path, labels[:limit]), board


def _members(path: Path) -> list[np.ndarray]:
    """Read the puzzles of a .npz file, and their labels where it has some."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            columns = find_columns(f"{path}", [info.filename.removesuffix(".npy") for info in members])
            found = []
            for info in (members[k] for k in columns if k is not None):
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise PuzzleFileError(
                        f"{path}: {info.filename} is not compressed as numpy.savez_compressed does"
                    )
                with archive.open(info) as member:
                    found.append(read_array(member, info.file_size, path, packed=info.compress_size))
    except _BROKEN_ZIP as error:
        raise PuzzleFileError(f"{path}: not a sound .npz file ({str(error)[:200]})") from error
    return found


def _tokens(path: Path, array: np.ndarray) -> np.ndarray:
    """Return an array with one row a puzzle, if a task can have so many cells and tokens."""
    rows = array.reshape(len(array), -1)
    if rows.shape[1] > MOST_CELLS:
        raise PuzzleFileError(f"{path}: puzzles of {rows.shape[1]} cells, of which {MOST_CELLS} are allowed")
    if rows.max() >= MOST_TOKENS:
        row = int((rows >= MOST_TOKENS).any(axis=1).argmax())
        raise PuzzleFileError(
            f"{path}:{row}: token {rows[row].max()}, of which 0 to {MOST_TOKENS - 1} are allowed"
        )
    return rows.astype(np.int64)


def scan_table(
    path: Path, task: str | None, limit: int | None, draw: Draw | None = None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read a table as far as it is sound; see `files.scan`."""
    try:
        return _scan(path, task, limit, draw)
    except MemoryError as error:
        raise PuzzleFileError(f"{path}: the puzzles do not fit into the memory") from error


def _scan(
    path: Path, task: str | None, limit: int | None, draw: Draw | None
) -> tuple[PuzzleSet | None, list[Fault]]:
    name = path.name.lower().removesuffix(".gz")
    if name != path.name.lower() and not name.endswith(LINES):
        raise PuzzleFileError(
            f"{path}: only text (CSV, lines, JSON lines) is read from gzip; decompress the file"
        )
    if name.endswith(ARRAYS):
        return _scan_arrays(path, task, limit, draw)
    columns, rows = (
        frame_rows(path) if name.endswith(FRAMES) else json_lines(path, read_text(path, expect_json=True))
    )
    return scan_rows(path, task, columns, rows, limit, draw)


def _scan_arrays(
    path: Path, task: str | None, limit: int | None, draw: Draw | None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Make puzzles of arrays; labels of -100 do not count."""
    inputs, labels, board = arrays(path, limit)
    if labels is not None:
        labels = rows_of_labels(labels)
    for what, tokens in (("the puzzle", inputs), ("the solution", labels)):
        least = ZERO if what == "the solution" else 0
        if tokens is not None and (tokens < least).any():
            row = int((tokens < least).any(axis=1).argmax())
            return None, [
                Fault(f"{path}:{row}", f"{what} has token {tokens[row].min()}, tokens are 0 or more")
            ]
    known = task_named(task or "generic")
    if known.sized is not None:
        most = max(int(tokens.max()) for tokens in (inputs, labels) if tokens is not None)
        shape = known.board if all(known.board) else board or (1, inputs.shape[1])
        known = known.sized(known.vocab_size or most + 1, shape)
    if inputs.shape[1] != known.seq_len:
        return None, [
            Fault(str(path), f"puzzles of {inputs.shape[1]} cells, {known.name} has {known.seq_len}")
        ]
    for what, tokens in (("the puzzle", inputs), ("the solution", labels)):
        alien = None if tokens is None else (tokens >= known.vocab_size).any(axis=1)
        if tokens is not None and alien is not None and alien.any():
            row = int(alien.argmax())
            reason = f"{what} has token {tokens[row].max()}, {known.name} has 0 to {known.vocab_size - 1}"
            return None, [Fault(f"{path}:{row}", reason)]
    available = len(inputs)
    taken = rows_drawn(available, draw)
    rows = np.arange(len(inputs)) if taken is None else taken
    inputs, labels = inputs[rows], None if labels is None else labels[rows]
    reasons = checks.faults(known.name, inputs, labels)
    wrong = [Fault(f"{path}:{rows[row]}", reason) for row, reason in reasons.items()]
    keep = [row for row in range(len(rows)) if row not in reasons]
    if not keep:
        return None, wrong
    drawn = None if draw is None or taken is None else dataclasses.replace(draw, available=available)
    puzzles = PuzzleSet(
        inputs[keep],
        None if labels is None or not labels.any() else labels[keep],
        known.name,
        source=str(path),
        names=tuple(f"{path.name}:{rows[row]}" for row in keep),
        draw=drawn,
    )
    return puzzles, wrong
