"""The ladder as a figure: accuracy, correct mass, mode shares and path-independence gap, rung by rung."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eqrlab.analyses.figures.style import COLOURS, in_percent, styled
from eqrlab.analyses.studies.ladder.summary import ACCURACY, CORRECT, GAP, STARTS
from eqrlab.analyses.studies.ladder.text import PAPER_ACCURACY, START_NOTES
from eqrlab.analyses.text.format import plural
from eqrlab.analyses.text.vocabulary import MODE_NAMES
from eqrlab.attractors.results.schema import MODES


@styled
def ladder_figure(summary: xr.Dataset) -> Figure:
    """Draw a ladder, one row a rung: a dot for each seed, the mean as a line, its interval as a bar.

    Parameters
    ----------
    summary
        From `analyses.studies.ladder.summary.summarise`.
    """
    rungs = [str(r) for r in summary.rung.values]
    figure = Figure((10.5, 2.6 + 0.62 * len(rungs)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, hspace=0.03)
    (accuracy, mass), (modes, gap) = figure.subplots(2, 2)
    _dots(accuracy, summary, ACCURACY, "exact accuracy at the training depth, own starts")
    accuracy.scatter([PAPER_ACCURACY.get(r, np.nan) for r in rungs], np.arange(len(rungs)), marker="D", s=30, zorder=4,
                     facecolors="none", edgecolors=COLOURS["wrong"], linewidths=1.2)  # fmt: skip
    _dots(mass, summary, CORRECT, "correct mass, random starts")
    _dots(gap, summary, GAP, "path-independence gap, random starts")
    top = np.nanmax([summary[v].sel(quantity=GAP).values.max() for v in ("high", "mean")] + [0.05])
    widest = np.nanmax([top, summary.seed_mean.sel(quantity=GAP).values.max()])
    gap.set_xlim(-0.02 * widest, 1.05 * widest)
    _stacked(modes, summary)
    for axes in (mass, gap):
        axes.set_yticklabels([])
    seeds = plural(summary.sizes["seed"], "seed")
    interval = f", bar: 95 % interval over {seeds} and puzzles" if summary.sizes["seed"] > 1 else ""
    marks = [f"● a seed, | mean{interval}", "◇ the paper, Sudoku-Extreme"]
    kinds = {STARTS[int(k)] for k in summary.starts.values}
    stars = {
        "outside_training_law": "* random starts outside the training law",
        "start_has_no_effect": "† forgets its start",
    }
    marks += [text for kind, text in stars.items() if kind in kinds]
    lines = ["     ".join(marks[:2]), "     ".join(marks[2:])]
    figure.supxlabel(
        "\n".join(line for line in lines if line), fontsize=11, color=COLOURS["muted"], x=0.01, ha="left"
    )
    return figure


def _rows(axes: Axes, summary: xr.Dataset, title: str) -> None:
    names = [
        str(r) + START_NOTES[STARTS[int(s)]]
        for r, s in zip(summary.rung.values, summary.starts.values, strict=True)
    ]
    axes.set_yticks(np.arange(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    in_percent(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.spines.left.set_visible(False)
    axes.set_title(title, pad=8)


def _dots(axes: Axes, summary: xr.Dataset, quantity: str, title: str) -> None:
    """Draw a quantity with its seeds."""
    _rows(axes, summary, title)
    mean, low, high = (summary[v].sel(quantity=quantity).values for v in ("mean", "low", "high"))
    seeds = summary.seed_mean.sel(quantity=quantity).values
    place = np.arange(len(mean))
    ranged = np.isfinite(low)
    axes.barh(
        place[ranged], (high - low)[ranged], 0.5, low[ranged], color=COLOURS["right"], alpha=0.2, linewidth=0
    )
    axes.vlines(mean, place - 0.3, place + 0.3, color=COLOURS["ink"], linewidth=1.8, zorder=3)
    spread = np.linspace(-0.16, 0.16, seeds.shape[1]) if seeds.shape[1] > 1 else np.zeros(1)
    axes.scatter(
        seeds, place[:, None] + spread, s=24, color=COLOURS["right"], zorder=5, linewidths=0, clip_on=False
    )
    axes.set_xlim(-0.02, 1.02)


def _stacked(axes: Axes, summary: xr.Dataset) -> None:
    """Draw the mode shares as stacked bars."""
    _rows(axes, summary, "mode shares, random starts")
    left = np.zeros(summary.sizes["rung"])
    for letter in MODES:
        share = summary["mean"].sel(quantity=f"mode {letter}").values
        label = letter if letter == "undecided" else f"({letter}) {MODE_NAMES[letter]}"
        axes.barh(np.arange(len(share)), share, 0.62, left, color=COLOURS[f"mode-{letter}"], label=label,
                  hatch="///" if letter == "undecided" else None, edgecolor=COLOURS["card"], linewidth=0.8)  # fmt: skip
        left = left + share
    axes.set_xlim(0, 1)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.28, 0), ncols=2, fontsize=10.5, labelspacing=0.25,
                borderaxespad=2.3)  # fmt: skip  # below the numbers, however few the rows
