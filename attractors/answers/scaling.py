"""Test-time scaling from one ensemble: the accuracy of every selector over depth and breadth, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.attractors.answers import selectors
from eqrlab.attractors.answers.alignment import depth_points
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import (
    RESAMPLES,
    mean_over_puzzles,
    resampled,
    share_over_puzzles,
    value_order,
    widened,
)
from eqrlab.attractors.statistics.intervals import check_confidence


def scaling(
    ensemble: xr.Dataset,
    depths: Sequence[int] | None = None,
    breadths: Sequence[int] | None = None,
    *,
    layers: int | None = None,
    worth: float = 0.01,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Compute the accuracy of every selector with B restarts of D steps, for all D and B up to the ensemble's.

    Parameters
    ----------
    ensemble
        From `sample`, with labels or an oracle.
    depths, breadths
        Steps D and restarts B to report; None: powers of two and all there are.
    layers
        Equivalent layers of one outer step; None: not reported.
    worth
        Gain in accuracy that makes breadth pay.
    confidence, resamples, seed
        Of the bootstrap, which draws whole puzzles.

    Returns
    -------
    xarray.Dataset
        Over (selector, depth, breadth): `accuracy` with `_low`, `_high`; `gain` over one restart of the same depth, the
        same; `pareto` = no cheaper point is as accurate, and `pareto_support` = share of the resamples in which that
        holds.  `accuracy_puzzle(puzzle, selector, depth, breadth)`.  Over (depth, breadth): `nfe` = D B, `nle` =
        equivalent layers, `top1_minus_majority` with bounds and `top1_worse` where all of its interval is below 0,
        `nfe_first_to_halt` with bounds = steps spent when all restarts of a puzzle stop with the first that halts,
        `path_gap` with bounds = probability that exactly one of two restarts of a puzzle is right, the same at any
        breadth, NaN with a single restart.  Over selector:
        `onset` = smallest reported depth from which on the largest number of restarts gains `worth`, with bounds;
        infinite if it does not at the last depth.
        The attribute `warning` is a sentence.  Selectors: `top1_converged` (least residual, mean of the last 3 steps),
        `top1_logit_delta` (least change of logits, where kept), `majority` (whole answers), `halting` (highest halting
        logit), `first_to_halt` (answer of the first restart whose halting logit exceeds 0), `answer_entropy` (least,
        where recorded), `settle_time` (answer unchanged for longest), `mean`, `any_correct`.

    Raises
    ------
    ValueError
        When nothing is known of correctness, or for depths and breadths outside those of the ensemble.

    Notes
    -----
    With fewer restarts than the ensemble has, a value is the average over all subsets of that many (closed
    forms; votes of more than 64 are drawn), so that it is unbiased for fresh restarts; ties share, a NaN score
    is the worst. Ties that go to the answer of the first restart are the same on average. Restarts are never
    pooled over puzzles: all intervals resample puzzles, and differences are paired by puzzle.  `nfe` counts
    outer steps; with noise on, the noise-free residual of the last 3 steps costs `top1_converged` 3 B more.
    `first_to_halt` uses only the halting logit, also for families that compare it with a second logit. Cost:
    selectors x D x B closed forms per puzzle; seconds for 500 puzzles with 32 restarts.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, eqs. 19 to 21; Chen et al. 2021 (the unbiased estimate of any-correct).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn((len(x), 1), generator=g),
    ...                    lambda z, x: (z > 0).long() + 1)
    >>> ensemble = sample(system, torch.arange(2)[:, None], labels=torch.tensor([[2], [2]]), restarts=8, depth=4)
    >>> bool((scaling(ensemble).accuracy.sel(selector="any_correct").diff("breadth") >= 0).all())
    True
    """
    names = selectors.available(ensemble)
    check_confidence(confidence)
    ensemble = common_restarts(ensemble)
    steps, restarts = ensemble.sizes["step"], ensemble.sizes["restart"]
    depth = _grid(depths, depth_points(steps), steps, "depths")
    breadth = _grid(breadths, depth_points(restarts), restarts, "breadths")
    if layers is not None and layers < 1:
        raise ValueError(f"layers must be >= 1, got {layers}")
    chance = selectors.accuracy_table(ensemble, names, depth, breadth)
    one = selectors.accuracy_table(ensemble, ["mean"], depth, [1])
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    cell, point = ("selector", "depth", "breadth"), ("depth", "breadth")
    variables: dict[str, schema.Variable] = {
        "accuracy_puzzle": (("puzzle", *cell), chance, "chance that the chosen answer is right")
    }
    text = "share of puzzles whose chosen answer is right"
    variables |= Interval(*share_over_puzzles(chance, **draw)).variables("accuracy", cell, text)
    text = "accuracy above that of one restart of the same depth"
    variables |= Interval(*share_over_puzzles(chance - one, least=-1.0, **draw)).variables("gain", cell, text)
    # Cost of every point, in outer steps and in layers, so that models of different size compare.
    nfe = np.outer(depth, breadth)
    variables["nfe"] = (point, nfe, "outer steps a puzzle: depth times breadth")
    if layers is not None:
        variables["nle"] = (point, nfe * layers, "equivalent layers a puzzle")
    # Whether the residual misleads: the warning of the result rests on this paired difference.
    top, vote = (chance[:, names.index(n)] for n in ("top1_converged", "majority"))
    difference = share_over_puzzles(top - vote, least=-1.0, **draw)
    text = "accuracy of least residual minus that of the majority vote"
    variables |= Interval(*difference).variables("top1_minus_majority", point, text)
    worse = difference[2] < -1e-9  # beyond rounding
    variables["top1_worse"] = (
        point,
        worse,
        "least residual is worse than the majority vote, beyond its interval",
    )
    text = "chance that two restarts of a puzzle disagree in being right"
    known = np.nan if restarts < 2 else 1.0
    gap = [known * bound for bound in share_over_puzzles(path_gap(ensemble, depth, breadth), **draw)]
    variables |= Interval(*gap).variables("path_gap", point, text)
    if "first_to_halt" in names:
        text = "outer steps a puzzle when all its restarts stop with the first that halts"
        spent = steps_to_first_halt(ensemble, depth, breadth)
        mean, low, high = mean_over_puzzles(spent, **draw)
        ends = widened(mean, low, high, len(spent), confidence, 1.0, nfe)
        variables |= Interval(mean, *ends).variables("nfe_first_to_halt", point, text)
    # Summaries for a reader: the cheapest points, and the depth from which breadth pays.
    front, support = _pareto(chance, nfe, resamples, seed)
    variables["pareto"] = (cell, front, "no point of fewer outer steps is as accurate")
    variables["pareto_support"] = (cell, support, "share of resamples of puzzles in which that holds")
    text = (
        f"least depth from which on {breadth[-1]} restarts gain {worth:g} over one; infinite: not at the last"
    )
    variables |= Interval(*_onset(chance[..., -1] - one[..., 0], depth, worth, draw)).variables(
        "onset", ("selector",), text
    )
    attributes = {
        **schema.carried(ensemble),
        "confidence": confidence,
        "bootstrap": f"{resamples} resamples of puzzles, seed {seed}",
        "layers": layers,
        "worth": worth,
        "warning": _warning(worse, depth, breadth),
    }
    coordinates = {"depth": depth, "breadth": breadth, "selector": names, "puzzle": ensemble.puzzle.values}
    return schema.dataset(variables, attributes, coordinates)


