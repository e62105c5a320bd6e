"""`eqrlab train`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from tqdm import tqdm

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common import train_options
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import bundled_for
from eqrlab.analyses.commands.common.run_folder import FILES, NOT_KEPT, own_task, recall, state_of
from eqrlab.analyses.commands.common.slots import end_slot, last_accuracy
from eqrlab.analyses.commands.common.stopping import Stopped, exit_code, stop_signals
from eqrlab.analyses.commands.common.training_log import SINKS, follow
from eqrlab.analyses.studies.training_recipes import PRESETS, configurations
from eqrlab.analyses.text.format import stated_share
from eqrlab.core import families
from eqrlab.core.files import replaced_whole
from eqrlab.core.training.trainer import Trainer
from eqrlab.core.training.trainer import train as run_training
from eqrlab.datasets import PuzzleSet, bundled, bundled_names, read_puzzles
from eqrlab.datasets import task as task_named


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
    "--minutes",
    type=opt.Real(0),
    help="Save and end after this many minutes; continue with --resume.",
)
@train_options.device
@train_options.threads
@opt.number("--evaluate-every", 500, "Steps between tests.")
@opt.number("--save-every", 250, "Steps between saves.")
@click.option(
    "--keep-every",
    type=click.IntRange(1),
    metavar="N",
    help="Also keep the model of every N-th step, for `eqrlab continuation`.",
)
@click.option(
    "--log", type=click.Choice(list(SINKS)), help="Also write the log to log.csv or send it to a service."
)
@opt.depth(16, "Outer steps of the tests.")
@click.option(
    "--resume", is_flag=True, help="Continue the run in --out; options not given are those of that run."
)
@opt.quiet
@click.pass_context
def train(context: click.Context, task: str, **options: Any) -> None:
    """Train a model on a task.

    TASK is any task, such as sudoku4 to sudoku25, maze5 to maze99 or generic; sudoku6, sudoku9 and maze9 have bundled
    puzzles, others need --puzzles.  Options not given come from the recipe of the task,
    or from a preset.  The folder of the run contains model.safetensors (the averaged weights),
    state.safetensors (from which it continues), log.jsonl, slots.jsonl (one line per command) and options.json;
    with --keep-every also intermediate models, model-000200.safetensors, ....  With --resume, a run that was
    stopped or killed reaches the same result as an uninterrupted one on the same machine with the same number
    of threads.  --resume --steps N changes the number of steps, also of a finished run: from there on the
    learning rate follows the cosine schedule of N steps.
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
    first = trainer.step_count
    tell = follow(options["log"], out, options, first)  # where it is refused, no run is there yet
    _remember(task, options, out)
    size = sum(p.numel() for p in trainer.model.parameters())
    click.echo(
        f"{options['family']} on {task}: {size:,} parameters, {len(trainer.data.inputs)} puzzles, {trainer.device}, "
        f"{trainer.config.steps} steps of {trainer.config.batch_size} rows, in {out}"
    )
    with stop_signals() as stopped:
        accuracy = _run(
            trainer, test, options, out, tell, lambda: bool(stopped) or _over(began, options["minutes"])
        )
    report = end_slot(trainer, out, first, time.monotonic() - began)
    if report:
        click.echo(report)
    again = f"continue with: eqrlab train {task} --out {shlex.quote(str(out))} --resume"
    if trainer.step_count < trainer.config.steps and not stopped:
        click.echo(
            f"the {options['minutes']:g} minutes are over at step {trainer.step_count} of {trainer.config.steps}; "
            f"{again} --minutes {options['minutes']:g}"
        )
        return
    if trainer.step_count < trainer.config.steps:
        click.echo(
            f"eqrlab: stopped at step {trainer.step_count} of {trainer.config.steps} with all saved; {again}",
            err=True,
        )
        sys.exit(exit_code(Stopped(stopped[0])))
    click.echo(f"wrote {out / 'model.safetensors'}")
    if test is not None and accuracy is not None:
        from eqrlab.analyses.studies.shares import proportion  # here, for a quick start

        click.echo(
            f"exact accuracy at depth {options['depth']}: {stated_share(proportion(accuracy, len(test)))} "
            f"of {len(test)} held-out puzzles"
        )


def _over(began: float, minutes: float | None) -> bool:
    """Return whether the time of the command is used up."""
    return minutes is not None and time.monotonic() - began >= 60 * minutes


def _remember(task: str, options: dict[str, Any], out: Path) -> None:
    """Write the options of a run beside its results."""
    kept = {"task": task} | {k: v for k, v in options.items() if k not in NOT_KEPT}
    with replaced_whole(out / "options.json") as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n")


def _prepare(task: str, options: dict[str, Any]) -> tuple[Trainer, PuzzleSet | None]:
    """Read the data and build the trainer; impossible options are wrong usage."""
    device = options["device"]
    task = own_task(task, options["puzzles"])
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
    if puzzles.identifiers is not None:
        click.echo(
            "note: the identifiers of the puzzles are not used, as models trained here have no puzzle embeddings",
            err=True,
        )
    drawn = task_named(task).device_augment
    symmetries = None if options["no_symmetries"] or drawn is None else drawn(device)
    trainer = Trainer(
        options["family"], model, task, puzzles.inputs, puzzles.labels, config, symmetries, device
    )
    return trainer, test


def _set(source: str | None, task: str, split: str) -> PuzzleSet | None:
    """Read the puzzles that an option names: a file, a folder, or a bundled set if there is no such path."""
    if source is None:
        return None
    return read_puzzles(source, task, split)


def _run(
    trainer: Trainer,
    test: PuzzleSet | None,
    options: dict[str, Any],
    out: Path,
    tell: Callable[[], object],
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
        judge=None if test is None else test.oracle,
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
