"""The `eqrlab data` commands: build, convert, describe and verify puzzle files."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from eqrlab import datasets
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.text.format import plural
from eqrlab.core.messages import one_line
from eqrlab.core.progress import shown, tqdm
from eqrlab.datasets import files
from eqrlab.datasets import task as task_named
from eqrlab.datasets.checks import uniqueness
from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.registry.task import Task
from eqrlab.datasets.sets import build as build_puzzles
from eqrlab.datasets.solver import search
from eqrlab.datasets.sudoku import geometry

CLUES = {"sudoku": "clues", "maze": "open cells"}  # what the cells beyond the blank ones are called
MOST_KINDS = 8  # difficulties that `info` lists
MOST_NODES, MOST_SECONDS = (
    20_000,
    10.0,
)  # guess nodes of a puzzle, and time, after which `info` counts no further

_source = click.argument("source", metavar="PATH")
_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write.")
_split = click.option(
    "--split", default="test", show_default=True, help="Sub-folder of an official .npy folder."
)
_task = click.option("--task", help="Task of the file, e.g. sudoku9 (default: the task of its first puzzle).")
_limit = click.option("--limit", type=click.IntRange(1), help="Read only the first puzzles.")
_format = click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "npy"]),
    help="Default: csv if the name of --out ends so, else npy.",
)


class WholeSentences(click.Group):
    """A group whose help shows the first sentence of each command whole, as that of all verbs does."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands[name].get_short_help_str(1000)) for name in self.list_commands(ctx)]
            )


@click.group("data", cls=WholeSentences)
def data() -> None:
    """Build, convert, describe and verify puzzle files.

    PATH is a CSV or text file, an official .npy folder, or the name of a bundled set such as sudoku6-test.
    """


def _read(source: str, task: str | None, split: str, limit: int | None = None) -> PuzzleSet:
    """Read a path or a bundled set; raise an error at the first fault."""
    puzzles, faults = files.scan(source, task, split, limit)
    if faults or puzzles is None:
        raise ValueError(str(faults[0]))
    return puzzles


def form_of(out: Path, form: str | None) -> str:
    """Return the format that was requested, or the one that the path implies."""
    return form or ("csv" if out.name.lower().removesuffix(".gz").endswith(".csv") else "npy")


def _require_writable(out: Path, form: str | None, split: str) -> None:
    """Check that a set can be written before it is generated."""
    if form_of(out, form) == "csv":
        require_writable(out.parent, out.name)
        return
    arrays = [path.name for path in (out / split).glob("*.npy")]  # of an older set
    require_writable(out / split, "dataset.json", *arrays)


def _write(out: Path, form: str | None, split: str, puzzles: PuzzleSet) -> None:
    """Write a set in the format that was requested or that the path implies, and print a line about it."""
    if form_of(out, form) == "csv":
        files.write_csv(out, puzzles)
        lost = [] if puzzles.identifiers is None else ["identifiers"]
    else:
        files.write_npy_folder(out, puzzles, split)
        out = out / split
        lost = [one_line(name) for name in puzzles.columns if name != "group"]
    said = f", without {', '.join(lost)}, for which this format has no place" if lost else ""
    click.echo(f"{plural(len(puzzles), f'{puzzles.task} puzzle')} in {one_line(str(out))}{said}")


