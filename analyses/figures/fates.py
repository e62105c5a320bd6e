"""Figures of fates and verdicts: pure functions from results to matplotlib figures."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from eqrlab.analyses.figures.style import COLOURS, styled
from eqrlab.attractors.statistics.intervals import proportion_interval

WIDTH = 5.0
SHADES = {("settled", "right"): ("right", ""), ("not_settled", "right"): ("right", "///"),
          ("not_settled", "wrong"): ("wrong", "///"), ("settled", "wrong"): ("wrong", "")}  # fmt: skip


@styled
def outcome_bars(outcomes: xr.Dataset) -> Figure:
    """Draw how runs end at each depth: settled or not (hatched), right or wrong, as bars of shares.

    Parameters
    ----------
    outcomes
        From `attractors.outcomes`.
    """
    depths = outcomes["depth"].values
    figure = Figure((WIDTH, 1.3 + 0.5 * len(depths)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(depths))
    for (settling, side), (colour, hatch) in SHADES.items():
        share = outcomes["share"].sel(settling=settling, correctness=side).values
        label = f"{side}, {settling.replace('_', ' ')}"
        axes.barh(np.arange(len(depths)), share, 0.7, left, color=COLOURS[colour], hatch=hatch,
                  edgecolor=COLOURS["card"], linewidth=0.8, label=label)  # fmt: skip
        left = left + share
    axes.set(
        xlim=(0, 1),
        yticks=np.arange(len(depths)),
        yticklabels=[f"D = {d}" for d in depths],
        xlabel="share of runs",
    )
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


@styled
def reliability(table: np.ndarray, title: str) -> Figure:
    """Draw how often what was given a probability was true.

    Parameters
    ----------
    table
        (bins, 3): mean predicted probability, frequency, number of predictions.
    title
        What was predicted.
    """
    figure = Figure((WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    predicted, seen, number = np.asarray(table, float).T
    low, high = proportion_interval(np.round(seen * number), number)
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle="--")
    axes.errorbar(predicted, seen, (np.maximum(seen - low, 0), np.maximum(high - seen, 0)), fmt="o", markersize=4,
                  color=COLOURS["ink"], linewidth=1.2, capsize=2)  # fmt: skip
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="predicted probability of a mode",
        ylabel="how often it was so",
    )
    axes.set_title(title)
    return figure
