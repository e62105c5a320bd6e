"""Local Lyapunov exponents along whole runs from the restart law, and how well they separate wrong and right runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.jacobian import check_differentiable, rows_within
from eqrlab.attractors.dynamics.lyapunov import first_frame
from eqrlab.attractors.dynamics.tangent import advance, log_factors, one_step, triangular
from eqrlab.attractors.ensemble.arguments import identifiers_of, require_integers, tokens_of, with_noise
from eqrlab.attractors.ensemble.contract import law_of, starts_of
from eqrlab.attractors.ensemble.iterate import norms
from eqrlab.attractors.ensemble.options import AnalysisOptions, check_options
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.states import Points, take_points
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import (
    RESAMPLES,
    cluster_bootstrap,
    mean_where_defined,
    value_order,
    widened,
)
from eqrlab.attractors.statistics.intervals import check_confidence
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.core import System
from eqrlab.core.models.contract import draw_starts
from eqrlab.core.progress import shown, tqdm
from eqrlab.core.random import puzzle_keys

OUTCOMES = ("right", "wrong")
SCORES = ("exponent", "drift")


def trajectory_exponents(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    restarts: int = 8,
    window: int = 8,
    k: int = 1,
    initial: Law | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    **options: Unpack[AnalysisOptions],
) -> xr.Dataset:
    """Follow runs from their starts with k tangent vectors: growth at every step, right runs against wrong ones.

    Parameters
    ----------
    system, inputs
        A differentiable system and its puzzles (P, L), integer tokens.
    labels, oracle
        As for `sample`; without either, right and wrong runs are not distinguished.
    restarts, depth
        Runs of a puzzle (the same ones that `sample` makes), and their outer steps.
    window
        Steps over which growth is averaged; `depth` holds as many whole windows, the last one ending at `depth`.
    k
        Tangent vectors.
    noise
        Noise amplitude; None is the system's own, 0 none.  The tangent map shares the noise of its run.
    initial
        Restart law where it is not the system's own: `(x, generator) -> z`.
    confidence, resamples
        Of the bootstrap over puzzles.
    seed, batch_size, dtype, device, progress
        As for `sample`.

    Returns
    -------
    xarray.Dataset
        `step_exponent(puzzle, restart, step, eig)`: log growth of the tangent vectors in each step (QR).
        Over (puzzle, restart, window, ...), a window named by its last step: `window_exponent(..., eig)`, its mean,
        and `window_drift`, the mean logarithm of ||z_t - z_{t-1}|| / ||z_t||.  `correct(puzzle, restart)` at the end.
        Where correctness is known, over window: `auc(score, window)`, the probability that of a wrong and a right run
        the wrong one has the higher exponent (or drift), pooled over puzzles, and `auc_within`, within puzzles;
        `auc_gain(window)`, exponent minus drift; `mean_exponent(outcome, window)`; all with `_low` and `_high`.
        `puzzles_with_both`: how many have right and wrong runs.  Natural logarithms, per outer step.

    Raises
    ------
    ValueError
        For k out of range, a window longer than the run, and a step whose derivatives cannot be trusted.

    Notes
    -----
    Right and wrong are those of the answer at `depth`, for all windows: early windows predict, late ones
    describe. The first vectors are random, so that the first window contains their alignment.  Drift is the
    control: if runs that stop are right and runs that move are wrong, both scores separate them.  Intervals
    resample puzzles; NaN where fewer than half of the resamples have both outcomes.  Cost: about 3 + 1.5 k
    evaluations per step.  Memory a row: k + 2 states and twice the saved activations of a step.

    References
    ----------
    J.-P. Eckmann and D. Ruelle, Rev. Mod. Phys. 57 (1985) 617; H. D. I. Abarbanel, R. Brown and M. B. Kennel,
    J. Nonlinear Sci. 1 (1991) 175 (local exponents).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g).double())
    >>> result = trajectory_exponents(system, torch.zeros(1, 1, dtype=torch.long), restarts=2, depth=16)
    >>> result.window_exponent.values.round(4)[0, 0, :, 0]
    array([-0.6931, -0.6931])
    """
    check_options(options, AnalysisOptions, trajectory_exponents)
    depth, seed = options.get("depth", 64), int(options.get("seed", 0))
    require_integers(restarts=restarts, depth=depth, window=window)
    if window > depth:
        raise ValueError(f"window must be at most the depth {depth}, got {window}")
    check_confidence(confidence)
    system, beta = with_noise(system, options.get("noise"))
    points = _starts(system, inputs, int(restarts), initial, options)
    points.require_k(k)
    check_differentiable(points, seed)
    size = options.get("batch_size") or rows_within(points, 2 * k + 4)
    parts = []
    bars = shown(options.get("progress", False))
    with tqdm(total=len(points.z) * depth, unit="step", desc="exponents", **bars) as bar:
        for rows in points.batches(size):
            parts.append(_follow(points, rows, int(depth), k, beta > 0, seed, bar))
    run = _Run(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    logs, drift, answer = (points.fold(values) for values in run)
    windows = depth // window
    # Steps that fill no whole window are left out at the beginning, where runs are still far from their ends.
    first = depth - windows * window
    means = _means(logs[:, :, first:], windows)
    drifts = _means(drift[:, :, first:], windows)
    text = "growth of the tangent vectors, natural logarithm per outer step"
    each = ("puzzle", "restart", "window")
    variables: dict[str, schema.Variable] = {
        "step_exponent": (("puzzle", "restart", "step", "eig"), logs, text),
        "window_exponent": ((*each, "eig"), means, f"{text}: mean over the window"),
        "window_drift": (each, drifts, "mean logarithm of ||z_t - z_(t-1)|| / ||z_t|| over the window"),
    }
    judge = replace(points.judge, oracle=options.get("oracle"))
    if judge.known:
        each_run = np.repeat(np.arange(len(answer)), answer.shape[1])
        judged, _ = judge.of(each_run)(points.tokens.numpy()[each_run], answer.reshape(len(each_run), -1))
        right = judged.reshape(answer.shape[:2])
        variables["correct"] = (("puzzle", "restart"), right, "answer at the end is right")
        variables |= _conditioned(means[..., 0], drifts, right, confidence, resamples, seed)
    attributes = points.attributes(
        seed=seed, restarts=restarts, depth=depth, noise=beta, confidence=confidence, window=window,
        bootstrap=f"{resamples} resamples of puzzles, seed {seed}", oracle=judge.name, **starts_of(system, initial),
    )  # fmt: skip
    coordinates = {
        "step": np.arange(1, depth + 1), "window": first + window * np.arange(1, windows + 1),
        "score": list(SCORES), "outcome": list(OUTCOMES),
    }  # fmt: skip
    return schema.dataset(variables, attributes, coordinates)


class _Run(NamedTuple):
    """Log factors (n, depth, k), log relative updates (n, depth) and last answers (n, L) of rows."""

    logs: np.ndarray
    drift: np.ndarray
    answer: np.ndarray


def _starts(
    system: System, inputs: Tensor | np.ndarray, restarts: int, initial: Law | None, options: AnalysisOptions
) -> Points:
    """Return the starts that `sample` draws, as points."""
    tokens, seed = tokens_of(inputs, "inputs"), int(options.get("seed", 0))
    known = identifiers_of(options.get("identifiers"), len(tokens))
    dtype, device = options.get("dtype"), options.get("device")
    law = law_of(initial, system)
    place = Place.of(system, device)
    system = place.bring(system)
    x = place.context(system, tokens, known)
    keys = puzzle_keys(seed, tokens, known)
    drawn = [draw_starts(law, x, p, key, restarts) for p, key in enumerate(keys)]
    return take_points(
        system, tokens, torch.stack(drawn), identifiers=known, labels=options.get("labels"), dtype=dtype, device=device
    )  # fmt: skip


@torch.no_grad()
def _follow(points: Points, rows: Tensor, depth: int, k: int, noisy: bool, seed: int, bar: tqdm) -> _Run:
    """Carry starts and tangent vectors to the end."""
    z, x, keys = points.z[rows], points.context(rows), None
    if noisy:
        keys = points.row_keys(seed, rows)
    frame = first_frame(points, rows, k, seed)
    least = torch.finfo(z.dtype).tiny
    logs, drift = [], []
    for t in range(1, depth + 1):
        previous = z
        z, block = advance(one_step(points.system, x, z, keys, t), frame)
        frame, R = triangular(block)
        logs.append(log_factors(R).cpu())
        size, move = norms(z, z - previous)
        drift.append((move / size.clamp(min=least)).clamp(min=least).log().cpu().double())
        bar.update(len(rows))
    answer = points.system.decode(z, x).cpu().numpy()
    return _Run(torch.stack(logs, 1).numpy(), torch.stack(drift, 1).numpy(), answer)


def _means(values: np.ndarray, windows: int) -> np.ndarray:
    """Return the means (P, B, windows, ...) of values (P, B, steps, ...) over successive windows."""
    return values.reshape(*values.shape[:2], windows, -1, *values.shape[3:]).mean(3)


def _conditioned(
    exponent: np.ndarray, drift: np.ndarray, right: np.ndarray, confidence: float, resamples: int, seed: int
) -> dict[str, schema.Variable]:
    """Return AUCs and means over windows; exponent and drift are (P, B, windows), `right` (P, B)."""
    puzzles, windows = len(right), exponent.shape[2]
    columns: dict[str, list[tuple[float, float, float]]] = {}
    having = {name: int(side.any(1).sum()) for name, side in (("right", right), ("wrong", ~right))}
    both, rare = int((right.any(1) & ~right.all(1)).sum()), min(having.values())
    for w in range(windows):
        order = value_order(right.sum(1), np.sort(drift[:, :, w], 1))
        statistics = _statistics(exponent[order, :, w], drift[order, :, w], right[order])
        joint = functools.partial(_all, list(statistics.values()))
        center = joint(np.ones(puzzles))
        low, high = cluster_bootstrap(joint, puzzles, confidence=confidence, resamples=resamples, seed=seed)
        for i, name in enumerate(statistics):
            bounds = (low[i], high[i])
            if having.get(name, 2) < 2:
                bounds = (np.nan, np.nan)  # a single puzzle, drawn again and again
            elif name not in having and np.isfinite(center[i]):  # an AUC, or the difference of two
                count, least = both if name.startswith("within") else rare, -1.0 if name == "gain" else 0.0
                bounds = widened(center[i], *bounds, count, confidence, least=least)
            columns.setdefault(name, []).append((center[i], float(bounds[0]), float(bounds[1])))
    table = {name: np.array(column).T for name, column in columns.items()}  # (3, windows)
    chance = "chance that of a wrong and a right run the wrong one scores higher"
    grid = {
        "auc": (("score", "window"), ("exponent", "drift"), chance),
        "auc_within": (("score", "window"), ("within exponent", "within drift"), f"{chance}, within puzzles"),
        "mean_exponent": (("outcome", "window"), OUTCOMES, "mean exponent of the runs whose exponent is finite"),
    }  # fmt: skip
    variables: dict[str, schema.Variable] = {}
    for name, (dims, parts, text) in grid.items():
        variables |= Interval(*np.stack([table[part] for part in parts], 1)).variables(name, dims, text)
    gain = "AUC of the exponent minus that of the drift"
    variables |= Interval(*table["gain"]).variables("auc_gain", ("window",), gain)
    variables["puzzles_with_both"] = ((), np.int64(both), "puzzles with right and wrong runs")
    return variables


def _statistics(exponent: np.ndarray, drift: np.ndarray, right: np.ndarray) -> dict[str, Callable]:
    """Return the statistics of one window, each a function of puzzle weights; all arguments (P, B)."""
    first, second = PooledAuc(exponent, ~right), PooledAuc(drift, ~right)
    return {
        "exponent": first,
        "drift": second,
        "within exponent": mean_where_defined(first.within()),
        "within drift": mean_where_defined(second.within()),
        "gain": lambda weight: first(weight) - second(weight),
        "right": functools.partial(_mean, exponent, right),
        "wrong": functools.partial(_mean, exponent, ~right),
    }


def _all(statistics: list[Callable], weight: np.ndarray) -> np.ndarray:
    return np.array([statistic(weight) for statistic in statistics])


def _mean(values: np.ndarray, chosen: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of the chosen finite values (P, B) under puzzle weights, NaN without any."""
    use = chosen & np.isfinite(values)
    total = weight @ use.sum(1)
    return float(weight @ np.where(use, values, 0.0).sum(1) / total) if total > 0 else float("nan")
