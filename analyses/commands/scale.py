"""`eqrlab scale`: accuracy over depth and breadth at test time, from one ensemble."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Unpack

import click
import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import named
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import (
    how_chosen,
    puzzle_attributes,
    puzzles_for,
    require_solutions,
    short_source,
)
from eqrlab.analyses.commands.common.run_options import outside, require_no_runs, run_options
from eqrlab.analyses.commands.common.unfinished import Kept, request
from eqrlab.analyses.figures.scaling import USABLE, scaling_figure
from eqrlab.analyses.figures.style import write_figure
from eqrlab.analyses.studies.adaptive import require_halves, trial, trial_lines
from eqrlab.analyses.studies.commit import clues_of, commit_lines, commit_trial
from eqrlab.analyses.text.describe import blocks_per_step
from eqrlab.analyses.text.format import percent, plural, table, wrapped
from eqrlab.analyses.text.harmful_depth import late_drop
from eqrlab.analyses.text.signals import signal_rows, signal_warning, trust_sentence
from eqrlab.analyses.text.vocabulary import SELECTOR_NAMES
from eqrlab.attractors.ensemble.options import part_of
from eqrlab.attractors.results import archive, schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import stated_level
from eqrlab.attractors.streaming.row_store import RowStore, sample_stored
from eqrlab.core import Reasoner
from eqrlab.datasets import PuzzleSet

SAMPLE = 64  # puzzles of a bundled set unless --limit says otherwise
# Groups of runs as they were sampled, and all groups that are run; the others are computed from these.
SAMPLED = ("ensemble", "own_start", "baseline")
RUNS = (*SAMPLED, "commit")
SHOWN = ("top1_converged", "majority", "any_correct")


class ScaleGiven(opt.Given, total=False):
    """The shared options that the command receives: the models, how they are run, and what is shown."""

    against: str | None
    commit: float | None
    batch_size: int | None
    compiled: bool
    quiet: bool
    resume: bool


@click.command("scale", epilog="Example:  eqrlab scale eqr-sudoku6 --depths 1,4,16 --breadths 1,4 --limit 8")
@click.argument("checkpoint", metavar="CKPT", required=False)
@click.option(
    "--depths", type=opt.Numbers(), default="1,2,4,8,16,32,64", show_default=True, help="Outer steps D."
)
@click.option("--breadths", type=opt.Numbers(), default="1,2,4,8,16", show_default=True, help="Restarts B.")
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="ARCHIVE.nc",
              help="Use the ensemble of an archive instead of sampling one.")  # fmt: skip
@opt.puzzles
@opt.limit(bundled=SAMPLE)
@opt.allow_several
@click.option(
    "--adaptive",
    is_flag=True,
    help="Also choose policies that stop and start restarts as needed, and compare their cost.",
)
@click.option(
    "--accuracy",
    type=opt.Real(0, 1, min_open=True),
    help="With --adaptive: accuracy that the policies have to reach (default: the best of the baseline).",
)
@click.option(
    "--against",
    metavar="CKPT",
    help="With --adaptive: the model whose one run of fixed depth is the baseline (default: CKPT itself).",
)
@opt.commit
@opt.seed()
@opt.noise()
@opt.device()
@opt.dtype("float32", "float64", "bfloat16")
@opt.batch_size
@opt.compiled
@opt.out()
@click.option(
    "--resume",
    is_flag=True, help="Continue a run that was stopped: the restarts of CKPT that were kept are not run again.",
)  # fmt: skip
@prints_json
@opt.quiet
@opt.checkpoint
def scale_command(
    checkpoint: str | None, depths: list[int], breadths: list[int], source: Path | None, adaptive: bool,
    accuracy: float | None, out: Path, **given: Unpack[ScaleGiven],
) -> Path:  # fmt: skip
    """Measure accuracy over depth and breadth, and its cost.

    Prints the depth x breadth table of every selector, the depth from which more restarts help, the cheapest points,
    and a warning if the least residual chooses worse than the majority.  Values for fewer restarts than were sampled
    are averages over all subsets.  Writes OUT/scaling.nc and OUT/scaling.svg; `eqrlab report OUT/scaling.nc` makes the
    HTML report.

    Families with one stored start (TRM, HRM, URM) are started from random states, outside their training law; one run
    from their own start is listed for comparison.
    """
    began = time.monotonic()
    if (checkpoint is None) == (source is None):
        raise click.UsageError("give either CKPT or --from ARCHIVE.nc")
    groups: dict[str, xr.Dataset]
    layers: int | None = None
    kept: Kept | None = None
    if source is not None:
        require_no_runs("source", "depths", "breadths", "adaptive", "accuracy")
        require_writable(out, "scaling.nc", "scaling.svg")
        groups = stored(source)
        name = str(groups["ensemble"].attrs.get("name", source.stem))
        steps, restarts = (groups["ensemble"].sizes[d] for d in ("step", "restart"))
        depths, breadths = (
            [v for v in asked if v <= most] for asked, most in ((depths, steps), (breadths, restarts))
        )
        if not (depths and breadths):
            raise ValueError(
                f"{source}: the ensemble has depth {steps} and {restarts} restarts, "
                "less than every one of --depths or --breadths"
            )
    else:
        assert checkpoint is not None
        against, puzzles, quiet = given["against"], given["puzzles"], given["quiet"]
        models = named([checkpoint] if against is None else [checkpoint, against], given["compiled"])
        name, model = next(iter(models.items()))
        few = given["limit"] or (SAMPLE if puzzles is None else None)
        chosen = puzzles_for(
            model, puzzles, given["split"], few, given["allow_several"], seed=given["seed"], quiet=quiet
        )
        require_solutions(chosen)
        if adaptive:
            require_halves(len(chosen))
        require_writable(out, "scaling.nc", "scaling.svg")
        layers = None if model.config is None else blocks_per_step(model)
        click.echo(
            f"{name}: {plural(len(chosen), 'puzzle')} of {short_source(chosen)}{how_chosen(chosen)}, "
            f"up to {plural(breadths[-1], 'restart')} of {plural(depths[-1], 'step')}{outside(model)}\n"
        )
        groups, kept = drawn(models, chosen, breadths[-1], depths[-1], out, given)
    # From here on everything is computed from the ensemble, whether it was sampled or read.
    ensemble = groups["ensemble"]
    groups["scaling"] = at.scaling(ensemble, depths, breadths, layers=layers)
    groups["signals"] = at.signals(ensemble)
    lines = scaling_lines(groups)
    if "commit" in groups:
        lines += ["", *commit_lines(groups["commit"])]
    if adaptive:
        groups["adaptive"] = trial(ensemble, groups.get("baseline", groups.get("own_start")), accuracy)
        lines += ["", *trial_lines(groups["adaptive"])]
    archive.write(out / "scaling.nc", groups)
    if kept is not None:
        kept.remove()
    write_figure(scaling_figure(groups["scaling"], name), out / "scaling.svg")
    click.echo("\n".join(lines))
    click.echo(
        f"\narchive {out / 'scaling.nc'}, picture {out / 'scaling.svg'}, {time.monotonic() - began:.0f} s"
    )
    return out / "scaling.nc"


def drawn(
    models: dict[str, Reasoner], chosen: PuzzleSet, restarts: int, depth: int, out: Path, given: ScaleGiven
) -> tuple[dict[str, xr.Dataset], Kept]:
    """Return all runs of the first model, and one per puzzle of the model it is compared with, as groups.

    While runs are sampled they are kept beside the archive, and with --resume they are used; also returns where.
    """
    (name, model), *others = models.items()
    common = run_options(model, chosen, given) | {
        "depth": depth, "batch_size": given["batch_size"], "progress": not given["quiet"],
    }  # fmt: skip
    commit = given["commit"]
    if commit is not None:
        clues_of(chosen.task)
        if restarts < 2:
            raise click.UsageError("--commit needs at least 2 restarts, for two stages")
    settings = {option: given.get(option) for option in ("seed", "noise", "device", "dtype", "batch_size")}
    settings |= {"restarts": restarts, "depth": depth, "commit": commit}
    settings["against"] = [schema.identity(other) for _, other in others]
    wanted = request(model, chosen, settings, given["compiled"])
    kept = Kept(out / "scaling.nc", {name: wanted}, given["resume"])
    if finished := kept.found(name):
        groups = {group: finished[group] for group in RUNS if group in finished}
    else:
        try:
            groups = sampled(
                model, chosen.inputs, restarts, common, kept.rows(name), states=commit is not None
            )
            if commit is not None:
                groups["commit"] = commit_trial(
                    model, chosen, commit, restarts=restarts // 2, drawn=groups["ensemble"], **common
                )
                # Only the trial needed the states, and they would make up most of the archive.
                groups["ensemble"] = groups["ensemble"].drop_vars("final_state")
            for found in groups.values():
                found.attrs |= {"name": name, **puzzle_attributes(chosen)}
            groups["ensemble"].attrs["request"] = wanted
            if others:
                groups["baseline"] = own_run(others[0][1], chosen.inputs, common)
        except BaseException as error:
            kept.note(error)
            raise
    if others:
        groups["baseline"].attrs["name"] = others[0][0]
    return groups, kept


def sampled(
    model: Reasoner,
    inputs: np.ndarray,
    restarts: int,
    common: dict[str, Any],
    store: RowStore,
    states: bool = False,
) -> dict[str, xr.Dataset]:
    """Return the ensemble, on request with its final states, and for families with a stored start one run from that."""
    scored = ["logit_delta"] if hasattr(model, "logits") else []  # a system of the user's own may have none
    keep = ("summary", *scored, *(["final_state"] if states else []))
    work = {option: common[option] for option in ("batch_size", "progress")}
    described = part_of({**common, "restarts": restarts, "keep": keep}, at.RunOptions)
    run = at.Run.of(model, inputs, **described)
    groups = {"ensemble": sample_stored(run, store=store, **work)}
    if not model.random_starts:
        groups["own_start"] = own_run(model, inputs, common)
    return groups


def own_run(model: Reasoner, inputs: np.ndarray, common: dict[str, Any]) -> xr.Dataset:
    """Return an ensemble of one run per puzzle from the family's own start."""
    return at.sample(model, inputs, restarts=1, **{**common, "initial": None})