def _grid(values: Sequence[int] | None, default: np.ndarray, most: int, name: str) -> np.ndarray:
    if values is None:
        return default
    found = np.unique(np.asarray(values))
    if not found.size or (found != found.astype(int)).any() or found[0] < 1 or found[-1] > most:
        raise ValueError(f"{name} must be integers from 1 to the {most} of the ensemble, got {list(values)}")
    return found.astype(int)


def path_gap(ensemble: xr.Dataset, depths: np.ndarray, breadths: np.ndarray) -> np.ndarray:
    """Return the path-independence gap (puzzle, depth, breadth), the same at every breadth; 0 with one restart."""
    right = ensemble.correct.values[:, :, depths - 1]
    if right.shape[1] < 2:
        return np.zeros((len(right), len(depths), len(breadths)))
    gap = np.stack([path_independence_gap(right[..., i]) for i in range(len(depths))], axis=1)
    return np.repeat(gap[..., None], len(breadths), axis=2)


def path_independence_gap(correct: np.ndarray) -> np.ndarray:
    """Return the path-independence gap of each puzzle, (P,), from which restarts are right, (P, B) bool.

    Notes
    -----
    Delta_PI = E_x |mean accuracy over B restarts - accuracy of one|, where "one" is a further restart, independent of
    the B.  Let p be the chance that a restart of x is right.  The mean m over B has E m = p, and "one" is 1 or 0, so
    E|m - one| = p E(1 - m) + (1 - p) E m = 2 p (1 - p) for every B: the chance that two restarts disagree.  The share
    of pairs of restarts that disagree, 2 k (B - k) / (B (B - 1)) with k of B right, estimates it without bias.  If
    "one" were among the B, as in the paper, the gap would be (B - 1) / B times that.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488: the gap between the mean accuracy over restarts and that of one.

    Raises
    ------
    ValueError
        With fewer than two restarts.

    Examples
    --------
    >>> path_independence_gap(np.array([[True, True, False, False], [True, True, True, True]])).round(3).tolist()
    [0.667, 0.0]
    """
    breadth = correct.shape[1]
    if breadth < 2:
        raise ValueError(f"the path-independence gap needs at least 2 restarts, got {breadth}")
    right = correct.sum(1)
    return 2 * right * (breadth - right) / (breadth * (breadth - 1))


