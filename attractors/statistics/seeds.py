"""Means over training seeds, all measured on the same puzzles: their intervals hold for new seeds and new puzzles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from eqrlab.attractors.statistics.intervals import check_confidence

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of puzzles (P,) -> values of seeds (S,)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval.

    Attributes
    ----------
    seeds
        Value of each seed (S,).
    mean, low, high
        Mean over the seeds that define it, and bounds; NaN bounds with fewer than two seeds or two puzzles.
    """

    seeds: np.ndarray
    mean: float
    low: float
    high: float


def mean_over_seeds(
    statistic: Statistic,
    puzzles: int,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean over seeds of a statistic, with an interval for new seeds and new puzzles.

    Parameters
    ----------
    statistic
        Maps puzzle weights (P,) to the values (S,) of the seeds, all on the same puzzles; NaN where undefined.
    puzzles
        Their number P.
    bounds
        Between which the statistic lies.
    confidence
        Coverage asked for.

    Notes
    -----
    Every seed is measured on the same puzzles, so that the two are crossed.  The variance of the mean is the sum of
    s^2 / S, with s the standard deviation between seeds, and of the jackknife variance over puzzles of the mean of the
    seeds; the part that a seed and a puzzle share is in both, so that the sum is, if anything, too large.  The interval
    is Student's with Satterthwaite's degrees of freedom (of S - 1 and P - 1), but never narrower than that of either
    variance alone: with two seeds, Satterthwaite's covers only 87 % at a nominal 95 %.  A bootstrap over 3 seeds would
    know only 10 different samples and be far too narrow; Student's t with 2 degrees of freedom is wide, and says so.
    Where neither seeds nor puzzles differ, at least (1 - confidence)^(1/P) of all puzzles are like those seen, see
    `attractors.statistics.bootstrap.share_over_puzzles`.

    References
    ----------
    Satterthwaite 1946, "An approximate distribution of estimates of variance components"; Owen 2007, "The pigeonhole
    bootstrap" (crossed factors); Efron & Stein 1981, "The jackknife estimate of variance".
    """
    check_confidence(confidence)
    every = np.ones(puzzles)
    seeds = np.asarray(statistic(every), float)
    known = np.isfinite(seeds)
    mean = float(seeds[known].mean()) if known.any() else float("nan")
    if known.sum() < 2 or puzzles < 2:
        return Estimate(seeds, mean, float("nan"), float("nan"))
    without = np.stack([statistic(every - row) for row in np.eye(puzzles)])[:, known]
    left = np.array([row[np.isfinite(row)].mean() for row in without if np.isfinite(row).any()])
    if len(left) < 2:
        return Estimate(seeds, mean, float("nan"), float("nan"))
    between = seeds[known].var(ddof=1) / known.sum()
    within = (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()
    total = between + within
    if total < 1e-12:
        edge = (1 - confidence) ** (1 / puzzles)
        low, high = (edge * mean + (1 - edge) * end for end in bounds)
        return Estimate(seeds, mean, low, high)
    freedom = total**2 / (between**2 / (known.sum() - 1) + within**2 / (len(left) - 1))
    parts = ((total, freedom), (between, known.sum() - 1), (within, len(left) - 1))
    half = max(stdtrit(count, (1 + confidence) / 2) * np.sqrt(variance) for variance, count in parts)
    return Estimate(seeds, mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]))
