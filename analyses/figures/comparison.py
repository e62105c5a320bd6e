"""Checkpoints beside each other: paired differences with their intervals, and one quantity puzzle by puzzle."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from eqrlab.analyses.figures.style import COLOURS, plot
from eqrlab.analyses.text.comparison import SUBJECTS, is_share, quantity_name, subject_of
from eqrlab.analyses.text.format import percent, plural
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import stated_level

OTHERS = (
    COLOURS["ink"],
    COLOURS["wrong"],
    COLOURS["right"],
    COLOURS["mode-d"],
    COLOURS["mode-b"],
    COLOURS["mode-a"],
)
MARKS = "osD^vP"  # of the checkpoints beside the first
SHORT = 18  # characters of a checkpoint's name in a picture
LINE, TITLE = 0.4, 0.36  # inches of a quantity, and of a heading
LISTED = 4  # puzzles named at one point
Box = tuple[float, float, float, float]  # left, lower, right and upper end
UNIT = 1.12 / 280  # of the scatter's axes, a point of 1/72 inch
GROUND = {"facecolor": COLOURS["card"], "edgecolor": "none", "alpha": 0.85, "pad": 1.0}  # of texts over lines
OFFSETS = (
    (7, 0),
    (-7, 0),
    (0, 8),
    (0, -8),
    (6, 7),
    (-6, 7),
    (6, -7),
    (-6, -7),
    (14, 12),
    (-14, 12),
    (14, -12),
)


def short(name: Any) -> str:
    """Return a checkpoint's name, cut in the middle where it is long."""
    text = str(name)
    return text if len(text) <= SHORT else f"{text[: SHORT // 2 - 1]}…{text[-SHORT // 2 + 1 :]}"


def _drawn(comparison: xr.Dataset) -> dict[str, list[int]]:
    """Return the shares that have a difference, as positions by subject."""
    gap = comparison["difference"].transpose("checkpoint", "quantity").values[1:]
    drawn: dict[str, list[int]] = {}
    for q, quantity in enumerate(map(str, comparison["quantity"].values)):
        if (is_share(quantity) or "AUC" in quantity) and np.isfinite(gap[:, q]).any():
            drawn.setdefault(subject_of(quantity), []).append(q)
    return {title: drawn[title] for title in SUBJECTS if title in drawn}


def _differences_height(comparison: xr.Dataset) -> float:
    drawn = _drawn(comparison)
    others = comparison.sizes["checkpoint"] - 1
    rows = sum(map(len, drawn.values()))
    return 1.7 + TITLE * len(drawn) + (LINE + 0.14 * (others - 1)) * rows + 0.22 * (others > 1) * others


