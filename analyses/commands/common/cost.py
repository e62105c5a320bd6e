"""What a diagnosis will cost: steps and seconds of its phases, from a short measurement before it starts."""

from __future__ import annotations

import time

import numpy as np

from eqrlab import attractors as at
from eqrlab.analyses.studies.checks import FOLLOWED, NOOP_DEPTH, NOOP_RESTARTS

MEASURED = 1.0  # seconds that the measurement may take, about
LOCAL = 800  # evaluations of a puzzle for local dynamics: pushes, returns, products with the Jacobian
VERDICT = 0.05  # seconds a puzzle for attractors, modes and the report, which hardly depend on the model
FIXED = 2.0  # seconds for the archive and the pictures


def evaluations(run: at.Run, *, local: bool, checks: bool) -> dict[str, int]:
    """Return the evaluations of the map of each phase; noise asks for a second one a step, for the residual."""
    puzzles, twice = len(run.inputs), 2 if run.noise > 0 else 1
    found = {"sampling": run.rows * (run.depth * twice + (run.noise == 0))}
    if local:
        found["local dynamics"] = puzzles * LOCAL
    if checks:
        noop = 2 * NOOP_RESTARTS * min(run.depth, NOOP_DEPTH)
        found["checks"] = puzzles * (noop + min(FOLLOWED, run.restarts) * run.depth * twice)
    return found


def seconds_an_evaluation(run: at.Run, batch_size: int | None) -> float:
    """Measure one evaluation of the map for one row, with as many rows as a second allows.

    Notes
    -----
    Two depths are timed: what a run costs beside its steps does not count.
    """
    puzzles, per_step = 1, 2 if run.noise > 0 else 1
    while True:
        few = run.puzzles(slice(puzzles))
        few.with_(depth=1).sample(batch_size=batch_size)  # what happens only once
        times = []
        for depth in (1, 3):
            began = time.perf_counter()
            few.with_(depth=depth).sample(batch_size=batch_size)
            times.append(time.perf_counter() - began)
        step = max(times[1] - times[0], 1e-9) / 2
        more = int(min(len(run.inputs), 8 * puzzles, puzzles * MEASURED / max(sum(times), 1e-9)))
        if more <= puzzles:
            return step / (few.rows * per_step)
        puzzles = more


def estimate(run: at.Run, *, local: bool, checks: bool, batch_size: int | None = None) -> dict[str, float]:
    """Return the seconds that each phase of a diagnosis will take."""
    each = seconds_an_evaluation(run, batch_size)
    found = {phase: count * each for phase, count in evaluations(run, local=local, checks=checks).items()}
    return found | {"verdict and report": FIXED + VERDICT * len(run.inputs)}


def duration(seconds: float) -> str:
    """Return a time as text with one or two digits, as precise as an estimate is.

    Examples
    --------
    >>> [duration(s) for s in (0.2, 7.4, 95, 3000, 40000, 1.4e6)]
    ['1 s', '7 s', '2 min', '50 min', '11 h', '16 days']
    """
    for most, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (np.inf, 86400, "days")):
        if seconds < most:
            return f"{max(1, round(seconds / size))} {unit}"
    raise ValueError(f"a time is a number, got {seconds}")


def cost_line(run: at.Run, *, local: bool, checks: bool, batch_size: int | None = None) -> str:
    """Return the cost of a diagnosis in one line, measured."""
    phases = estimate(run, local=local, checks=checks, batch_size=batch_size)
    count = sum(evaluations(run, local=local, checks=checks).values())
    parts = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in phases.items())
    return f"about {duration(sum(phases.values()))} for {count:,} evaluations of the map: {parts}"
