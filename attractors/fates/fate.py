"""What became of each trajectory: settled, periodic, recurrent, wandering, unfinished, diverged or nonfinite.

State and answer are two axes.  `state_fate` is judged from residuals and states alone, `answer_fate` from answers
alone; `fate` joins them: a run is settled or recurrent only with a constant answer.

One subject: the rules by which a fate is decided are read in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from eqrlab.attractors.fates.cycles import find_period, longest_period
from eqrlab.attractors.fates.drift import answer_stands, grows_for_ever, turn_left
from eqrlab.attractors.results.schema import ANSWER_FATES, FATES
from eqrlab.attractors.statistics.trends import block_medians, filled, kendall, way_left

LEAVES, RISEN = 8, 4.0  # steps in which a residual rises by this factor where a run leaves a slow passage
LEAST_SCALE = 1e-3  # of the largest norm of a run: what its residuals are compared with is never less
LEAST = 1e-300  # and never less than this, where all states of a run are zero
CODE = {name: i for i, name in enumerate(FATES)}
ANSWER = {name: i for i, name in enumerate(ANSWER_FATES)}


@dataclass(frozen=True)
class Tolerances:
    """Thresholds of the fates; every ensemble records them.

    Attributes
    ----------
    floor
        The numerical floor is a relative residual of `floor` machine epsilons of the state's dtype: each step
        rounds many times, and a map amplifies rounding errors by up to its leading singular value, 8 to 27 in
        trained models. It is never above `band_cap`, which matters in half precision.
    band_quantile
        The solved band of a model reaches up to this quantile of the final relative residuals of its solved runs
        (correct, answer constant) ...
    band_cap, band_default
        ... but never above `band_cap`; with fewer than `band_runs` solved runs it is `band_default`, or the numerical
        floor where that is higher.
    band_runs
        See above.
    noise_factor
        With noise, the band reaches at least this many times the relative size of the noise in one outer step.
    travel
        A run whose residual falls geometrically counts as settled once the distance left, residual / (1 - rate), is
        below this share of the state's norm.
    falling, drop
        A residual is falling if Kendall's tau against the step, over the last states examined or over the last half of
        the run, is at most `falling`, and its median over the last quarter of that stretch is below that over the first
        quarter by at least the share `drop`. A smaller drop above rounding is creeping, which also prevents settling.
    recurrence
        A period p is accepted when states p apart are closer than this share of the distance to the nearest state in
        between, through the last two periods.
    region
        A bounded region is small (recurrent) up to this root mean square radius, relative to the state's scale.
    drift
        A run whose last states end at a distance of at least this share of their path length from where they began is
        still on its way: it is unfinished, not recurrent, and above the floor not settled.
    growth
        A run whose norm grows at every step of the window, with a residual not falling, has diverged once it is this
        many times its first norm; until then it is unfinished.
    least_steps
        In fewer steps than this only settling can be recognised; other runs are unfinished.
    """

    floor: float = 64.0
    band_quantile: float = 0.9
    band_cap: float = 0.02
    band_default: float = 0.0
    band_runs: int = 10
    noise_factor: float = 3.0
    travel: float = 1e-2
    falling: float = -0.7
    drop: float = 1e-3
    recurrence: float = 1e-2
    region: float = 0.5
    drift: float = 0.7
    growth: float = 1e3
    least_steps: int = 8

    def numerical_floor(self, epsilon: float) -> float:
        """Return the numerical floor of relative residuals in a precision of this machine epsilon."""
        return min(self.floor * epsilon, self.band_cap)

    def pinned(self, threshold: float, *, noise_factor: float = 0.0) -> Tolerances:
        """Return tolerances with which relative residuals up to a fixed threshold count as settled in any company.

        Parameters
        ----------
        noise_factor
            0 where the threshold was found among runs of the same noise; else the band reaches at least as far as
            this many times the noise.
        """
        return replace(
            self, band_default=threshold, band_cap=max(threshold, self.band_cap), band_runs=2**62,
            noise_factor=noise_factor,
        )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Fates of rows, all (n,): codes, period (0: none), settling step (-1: none), scale, and the threshold used.

    `drift` is the relative residual where the answer has settled and the state drifts for ever, else NaN.
    """

    fate: np.ndarray
    period: np.ndarray
    settling_step: np.ndarray
    answer_settled: np.ndarray
    spread: np.ndarray
    sketch: np.ndarray
    threshold: float
    scale: np.ndarray
    state_fate: np.ndarray
    answer_fate: np.ndarray
    drift: np.ndarray


