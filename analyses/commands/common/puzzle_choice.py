"""Which puzzles a command works on: a file's, some of them drawn at random, or a bundled set's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eqrlab.analyses.commands.common.identifiers import whose, with_identifiers
from eqrlab.analyses.options import asked_task
from eqrlab.analyses.text.names import typed
from eqrlab.core import Reasoner
from eqrlab.core.progress import shown, tqdm
from eqrlab.datasets import Draw, PuzzleSet, bundled, bundled_names, read_puzzles
from eqrlab.datasets import task as task_named
from eqrlab.datasets.checks import unsolvable
from eqrlab.datasets.registry.generic import NAME as GENERIC
from eqrlab.datasets.registry.generic import generic
from eqrlab.datasets.registry.sudoku import PROOF_SECONDS

SAMPLE = 12  # puzzles of a bundled set that are diagnosed unless --limit says otherwise; their difficulties alternate
DRAWN = 64  # puzzles of a file, drawn at random unless --limit says otherwise


def puzzles_for(
    reasoner: Reasoner,
    path: str | None,
    split: str,
    limit: int | None,
    several: bool,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> PuzzleSet:
    """Return the puzzles to work on.

    Parameters
    ----------
    reasoner
        The model that reads them; its task is set to theirs.
    path, split
        A file or folder, or None for the bundled set of the task; the split of a set.  The task of the puzzles may be
        given by --task of the running command.
    limit
        How many puzzles, from the first on; None draws some of a file at random, or takes the first few of a bundled
        set.
    several
        Whether puzzles of a file may have several solutions; they must have at least one.  The solver runs on each
        chosen puzzle; with `several`, only on those without a stored solution.
    seed
        Seed of the draw.
    quiet
        Whether the solver's progress bar is left out.

    Raises
    ------
    ValueError
        When the task has no bundled set, the puzzles are of other sizes than the model, or one has no solution, or
        more than one and `several` does not allow that.
    """
    task = asked_task()
    if path is None:
        puzzles = bundled_for(task or reasoner.task, split).take(slice(SAMPLE if limit is None else limit))
    else:
        draw = Draw(DRAWN, seed) if limit is None else None
        with tqdm(unit="puzzle", desc="solving", **shown(not quiet)) as bar:
            puzzles = read_puzzles(path, task, split=split, limit=limit, unique=not several, draw=draw,
                                   tick=lambda done, all_: _advance(bar, done, all_))  # fmt: skip
            if several:  # else that is known already
                _require_solvable(puzzles, lambda done: _advance(bar, done, len(puzzles)))
    puzzles = as_the_model_has_it(reasoner, puzzles)
    if puzzles.unproved:
        click.echo(f"eqrlab: {not_proved(puzzles)}", err=True)
    if copies := puzzles.copies:
        click.echo(f"eqrlab: {repeated(copies, len(puzzles))}", err=True)
    return puzzles


def bundled_for(task: str, split: str) -> PuzzleSet:
    """Return the bundled puzzles of a task.

    Raises
    ------
    ValueError
        When there are none, with what to do.
    """
    if f"{task}-{split}" not in bundled_names():
        raise ValueError(
            f"no puzzles of the task {task} are bundled (split {split}): --puzzles FILE|DIR gives some; bundled are "
            f"{', '.join(bundled_names())}"
        )
    return bundled(task, split)


def require_solutions(puzzles: PuzzleSet) -> None:
    """Refuse, before anything is run, puzzles of which the running command could not tell right answers from wrong.

    Raises
    ------
    ValueError
        When they have neither solutions nor an oracle.
    """
    if puzzles.labels is None and puzzles.oracle is None:
        verb = click.get_current_context().info_name
        raise ValueError(
            f"{puzzles.source}: has no solutions, without which `eqrlab {verb}` cannot tell right answers from wrong "
            f"ones (task {puzzles.task}); add solutions, or use `eqrlab basins` or `eqrlab spectrum`, which need none"
        )


def require_fitting(reasoner: Reasoner, puzzles: PuzzleSet) -> None:
    """Refuse puzzles, or labels, that the model does not read.

    Raises
    ------
    ValueError
        With the sizes of both, or the place of a token that the model does not know.
    """
    if reasoner.config is None:  # a system of the user's own says so itself
        return
    cells, tokens = reasoner.config.seq_len, reasoner.config.vocab_size
    if puzzles.inputs.shape[1] != cells:
        raise ValueError(
            f"{puzzles.source}: {puzzles.task} puzzles of {puzzles.inputs.shape[1]} cells, "
            f"the model reads {reasoner.task} of {cells} cells and {tokens} tokens"
        )
    for what, values in (("the puzzle", puzzles.inputs), ("the solution", puzzles.labels)):
        foreign = None if values is None else (values >= tokens).any(axis=1)
        if values is not None and foreign is not None and foreign.any():
            row = int(foreign.argmax())
            raise ValueError(
                f"{Path(puzzles.source).parent / puzzles.names[row]}: {what} has token {values[row].max()}, "
                f"the model reads {reasoner.task} of {cells} cells and {tokens} tokens"
            )


def as_the_model_has_it(reasoner: Reasoner, puzzles: PuzzleSet) -> PuzzleSet:
    """Set the task of a model to that of its puzzles, and return them.

    Puzzles without a named task get the vocabulary of the model, and its board if nothing else gives the sides.

    Raises
    ------
    ValueError
        See `require_fitting`.
    """
    require_fitting(reasoner, puzzles)
    known, config = task_named(puzzles.task), reasoner.config
    if known.kind == GENERIC and config is not None:
        board = known.board if known.is_grid or config.board is None else config.board
        puzzles = dataclasses.replace(puzzles, task=generic(config.vocab_size, board).name)
    reasoner.task = puzzles.task
    return with_identifiers(reasoner, puzzles)


def not_proved(puzzles: PuzzleSet) -> str:
    """Return a note on how many puzzles are not proved to have one solution."""
    return (
        f"{puzzles.unproved} of {len(puzzles)} puzzles are not proved to have one solution: the search on boards of "
        f"this size ends after {PROOF_SECONDS:g} s; answers are judged all the same"
    )


def repeated(copies: int, puzzles: int) -> str:
    """Return a note on how many puzzles repeat others."""
    return (
        f"puzzles that repeat an earlier one: {copies} of {puzzles}; their runs are the same, and "
        "intervals, which take puzzles as independent, come out too narrow"
    )


def _require_solvable(puzzles: PuzzleSet, tick: Callable[[int], object]) -> None:
    """Refuse puzzles without any solution: every answer to them is wrong, whatever the model does."""
    for row in unsolvable(puzzles.task, puzzles.inputs, puzzles.labels, tick)[:1]:
        folder = Path(puzzles.source).parent
        raise ValueError(
            f"{folder / puzzles.names[row]}: the puzzle has no solution, no answer to it can be right"
        )


def _advance(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def short_source(puzzles: PuzzleSet) -> str:
    """Return the file name of a puzzle set, or the last two names of a split's folder."""
    path = Path(puzzles.source)
    return "/".join(path.parts[-2:]) if path.is_dir() else path.name


def how_chosen(puzzles: PuzzleSet) -> str:
    """Return the note about a draw and about blank identifiers that follows the name of the source; else nothing.

    Examples
    --------
    " (drawn at random from its 44,635 with seed 0; --limit all takes all)"
    """
    draw = puzzles.draw
    drawn = (
        ""
        if draw is None
        else (f" (drawn at random from its {draw.available:,} with seed {draw.seed}; --limit all takes all)")
    )
    return drawn + whose(puzzles)


def puzzle_attributes(puzzles: PuzzleSet) -> dict[str, Any]:
    """Return what an archive records of its puzzles: where they are from and how they were drawn."""
    found: dict[str, Any] = {"puzzles": typed(short_source(puzzles))}
    if puzzles.draw is not None:
        found |= {"puzzles_drawn_from": puzzles.draw.available, "puzzles_drawn_by_seed": puzzles.draw.seed}
    return found
