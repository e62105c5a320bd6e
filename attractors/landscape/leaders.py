"""Leader clustering of the runs of one puzzle: places, cycles and recurrent sets, each by its own distance."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from eqrlab.attractors.ensemble.recipe import FEATURES
from eqrlab.attractors.ensemble.runs import Runs
from eqrlab.attractors.fates.clouds import APART, SAME, apart

ERROR_FACTOR = 3.0  # radii grow by this many times the estimated error of a state
BORDER = 3.0  # a pair up to this many radii apart may belong together
SKETCH_ERROR = 1.3  # three standard deviations of the length of a projection to 64 numbers
ORBIT_ERROR = 3.0  # how much shorter a length may come out in a projection to 8 numbers
BLUNT = 0.5  # a cycle known no better than to this share of its own radius is not told from others
CYCLE, SET = -1, -2  # groups of runs that are compared whatever their answers


class Leaders:
    """Leader clustering of runs; attributes as in `identify.Clusters`, leaders unsorted.

    Parameters
    ----------
    group
        (n,) group of each run; runs of different groups never share an attractor.  The number of the answer if the
        long-run state is a single place; otherwise `CYCLE` or `SET`.
    vague
        (n,) runs that are in doubt in any set; such a run leads a set only if it is alone in it.
    """

    def __init__(self, runs: Runs, group: np.ndarray, vague: np.ndarray | None = None):
        self.runs, self.group, count = runs, group, len(runs)
        self.radius = (runs.resolution / 2 + ERROR_FACTOR * runs.error) * runs.scale
        vague = np.zeros(count, bool) if vague is None else vague
        self.label = np.full(count, -1)
        self.doubtful, self.alone, shared = (np.zeros(count, bool) for _ in range(3))
        self.leader: list[int] = []
        most: list[int] = []
        for lead in np.lexsort((runs.restart, np.round(np.log(self.radius), 1), vague)):
            if self.label[lead] >= 0:
                continue
            rows = np.flatnonzero(group == group[lead])
            ratio, sure = self._compare(lead, rows)
            inside, free = ratio <= 1, self.label[rows] < 0
            near = ~inside & (ratio <= BORDER)
            loose = inside & free & ((ratio > sure) | vague[rows])
            self.label[rows[inside & free]] = len(self.leader)
            self.doubtful[rows[near | (inside & ~free) | loose]] = True
            self.alone[rows[loose]] = True
            shared[rows[inside & ~free]] = True  # within reach of two leaders
            most.append(int((inside | near).sum()))
            self.leader.append(int(lead))
        sure = np.bincount(self.label[~self.alone & ~shared], minlength=len(self.leader))
        self.fewest, self.most = np.maximum(sure, 1), np.array(most)  # a leader is its own

    def _compare(self, lead: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances of rows from a leader, divided by the distance up to which they belong to it.

        Returns
        -------
        ratio, sure
            (m,) up to 1: inside; and up to what ratio that is beyond doubt.
        """
        if self.group[lead] == SET:
            return self._of_sets(lead, rows)
        reach = self.radius[rows] + self.radius[lead]
        if self.group[lead] == CYCLE and self.runs.orbit.shape[1]:
            return self._of_cycles(lead, rows, reach)
        distance, blurred = self._distances(lead, rows)
        ratio = distance / reach
        if self.group[lead] == CYCLE:
            ratio = np.where(self.runs.period[rows] == self.runs.period[lead], ratio, np.inf)
        return ratio, np.where(blurred, 1 / SKETCH_ERROR, 1.0)

    def _of_cycles(self, lead: int, rows: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        runs = self.runs
        mine = states_of(runs.orbit[lead])
        distance = np.array([set_distance(states_of(runs.orbit[row]), mine) for row in rows])
        ratio = distance / reach
        other = runs.period[rows] != runs.period[lead]
        ratio = np.where(other & (ratio <= 1), 1 + 1e-9, ratio)  # as near as one, but not one
        sure = np.full(len(rows), 1.0 if runs.place.shape[1] == mine.shape[1] else 1 / ORBIT_ERROR)
        radius = np.sqrt(mine.var(0).sum())
        return ratio, np.where(reach > BLUNT * radius, 0.0, sure)

    def _of_sets(self, lead: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        runs = self.runs
        finest = runs.resolution[lead] * runs.scale[lead]
        mine, free = states_of(runs.orbit[lead]), self.label[rows] < 0
        found = np.full(len(rows), np.inf)
        for i in np.flatnonzero(free):
            found[i] = 0.0 if rows[i] == lead else apart(mine, states_of(runs.orbit[rows[i]]), finest)
        return (found / APART) ** 2, np.full(len(rows), (SAME / APART) ** 2)

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


def states_of(orbit: np.ndarray) -> np.ndarray:
    """Return the states (m, G) of an orbit (K, G), without the NaN behind them."""
    return orbit[np.isfinite(orbit).all(1)]


def set_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance of a state of either set (n, G), (m, G) from the other set.

    Examples
    --------
    >>> set_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [0.1]]))
    0.1
    """
    distance = cdist(a, b)
    return float(max(distance.min(0).max(), distance.min(1).max()))
