"""Bounded recurrent sets, chaotic or quasi-periodic, recognised from states that are sampled from runs on them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

SAME = 1.75  # two clouds are surely of one set up to this ratio of distances
APART = 3.0  # and of two sets beyond this one
DENSE = 0.3  # a cloud shows a set when its states are so near to one another, relative to its radius
TURNED = 1 / 8  # and no farther from the states of other times, so far away as a share of the run,
BACK = 3.0  # than this many times the distance to the nearest of all
FINEST = 0.02  # distances below this share of a radius are not told apart
FLAT = 1e-3  # directions in which a cloud is thinner than this share of its radius are not stretched further
NEIGHBOUR = 3  # distances are taken to the third nearest state: the first may be near by chance or resonance
LEAST = 64  # states below which nothing is told from a cloud


def recurs(cloud: np.ndarray, resolution: float) -> bool:
    """Return whether states (N, G) in the order of time show a set to which the run keeps coming back.

    The two halves of the run must fill the same set, as if they were two runs, and fill it densely: the median distance
    to the nearest state of the other half is at most 0.3 of the root mean square radius.  The run must also have come
    back from elsewhere: if states of other times are much farther than the nearest ones, it is creeping along, and the
    set is not known.

    Parameters
    ----------
    resolution
        Distance below which states are the same.
    """
    if len(cloud) < LEAST or not np.isfinite(cloud).all():
        return False
    radius = np.sqrt(cloud.var(0).sum())
    first, second = np.array_split(cloud, 2)
    spacing = max(np.median(cKDTree(a).query(b)[0]) for a, b in ((first, second), (second, first)))
    distance, time = cdist(cloud, cloud), np.arange(len(cloud))
    apart_in_time = np.abs(time[:, None] - time)
    nearest, elsewhen = (
        np.median(np.where(apart_in_time >= lag, distance, np.inf).min(1)) for lag in (1, TURNED * len(cloud))
    )
    turned = elsewhen <= BACK * nearest or nearest <= resolution
    dense = spacing <= max(DENSE * radius, resolution)
    return bool(dense and turned and apart(first, second, resolution) <= SAME)


def apart(a: np.ndarray, b: np.ndarray, resolution: float) -> float:
    """Return how far apart two clouds (N, G), (M, G) are: about 1 or less for two runs on the same set.

    Notes
    -----
    The median distance from the states of one cloud to the nearest state of the other is divided by the median distance
    of the other cloud's states to their own nearest ones; the larger of the two directions counts.  Attractors are
    disjoint closed sets: with enough states, the ratio of two attractors exceeds any bound, while that of two runs on
    the same set stays bounded.

    Both clouds are first stretched so that their mean scatter is the same in all directions, down to a thousandth of
    the radius.  A direction in which neither set moves then separates them, however large they are in other directions.
    """
    size = a.shape[1]
    scatter = (np.cov(a.T) + np.cov(b.T)).reshape(size, size) / 2
    value, vector = np.linalg.eigh(scatter)
    total = max(float(value.sum()), 0.0)
    if total <= resolution**2:
        return float(np.linalg.norm(a.mean(0) - b.mean(0)) / max(resolution, 1e-300))
    stretch = vector / np.sqrt(np.maximum(value, FLAT**2 * total))
    finest = max(resolution / np.sqrt(total), FINEST * np.sqrt(min(size, 2)))
    a, b = a @ stretch, b @ stretch
    trees = cKDTree(a), cKDTree(b)
    k = NEIGHBOUR
    own = [max(np.median(t.query(x, k=[k + 1])[0]), finest) for t, x in zip(trees, (a, b), strict=True)]
    cross = [t.query(x, k=k)[0] for t, x in zip(trees, (b, a), strict=True)]
    middle = max(np.median(d[:, -1]) / o for d, o in zip(cross, own, strict=True))
    gap = max(np.quantile(d[:, 0], 0.1) / o for d, o in zip(cross, own, strict=True))
    return float(max(middle, APART * gap))
