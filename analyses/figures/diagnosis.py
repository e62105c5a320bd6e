"""Figures of a diagnosis: shares of the modes and masses of the basins."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from eqrlab.analyses.figures.style import COLOURS, in_percent, plot
from eqrlab.analyses.text import tables
from eqrlab.analyses.text.format import percent, percent_interval
from eqrlab.analyses.text.verdicts import share_of
from eqrlab.analyses.text.vocabulary import MODE_NAMES
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.statistics.intervals import stated_level


@plot(0.45)
def mode_bar(modes: xr.Dataset, *, ax: Axes) -> None:
    """Draw the shares of the modes as one stacked bar, whose key is `plot_modes` below it."""
    shares = modes["landscape_share"].values
    edges = np.concatenate([[0], np.cumsum(shares)])
    for letter, left, share in zip(MODES, edges, shares, strict=False):
        colour, hatch = COLOURS[f"mode-{letter}"], "///" if letter == "undecided" else None
        ax.barh(0, share, 1, left, color=colour, hatch=hatch, edgecolor=COLOURS["card"], linewidth=1.2)
    ax.set(xlim=(0, 1), ylim=(-0.5, 0.5))
    ax.axis("off")


@plot(3.4)
def plot_modes(modes: xr.Dataset, *, ax: Axes) -> None:
    """Draw the share of each landscape mode over puzzles, with its interval.

    Parameters
    ----------
    modes
        From `attractors.modes`.
    """
    shares = modes["landscape_share"].values
    bounds = [modes[f"landscape_share_{end}"].values for end in ("low", "high")]
    for row, letter in enumerate(MODES):
        colour = COLOURS[f"mode-{letter}"]
        ax.barh(row, shares[row], 0.34, color=colour, hatch="///" if letter == "undecided" else None,
                  edgecolor=COLOURS["card"], linewidth=0)  # fmt: skip
        if modes.sizes["puzzle"] > 1:
            _whisker(ax, row, bounds[0][row], bounds[1][row])
        name = "undecided:" if letter == "undecided" else f"({letter})"
        ax.text(0, row - 0.33, f"{name} {MODE_NAMES[letter]}", va="bottom", color=COLOURS["ink"])
        ax.text(1, row - 0.33, share_of(modes, letter), va="bottom", ha="right", color=COLOURS["muted"])
    ax.set(xlim=(0, 1), ylim=(4.35, -0.85), yticks=[], xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.spines.left.set_visible(False)
    in_percent(ax.xaxis)
    bounds_of = f", with {stated_level(modes.attrs.get('confidence', 0.95))} intervals"
    ax.set_xlabel(f"share of the puzzles{bounds_of if modes.sizes['puzzle'] > 1 else ''}")
    _inside_ends(ax)


def _whisker(axes: Axes, row: float, low: float, high: float) -> None:
    if not high - low > 0.004:
        return
    axes.plot([low, high], [row, row], color=COLOURS["ink"], linewidth=1.3, clip_on=False)
    for end in (low, high):
        axes.plot([end, end], [row - 0.13, row + 0.13], color=COLOURS["ink"], linewidth=1.3, clip_on=False)


def _inside_ends(axes: Axes) -> None:
    """Align the first and last tick label with the ends of the axis."""
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")
    labels[-1].set_horizontalalignment("right")


def _basin_height(basins: xr.Dataset, puzzle: int = 0) -> float:
    return 1.1 + 0.33 * len(tables.mass_rows(basins, puzzle))


@plot(_basin_height)
def plot_basins(basins: xr.Dataset, puzzle: int = 0, *, ax: Axes) -> None:
    """Draw the masses of one puzzle's attractors, of "none", and the bound on what was not seen.

    Parameters
    ----------
    basins
        From `attractors.basins`.
    puzzle
        Position of the puzzle.
    """
    rows = tables.mass_rows(basins, puzzle)
    for row, (label, kind, mass, low, high) in enumerate(rows):
        ghost = kind == "unseen"
        ax.barh(row, high if ghost else mass, 0.62, color="none" if ghost else COLOURS[kind],
                  edgecolor=COLOURS["none" if ghost else "card"], hatch="////" if ghost else None,
                  linewidth=0.9 if ghost else 0.0)  # fmt: skip
        if not ghost:
            _whisker(ax, row, low, high)
        text = f"≤ {percent(high)}" if ghost else percent_interval(mass, low, high)
        for x, side, words in ((-0.02, "right", label), (1.04, "left", text)):
            ax.text(x, row, words, ha=side, va="center_baseline", transform=ax.get_yaxis_transform(),
                      color=COLOURS["ink" if side == "right" else "muted"])  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), yticks=[], xticks=[0, 0.5, 1])
    confidence = stated_level(basins.attrs.get("confidence", 0.95))
    ax.set_xlabel(f"share of restarts, {confidence} intervals;\nhatched: upper bound")
    in_percent(ax.xaxis)
    ax.grid(axis="y", visible=False)
    ax.spines.left.set_visible(False)
