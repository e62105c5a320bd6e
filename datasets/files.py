"""Read and write puzzle files: CSV, plain text, the official `.npy` folders, and the sets shipped with the package."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eqrlab.core.files import replaced_whole
from eqrlab.core.messages import did_you_mean
from eqrlab.datasets import checks, npy
from eqrlab.datasets.arc.files import is_arc, read_arc
from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.formats.tables import is_table, scan_table
from eqrlab.datasets.puzzles import Draw, PuzzleSet
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.text import scan_text

DATA = Path(__file__).parent / "data"


def scan(
    path: str | os.PathLike[str],
    task: str | None = None,
    split: str = "test",
    limit: int | None = None,
    draw: Draw | None = None,
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read the sound puzzles of a file or folder, and list every fault.

    Parameters
    ----------
    path, task, split, limit, draw
        As in `read_puzzles`.

    Returns
    -------
    tuple
        The sound puzzles (None where there are none) and the faults in order of their lines.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If the file as a whole is unreadable (broken gzip, header or .npy) or empty.
    """
    path = Path(path)
    if task is not None:
        task_named(task)  # known, or the list
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    if not path.exists():
        path = _bundled_path(str(path), split)
    if is_arc(path):
        if task not in (None, "arc"):
            raise PuzzleFileError(f"{path}: JSON of ARC tasks is read, not {task}")
        return read_arc(path, split, limit, draw), []
    read = functools.partial(npy.scan_folder, split=split) if path.is_dir() else scan_text
    if path.is_file() and is_table(path):
        read = scan_table
    return read(path, task, limit=limit, draw=draw)


def read_puzzles(
    path: str | os.PathLike[str],
    task: str | None = None,
    split: str = "test",
    limit: int | None = None,
    *,
    unique: bool = False,
    draw: Draw | None = None,
    tick: Callable[[int, int], object] | None = None,
) -> PuzzleSet:
    """Read puzzles from a CSV file, a plain text file or an official `.npy` folder.

    Parameters
    ----------
    path
        A file, a folder, or, where there is no such path, the name of a bundled set such as "sudoku9-hard":

        - CSV with a header that names `puzzle,solution` (or `question,answer`, or `quizzes,solutions`; capitals or
          small letters; further columns are kept), separated by commas, semicolons, tabs or bars, one row a puzzle,
          `.` or `0` = blank; the solutions may be empty or left out;
        - text with one puzzle a line; empty lines and comment lines starting with `#` are allowed;
        - either with any line ends, with or without a byte order mark, and may be gzip;
        - a folder with dataset.json and `<set>__*.npy`, or the folder above it; where the puzzles have identifiers,
          their names are taken from identifiers.json in one of the two;
        - ARC tasks in JSON: a task file, a folder of them, or tasks by name, solutions in the file beside challenges.

        - JSON lines (.jsonl), parquet and feather (.parquet, .feather; `eqrlab[tables]`) with columns of the same
          names, text or lists of integers; .npy and .npz arrays of tokens, `inputs` and `labels`.

        Sudoku of any boxes up to 25x25, beyond 9 with letters (A = 10) or numbers set apart by spaces; mazes over the
        characters `# SGo`; rows of numbers set apart by spaces are tokens of the task `generic`.
    task
        Task that is required, e.g. "sudoku9"; None takes it from the first puzzle or from dataset.json.
    split
        Which sub-folder of an official folder to read.
    limit
        Read only this many puzzles from the start; later ones are not checked.
    unique
        Refuse puzzles that do not have exactly one solution (runs the solver on each).
    draw
        If the file has more puzzles than this, draw this many at random, by a seed, in the order of the file.  Every
        line must be well formed; givens, solution and uniqueness are checked only for the puzzles drawn.
    tick
        Called while the solver runs, with the number of puzzles done and the total number.

    Returns
    -------
    PuzzleSet
        All puzzles in the file, or those drawn; nothing is skipped.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        In one sentence with file, line and reason: wrong length, illegal character, contradictory givens, a solution
        that is not valid or disagrees with its puzzle, mixed sizes, an empty file, a missing column, a broken gzip or
        .npy file, inconsistent offsets; with `unique`, several solutions or none.

    Notes
    -----
    Puzzles with several solutions are legitimate by default: whether an answer is right is decided by the oracle,
    not by the label.  Rows of .npy files count from 0.
    """
    puzzles, wrong = scan(path, task, split, limit, draw)
    if wrong or puzzles is None:
        more = f" (and {len(wrong) - 1} more faults)" if len(wrong) > 1 else ""
        raise PuzzleFileError(f"{wrong[0]}{more}")
    if unique:
        count = len(puzzles)
        told = None if tick is None else lambda done: tick(done, count)
        reasons, unproved = checks.uniqueness(puzzles.task, puzzles.inputs, told)
        for row, reason in reasons.items():
            raise PuzzleFileError(f"{Path(puzzles.source).parent / puzzles.names[row]}: {reason}")
        if task_named(puzzles.task).count is not None:
            puzzles = dataclasses.replace(puzzles, unproved=len(unproved))
    return puzzles


