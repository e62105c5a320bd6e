"""Whether more depth does harm: runs that were right and leave the right answer."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from eqrlab.analyses.amounts import percent
from eqrlab.attractors.statistics import widened

LEAST = 3  # puzzles


def late_sentence(alignment: xr.Dataset) -> str | None:
    """Return a warning where runs of less depth are right more often than those of the last, else None."""
    drop = late_drop(alignment)
    if drop is None:
        return None
    depth, earlier, last, low, high = drop
    return (
        f"For accuracy, too much depth does harm: one restart is right on {percent(earlier)} at depth {depth} and on "
        f"{percent(last)} at depth {int(alignment['depth'].values[-1])}, {100 * (earlier - last):.1f} points "
        f"[{100 * low:.1f}, {100 * high:.1f}] less: runs leave right answers."
    )


def late_drop(alignment: xr.Dataset) -> tuple[int, float, float, float, float] | None:
    """Return where one restart is right more often than at the last depth, beyond chance; None: nowhere.

    Returns
    -------
    tuple
        The depth at which it is most often right, the accuracy there and at the last depth, and the bounds of their
        difference, which hold for all depths at once.

    Notes
    -----
    Student's t of the differences within puzzles, at a level divided by the number of depths (Bonferroni): with few
    puzzles it keeps to that level, where resampling them takes a few equal signs for certainty.
    """
    one = alignment["accuracy_puzzle"].sel(selector="mean").transpose("puzzle", "depth").values
    gain = one[:, :-1] - one[:, -1:]
    if len(gain) < LEAST or not gain.shape[1]:
        return None
    confidence = 1 - (1 - float(alignment.attrs["confidence"])) / gain.shape[1]
    mean = gain.mean(0)
    half = stats.t.ppf((1 + confidence) / 2, len(gain) - 1) * gain.std(0, ddof=1) / np.sqrt(len(gain))
    low, high = widened(mean, mean - half, mean + half, len(gain), confidence, least=-1.0)
    sure = np.flatnonzero(low > 0)
    if not len(sure):
        return None
    i = sure[mean[sure].argmax()]
    earlier, last = float(one[:, i].mean()), float(one[:, -1].mean())
    return int(alignment["depth"].values[i]), earlier, last, float(low[i]), float(high[i])
