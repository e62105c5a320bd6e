"""States that drift for ever while the answer is constant: their norm grows like a power of time.

An un-normalised residual stream z + g(z / |z|) behaves like this: it never stops moving, but its direction, and with
it the answer, settles.
"""

from __future__ import annotations

import numpy as np

LEAST = 32  # steps before which the growth of a norm says nothing of its law
GROWTH = 0.2  # least power of time, over the last stretch, at which the norm grows
SHRINKS = (
    0.5  # least power of 1 / time at which the relative residual falls: 1 where the norm grows as a power
)
SLOWS = 0.7  # a geometric decay keeps its rate; a power of time loses half of it in a doubling
STEADY = 0.01  # updates that fall by no more than this share over the run do not fall
SETTLES = 0.25  # least power of 1 / time at which the angles turned in stretches of equal ratio fall
TURN = 0.3  # angle left to turn, in radians, up to which a direction has settled


def stretches(depth: int, before: int = 0) -> tuple[int, int, int]:
    """Return three steps of a run, as positions among the last `depth`, equally spaced in the logarithm of time."""
    total = before + depth
    first = max(before + 1, total // 4, 1)
    return first - before, max(int(np.sqrt(first * total)) - before, 1), depth


def turn_left(trace: np.ndarray, before: int = 0) -> np.ndarray:
    """Return the angle (n,) by which the direction of rows of states (n, D, F) will still turn; inf: no end in sight.

    If the angles turned in the two stretches fall like a power of time, they begin a geometric series, which is summed.
    """
    marks = stretches(trace.shape[1], before)
    if before + trace.shape[1] < LEAST or marks[0] >= marks[1] or marks[1] >= marks[2]:
        return np.full(len(trace), np.inf)
    states = trace[:, marks[0] - 1 :].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = states / np.linalg.norm(states, axis=2, keepdims=True)
        turns = np.linalg.norm(np.diff(unit, axis=1), axis=2)
        middle = marks[1] - marks[0]
        first, last = turns[:, :middle].sum(1), turns[:, middle:].sum(1)
        ratio = np.where(last <= 1e-6, 0.0, last / first)
        longer = (before + marks[2]) / (before + marks[1])
        settling = ratio <= longer**-SETTLES
        return np.where(settling, last * ratio / (1 - np.minimum(ratio, 0.99)), np.inf)


def grows_for_ever(residual: np.ndarray, size: np.ndarray, before: int = 0) -> np.ndarray:
    """Return in which rows the norm (n, D) grows like a power of time while the updates do not decay geometrically."""
    n, depth = residual.shape
    marks, total = stretches(depth, before), before + depth
    if total < LEAST or marks[0] >= marks[1] or marks[1] >= marks[2]:
        return np.zeros(n, bool)
    times = before + np.array(marks)
    width = max(1, depth // 16)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        length, update = (
            np.log([np.median(v[:, max(m - width, 0) : m], axis=1) for m in marks]) for v in (size, residual)
        )
        log_time = np.diff(np.log(times))
        grows = np.diff(length, axis=0)[1] / log_time[1] >= GROWTH
        shrinks = np.diff(length - update, axis=0)[1] / log_time[1] >= SHRINKS
        falls = -np.diff(update, axis=0) / np.diff(times)[:, None]
        dies_out = (falls[1] * total > STEADY) & (falls[1] > SLOWS * falls[0])
        top = size[:, -1] >= 0.99 * np.fmax.reduce(size, axis=1)
        return grows & shrinks & top & ~dies_out


def answer_stands(since: np.ndarray, turn: np.ndarray, total: int) -> np.ndarray:
    """Return which answers (n,) will last: unchanged for three doublings of time, or one if little is left."""
    return np.isfinite(turn) & ((since <= total // 8) | ((since <= total // 2) & (turn <= TURN)))
