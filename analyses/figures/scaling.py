"""Pictures of test-time scaling: pure functions from the dataset of `attractors.scaling` to figures."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from eqrlab.analyses.figures.style import COLOURS, band_key, in_percent, plot, styled
from eqrlab.analyses.text.vocabulary import SELECTOR_NAMES
from eqrlab.attractors.results.interval import Interval

LINES = {  # selector: colour, style
    "top1_converged": (COLOURS["right"], "-"),
    "majority": (COLOURS["mode-c"], "-"),
    "halting": (COLOURS["mode-b"], "-"),
    "first_to_halt": (COLOURS["mode-a"], "-"),
    "answer_entropy": (COLOURS["mode-d"], "--"),
    "settle_time": (COLOURS["muted"], "--"),
    "mean": (COLOURS["muted"], "-"),
    "any_correct": (COLOURS["mode-d"], ":"),
}
USABLE = ("top1_converged", "majority", "halting", "answer_entropy", "settle_time", "mean")


@styled
def scaling_figure(scaling: xr.Dataset, title: str = "") -> Figure:
    """Draw the whole of a depth x breadth grid: heat map, frontier, and selectors against breadth and depth.

    Parameters
    ----------
    scaling
        From `attractors.scaling`.
    title
        Name of the checkpoint.
    """
    figure = Figure((10.5, 8.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    (heat, front), (by_breadth, by_depth) = figure.subplots(2, 2)
    _heat(heat, scaling, "top1_converged")
    _frontier(front, scaling)
    _curves(by_breadth, scaling, "breadth")
    _curves(by_depth, scaling, "depth")
    handles = [*by_depth.get_legend_handles_labels()[0], band_key(scaling)]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", color=COLOURS["ink"])
    return figure


@plot(4.5)
def plot_scaling(scaling: xr.Dataset, along: str = "nfe", *, ax: Axes) -> None:
    """Draw the accuracy of every selector against cost, breadth or depth, with intervals for two of them.

    Parameters
    ----------
    scaling
        From `attractors.scaling`.
    along
        "nfe": outer steps per puzzle, at the best depth and breadth; "breadth" or "depth": at the largest of the other.

    Raises
    ------
    ValueError
        For another word.
    """
    if along not in ("nfe", "breadth", "depth"):
        raise ValueError(f"along {along!r} unknown; choose from nfe, breadth, depth")
    if along == "nfe":
        _frontier(ax, scaling)
    else:
        _curves(ax, scaling, along)
    handles = [*ax.get_legend_handles_labels()[0], band_key(scaling)]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


@plot(3.6)
def plot_heat(scaling: xr.Dataset, selector: str = "top1_converged", *, ax: Axes) -> None:
    """Draw the accuracy of one selector over depth and breadth, one cell per point, with its number.

    Parameters
    ----------
    scaling
        From `attractors.scaling`.
    selector
        Which one.

    Raises
    ------
    ValueError
        For a selector that is not there.
    """
    _heat(ax, scaling, selector)


def _heat(axes: Axes, scaling: xr.Dataset, selector: str) -> None:
    known = [str(name) for name in scaling["selector"].values]
    if selector not in known:
        raise ValueError(f"selector {selector!r} unknown; choose from {', '.join(known)}")
    value = scaling["accuracy"].sel(selector=selector).values
    low, high = value.min(), value.max()
    for (i, j), share in np.ndenumerate(value):
        strength = 0.08 + 0.62 * ((share - low) / (high - low) if high > low else 1.0)
        axes.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=COLOURS["right"], alpha=strength, edgecolor="none")
        )
        axes.text(j, i, _percent(share), ha="center", va="center", fontsize=11)
    depth, breadth = scaling["depth"].values, scaling["breadth"].values
    axes.set(xlim=(-0.5, len(breadth) - 0.5), ylim=(-0.5, len(depth) - 0.5))
    axes.set_xticks(range(len(breadth)), [str(b) for b in breadth])
    axes.set_yticks(range(len(depth)), [str(d) for d in depth])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set(xlabel="breadth", ylabel="depth")
    axes.set_title(f"accuracy in %, {SELECTOR_NAMES[selector]}", pad=8)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share > 0.895 else f"{100 * share:.0f}"


def front_of(scaling: xr.Dataset, selector: str) -> list[tuple[int, int]]:
    """Return the places (depth, breadth) of a selector that no cheaper point beats, the cheapest first."""
    one = scaling.sel(selector=selector)
    places = [(int(i), int(j)) for i, j in zip(*np.nonzero(one["pareto"].values), strict=True)]
    return sorted(places, key=lambda place: int(scaling["nfe"].values[place]))


def _frontier(axes: Axes, scaling: xr.Dataset) -> None:
    lowest = 1.0
    for selector, (colour, style) in LINES.items():
        if selector not in scaling["selector"].values:
            continue
        one, places = scaling.sel(selector=selector), front_of(scaling, selector)
        nfe = [int(scaling["nfe"].values[p]) for p in places]
        value, low, high = ([float(v[p]) for p in places] for v in Interval.of(one, "accuracy"))
        axes.plot(
            nfe, value, style, color=colour, linewidth=2, marker="o", markersize=3.5, label=_name(selector)
        )
        if selector in ("top1_converged", "majority"):
            axes.fill_between(nfe, low, high, color=colour, alpha=0.13, linewidth=0)
        lowest = min(lowest, value[0])
    _axes(axes, scaling["nfe"].values.ravel(), lowest)
    axes.set(xlabel="outer steps a puzzle (depth x breadth)")
    axes.set_title("accuracy at the best depth and breadth", pad=8)


def _curves(axes: Axes, scaling: xr.Dataset, along: str) -> None:
    other = "depth" if along == "breadth" else "breadth"
    most = scaling[other].values[-1]
    lowest, x = 1.0, scaling[along].values
    for selector, (colour, style) in LINES.items():
        if selector not in scaling["selector"].values:
            continue
        one = scaling.sel(selector=selector).isel({other: -1})
        value, low, high = Interval.of(one, "accuracy")
        if selector in ("top1_converged", "majority"):
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            x, value, style, color=colour, linewidth=2, marker="o", markersize=3.5, label=_name(selector)
        )
        lowest = min(lowest, value.min())
    _axes(axes, x, lowest)
    axes.set(xlabel=along)
    axes.set_title(f"accuracy against {along}, {other} {most}", pad=8)


def _name(selector: str) -> str:
    return SELECTOR_NAMES[selector] + (" (ceiling)" if selector == "any_correct" else "")


def _axes(axes: Axes, x: np.ndarray, lowest: float) -> None:
    """Set a logarithmic horizontal axis with powers of two, and percents from a little below the least value."""
    ticks = 2 ** np.arange(0, int(np.log2(x.max())) + 1)
    ticks = ticks[:: -(-len(ticks) // 7)]
    axes.set(xscale="log", xlim=(0.88 * x.min(), 1.14 * x.max()))
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(max(-0.02, lowest - 0.08), 1.02)
    in_percent(axes.yaxis)
