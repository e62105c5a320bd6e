"""Bootstraps whose units are puzzles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri, stdtrit

from eqrlab.attractors.statistics.intervals import check_confidence
from eqrlab.core.seeds import nonnegative

# Of every analysis unless told otherwise: the same puzzles are then drawn, and a mean that two analyses report has the
# same interval in both.
RESAMPLES = 1000
WEIGHTS_AT_ONCE = 1 << 16  # of statistics that take many resamples at once


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    clusters: int,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    together: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return percentile bounds of a statistic under resampling of whole clusters (puzzles) with replacement.

    Parameters
    ----------
    statistic
        Maps cluster weights (clusters,), how often each was drawn, to values of any shape; NaN where undefined.
    clusters
        Number of puzzles.
    together
        Whether the statistic maps weights (..., clusters) of many resamples at once, to values (..., any shape).

    Returns
    -------
    low, high
        Of the shape of the statistic; NaN where fewer than half of the resamples define it, or with fewer than two
        clusters.

    Raises
    ------
    ValueError
        For a confidence outside (0, 1), or no resamples.

    Notes
    -----
    With few puzzles the percentile interval is too narrow, as one of a mean with the normal distribution and the
    variance divided by n would be.  It is expanded about its median by what Student's interval has over that one:
    sqrt(n / (n - 1)) t / z with n - 1 degrees of freedom (1.6 for 5 puzzles, 1.1 for 20).

    Clusters are drawn by their places: callers put puzzles into `value_order` first, so that the interval depends
    neither on the order in which they are given, nor on which way round a quantity is counted.

    References
    ----------
    Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69, 371.
    """
    check_confidence(confidence)
    if not resamples >= 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    if clusters < 2:
        shape = np.shape(statistic(np.ones(clusters)))
        return np.full(shape, np.nan), np.full(shape, np.nan)
    draws = resampled(clusters, resamples, seed)
    if together:
        blocks = np.array_split(draws, -(-draws.size // WEIGHTS_AT_ONCE))
        values = np.concatenate([statistic(block) for block in blocks])
    else:
        values = np.stack([np.asarray(statistic(w), float) for w in draws])
    defined = np.isfinite(values).mean(0) >= 0.5
    alpha = (1 - confidence) / 2
    low, middle, high = _nan_quantile(values, (alpha, 0.5, 1 - alpha))
    widen = np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, 1 - alpha) / ndtri(1 - alpha)
    low, high = middle - widen * (middle - low), middle + widen * (high - middle)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def resampled(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each cluster is drawn in every resample, (resamples, clusters); half of them are mirrored."""
    rng, chance = np.random.default_rng(nonnegative(seed)), np.full(clusters, 1 / clusters)
    half = rng.multinomial(clusters, chance, size=-(-resamples // 2)).astype(float)
    return np.concatenate((half, half[:, ::-1]))[:resamples]


def value_order(*values: np.ndarray) -> np.ndarray:
    """Return the order (puzzle,) of puzzles by their values (puzzle, ...), those of the first array first."""
    columns = np.concatenate([np.reshape(v, (len(v), -1)) for v in values], axis=1)
    return np.lexsort(columns.T[::-1])


def mean_where_defined(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the statistic "mean over the puzzles that define it" of values (..., puzzle), for `cluster_bootstrap`."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def statistic(weight: np.ndarray) -> np.ndarray:
        total = known @ weight
        return np.where(total > 0, filled @ weight / np.where(total > 0, total, 1), np.nan)

    return statistic


def mean_over_puzzles(
    values: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over puzzles of values (puzzle, ...), and bounds from resampling puzzles."""
    values = np.sort(np.asarray(values, float), axis=0)  # of a mean, the order of the puzzles has no meaning
    low, high = cluster_bootstrap(
        lambda w: np.tensordot(w, values, 1) / w.sum(),
        len(values),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return values.mean(0), low, high


def share_over_puzzles(
    share: np.ndarray,
    *,
    least: float = 0.0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over puzzles of shares (puzzle, ...) in [0, 1], and bounds from resampling puzzles.

    Notes
    -----
    With least = -1, for differences of shares.  Bounds of zero width are replaced by those of `widened`.  A single
    puzzle has no bounds (NaN).
    """
    mean, low, high = mean_over_puzzles(share, confidence=confidence, resamples=resamples, seed=seed)
    return mean, *widened(mean, low, high, len(share), confidence, least)


def widened(
    value: np.ndarray | float,
    low: np.ndarray | float,
    high: np.ndarray | float,
    puzzles: np.ndarray | int,
    confidence: float,
    least: float = 0.0,
    most: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of a mean over puzzles, clipped to its range; zero width is widened by the number of puzzles.

    Parameters
    ----------
    value, low, high
        The mean and its bounds from resampling puzzles; NaN bounds stay NaN.
    puzzles
        Number of puzzles that define the mean.
    least, most
        Range of a puzzle's value.

    Notes
    -----
    If all puzzles agree, resampling them cannot show how far the mean over all possible puzzles may be from theirs.
    With confidence 1 - alpha, at least alpha^(1/P) of all puzzles are like the P seen, whatever the others are.
    """
    edge = (1 - confidence) ** (1 / np.maximum(puzzles, 1))
    narrow = np.asarray(high) - low < 1e-3 * (most - least)
    low = np.where(narrow, np.minimum(low, value * edge + least * (1 - edge)), low)
    high = np.where(narrow, np.maximum(high, value * edge + most * (1 - edge)), high)
    return np.clip(low, least, most), np.clip(high, least, most)


def _nan_quantile(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over axis 0 that ignore NaN and are NaN where there is nothing else."""
    empty = ~np.isfinite(values).any(0)
    filled = np.where(empty, 0.0, values)
    return np.where(empty, np.nan, np.nanquantile(filled, levels, axis=0))
