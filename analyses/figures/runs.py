"""Figures of runs: residuals over steps, error against residual, paths in a plane: functions from datasets to axes."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from eqrlab import attractors as at
from eqrlab.analyses.figures.style import COLOURS, in_percent, plot
from eqrlab.analyses.text import tables
from eqrlab.analyses.text.format import plural
from eqrlab.analyses.text.verdicts import auc_depth, auc_text
from eqrlab.analyses.text.vocabulary import UNDEFINED
from eqrlab.attractors.ensemble.schedule import measured_of
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import STATUS
from eqrlab.attractors.statistics.intervals import stated_level

EACH_RUN = 120  # up to so many runs are drawn one by one, without quantile bands
FAINT_RUNS = 40  # of each kind, behind the bands
PHASE_RUNS = 48
CORNERS = ((0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8), (0.8, -0.8), (0.0, 1.0))  # where attractors' numbers stand
FAR = 1e6  # times the usual: residuals above are out of the picture, those of runs that diverge
RASTER_POINTS = 2500  # lines of more points, and scatters of more marks, become pictures
RASTER_MARKS = 1000


def runs_of(ensemble: xr.Dataset) -> dict[str, np.ndarray]:
    """Return which runs (puzzle, restart) end right and wrong; all of them as "none" where nothing is known."""
    if "correct" not in ensemble:
        return {"none": drawn_of(ensemble)}
    right = ensemble["correct"].values[:, :, -1]
    return {"right": right, "wrong": ~right & drawn_of(ensemble)}


def settled_below(ensemble: xr.Dataset) -> tuple[float, float]:
    """Return the relative residual below which runs count as settled, and the numerical floor; NaN where unknown."""
    limits = json.loads(ensemble.attrs.get("tolerances", "{}"))
    name = str(ensemble.attrs.get("dtype", "float32"))
    epsilon = {"float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(name, 2.0**-23)
    return float(limits.get("settled_below", np.nan)), float(limits.get("floor", np.nan)) * epsilon


def _norms(ensemble: xr.Dataset) -> tuple[float, float]:
    """Return the least and the greatest norm of the last states whose residual tells it, NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = ensemble["residual"].values / ensemble["relative_residual"].values
    last = norm.shape[-1] - 1 - np.isfinite(norm)[..., ::-1].argmax(-1)
    norm = np.take_along_axis(norm, last[..., None], -1)[..., 0]
    norm = norm[np.isfinite(norm) & np.isfinite(ensemble["residual"].values[..., -1])]
    return (float(norm.min()), float(norm.max())) if norm.size else (np.nan, np.nan)


def _positive(values: np.ndarray) -> np.ndarray:
    """Return values for a logarithmic axis: zeros lie a little below the least positive one; infinities are NaN."""
    values = np.where(np.isfinite(values), values, np.nan).astype(float)
    positive = values[values > 0]
    return np.maximum(values, positive.min() / 3 if positive.size else 1e-16)


def _span(residual: np.ndarray, ensemble: xr.Dataset) -> list[float]:
    """Return the least and the greatest residual that an axis shows, where runs begin with those of the ensemble."""
    finite, begin = (v[np.isfinite(v)] for v in (residual, ensemble["residual"].values[:, :, 0]))
    if not finite.size:
        return [1e-3, 1.0]
    usual = max(np.median(finite), np.quantile(begin, 0.9) if begin.size else 0.0)
    return [finite.min(), min(finite.max(), FAR * usual)]