def steps_to_first_halt(ensemble: xr.Dataset, depths: np.ndarray, breadths: np.ndarray) -> np.ndarray:
    """Return outer steps (puzzle, depth, breadth) spent if the restarts of a puzzle stop with the first that halts."""
    spent = np.empty((ensemble.sizes["puzzle"], len(depths), len(breadths)))
    for i, depth in enumerate(depths):
        ranked = np.sort(np.minimum(selectors.halting(ensemble, int(depth))[0], depth), axis=1)
        for j, breadth in enumerate(breadths):
            spent[:, i, j] = breadth * (ranked @ selectors.rank_weights(ranked.shape[1], int(breadth)))
    return spent


def _pareto(chance: np.ndarray, nfe: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which points (selector, depth, breadth) no cheaper or equal one beats, and how often in resamples."""
    cost = nfe.ravel()
    order = np.argsort(cost, kind="stable")
    sorted_cost = cost[order]
    before = np.searchsorted(sorted_cost, sorted_cost, "left")  # points that cost less
    upto = np.searchsorted(sorted_cost, sorted_cost, "right")  # that cost no more

    def on_front(weight: np.ndarray) -> np.ndarray:
        value = np.tensordot(weight, chance, 1) / weight.sum()
        value = value.reshape(len(value), -1)[:, order]
        best = np.concatenate([np.full((len(value), 1), -np.inf), np.maximum.accumulate(value, 1)], 1)
        fine = (value > best[:, before] + 1e-12) & (value >= best[:, upto] - 1e-12)
        result = np.empty_like(fine)
        result[:, order] = fine
        return result.reshape(chance.shape[1:])

    puzzles, chance = len(chance), chance[value_order(chance)]
    support = sum(on_front(w).astype(float) for w in resampled(puzzles, resamples, seed)) / resamples
    return on_front(np.ones(puzzles)), np.asarray(
        support if puzzles > 1 else np.full(chance.shape[1:], np.nan)
    )


def _onset(
    gain: np.ndarray, depth: np.ndarray, worth: float, draw: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per selector the least depth from which on the mean gain (puzzle, selector, depth) reaches `worth`."""

    def onset(weight: np.ndarray) -> np.ndarray:
        pays = np.tensordot(weight, gain, 1) / weight.sum() >= worth
        pays = np.logical_and.accumulate(pays[:, ::-1], axis=1)[:, ::-1]  # there and at all greater depths
        return np.where(pays.any(1), depth[pays.argmax(1)], np.inf)

    value = onset(np.ones(len(gain)))
    if len(gain) < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    gain = gain[value_order(gain)]
    found = np.sort([onset(w) for w in resampled(len(gain), draw["resamples"], draw["seed"])], axis=0)
    tail = int((1 - draw["confidence"]) / 2 * len(found))
    return value, found[tail], found[-1 - tail]


def _warning(worse: np.ndarray, depth: np.ndarray, breadth: np.ndarray) -> str:
    """Return a sentence if the least residual chooses worse than the majority."""
    tried = worse[:, breadth > 1]
    if not tried.any():
        return "none"
    where = depth[tried.any(1)]
    shown = f"depth {where[0]}" if len(where) == 1 else f"depths {', '.join(map(str, where))}"
    return (
        f"Choosing by least residual is worse than a majority vote, beyond its interval, at {tried.sum()} of "
        f"{tried.size} points with several restarts ({shown}): the residual does not mean correct there."
    )
