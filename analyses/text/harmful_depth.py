"""Whether more depth does harm: runs that were right and leave the right answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from eqrlab.analyses.text.format import percent
from eqrlab.attractors.statistics.bootstrap import widened

LEAST = 3  # puzzles


class Drop(NamedTuple):
    """Accuracy of one restart at a depth and at the last one, and the bounds of their difference."""

    depth: int
    last_depth: int
    earlier: float
    last: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The drop as a sentence."""
        return (
            f"For accuracy, too much depth does harm: one restart is right on {percent(self.earlier)} at depth "
            f"{self.depth} and on {percent(self.last)} at depth {self.last_depth}, "
            f"{100 * (self.earlier - self.last):.1f} points [{100 * self.low:.1f}, {100 * self.high:.1f}] less: runs "
            "leave right answers."
        )


def drop_in_alignment(alignment: xr.Dataset) -> Drop | None:
    """Return the drop over the depths of an alignment, see `late_drop`."""
    one = alignment["accuracy_puzzle"].sel(selector="mean").transpose("puzzle", "depth").values
    return late_drop(one, alignment["depth"].values, float(alignment.attrs["confidence"]))


def late_drop(one: np.ndarray, depths: np.ndarray, confidence: float = 0.95) -> Drop | None:
    """Return where one restart is right more often than at the last depth, beyond chance; None: nowhere.

    Parameters
    ----------
    one
        (puzzle, depth): share of the restarts that are right.
    depths
        (depth,): increasing.

    Returns
    -------
    Drop
        At the depth where one restart is most often right, of those where the difference is beyond chance; the bounds
        hold for all depths at once.

    Notes
    -----
    Student's t of the differences within puzzles, at a level divided by the number of depths (Bonferroni): with few
    puzzles it keeps to that level, where resampling them takes a few equal signs for certainty.
    """
    gain = one[:, :-1] - one[:, -1:]
    if len(gain) < LEAST or not gain.shape[1]:
        return None
    level = 1 - (1 - confidence) / gain.shape[1]
    mean = gain.mean(0)
    half = stdtrit(len(gain) - 1, (1 + level) / 2) * gain.std(0, ddof=1) / np.sqrt(len(gain))
    low, high = widened(mean, mean - half, mean + half, len(gain), level, least=-1.0)
    sure = np.flatnonzero(low > 0)
    if not len(sure):
        return None
    i = sure[mean[sure].argmax()]
    ends = (float(v) for v in (one[:, i].mean(), one[:, -1].mean(), low[i], high[i]))
    return Drop(int(depths[i]), int(depths[-1]), *ends)
