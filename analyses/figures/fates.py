"""Figures of fates and verdicts: pure functions from results to matplotlib figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from eqrlab.analyses.figures.style import COLOURS, in_percent, plot
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.named import words
from eqrlab.attractors.results.schema import FATES

LISTED = 30  # puzzles with a bar of their own
FATE_COLOURS = dict(
    zip(FATES, ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#b3b9c2", "#d55e00", "#5b3a8c"), strict=True)
)
SHADES = {("settled", "right"): ("right", ""), ("not_settled", "right"): ("right", "///"),
          ("not_settled", "wrong"): ("wrong", "///"), ("settled", "wrong"): ("wrong", "")}  # fmt: skip


def _outcomes_height(outcomes: xr.Dataset) -> float:
    return 1.3 + 0.5 * outcomes.sizes["depth"]


@plot(_outcomes_height)
def plot_outcomes(outcomes: xr.Dataset, *, ax: Axes) -> None:
    """Draw how runs end at each depth: settled or not (hatched), right or wrong, as bars of shares.

    Parameters
    ----------
    outcomes
        From `attractors.outcomes`.
    """
    depths = outcomes["depth"].values
    left = np.zeros(len(depths))
    for (settling, side), (colour, hatch) in SHADES.items():
        share = outcomes["share"].sel(settling=settling, correctness=side).values
        label = f"{side}, {settling.replace('_', ' ')}"
        ax.barh(np.arange(len(depths)), share, 0.7, left, color=COLOURS[colour], hatch=hatch,
                edgecolor=COLOURS["card"], linewidth=0.8, label=label)  # fmt: skip
        left = left + share
    ax.set(
        xlim=(0, 1),
        yticks=np.arange(len(depths)),
        yticklabels=[f"D = {d}" for d in depths],
        xlabel="share of runs",
    )
    ax.invert_yaxis()
    in_percent(ax.xaxis)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)


def _fates_height(ensemble: xr.Dataset, **_: Any) -> float:
    return 1.3 + 0.28 * min(ensemble.sizes["puzzle"], LISTED)


@plot(_fates_height)
def plot_fates(ensemble: xr.Dataset, *, ax: Axes) -> None:
    """Draw the fates of the runs of each puzzle: one bar per puzzle, a colour for each fate, hatched where wrong.

    Parameters
    ----------
    ensemble
        From `attractors.sample`.  The first 30 puzzles are drawn.
    """
    fate = words(ensemble["fate"]).values[:LISTED]
    wrong = (
        ~ensemble["correct"].values[:LISTED, :, -1] if "correct" in ensemble else np.zeros(fate.shape, bool)
    )
    drawn = drawn_of(ensemble)[:LISTED].sum(1)
    puzzles = [str(p) for p in ensemble["puzzle"].values[:LISTED]]
    left, place = np.zeros(len(puzzles)), np.arange(len(puzzles))
    for name in FATES:
        for side, hatch in ((~wrong, None), (wrong, "////")):
            share = ((fate == name) & side).sum(1) / drawn
            if share.any():
                text = name + (", wrong" if hatch else ", right" if "correct" in ensemble else "")
                ax.barh(place, share, 0.72, left, color=FATE_COLOURS[name], hatch=hatch, edgecolor=COLOURS["card"],
                        linewidth=0.6, label=text)  # fmt: skip
                left = left + share
    ax.set(xlim=(0, 1), yticks=place, yticklabels=puzzles, xlabel="share of runs", ylabel="puzzle")
    ax.grid(axis="y", visible=False)
    ax.invert_yaxis()
    in_percent(ax.xaxis)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3)
