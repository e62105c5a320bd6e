"""Intervals and resampling: proportions, unseen mass, and bootstraps clustered by puzzle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

INTERVALS = ("wilson", "clopper-pearson", "jeffreys")


def proportion_interval(
    count: np.ndarray, total: np.ndarray | int, confidence: float = 0.95, method: str = "wilson"
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds for proportions count / total, elementwise.

    Parameters
    ----------
    count, total
        Successes and trials; with no trial at all the bounds are 0 and 1.
    confidence
        Coverage asked for, in (0, 1).
    method
        "wilson" (score interval, mean coverage near nominal), "clopper-pearson" (coverage never below nominal) or
        "jeffreys".

    Raises
    ------
    ValueError
        For counts outside 0..total, a confidence outside (0, 1) or an unknown method.

    References
    ----------
    Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion".

    Examples
    --------
    >>> low, high = proportion_interval(0, 64)
    >>> float(low), round(float(high), 4)
    (0.0, 0.0566)
    """
    k, n = np.broadcast_arrays(np.asarray(count, float), np.asarray(total, float))
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if ((k < 0) | (k > n)).any():
        raise ValueError("counts must lie between 0 and the total")
    alpha = 1 - confidence
    safe = np.maximum(n, 1)
    if method == "wilson":
        z = stats.norm.ppf(1 - alpha / 2)
        p, spread = k / safe, z**2 / safe
        centre = (p + spread / 2) / (1 + spread)
        half = z / (1 + spread) * np.sqrt(p * (1 - p) / safe + spread / (4 * safe))
        low, high = centre - half, centre + half
    elif method == "clopper-pearson":
        low = stats.beta.ppf(alpha / 2, np.maximum(k, 1e-300), n - k + 1)
        high = stats.beta.ppf(1 - alpha / 2, k + 1, np.maximum(n - k, 1e-300))
    elif method == "jeffreys":
        low = stats.beta.ppf(alpha / 2, k + 0.5, n - k + 0.5)
        high = stats.beta.ppf(1 - alpha / 2, k + 0.5, n - k + 0.5)
    else:
        raise ValueError(f"interval method {method!r} unknown; choose from {', '.join(INTERVALS)}")
    low, high = np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)
    return np.where(n == 0, 0.0, low), np.where(n == 0, 1.0, high)


