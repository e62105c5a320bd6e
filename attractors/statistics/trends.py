"""Trends of many series at once: order, rate of decay, medians of stretches."""

from __future__ import annotations

import numpy as np

BLOCKS = 32  # medians by which a long stretch of residuals is judged


def kendall(series: np.ndarray) -> np.ndarray:
    """Return Kendall's tau of each row of (n, k) against its index; NaN counts as no order."""
    n, k = series.shape
    if k < 2:
        return np.zeros(n)
    total = np.zeros(n)
    for lag in range(1, k):
        with np.errstate(invalid="ignore"):
            total += np.nan_to_num(np.sign(series[:, lag:] - series[:, :-lag])).sum(1)
    return total / (k * (k - 1) / 2)


def decay_rate(residual: np.ndarray) -> np.ndarray:
    """Return the factor by which each row of residuals (n, k) falls a step, by least squares on its logarithm."""
    k = residual.shape[1]
    if k < 2:
        return np.full(len(residual), np.nan)
    t = np.arange(k) - (k - 1) / 2
    logs = np.log(np.maximum(residual, np.finfo(np.float64).tiny))
    return np.exp((logs * t).sum(1) / (t**2).sum())


def block_medians(series: np.ndarray, blocks: int = BLOCKS) -> np.ndarray:
    """Return the medians (n, <= blocks) of equal consecutive blocks of (n, k); a rest at the start is left out."""
    size = max(1, series.shape[1] // blocks)
    count = series.shape[1] // size
    return np.median(series[:, series.shape[1] - count * size :].reshape(len(series), count, size), axis=2)
