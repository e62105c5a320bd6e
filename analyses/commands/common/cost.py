"""The cost of a command: steps and seconds of its phases, from a short measurement before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import numpy as np

from eqrlab import attractors as at
from eqrlab.analyses.studies import borders
from eqrlab.analyses.studies.checks import FOLLOWED, NOOP_DEPTHS, NOOP_RESTARTS, states_fit
from eqrlab.analyses.studies.commit import STAGE, clues_to_commit
from eqrlab.attractors.ensemble.schedule import measured_steps
from eqrlab.attractors.landscape.waves import FIRST

MEASURED = 1.0  # seconds that the measurement may take, about ...
MEASURED_RESTARTS = 64  # ... restarts of a puzzle in it, ...
GROWTH = 16  # ... and how many times the rows of one try may be those of the one before
LOCAL = 1000  # evaluations of a puzzle for local dynamics: pushes, returns, products with the Jacobian, ...
MOVING = 0.5  # ... and this share of them for the exponents of states that keep moving
ORBITS = 60  # of a puzzle whose borders are measured, pushes and duels: of 160 at most, many end early
VERDICT = 0.05  # seconds a puzzle for attractors, modes and the report, which hardly depend on the model
AFFORDABLE = 3600.0  # seconds of a diagnosis beyond which a shorter one is named
FIXED = 2.0  # seconds for the archive and the pictures


def sampling(run: at.Run) -> int:
    """Return the evaluations of the map that sampling takes; noise asks for a second one a step, for the residual."""
    return round(run.rows * (run.depth * evaluations_a_step(run) + (run.noise == 0)))


def evaluations(run: at.Run, *, local: bool, checks: bool) -> dict[str, int]:
    """Return the evaluations of the map of each phase of a diagnosis."""
    puzzles, twice = len(run.inputs), evaluations_a_step(run)
    found = {"sampling": sampling(run)}
    if local:
        found["local dynamics"] = puzzles * LOCAL
    if checks:
        kept = states_fit(run.system, run.rows)
        noop, followed = NOOP_RESTARTS * min(run.depth, NOOP_DEPTHS[0]), kept * min(FOLLOWED, run.restarts)
        found["checks"] = round(puzzles * (noop + followed * run.depth * twice))
        if kept:
            found["borders"] = min(puzzles, borders.MOST) * ORBITS * min(run.depth, borders.DEPTH)
        if clues_to_commit(run) is not None:
            found["committing at most"] = round(puzzles * 2 * STAGE * run.depth * twice)
    return found


def evaluations_a_step(run: at.Run) -> float:
    """Return how often the map is evaluated a step: with noise once more where a residual is measured."""
    return 1 + (measured_steps(run.residuals, run.depth).mean() if run.noise > 0 else 0.0)


def seconds_an_evaluation(run: at.Run, batch_size: int | None) -> float:
    """Measure one evaluation of the map for one row, with as many rows as the time for it allows.

    Notes
    -----
    Two depths are timed, each twice, so that the cost of a run besides its steps does not count.  Where one run
    of one step takes longer than the measurement may, also the second time, as with the largest models on a
    CPU, that is the measurement.
    """
    per_step = 2 if run.noise > 0 else 1  # so few steps have all their residuals
    most = min(run.restarts, MEASURED_RESTARTS)
    one, taken = run.puzzles(slice(1)).with_(restarts=1, depth=1), []
    for _ in range(2):  # the first has what happens only once in it
        began = time.perf_counter()
        one.sample(batch_size=batch_size)
        taken.append(time.perf_counter() - began)
        if taken[-1] <= MEASURED:
            break
    else:
        return min(taken) / sampling(one)
    rows = 1
    while True:
        few = run.puzzles(slice(-(-rows // most))).with_(restarts=min(rows, most))
        few.with_(depth=1).sample(batch_size=batch_size)  # what happens only once
        times: dict[int, list[float]] = {1: [], 3: []}
        for depth in (1, 3, 1, 3):
            began = time.perf_counter()
            few.with_(depth=depth).sample(batch_size=batch_size)
            times[depth].append(time.perf_counter() - began)
        short, long = (min(found) for found in times.values())  # the others may have been kept waiting
        step = max(long - short, 1e-9) / 2
        more = int(
            min(len(run.inputs) * most, GROWTH * rows, rows * MEASURED / max(2 * (short + long), 1e-9))
        )
        if more < 2 * few.rows:
            return step / (few.rows * per_step)
        rows = more


def affordable(run: at.Run, each: float) -> str:
    """Name a diagnosis of less than an hour, at so many seconds an evaluation; nothing where the least takes longer.

    The breadth and depth are the largest of a few choices, at most the requested ones, that leave time for one
    puzzle.
    """
    for breadth, depth in ((16, 32), (8, 16), (4, 16), (2, 8), (1, 4)):
        few = run.with_(restarts=min(run.restarts, breadth), depth=min(run.depth, depth))
        puzzles = min(int(AFFORDABLE / (each * sampling(few) / len(few.inputs))), len(run.inputs))
        if puzzles:
            time_ = duration(each * sampling(few) / len(few.inputs) * puzzles)
            return (
                f"--limit {puzzles} --restarts {few.restarts} --depth {few.depth} --no-local --no-checks takes about "
                f"{time_}"
            )
    return ""


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
    ['under 1 s', '7 s', '2 min', '50 min', '11 h', '16 days']
    """
    if seconds < 0.5:
        return "under 1 s"
    for most, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (np.inf, 86400, "days")):
        if seconds < most:
            return f"{round(seconds / size)} {unit}"
    raise ValueError(f"a time is a number, got {seconds}")