@plot(3.7)
def plot_residuals(ensemble: xr.Dataset, *, ax: Axes) -> None:
    """Draw the residual of every run against the step, coloured by right or wrong at the end.

    Parameters
    ----------
    ensemble
        From `attractors.sample`.  Of more than 120 runs medians and 10 to 90 % bands are drawn, and a few runs faintly.

    Notes
    -----
    The residual is the one of `plot_alignment` and `plot_auc`.  Runs are judged by its ratio to the norm of the state;
    the level is drawn for the norms at the last step, as a band where they differ by more than a tenth.  Runs that
    leave the picture at the top diverge.
    """
    measured = measured_of(ensemble)
    steps = ensemble["step"].values[measured]
    residual = _positive(ensemble["residual"].values[:, :, measured])
    many = residual[..., 0].size > EACH_RUN
    for kind, chosen in runs_of(ensemble).items():
        paths = residual[chosen]
        if not len(paths):
            continue
        drawn = paths[
            np.linspace(0, len(paths) - 1, min(len(paths), FAINT_RUNS if many else EACH_RUN)).astype(int)
        ]
        lines = [np.column_stack([steps, path]) for path in drawn]
        few = max(0.15, min(0.8, 12 / len(drawn)))
        ax.add_collection(
            LineCollection(lines, colors=COLOURS[kind], linewidths=0.8, alpha=0.2 if many else few,
                           rasterized=drawn.size > RASTER_POINTS)
        )  # fmt: skip
        seen = np.isfinite(paths).any(0)
        known = paths[:, seen]
        if many and known.size:
            low, middle, high = np.nanquantile(known, (0.1, 0.5, 0.9), axis=0)
            ax.fill_between(steps[seen], low, high, color=COLOURS[kind], alpha=0.18, linewidth=0)
            ax.plot(steps[seen], middle, color=COLOURS[kind], linewidth=2.2)
        if len(steps) == 1:
            ax.scatter(np.ones(len(drawn)), drawn[:, 0], s=16, color=COLOURS[kind], alpha=0.5)
        label = f"{kind} ({len(paths):,})" if kind != "none" else plural(len(paths), "run")
        ax.plot([], [], color=COLOURS[kind], linewidth=2.2, label=label)
    threshold, floor = settled_below(ensemble)
    span = _span(residual, ensemble)
    near, norms = bool(threshold <= 3 * floor), np.array(_norms(ensemble))
    if np.isfinite(threshold * norms).all():
        span = [min(span[0], threshold * norms[0]), max(span[1], threshold * norms[1])]
        text = "numerical floor" if near else f"settled below {threshold:.2g} of the norm"
        _level(ax, threshold * norms, text, "--")
    if np.isfinite(floor * norms).all() and not near and span[0] < 100 * floor * norms[0]:
        span[0] = min(span[0], floor * norms[0])
        _level(ax, floor * norms, "numerical floor", ":")
    ax.set(ylim=(span[0] / 1.8, span[1] * 1.8), yscale="log")
    ax.set_xlabel("outer step" + ("\nthick: median; band: 10 to 90 % of the runs" if many else ""))
    ax.set_xlim((1, steps[-1]) if len(steps) > 1 else (0, 2))
    _log_axis(ax.yaxis, span)
    ax.xaxis.get_major_locator().set_params(integer=True)
    _heading(ax, "residual")


def _level(axes: Axes, ends: np.ndarray, text: str, style: str) -> None:
    if ends[1] > 1.1 * ends[0]:
        axes.axhspan(*ends, color=COLOURS["ink"], alpha=0.07, linewidth=0)
    for value in ends if ends[1] > 1.1 * ends[0] else [ends.mean()]:
        axes.axhline(value, color=COLOURS["ink"], linestyle=style, linewidth=1.1)
    axes.annotate(text, (1, ends[1]), xycoords=("axes fraction", "data"), xytext=(-3, 3), textcoords="offset points",
                  ha="right", va="bottom", fontsize=11, zorder=5,
                  bbox={"facecolor": COLOURS["card"], "edgecolor": "none", "alpha": 0.75, "pad": 1.0})  # fmt: skip


def _heading(axes: Axes, text: str, legend: bool = True) -> None:
    """Name the vertical axis above its end, with the legend to the right."""
    axes.set_title(text, color=COLOURS["muted"], pad=8)
    if legend and axes.get_legend_handles_labels()[0]:
        drawn = axes.legend(loc="lower right", bbox_to_anchor=(1, 1.025), ncols=3)
        for handle in drawn.legend_handles:
            handle.set_alpha(1)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _log_axis(axis: Axis, span: list[float]) -> None:
    """Label powers of ten in plain text, all of them or every second, third, ...; within one decade 1, 2 and 5 too."""
    decades = np.log10(span[1] / span[0]) if span[0] > 0 else 1.0
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", size=0)

    def label(value: float, _: int) -> str:
        power = round(np.log10(value)) if value > 0 else 0
        if decades < 1.5 or -2 <= power <= 2:
            return f"{value:.3g}"
        return "10" + str(power).translate(SUPERSCRIPTS)

    axis.set_major_formatter(FuncFormatter(label))


