"""Pictures of planes through state space and of basin stability: pure functions from datasets to figures."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from eqrlab.analyses.figures.style import COLOURS, in_percent, plot, styled
from eqrlab.analyses.text.format import percent
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import stated_level

RIGHT = ("#0072b2", "#56b4e9", "#00476f", "#8fd3ff")
WRONG = ("#d55e00", "#e69f00", "#a83232", "#f0c27b", "#cc79a7", "#7a3b00", "#f2a0a0", "#b58900")
PLAIN = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#5b3a8c")
NONE, AWAY = "#b9bfc7", "#3a4048"
WHITE = 0.62  # share of white in the colours of cells without an attractor
DARKEST = 0.55  # brightness of the slowest cells
LISTED = 6  # entries of the legend, besides one for the rest
LEAST_SHARE = 0.001  # of the plane, for an entry of its own


def kinds_of(plane: xr.Dataset, puzzle: int) -> list[tuple[np.ndarray, str, str]]:
    """Return the kinds of cells of a puzzle's plane, each with its mask (v, u), colour and name, the largest first.

    Notes
    -----
    Cells at an attractor are told apart by right and wrong and by the number of the attractor.  Cells without one are
    light where their answer is right or wrong, and grey where correctness is not known; those that diverge are dark.
    """
    one = plane.isel(puzzle=puzzle)
    number = one.attractor_id.values
    away = np.isin(one.fate.values, _codes(one, ("diverged", "nonfinite")))
    judged = "correct" in one
    kinds: list[tuple[np.ndarray, str, str]] = []
    used = {"right": 0, "wrong": 0, "plain": 0}
    palette = {"right": RIGHT, "wrong": WRONG, "plain": PLAIN}
    counts = np.bincount(number[number >= 0].ravel(), minlength=1)
    for a in np.argsort(-counts, kind="stable"):
        mask = number == a
        if not mask.any():
            continue
        kind = "plain"
        if judged:
            kind = "right" if bool(one.attractor_correct.values[a]) else "wrong"
        colours = palette[kind]
        name = f"attractor {a + 1}" if kind == "plain" else f"{kind}: attractor {a + 1}"
        kinds.append((mask, colours[used[kind] % len(colours)], name))
        used[kind] += 1
    free = (number < 0) & ~away
    if judged:
        right = one.correct.values
        kinds.append((free & right, _faint(COLOURS["right"]), "right, no attractor"))
        kinds.append((free & ~right, _faint(COLOURS["wrong"]), "wrong, no attractor"))
    else:
        kinds.append((free, NONE, "no attractor"))
    kinds.append((away, AWAY, "diverged"))
    return [k for k in kinds if k[0].any()]


def _codes(one: xr.Dataset, names: tuple[str, ...]) -> list[int]:
    meanings = one.fate.attrs["flag_meanings"].split()
    return [meanings.index(name) for name in names]


def _faint(colour: str) -> str:
    """Return a colour mixed with white."""
    return "#" + "".join(f"{round(255 * ((1 - WHITE) * c + WHITE)):02x}" for c in to_rgb(colour))


def brightness(plane: xr.Dataset, puzzle: int) -> tuple[np.ndarray, str]:
    """Return a factor (v, u) between 0.55 and 1, the brighter the sooner a cell settles, and what that says.

    Notes
    -----
    By the settling step where all cells at attractors settle; else, since recurrent cells have none, by the step
    since which the answer is constant.  Logarithmic, between the 2 % and 98 % quantiles.  Cells without an attractor,
    and at cycles, are not shaded.
    """
    one = plane.isel(puzzle=puzzle)
    settling, at_attractor = one.settling_step.values, one.attractor_id.values >= 0
    cycle = np.isin(one.fate.values, _codes(one, ("periodic",)))
    by_state = bool(at_attractor.any() and (settling[at_attractor & ~cycle] > 0).all())
    when = (
        np.where(settling > 0, settling, int(plane.attrs["depth"])) if by_state else one.answer_settled.values
    )
    shaded = at_attractor & ~cycle
    low, high = np.quantile(when[shaded].astype(float), (0.02, 0.98)) if shaded.any() else (0.0, 0.0)
    what = "state settled" if by_state else "answer constant"
    if high <= low:
        return np.ones(when.shape), f"{what} from step {int(low)} on" if shaded.any() else "no cell settled"
    place = np.log(np.clip(when, low, high) / low) / np.log(high / low)
    factor = np.where(shaded, 1 - (1 - DARKEST) * place, 1.0)
    return factor, f"brighter: {what} sooner (step {int(low)} to {int(high)})"


def _plane_height(plane: xr.Dataset, puzzle: int = 0, title: str | None = None) -> float:
    return 6.0 + 0.24 * len(_listed(kinds_of(plane, puzzle)))


@plot(_plane_height, width=5.2)
def plot_plane(plane: xr.Dataset, puzzle: int = 0, title: str | None = None, *, ax: Axes) -> None:
    """Draw the basins of a plane, right, wrong and none, the brighter the sooner they settle.

    Parameters
    ----------
    plane
        From `attractors.plane`.
    puzzle
        Position of the puzzle.
    title
        First line of the title; default: the number of the puzzle.
    """
    kinds = kinds_of(plane, puzzle)
    factor, speed = brightness(plane, puzzle)
    picture = np.ones((*factor.shape, 3))
    for mask, colour, _ in kinds:
        picture[mask] = to_rgb(colour)
    picture *= factor[..., None]
    shown = _listed(kinds)
    left, right, bottom, top = (float(v) for v in _sides(plane))
    ax.imshow(
        picture, origin="lower", extent=(left, right, bottom, top), interpolation="nearest", aspect="equal"
    )
    ax.grid(False)
    unit = float(plane["unit"].values[puzzle])
    what = f"in state norms (1 = {unit:.3g})" if unit != 1 else "in state units"
    ax.set(xlabel=f"first direction, {what}", ylabel="second direction")
    _marks(ax, plane, puzzle, (left, right, bottom, top))
    noise = float(plane.attrs["noise"])
    setting = f"noise {noise:g}" if noise else "noise off"
    first = title or f"puzzle {plane['puzzle'].values[puzzle]}"
    ax.set_title(f"{first}\n{setting}, depth {plane.attrs['depth']}\n{speed}")
    handles: list[Artist] = [
        Patch(color=colour, label=f"{name}: {_share(mask)}") for mask, colour, name in shown
    ]
    if np.isfinite(plane["mark_u"].values[puzzle]).any():
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=8, markerfacecolor="white",
                              markeredgecolor=COLOURS["ink"], label="states that the plane goes through"))  # fmt: skip
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=1)


def _share(mask: np.ndarray) -> str:
    share = float(mask.mean())
    return percent(share) if share >= 0.001 else "below 0.1 %"


def _listed(kinds: list[tuple[np.ndarray, str, str]]) -> list[tuple[np.ndarray, str, str]]:
    """Return the kinds that the legend names: at most seven, one for all attractors that are too small or too many."""
    first = [i for i, k in enumerate(kinds) if k[0].mean() >= LEAST_SHARE]
    if len(first) > LISTED:
        last = [i for i in first if "attractor " not in kinds[i][2]]  # those without an attractor stay
        first = sorted({*first[: LISTED - len(last)], *last})
    rest = [k for i, k in enumerate(kinds) if i not in first]
    if not rest:
        return kinds
    mask = np.logical_or.reduce([k[0] for k in rest])
    return [*(kinds[i] for i in first), (mask, COLOURS["muted"], f"{len(rest)} more, in other shades")]


def _sides(plane: xr.Dataset) -> np.ndarray:
    """Return (left, right, bottom, top) of the cells, from their centres."""
    u, v = plane["u"].values, plane["v"].values
    du, dv = (u[1] - u[0]) / 2, (v[1] - v[0]) / 2
    return np.array([u[0] - du, u[-1] + du, v[0] - dv, v[-1] + dv])


def _marks(axes: Axes, plane: xr.Dataset, puzzle: int, sides: tuple[float, ...]) -> None:
    """Mark the states the plane was laid through, by their numbers."""
    for i, (u, v) in enumerate(
        zip(plane["mark_u"].values[puzzle], plane["mark_v"].values[puzzle], strict=True)
    ):
        if sides[0] <= u <= sides[1] and sides[2] <= v <= sides[3]:
            axes.scatter(
                u,
                v,
                s=70,
                marker="o",
                facecolors="white",
                edgecolors=COLOURS["ink"],
                linewidths=1.4,
                zorder=4,
            )
            axes.annotate(str(i + 1), (u, v), xytext=(8, 6), textcoords="offset points", weight="bold", zorder=5,
                          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0})  # fmt: skip


@styled
def ftle_picture(field: xr.Dataset, puzzle: int = 0, title: str | None = None) -> Figure:
    """Draw the finite-time exponents of a plane: bright ridges where nearby states are torn apart.

    Parameters
    ----------
    field
        From `attractors.ftle_field`.
    puzzle
        Position of the puzzle.
    title
        First line of the title; default: the number of the puzzle.
    """
    sides = tuple(float(v) for v in _sides(field))
    figure = Figure((5.2, 6.3), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(AWAY)
    values = np.where(np.isfinite(field["ftle"].values[puzzle]), field["ftle"].values[puzzle], np.nan)
    image = axes.imshow(
        values, origin="lower", extent=sides, interpolation="nearest", aspect="equal", cmap="cividis"
    )
    axes.grid(False)
    unit = float(field["unit"].values[puzzle])
    what = f"in state norms (1 = {unit:.3g})" if unit != 1 else "in state units"
    axes.set(xlabel=f"first direction, {what}", ylabel="second direction")
    _marks(axes, field, puzzle, sides)
    first = title or f"puzzle {field['puzzle'].values[puzzle]}"
    within = "within the plane" if field.attrs["along"] == "plane" else "in any direction"
    axes.set_title(f"{first}\nnoise off, {field.attrs['steps']} steps\nbright: perturbations {within} grow")
    label = "finite-time exponent, natural logarithm per step"
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, label=label)
    return figure


@styled
def stability_curve(stability: xr.Dataset, puzzle: int = 0, names: list[str] | None = None) -> Figure:
    """Draw the probability of return against the size of the perturbation, a line with its interval for each state.

    Parameters
    ----------
    stability
        From `attractors.basin_stability`.
    puzzle
        Position of the puzzle.
    names
        Of the states; default: their numbers.  States that do not settle are left out.
    """
    figure = Figure((5.0, 3.8), layout="constrained")
    axes = figure.subplots()
    size = stability["size"].values
    order = np.argsort(size)
    for point in range(stability.sizes["point"]):
        if not bool(stability["settled"].values[puzzle, point]):
            continue
        value, low, high = Interval.of(stability, "stability", puzzle, point).each(lambda v: v[order])
        colour = PLAIN[point % len(PLAIN)]
        name = names[point] if names else f"state {point + 1}"
        axes.fill_between(size[order], low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(size[order], value, color=colour, linewidth=2, marker="o", markersize=4, label=name)
    axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="size of the perturbation, in state norms")
    ticks = [s for s in (0.01, 0.03, 0.1, 0.3, 1, 3, 10) if size.min() <= s <= size.max()]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    in_percent(axes.yaxis)
    confidence = stated_level(stability.attrs["confidence"])
    axes.set_title(f"share of perturbed states that return, {confidence} intervals")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    return figure
