"""Policies of adaptive inference applied to a stored ensemble without new steps, and costs at matched accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from eqrlab.attractors.answers.adaptive import described, totals
from eqrlab.attractors.answers.policy import REASONS, Policy, Race
from eqrlab.attractors.ensemble.arguments import is_whole, require_known
from eqrlab.attractors.ensemble.schedule import require_all
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import require_equal
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import RESAMPLES, cluster_bootstrap, value_order, widened


def replay(
    ensemble: xr.Dataset,
    policy: Policy,
    *,
    orders: int = 1,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> xr.Dataset:
    """Apply a policy to the stored runs of an ensemble, as `adaptive` would have applied it to fresh ones.

    Parameters
    ----------
    ensemble
        From `sample`, with at least the policy's restarts and depth, and with labels or an oracle.
    policy
        See `Policy`.
    orders
        Number of rotations of the order of restarts to average over; 1 keeps the order, and agrees with `adaptive`.
    confidence, resamples
        Of the intervals, which resample whole puzzles.

    Returns
    -------
    xarray.Dataset
        `correct`, `nfe`, `latency` over puzzle, means over the orders; `accuracy`, `mean_nfe`, `mean_latency` with
        `_low`, `_high`; with one order `chosen` and `reason` as in `adaptive`.

    Raises
    ------
    ValueError
        If the ensemble is too small for the policy, or lacks a quantity that it uses.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.ones(len(x), 1, dtype=torch.float64))
    >>> ensemble = sample(half, torch.arange(5)[:, None], labels=torch.ones(5, 1, dtype=int), restarts=1, depth=9)
    >>> float(replay(ensemble, Policy(stop="settled", settled_below=1.5, window=3, depth=9)).mean_nfe)
    4.0
    """
    check_enough(ensemble, policy)
    race, right = _play(observed(ensemble), policy, orders)
    puzzles = ensemble.sizes["puzzle"]
    mean = lambda values: values.reshape(orders, puzzles).mean(0)
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples}
    latency = mean(race.clock)
    variables = totals([policy], mean(right), mean(race.spent), latency, **draw)
    variables["latency"] = (("puzzle",), latency, "outer steps made one after another")
    codes = {}
    if orders == 1:
        variables["chosen"] = (("puzzle",), race.chosen, "restart whose answer is chosen")
        variables["reason"] = (("puzzle",), race.reason, "why the answer was chosen then")
        codes["reason"] = REASONS
    attributes = {**schema.carried(ensemble), **described(policy), "orders": orders, "confidence": confidence}
    return schema.dataset(variables, attributes, {"puzzle": ensemble.puzzle.values}, codes)


class Observed(NamedTuple):
    """What policies look at, over (puzzle, restart, step)."""

    update: np.ndarray
    halt: np.ndarray
    code: np.ndarray
    correct: np.ndarray


def check_enough(ensemble: xr.Dataset, policy: Policy) -> None:
    """Refuse, with a ValueError, an ensemble that is too small for a policy or lacks what it looks at."""
    require_known(ensemble, "a replay")
    require_all(ensemble, "a replay")
    require_equal(ensemble, "a replay")
    for name, dim in (("restarts", "restart"), ("depth", "step")):
        if getattr(policy, name) > ensemble.sizes[dim]:
            raise ValueError(
                f"the policy has {name} {getattr(policy, name)}, the ensemble only {ensemble.sizes[dim]}"
            )
    if policy.commit:
        raise ValueError(
            "a policy with commit needs new runs, and a replay has only recorded ones: use adaptive"
        )
    if policy.needs_halting and "halt_logit" not in ensemble:
        raise ValueError(
            "the policy needs a halting logit, which the ensemble does not have; choose stop='settled'"
        )


def observed(ensemble: xr.Dataset) -> Observed:
    """Return the relative updates, halting logits (NaN where there are none) and answers of an ensemble."""
    residual, relative = ensemble.residual.values, ensemble.relative_residual.values
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.where(
            (residual > 0) & (relative > 0), residual / relative, ensemble["scale"].values[..., None]
        )
        update = ensemble["update"].values / norm
    halt = ensemble.halt_logit.values if "halt_logit" in ensemble else np.full_like(update, np.nan)
    return Observed(update, halt, ensemble.answer_id.values.astype(np.uint64), ensemble.correct.values)


def _play(seen: Observed, policy: Policy, orders: int) -> tuple[Race, np.ndarray]:
    """Run the race of a policy on recorded runs, for so many rotations of the restarts one after another.

    Returns
    -------
    race, right
        Rows (order, puzzle) of the race, and whether the answer chosen there is right.
    """
    puzzles, restarts, steps = seen.correct.shape
    if not is_whole(orders) or not 1 <= orders <= restarts:
        raise ValueError(f"orders must be an integer from 1 to the {restarts} restarts, got {orders}")
    race = Race(policy, puzzles * orders)
    puzzle = np.tile(np.arange(puzzles), orders)
    shift = np.repeat(np.arange(orders) * restarts // orders, puzzles)
    ids = np.arange(len(puzzle))
    while len(ids):
        restart = (race.restart[ids] + shift[ids][:, None]) % restarts
        step = np.minimum(race.step[ids], steps - 1)  # that of lanes without a run counts for nothing
        update, halt, code = (values[puzzle[ids][:, None], restart, step] for values in seen[:3])
        race.advance(ids, update, halt, code)
        ids = ids[race.chosen[ids] < 0]
    last = race.used[np.arange(len(puzzle)), race.chosen] - 1
    return race, seen.correct[puzzle, (race.chosen + shift) % restarts, last]


def best_policy(
    ensemble: xr.Dataset, policies: Sequence[Policy], accuracy: float, *, orders: int = 1
) -> tuple[Policy, xr.Dataset]:
    """Return the policy that reaches an accuracy with the fewest outer steps, and its replay.

    Parameters
    ----------
    ensemble
        Of puzzles other than those on which the policy will be judged: the best of many candidates looks better on
        the puzzles that chose it than it is.
    policies
        Candidates.
    accuracy
        Share of puzzles to be answered right.  Where none reaches it, the most accurate one is returned, the cheapest
        among equals.
    orders
        See `replay`.

    Raises
    ------
    ValueError
        Without policies, and as in `replay`.
    """
    if not policies:
        raise ValueError("best_policy needs at least one policy")
    for policy in policies:
        check_enough(ensemble, policy)
    seen, found = observed(ensemble), []
    for policy in policies:
        race, right = _play(seen, policy, orders)
        found.append((float(right.mean()), float(race.spent.mean())))
    reached = [i for i, (share, _) in enumerate(found) if share >= accuracy - 1e-12]
    if reached:
        best = min(reached, key=lambda i: found[i][1])
    else:
        best = min(range(len(found)), key=lambda i: (-found[i][0], found[i][1]))
    return policies[best], replay(ensemble, policies[best], orders=orders)


def matched_cost(
    baseline: xr.Dataset,
    result: xr.Dataset,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Compare the cost of adaptive inference with that of one restart of a fixed depth, at the same accuracy.

    Parameters
    ----------
    baseline
        Ensemble of the same puzzles, in the same order, with labels or an oracle; its first restart is the baseline.
    result
        From `adaptive` or `replay`: `correct` and `nfe` over puzzle.
    confidence, resamples, seed
        Of the intervals, which resample puzzles, the same for both sides.

    Returns
    -------
    xarray.Dataset
        `baseline_nfe` = smallest depth at which the baseline is as accurate as the result, or reaches its own
        best if that is lower; `ratio` = `baseline_nfe` over the mean NFE of the result; `difference` = accuracy
        of the result minus that of the baseline at that depth; each with `_low`, `_high`.
        `baseline_accuracy(step)`, `exceeds` = the result is more accurate than the baseline at any depth.

    Raises
    ------
    ValueError
        When nothing is known of correctness, or the puzzles differ in number.

    Notes
    -----
    The matching depth is found again in every resample of puzzles, so that the interval of the ratio includes its
    uncertainty.  If the baseline hardly gains from depth, the interval is wide: a small change of the accuracy moves
    the depth a lot.
    """
    if "correct" not in baseline or "correct" not in result:
        raise ValueError("costs at matched accuracy need to know what is correct on both sides")
    if baseline.sizes["puzzle"] != result.sizes["puzzle"]:
        raise ValueError(
            f"both sides must have the same puzzles, got {baseline.sizes['puzzle']} and {result.sizes['puzzle']}"
        )
    curve = baseline.correct.values[:, 0].astype(float)
    correct, nfe = result.correct.values.astype(float), result.nfe.values.astype(float)
    order = value_order(correct, nfe, curve)
    curve, correct, nfe = curve[order], correct[order], nfe[order]

    def compare(weight: np.ndarray) -> np.ndarray:
        share = weight / weight.sum()
        accuracy, reached = share @ curve, share @ correct
        level = min(reached, accuracy.max())
        depth = int(np.argmax(accuracy >= level - 1e-12)) + 1
        return np.array([depth, depth / (share @ nfe), reached - accuracy[depth - 1]])

    value = compare(np.ones(len(curve)))
    low, high = cluster_bootstrap(compare, len(curve), confidence=confidence, resamples=resamples, seed=seed)
    low[2], high[2] = widened(value[2], low[2], high[2], len(curve), confidence, least=-1.0)
    texts = {
        "baseline_nfe": "least depth at which one restart of the baseline is as accurate as it can match",
        "ratio": "outer steps of the baseline over those of the result, at matched accuracy",
        "difference": "accuracy of the result minus that of the baseline at that depth",
    }
    variables: dict[str, schema.Variable] = {
        "baseline_accuracy": (("step",), curve.mean(0), "share of puzzles the baseline answers right"),
        "exceeds": (
            (),
            np.bool_(correct.mean() > curve.mean(0).max()),
            "the result is more accurate than the baseline at any depth",
        ),
    }
    for i, (name, text) in enumerate(texts.items()):
        variables |= Interval(value[i], low[i], high[i]).each(np.float64).variables(name, (), text)
    attributes = {
        **schema.carried(result),
        "confidence": confidence,
        "bootstrap": f"{resamples} resamples of puzzles",
    }
    return schema.dataset(variables, attributes, {"step": baseline.step.values})