def _bundled_path(name: str, split: str) -> Path:
    """Return the file of a bundled set by its name, with or without the split; FileNotFoundError lists the names."""
    names = bundled_names()
    found = name if name in names else f"{name}-{split}"
    if found not in names:
        raise FileNotFoundError(
            f"no file, folder or bundled set {name!r}; bundled are {', '.join(names)}{did_you_mean(name, names)}"
        )
    return DATA / f"{found}.csv.gz"


def bundled_names() -> tuple[str, ...]:
    """Return the shipped sets as "task-split" names."""
    return tuple(sorted(entry.name.removesuffix(".csv.gz") for entry in DATA.glob("*.csv.gz")))


def bundled(name: str, split: str = "test") -> PuzzleSet:
    """Read a set that is shipped with the package.

    Parameters
    ----------
    name
        Task name, e.g. "sudoku6", or "sudoku9-hard".
    split
        "train" or "test"; no test puzzle is a disguise of a training puzzle.

    Returns
    -------
    PuzzleSet
        With the columns `difficulty`, `guesses`, `clues` for Sudoku.

    Raises
    ------
    ValueError
        If there is no such set; the message lists those there are.

    Examples
    --------
    >>> from eqrlab.datasets import bundled
    >>> bundled("sudoku6").inputs.shape
    (500, 36)
    """
    if f"{name}-{split}" not in bundled_names():
        names = bundled_names()
        raise ValueError(
            f"no bundled set {name}-{split}; choose from {', '.join(names)}{did_you_mean(f'{name}-{split}', names)}"
        )
    return read_puzzles(DATA / f"{name}-{split}.csv.gz", task=name.partition("-")[0])


def _write(path: Path, data: bytes) -> None:
    with replaced_whole(path) as temporary:
        temporary.write_bytes(data)


def write_csv(path: str | os.PathLike[str], puzzles: PuzzleSet) -> None:
    """Write a set as CSV (gzip where the name ends in .gz): puzzle, solution, then its further columns.

    Parameters
    ----------
    path
        Where to write; replaced at once when everything is written.
    puzzles
        What to write; missing solutions become empty fields.

    Raises
    ------
    ValueError
        If the set has a column named puzzle or solution, pad cells, or, where files hold characters, labels with
        ignored cells.

    Notes
    -----
    Byte for byte the same for the same set: the gzip header carries no time and no name.
    """
    path = Path(path)
    clash = {"puzzle", "solution"} & set(puzzles.columns)
    if clash:
        raise ValueError(f"a further column cannot be named {clash.pop()!r}")
    known = task_named(puzzles.task)
    if (puzzles.inputs < (1 if known.alphabet else known.numbers_from)).any():
        raise ValueError("puzzles with pad cells cannot be written as CSV; write an .npy folder")
    if known.alphabet and puzzles.labels is not None and (puzzles.labels < 1).any():
        raise ValueError("solutions with ignored cells cannot be written as CSV; write an .npy folder")
    # the csv module leaves a lone carriage return unquoted and then reads it as the end of a line
    returns = any("\r" in text for name, values in puzzles.columns.items() for text in (name, *values))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(["puzzle", "solution", *puzzles.columns])
    for row in range(len(puzzles)):
        label = "" if puzzles.labels is None else known.decode(puzzles.labels[row])
        extra = [values[row] for values in puzzles.columns.values()]
        writer.writerow([known.decode(puzzles.inputs[row]), label, *extra])
    data = buffer.getvalue().encode("utf-8")
    _write(path, gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)


def write_npy_folder(path: str | os.PathLike[str], puzzles: PuzzleSet, split: str = "test") -> None:
    """Write a set in the official layout: `<path>/<split>/` with arrays and dataset.json, `<path>/identifiers.json`.

    Parameters
    ----------
    path
        Folder; made where it is missing.
    puzzles
        What to write; further columns have no place in this layout.
    split
        Name of the sub-folder.

    Notes
    -----
    Every file is replaced as a whole; dataset.json comes last.
    """
    folder = Path(path) / split
    arrays, header = npy.arrays_of(puzzles)
    for key, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        _write(folder / f"all__{key}.npy", buffer.getvalue())
    names = list(puzzles.identifier_names) or ["<blank>"]
    _write(Path(path) / npy.IDENTIFIERS, json.dumps(names).encode())
    _write(folder / "dataset.json", json.dumps(header).encode())