@plot(_differences_height)
def plot_differences(comparison: xr.Dataset, *, ax: Axes) -> None:
    """Draw the differences of every checkpoint to the first one, with their intervals, one line per quantity.

    Parameters
    ----------
    comparison
        From `analyses.compare.compare`, or the group "compare" of an archive of `eqrlab compare`.

    Notes
    -----
    Shares and AUCs are drawn, in points, which are hundredths.  Marks are filled where the interval excludes 0, open
    where it does not, small and grey where there is none.  Each interval is for one quantity alone.
    """
    names, drawn = comparison["checkpoint"].values, _drawn(comparison)
    gap, low, high = (
        100 * v for v in Interval.of(comparison.transpose("checkpoint", "quantity", ...), "difference")
    )
    others = len(names) - 1
    step, top, reach, kinds = LINE + 0.14 * (others - 1), 0.0, [0.0], set()
    beside = ax.get_yaxis_transform()
    for title, quantities in drawn.items():
        ax.text(
            0, top + TITLE - 0.06, title, transform=beside, color=COLOURS["muted"], va="bottom", bbox=GROUND
        )
        top += TITLE
        for q in quantities:
            ax.text(
                0,
                top + 0.2,
                quantity_name(str(comparison["quantity"].values[q])),
                transform=beside,
                va="bottom",
                bbox=GROUND,
            )
            for c in range(1, others + 1):
                place, colour = top + 0.28 + 0.14 * (c - 1), OTHERS[(c - 1) % len(OTHERS)]
                value, ends = gap[c, q], (low[c, q], high[c, q])
                if not np.isfinite(value):
                    continue
                bounded = bool(np.isfinite(ends[0]))
                kind = "none" if not bounded else "open" if ends[0] <= 0 <= ends[1] else "clear"
                kinds.add(kind)
                reach += [value, *(ends if bounded else ())]
                if bounded:
                    ax.plot(ends, [place, place], color=colour, linewidth=1.4)
                ax.plot([value], [place], MARKS[(c - 1) % len(MARKS)], zorder=3, **_mark(kind, colour))
                if others == 1:
                    text = f"{value:+.1f}" + (f" [{ends[0]:+.1f}, {ends[1]:+.1f}]" if bounded else "")
                    ax.text(1, top + 0.2, text, transform=beside, ha="right", va="bottom", color=COLOURS["muted"],
                            fontsize=10.5)  # fmt: skip
            top += step
    ax.axvline(0, color=COLOURS["muted"], linewidth=1.2, zorder=0)
    side = 1.06 * max(1.0, *map(abs, reach))
    ax.set(xlim=(-side, side), ylim=(top + 0.12, 0), yticks=[])
    ax.grid(axis="y", visible=False)
    ax.spines.left.set_visible(False)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:+.0f}" if value else "0")
    ax.set_xlabel(f"difference in points\n← {short(names[0])} has more"
                  f"   |   {short(names[1]) if others == 1 else 'the other'} has more →")  # fmt: skip
    meaning = {
        "clear": "interval excludes 0",
        "open": "interval includes 0",
        "none": "too few puzzles for one",
    }
    key = [Line2D([], [], linestyle="", marker="o", label=text, **_mark(kind, COLOURS["ink"]))
           for kind, text in meaning.items() if kind in kinds]  # fmt: skip
    if others > 1:
        key += [Line2D([], [], color=OTHERS[c % len(OTHERS)], marker=MARKS[c % len(MARKS)], label=short(name))
                for c, name in enumerate(names[1:])]  # fmt: skip
    ax.legend(handles=key, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2 if others == 1 else 1)


def _mark(kind: str, colour: str) -> dict[str, Any]:
    """Return how a mark looks: filled, open, or small where there is no interval."""
    if kind == "none":
        return {"color": COLOURS["none"], "markersize": 4}
    return {"color": colour, "markersize": 6, "markeredgewidth": 1.3,
            "markerfacecolor": colour if kind == "clear" else COLOURS["card"]}  # fmt: skip


