"""Records of orbits while they are followed, and the decision when the fate of an orbit is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eqrlab.attractors.fates.fate import LEAST_SCALE, Tolerances, answer_window
from eqrlab.attractors.fates.orbits import RATE_CAP
from eqrlab.attractors.statistics.trends import TAIL, decay_rate

LOOKS = 4  # steps between two looks for a return


class Arrival(NamedTuple):
    """Known attractors of n rows: sketches (n, F), their answers' codes (n,), and how near (n,) counts as arrived."""

    sketch: np.ndarray
    code: np.ndarray
    within: np.ndarray

    def take(self, rows: np.ndarray) -> Arrival:
        """Return some of the rows."""
        return Arrival(*(values[rows] for values in self))

    def reached(self, short: np.ndarray, code: np.ndarray) -> np.ndarray:
        """Return which states (n,), by their sketches and the codes of their answers, are there."""
        return (np.linalg.norm(short - self.sketch, axis=1) <= self.within) & (code == self.code)


class History:
    """Records of n rows over `depth` steps, and which of the rows are decided.

    Parameters
    ----------
    near
        Relative residual from which on a row is taken to stay where it is; the numerical floor if that is larger.
    arrival
        Where rows are taken to stay as well.
    """

    def __init__(
        self, n: int, depth: int, k: int, features: tuple[int, int], kind: np.dtype, epsilon: float,
        tolerances: Tolerances, near: float = 0.0, arrival: Arrival | None = None,
    ):  # fmt: skip
        self.residual = np.full((n, depth), np.nan)
        self.update, self.size = np.full((n, depth), np.nan), np.full((n, depth), np.nan)
        self.code = np.zeros((n, depth), np.int64)
        self.ring = np.full((n, k, features[0]), np.nan)
        self.trace = np.full((n, depth, features[1]), np.nan, kind)
        self.answer: np.ndarray | None = None
        self.escaped, self.largest = np.zeros(n, bool), np.zeros(n)
        self.steps, self.lag = np.zeros(n, np.int32), np.ones(n, np.int32)
        self.depth, self.k, self.epsilon = depth, k, epsilon
        self.floor, self.window = max(tolerances.numerical_floor(epsilon), near), answer_window(depth)
        self.arrival = arrival

    def see(
        self, rows: np.ndarray, t: int, answer: np.ndarray, code: np.ndarray, lengths: np.ndarray, short: np.ndarray,
        coarse: np.ndarray, bound: float, deterministic: bool,
    ) -> np.ndarray:  # fmt: skip
        """Record step t of these rows; return which of them (bool) are decided.

        Parameters
        ----------
        code
            (n,) numbers that are equal where answers mean the same.
        lengths
            (3, n): norms of the noise-free residual, of the last update, and of the state.
        short, coarse
            (n, F) sketches, and fewer numbers of each for the trace.
        """
        residual, update, size = lengths
        if self.answer is None:
            self.answer = np.zeros((len(self.residual), answer.shape[1]), answer.dtype)
        self.answer[rows] = answer
        self.code[rows, t - 1] = code.view(np.int64)
        self.residual[rows, t - 1], self.update[rows, t - 1], self.size[rows, t - 1] = residual, update, size
        self.ring[rows, (t - 1) % self.k], self.trace[rows, t - 1] = short, coarse
        self.steps[rows] = t
        finite = np.isfinite(size) & np.isfinite(residual)
        self.largest[rows] = np.fmax(self.largest[rows], size)
        out = ~finite | (size > bound)
        self.escaped[rows] = out & ~np.isnan(size)
        lost = rows[out]
        self.residual[lost, t - 1] = np.nan
        if not deterministic or t < self.window:
            return out
        limit = self.floor * np.maximum(size, LEAST_SCALE * self.largest[rows])
        recent = self.code[rows, t - self.window : t]
        still = residual <= limit
        if self.arrival is not None:
            still |= self.arrival.take(rows).reached(short, self.code[rows, t - 1])
        lag = np.where(finite & still & (recent == recent[:, -1:]).all(1), 1, 0)
        if t % LOOKS == 0:
            lag = np.where(lag == 0, self._return(rows, t, short, limit), lag)
        lag[out] = 1
        self.lag[rows] = np.maximum(lag, 1)
        return lag > 0

    def _return(self, rows: np.ndarray, t: int, short: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Return the smallest p >= 2 after which states are back within the floor, answers too; 0: none."""
        lag = np.zeros(len(rows), np.int32)
        for p in range(2, min(self.k // 2, t // 2) + 1):
            before = self.ring[rows, (t - 1 - p) % self.k]
            with np.errstate(invalid="ignore"):
                back = np.linalg.norm(short - before, axis=1) <= limit
            back &= (self.code[rows, t - p : t] == self.code[rows, t - 2 * p : t - p]).all(1)
            lag[back & (lag == 0)] = p
        return lag

    def records(self) -> dict[str, np.ndarray]:
        """Return the histories over all steps: rows that left early repeat their last `lag` steps."""
        time = np.arange(self.depth)
        t, lag = self.steps[:, None], self.lag[:, None]
        source = np.where(time < t, time, t - lag + (time - t) % lag)
        row = np.arange(len(source))[:, None]
        last = np.clip(t - TAIL + np.arange(TAIL), 0, None)
        recent = np.nan_to_num(self.residual[row, last], nan=1.0)
        assert self.answer is not None
        return {
            "residual": self.residual[row, source], "update": self.update[row, source],
            "size": self.size[row, source], "code": self.code[row, source],
            "ring": self.ring[row, source[:, -self.k :] % self.k], "trace": self.trace[row, source],
            "answer": self.answer, "steps": self.steps, "lag": self.lag,
            "rate": np.clip(decay_rate(recent), 0.0, RATE_CAP), "escaped": self.escaped,
            "epsilon": np.full(len(source), self.epsilon),
        }  # fmt: skip
