"""The `eqrlab data` commands: build, convert, describe and verify puzzle files."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from eqrlab import datasets
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.core.messages import one_line
from eqrlab.core.progress import shown, tqdm
from eqrlab.datasets import files, tasks
from eqrlab.datasets.batch_solver import count_solutions
from eqrlab.datasets.checks import solution_faults
from eqrlab.datasets.faults import Fault
from eqrlab.datasets.maze import shortest_path
from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.sets import build as build_puzzles
from eqrlab.datasets.solver import count_guesses

_source = click.argument("source", metavar="PATH")
_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
_split = click.option(
    "--split", default="test", show_default=True, help="Sub-folder of an official .npy folder."
)
_task = click.option(
    "--task", help="Task the file must hold, e.g. sudoku9; default: what its first puzzle is."
)
_limit = click.option("--limit", type=click.IntRange(1), help="Read only the first puzzles.")
_format = click.option(
    "--format", "form", type=click.Choice(["csv", "npy"]), help="Default: csv where PATH ends so, else npy."
)


@click.group("data")
def data() -> None:
    """Build, convert, describe and verify puzzle files.

    PATH is a CSV or text file, an official .npy folder, or the name of a bundled set such as sudoku6-test.
    """


def _scan(
    source: str, task: str | None, split: str, limit: int | None = None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read a path, or a bundled set where no such path exists."""
    if not Path(source).exists():
        names = files.bundled_names()
        if source not in names:
            raise ValueError(f"no file, folder or bundled set {source!r}; bundled are {', '.join(names)}")
        return files.scan(files.DATA / f"{source}.csv.gz", task, split, limit)
    return files.scan(source, task, split, limit)


def _read(source: str, task: str | None, split: str, limit: int | None = None) -> PuzzleSet:
    """Read a path or a bundled set; the first fault is an error."""
    puzzles, faults = _scan(source, task, split, limit)
    if faults or puzzles is None:
        raise ValueError(str(faults[0]))
    return puzzles


def form_of(out: Path, form: str | None) -> str:
    """Return the format asked for or named by the path."""
    return form or ("csv" if out.name.lower().removesuffix(".gz").endswith(".csv") else "npy")


def _require_writable(out: Path, form: str | None, split: str) -> None:
    """See that a set can be written, before it is made."""
    if form_of(out, form) == "csv":
        require_writable(out.parent, out.name)
        return
    arrays = [path.name for path in (out / split).glob("*.npy")]  # of an older set
    require_writable(out / split, "dataset.json", *arrays)


def _write(out: Path, form: str | None, split: str, puzzles: PuzzleSet) -> None:
    """Write a set in the format asked for or named by the path, and say so."""
    if form_of(out, form) == "csv":
        files.write_csv(out, puzzles)
    else:
        files.write_npy_folder(out, puzzles, split)
        out = out / split
    click.echo(f"{len(puzzles)} {puzzles.task} puzzles in {one_line(str(out))}")