@data.command(
    epilog="Example: eqrlab data build sudoku9 --count 20 --difficulty hard --seed 7 --out hard.csv.gz "
    "--exclude sudoku9-train"
)
@click.argument("task")
@_out
@opt.number("--count", 100, "How many puzzles.")
@click.option(
    "--difficulty",
    help="Sudoku: easy, medium, hard, extreme, mixed, or weights such as easy:4,medium:5,hard:1 [mixed]; "
    "9x9 also hardest (about a second each). "
    "Mazes: unique or several (shortest paths) [unique].",
)
@opt.number("--seed", 0, "Seed of all random choices.", least=0, most=opt.MOST_SEED)
@click.option("--steps", nargs=2, type=int, help="Mazes: fewest and most steps from S to G.")
@click.option(
    "--first",
    default=0,
    type=click.IntRange(0),
    help="hardest: skip this many puzzles, to build a set in parts.",
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
    """Generate puzzles of TASK (sudoku4 to sudoku25, sudoku6-3x2, maze7 to maze30, maze9x14) with their solutions.

    No two are equal up to the symmetries of the task, and the same options give the same file.
    """
    _require_writable(out, form, split)
    marks = [
        mark for other in exclude for mark in datasets.fingerprint(task, _read(other, task, split).inputs)
    ]
    made = build_puzzles(task, count, difficulty, seed, marks, steps=steps, first=first, workers=workers)
    _write(out, form, split, made)


@data.command(epilog="Example: eqrlab data convert sudoku6-test --limit 10 --out few.csv")
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
    """Return the puzzles with the solutions of the solver as labels."""
    known = task_named(puzzles.task)
    if known.count is None:
        raise ValueError(f"there is no solver of {puzzles.task} puzzles, which {puzzles.source} holds")
    with _proving(puzzles) as tick:
        found = known.count(puzzles.inputs, 2, tick)
    if found.first is None:
        raise ValueError(f"only Sudoku can be solved here, {puzzles.source} holds {puzzles.task}")
    for row, name in enumerate(puzzles.names):
        if not found.proved[row]:
            raise ValueError(f"{name}: not proved to have exactly one solution within the time limit")
        if found.count[row] != 1:
            raise ValueError(f"{name}: {known.several if found.count[row] else known.no_solution}")
    return dataclasses.replace(puzzles, labels=found.first)


@data.command(epilog="Example: eqrlab data info sudoku6-test")
@_source
@opt.number(
    "--measure", 500, "How many puzzles to count guesses for, if the file has no guesses column.", least=0
)
@_task
@_limit
@_split
@prints_json
def info(source: str, measure: int, task: str | None, limit: int | None, split: str) -> dict[str, str | int]:
    """Describe a puzzle file: number, size, clues, difficulty, labels, repetitions."""
    puzzles = _read(source, task, split, limit)
    facts = {
        name: one_line(value) if isinstance(value, str) else value
        for name, value in _describe(puzzles, measure).items()
    }
    for name, value in facts.items():
        click.echo(f"{name:<18} {value}")
    return facts


@contextlib.contextmanager
def _proving(puzzles: PuzzleSet) -> Iterator[Callable[[int], object]]:
    """Show the progress of solving, if it takes more than a second."""
    with tqdm(total=len(puzzles), unit="puzzle", desc="solving", **shown(True)) as bar:
        yield lambda done: bar.update(done - bar.n)


def _span(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}, median {np.median(values):g}"


def _tally(values: Sequence[str]) -> str:
    """Count values, or give their range where they are more numbers than can be listed."""
    tally = collections.Counter(values)
    if len(tally) <= MOST_KINDS:
        return ", ".join(f"{word} {count}" for word, count in tally.items())
    with contextlib.suppress(ValueError):
        return _span(np.array(values, dtype=float))
    shown = ", ".join(f"{word} {count}" for word, count in tally.most_common(MOST_KINDS))
    return f"{shown}, and {len(tally) - MOST_KINDS} others"


def _describe(puzzles: PuzzleSet, measure: int) -> dict[str, str | int]:
    """Return the rows of the table of `info`; a single number is one, other values are text."""
    known = task_named(puzzles.task)
    classes = len(np.unique(datasets.fingerprint(puzzles.task, puzzles.inputs)))
    table: dict[str, str | int] = {
        "source": puzzles.source,
        "task": puzzles.task,
        "puzzles": len(puzzles),
        "board": f"{known.board[0]} x {known.board[1]}"
        if known.is_grid
        else f"a sequence of {known.seq_len}",
        "tokens": f"{known.vocab_size}" + (f" (0 pad, 1.. = {known.alphabet!r})" if known.alphabet else ""),
        "labels": "none" if puzzles.labels is None else "yes",
    }
    if known.kind in CLUES:
        table[CLUES[known.kind]] = _span(puzzles.clues)
    if known.describe is not None:
        table |= known.describe(puzzles.inputs)
    if known.kind == "sudoku" and "guesses" not in puzzles.columns and measure:
        table["guess nodes"] = _guesses(known, puzzles.inputs[:measure])
    for name, values in puzzles.columns.items():
        if name in ("difficulty", "kind"):
            table[name] = _tally(values)
        elif name == "guesses" and all(value.isascii() and value.isdecimal() for value in values):
            table["guess nodes"] = f"{_span(np.array(values, dtype=float))} (column guesses)"
    table["repeated puzzles"] = puzzles.copies
    table["symmetry classes"] = f"{classes} or more"
    table["further columns"] = ", ".join(puzzles.columns) or "none"
    return table


def _guesses(known: Task, inputs: np.ndarray) -> str:
    """Return the numbers of guesses of as many puzzles as can be counted in a few seconds."""
    board, began, guesses = geometry(known.board[0], known.boxes), time.monotonic(), list[int]()
    for tokens in tqdm(inputs, unit="puzzle", desc="guess nodes", **shown(True)):
        found = search(tokens, board=board, nodes=MOST_NODES)
        if not found.complete and len(found.solutions) < 2:
            return f"more than {MOST_NODES} in puzzle {len(guesses) + 1}; not counted further"
        guesses.append(found.guesses)
        if time.monotonic() - began > MOST_SECONDS:
            break
    return f"{_span(np.array(guesses))} (first {len(guesses)})"


@data.command(epilog="Example: eqrlab data check sudoku6-test --against sudoku6-train")
@_source
@click.option(
    "--against", multiple=True, metavar="PATH", help="Puzzles of which none may be a disguise; repeatable."
)
@click.option("--allow-several", is_flag=True, help="Also accept puzzles that have several solutions.")
@_task
@_limit
@_split
@opt.as_json
@click.pass_context
def check(
    context: click.Context,
    as_json: bool,
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
    puzzles, faults = files.scan(source, task, split, limit)
    reasons = [str(fault) for fault in faults]
    sound = unproved = 0
    if puzzles is not None:
        found, unproved = _puzzle_faults(puzzles, allow_several)
        for other in against:
            for row, reason in _leaks(puzzles, _read(other, puzzles.task, split)).items():
                found.setdefault(row, reason)
        folder = Path(puzzles.source).parent
        reasons += [f"{folder / puzzles.names[row]}: {reason}" for row, reason in sorted(found.items())]
        sound = len(puzzles) - len(found)
    if as_json:
        reasons = [one_line(reason) for reason in reasons]
        click.echo(json.dumps({"sound": sound, "wrong": reasons, "unproved": unproved}))
        context.exit(1 if reasons else 0)
    for reason in reasons:
        click.echo(one_line(reason))
    note = f"; of {unproved} it is not proved that they have one solution" if unproved else ""
    click.echo(f"{sound} sound, {len(reasons)} wrong{note}")
    if reasons:
        context.exit(1)


def _puzzle_faults(puzzles: PuzzleSet, allow_several: bool) -> tuple[dict[int, str], int]:
    """Return row -> reason for repetitions and puzzles without exactly one solution, and the number not proved.

    Equal puzzles under two identifiers are two puzzles.
    """
    found: dict[int, str] = {}
    groups = puzzles.columns.get("group")
    owners = itertools.repeat(0) if puzzles.identifiers is None else puzzles.identifiers.tolist()
    first: dict[tuple[int, int], int] = {}
    with _proving(puzzles) as tick:
        reasons, unproved = uniqueness(puzzles.task, puzzles.inputs, tick)
    several = task_named(puzzles.task).several
    marks = datasets.fingerprint(puzzles.task, puzzles.inputs).tolist()
    for row, known_by in enumerate(zip(marks, owners, strict=False)):
        reason = reasons.get(row)
        earlier = first.setdefault(known_by, row)
        if reason is not None and not (reason == several and allow_several):
            found[row] = reason
        elif earlier != row and (puzzles.inputs[earlier] == puzzles.inputs[row]).all():
            found[row] = f"repeats {puzzles.names[earlier]}"
        elif earlier != row and (groups is None or groups[earlier] != groups[row]):
            found[row] = f"has the symmetry fingerprint of {puzzles.names[earlier]}: a disguise of it"
    return found, len(unproved)


def _leaks(puzzles: PuzzleSet, other: PuzzleSet) -> dict[int, str]:
    """Return row -> reason for puzzles that share a fingerprint with another set."""
    marks = datasets.fingerprint(other.task, other.inputs).tolist()
    known = dict(zip(marks, other.names, strict=True))
    prints = datasets.fingerprint(puzzles.task, puzzles.inputs).tolist()
    return {row: f"leaks: a disguise of {known[mark]}" for row, mark in enumerate(prints) if mark in known}