@plot(5.2)
def plot_scatter(
    comparison: xr.Dataset, quantity: str = "correct mass", checkpoint: str | None = None, *, ax: Axes
) -> None:
    """Draw one quantity of a checkpoint against that of the first one, a labelled point a puzzle.

    Parameters
    ----------
    comparison
        From `analyses.compare.compare`, or the group "compare" of an archive of `eqrlab compare`.
    quantity
        A share; of masses the intervals of both checkpoints are drawn.
    checkpoint
        Beside the first; default: the second.

    Raises
    ------
    ValueError
        For a quantity or a checkpoint that is not there, or that is no share.

    Notes
    -----
    Puzzles within 2 points of each other are one point, the larger the more they are, with the numbers of the first
    four, and whiskers of the first.
    """
    names = [str(name) for name in comparison["checkpoint"].values]
    quantities = [str(q) for q in comparison["quantity"].values if is_share(str(q)) or "AUC" in str(q)]
    other = names[1] if checkpoint is None else checkpoint
    for given, known, what in (
        (quantity, quantities, "share"),
        (other, names[1:], "checkpoint beside the first"),
    ):
        if given not in known:
            raise ValueError(f"{what} {given!r} unknown; choose from {', '.join(known)}")
    one = comparison.sel(quantity=quantity, checkpoint=[names[0], other])
    values, low, high = Interval.of(one.transpose("checkpoint", "puzzle", ...), "puzzle_value")
    labels = [str(p) for p in comparison["puzzle"].values]
    ax.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle="--", zorder=0)
    points: dict[tuple[float, float], list[int]] = {}
    for p in map(int, np.flatnonzero(np.isfinite(values).all(0))):
        points.setdefault((round(50 * values[0, p]), round(50 * values[1, p])), []).append(p)
    taken: list[Box] = []  # by points, their whiskers, and labels
    marks = []
    for members in sorted(points.values(), key=len, reverse=True):
        x, y = values[:, members].mean(1)
        p = members[0]
        taken.append((x - 5 * UNIT, y - 5 * UNIT, x + 5 * UNIT, y + 5 * UNIT))
        if np.isfinite(low[:, p]).all():
            taken += [
                (low[0, p], y - UNIT, high[0, p], y + UNIT),
                (x - UNIT, low[1, p], x + UNIT, high[1, p]),
            ]
            ax.plot([low[0, p], high[0, p]], [y, y], color=COLOURS["ink"], linewidth=0.8, alpha=0.3)
            ax.plot([x, x], [low[1, p], high[1, p]], color=COLOURS["ink"], linewidth=0.8, alpha=0.3)
        ax.scatter(
            x, y, s=26 + 14 * (len(members) - 1), color=COLOURS["mode-a"], alpha=0.8, linewidths=0, zorder=3
        )
        text = ", ".join(labels[p] for p in members[:LISTED])
        text += f" +{len(members) - LISTED}" if len(members) > LISTED else ""
        marks.append(((float(x), float(y)), text, len(members)))
    for mark in marks:
        _label(ax, *mark, taken)
    ends = percent(1)
    ax.set(xlim=(-0.06, 1.06), ylim=(-0.06, 1.06), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: percent(value) if value < 1 else ends)
    mass, name = "mass" in quantity, quantity_name(quantity)
    what = f"share of restarts that end at {name}" if mass else f"{quantity.partition(',')[0]}: {name}"
    whiskers = f"; whiskers: {stated_level(comparison.attrs['confidence'])} intervals" if mass else ""
    ax.set(xlabel=short(names[0]), ylabel=short(other))
    ax.set_title(f"{what}\nabove the line {short(other)} has more\nnumbers: puzzles{whiskers}", pad=10)
    missing = int((~np.isfinite(values).all(0)).sum())
    if missing:
        ax.text(
            0.5, 0.5, f"{plural(missing, 'puzzle')} undefined", transform=ax.transAxes, color=COLOURS["muted"]
        )


def _label(ax: Axes, point: tuple[float, float], text: str, members: int, taken: list[Box]) -> None:
    """Write a label beside its point where it covers no other one, as far as that is possible."""
    wide, tall = 6.2 * len(text) * UNIT, 11 * UNIT
    away = np.sqrt(members) * UNIT
    boxes = []
    for dx, dy in OFFSETS:
        side = np.sign(dx)
        x = point[0] + dx * UNIT + side * away + (0 if side > 0 else -wide if side < 0 else -wide / 2)
        y = point[1] + dy * UNIT + np.sign(dy) * away - tall / 2
        boxes.append((x, y, x + wide, y + tall))

    def cost(box: Box) -> float:
        out = max(0, -0.05 - box[0]) + max(0, box[2] - 1.05) + max(0, -0.05 - box[1]) + max(0, box[3] - 1.05)
        over = sum(max(0, min(box[2], b[2]) - max(box[0], b[0])) * max(0, min(box[3], b[3]) - max(box[1], b[1]))
                   for b in taken)  # fmt: skip
        return 100 * over + out

    best = min(boxes, key=cost)
    taken.append(best)
    ax.text(best[0], (best[1] + best[3]) / 2, text, va="center", fontsize=10.5, zorder=4)
