"""Risk against coverage of every signal: a pure function from the dataset of `attractors.signals` to a figure."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from eqrlab.analyses.figures.scaling import LINES
from eqrlab.analyses.figures.style import COLOURS, band_key, in_percent, plot
from eqrlab.analyses.text.signals import signal_name
from eqrlab.attractors.results.interval import Interval


@plot(4.6)
def plot_risk_coverage(signals: xr.Dataset, *, ax: Axes) -> None:
    """Draw the share of wrong answers against the share of puzzles answered, the surest first, one line per signal.

    Parameters
    ----------
    signals
        From `attractors.signals`.  The trusted signal and the residual have bands, their intervals.
    """
    coverage = signals["coverage"].values
    for name in map(str, signals["signal"].values):
        colour, style = LINES.get(name, (COLOURS["none"], ":"))
        value, low, high = Interval.of(signals.sel(signal=name), "risk")
        ax.plot(coverage, value, style, color=colour, linewidth=2, label=signal_name(name))
        if name in ("top1_converged", signals.attrs["trusted"]) and np.isfinite(low).all():
            ax.fill_between(coverage, low, high, color=colour, alpha=0.13, linewidth=0)
    ax.set(xlim=(0, 1.01), xlabel="share of the puzzles answered, the surest first")
    top = max(0.1, 1.08 * float(np.nanmax(signals["risk"].values)))
    ax.set_ylim(-0.03 * top, top)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= min(1.001, top)])
    in_percent(ax.xaxis, ax.yaxis)
    ax.set_title("wrong among those answered", pad=8)
    handles = [*ax.get_legend_handles_labels()[0], band_key(signals)]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
