"""`eqrlab ladder`."""

from __future__ import annotations

import collections
import sys
import time
from typing import Any

import click
import torch

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common import train_options
from eqrlab.analyses.commands.common.cost import duration, sampling, seconds_an_evaluation
from eqrlab.analyses.commands.common.json_result import prints_json, records
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.stopping import Stopped, exit_code, stop_signals
from eqrlab.analyses.studies.ladder.climb import Interrupted, climb, deepest, found
from eqrlab.analyses.studies.ladder.rungs import PATH, Ladder, Sampling
from eqrlab.analyses.studies.training_recipes import OPTIONS
from eqrlab.analyses.text.format import plural, table, wrapped
from eqrlab.attractors.results import archive
from eqrlab.core import Reasoner
from eqrlab.core.files import replaced_whole
from eqrlab.core.models.reasoner import restart_law

TRIED = 2  # optimiser steps that are timed


@click.command(
    "ladder",
    epilog="Example:  eqrlab ladder sudoku6 --rungs tied --seeds 1 --steps 5 --hidden 8 --limit 1 --restarts 2",
)
@click.argument("task", default="sudoku6")
@click.option("--rungs", default=",".join(PATH), show_default=True, help="The rungs, separated by commas.")
@opt.number("--seeds", 3, "Training runs of every rung.")
@train_options.optimiser
@train_options.blocks
@click.option(
    "--layers", type=int, help="Blocks per level; the feedforward rung has as many as a whole outer step."
)
@click.option(
    "--h-cycles", type=int, help="Inner cycles H of the two-level rungs; the others match their layers."
)
@click.option("--l-cycles", type=int, help="Inner cycles L of the two-level rungs.")
@click.option("--halt-max-steps", type=int, help="Outer steps in training, from rung sot on.")
@click.option("--puzzles", metavar="FILE|DIR", help="Training puzzles (default: the bundled set).")
@train_options.test_puzzles
@opt.number("--limit", 24, "Puzzles on which the landscape is sampled.")
@opt.number("--restarts", 24, "Restarts B of each of these puzzles.", least=2)
@opt.depth(32, "Outer steps D of these runs.")
@train_options.device
@train_options.threads
@opt.out("runs/ladder")
@prints_json
@opt.quiet
def ladder_command(task: str, **options: Any) -> dict[str, Any]:
    """Train a ladder of models, one ingredient more at each rung.

    Measures how each ingredient changes accuracy and landscape on TASK.

    The rungs, all with the same number of layers per outer step, are: feedforward, tied (weights tied, one
    segment), sot (segmented online training), hierarchy (two levels), act (learned halting), ri (random initial
    states), ni (noise and damping).  A further rung is noise (act with noise and damping): the rungs act,noise,ri,ni
    together cross random starts with noise, and the effects of both and their interaction are printed.  Four
    more rungs are variants of ni: entropy, stability and spectral train with the regulariser of that name (see
    `eqrlab train`; weights 0.1, 1 and 0.1), and narrow has random starts of half the standard deviation.

    Every run has a folder OUT/RUNG-seedS, as `eqrlab train` writes it, with its sampling in landscape.nc.  Runs that
    are there already are used, so that the same command continues an interrupted ladder.  Writes OUT/ladder.nc,
    OUT/ladder.md and OUT/ladder.svg.
    """
    from eqrlab.analyses.figures.style import write_figure
    from eqrlab.analyses.studies.ladder import text as ladder_text  # here, so that help starts quickly
    from eqrlab.analyses.studies.ladder.plot import ladder_figure
    from eqrlab.analyses.studies.ladder.summary import summarise

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    out = options["out"]
    require_writable(out, "ladder.nc", "ladder.md", "ladder.svg")
    try:
        ladder = Ladder(
            task,
            out,
            rungs=[name.strip() for name in options["rungs"].split(",")],
            seeds=range(options["seeds"]),
            options={name: value for name, value in options.items() if name in OPTIONS},
            puzzles=options["puzzles"],
            test_puzzles=options["test_puzzles"],
            sampling=Sampling(options["limit"], options["restarts"], options["depth"]),
            device=options["device"],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{plural(len(ladder.runs()), 'run')} on {task}, {options['device']}, in {out}")
    if not options["quiet"]:
        click.echo(cost_of(ladder), err=True)
    with stop_signals() as stopped:
        try:
            results = climb(
                ladder, stop=lambda: bool(stopped), tell=click.echo, progress=not options["quiet"]
            )
        except Interrupted:
            click.echo("eqrlab: stopped with all saved; the same command goes on from here", err=True)
            sys.exit(exit_code(Stopped(stopped[0])))
    summary = summarise(ladder, results)
    archive.write(out / "ladder.nc", {"ladder": summary})
    with replaced_whole(out / "ladder.md") as temporary:
        temporary.write_text(ladder_text.markdown(summary))
    write_figure(ladder_figure(summary), out / "ladder.svg")
    for title, rows in ladder_text.tables(summary):
        click.echo("\n".join(["", title, *table(rows)]))
    click.echo()
    for text in (*ladder_text.sentences(summary), *ladder_text.notes(summary)):
        click.echo("\n".join(wrapped(text)))
    click.echo(f"\nwrote {out / 'ladder.nc'}, {out / 'ladder.md'} and {out / 'ladder.svg'}")
    table_of_values = summary[["mean", "low", "high"]].to_dataframe().reset_index()
    return {"archive": str(out / "ladder.nc"), "rungs": records(table_of_values)}


def cost_of(ladder: Ladder) -> str:
    """Return in one line how long the remaining runs will take, estimated from two optimiser steps of each rung."""
    left = collections.Counter(rung for rung, seed in ladder.runs() if found(ladder, rung, seed) is None)
    training = sampled = 0.0
    for rung, runs in left.items():
        trainer = ladder.trainer(
            rung, ladder.seeds[0]
        )  # one of its own: the steps taken here count for no run
        trainer.step()  # what happens only once
        began = time.perf_counter()
        for _ in range(TRIED):
            trainer.step()
        training += runs * trainer.config.steps * (time.perf_counter() - began) / TRIED
        sampled += runs * sampling_seconds(trainer.result(), ladder)
    total = duration(max(1.0, training + sampled))
    return (
        f"up to about {total}: training {duration(training)}, sampling {duration(sampled)}"
        if left
        else "all done"
    )


def sampling_seconds(model: Reasoner, ladder: Ladder) -> float:
    """Return the seconds that sampling one trained model will take."""
    how, first = ladder.sampling, ladder.test_set.take(slice(ladder.sampling.limit))
    run = at.Run.of(
        model, first.inputs, restarts=how.restarts, depth=how.depth, seed=how.seed, device=ladder.device,
        initial=restart_law(model),
    )  # fmt: skip
    own = len(ladder.test_set) * deepest(model, how) * (2 if run.noise else 1)
    return (sampling(run) + own) * seconds_an_evaluation(run, None)
