"""A compact description of the set on which a run ends: the states of its cycle, or states of its later half."""

from __future__ import annotations

import functools

import numpy as np

NUMBERS = 512  # kept of a run: coordinates times states
MOST = 256  # states kept of a run
RATE_CAP = 0.999  # a slower decay than this is not extrapolated further
FINER = 0.1  # a multiple of a period is taken for the period when states return so much closer after it


def outline_length(coordinates: int, depth: int) -> int:
    """Return how many states with this many coordinates are kept of a run.

    Examples
    --------
    >>> outline_length(8, 200), outline_length(2, 200), outline_length(8, 20)
    (64, 100, 10)
    """
    return max(1, min(MOST, NUMBERS // coordinates, depth - depth // 2))


@functools.cache
def scattered_steps(depth: int, points: int) -> np.ndarray:
    """Return the steps (points,), from 0 and increasing, of the later half of a run whose states are kept.

    They are random, but the same for all runs of a depth: evenly spaced steps would show only some states of a cycle
    whose period is a multiple of the spacing.
    """
    begin = depth // 2
    return begin + np.sort(np.random.default_rng(0).choice(depth - begin, points, replace=False))


def outlines(trace: np.ndarray, period: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sets on which runs ended, and how far periodic runs are from their cycles.

    Parameters
    ----------
    trace
        States, or projections of them to few numbers, (n, D, G) after every step.
    period
        (n,), 0: none.

    Returns
    -------
    orbit
        (n, K, G) states of the cycle in their order, NaN beyond the last; for a run without a period, random
        states of its later half.  Of a cycle longer than K, the first K states are kept, counted from the one
        that is least in a fixed direction, so that runs out of phase keep the same states.
    error
        (n,) distance of the last states from the cycle, NaN where there is none.

    Notes
    -----
    The error is the distance between states one period apart, plus the distance that its decay from period to
    period still has to go.  If states return ten times closer after a multiple of the period, the multiple is
    used: a doubled cycle whose halves differ by little was taken for the simple one.
    """
    _, depth, coordinates = trace.shape
    points = outline_length(coordinates, depth)
    orbit, error = trace[:, scattered_steps(depth, points)], np.full(len(trace), np.nan)
    direction = np.random.default_rng(2).normal(size=coordinates)
    for row in np.flatnonzero(period):
        length, error[row] = _cycle_and_error(trace[row].astype(float), int(period[row]))
        states = trace[row, -length:]
        states = np.roll(states, -int(np.argmin(states @ direction)), axis=0)[:points]
        orbit[row], orbit[row, : len(states)] = np.nan, states
    return orbit, error


def _cycle_and_error(states: np.ndarray, period: int) -> tuple[int, float]:
    """Return the length of the cycle of states (D, G), a multiple of the period, and their distance from it."""
    length, back = period, _return(states, period)
    for multiple in range(2 * period, len(states) // 3 + 1, period):
        closer = _return(states, multiple)
        if closer <= FINER * back:
            length, back = multiple, closer
            break
    before = _return(states[:-length], length)
    rate = back / before if before > 0 else 0.0 if back == 0 else RATE_CAP
    return length, back / (1 - min(rate, RATE_CAP))


def _return(states: np.ndarray, length: int) -> float:
    """Return the largest distance of the last states from those so many steps before, over so many steps."""
    return float(np.linalg.norm(states[-length:] - states[-2 * length : -length], axis=1).max())
