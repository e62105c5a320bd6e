"""The curves of a training run: a pure function from its log to axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from eqrlab.analyses.figures.style import COLOURS, in_percent, plot
from eqrlab.core.regular import read_log

CURVES = {  # line of the log: colour, style, name
    "train_exact": ("right", ":", "exact, puzzles trained on"),
    "test_exact": ("right", "-", "exact, held-out puzzles"),
}


@plot(3.4)
def plot_training(log: str | Path | Sequence[Mapping[str, Any]], *, ax: Axes) -> None:
    """Draw loss and exact accuracies of a training run against the step.

    Parameters
    ----------
    log
        A run folder, its `log.jsonl`, or the lines of one: mappings with "step" and "loss", "train_exact" or
        "test_exact".

    Raises
    ------
    ValueError
        When the log has no such line, or cannot be read.

    Notes
    -----
    The loss is that of single batches, averaged between two lines, and has a scale of its own to the right.
    """
    if isinstance(log, (str, Path)):
        path = Path(log) / "log.jsonl" if Path(log).is_dir() else Path(log)
        lines: Sequence[Mapping[str, Any]] = read_log(path)
        where = str(path)
    else:
        lines, where = log, "the log"
    drawn = {
        name: np.array([(r["step"], r[name]) for r in lines if name in r], float)
        for name in (*CURVES, "loss")
    }
    if not any(len(points) for points in drawn.values()):
        raise ValueError(f"{where}: no line with a loss or an accuracy; give the folder of a training run")
    for name, (colour, style, label) in CURVES.items():
        if len(drawn[name]):
            mark = "o" if len(drawn[name]) < 40 and name == "test_exact" else None
            ax.plot(*drawn[name].T, style, color=COLOURS[colour], marker=mark, markersize=4, label=label)
    ax.set(ylim=(-0.02, 1.02), xlabel="optimiser step")
    in_percent(ax.yaxis)
    handles, names = ax.get_legend_handles_labels()
    if len(drawn["loss"]):
        right = ax.twinx()
        right.grid(visible=False)
        right.spines.right.set_visible(False)
        right.tick_params(axis="y", length=0)
        handles += right.plot(*drawn["loss"].T, color=COLOURS["wrong"], linewidth=1.2, label="loss (right)")
        right.set_ylim(bottom=0)
        names.append("loss (right)")
    ax.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)