def cost_line(
    run: at.Run, *, local: bool, checks: bool, waves: bool = False, batch_size: int | None = None
) -> str:
    """Return the cost of a diagnosis in one line, measured; with waves of restarts what the first takes, and all."""
    counts = evaluations(run, local=local, checks=checks)
    phases = estimate(run, local=local, checks=checks, batch_size=batch_size)
    shares = {"sampling": min(FIRST, run.restarts) / run.restarts, "local dynamics": 1 - MOVING}
    least = {phase: share * phases[phase] for phase, share in shares.items() if waves and phase in phases}
    told = _told(phases, sum(counts.values()), at_most=waves, least=least)
    less = ""
    if sum(phases.values()) > AFFORDABLE:
        less = affordable(run, phases["sampling"] / counts["sampling"])
    return f"{told}; {less}; {peak_memory()} of memory are in use so far" if less else told


def peak_memory() -> str:
    """Return the most memory that this process has had, as text."""
    try:
        import resource
    except ImportError:  # Windows
        return "an unknown amount"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 1e9:.1f} GB"


def study_cost_line(run: at.Run, also: Mapping[str, int], *, times: int = 1, at_most: bool = False) -> str:
    """Return in one line what runs, and what is done with them afterwards, will cost, measured.

    Parameters
    ----------
    run
        The runs; so many `times` of them are sampled.
    also
        Further phases and their evaluations of the map.
    at_most
        Whether these are the most that can become necessary.
    """
    counts = {"sampling": times * sampling(run), **also}
    each = seconds_an_evaluation(run, None)
    return _told({phase: n * each for phase, n in counts.items()}, sum(counts.values()), at_most)


def _told(
    phases: Mapping[str, float], count: int, at_most: bool = False, least: Mapping[str, float] | None = None
) -> str:
    """Return what phases cost in a line; those with a least time as a range."""
    parts = ", ".join(
        f"{phase} {_span((least or {}).get(phase, seconds), seconds)}" for phase, seconds in phases.items()
    )
    total = f"{'up to about' if at_most else 'about'} {duration(max(1.0, sum(phases.values())))}"
    return f"{total} for {count:,} evaluations of the map" + (f": {parts}" if len(phases) > 1 else "")


def _span(least: float, most: float) -> str:
    """Return a range of seconds as text, one time where both ends read alike."""
    low, high = duration(least), duration(most)
    return high if low == high else f"{low} to {high}"
