"""The picture of a continuation: modes and accuracy over the parameter, and masses of the branches of some puzzles."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eqrlab.analyses.figures.style import COLOURS, band_key, in_percent, styled
from eqrlab.analyses.text.vocabulary import MODE_NAMES
from eqrlab.attractors.landscape.continuation import EVENTS
from eqrlab.attractors.results.schema import MODES

WIDTH, SHOWN = 9.0, 4  # inches; puzzles whose branches are drawn


@styled
def continuation_picture(found: xr.Dataset) -> Figure:
    """Draw a continuation.

    Parameters
    ----------
    found
        From `attractors.continuation`.

    Notes
    -----
    Above, the share of each mode over puzzles and the accuracy of a single run; below, a panel for each of the puzzles
    with the most births and deaths: a line for every branch, blue where it is right, its interval shaded (a bar where
    it is an attractor at one value only), an upward triangle where it is born and a cross where it was last an
    attractor.  Values stand at equal distances.
    """
    values = found["value"].values
    place = np.arange(len(values))
    change = (found["born"] + found["died"]).values.sum(0)
    chosen = np.sort(np.argsort(-change, kind="stable")[:SHOWN])
    judged = "mode" in found
    panels = [-1] * judged + [int(p) for p in chosen]  # -1: the modes
    figure = Figure((WIDTH, 2.0 + 2.2 * -(-len(panels) // 2)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(-(-len(panels) // 2), 2, sharex=True, squeeze=False)).ravel()
    for panel, ax in zip(panels, axes, strict=False):
        if panel < 0:
            _modes(ax, found, place)
        else:
            _branches(ax, found, place, panel, judged)
        ax.set(ylim=(-0.03, 1.03))
        in_percent(ax.yaxis)
        ax.set_xticks(place, [f"{v:.10g}" for v in values], rotation=45 if len(values) > 8 else 0)
    if judged:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, borderaxespad=0.5
        )
    figure.legend(handles=_key(found, judged), loc="outside lower center", ncols=3, borderaxespad=0.5)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(panels) - 2) : len(panels)]:
        ax.set_xlabel(str(found.attrs["parameter"]))
        ax.tick_params(labelbottom=True)  # also above a place that stays empty
    return figure


def _modes(ax: Axes, found: xr.Dataset, place: np.ndarray) -> None:
    share = found["landscape_share"].values
    ax.stackplot(
        place,
        share.T,
        colors=[COLOURS[f"mode-{m}"] for m in MODES],
        alpha=0.75,
        labels=[m if m == "undecided" else f"({m}) {MODE_NAMES[m]}" for m in MODES],
    )
    low, high = found["accuracy_low"].values, found["accuracy_high"].values
    accuracy = found["accuracy"].values
    ax.errorbar(place, accuracy, (np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)), color=COLOURS["ink"],
                marker="o", markersize=3.5, linewidth=1.3, capsize=2, label="right runs, with interval")  # fmt: skip
    ax.set_title("share of the modes over puzzles")


def _key(found: xr.Dataset, judged: bool) -> list[Artist]:
    """Return the entries of the legend of the branches."""
    line = lambda kind, text: Line2D([], [], color=COLOURS[kind], linewidth=1.4, marker=".", label=text)
    mark = lambda marker, text: Line2D([], [], linestyle="", marker=marker, color=COLOURS["ink"], label=text)
    kinds = [line("right", "right attractor"), line("wrong", "wrong attractor")]
    return [
        *(kinds if judged else [line("none", "attractor")]),
        band_key(found), mark("^", "born"), mark("x", "last an attractor"),
    ]  # fmt: skip


def _branches(ax: Axes, found: xr.Dataset, place: np.ndarray, puzzle: int, judged: bool) -> None:
    one = found.isel(puzzle=puzzle)
    event, alive = one["event"].values, one["alive"].values
    for b in range(found.sizes["branch"]):
        if not alive[:, b].any():
            continue
        mass = np.where(alive[:, b], one["mass"].values[:, b], np.nan)
        low, high = (np.where(alive[:, b], one[f"mass_{e}"].values[:, b], np.nan) for e in ("low", "high"))
        born = event[:, b] == EVENTS.index("born")
        last = np.append(alive[:-1, b] & ~alive[1:, b], False)
        right = one["correct"].values[:, b]
        for kind, its in (("right", right), ("wrong", ~right)) if judged else (("none", right | True),):
            colour, mine = COLOURS[kind], alive[:, b] & its
            # A branch whose answer becomes another has the colour of the answer that a stretch leads to.
            for i in np.flatnonzero(mine[1:]) + 1:
                here = slice(i - 1, i + 1)
                ax.fill_between(place[here], low[here], high[here], color=colour, alpha=0.12, linewidth=0)
                ax.plot(place[here], mass[here], color=colour, linewidth=1.4)
            alone = mine & ~np.append(False, alive[:-1, b]) & ~np.append(alive[1:, b], False)
            ax.vlines(place[alone], low[alone], high[alone], color=colour, alpha=0.35, linewidth=2.5)
            ax.plot(place[mine], mass[mine], ".", color=colour, markersize=4)
            ax.plot(
                place[born & its], mass[born & its], "^", color=colour, markersize=7, markeredgecolor="white"
            )
            ax.plot(place[last & its], mass[last & its], "x", color=colour, markersize=7, markeredgewidth=1.8)
    ax.set_title(f"puzzle {found['puzzle'].values[puzzle]}: masses of its attractors")
