"""`eqrlab continuation`: a landscape followed over training checkpoints, noise, damping or the size of the starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Unpack

import click
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import all_in, load_checkpoint
from eqrlab.analyses.commands.common.cost import study_cost_line
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import puzzles_for, short_source
from eqrlab.analyses.commands.common.run_options import run_options
from eqrlab.analyses.text.format import percent, percent_interval, plural, table
from eqrlab.analyses.text.names import typed
from eqrlab.analyses.text.tables import answer_word, is_judged
from eqrlab.analyses.text.vocabulary import MODE_NAMES
from eqrlab.attractors.landscape.continuation import EVENTS
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.core import Reasoner

PARAMETERS = {"noise": "noise beta", "damping": "damping lambda", "sigma": "size of the starts sigma_0"}
FOLLOWED = (
    16  # runs of a puzzle and value that follow its attractors to both neighbours: two attractors, as a rule
)
LISTED = 12  # branches that are born or die that get a line of their own


class Over(click.ParamType):
    """A parameter and its values, as in noise=0,0.01,0.1."""

    name = "NAME=V,V,..."

    def convert(self, value: str | tuple, param: object, ctx: object) -> tuple[str, tuple[float, ...]]:
        if isinstance(value, tuple):
            return value
        name, _, listed = value.partition("=")
        if name not in PARAMETERS:
            self.fail(
                f"{name!r} cannot be followed; choose from {', '.join(PARAMETERS)}, as in noise=0,0.01,0.1"
            )
        try:
            values = tuple(float(part) for part in listed.split(","))
        except ValueError:
            self.fail(f"{listed!r} is not a list of values such as 0,0.01,0.1")
        rising = all(a < b for a, b in pairwise(values))  # not so of nan
        if len(values) < 2 or not rising or values[0] < 0 or np.isinf(values[-1]):
            self.fail(f"{listed!r} must be two or more increasing values >= 0, all of them finite")
        return name, values


@click.command(
    "continuation",
    epilog="Example:  eqrlab continuation eqr-attention-sudoku6 --over noise=0,0.1 --limit 1 --restarts 4 --depth 16",
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...")
@click.option("--over", type=Over(), help="Parameter of one CKPT to follow: noise, damping (EqR) or sigma.")
@click.option("--match", type=click.Choice(["state", "answer"]), default="state", show_default=True,
              help="Match attractors by following their states from value to value, or by their answers.")  # fmt: skip
@opt.puzzles
@opt.limit(6)
@opt.restarts(32, "Restarts B of each puzzle and value.")
@opt.depth()
@opt.seed()
@opt.noise(0.0, "Noise amplitude where it is not the parameter.")
@opt.device()
@opt.dtype("float32", "float64")
@opt.out()
@prints_json
@opt.quiet
@opt.checkpoint
def continuation_command(
    checkpoints: tuple[str, ...], over: tuple[str, tuple[float, ...]] | None, match: str, out: Path, quiet: bool,
    **given: Unpack[opt.Given],
) -> Path:  # fmt: skip
    """Follow attractors over training, noise, damping or starts.

    Prints the masses of the attractors and the modes at each value.  CKPT is the folder of a run trained with
    --keep-every, or several checkpoints of one task in the order of training; with --over it is one checkpoint.  The
    same restarts are used at every value.  Writes OUT/continuation.nc and OUT/continuation.png.
    """
    began = time.monotonic()
    name, systems, laws = family_of_systems(checkpoints, over)
    first = next(iter(systems.values()))
    chosen = puzzles_for(first, given["puzzles"], given["split"], given["limit"], several=True)
    require_writable(out, "continuation.nc", "continuation.png")
    options = run_options(first, chosen, given) | {"initial": laws}
    if over and over[0] == "noise":
        options["noise"] = None
    if not quiet:
        last = next(reversed(systems))  # of a noise that is followed, the one with noise
        run = at.Run.of(systems[last], chosen.inputs, **{**options, "initial": laws[last] if laws else None})
        follow = (
            {"following attractors": len(systems) * len(chosen) * FOLLOWED * run.depth}
            if match == "state"
            else {}
        )
        click.echo(study_cost_line(run, follow, times=len(systems)), err=True)
    found = at.continuation(
        systems, chosen.inputs, parameter=name, match=match, progress=not quiet, **options
    )
    found.attrs |= {"name": typed(" ".join(checkpoints)), "puzzles": typed(short_source(chosen))}
    archive.write(out / "continuation.nc", {"continuation": found})
    from eqrlab.analyses.figures.continuation import continuation_picture  # matplotlib is slow to import
    from eqrlab.analyses.figures.style import write_figure

    write_figure(continuation_picture(found), out / "continuation.png")
    starts = "" if first.random_starts else ", from random states outside the training law"
    click.echo(
        f"{len(systems)} values of the {name}, {plural(len(chosen), 'puzzle')} of {short_source(chosen)}, "
        f"{plural(given['restarts'], 'restart')}, depth {given['depth']}{starts}\n"
    )
    for lines in (table(value_rows(found)), event_lines(found)):
        click.echo("\n".join(lines) + "\n")
    files = f"archive {out / 'continuation.nc'}, picture {out / 'continuation.png'}"
    click.echo(f"{files}, {time.monotonic() - began:.0f} s")
    return out / "continuation.nc"


def family_of_systems(
    checkpoints: Sequence[str], over: tuple[str, tuple[float, ...]] | None
) -> tuple[str, dict[float, Reasoner], dict[float, Callable] | None]:
    """Return the name of the values, the model at each value, and its restart law if that is not its own.

    Raises
    ------
    ValueError
        For a folder without models, checkpoints of different tasks, or a parameter that the family does not have.
    """
    if over is not None:
        if len(checkpoints) != 1:
            raise ValueError(f"--over takes one checkpoint, got {' '.join(checkpoints)}")
        model = load_checkpoint(checkpoints[0])
        name, values = over
        systems = {v: changed(model, name, v) for v in values}
        if model.random_starts:
            return PARAMETERS[name], systems, None
        laws = {v: scaled(model, v if name == "sigma" else 1.0) for v in values}
        return PARAMETERS[name], systems, laws
    paths = [p for c in checkpoints for p in all_in(c)]
    models = [load_checkpoint(p) for p in paths]
    tasks = {m.task for m in models} | {str(getattr(m, "state_shape", "")) for m in models}
    if len(models) < 2 or len(tasks) > 2:
        raise ValueError(
            f"two or more checkpoints of one task and shape are required, got {', '.join(paths)}"
        )
    steps = [trained_steps(m) for m in models]
    known = min(steps) >= 0 and len(set(steps)) == len(steps)
    order = [int(i) for i in np.argsort(steps)] if known else list(range(len(models)))
    found = {float(steps[i] if known else i): models[i] for i in order}
    own = models[0].random_starts
    outside: dict[float, Callable] | None = None if own else {v: m.random_initial for v, m in found.items()}
    return "training step" if known else "checkpoint", found, outside


def trained_steps(model: Reasoner) -> int:
    """Return the number of training steps of a model, -1 if it is not recorded."""
    steps = model.provenance.get("steps", model.provenance.get("step"))
    return -1 if steps is None else int(steps)


def changed(model: Reasoner, name: str, value: float) -> Reasoner:
    """Return the model with another noise, damping or size of its starts."""
    fields = {"noise": ("noise_scale",), "damping": ("damping",), "sigma": ("H_init_std", "L_init_std")}[name]
    if name == "sigma" and not model.random_starts:
        return model
    missing = [f for f in fields if model.config is None or f not in vars(model.config)]
    if missing:
        raise ValueError(
            f"a model of family {model.family} has no {missing[0]}: it cannot be followed over {name}"
        )
    return model.replace(**dict.fromkeys(fields, value))


def scaled(model: Reasoner, size: float) -> Callable[[Any, torch.Generator], Tensor]:
    """Return the random restart law of a model with its starts scaled by this factor."""

    def start(x: Any, generator: torch.Generator) -> Tensor:
        return size * model.random_initial(x, generator)

    start.__name__ = f"random_initial times {size:g}"
    return start


def value_rows(found: xr.Dataset) -> list[dict[str, str]]:
    """Return a line for each value: accuracy, mean masses, attractors, births and deaths, and the modes."""
    rows, judged = [], is_judged(found)
    for i, value in enumerate(found["value"].values):
        one = found.isel(value=i)
        row = {str(found.attrs["parameter"]): f"{value:.10g}"}
        if "accuracy" in found:
            row["right runs"] = percent_interval(*Interval.of(one, "accuracy"))
        names = {"correct_mass": "right attractors", "spurious_mass": "wrong attractors", "mass_none": "none"}
        for name, text in names.items():
            share = percent_interval(*map(float, share_over_puzzles(one[name].values)))
            row[text] = share if judged or name == "mass_none" else "not known"
        row["attractors a puzzle"] = f"{float(one['attractors'].mean()):.1f}"
        row["born"], row["died"] = (str(int(one[n].sum())) if i else "" for n in ("born", "died"))
        if "mode" in found:
            codes = one["mode"].values
            listed = [f"{m} {int((codes == c).sum())}" for c, m in enumerate(MODES) if (codes == c).any()]
            row["puzzles by mode"] = ", ".join(listed)
        rows.append(row)
    return rows


def event_lines(found: xr.Dataset) -> list[str]:
    """Say which attractors are born, which die, and where the states of those that die go; the largest first."""
    lines: list[tuple[float, str]] = []
    values, alive, mass = found["value"].values, found["alive"].values, np.nan_to_num(found["mass"].values)
    by_state = found.attrs["match"] == "state"

    def line(i: int, p: int, b: int, happened: str) -> str:
        kind = f"{answer_word(found, i, p, b)} " if is_judged(found) else ""
        bounds = Interval.of(found, "mass", i, p, b)
        return f"puzzle {found.puzzle.values[p]}: {kind}attractor {b + 1} {happened}, mass {percent_interval(*bounds)}"

    for i, p, b in zip(*np.nonzero(found["event"].values == EVENTS.index("born")), strict=True):
        lines.append(
            (mass[i, p, b], line(i, p, b, f"born between {values[i - 1]:.10g} and {values[i]:.10g}"))
        )
    for i, p, b in zip(*np.nonzero(alive[:-1] & ~alive[1:]), strict=True):
        goes = int(found["goes_to"].values[i, p, b])
        fate = {-1: "never settle", -2: "go to several"}.get(goes, f"go to {goes + 1}")
        text = line(i, p, b, f"dies between {values[i]:.10g} and {values[i + 1]:.10g}")
        lines.append((mass[i, p, b], text + (f": its states {fate}" if by_state else "")))
    lines.sort(key=lambda pair: -pair[0])
    out = [text for _, text in lines[:LISTED]]
    if len(lines) > LISTED:
        out.append(
            f"... and {len(lines) - LISTED} more births and deaths, of smaller attractors, in the archive"
        )
    if not by_state:
        missed = 1 - float(found.attrs["confidence"])  # the chance that all restarts miss a mass of the bound
        unseen = percent(1 - missed ** (1 / int(found.attrs["restarts"])))
        out.append(
            f"matched by answers: an attractor that no restart reached may have a mass of up to about {unseen}"
        )
    if "landscape_mode" in found:
        letters = [MODES[int(m)] for m in found["landscape_mode"].values]
        out.append(
            "mode of the checkpoint: "
            + ", ".join(f"{v:.10g}: {m}" for v, m in zip(values, letters, strict=True))
        )
        out += [f"  ({m}) {MODE_NAMES[m]}" for m in dict.fromkeys(letters)]
    return out
