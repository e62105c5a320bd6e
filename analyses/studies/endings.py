"""What a checkpoint's runs end as, and how their exponents tell right from wrong: the study, its tables, its figure."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eqrlab import attractors as at
from eqrlab.analyses.figures.style import COLOURS, styled
from eqrlab.analyses.text.format import number_interval, percent_interval, signed_interval, span
from eqrlab.attractors.dynamics.endings import KINDS, OUTCOMES
from eqrlab.attractors.ensemble.judge import require_judged
from eqrlab.attractors.ensemble.options import part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.results.interval import Interval
from eqrlab.core import System

SHADES = {
    "stable": "#009e73", "saddle": "#e69f00", "cycle": "#56b4e9", "chaotic": "#d55e00", "marginal": "#cc79a7",
    "unfinished": "#b3b9c2", "undecided": "#8b929c", "diverged": "#3a4048",
}  # fmt: skip
PANELS = 3  # side by side
WINDOW = 8
Groups = dict[str, xr.Dataset]


def endings_study(
    system: System,
    inputs: np.ndarray,
    *,
    restarts: int = 4,
    steps: int = 200,
    initial: Law | None = None,
    **options: Unpack[at.AnalysisOptions],
) -> Groups:
    """Run puzzles without noise (unless it is given), say what each run ends as, and follow it with a tangent vector.

    Parameters
    ----------
    system
        A differentiable system (`Reasoner.smooth()`).
    inputs, restarts, initial, **options
        As for `attractors.sample`, see `attractors.AnalysisOptions`.
    steps
        Outer steps over which the exponents of runs that do not come to rest are averaged.

    Returns
    -------
    dict
        `ensemble`, without the states; `endings`; `exponents`.

    Raises
    ------
    ValueError
        If there are neither labels nor an oracle.
    """
    require_judged("a study of endings", options.get("labels"), options.get("oracle"))
    common: dict[str, Any] = {"restarts": restarts, "initial": initial, "noise": 0, **options}
    tokens = torch.as_tensor(inputs)
    ensemble = at.sample(system, tokens, keep=("summary", "final_state"), **common)
    common["progress"] = bool(options.get("progress"))
    found = at.endings(system, tokens, ensemble, steps=steps, **part_of(common, at.StateOptions))
    exponents = at.trajectory_exponents(
        system, tokens, window=min(WINDOW, options.get("depth", 64)), **common
    )
    return {"ensemble": ensemble.drop_vars("final_state"), "endings": found, "exponents": exponents}


def kind_rows(results: dict[str, Groups]) -> list[dict[str, str]]:
    """Return the table of what runs end as, a row for the right and one for the wrong runs of each checkpoint."""
    rows = []
    for name, groups in results.items():
        found = groups["endings"]
        for outcome in OUTCOMES:
            one = found.sel(outcome=outcome)
            total = int(one["count"].sum())
            if not total:
                continue
            kind = found.kind.values
            mine = found.correct.values == (outcome == "right")
            at_rest = mine & np.isin(kind, [KINDS.index(k) for k in ("stable", "saddle")])
            moving = mine & np.isfinite(found.exponent.values)
            counts = {k: int(one["count"].sel(ending=k)) for k in KINDS}
            stable = Interval.of(one.sel(ending="stable"), "share")
            rows.append({
                "model": name, "answer": outcome, "runs": str(total),
                "ends as": ", ".join(f"{n} {k}" for k, n in counts.items() if n),
                "stable": percent_interval(*stable),
                "fixed points": f"{int(one.solutions)} ({int(one.stable_solutions)} stable)",
                "spectral radius": span(found.spectral_radius.values[at_rest]) or "-",
                "exponents of the others": span(found.exponent.values[moving], "+") or "-",
            })  # fmt: skip
    return rows


def auc_rows(results: dict[str, Groups]) -> list[dict[str, str]]:
    """Return the table of how the exponent and the drift of the last window tell wrong runs from right ones."""
    rows = []
    for name, groups in results.items():
        last = groups["exponents"].isel(window=-1)
        right = last.correct.values
        row = {"model": name, "right": str(int(right.sum())), "wrong": str(int((~right).sum()))}
        for score in ("exponent", "drift"):
            row[f"AUC of the {score}"] = number_interval(*Interval.of(last.sel(score=score), "auc"))
        row["difference"] = signed_interval(*Interval.of(last, "auc_gain"), 2) or "undefined"
        for outcome in OUTCOMES:
            mean = Interval.of(last.sel(outcome=outcome), "mean_exponent")
            row[f"exponent, {outcome}"] = signed_interval(*mean, 3) or "-"
        row["puzzles with both"] = str(int(last.puzzles_with_both))
        rows.append(row)
    return rows


def evidence_rows(results: dict[str, Groups]) -> list[dict[str, str]]:
    """Return a row for each run that does not end at a stable fixed point, with the evidence."""
    rows = []
    for name, groups in results.items():
        found = groups["endings"]
        for p, m in np.argwhere(found.kind.values != KINDS.index("stable")):
            one = found.isel(puzzle=p, point=m)
            near = float(one.near_distance)
            radius = float(one.spectral_radius)
            rows.append({
                "model": name, "puzzle": str(found.puzzle.values[p]), "run": str(m),
                "answer": "right" if bool(one.correct) else "wrong", "ends as": KINDS[int(one.kind)],
                "residual": f"{float(one.relative_residual):.1e}",
                "period": str(int(one.period)) if int(one.period) > 1 else "",
                "spectral radius": "" if np.isnan(radius) else f"{radius:.4f}",
                "exponent": signed_interval(*Interval.of(one, "exponent"), 4),
                "nearest fixed point": "" if np.isnan(near)
                else f"at {near:.1e} of the norm, radius {float(one.near_radius):.3f}",
            })  # fmt: skip
    return rows


@styled
def endings_figure(results: dict[str, Groups]) -> Figure:
    """Draw what right and wrong runs end as, and below it the mean exponent by depth, one panel per checkpoint."""
    bars = [
        (name, o)
        for name in results
        for o in OUTCOMES
        if int(results[name]["endings"]["count"].sel(outcome=o).sum())
    ]
    lines = -(-len(results) // PANELS)
    figure = Figure((10.5, 1.5 + 0.34 * len(bars) + 2.9 * lines), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    grid = figure.add_gridspec(1 + lines, PANELS, height_ratios=[0.9 + 0.34 * len(bars), *[2.7] * lines])
    _bars(figure.add_subplot(grid[0, :]), results, bars)
    for i, (name, groups) in enumerate(results.items()):
        axes = figure.add_subplot(grid[1 + i // PANELS, i % PANELS])
        _by_depth(axes, groups["exponents"], name, first=i == 0, left=i % PANELS == 0)
    return figure


def _bars(axes: Axes, results: dict[str, Groups], bars: list[tuple[str, str]]) -> None:
    """Draw a bar of counted shares for the right and the wrong runs of each checkpoint."""
    counts = np.array([results[name]["endings"]["count"].sel(outcome=o).values for name, o in bars])
    share = counts / counts.sum(1, keepdims=True)
    left = np.zeros(len(bars))
    for i, kind in enumerate(KINDS):
        if counts[:, i].any():
            axes.barh(np.arange(len(bars)), share[:, i], 0.74, left, color=SHADES[kind], edgecolor="white",
                      linewidth=0.8, label=kind)  # fmt: skip
        left = left + share[:, i]
    axes.set(xlim=(0, 1), yticks=np.arange(len(bars)), xlabel="share of runs")
    axes.set_yticklabels([f"{name}, {o} ({c.sum()})" for (name, o), c in zip(bars, counts, strict=True)])
    axes.invert_yaxis()
    axes.set_title("what runs end as, noise off", pad=24)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(KINDS))


def _by_depth(axes: Axes, exponents: xr.Dataset, name: str, first: bool, left: bool) -> None:
    """Draw the mean leading exponent of right and wrong runs against depth, with bands."""
    window = exponents["window"].values
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.9)
    for outcome in OUTCOMES if "mean_exponent" in exponents else ():
        mean, low, high = Interval.of(exponents.sel(outcome=outcome), "mean_exponent")
        if np.isfinite(mean).any():
            axes.fill_between(window, low, high, color=COLOURS[outcome], alpha=0.2, linewidth=0)
            axes.plot(window, mean, color=COLOURS[outcome], linewidth=2, label=outcome)
    axes.set(xlabel="outer step", title=name)
    axes.set_ylabel("mean exponent" if left else None)
    if first and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
