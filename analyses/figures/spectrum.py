"""Eigenvalues beside the unit circle: a pure function from a dataset to axes."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from eqrlab.analyses.figures.style import COLOURS, plot


@plot(4.6)
def plot_spectrum(spectrum: xr.Dataset, ensemble: xr.Dataset | None = None, *, ax: Axes) -> None:
    """Draw the leading eigenvalues of all states examined beside the unit circle.

    Parameters
    ----------
    spectrum
        From `attractors.spectrum` or `attractors.local_dynamics` (whose points are right and wrong).
    ensemble
        Its final states were examined, one run per point; right and wrong runs are then drawn in different colours.

    Notes
    -----
    Inside of the circle a small error falls, outside it grows; eigenvalues that did not converge are left out.
    """
    value = np.where(spectrum["converged"].values.astype(bool), spectrum["eigenvalue"].values, np.nan)
    points = [str(v) for v in spectrum["point"].values]
    if ensemble is not None and "correct" in ensemble and ensemble.sizes["restart"] == len(points):
        right = ensemble["correct"].values[:, :, -1]
        groups = {"right": value[right], "wrong": value[~right]}
    elif set(points) <= {"right", "wrong"}:
        groups = {name: value[:, m] for m, name in enumerate(points)}
    else:
        groups = {"none": value}
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color=COLOURS["muted"], linewidth=1.2, label="modulus 1")
    most = 1.0
    for kind, found in groups.items():
        finite = found[np.isfinite(found)]
        if finite.size:
            most = max(most, float(np.abs(finite).max()))
            mark = {"marker": "x", "s": 22} if kind == "wrong" else {"marker": "o", "s": 16, "linewidths": 0}
            ax.scatter(finite.real, finite.imag, color=COLOURS[kind], alpha=0.7,
                       label="eigenvalue" if kind == "none" else kind, **mark)  # fmt: skip
    reach = 1.08 * most
    ax.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        aspect="equal",
        xlabel="real part",
        ylabel="imaginary part",
    )
    ticks = np.arange(-np.floor(2 * reach), np.floor(2 * reach) + 1) / 2
    ax.set(xticks=ticks[:: -(-len(ticks) // 7)], yticks=ticks[:: -(-len(ticks) // 7)])
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=3)