@plot(3.8)
def plot_alignment(ensemble: xr.Dataset, alignment: xr.Dataset | None = None, *, ax: Axes) -> None:
    """Draw error against residual at the last step, one mark a run, and write the residual's AUC.

    Parameters
    ----------
    ensemble, alignment
        From `attractors.sample`, with labels or an oracle, and `attractors.alignment` (default: made of the former).
    """
    alignment = at.alignment(ensemble) if alignment is None else alignment
    residual = _positive(ensemble["residual"].values[:, :, -1])
    graded = "token_accuracy" in ensemble
    rng = np.random.default_rng(0)
    wrong = runs_of(ensemble)["wrong"]
    error = 1 - ensemble["token_accuracy"].values[:, :, -1].astype(float) if graded else wrong.astype(float)
    top = max(0.1, float(np.nanmax(error))) if np.isfinite(error).any() else 1.0
    shaken = error + rng.uniform(-1, 1, error.shape) * (0.02 * top if graded else 0.16)
    for kind, chosen in runs_of(ensemble).items():
        if chosen.any():
            mark = {"marker": "o", "s": 15, "linewidths": 0} if kind == "right" else {"marker": "x", "s": 20}
            ax.scatter(residual[chosen], shaken[chosen], color=COLOURS[kind], alpha=0.55, label=kind,
                         rasterized=wrong.size > RASTER_MARKS, **mark)  # fmt: skip
    span = _span(residual, ensemble)
    ax.set(
        xlim=(span[0] / 1.5, span[1] * 1.5),
        xscale="log",
        xlabel=f"residual at step {ensemble.sizes['step']}",
    )
    _log_axis(ax.xaxis, span)
    if not (ensemble["residual"].values[:, :, -1] > 0).any():
        ax.set_xticks([span[0]], ["0"])
    if graded:
        ax.set_ylim(-0.06 * top, 1.27 * top)  # the AUC stands above the marks
        ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.001])
        in_percent(ax.yaxis)
    else:
        ax.set(ylim=(-0.4, 1.6), yticks=[0, 1], yticklabels=["right", "wrong"])
    _heading(ax, "wrong cells" if graded else "answer", legend=graded)
    ax.text(0.015, 0.97, auc_label(alignment), transform=ax.transAxes, va="top", weight="bold")


def auc_label(alignment: xr.Dataset) -> str:
    """Return the AUC at the last depth with its interval, or why it is undefined."""
    if auc_depth(alignment) == alignment.sizes["depth"] - 1:
        return f"AUC {auc_text(alignment, -1)}"
    return f"AUC undefined: {UNDEFINED.get(STATUS[int(alignment['status'].values[-1])], 'no value')}"


@plot(2.7)
def plot_auc(alignment: xr.Dataset, *, ax: Axes) -> None:
    """Draw how well the residual tells wrong runs from right ones against depth, with intervals.

    Parameters
    ----------
    alignment
        From `attractors.alignment`.
    """
    auc, low, high = Interval.of(alignment, "auc")
    places, depths = np.arange(len(auc)), alignment["depth"].values
    ax.axhline(0.5, color=COLOURS["muted"], linestyle=":", linewidth=1.2)
    known = np.isfinite(auc)
    for place in places[~known]:
        ax.axvspan(place - 0.5, place + 0.5, color=COLOURS["none"], alpha=0.16, linewidth=0)
    ranged = known & np.isfinite(low)
    if known.any():
        ax.plot(places, auc, "o-", color=COLOURS["ink"], markersize=5, linewidth=1.3)
        ax.vlines(places[ranged], low[ranged], high[ranged], color=COLOURS["ink"], linewidth=1.3)
    for span in np.split(places, np.flatnonzero(np.diff(alignment["status"].values)) + 1):
        reason = UNDEFINED.get(STATUS[int(alignment["status"].values[span[0]])])
        if reason and not known[span].any() and len(span) > 2:
            ax.text(span.mean(), 0.12, reason, ha="center", fontsize=11, color=COLOURS["muted"])
    grey = "" if known.all() else "; grey: undefined"
    confidence = stated_level(alignment.attrs.get("confidence", 0.95))
    ax.set(ylim=(-0.03, 1.06), xlim=(-0.5, len(auc) - 0.5), yticks=[0, 0.5, 1])
    ax.set_xlabel(f"depth{grey}\nwhiskers: {confidence} intervals; dotted: chance")
    ax.set_xticks(places, [str(d) for d in depths])
    _heading(ax, "AUC of the residual")


