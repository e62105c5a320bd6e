"""Which trajectories ended at the same attractor: leader clustering of long-run states with error-aware radii."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from eqrlab.attractors.ensemble.fate import CODE
from eqrlab.attractors.ensemble.runs import Runs
from eqrlab.attractors.ensemble.sample import FEATURES

ERROR_FACTOR = 3.0  # radii grow by this many times the estimated error of a state
BORDER = 3.0  # a pair up to this many radii apart may belong together
SKETCH_ERROR = 1.3  # three standard deviations of the length of a projection to 64 numbers


class Clusters(NamedTuple):
    """Attractors of one puzzle.

    Attributes
    ----------
    label
        Attractor of each run (n,), the most frequent first, -1: none.
    fewest, most
        Members of each attractor (A,) if every doubtful merge is undone, and if all that may belong to it does.
    doubtful
        Runs (n,) whose attractor is in doubt.
    alone
        Doubtful runs (n,) that may each be an attractor not counted.
    dynamical
        For each attractor (A,), its number when states alone count.
    """

    label: np.ndarray
    fewest: np.ndarray
    most: np.ndarray
    doubtful: np.ndarray
    alone: np.ndarray
    dynamical: np.ndarray

    @property
    def ambiguous(self) -> int:
        """Number of runs whose attractor is in doubt."""
        return int(self.doubtful.sum())


def identify(runs: Runs) -> Clusters:
    """Cluster the runs of one puzzle that ended at an attractor.

    Two runs share an attractor when their states are closer than the sum of their radii and, unless the attractor is a
    cycle, their answers agree.  A radius is half the resolution plus three times the estimated error of the state.

    Notes
    -----
    Leaders are taken by their error and, where errors are alike, by the number of the restart: the result does not
    depend on the order of the rows, the batch size or the device.

    A pair is borderline when it is one to three radii apart, when a run is within reach of two leaders, or when the
    distance is known only from sketches and these may be off by as much.  Where final states of settled runs were kept
    their distances are taken in full.  What remains is in doubt, and is carried into the intervals.

    Cost: restarts x attractors distances of sketches.
    """
    rows = np.flatnonzero(runs.attracted)
    label = np.full(len(runs), -1)
    doubtful, alone = np.zeros(len(runs), bool), np.zeros(len(runs), bool)
    if not len(rows):
        none = np.zeros(0, int)
        return Clusters(label, none, none, doubtful, alone, none)
    one = runs.take(rows)
    kind = np.where(one.fate == CODE["periodic"], -1 - one.period, 0)
    codes = np.unique(one.answer, axis=0, return_inverse=True)[1].reshape(-1)
    found = _Leaders(one, np.where(kind < 0, kind, codes))
    number = _by_frequency(found.label, one.restart)
    order = np.argsort(number)
    label[rows], doubtful[rows], alone[rows] = number[found.label], found.doubtful, found.alone
    places, reach = one.place[found.leader][order], found.radius[found.leader][order]
    same = cdist(places, places) <= reach[:, None] + reach
    same &= kind[found.leader][order][:, None] == kind[found.leader][order]
    groups = connected_components(csr_array(same), directed=False)[1]
    return Clusters(label, found.fewest[order], found.most[order], doubtful, alone, in_order(groups))


class _Leaders:
    """Leader clustering of rows with places, radii and answers; attributes as in `Clusters`, leaders unsorted."""

    def __init__(self, runs: Runs, answer: np.ndarray):
        self.runs, count = runs, len(runs)
        self.radius = (runs.resolution / 2 + ERROR_FACTOR * runs.error) * runs.scale
        self.label = np.full(count, -1)
        self.doubtful, self.alone, shared = (np.zeros(count, bool) for _ in range(3))
        self.leader: list[int] = []
        most: list[int] = []
        for lead in np.lexsort((runs.restart, np.round(np.log(self.radius), 1))):
            if self.label[lead] >= 0:
                continue
            rows = np.flatnonzero(answer == answer[lead])
            distance, blurred = self._distances(lead, rows)
            reach = self.radius[rows] + self.radius[lead]
            inside, free = distance <= reach, self.label[rows] < 0
            near = ~inside & (distance <= BORDER * reach)
            loose = inside & free & blurred & (distance > reach / SKETCH_ERROR)
            self.label[rows[inside & free]] = len(self.leader)
            self.doubtful[rows[near | (inside & ~free) | loose]] = True
            self.alone[rows[loose]] = True
            shared[rows[inside & ~free]] = True  # within reach of two leaders
            most.append(int((inside | near).sum()))
            self.leader.append(int(lead))
        sure = np.bincount(self.label[~self.alone & ~shared], minlength=len(self.leader))
        self.fewest, self.most = np.maximum(sure, 1), np.array(most)  # a leader is its own

    def _distances(self, lead: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of rows from a leader, and which of them are known from sketches only."""
        runs = self.runs
        distance = np.linalg.norm(runs.place[rows] - runs.place[lead], axis=1)
        blurred = np.full(len(rows), runs.place.shape[1] >= FEATURES)
        if runs.state.shape[1] and blurred.any() and runs.exact[lead]:
            reach = self.radius[rows] + self.radius[lead]
            close = (distance > reach / SKETCH_ERROR) & (distance <= SKETCH_ERROR * BORDER * reach)
            check = np.flatnonzero(close & runs.exact[rows])
            apart = runs.state[rows[check]].astype(float) - runs.state[lead].astype(float)
            distance[check], blurred[check] = np.linalg.norm(apart, axis=1), False
        return distance, blurred


def in_order(groups: np.ndarray) -> np.ndarray:
    """Renumber labels (A,) in the order of their first appearance.

    Examples
    --------
    >>> in_order(np.array([7, 2, 7])).tolist()
    [0, 1, 0]
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _by_frequency(label: np.ndarray, restart: np.ndarray) -> np.ndarray:
    """Return the new number of each label 0, 1, ...: the most frequent first, ties by their first restart."""
    counts = np.bincount(label)
    first = np.full(len(counts), np.iinfo(np.int64).max)
    np.minimum.at(first, label, restart)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(counts), int)
    rank[order] = np.arange(len(counts))
    return rank