def unseen_mass(
    singletons: np.ndarray, doubletons: np.ndarray, total: np.ndarray | int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Good-Turing estimate f1 / N of the mass of attractors not seen, and an upper bound.

    Parameters
    ----------
    singletons, doubletons, total
        Numbers f1 and f2 of attractors seen exactly once and twice, and of restarts N.

    Notes
    -----
    The bound is the larger of two one-sided limits: the binomial one of f1 out of N (exact for f1 = 0:
    1 - alpha^(1/N)), and the normal one with Esty's variance (f1 (1 - f1/N) + 2 f2) / N^2.

    References
    ----------
    Good 1953, "The population frequencies of species and the estimation of population parameters"; Esty 1983, "A
    normal limit law for a nonparametric estimator of the coverage of a random sample".
    """
    f1, f2, n = np.broadcast_arrays(*(np.asarray(v, float) for v in (singletons, doubletons, total)))
    trials = np.maximum(n, 1)
    binomial = stats.beta.ppf(confidence, f1 + 1, np.maximum(n - f1, 1e-300))
    normal = (f1 + stats.norm.ppf(confidence) * np.sqrt(f1 * (1 - f1 / trials) + 2 * f2)) / trials
    return f1 / trials, np.where(f1 >= n, 1.0, np.clip(np.maximum(binomial, normal), 0, 1))


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    clusters: int,
    *,
    confidence: float = 0.95,
    resamples: int = 400,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return percentile bounds of a statistic when whole clusters (puzzles) are drawn with replacement.

    Parameters
    ----------
    statistic
        Maps cluster weights (clusters,), how often each was drawn, to values of any shape; NaN where undefined.
    clusters
        Number of puzzles.

    Returns
    -------
    low, high
        Of the shape of the statistic; NaN where fewer than half of the resamples define it, or with fewer than two
        clusters.  With up to 30 puzzles the percentile interval is somewhat too narrow; it is widened by the factor
        sqrt(n / (n - 1)) about its median.
    """
    if clusters < 2:
        shape = np.shape(statistic(np.ones(clusters)))
        return np.full(shape, np.nan), np.full(shape, np.nan)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    values = np.stack([np.asarray(statistic(w.astype(float)), float) for w in draws])
    defined = np.isfinite(values).mean(0) >= 0.5
    alpha = (1 - confidence) / 2
    low, middle, high = _nan_quantile(values, (alpha, 0.5, 1 - alpha))
    widen = np.sqrt(clusters / (clusters - 1))
    low, high = middle - widen * (middle - low), middle + widen * (high - middle)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def share_over_puzzles(
    share: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over puzzles of shares (puzzle, ...) in [0, 1], and bounds from resampling puzzles.

    Notes
    -----
    Where all puzzles agree, resampling them cannot tell how far the share of all puzzles may be from theirs.  With
    confidence 1 - alpha, at least alpha^(1/P) of all puzzles are like the P seen, whatever the others are: bounds
    without width are set that wide.  A single puzzle has none (NaN).
    """
    share = np.asarray(share, float)
    mean, puzzles = share.mean(0), len(share)
    low, high = cluster_bootstrap(
        lambda w: np.tensordot(w, share, 1) / w.sum(),
        puzzles,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    edge = (1 - confidence) ** (1 / puzzles)
    narrow = high - low < 1e-3
    low = np.where(narrow, np.minimum(low, mean * edge), low)
    high = np.where(narrow, np.maximum(high, mean + (1 - mean) * (1 - edge)), high)
    return mean, np.clip(low, 0, 1), np.clip(high, 0, 1)


def _nan_quantile(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over axis 0 that ignore NaN and are NaN where there is nothing else."""
    empty = ~np.isfinite(values).any(0)
    filled = np.where(empty, 0.0, values)
    return np.where(empty, np.nan, np.nanquantile(filled, levels, axis=0))


class PooledAuc:
    """AUC of a score for an event, pooled over puzzles, as a function of puzzle weights.

    Parameters
    ----------
    score, event
        (puzzle, restart): a number, and whether the event (a wrong answer) happened.  NaN scores rank highest.

    Notes
    -----
    wins[p, q] counts pairs of an event in puzzle p and a non-event in puzzle q with the higher score at the event, ties
    half; the weighted AUC is a ratio of quadratic forms in the weights, so that resampling puzzles is cheap.
    """

    def __init__(self, score: np.ndarray, event: np.ndarray):
        score = np.where(np.isnan(score), np.inf, score)
        puzzles = len(score)
        self.events, self.others = event.sum(1).astype(float), (~event).sum(1).astype(float)
        self.wins = np.zeros((puzzles, puzzles))
        values, owner = score[event], np.repeat(np.arange(puzzles), event.sum(1))
        for q in range(puzzles):
            below = np.sort(score[q][~event[q]])
            count = np.searchsorted(below, values, "left") + np.searchsorted(below, values, "right")
            self.wins[:, q] = np.bincount(owner, count / 2, minlength=puzzles)

    def __call__(self, weight: np.ndarray) -> float:
        """Return the AUC under puzzle weights, NaN when one side is empty."""
        pairs = (weight @ self.events) * (weight @ self.others)
        return float(weight @ self.wins @ weight / pairs) if pairs > 0 else float("nan")

    def within(self) -> np.ndarray:
        """Return the AUC within each puzzle, NaN where all its restarts are right or all wrong."""
        pairs = self.events * self.others
        return np.where(pairs > 0, np.diag(self.wins) / np.where(pairs > 0, pairs, 1), np.nan)


class PooledSpearman:
    """Spearman's rank correlation of two numbers (puzzle, restart), pooled, as a function of puzzle weights."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self.restarts = a.shape[1]
        self.groups = [np.unique(v.reshape(-1), return_inverse=True)[1].reshape(-1) for v in (a, b)]

    def __call__(self, weight: np.ndarray) -> float:
        """Return the correlation of weighted midranks, NaN when one side is constant."""
        w = np.repeat(weight, self.restarts) / (weight.sum() * self.restarts)
        centred = []
        for group in self.groups:
            mass = np.bincount(group, w)
            rank = (np.cumsum(mass) - mass / 2)[group]
            centred.append(rank - (w * rank).sum())
        variance = [(w * c**2).sum() for c in centred]
        if min(variance) <= 1e-12:
            return float("nan")
        return float((w * centred[0] * centred[1]).sum() / np.sqrt(variance[0] * variance[1]))