class Sparse(NamedTuple):
    """Residuals measured at some steps only: which, (D,) bool, the last among them; and the updates (n, D) of all."""

    measured: np.ndarray
    update: np.ndarray


class LongRun(NamedTuple):
    """Statistics of the sketches of the last states from which fates are decided, leading axis n.

    Attributes
    ----------
    finite
        Whether all of these states are finite.
    revisits
        Whether the run was in the region of its last states before, and has left it in between.
    period
        Minimal period >= 2 of the states, 0: none.
    drifting
        Whether the states move on without turning back, at every step or whenever they nearly return.
    spread
        Root mean square radius of the last states.
    turn
        Angle by which the direction of the state will still turn; inf: no end in sight.
    mean, last, cycle
        Sketches (n, F): mean of the last states, the last one, and of a cycle the state with the least first number.
    """

    finite: np.ndarray
    revisits: np.ndarray
    period: np.ndarray
    drifting: np.ndarray
    spread: np.ndarray
    turn: np.ndarray
    mean: np.ndarray
    last: np.ndarray
    cycle: np.ndarray


@np.errstate(over="ignore", invalid="ignore")  # states of runs that diverge
def long_run(
    ring: np.ndarray, depth: int, tolerances: Tolerances, before: int = 0, trace: np.ndarray | None = None
) -> LongRun:
    """Compute these statistics from the sketches of runs of `depth` steps, after `before` earlier ones.

    Parameters
    ----------
    ring
        Sketches (n, k, F) of the last k states.
    trace
        Coarser ones (n, depth, f) of the states after every step, in which periods are looked for; None: in `ring`.
    """
    window = min(answer_window(before + depth), depth)
    trace = ring if trace is None else trace
    finite = np.isfinite(ring).all((1, 2))
    clean = np.where(finite[:, None, None], ring, 0.0)
    floor = tolerances.numerical_floor(float(np.finfo(trace.dtype).eps))
    whole = np.where((finite & np.isfinite(trace).all((1, 2)))[:, None, None], trace, 0).astype(float)
    period, passing = find_period(whole, tolerances.recurrence, floor, tolerances.drift)
    mean = clean[:, -window:].mean(1)
    spread = np.sqrt(((clean[:, -window:] - mean[:, None]) ** 2).sum(-1).mean(1))
    cycle = clean[:, -1].copy()
    for row in np.flatnonzero(period):
        cycle[row] = _first_state(clean[row], whole[row], period[row])
    drifting = is_drifting(clean, tolerances.drift) | passing
    turn = turn_left(whole, before) if whole.shape[1] == depth else np.full(len(whole), np.inf)
    again = revisits(whole, window)
    return LongRun(finite, again, period, drifting, spread, turn, mean, clean[:, -1], cycle)


def _first_state(ring: np.ndarray, trace: np.ndarray, period: int) -> np.ndarray:
    """Return the state (F,) of a cycle with the least first coordinate, so that runs out of phase agree on it.

    For a cycle longer than the ring only the trace is known, another projection that keeps distances.
    """
    if period <= len(ring):
        states = ring[-period:]
        return states[np.argmin(states[:, 0])]
    states, place = trace[-period:], np.zeros(ring.shape[1])
    place[: trace.shape[1]] = states[np.argmin(states[:, 0])]
    return place


