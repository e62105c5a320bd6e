"""How rough the borders between basins are: basin entropy and uncertainty exponent of a labelled plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # distances, in cells, at which labels are compared
LEAST_LAGS = 4  # a slope through fewer uncertain shares is not given
TILES = 8  # along a side: pieces of the plane that are drawn with replacement


def box_entropies(labels: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gibbs entropy of the labels in each box of box x box cells, and whether a border runs through it.

    Parameters
    ----------
    labels
        (rows, columns) integers; rows and columns beyond whole boxes are left out.
    """
    rows, columns = (n // box for n in labels.shape)
    if not rows or not columns:
        return np.zeros(0), np.zeros(0, bool)
    cut = labels[: rows * box, : columns * box].reshape(rows, box, columns, box).swapaxes(1, 2)
    flat = np.sort(cut.reshape(rows * columns, box * box), axis=1)
    entropy = np.zeros(len(flat))
    run = np.ones(len(flat))  # length of the run of equal labels that ends here
    for i in range(1, box * box + 1):
        ends = np.ones(len(flat), bool) if i == box * box else flat[:, i] != flat[:, i - 1]
        share = run / box**2
        entropy -= np.where(ends, share * np.log(share), 0.0)
        run = np.where(ends, 1.0, run + 1)
    return entropy, flat[:, 0] != flat[:, -1]


def basin_entropy(
    labels: np.ndarray, box: int, confidence: float = 0.95, seed: int = 0
) -> tuple[Interval, Interval]:
    """Return the mean entropy of all boxes, and of those through which a border runs (boundary entropy), in nats.

    Notes
    -----
    Intervals resample boxes.  With 0 borders the boundary entropy is NaN.  A boundary entropy above ln 2 proves a
    border that is not smooth (Daza et al. 2016); the converse does not hold.

    Examples
    --------
    >>> halves = np.repeat([[0, 1]], 4, axis=0).repeat([2, 2], axis=1)
    >>> round(basin_entropy(halves, 4)[0].value, 4)  # one box, half and half: ln 2
    0.6931
    """
    entropy, border = box_entropies(labels, box)
    if not len(entropy):
        return Interval(np.nan, np.nan, np.nan), Interval(np.nan, np.nan, np.nan)

    def means(weight: np.ndarray) -> np.ndarray:
        on_border = weight @ border
        total = weight @ entropy
        return np.array([total / weight.sum(), total / on_border if on_border else np.nan])

    value = means(np.ones(len(entropy)))
    low, high = cluster_bootstrap(means, len(entropy), confidence=confidence, seed=seed)
    everywhere, at_border = (Interval(*map(float, ends)) for ends in zip(value, low, high, strict=True))
    return everywhere, at_border


class Exponent(NamedTuple):
    """The uncertainty exponent, and the distances (in cells) and shares of uncertain cells it was fitted to."""

    exponent: Interval
    lag: np.ndarray
    uncertain: np.ndarray


def uncertainty_exponent(labels: np.ndarray, confidence: float = 0.95, seed: int = 0) -> Exponent:
    """Fit f(epsilon) ~ epsilon^alpha, the share of cells that have another label at +-epsilon along an axis.

    Parameters
    ----------
    labels
        (rows, columns) integers.

    Notes
    -----
    The same cells (an eighth of the plane away from its sides) are compared at every distance, along either axis.
    The slope is that of least squares on the logarithms.  Its interval is the union of the t interval of the
    regression, which says how straight the line is, and of one from resampling 8 x 8 tiles of the plane, which says
    how much it hangs on where one looks.  NaN where fewer than four distances have uncertain cells: without borders,
    or with fewer than 32 cells along a side.  Distances below a cell are not seen: for these, take a smaller plane.

    References
    ----------
    Grebogi, McDonald, Ott & Yorke 1983, "Final state sensitivity: an obstruction to predictability", Phys. Lett. A
    99, 415.
    """
    rows, columns = labels.shape
    reach = min(rows, columns) // 8
    lags = np.array([lag for lag in LAGS if lag <= reach], int)
    if len(lags) < LEAST_LAGS:
        return Exponent(Interval(np.nan, np.nan, np.nan), lags, np.full(len(lags), np.nan))
    m = int(lags[-1])
    core = labels[m : rows - m, m : columns - m]
    count = []
    for lag in lags:
        moved = [
            labels[m + a : rows - m + a, m + b : columns - m + b]
            for a, b in ((lag, 0), (-lag, 0), (0, lag), (0, -lag))
        ]
        differs = [other != core for other in moved]
        count.append((differs[0] | differs[1]) * 0.5 + (differs[2] | differs[3]) * 0.5)
    tile = (np.arange(core.shape[0]) * TILES // core.shape[0])[:, None] * TILES
    tile = tile + np.arange(core.shape[1]) * TILES // core.shape[1]
    sums = np.stack([np.bincount(tile.ravel(), c.ravel(), TILES**2) for c in count], 1)
    cells = np.bincount(tile.ravel(), minlength=TILES**2)
    uncertain = sums.sum(0) / cells.sum()

    def slope(weight: np.ndarray) -> float:
        share = weight @ sums / (weight @ cells)
        return _regression(lags, share)[0]

    value, half = _regression(lags, uncertain, confidence)
    low, high = cluster_bootstrap(slope, TILES**2, confidence=confidence, seed=seed)
    ends = np.fmin(value - half, low), np.fmax(value + half, high)
    return Exponent(Interval(value, float(ends[0]), float(ends[1])), lags, uncertain)


def _regression(lags: np.ndarray, share: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the slope of log share against log lag and half the width of its t interval."""
    used = share > 0
    n = int(used.sum())
    if n < LEAST_LAGS:
        return np.nan, np.nan
    x, y = np.log(lags[used]), np.log(share[used])
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = np.sqrt(rest @ rest / (n - 2) / (x @ x))
    return slope, float(stdtrit(n - 2, (1 + confidence) / 2) * error)