def stored(source: Path) -> dict[str, xr.Dataset]:
    """Return the ensemble of an archive, with the restarts that every puzzle has, and the run from the own start.

    Raises
    ------
    ValueError
        If the archive contains no ensemble.
    """
    tree = archive.read(source, complete=True)
    if "ensemble" not in tree.children:
        raise ValueError(
            f"{source}: no group named ensemble; expected an archive of scale, diagnose or export"
        )
    return {name: at.common_restarts(tree[name].to_dataset()) for name in SAMPLED if name in tree.children}


def scaling_lines(groups: dict[str, xr.Dataset]) -> list[str]:
    """Return the printed lines of a grid: one table per selector, onset, front, warning."""
    scaling, lines = groups["scaling"], []
    own = None
    if "own_start" in groups:
        own = at.scaling(groups["own_start"], scaling["depth"].values.tolist(), [1]).sel(
            selector="mean", breadth=1
        )
    for selector in SHOWN:
        lines += [f"{SELECTOR_NAMES[selector]}: accuracy in % by depth (down) and breadth", ""]
        lines += [*table(grid_rows(scaling, selector)), ""]
    if own is not None:
        lines += ["one restart: accuracy in % by depth", "", *table(start_rows(scaling, own)), ""]
    text = (
        f"Accuracy in %; {stated_level(scaling.attrs['confidence'])} intervals from resampling the "
        f"{scaling.sizes['puzzle']} puzzles."
        if scaling.sizes["puzzle"] > 1
        else "Accuracy in %; a single puzzle gives no interval."
    )
    text += " A cell costs depth x breadth outer steps per puzzle"
    text += f", {plural(int(scaling.attrs['layers']), 'equivalent layer')} each." if "nle" in scaling else "."
    if own is not None:
        text += " The own start is a single run; all others start at random, outside the training law."
    lines += wrapped(text)
    lines += ["", *onset_lines(scaling), *corner_lines(scaling), ""]
    lines += ["cheapest points, over all usable selectors:", "", *table(front_rows(scaling))]
    if scaling.attrs["warning"] != "none":
        lines += ["", *wrapped(f"Warning: {scaling.attrs['warning']}")]
    if "signals" in groups:
        lines += ["", *signal_lines(groups["signals"], groups["ensemble"])]
    return lines + late_lines(groups)


