"""`eqrlab evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Unpack

import click
import numpy as np

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import as_the_model_has_it, bundled_for
from eqrlab.analyses.text.format import plural, stated_share
from eqrlab.core.files import replaced_whole
from eqrlab.core.messages import one_line
from eqrlab.core.shown import aligned
from eqrlab.datasets import PuzzleSet, read_puzzles
from eqrlab.datasets.checks import unsolvable as unsolvable_rows


@click.command(
    "evaluate",
    epilog="Example:  eqrlab evaluate eqr-sudoku6 --limit 50 --depth 8",
)
@click.argument("checkpoint", metavar="CKPT")
@opt.puzzles
@opt.limit()
@opt.depth(16)
@opt.restarts(1)
@opt.commit
@opt.seed()
@opt.noise()
@opt.device()
@click.option(
    "--submission",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the two best answers to each ARC test, as ARC Prize takes them.",
)
@opt.as_json
@opt.quiet
@opt.checkpoint
def evaluate(
    checkpoint: str,
    commit: float | None,
    submission: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Unpack[opt.Given],
) -> None:
    """Measure the exact and the cell accuracy of a checkpoint.

    CKPT is a file (official or eqrlab's own) or the name of a bundled model.  An answer is exact when it is valid (the
    Sudoku rules for every row, column and box; a shortest path), whatever the stored solution is.  Accuracies are means
    over restarts; their 95 % intervals treat puzzles, not restarts, as the independent units.  "halting" is the
    accuracy when every run stops at the first step at which its halting head asks for it.  Puzzles that have no
    solution are listed and left out, since no answer to them is right.

    With --commit, the puzzles are also answered by two stages of --restarts runs (4 unless more than one is given),
    from random states if the family has a stored start, and for comparison by as many plain restarts.

    For ARC tasks there is also pass@K: the share of tests with a right answer among the K answers with the most votes
    of disguises (and restarts), by the official vote, averaged over tasks; and the same if a task counts only with all
    its tests right.
    """
    from eqrlab.analyses.studies.accuracy import measure  # here, so that the other commands start quickly
    from eqrlab.analyses.studies.arc import shown_names
    from eqrlab.analyses.studies.commit import STAGE, clues_of, commit_figures, commit_lines, commit_trial

    reasoner = load_checkpoint(checkpoint)
    task = opt.asked_task()
    puzzles, split, restarts = given["puzzles"], given["split"], given["restarts"]
    chosen = read_puzzles(puzzles, task, split) if puzzles else bundled_for(task or reasoner.task, split)
    chosen, unsolvable = _solvable(as_the_model_has_it(reasoner, chosen.take(slice(given["limit"]))))
    if submission is not None:
        if not shown_names(chosen):
            raise ValueError("--submission requires ARC puzzles whose tasks are known")
        require_writable(submission.parent, submission.name)
    if unsolvable:
        click.echo(f"eqrlab: {_left_out(unsolvable, len(chosen))}", err=True)
    if commit is not None:
        clues_of(chosen.task)  # refused before anything is run
    runs: dict[str, Any] = {name: given[name] for name in ("depth", "restarts", "noise", "seed", "device")}
    runs["progress"] = not (as_json or quiet) and sys.stderr.isatty()
    result, tried = measure(reasoner, chosen, **runs), None
    if commit is not None:
        tried = commit_trial(
            reasoner, chosen, commit, **runs | {"restarts": restarts if restarts > 1 else STAGE}
        )
        result["commit"] = commit_figures(tried)
    result = {"checkpoint": checkpoint, **result, "unsolvable": len(unsolvable)}
    answers = result.pop("submission", None)
    if submission is not None:
        with replaced_whole(submission) as temporary:
            temporary.write_text(json.dumps(answers))
    if as_json:
        click.echo(json.dumps(result))
        return
    lines = {
        "checkpoint": f"{checkpoint} ({reasoner.family})",
        "puzzles": f"{result['puzzles']} of {chosen.task} ({Path(chosen.source).name or chosen.source})",
        "run": f"depth {given['depth']}, restarts {restarts}, noise {result['noise']:g}, seed {given['seed']}",
        "exact": stated_share(result["exact"])
        if result["exact"]
        else "not known: there are neither solutions nor an oracle",
        "cells": stated_share(result["cells"])
        if result["cells"]
        else "not known: the puzzles come without solutions",
        **({"halting": _halting(result["halting"], given["depth"])} if result["halting"] else {}),
        **_pass_lines(result),
        **({"submission": str(submission)} if submission is not None else {}),
    }
    click.echo("\n".join(aligned(lines)))
    if tried is not None:
        click.echo("\n".join(["", *commit_lines(tried)]))


def _halting(found: dict[str, Any], depth: int) -> str:
    """Return the line about the accuracy when runs stop as their halting head asks."""
    steps, halted = found["steps"], found["halted"]
    mean = f"{steps['value']:.1f}"
    if steps["low"] is not None:
        mean += f" [{steps['low']:.1f}, {steps['high']:.1f}]"
    asked = f"; asked to stop {stated_share(halted)} of the runs" if halted["value"] < 1 else ""
    return f"exact {stated_share(found['exact'])} at {mean} of {depth} steps{asked}"


def _pass_lines(result: dict[str, Any]) -> dict[str, str]:
    """Return the printed lines about pass rates, if there are any."""
    if "all_tests" not in result:
        return {}
    lines = {"all cells": stated_share(result["cell"])}
    for name in (name for name in result if name.startswith("pass@")):
        lines[name] = (
            f"{stated_share(result[name])}; with all tests of a task {stated_share(result['all_tests'][name])}"
        )
    left = result["tests_without_puzzle"]
    lines["votes"] = f"{plural(result['tasks'], 'task')}, {plural(result['tests'], 'test')}" + (
        f", {left} not run" if left else ""
    )
    return lines


def _solvable(puzzles: PuzzleSet) -> tuple[PuzzleSet, list[str]]:
    """Return the puzzles that have a solution, and the names of those that have none.

    Raises
    ------
    ValueError
        If no puzzle has a solution.
    """
    rows = unsolvable_rows(puzzles.task, puzzles.inputs, puzzles.labels)
    if len(rows) == len(puzzles):
        raise ValueError(f"{puzzles.source}: none of the {len(puzzles)} puzzles has a solution")
    keep = np.setdiff1d(np.arange(len(puzzles)), rows)
    return puzzles.take(keep), [puzzles.names[row] for row in rows]


def _left_out(names: list[str], sound: int) -> str:
    """Say which puzzles were left out."""
    shown = ", ".join(one_line(name, 100) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    total = len(names) + sound
    return f"{len(names)} of {total} puzzles have no solution and are left out of the figures: {shown}"