def projection(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project runs (restart, step, feature) on the two directions of most variance, fitted to all finite runs.

    Returns
    -------
    points, explained
        (restart, step, 2), NaN for runs that are not finite, and the two shares of the variance.
    """
    finite = np.isfinite(paths).all((1, 2))
    points = np.full((*paths.shape[:2], 2), np.nan)
    data = paths[finite].astype(float)
    if not data.size:
        return points, np.zeros(2)
    data = data - data.mean((0, 1))
    flat = data.reshape(-1, data.shape[-1])
    values, vectors = np.linalg.eigh(flat.T @ flat)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    both = min(2, vectors.shape[1])
    points[finite] = 0.0
    points[finite, :, :both] = data @ vectors[:, :both]
    share = values / values.sum() if values.sum() > 0 else np.zeros_like(values)
    return points, np.pad(share[:2], (0, 2 - both))


@plot(4.3)
def plot_phase(ensemble: xr.Dataset, basins: xr.Dataset | None = None, puzzle: int = 0, *, ax: Axes) -> None:
    """Draw one puzzle's runs in the plane of most variance, with its attractors.

    Parameters
    ----------
    ensemble, basins
        From `attractors.sample` with `keep=("summary", "path")`, and `attractors.basins` (default: made of the former).
    puzzle
        Position of the puzzle.

    Raises
    ------
    ValueError
        When the paths were not kept.
    """
    if "sketch_path" not in ensemble:
        raise ValueError('paths of the runs are needed: sample with keep=("summary", "path")')
    basins = at.basins(ensemble) if basins is None else basins
    points, explained = projection(ensemble["sketch_path"].values[puzzle])
    for kind, chosen in runs_of(ensemble).items():
        drawn = points[np.flatnonzero(chosen[puzzle])][:PHASE_RUNS]
        drawn = drawn[np.isfinite(drawn).all((1, 2))]
        if not len(drawn):
            continue
        faint = float(np.clip(200 / drawn[..., 0].size, 0.12, 0.35))
        ax.add_collection(LineCollection(list(drawn), colors=COLOURS[kind], linewidths=0.7, alpha=faint,
                                           rasterized=drawn.size > 2 * RASTER_POINTS))  # fmt: skip
        ax.scatter(
            *drawn[:, 0].T, s=9, facecolors="none", edgecolors=COLOURS[kind], linewidths=0.7, alpha=0.6
        )
        mark = (
            {"marker": "x", "s": 26, "linewidths": 1.4}
            if kind == "wrong"
            else {"marker": "o", "s": 22, "linewidths": 0}
        )
        label = {"none": "end", "right": "right", "wrong": "wrong"}[kind]
        ax.scatter(*drawn[:, -1].T, color=COLOURS[kind], zorder=3, label=label, **mark)
    labels = basins["attractor_id"].values[puzzle]
    masses = basins["mass"].values[puzzle]
    for a in range(min(int(basins["attractors"].values[puzzle]), tables.SHOWN_ATTRACTORS)):
        ends = points[labels == a, -1]
        ends = ends[np.isfinite(ends).all(1)]
        if len(ends):
            place = np.median(ends, axis=0)
            ax.scatter(
                *place,
                s=120 + 900 * masses[a],
                facecolors="none",
                edgecolors=COLOURS["ink"],
                linewidths=1.3,
                zorder=4,
            )
            away = (9 + 11 * np.sqrt(masses[a])) * np.array(CORNERS[a % len(CORNERS)])
            ax.annotate(str(a + 1), place, xytext=away, textcoords="offset points", ha="center", va="center",
                          weight="bold", zorder=5, fontsize=11.5)  # fmt: skip
    ax.autoscale_view()
    ax.margins(0.08)
    ax.set_aspect("equal", adjustable="datalim")
    key = "open: first step; rings: attractors, larger with more mass"
    ax.set(xticks=[], yticks=[], xlabel=f"direction 1: {100 * explained[0]:.0f} % of the variance\n{key}")
    _heading(ax, f"direction 2: {100 * explained[1]:.0f} %")
