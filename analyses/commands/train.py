"""`eqrlab train`, `eqrlab evaluate` and `eqrlab info`.

One subject: a checkpoint, how it is made, judged and described; the three share their options and their loading.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import click
import numpy as np
import torch
from click.core import ParameterSource
from tqdm import tqdm

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common import train_options
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import as_the_model_has_it, bundled_for
from eqrlab.analyses.commands.common.run_folder import FILES, NOT_KEPT, recall, state_of
from eqrlab.analyses.commands.common.slots import end_slot, last_accuracy
from eqrlab.analyses.commands.common.stopping import Stopped, exit_code, stop_signals
from eqrlab.analyses.commands.common.training_log import SINKS, follow
from eqrlab.analyses.studies.training_recipes import PRESETS, configurations
from eqrlab.analyses.text.describe import aligned, describe, flat, plain
from eqrlab.core import families
from eqrlab.core.files import replaced_whole
from eqrlab.core.messages import one_line
from eqrlab.core.training.trainer import Trainer
from eqrlab.core.training.trainer import train as run_training
from eqrlab.datasets import PuzzleSet, bundled, bundled_names, read_puzzles
from eqrlab.datasets import task as task_named
from eqrlab.datasets.checks import unsolvable as unsolvable_rows
from eqrlab.datasets.registry.lookup import device_augmentation


@click.command(
    "train",
    epilog="Example:  eqrlab train sudoku6 --family eqr --steps 50 --hidden 16 --out runs/mine",
)
@click.argument("task")
@click.option("--family", type=click.Choice(families()), default="eqr", show_default=True)
@click.option(
    "--puzzles",
    metavar="FILE|DIR",
    help="Training puzzles with solutions (default: the bundled set; with --preset on sudoku9: sudoku9-hard).",
)
@train_options.test_puzzles
@click.option(
    "--no-symmetries", is_flag=True, help="Show every puzzle as it is, not under random symmetries."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run [default: runs/FAMILY-TASK].")
@train_options.training
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="The model and training of the paper (eqr and trm on sudoku9 and maze30; paper-small: eqr on maze30).",
)
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Use torch.compile: slow to start, then faster [default: with --preset on CUDA].",
)
@click.option(
    "--minutes", type=click.FloatRange(0), help="Save and end after so many minutes; continue with --resume."
)
@train_options.device
@train_options.threads
@click.option(
    "--evaluate-every", type=click.IntRange(1), default=500, show_default=True, help="Steps between tests."
)
@click.option(
    "--save-every", type=click.IntRange(1), default=250, show_default=True, help="Steps between saves."
)
@click.option(
    "--keep-every",
    type=click.IntRange(1),
    metavar="N",
    help="Also keep the model of every N-th step, for `eqrlab continuation`.",
)
@click.option(
    "--log", type=click.Choice(list(SINKS)), help="Follow log.jsonl elsewhere, too: log.csv, or a service."
)
@opt.depth(16, "Outer steps of the tests.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out; options not given are those of that run."
)
@opt.quiet
@click.pass_context
def train(context: click.Context, task: str, **options: Any) -> None:
    """Train a model on a task.

    TASK is sudoku4, sudoku6, sudoku9, or maze5 to maze99.  Options not given come from the recipe of the task, or from
    a preset.  The folder of the run holds model.safetensors (the averaged weights), state.safetensors (to continue),
    log.jsonl, slots.jsonl (a line a command) and options.json; with --keep-every also the models on the way,
    model-000200.safetensors, ....  A run that was stopped or killed continues with --resume to the same result as an
    uninterrupted one on the same machine with the same number of threads.  --resume --steps N changes the number of
    steps, of a finished run too: from there on the step size follows the cosine of N steps.
    """
    began = time.monotonic()
    out = options["out"] = options["out"] or Path("runs") / f"{options['family']}-{task}"
    recall(context, task, options, out)
    state = state_of(out) if options["resume"] else None
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    trainer, test = _prepare(task, options)
    if options["resume"]:
        if state is not None:
            given = context.get_parameter_source("steps") is not ParameterSource.DEFAULT
            trainer.load_state(state, extend=given)
            click.echo(f"continuing {out} at step {trainer.step_count}")
        else:
            click.echo(f"nothing was saved in {out} yet: starting from the beginning")
    require_writable(out, *FILES)
    _remember(task, options, out)
    size = sum(p.numel() for p in trainer.model.parameters())
    click.echo(
        f"{options['family']} on {task}: {size:,} parameters, {len(trainer.data.inputs)} puzzles, {trainer.device}, "
        f"{trainer.config.steps} steps of {trainer.config.batch_size} rows, in {out}"
    )
    first = trainer.step_count
    with stop_signals() as stopped:
        accuracy = _run(
            trainer, test, options, out, lambda: bool(stopped) or _over(began, options["minutes"])
        )
    report = end_slot(trainer, out, first, time.monotonic() - began)
    if report:
        click.echo(report)
    if trainer.step_count < trainer.config.steps and not stopped:
        click.echo(
            f"the {options['minutes']:g} minutes are over at step {trainer.step_count} of {trainer.config.steps}; "
            f"continue with: eqrlab train {task} --out {out} --resume --minutes {options['minutes']:g}"
        )
        return
    if trainer.step_count < trainer.config.steps:
        click.echo(
            f"eqrlab: stopped at step {trainer.step_count} of {trainer.config.steps} with all saved; "
            f"continue with: eqrlab train {task} --out {out} --resume",
            err=True,
        )
        sys.exit(exit_code(Stopped(stopped[0])))
    click.echo(f"wrote {out / 'model.safetensors'}")
    if test is not None and accuracy is not None:
        from eqrlab.analyses.studies.shares import proportion  # here, for a quick start

        click.echo(
            f"exact accuracy at depth {options['depth']}: {_share(proportion(accuracy, len(test)))} "
            f"of {len(test)} held-out puzzles"
        )


def _over(began: float, minutes: float | None) -> bool:
    """Say whether the time of a command is used up."""
    return minutes is not None and time.monotonic() - began >= 60 * minutes


def _remember(task: str, options: dict[str, Any], out: Path) -> None:
    """Write the options of a run beside its results."""
    kept = {"task": task} | {k: v for k, v in options.items() if k not in NOT_KEPT}
    with replaced_whole(out / "options.json") as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def _prepare(task: str, options: dict[str, Any]) -> tuple[Trainer, PuzzleSet | None]:
    """Read the data and build the trainer; options that no run can have are wrong usage."""
    device = options["device"]
    try:
        known = task_named(task)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if known.sized is not None:  # of no sizes of its own: the training puzzles have some
        if options["puzzles"] is None:
            raise click.UsageError(f"{task} has no puzzles of its own: --puzzles FILE|DIR gives them")
        task = read_puzzles(options["puzzles"], task, "train").task
    try:
        model, config = configurations(task, options, device)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    usual = f"{task}-hard" if options["preset"] and f"{task}-hard-train" in bundled_names() else task
    puzzles = _set(options["puzzles"], task, "train") or bundled_for(usual, "train")
    test = _set(options["test_puzzles"], task, "test")
    if test is None and f"{usual}-test" in bundled_names():
        test = bundled(usual, "test")
    for given in (puzzles, test):
        if given is not None and given.labels is None:
            raise ValueError(f"{given.source}: training needs puzzles with solutions")
    assert puzzles.labels is not None
    alone = options["no_symmetries"] or known.device_augment is None
    symmetries = None if alone else device_augmentation(task, device)
    trainer = Trainer(
        options["family"], model, task, puzzles.inputs, puzzles.labels, config, symmetries, device
    )
    return trainer, test


def _set(source: str | None, task: str, split: str) -> PuzzleSet | None:
    """Read the puzzles that an option names: a file, a folder, or a bundled set where there is no such path."""
    if source is None:
        return None
    return read_puzzles(source, task, split)


def _run(
    trainer: Trainer,
    test: PuzzleSet | None,
    options: dict[str, Any],
    out: Path,
    stop: Callable[[], bool],
) -> float | None:
    """Train to the end or until stopped, with a progress bar; return the last exact accuracy on held-out puzzles."""
    held_out = None if test is None or test.labels is None else (test.inputs, test.labels)
    shown: dict[str, str] = {}
    accuracy = last_accuracy(out / "log.jsonl") if trainer.step_count else None
    records = run_training(
        trainer,
        out,
        test=held_out,
        evaluate_every=options["evaluate_every"],
        save_every=options["save_every"],
        keep_every=options["keep_every"],
        depth=options["depth"],
        stop=stop,
        throughput=options["preset"] is not None or trainer.device.type == "cuda",
    )
    bar = tqdm(
        total=trainer.config.steps,
        initial=trainer.step_count,
        unit="step",
        disable=options["quiet"],
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
        dynamic_ncols=True,
    )
    tell = follow(options["log"], out, options, trainer.step_count)
    with bar:
        for record in records:
            if "step" in record:
                tell()
            if (
                "steps_per_second" in record
            ):  # a line of the log was written: the device was waited for already
                shown["loss"] = f"{float(record['loss']):.3f}"
            if "train_exact" in record:
                shown["train exact"] = f"{record['train_exact']:.1%}"
            if "test_exact" in record:
                accuracy = record["test_exact"]
                shown["test exact"] = f"{accuracy:.1%}"
            bar.set_postfix(shown, refresh=False)
            bar.update()
    return accuracy


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

    CKPT is a file (official or eqrlab's own) or the name of a bundled model.  An answer is exact when it is valid (a
    Sudoku rule for every row, column and box; a shortest path), whatever the stored solution.  Accuracies are means
    over restarts; their 95 % intervals take puzzles as the independent units, not restarts.  "halting" is what comes of
    stopping every run at the first step at which its halting head asks for it.  Puzzles that have no solution are named
    and left out: no answer to them is right.

    With --commit the puzzles are also answered by two stages of --restarts runs (4 unless more than one is given), from
    random states where the family has a stored start, and beside them by as many plain restarts.

    Of ARC tasks also pass@K: the share of tests with a right answer among the K that most disguises (and restarts) vote
    for, by the official vote, mean over tasks; and the same when a task counts only with all its tests right.
    """
    from eqrlab.analyses.studies.accuracy import measure  # here, so that the other commands start quickly
    from eqrlab.analyses.studies.arc import shown_names
    from eqrlab.analyses.studies.commit import STAGE, clues_of, commit_figures, commit_lines, commit_trial

    reasoner = load_checkpoint(checkpoint)
    task = opt.asked_task()
    puzzles, split, restarts = given["puzzles"], given["split"], given["restarts"]
    chosen = read_puzzles(puzzles, task, split) if puzzles else bundled_for(task or reasoner.task, split)
    chosen, unsolvable = _solvable(as_the_model_has_it(reasoner, chosen.take(slice(given["limit"]))))
    if submission is not None and not shown_names(chosen):
        raise ValueError("--submission is of ARC puzzles whose tasks are known")
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
        "exact": _share(result["exact"]) if result["exact"] else "not known: nothing tells what is right",
        "cells": _share(result["cells"])
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
    """Say what comes of stopping where the halting head asks for it."""
    steps, never = found["steps"], 1 - found["halted"]["value"]
    mean = f"{steps['value']:.1f}"
    if steps["low"] is not None:
        mean += f" [{steps['low']:.1f}, {steps['high']:.1f}]"
    asked = f", {never:.0%} of runs never asked to stop" if never else ""
    return f"exact {_share(found['exact'])} at {mean} of {depth} steps{asked}"