@data.command(
    epilog="Example: eqrlab data build sudoku9 --count 100 --difficulty hard --seed 7 --out hard.csv.gz "
    "--exclude sudoku9-train"
)
@click.argument("task")
@_out
@click.option("--count", default=100, show_default=True, type=click.IntRange(1), help="How many puzzles.")
@click.option(
    "--difficulty",
    help="Sudoku: easy, medium, hard, extreme, mixed, or weights such as easy:4,medium:5,hard:1 [mixed]; "
    "9x9 also hardest (about a second each). "
    "Mazes: unique or several (shortest paths) [unique].",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of every random choice.")
@click.option("--steps", nargs=2, type=int, help="Mazes: fewest and most steps from S to G.")
@click.option(
    "--first", default=0, type=click.IntRange(0), help="hardest: leave out so many, to make a set in parts."
)
@click.option("--workers", default=1, type=click.IntRange(1), help="hardest: processes.")
@click.option(
    "--exclude", multiple=True, metavar="PATH", help="Leave out all disguises of these puzzles; repeatable."
)
@_format
@_split
def build(
    task: str,
    out: Path,
    count: int,
    difficulty: str | None,
    seed: int,
    steps: tuple[int, int] | None,
    first: int,
    workers: int,
    exclude: tuple[str, ...],
    form: str | None,
    split: str,
) -> None:
    """Generate puzzles of TASK (sudoku4, sudoku6, sudoku9, maze7 to maze30) with their solutions.

    No two are equal up to the symmetries of the task, and the same options give the same file.
    """
    _require_writable(out, form, split)
    marks = [mark for other in exclude for mark in tasks.fingerprint(task, _read(other, task, split).inputs)]
    made = build_puzzles(task, count, difficulty, seed, marks, steps=steps, first=first, workers=workers)
    _write(out, form, split, made)


@data.command(epilog="Example: eqrlab data convert hard.txt --solve --out hard.csv.gz")
@_source
@_out
@click.option(
    "--solve", "solved", is_flag=True, help="Add the solutions; every puzzle must have exactly one."
)
@_task
@_limit
@_format
@_split
def convert(
    source: str,
    out: Path,
    solved: bool,
    task: str | None,
    limit: int | None,
    form: str | None,
    split: str,
) -> None:
    """Read puzzles in one format and write them in another."""
    _require_writable(out, form, split)
    puzzles = _read(source, task, split, limit)
    if solved:
        puzzles = _solved(puzzles)
    _write(out, form, split, puzzles)


def _solved(puzzles: PuzzleSet) -> PuzzleSet:
    """Return Sudoku with the solver's labels."""
    if tasks.parse_task(puzzles.task)[0] != "sudoku":
        raise ValueError(f"only Sudoku can be solved here, {puzzles.source} holds {puzzles.task}")
    with _proving(puzzles) as tick:
        for row, reason in solution_faults(puzzles.task, puzzles.inputs, tick).items():
            raise ValueError(f"{puzzles.names[row]}: {reason}")
    labels = count_solutions(puzzles.inputs, 1).first
    return PuzzleSet(puzzles.inputs, labels, puzzles.task, puzzles.columns, puzzles.source, puzzles.names)


@data.command(epilog="Example: eqrlab data info sudoku6-test")
@_source
@click.option(
    "--measure",
    default=500,
    show_default=True,
    type=click.IntRange(0),
    help="Puzzles whose guess nodes are counted where the file has no guesses column.",
)
@_task
@_limit
@_split
def info(source: str, measure: int, task: str | None, limit: int | None, split: str) -> None:
    """Describe a puzzle file: number, size, clues, difficulty, labels, repetitions."""
    puzzles = _read(source, task, split, limit)
    for name, value in _describe(puzzles, measure).items():
        click.echo(f"{name:<18} {one_line(value)}")


@contextlib.contextmanager
def _proving(puzzles: PuzzleSet) -> Iterator[Callable[[int], object]]:
    """Show how many puzzles are solved, where that takes more than a second."""
    with tqdm(total=len(puzzles), unit="puzzle", desc="solving", **shown(True)) as bar:
        yield lambda done: bar.update(done - bar.n)


def _span(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}, median {np.median(values):g}"


def _describe(puzzles: PuzzleSet, measure: int) -> dict[str, str]:
    """Return the rows of the table of `info`."""
    kind, side = tasks.parse_task(puzzles.task)
    copies = len(puzzles) - len(np.unique(puzzles.inputs, axis=0))
    classes = len(np.unique(datasets.fingerprint(puzzles.task, puzzles.inputs)))
    table = {
        "source": puzzles.source,
        "task": puzzles.task,
        "puzzles": str(len(puzzles)),
        "board": f"{side} x {side}",
        "tokens": f"{tasks.vocab_size(puzzles.task)} (0 pad, 1.. = {tasks.alphabet(puzzles.task)!r})",
        "labels": "none" if puzzles.labels is None else "yes",
        "clues" if kind == "sudoku" else "open cells": _span(puzzles.clues),
    }
    if kind == "maze":
        steps, unique = shortest_path(puzzles.inputs)
        table["steps from S to G"] = _span(steps)
        table["unique path"] = f"{unique.sum()} of {len(puzzles)}"
    elif "guesses" not in puzzles.columns and measure:
        guesses = np.array([count_guesses(tokens) for tokens in puzzles.inputs[:measure]])
        table["guess nodes"] = f"{_span(guesses)} (first {len(guesses)})"
    for name, values in puzzles.columns.items():
        if name in ("difficulty", "kind"):
            tally = collections.Counter(values)
            table[name] = ", ".join(f"{word} {tally[word]}" for word in dict.fromkeys(values))
        elif name == "guesses" and all(value.isascii() and value.isdecimal() for value in values):
            table["guess nodes"] = f"{_span(np.array(values, dtype=float))} (column guesses)"
    table["repeated puzzles"] = str(copies)
    table["symmetry classes"] = f"{classes} or more"
    table["further columns"] = ", ".join(puzzles.columns) or "none"
    return table


@data.command(epilog="Example: eqrlab data check mine.csv --against sudoku9-train")
@_source
@click.option("--against", multiple=True, metavar="PATH", help="No puzzle may be a disguise of one in here.")
@click.option("--allow-several", is_flag=True, help="Puzzles with several solutions are fine.")
@_task
@_limit
@_split
@click.pass_context
def check(
    context: click.Context,
    source: str,
    against: tuple[str, ...],
    allow_several: bool,
    task: str | None,
    limit: int | None,
    split: str,
) -> None:
    """Verify every puzzle: legal, one solution, the label right, no repetition up to symmetry.

    Lists "file:line: reason" for everything that is wrong and then exits with 1.
    """
    puzzles, faults = _scan(source, task, split, limit)
    reasons = [str(fault) for fault in faults]
    sound = 0
    if puzzles is not None:
        found = _puzzle_faults(puzzles, allow_several)
        for other in against:
            for row, reason in _leaks(puzzles, _read(other, puzzles.task, split)).items():
                found.setdefault(row, reason)
        folder = Path(puzzles.source).parent
        reasons += [f"{folder / puzzles.names[row]}: {reason}" for row, reason in sorted(found.items())]
        sound = len(puzzles) - len(found)
    for reason in reasons:
        click.echo(one_line(reason))
    click.echo(f"{sound} sound, {len(reasons)} wrong")
    if reasons:
        context.exit(1)


def _puzzle_faults(puzzles: PuzzleSet, allow_several: bool) -> dict[int, str]:
    """Return row -> reason for puzzles without exactly one solution and for repetitions."""
    found: dict[int, str] = {}
    groups = puzzles.columns.get("group")
    first: dict[int, int] = {}
    with _proving(puzzles) as tick:
        reasons = solution_faults(puzzles.task, puzzles.inputs, tick)
    for row, mark in enumerate(datasets.fingerprint(puzzles.task, puzzles.inputs).tolist()):
        reason = reasons.get(row)
        several = reason is not None and ("more than one" in reason or "several" in reason)
        earlier = first.setdefault(mark, row)
        if reason is not None and not (several and allow_several):
            found[row] = reason
        elif earlier != row and (puzzles.inputs[earlier] == puzzles.inputs[row]).all():
            found[row] = f"repeats {puzzles.names[earlier]}"
        elif earlier != row and (groups is None or groups[earlier] != groups[row]):
            found[row] = f"has the symmetry fingerprint of {puzzles.names[earlier]}: a disguise of it"
    return found


def _leaks(puzzles: PuzzleSet, other: PuzzleSet) -> dict[int, str]:
    """Return row -> reason for puzzles that share a fingerprint with another set."""
    marks = datasets.fingerprint(other.task, other.inputs).tolist()
    known = dict(zip(marks, other.names, strict=True))
    prints = datasets.fingerprint(puzzles.task, puzzles.inputs).tolist()
    return {row: f"leaks: a disguise of {known[mark]}" for row, mark in enumerate(prints) if mark in known}
