"""`eqrlab dynamics`: where runs end, and how well exponents separate right runs from wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import named
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import puzzles_for, require_solutions, short_source
from eqrlab.analyses.commands.common.run_options import run_options
from eqrlab.analyses.diagnose import archive_groups
from eqrlab.analyses.studies import endings
from eqrlab.analyses.text.format import plural, table
from eqrlab.attractors.results import archive

LISTED = 24  # runs whose evidence is printed


@click.command(
    "dynamics", epilog="Example:  eqrlab dynamics eqr-sudoku6 --limit 1 --restarts 2 --depth 32 --steps 20"
)
@click.argument("checkpoints", metavar="CKPT...", nargs=-1, required=True)
@opt.depth(text="Outer steps after which an answer counts as right or wrong.")
@opt.number(
    "--steps",
    200,
    "Outer steps over which the exponents of runs that do not come to rest are averaged.",
    least=20,
)
@prints_json
@opt.study(default_limit=12, default_restarts=4)
@opt.checkpoint
def dynamics_command(
    checkpoints: tuple[str, ...], steps: int, out: Path, quiet: bool, **given: Unpack[opt.Given]
) -> Path:
    """Classify where runs end: fixed points, saddles, cycles, chaos.

    Right and wrong runs are counted separately.  Noise is off; families with one stored start are started from random
    states, outside their training law, and rounding inside the step (URM) is left out.  The command also follows the
    runs from their starts with a tangent vector, and measures how well its growth, and the drift, separate wrong runs
    from right ones.  Writes OUT/dynamics.nc and OUT/dynamics.svg.
    """
    from eqrlab.analyses.figures.style import write_figure

    models = named(checkpoints)
    sets = {
        name: puzzles_for(model, given["puzzles"], given["split"], given["limit"], several=True)
        for name, model in models.items()
    }
    for chosen in sets.values():
        require_solutions(chosen)
    require_writable(out, "dynamics.nc", "dynamics.svg")
    results: dict[str, endings.Groups] = {}
    for name, model in models.items():
        chosen = sets[name]
        options = run_options(model, chosen, given)
        results[name] = endings.endings_study(
            model.smooth(), chosen.inputs, steps=steps, progress=not quiet, **options
        )
        archive.write(out / "dynamics.nc", archive_groups(results))  # so far
        click.echo(
            f"{name}: {plural(len(chosen), 'puzzle')} of {short_source(chosen)}, "
            f"{plural(given['restarts'], 'restart')}, depth {given['depth']}"
        )
    write_figure(endings.endings_figure(results), out / "dynamics.svg")
    evidence = endings.evidence_rows(results)
    for title, rows in (
        (
            "where runs end (stable: share of runs, averaged over puzzles, with its interval)",
            endings.kind_rows(results),
        ),
        ("leading exponent of the last window, and drift as control", endings.auc_rows(results)),
        ("runs that do not end at a stable fixed point", evidence[:LISTED]),
    ):
        if rows:
            click.echo("\n".join(["", title, *table(rows)]))
    if len(evidence) > LISTED:
        click.echo(f"... and {len(evidence) - LISTED} more in the archive")
    click.echo(f"\narchive {out / 'dynamics.nc'}, picture {out / 'dynamics.svg'}")
    return out / "dynamics.nc"
