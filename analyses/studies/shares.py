"""Shares of runs with intervals whose units are puzzles, or tasks, not runs."""

from __future__ import annotations

import numpy as np

from eqrlab.attractors.statistics.intervals import proportion_interval


def clustered(shares: np.ndarray, trials: int) -> dict[str, float]:
    """Return the mean of shares (puzzle, restart) of `trials` each, with a 95 % interval whose units are puzzles.

    Notes
    -----
    A Wilson interval at the effective number of trials p (1 - p) / var(mean), the variance taken between puzzles; this
    number is at least the number of puzzles (so also where all puzzles agree) and at most all trials.

    References
    ----------
    Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    means = shares.mean(axis=1)
    p, n = float(means.mean()), len(means)
    variance = float(means.var(ddof=1)) / n if n > 1 else np.inf
    effective = p * (1 - p) / variance if variance else np.inf
    effective = min(max(effective, n), shares.size * trials) if 0 < p < 1 else n
    return proportion(p, effective)


def proportion(p: float, trials: float) -> dict[str, float]:
    """Return a proportion of independent trials with its 95 % Wilson interval."""
    low, high = proportion_interval(np.array(p * trials), np.array(trials), method="wilson")
    return {"value": p, "low": float(low), "high": float(high)}