def signal_lines(signals: xr.Dataset, ensemble: xr.Dataset) -> list[str]:
    """Return the table of signals, which one to trust, and a warning where the residual misleads."""
    warning = signal_warning(signals)
    text = trust_sentence(signals) + (f" Warning: {warning}" if warning else "")
    title = f"signals of a right answer, choosing 1 of {ensemble.sizes['restart']} at depth {ensemble.sizes['step']}:"
    return [title, "", *table(signal_rows(signals)), "", *wrapped(text)]


def late_lines(groups: dict[str, xr.Dataset]) -> list[str]:
    """Warn if shallower runs are right more often, from random starts or from the own start."""
    depths, lines = groups["scaling"]["depth"].values, []
    for group, where in (("ensemble", ""), ("own_start", ", from the own start")):
        if group in groups:
            drop = late_drop(groups[group]["correct"].values.mean(1)[:, depths - 1], depths)
            lines += ["", *wrapped(f"Warning{where}: {drop.text}")] if drop else []
    return lines


def cell(dataset: xr.Dataset, name: str = "accuracy", form: str = "") -> str:
    """Return a value in percent, or in points with form "+", with its interval if it has one."""
    value, low, high = Interval.of(dataset, name).each(lambda v: 100 * v)
    return f"{value:{form}.1f}" + (f" [{low:{form}.1f}, {high:{form}.1f}]" if np.isfinite(low) else "")


