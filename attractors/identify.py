"""Which trajectories ended at the same attractor: leader clustering of long-run states with error-aware radii."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.fate import CODE, decay_rate

BASE_RADIUS = 1e-3  # relative distance up to which two exact states are one attractor
ERROR_FACTOR = 3.0  # radii grow by this many times the estimated error of a state
RATE_CAP = 0.999  # a slower decay than this is not extrapolated further


class Clusters(NamedTuple):
    """Attractor number of each row (-1: none), most frequent first, and how many rows lie near a boundary."""

    label: np.ndarray
    ambiguous: int


def state_error(ensemble: xr.Dataset) -> np.ndarray:
    """Estimate how far each long-run state is from its attractor, relative to its scale, (puzzle, restart).

    A settled run is off by what a geometric decay still has to go; a recurrent or noisy one by its spread.
    """
    with np.errstate(invalid="ignore"):  # a nonfinite run has an infinite scale
        relative = ensemble.residual.values.astype(float) / ensemble.scale.values[:, :, None]
    puzzles, restarts, depth = relative.shape
    k = min(depth, 16)
    recent = np.nan_to_num(relative[:, :, -k:], nan=1.0, posinf=1.0).reshape(-1, k)
    rate = np.clip(decay_rate(recent) if k > 1 else np.zeros(len(recent)), 0, RATE_CAP).reshape(
        puzzles, restarts
    )
    left = np.nan_to_num(relative[:, :, -1], nan=1.0, posinf=1.0) / (1 - rate)
    noisy = float(ensemble.attrs.get("noise", 0)) > 0
    spread = ensemble.spread.values.astype(float)
    extended = (ensemble.fate.values == CODE["recurrent"]) | noisy
    epsilon = torch.finfo(getattr(torch, ensemble.attrs["dtype"])).eps
    return np.maximum(np.where(extended, spread, left), 4 * epsilon)


def attractor_rows(ensemble: xr.Dataset) -> np.ndarray:
    """Say which runs ended at an attractor, (puzzle, restart) bool: settled, periodic or recurrent."""
    return np.isin(ensemble.fate.values, [CODE[f] for f in ("settled", "periodic", "recurrent")])


def identify(ensemble: xr.Dataset) -> list[Clusters]:
    """Cluster the runs of every puzzle that ended at an attractor.

    Two runs share an attractor when their states are closer than the sum of their radii and, unless the attractor is a
    cycle, their answers agree.  Leaders are taken in the order of their error, so the result does not depend on the
    order of restarts beyond ties.

    Notes
    -----
    Cost: restarts x attractors distances of sketches, for each puzzle.
    """
    error, attracted = state_error(ensemble), attractor_rows(ensemble)
    clusters = []
    for p in range(ensemble.sizes["puzzle"]):
        rows = np.flatnonzero(attracted[p])
        size = ensemble.scale.values[p, rows].astype(float)
        kind = np.where(
            ensemble.fate.values[p, rows] == CODE["periodic"], -1 - ensemble.period.values[p, rows], 0
        )
        answer = np.where(kind < 0, kind, ensemble.answer_id.values[p, rows, -1])
        places = ensemble.sketch.values[p, rows].astype(float)
        label = np.full(ensemble.sizes["restart"], -1)
        label[rows], ambiguous = _leaders(places, size, error[p, rows], answer)
        clusters.append(Clusters(_by_frequency(label), ambiguous))
    return clusters


def _leaders(
    place: np.ndarray, size: np.ndarray, error: np.ndarray, answer: np.ndarray
) -> tuple[np.ndarray, int]:
    """Cluster places (n, F); return labels (n,) and the number of rows between one and three radii of a leader."""
    label = np.full(len(place), -1)
    near = np.zeros(len(place), bool)
    radius = (BASE_RADIUS / 2 + ERROR_FACTOR * error) * size
    order = np.argsort(radius, kind="stable")
    number = 0
    for leader in order:
        if label[leader] >= 0:
            continue
        distance = np.linalg.norm(place - place[leader], axis=1)
        reach = radius + radius[leader]
        same = answer == answer[leader]
        label[(label < 0) & same & (distance <= reach)] = number
        near |= same & (distance > reach) & (distance <= 3 * reach)
        number += 1
    return label, int(near.sum())


def _by_frequency(label: np.ndarray) -> np.ndarray:
    """Renumber labels, the most frequent first, ties by first restart; -1 stays."""
    values, first, inverse, counts = np.unique(
        label, return_index=True, return_inverse=True, return_counts=True
    )
    order = [i for i in np.lexsort((first, -counts)) if values[i] >= 0]
    rank = np.full(len(values), -1)
    rank[order] = np.arange(len(order))
    return rank[inverse]
