"""`eqrlab fates`: settled or not against right or wrong, at growing depth."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.commands.common.cost import study_cost_line
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import puzzles_for, require_solutions, short_source
from eqrlab.analyses.commands.common.run_options import run_options
from eqrlab.analyses.studies import fates
from eqrlab.analyses.text.format import plural, table
from eqrlab.attractors.results import archive

RETURNED = 22  # evaluations per step of the return test of a run: itself, and 7 directions of 3 sizes


@click.command("fates", epilog="Example:  eqrlab fates eqr-sudoku6 --limit 2 --restarts 2 --depths 8,16")
@click.argument("checkpoint", metavar="CKPT")
@click.option(
    "--depths",
    type=opt.Numbers(),
    default="16,64,256",
    show_default=True,
    help="The first depth and doublings of it.",
)
@opt.noise(0.0, "Noise amplitude in every level call.")
@opt.number("--pushed", 24, "Most settled wrong, and right, runs in the return test.")
@prints_json
@opt.study(default_limit=12, default_restarts=16)
@opt.checkpoint
def fates_command(
    checkpoint: str, depths: list[int], pushed: int, out: Path, quiet: bool, **given: Unpack[opt.Given]
) -> Path:
    """Separate wrong runs that settled from unfinished ones, by depth.

    Halting is off.  The command also pushes settled runs to see whether they come back, and checks that the map does
    anything at all.  Families with one stored start are started from random states, outside their training law.
    Writes OUT/fates.nc.
    """
    fates.require_doublings(depths)
    model = load_checkpoint(checkpoint)
    chosen = puzzles_for(model, given["puzzles"], given["split"], given["limit"], several=True)
    require_solutions(chosen)
    require_writable(out, "fates.nc")
    options = run_options(model, chosen, given)
    if not quiet:
        run = at.Run.of(model, chosen.inputs, depth=depths[-1], **options)
        returns = 2 * min(pushed, run.rows) * min(depths[-1], 4 * depths[0]) * RETURNED
        click.echo(study_cost_line(run, {"return test": returns}, at_most=True), err=True)
    groups = fates.fates_study(
        model, chosen.inputs, depths=depths, pushed=pushed, progress=not quiet, **options
    )
    archive.write(out / "fates.nc", groups)
    found = groups["outcomes"]
    click.echo(
        f"{checkpoint}: {plural(len(chosen), 'puzzle')} of {short_source(chosen)}, "
        f"{plural(given['restarts'], 'restart')}, noise {given['noise']:g}\n"
    )
    for title, rows in (
        ("share of runs, with intervals over puzzles", fates.outcome_rows(found)),
        ("what depth changed", fates.depth_rows(found)),
        ("relative residual of right and wrong runs, without any threshold", fates.residual_rows(found)),
    ):
        click.echo("\n".join([title, *table(rows), ""]))
    click.echo(fates.late_sentence(found))
    if "return_test" in groups:
        click.echo(fates.return_sentence(groups["return_test"]))
    click.echo(fates.noop_sentence(groups["noop"]))
    click.echo(f"\narchive {out / 'fates.nc'}")
    return out / "fates.nc"