def _pass_lines(result: dict[str, Any]) -> dict[str, str]:
    """Return what is printed of pass rates, where there are any."""
    if "all_tests" not in result:
        return {}
    lines = {"all cells": _share(result["cell"])}
    for name in (name for name in result if name.startswith("pass@")):
        lines[name] = (
            f"{_share(result[name])}, {result['all_tests'][name]['value']:.1%} with all tests of a task"
        )
    left = result["tests_without_puzzle"]
    lines["votes"] = f"{result['tasks']} tasks, {result['tests']} tests" + (
        f", {left} not run" if left else ""
    )
    return lines


def _solvable(puzzles: PuzzleSet) -> tuple[PuzzleSet, list[str]]:
    """Return the puzzles that have a solution, and the names of those that have none.

    Raises
    ------
    ValueError
        When none has.
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


def _share(result: dict[str, float]) -> str:
    return f"{result['value']:.1%} (95 % interval {result['low']:.1%} to {result['high']:.1%})"


@click.command("info", epilog="Example:  eqrlab info eqr-sudoku6")
@click.argument("checkpoint", metavar="CKPT")
@opt.as_json
@opt.checkpoint
def info(checkpoint: str, as_json: bool) -> None:
    """Show what a checkpoint is: family, configuration, provenance.

    CKPT is a file (official or eqrlab's own) or the name of a bundled model.
    """
    reasoner = load_checkpoint(checkpoint)
    if reasoner.config is None:
        raise ValueError(
            f"{checkpoint}: is a system of your own, whose code says what it is; info tells of files"
        )
    facts = describe(reasoner)
    if as_json:
        click.echo(json.dumps({"checkpoint": checkpoint, **facts}))
        return
    shape = facts["state_shape"]
    lines = {
        "checkpoint": checkpoint,
        "family": facts["family"],
        "variant": facts["variant"],
        "task": facts["task"],
        "parameters": f"{facts['parameters']:,}",
        "state": f"{facts['state_dimension']:,} numbers: {' x '.join(map(str, shape))} (streams, positions, channels)",
        "outer step": f"{facts['level_calls']} level calls, {facts['equivalent_layers']} equivalent layers",
    }
    if reasoner.identifiers > 1:
        lines["identifiers"] = (
            f"{reasoner.identifiers:,} of puzzles, an embedding each; puzzles need the identifiers.json that the model "
            "was trained with"
        )
    click.echo("\n".join(aligned(lines)))
    for title, values in (("configuration", facts["config"]), ("provenance", facts["provenance"])):
        click.echo("\n".join(["", title, *aligned({f"  {k}": plain(v) for k, v in flat(values).items()})]))
