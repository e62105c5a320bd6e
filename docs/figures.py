"""Draws the figures of the guide with the package itself: `python docs/figures.py`, a minute."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from eqrlab import attractors as at
from eqrlab.analyses.figures.planes import plot_plane
from eqrlab.analyses.figures.style import COLOURS, figure_of, styled, write_figure
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import MapSystem, load
from eqrlab.datasets import bundled

HERE = Path(__file__).parent


def newton(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One step of Newton's method for w**3 = 1, on pairs (real, imaginary)."""
    w = torch.complex(z[:, 0], z[:, 1])
    w = w - (w**3 - 1) / (3 * w**2)
    return torch.stack([w.real, w.imag], dim=1)


def plane() -> Figure:
    system = MapSystem(newton, lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64))
    result = at.plane(system, torch.zeros(1, 1, dtype=torch.long), resolution=141, extent=1.5, depth=64)
    return figure_of(partial(plot_plane, result, title="Newton's method for z³ = 1"))


@styled
def spectrum() -> Figure:
    """Leading eigenvalues at right and wrong attractors of a bundled model, in the unit circle."""
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6").take(slice(0, 500, 125))
    ensemble = at.sample(
        model,
        puzzles.inputs,
        labels=puzzles.labels,
        restarts=4,
        depth=64,
        noise=0,
        keep=("summary", "final_state"),
    )
    found = at.spectrum(model, puzzles.inputs, ensemble, k=6)
    settled = ensemble.fate.values == 0
    right = ensemble.correct.isel(step=-1).values & settled
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color=COLOURS["muted"], linewidth=1)
    values, sure = found.eigenvalue.values, found.converged.values
    for kind, mask in {"right": right, "wrong": settled & ~right}.items():
        chosen = values[mask][sure[mask]]
        if chosen.size:
            axes.plot(
                chosen.real, chosen.imag, "o", color=COLOURS[kind], markersize=4, label=f"{kind}, settled"
            )
    axes.set_aspect("equal")
    axes.set(
        xlabel="real part",
        ylabel="imaginary part",
        title="eqr-sudoku6: leading eigenvalues where runs settle",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


@styled
def calibration() -> Figure:
    """Predicted probabilities of modes and how often they came true, as `bench_calibration.py` measured them."""
    stored = json.loads((HERE.parent / "tests/benchmarks/results.json").read_text())["reliability"]
    told = np.array([float(name) for name in stored])
    share, count = (
        np.array([float(row[name]) for row in stored.values()]) for name in ("true in", "predictions")
    )
    low, high = proportion_interval(np.round(share * count).astype(int), count.astype(int))
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1)
    bars = np.clip((share - low, high - share), 0, 1)
    axes.errorbar(told, share, bars, fmt="o", color=COLOURS["right"], markersize=4, linewidth=1)
    axes.set(xlabel="predicted probability of a mode", ylabel="how often it was the mode, 95 % intervals")
    return figure


if __name__ == "__main__":
    for name, draw in {"methods/plane": plane, "methods/spectrum": spectrum}.items():
        draw().savefig(HERE / f"{name}.png", dpi=110, facecolor="white", bbox_inches="tight")
    write_figure(calibration(), HERE / "methods/calibration.svg")
