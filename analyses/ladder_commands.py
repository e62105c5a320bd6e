"""`eqrlab ladder`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import click
import torch

from eqrlab.analyses.ladder import Interrupted, climb
from eqrlab.analyses.ladder_rungs import RUNGS, Ladder, Sampling
from eqrlab.analyses.stopping import stop_signals
from eqrlab.attractors import archive
from eqrlab.core.checkpoint import replaced_whole
from eqrlab.core.config import MIXERS, POSITIONS

SHARED = {
    "steps": (int, "Optimiser steps of every run."),
    "batch_size": (int, "Rows in training at a time."),
    "lr": (float, "Peak step size."),
    "weight_decay": (float, "Of the optimiser."),
    "ema": (float, "Decay of the averaged weights."),
    "hidden": (int, "Channels of a position."),
    "layers": (int, "Blocks of a level; the feedforward rung has as many as a whole outer step."),
    "heads": (int, "Attention heads."),
    "mixer": (click.Choice(MIXERS), "How positions exchange information."),
    "positions": (click.Choice(POSITIONS), "Position encoding."),
    "h_cycles": (int, "Inner cycles H of the two-level rungs; the others match their layers."),
    "l_cycles": (int, "Inner cycles L of the two-level rungs."),
    "halt_max_steps": (int, "Outer steps in training, from rung sot on."),
}


def _shared(command: Any) -> Any:
    for name, (kind, text) in reversed(SHARED.items()):
        command = click.option(f"--{name.replace('_', '-')}", type=kind, help=text)(command)
    return command


@click.command(
    "ladder", epilog="Example:  eqrlab ladder sudoku6 --steps 1200 --seeds 3 --threads 1 --out runs/ladder"
)
@click.argument("task", default="sudoku6")
@click.option("--rungs", default=",".join(RUNGS), show_default=True, help="Which rungs, with commas.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of every rung.")
@_shared
@click.option("--puzzles", metavar="FILE|DIR", help="Training puzzles (default: the bundled set).")
@click.option("--test-puzzles", metavar="FILE|DIR", help="Held-out puzzles (default: the bundled set).")
@click.option(
    "--limit", type=click.IntRange(1), default=24, show_default=True, help="Puzzles of the landscape."
)
@click.option("--restarts", type=click.IntRange(2), default=24, show_default=True, help="Breadth B of it.")
@click.option("--depth", type=click.IntRange(1), default=32, show_default=True, help="Depth D of it.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Processor threads [default: all].")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ladder"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def ladder_command(task: str, **options: Any) -> None:
    """Climb the construction path on TASK: what each ingredient does to accuracy and landscape.

    The rungs, at as many layers an outer step: feedforward, tied (weights tied, one segment), sot (segmented online
    training), hierarchy (two levels), act (learned halting), ri (random initial states), ni (noise and damping).

    Every run is kept in OUT/RUNG-seedS as `eqrlab train` keeps it, with its sampling in landscape.nc; what is there
    already is taken up, so that an interrupted ladder goes on with the same command.  Writes OUT/ladder.nc,
    OUT/ladder.md and OUT/ladder.svg.
    """
    from eqrlab.analyses import ladder_text  # here, so that help starts quickly
    from eqrlab.analyses.diagnose_commands import require_writable, table
    from eqrlab.analyses.ladder_plot import ladder_figure, write_svg
    from eqrlab.analyses.ladder_summary import summarise

    device = options["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device here; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    out = options["out"]
    require_writable(out)
    try:
        ladder = Ladder(
            task,
            out,
            rungs=[name.strip() for name in options["rungs"].split(",")],
            seeds=range(options["seeds"]),
            options={name: options[name] for name in SHARED},
            puzzles=options["puzzles"],
            test_puzzles=options["test_puzzles"],
            sampling=Sampling(options["limit"], options["restarts"], options["depth"]),
            device=device,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{len(ladder.runs())} runs on {task}, {device}, in {out}")
    with stop_signals() as stopped:
        try:
            results = climb(
                ladder, stop=lambda: bool(stopped), tell=click.echo, progress=not options["quiet"]
            )
        except Interrupted:
            click.echo("eqrlab: stopped with all saved; the same command goes on from here", err=True)
            sys.exit(1)
    summary = summarise(ladder, results)
    for title, rows in ladder_text.tables(summary):
        click.echo("\n".join(["", title, *table(rows)]))
    click.echo()
    for text in (*ladder_text.sentences(summary), *ladder_text.notes(summary)):
        click.echo("\n".join(textwrap.wrap(text, 110)))
    archive.write(out / "ladder.nc", {"ladder": summary})
    with replaced_whole(out / "ladder.md") as temporary:
        temporary.write_text(ladder_text.markdown(summary))
    write_svg(ladder_figure(summary), out / "ladder.svg")
    click.echo(f"\nwrote {out / 'ladder.nc'}, {out / 'ladder.md'} and {out / 'ladder.svg'}")