def grid_rows(scaling: xr.Dataset, selector: str) -> list[dict[str, str]]:
    """Return one row per depth, with one column per breadth."""
    chosen = scaling.sel(selector=selector)
    return [
        {"D \\ B": str(d)} | {str(b): cell(chosen.sel(depth=d, breadth=b)) for b in scaling["breadth"].values}
        for d in scaling["depth"].values
    ]


def start_rows(scaling: xr.Dataset, own: xr.Dataset) -> list[dict[str, str]]:
    """Return one row per depth: one run from the own start, and one from a random start on average."""
    drawn = scaling.sel(selector="mean").isel(breadth=0)
    return [
        {"D": str(d), "own start": cell(own.sel(depth=d)), "random start": cell(drawn.sel(depth=d))}
        for d in scaling["depth"].values
    ]


def onset_lines(scaling: xr.Dataset) -> list[str]:
    """Say for each selector from which depth on breadth pays."""
    most, worth = scaling["breadth"].values[-1], 100 * float(scaling.attrs["worth"])
    if most == 1:
        return ["only one restart: breadth cannot be judged"]
    lines = [f"depth from which {most} restarts gain at least {worth:g} point{'s' * (worth != 1)} over one:"]
    for selector in scaling["selector"].values:
        if selector == "mean":
            continue
        one = scaling.sel(selector=selector)
        value, low, high = Interval.of(one, "onset")
        shown = lambda v: "none" if np.isinf(v) else f"{v:.0f}"
        bounds = f" [{shown(low)}, {shown(high)}]" if not np.isnan(low) else ""
        gain = one.isel(depth=-1, breadth=-1)
        lines.append(
            f"  {SELECTOR_NAMES[str(selector)]}: {shown(value)}{bounds}; at depth {scaling['depth'].values[-1]} "
            f"{cell(gain, 'gain', '+')} points"
        )
    return lines


def corner_lines(scaling: xr.Dataset) -> list[str]:
    """Compare least residual with majority, and say how often restarts disagree, at the last depth and breadth."""
    last = scaling.isel(depth=-1, breadth=-1)
    if int(last["breadth"]) == 1:
        return []
    where = f"at depth {int(last['depth'])}, breadth {int(last['breadth'])}"
    return [
        f"least residual minus majority {where}: {cell(last, 'top1_minus_majority', '+')} points",
        f"path-independence gap at depth {int(last['depth'])}: {cell(last, 'path_gap')} %",
    ]


def front_rows(scaling: xr.Dataset) -> list[dict[str, str]]:
    """Return the points of the usable selectors whose accuracy no cheaper point of any of them reaches."""
    names = [s for s in USABLE if s in scaling["selector"].values]
    points = sorted(
        (int(scaling["nfe"].values[i, j]), -float(scaling["accuracy"].sel(selector=s).values[i, j]), s, i, j)
        for s in names
        for i in range(scaling.sizes["depth"])
        for j in range(scaling.sizes["breadth"])
    )
    rows, best = [], -1.0
    for nfe, minus, selector, i, j in points:
        if -minus <= best + 1e-12:
            continue
        best = -minus
        one = scaling.sel(selector=selector).isel(depth=i, breadth=j)
        rows.append(
            {
                "steps": f"{nfe:,}",
                "depth": str(scaling["depth"].values[i]),
                "breadth": str(scaling["breadth"].values[j]),
                "chosen by": SELECTOR_NAMES[selector] if scaling["breadth"].values[j] > 1 else "one restart",
                "accuracy": cell(one),
                "on the selector's front": f"{percent(float(one['pareto_support']))} of resamples"
                if scaling.sizes["puzzle"] > 1
                else "",
            }
        )
    return rows
