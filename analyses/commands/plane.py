"""`eqrlab plane`: a picture of the basins on a plane through a puzzle's state space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Unpack

import click
import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import named
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import puzzles_for
from eqrlab.analyses.commands.common.run_options import run_options
from eqrlab.analyses.figures.planes import ftle_picture, plot_plane, stability_curve
from eqrlab.analyses.figures.style import figure_of, write_figure
from eqrlab.analyses.text.format import table
from eqrlab.analyses.text.names import safe
from eqrlab.attractors.ensemble.options import part_of
from eqrlab.attractors.perturbation.plane_geometry import SliceOptions
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.interval import Interval

STARTS = 24  # runs that find the attractors
SIZES = (0.1, 0.2, 0.4, 0.7, 1.0, 1.5)


class PlaneGiven(opt.Given, total=False):
    """The shared options that the command receives."""

    resolution: int
    extent: float | None
    quiet: bool


@click.command(
    "plane", epilog="Example:  eqrlab plane eqr-attention-sudoku6 --puzzle 3 --resolution 12 --depth 16"
)
@click.argument("checkpoint", metavar="CKPT")
@opt.puzzles
@opt.number("--puzzle", 0, "Which puzzle, from 0.", least=0)
@click.option("--through", type=click.Choice(["attractors", "random"]), default="attractors", show_default=True,
              help="The plane through up to three attractors, the largest first, or through two restarts.")  # fmt: skip
@opt.number("--resolution", 61, "Cells along a side.", least=8)
@click.option(
    "--extent",
    type=opt.Real(0, min_open=True),
    help="Half the side of the plane in state norms (default: automatic).",
)
@opt.depth(text="Most outer steps of a cell.")
@click.option("--field", type=click.Choice(["ftle"]),
              help="Also draw the finite-time exponents: how fast perturbations grow from every cell.")  # fmt: skip
@opt.number("--field-steps", 8, "Outer steps of the exponents.")
@click.option("--stability", is_flag=True, help="Also perturb the attractors and draw how often they return.")
@opt.seed()
@opt.noise(0.0, "Noise amplitude in every level call, the same noise for all cells.")
@opt.device()
@opt.dtype("float32", "float64")
@opt.out()
@prints_json
@opt.quiet
@opt.checkpoint
def plane_command(
    checkpoint: str, puzzle: int, through: str, field: str | None, field_steps: int, stability: bool, out: Path,
    **given: Unpack[PlaneGiven],
) -> Path:  # fmt: skip
    """Draw the basins on a plane through state space.

    Each cell of the picture is a state of the model.  Its colour is the attractor that it leads to (blue for
    right answers, orange for wrong ones, pale without an attractor), brighter if the run settles sooner.  The
    attractors are numbered as in 24 runs from the restart law.  Writes OUT/plane-NAME-PUZZLE.png and .nc; with
    --field also OUT/ftle-NAME-PUZZLE.png, which is bright where perturbations within the plane grow, as they do
    between basins.
    """
    ((name, model),) = named([checkpoint]).items()
    chosen = puzzles_for(model, given["puzzles"], given["split"], puzzle + 1, several=True)
    if puzzle >= len(chosen):
        raise ValueError(f"--puzzle {puzzle}: the set has {len(chosen)} puzzles, numbered from 0")
    one = chosen.take(slice(puzzle, puzzle + 1))
    part = f"{safe(name)}-{puzzle}"
    stem, beside = f"plane-{part}", [f"ftle-{part}.png"] * bool(field) + [f"stability-{part}.png"] * stability
    require_writable(out, f"{stem}.nc", f"{stem}.png", *beside)
    common = run_options(model, one, given) | {"progress": not given["quiet"]}
    ensemble = at.sample(model, one.inputs, restarts=STARTS, keep=("summary", "final_state"), **common)
    found = at.basins(ensemble)
    states = largest_attractors(ensemble, found)
    given_states = states if through == "attractors" and states is not None else None
    which: SliceOptions = {
        "resolution": given["resolution"],
        "extent": given["extent"],
        "states": given_states,
    }
    result = at.plane(model, one.inputs, ensemble=ensemble, **which, **common)
    groups = {"plane": result, "basins": found}
    title = f"{name}, puzzle {puzzle}"
    pictures = {f"{stem}.png": lambda: figure_of(partial(plot_plane, result, 0, title))}
    if field:
        exponents = at.ftle_field(model.smooth(), one.inputs, steps=field_steps, initial=common["initial"], **which,
                                  **part_of(common, at.StateOptions))  # fmt: skip
        groups["ftle"] = exponents
        pictures[f"ftle-{part}.png"] = lambda: ftle_picture(exponents, 0, title)
    if stability and states is not None:
        curve = at.basin_stability(model, one.inputs, states, sizes=SIZES, trials=32, depth=given["depth"],
                                   **part_of(common, at.AnswerOptions))  # fmt: skip
        groups["stability"] = curve
        labels = [f"attractor {a + 1}" for a in range(curve.sizes["point"])]
        pictures[f"stability-{part}.png"] = lambda: stability_curve(curve, 0, labels)
    place = ("puzzle", [puzzle], result["puzzle"].attrs)  # the set's number of the puzzle, in every group
    archive.write(out / f"{stem}.nc", {k: found.assign_coords(puzzle=place) for k, found in groups.items()})
    for file, draw in pictures.items():
        write_figure(draw(), out / file)
    click.echo("\n".join(table(rows_of(result))))
    for label in result["label"].values:
        click.echo(border_line(result, str(label)))
    if through == "attractors" and given_states is None:
        click.echo("no run ended at an attractor: the plane goes through two restarts")
    click.echo(f"\npicture {out / stem}.png, archive {out / stem}.nc")
    return out / f"{stem}.nc"


def largest_attractors(ensemble: xr.Dataset, basins: xr.Dataset) -> np.ndarray | None:
    """Return final states (1, up to 3, *state_shape) at the first puzzle's largest attractors, None without any.

    If there are right and wrong attractors, at least one of each is among them.
    """
    number = basins["attractor_id"].values[0]
    count = int(number.max()) + 1
    if count == 0:
        return None
    order = list(range(min(3, count)))
    right = basins["correct"].values[0, :count].astype(bool)
    for wanted in (True, False):
        if (right == wanted).any() and not (right[order] == wanted).any():
            order[-1] = int(np.flatnonzero(right == wanted)[0])
    members = [int(np.flatnonzero(number == a)[0]) for a in order]
    return ensemble["final_state"].values[0, members][None]


def rows_of(result: xr.Dataset) -> list[dict[str, str]]:
    """Return the printed rows of a plane: fractions of its area with their intervals."""
    rows = []

    def row(name: str, variable: str, *index: int) -> None:
        value, low, high = Interval.of(result, variable, 0, *index)
        rows.append(
            {
                "leads to": name,
                "share of the plane": f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
            }
        )

    share = result["fraction"].values[0]
    for a in np.argsort(-share, kind="stable")[:12]:
        if share[a] > 0:
            kind = ""
            if "attractor_correct" in result:
                kind = ", right" if bool(result["attractor_correct"].values[0, a]) else ", wrong"
            row(f"attractor {a + 1}{kind}", "fraction", int(a))
    row("no attractor", "fraction_none")
    if "fraction_correct" in result:
        row("right answers in all", "fraction_correct")
    return rows


def border_line(result: xr.Dataset, label: str) -> str:
    """Say how rough the borders between attractors, or answers, are."""
    one = result.sel(label=label).isel(puzzle=0)
    parts = []
    for name, text in (
        ("boundary_entropy", "boundary entropy"),
        ("uncertainty_exponent", "uncertainty exponent"),
    ):
        value, low, high = Interval.of(one, name)
        bounds = (
            f"[{low:.2f}, {high:.2f}]" if np.isfinite(low) else "(too few boxes of cells for an interval)"
        )
        parts.append(f"{text} {value:.2f} {bounds}" if np.isfinite(value) else f"{text} unknown")
    return f"borders between {label}s: {', '.join(parts)}"
