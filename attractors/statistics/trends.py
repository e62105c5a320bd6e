"""Trends of many series at once: order, rate of decay, medians of stretches."""

from __future__ import annotations

import itertools

import numpy as np

TAIL = 16  # last residuals from which a decay is estimated
BLOCKS = 32  # medians by which a long stretch of residuals is judged
INVERSE = -0.6  # Kendall's tau of averages that fall like 1 / time is at most this, ...
LESS = 0.95  # ... and so is their last half over the first
FALL, GEOMETRIC = 3.0, 1.75  # a residual has fallen by this factor twice, the second time about as fast


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


def filled(series: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return positive series (..., D) with power laws drawn between the steps that were measured, (D,) bool."""
    if measured.all():
        return series
    known = np.flatnonzero(measured)
    values = series.copy()
    time = np.log(np.arange(1, series.shape[-1] + 1))
    for a, b in itertools.pairwise(known):
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = np.log(series[..., a]), np.log(series[..., b])
            for j in range(a + 1, b):
                part = (time[j] - time[a]) / (time[b] - time[a])
                values[..., j] = np.exp((1 - part) * low + part * high)
    values[..., : known[0]] = series[..., known[:1]]
    return values


def tail(measured: np.ndarray) -> int:
    """Return how many last steps, up to 16, were measured (D,) without a gap."""
    gaps = np.flatnonzero(~measured)
    return min(TAIL, len(measured) - (int(gaps[-1]) + 1 if len(gaps) else 0))


def way_left(residual: np.ndarray, step: np.ndarray | None = None) -> np.ndarray:
    """Return what each row of residuals (n, D) has left to go if it falls geometrically, inf where that is not shown.

    Parameters
    ----------
    step
        (D,) ascending, at which they were measured; None: 1, ..., D.

    Notes
    -----
    Shown by the times since when the residual is below 3 and below 9 times its last value: the second is twice the
    first in a geometric decay, less than 1.6 times in a power of time down to -2, as next to a point of marginal
    stability or in the bottleneck that a pair of fixed points leaves when it has vanished.  A residual that was as low
    before and rose again by that factor says nothing of what comes next.
    """
    n = len(residual)
    step = np.arange(1, residual.shape[1] + 1) if step is None else step
    depth, last = int(step[-1]), residual[:, -1]
    with np.errstate(invalid="ignore", over="ignore"):
        first, second = (
            depth - np.where(residual > factor * last[:, None], step, 0).max(1) for factor in (FALL, FALL**2)
        )
        shown = (second < depth) & (second + 1 >= GEOMETRIC * first)
        lowest = np.minimum.accumulate(residual, axis=1)
        rose = (first < depth) & (
            lowest[np.arange(n), np.searchsorted(step, np.maximum(depth - first, 1))] <= last
        )
        rate = FALL ** (-1 / np.maximum(first, 1))
        return np.where(shown & ~rose, last * rate / (1 - rate), np.inf)


def slows_for_ever(residual: np.ndarray) -> np.ndarray:
    """Say which rows of residuals (n, D) fall like a power of time, and no faster than 1 / time: their sum has no end.

    From the powers over the second quarter and the second half of the steps: in a geometric decay the latter is twice
    the former.  Fewer than 32 steps do not tell.
    """
    depth = residual.shape[1]
    if depth < 32:
        return np.zeros(len(residual), bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        marks = [depth // 4, depth // 2, depth]
        level = np.log([np.median(residual[:, m - max(1, m // 8) : m], axis=1) for m in marks])
        first, last = -np.diff(level, axis=0) / np.log(2)
        return (first > 0.1) & (last > 0.1) & (last <= 1.1) & (last <= 1.25 * first)


def falls_to_zero(means: np.ndarray) -> np.ndarray:
    """Say which series (n, W) of averages over successive stretches fall in size like 1 / time, so to a limit of 0.

    Notes
    -----
    They have one sign, fall in nearly every pair, and their inverses rise at least half as fast over the second half
    as over the first: at the same speed for c / (t + t0), while those of a series with another limit come to a halt.
    Fewer than one in ten thousand does so of series of 20 independent averages of one law.  Fewer than 8 averages do
    not tell.
    """
    n, count = means.shape
    if count < 8:
        return np.zeros(n, bool)
    size = np.abs(means)
    one_sign = (np.abs(np.sign(means).sum(1)) == count) & np.isfinite(size).all(1)
    inverse = 1 / np.where(one_sign[:, None], size, 1.0)
    quarters = [inverse[:, i * count // 4 : (i + 1) * count // 4].mean(1) for i in range(4)]
    steady = quarters[3] - quarters[2] >= (quarters[1] - quarters[0]) / 2
    less = size[:, count // 2 :].mean(1) <= LESS * size[:, : count // 2].mean(1)
    return one_sign & steady & less & (kendall(size) <= INVERSE)
