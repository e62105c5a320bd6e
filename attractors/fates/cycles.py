"""Cycles in the traces of runs: states that return after p steps, and states that only nearly return."""

from __future__ import annotations

import numpy as np

from eqrlab.attractors.statistics.trends import way_left

SEEN = 3  # a period is looked for where the run shows it this many times
CLOSING = 10.0  # times this far away a return may be that closes in geometrically
QUICK = 0.3  # returns that close in by this factor a turn are no slow passage
FALLS = 8  # turns in which returns fall one after the other on the way to a cycle, ...
FALLEN = 0.9  # ... and the share to which they fall meanwhile
HALFWAY = 0.5  # and at most this far from returning, relative to the nearest other state in between
TURNS = 16  # most turns over which returns are followed to see whether they add up
NUMBERS = 2**22  # of a trace that are looked at together


def longest_period(steps: int) -> int:
    """Return the longest period that this many steps show three times."""
    return steps // SEEN


def find_period(
    trace: np.ndarray, recurrence: float, floor: float = 0.0, drift: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimal period >= 2 of each row of states, and which rows only pass near a cycle.

    Parameters
    ----------
    trace
        States, or projections of them to a few numbers, (n, D, F): all steps of the runs, or the last ones.
    recurrence
        States p apart are the same when they are closer than this share of the distance to the nearest other state in
        between.
    floor
        Distance, relative to the size of the trace, that rounding can cause in one step; over p steps sqrt(p) of it.
    drift
        Successive returns whose sum is at least this share of their path length are a motion in one direction.

    Returns
    -------
    tuple
        period (n,), 0 where there is none; passing (n,) bool: states nearly return, but each time a little further on,
        or come nearer at every turn and are still far from returning.

    Notes
    -----
    A period must be seen three times, 3 p <= D, and the distances of the returns must be at the floor, shrink
    geometrically, or hover without a trend.  A run in the bottleneck of a cycle that is about to be born returns as
    closely, but its displacements add up.  A run that a cycle slowly attracts shows returns that fall at every turn,
    over the last half of the turns and at least 8 of them, either geometrically or to alternating sides.  Cost: the
    distances of the last state from the D / 3 states before it, and more only if one of them is near.
    """
    n, depth, features = trace.shape
    period, passing = np.zeros(n, np.int32), np.zeros(n, bool)
    if longest_period(depth) < 2:
        return period, passing
    at_once = max(1, NUMBERS // (depth * features))
    for start in range(0, n, at_once):
        piece = slice(start, start + at_once)
        period[piece], passing[piece] = _find(trace[piece], recurrence, floor, drift)
    return period, passing


def _find(trace: np.ndarray, recurrence: float, floor: float, drift: float) -> tuple[np.ndarray, np.ndarray]:
    n, depth, _ = trace.shape
    longest = longest_period(depth)
    period, hovering, passing = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, bool)
    recent = trace[:, -longest - 1 :]
    rounding = floor * np.sqrt((recent**2).sum(2).mean(1))
    back = np.linalg.norm(recent[:, -2::-1] - recent[:, -1:], axis=2)  # (n, longest), by lag from 1
    nearest = np.minimum.accumulate(back, axis=1)[:, :-1]  # of the states in between
    candidate = (back[:, 1:] <= max(CLOSING * recurrence, HALFWAY) * nearest) & (nearest > rounding[:, None])
    for p in np.flatnonzero(candidate.any(0)) + 2:
        rows = np.flatnonzero(candidate[:, p - 2] & (period == 0))
        if len(rows):
            near = recurrence * nearest[rows, p - 2]
            closed, stays, passes = _returns(trace[rows], int(p), near, rounding[rows] * np.sqrt(p), drift)
            period[rows[closed]] = p
            hovering[rows[stays & (hovering[rows] == 0)]] = p
            passing[rows[passes]] = True
    period = np.where(period == 0, hovering, period)
    return period, passing & (period == 0)


def _returns(
    trace: np.ndarray, p: int, near: np.ndarray, rounding: np.ndarray, drift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classify rows by their returns after p steps: on a cycle, hovering about it, or passing it or on the way to it.

    Parameters
    ----------
    near, rounding
        (n,) distances that count as a return, and distances within rounding.
    """
    depth = trace.shape[1]
    away = np.linalg.norm(trace[:, p:] - trace[:, :-p], axis=2)
    window = min(max((SEEN - 1) * p, min(16, depth // 4)), depth - p)
    returns = away[:, -window:].max(1) <= near
    turns = away.shape[1] // p
    largest = away[:, -turns * p :].reshape(len(away), turns, p).max(2)  # in each turn
    last, before = largest[:, -1], largest[:, -2]
    ratio = last / np.maximum(before, 1e-300)
    left = np.where(ratio <= QUICK, last * ratio / (1 - np.minimum(ratio, QUICK)), way_left(largest))
    at_floor = np.maximum(last, before) <= rounding
    closing = (away[:, -window:].max(1) <= CLOSING * near) & (left <= CLOSING * near)
    closed = (returns & at_floor) | closing
    far = np.where(largest > near[:, None], np.arange(1, turns + 1), 0).max(1)
    followed = np.minimum(turns - far, TURNS)  # turns since when all states return
    row, turn = np.arange(len(trace)), np.arange(TURNS)
    steps = away[:, np.maximum(away.shape[1] - 1 - turn * p, 0)]
    path = np.where(turn < followed[:, None], steps, 0.0).sum(1)
    net = np.linalg.norm(trace[:, -1] - trace[row, depth - 1 - followed * p], axis=1)
    hovers = returns & ~closed & (followed >= SEEN) & (net < drift * path)
    # On a torus returns may fall, too, while the run approaches it: but not to zero, and they all point one way.
    late = max(turns - turns // 2, FALLS)
    moves = np.diff(trace[:, ::-1][:, : late * p + 1 : p], axis=1)
    to_zero = ((moves[:, 1:] * moves[:, :-1]).sum(2) < 0).all(1) | np.isfinite(left)
    fallen = largest[:, -late:]
    falls = to_zero & (fallen[:, 1:] < fallen[:, :-1]).all(1) & (fallen[:, -1] <= FALLEN * fallen[:, 0])
    return closed, hovers, ~closed & ~hovers & (returns | (falls & (turns >= FALLS)))
