"""Rank statistics pooled over puzzles, from counts that can be resampled."""

from __future__ import annotations

import numpy as np


class PooledAuc:
    """AUC of a score for an event, pooled over puzzles, as a function of puzzle weights.

    Parameters
    ----------
    score, event
        (puzzle, restart): a number, and whether the event (a wrong answer) happened.  NaN scores rank highest.
    known
        (puzzle, restart) bool: runs there are; None: all.

    Notes
    -----
    wins[p, q] counts pairs of an event in puzzle p and a non-event in puzzle q with the higher score at the event, ties
    half; the weighted AUC is a ratio of quadratic forms in the weights, so that resampling puzzles is cheap.
    """

    def __init__(self, score: np.ndarray, event: np.ndarray, known: np.ndarray | None = None):
        other = ~event if known is None else ~event & known
        event = event if known is None else event & known
        score = np.where(np.isnan(score), np.inf, score)
        puzzles = len(score)
        self.events, self.others = event.sum(1).astype(float), other.sum(1).astype(float)
        self.wins = np.zeros((puzzles, puzzles))
        values, owner = score[event], np.repeat(np.arange(puzzles), event.sum(1))
        for q in range(puzzles):
            below = np.sort(score[q][other[q]])
            count = np.searchsorted(below, values, "left") + np.searchsorted(below, values, "right")
            self.wins[:, q] = np.bincount(owner, count / 2, minlength=puzzles)

    def __call__(self, weight: np.ndarray) -> float:
        """Return the AUC under puzzle weights, NaN when one side is empty."""
        pairs = (weight @ self.events) * (weight @ self.others)
        return float(weight @ self.wins @ weight / pairs) if pairs > 0 else float("nan")

    def across(self, weight: np.ndarray) -> float:
        """Return the AUC of pairs from different puzzles under puzzle weights, NaN when there are none."""
        own, pairs = np.diag(self.wins), self.events * self.others
        count = (weight @ self.events) * (weight @ self.others) - weight**2 @ pairs
        return (
            float((weight @ self.wins @ weight - weight**2 @ own) / count) if count > 1e-9 else float("nan")
        )

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