def revisits(trace: np.ndarray, window: int) -> np.ndarray:
    """Return which rows of states (n, D, F) were in the region of their last `window` states before, and left it.

    Within the last three quarters of the run: "in" means within twice the radius of these states about their mean,
    "left" means beyond three times it.
    """
    late = trace[:, trace.shape[1] // 4 :]
    away = np.linalg.norm(late - late[:, -window:].mean(1, keepdims=True), axis=2)
    radius = away[:, -window:].max(1, keepdims=True)
    been = np.logical_or.accumulate(away <= 2 * radius, axis=1)
    return (been & (away > 3 * radius)).any(1)


def answer_window(depth: int) -> int:
    """Return the number W of last steps over which an answer must be constant: a quarter of the depth, at most 16."""
    return max(1, min(16, depth // 4))


def ring_length(depth: int) -> int:
    """Return how many last states fates examine: half of the depth, at most 32."""
    return max(1, min(32, depth // 2))


def answer_settled(code: np.ndarray) -> np.ndarray:
    """Return the first step (from 1) since which the answer code (n, D) is unchanged, (n,) int."""
    depth = code.shape[1]
    same = code == code[:, -1:]
    changed = np.where(~same, np.arange(1, depth + 1), 0).max(1)
    return (changed + 1).astype(np.int32)


def is_falling(residual: np.ndarray, tolerances: Tolerances, drop: np.ndarray | float) -> np.ndarray:
    """Return which rows of residuals (n, k) fall: in nearly every pair of steps, and by more than the share `drop`."""
    quarter = max(1, residual.shape[1] // 4)
    first, last = np.median(residual[:, :quarter], axis=1), np.median(residual[:, -quarter:], axis=1)
    return (kendall(residual) <= tolerances.falling) & (last < (1 - drop) * first)


def state_scale(size: np.ndarray) -> np.ndarray:
    """Return the length to which a run's residuals and distances are compared, from its norms (n, D).

    It is the final norm, but at least a thousandth of the largest norm, so that a run into the origin settles, too.
    """
    with np.errstate(invalid="ignore"):
        largest = np.fmax.reduce(size, axis=1)
        return np.maximum(np.fmax(size[:, -1], LEAST_SCALE * largest), LEAST)


def find_answer_fate(code: np.ndarray, window: int, period: np.ndarray | None = None) -> np.ndarray:
    """Return the answer's fate of each row of answer codes (n, D): constant, periodic or changing.

    Parameters
    ----------
    window
        Last steps over which an answer must be constant; the last period instead, if the state has a longer one.
    period
        (n,) of the states, 0: none.

    Notes
    -----
    Periodic: the codes repeat after some p >= 2 steps, over at least the last two periods and 2 * window steps before
    the last, for p up to a third of the steps; up to `window` the last 2 * window steps suffice.
    """
    n, depth = code.shape
    fate = np.full(n, ANSWER["changing"], np.int8)
    constant = (code[:, -window:] == code[:, -1:]).all(1)
    if period is not None:
        for p in np.unique(period[period > window]):
            constant[period == p] &= (code[period == p, -p:] == code[period == p, -1:]).all(1)
    last = code[:, -2 * window :]
    for p in range(2, last.shape[1] // 2 + 1):
        fate[(last[:, p:] == last[:, :-p]).all(1)] = ANSWER["periodic"]
    rows = np.flatnonzero(~constant & (fate == ANSWER["changing"]))
    for p in range(window + 1, longest_period(depth) + 1 if len(rows) else 0):
        span = max(2 * p, min(2 * window, depth - p))
        near = rows[(code[rows, -window:] == code[rows, -window - p : -p]).all(1)]
        again = (code[near, -span:] == code[near, -span - p : depth - p]).all(1)
        fate[near[again]] = ANSWER["periodic"]
    fate[constant] = ANSWER["constant"]
    return fate


def is_drifting(ring: np.ndarray, share: float) -> np.ndarray:
    """Return which rows of sketches (n, k, F) move on without turning back, over the last half of them.

    At least 12 are used, if there are so many, since a few steps of noise may lie in one direction by chance.
    """
    k = ring.shape[1]
    last = ring[:, -max(k - k // 2, min(k, 12)) :]
    path = np.linalg.norm(last[:, 1:] - last[:, :-1], axis=-1).sum(1)
    return (path > 0) & (np.linalg.norm(last[:, -1] - last[:, 0], axis=-1) >= share * path)


def solved_band(
    final: np.ndarray, solved: np.ndarray, tolerances: Tolerances, floor: float, noise: float
) -> float:
    """Return the relative residual up to which this model's runs count as settled.

    Parameters
    ----------
    final, solved
        Final relative residuals (n,) and which runs are correct with a constant answer.
    floor
        Numerical floor.
    noise
        Relative size of the noise in one outer step, 0 without.
    """
    values = final[solved & np.isfinite(final)]
    enough = len(values) >= tolerances.band_runs
    return band_limit(
        np.quantile(values, tolerances.band_quantile) if enough else None, tolerances, floor, noise
    )


def band_limit(quantile: float | None, tolerances: Tolerances, floor: float, noise: float) -> float:
    """Return the upper end of the solved band from the quantile of the solved runs, None: too few of them."""
    band = tolerances.band_default if quantile is None else quantile
    return float(max(floor, min(band, tolerances.band_cap), tolerances.noise_factor * noise))


def solved_residuals(
    residual: np.ndarray, size: np.ndarray, code: np.ndarray, solved: np.ndarray, finite: np.ndarray
) -> np.ndarray:
    """Return the final relative residuals that define the solved band: of right runs with a constant answer.

    Parameters
    ----------
    residual, size, code, solved
        As in `classify`.
    finite
        `LongRun.finite` of the rows.
    """
    window = answer_window(residual.shape[1])
    with np.errstate(invalid="ignore"):
        final = residual[:, -1] / state_scale(size)
    sound = finite & np.isfinite(residual[:, -1]) & np.isfinite(size[:, -1]) & np.isfinite(final)
    return final[sound & solved & (find_answer_fate(code, window) == ANSWER["constant"])]


def classify(
    residual: np.ndarray,
    size: np.ndarray,
    code: np.ndarray,
    solved: np.ndarray,
    ring: np.ndarray | LongRun,
    *,
    epsilon: float,
    noise: float,
    tolerances: Tolerances,
    before: int = 0,
    threshold: float | None = None,
    sparse: Sparse | None = None,
) -> Verdict:
    """Decide the fate of every row.

    Parameters
    ----------
    residual, size
        Noise-free residual and state norm (n, D).
    code
        Answer codes (n, D): equal where answers are.
    solved
        (n,) bool: correct at the last step.
    ring
        Sketches (n, k, F) of the last k states, or what `long_run` makes of them.
    epsilon
        Machine epsilon of the state's dtype.
    noise
        Relative size of the noise in one outer step.
    before
        Outer steps taken before the first one given.
    threshold
        Upper end of the solved band; None finds it from these rows.
    sparse
        Given if residuals were not measured at every step.  Trends are then taken over measured steps, and a residual
        falls only if the updates of all steps do not contradict, since a few noisy steps may fall by chance.  The
        settling step is the first measured step since which the run is settled.

    Notes
    -----
    The state, in this order: NaN or infinity -> nonfinite; norm grown far and still growing while the residual does not
    fall -> diverged; residual at the floor, or inside the solved band and neither falling nor drifting, or falling
    geometrically with hardly any way left -> settled; residual falling, norm growing, or too few steps -> unfinished;
    states returning after p steps -> periodic; states moving on without turning back, or leaving a small region ->
    unfinished; a small region that the run did not leave and enter again -> recurrent; else wandering.

    The joint fate is that of the state, but a settled or recurrent state whose answer is not constant over W steps is
    wandering, or unfinished if its residual still falls; and a state whose norm grows like a power of time while its
    direction settles is recurrent by its answer, see `attractors.fates.drift`.
    """
    depth = residual.shape[1]
    t = tolerances
    window = min(answer_window(before + depth), depth)
    k = ring_length(before + depth) if isinstance(ring, LongRun) else ring.shape[1]
    # What the last states show: periods, spread, returns.  What the answers show: constant or not.
    # What the residuals show: falling, at the floor, or hovering.  Only then the three are put together.
    seen = ring if isinstance(ring, LongRun) else long_run(ring, depth, t, before)
    since = answer_settled(code) + np.int32(before)
    answer_fate = find_answer_fate(code, window, seen.period)
    constant = answer_fate == ANSWER["constant"]
    scale = state_scale(size)
    with np.errstate(invalid="ignore"):
        relative = residual / scale[:, None]
    seen_at = np.arange(depth) if sparse is None else np.flatnonzero(sparse.measured)
    step, near = seen_at + 1, seen_at[seen_at >= depth - k]
    final, recent = relative[:, -1], relative[:, near]
    finite = np.isfinite(residual[:, -1]) & np.isfinite(size[:, -1]) & seen.finite
    # Rows that are NaN anywhere must not decide trends; they are nonfinite below whatever these say.
    safe = np.where(finite[:, None], recent, 1.0)
    long = relative[:, seen_at[seen_at >= depth - max(k, (before + depth) // 2)]]
    blocks = block_medians(np.where((finite & np.isfinite(long).all(1))[:, None], long, 1.0))
    falling = is_falling(safe, t, t.drop) | is_falling(blocks, t, t.drop)
    floor = t.numerical_floor(epsilon)
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = np.minimum(floor / np.maximum(np.where(finite, final, 1.0), 1e-300), 1.0)
        creeping = falling | is_falling(safe, t, rounding) | is_falling(blocks, t, rounding)
        if sparse is not None:
            # Few sparse residuals can fall by chance: the updates, known at every step, must agree.
            confirmed = kendall(sparse.update[:, -k:]) <= t.falling / 2
            falling, creeping = falling & confirmed, creeping & confirmed
        leaving = (kendall(safe[:, -LEAVES:]) >= 0.9) & (safe[:, -1] >= RISEN * safe[:, -LEAVES:][:, 0])
    # Finite where the residual falls geometrically; slower decays, as beside a vanished fixed point, get no end.
    left = way_left(np.where(finite[:, None], relative[:, seen_at], 1.0), step)
    if threshold is None:
        threshold = solved_band(final, solved & constant & finite, t, floor, noise)
    # The band is for runs that hover in it; one that falls through it, or drifts, is still on its way.
    hovering = (final <= threshold) & ~creeping & ~seen.drifting
    resting = (final <= floor) | hovering | (creeping & (left <= t.travel))
    with np.errstate(invalid="ignore", over="ignore"):
        growing = (np.diff(size[:, -k:], axis=1) > 0).all(1) & (size[:, -1] > 1.01 * size[:, -k])
        growing &= residual[:, -1] >= residual[:, near[0]]
        far = size[:, -1] >= t.growth * np.maximum(size[:, 0], 1e-300)
    spread = seen.spread / np.where(finite, scale, 1.0)
    moving = falling | growing | (before + depth < t.least_steps) | ((final <= threshold) & creeping)
    # The order matters: the first rule that fits wins, so that a falling residual forbids a period.
    state_fate = np.select(
        [
            ~finite,
            growing & far,
            resting,
            moving,
            seen.period > 0,
            seen.drifting | (leaving & constant & (spread <= t.region)),
            (spread <= t.region) & ~seen.revisits,
        ],
        [
            CODE[f]
            for f in ("nonfinite", "diverged", "settled", "unfinished", "periodic", "unfinished", "recurrent")
        ],
        CODE["wandering"],
    ).astype(np.int8)
    at_rest = np.isin(state_fate, [CODE["settled"], CODE["recurrent"]])
    on_the_way = (moving | creeping) & (final > floor)
    # State at rest but answer changing: settled or recurrent would say more than is known.
    otherwise = np.where(on_the_way, CODE["unfinished"], CODE["wandering"])
    fate = np.where(at_rest & ~constant, otherwise, state_fate).astype(np.int8)
    drifts = constant & np.isin(state_fate, [CODE["unfinished"], CODE["diverged"]])
    whole = residual if sparse is None else filled(residual, sparse.measured)
    drifts &= grows_for_ever(whole, size, before) & answer_stands(since, seen.turn, before + depth)
    fate[drifts] = CODE["recurrent"]
    spread = np.where(drifts, np.maximum(spread, seen.turn), spread)
    is_settled = fate == CODE["settled"]
    period = np.where(is_settled, 1, np.where(fate == CODE["periodic"], seen.period, 0)).astype(np.int32)
    # Last step with a residual above the limit; the slack lets the final residual itself count as below.
    limit = np.maximum(threshold, final) * (1 + 1e-6)
    with np.errstate(invalid="ignore"):
        above = np.where(~(relative[:, seen_at] <= limit[:, None]), step, 0).max(1)
    below = np.append(step, depth + 1)[np.searchsorted(step, above, side="right")] + before
    settling = np.where(is_settled, np.maximum(below, since), -1).astype(np.int32)
    place = _representative(seen, fate, noise > 0)
    place[~finite] = np.nan
    return Verdict(
        fate, period, settling, since, np.where(finite, spread, np.nan), place, threshold, scale,
        state_fate, answer_fate, np.where(drifts, final, np.nan),
    )  # fmt: skip


def _representative(seen: LongRun, fate: np.ndarray, noisy: bool) -> np.ndarray:
    """Return one sketch (n, F) a row that names its long-run place.

    The last state of a settled run; the window's mean of noisy or recurrent ones; of a periodic one the state of its
    cycle with the least first coordinate, so that runs out of phase agree.
    """
    place = seen.mean.copy() if noisy else seen.last.copy()
    for name, states in (("recurrent", seen.mean), ("periodic", seen.cycle)):
        place[fate == CODE[name]] = states[fate == CODE[name]]
    return place
