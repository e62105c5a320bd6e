"""`eqrlab basins`: basin masses of a checkpoint to a requested precision."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Unpack

import click
import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.commands.common.cost import study_cost_line
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import (
    SAMPLE,
    how_chosen,
    puzzle_attributes,
    puzzles_for,
    short_source,
)
from eqrlab.analyses.commands.common.run_options import outside, run_options
from eqrlab.analyses.text.format import percent, percent_interval, plural, table
from eqrlab.analyses.text.tables import answer_word, is_judged
from eqrlab.analyses.text.verdicts import has_changing
from eqrlab.attractors.landscape.estimate import DECISIONS, STOPS, restarts_for
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import FATES
from eqrlab.attractors.statistics.intervals import stated_level

SHOWN = 4  # attractors of a puzzle that get a line of their own


@click.command("basins", epilog="Example:  eqrlab basins eqr-sudoku6 --limit 1 --half-width 0.2")
@click.argument("checkpoint", metavar="CKPT")
@opt.share("--half-width", 0.05, "Draw restarts until every interval is at most twice this wide.", most=0.5)
@opt.share("--confidence", 0.95, "Confidence level of the intervals.")
@opt.number("--max-restarts", 2048, "Most restarts of a puzzle.")
@opt.share(
    "--above",
    None,
    "Stop instead as soon as it is decided whether the correct mass is above this.",
    metavar="MASS",
)
@opt.puzzles
@opt.limit(bundled=SAMPLE)
@opt.allow_several
@opt.depth()
@opt.seed()
@opt.noise()
@opt.device()
@opt.dtype("float32", "float64", "bfloat16")
@opt.out()
@prints_json
@opt.quiet
@opt.checkpoint
def basins_command(
    checkpoint: str, half_width: float, confidence: float, max_restarts: int, above: float | None, out: Path,
    quiet: bool, **given: Unpack[opt.Given],
) -> Path:  # fmt: skip
    """Measure the basins of each puzzle to a requested precision.

    Draws as many restarts as the precision needs, and no more.  A mass is the probability of ending at an
    attractor under the restart law.  Families with one stored start (TRM, HRM, URM) are started from random
    states, outside their training law.  Writes OUT/basins.nc.
    """
    began = time.monotonic()
    model = load_checkpoint(checkpoint)
    chosen = puzzles_for(
        model, given["puzzles"], given["split"], given["limit"], given["allow_several"], seed=given["seed"],
        quiet=quiet,
    )  # fmt: skip
    require_writable(out, "basins.nc")
    click.echo(
        f"{checkpoint}: {plural(len(chosen), 'puzzle')} of {short_source(chosen)}{how_chosen(chosen)}, "
        f"depth {given['depth']}{outside(model)}\n"
    )
    options = run_options(model, chosen, given)
    if not quiet:
        usual = max_restarts if above else restarts_for(half_width, confidence)
        most = at.Run.of(model, chosen.inputs, restarts=min(usual, max_restarts), **options)
        click.echo(study_cost_line(most, {}, at_most=True), err=True)
    found = at.estimate_basins(
        model, chosen.inputs, half_width=half_width, confidence=confidence, max_restarts=max_restarts, above=above,
        progress=not quiet, **options,
    )  # fmt: skip
    found.attrs |= puzzle_attributes(chosen)
    archive.write(out / "basins.nc", {"basins": found})
    for lines in (table(puzzle_rows(found)), table(basin_rows(found)), cost_lines(found)):
        click.echo("\n".join(lines) + "\n")
    click.echo(f"archive {out / 'basins.nc'}, {time.monotonic() - began:.0f} s")
    return out / "basins.nc"


def _share(found: xr.Dataset, name: str, *place: int) -> str:
    return percent_interval(*Interval.of(found, name, *place))


def puzzle_rows(found: xr.Dataset) -> list[dict[str, str]]:
    """Return a line for each puzzle: the masses of right attractors, wrong ones and none, and their cost.

    Where there are attractors whose answer changes, which are neither right nor wrong, their mass has a column.
    """
    rows, judged = [], is_judged(found)
    changing = judged and has_changing(found)
    for p in range(found.sizes["puzzle"]):
        row = {
            "puzzle": str(found.puzzle.values[p]),
            "attractors": str(int(found.attractors.values[p])),
            "right": _share(found, "correct_mass", p) if judged else "not known",
            "wrong": _share(found, "spurious_mass", p) if judged else "not known",
            **({"changing": _share(found, "changing_mass", p)} if changing else {}),
            "none": _share(found, "mass_none", p),
            "not seen": f"at most {percent(float(found.unseen_mass_high.values[p]))}",
            "in doubt": plural(int(found.ambiguous.values[p]), "run"),
            "restarts": str(int(found.restarts_used.values[p])),
            "stopped": STOPS[int(found.stop.values[p])].replace("_", " "),
        }
        if "correct_mass_above" in found:
            row[f"above {found.attrs['above']:g}"] = DECISIONS[int(found.correct_mass_above.values[p])]
        rows.append(row)
    return rows


def basin_rows(found: xr.Dataset) -> list[dict[str, str]]:
    """Return a line for each of the largest basins of each puzzle."""
    rows = []
    for p, a in zip(*np.nonzero(found["count"].values), strict=True):
        if a >= SHOWN:
            continue
        rows.append(
            {
                "puzzle": str(found.puzzle.values[p]),
                "basin": str(a + 1),
                "answer": answer_word(found, p, a),
                "fate": FATES[int(found.fate.values[p, a])],
                "mass": _share(found, "mass", p, a),
                "restarts": str(int(found["count"].values[p, a])),
                "residual": f"{float(found.residual.values[p, a]):.1e}",
            }
        )
    return rows


def cost_lines(found: xr.Dataset) -> list[str]:
    """Say how many restarts were used, and how many would have been needed if their number were fixed in advance."""
    used, puzzles = found.restarts_used.values, found.sizes["puzzle"]
    intervals = f"{stated_level(found.attrs['confidence'])} {found.attrs['interval_method']} intervals"
    more = int((found.attractors.values > SHOWN).sum())
    lines = [f"{plural(int(used.sum()), 'restart')} in all; {intervals}, each for one mass alone"]
    if more:
        lines.append(f"{plural(more, 'puzzle')} with further, smaller basins: see the archive")
    if "correct_mass_above" in found:
        return lines
    fixed, width = int(found.attrs["fixed_restarts"]), float(found.attrs["half_width"])
    stop = [STOPS[i] for i in found.stop.values]
    ratio = used.sum() / (fixed * puzzles)
    lines.append(
        f"a fixed number for a half-width of {width:g} at any mass is {fixed} restarts of every puzzle, "
        f"{fixed * puzzles:,} in all: {ratio:.2f} of that was used"
    )
    for reason, remedy in (
        ("max_restarts", "allow more with --max-restarts"),
        ("ambiguous", "runs have not settled enough to separate attractors: raise --depth"),
    ):
        if reason in stop:
            lines.append(f"{plural(stop.count(reason), 'puzzle')} did not reach that half-width: {remedy}")
    return lines
