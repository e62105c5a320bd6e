"""Does the residual tell right from wrong?  Correlation, AUC, and the accuracy of every selector, by depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.attractors.answers.selectors import accuracy_table, available
from eqrlab.attractors.ensemble.arguments import require_known
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import (
    RESAMPLES,
    cluster_bootstrap,
    mean_where_defined,
    share_over_puzzles,
    value_order,
    widened,
)
from eqrlab.attractors.statistics.ranks import PooledAuc, PooledSpearman

SHOWN = ("top1_converged", "majority", "halting", "answer_entropy", "settle_time", "mean", "any_correct")


def alignment(
    ensemble: xr.Dataset, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> xr.Dataset:
    """Measure how well the residual tracks error, and how accurate every selector is.

    Parameters
    ----------
    ensemble
        From `sample`, with labels or an oracle.
    confidence, resamples, seed
        Of the bootstrap, which draws whole puzzles.

    Returns
    -------
    xarray.Dataset
        Over depth (powers of two and the last step): `auc` = probability that a wrong run has a higher residual
        than a right one, pooled over puzzles, `auc_within` = its mean over puzzles that have both, `spearman` = rank
        correlation of residual and error (share of wrong cells; without labels, wrong or right), each with `_low`,
        `_high`; `status` says why a value is NaN (`auc_within` is, too, where no puzzle has both).
        `auc_puzzle(puzzle, depth)`.  `accuracy(selector, depth)` with `_low`, `_high`, and
        `accuracy_puzzle(puzzle, selector, depth)`: `top1_converged` (least mean residual over the
        last 3 steps), `majority` (whole answers; ties share), `halting` (highest halting logit, where there is one),
        `answer_entropy` (least, where the system has logits), `settle_time` (answer unchanged for longest; ties share),
        `mean` (one restart, on average), `any_correct` (the ceiling).

    Raises
    ------
    ValueError
        If correctness is unknown.

    Notes
    -----
    If puzzles have unequal numbers of restarts, the restarts that all of them have are used (`common_restarts`).

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, eqs. 19 to 21.
    """
    require_known(ensemble, "alignment")
    ensemble = common_restarts(ensemble)
    depths = depth_points(ensemble.sizes["step"])
    residual = ensemble.residual.values.astype(float)
    correct = ensemble.correct.values
    puzzles = len(residual)
    error = 1.0 - ensemble.token_accuracy.values.astype(float) if "token_accuracy" in ensemble else None
    # The residual as a score, at each depth: statistics are functions of puzzle weights, for the bootstrap.
    shape = len(depths)
    values = {n: np.full(shape, np.nan) for n in ("auc", "auc_within", "spearman")}
    bounds = {n: np.full((2, shape), np.nan) for n in values}
    auc_puzzle = np.full((puzzles, shape), np.nan)
    status = np.zeros(shape, np.int8)
    for i, depth in enumerate(depths):
        score, wrong = residual[:, :, depth - 1], ~correct[:, :, depth - 1]
        if not wrong.any() or wrong.all():
            status[i] = schema.STATUS.index("all_wrong" if wrong.any() else "all_right")
        elif (score == score[0, 0]).all() or np.isnan(score).all():
            status[i] = schema.STATUS.index("no_residual_spread")
        wrongness = wrong.astype(float) if error is None else np.nan_to_num(error[:, :, depth - 1], nan=1.0)
        order = value_order(wrong.sum(1), np.sort(score, 1))
        score, wrong, wrongness = score[order], wrong[order], wrongness[order]
        pooled = PooledAuc(score, wrong)
        auc_puzzle[order, i] = pooled.within()
        within = mean_where_defined(np.sort(auc_puzzle[:, i]))
        spearman = PooledSpearman(np.where(np.isnan(score), np.inf, score), wrongness)
        having = min(wrong.any(1).sum(), (~wrong).any(1).sum())  # puzzles on the rarer side
        both = np.isfinite(auc_puzzle[:, i]).sum()
        statistics: dict[str, tuple[Callable[[np.ndarray], Any], int, float]] = {
            "auc": (pooled, having, 0.0),
            "auc_within": (within, both, 0.0),
            "spearman": (spearman, having, -1.0),
        }
        for name, (statistic, puzzles_having, least) in statistics.items():
            values[name][i] = statistic(np.ones(puzzles))
            if np.isfinite(values[name][i]):
                interval = cluster_bootstrap(
                    statistic, puzzles, confidence=confidence, resamples=resamples, seed=seed
                )
                bounds[name][:, i] = widened(
                    values[name][i], *interval, puzzles_having, confidence, least=least
                )
    # What the residual is for: how accurate choosing by it is, beside all other selectors.
    selected = selector_accuracy(ensemble, depths)
    names = list(selected)
    per_puzzle = np.stack([selected[n] for n in names], axis=1)
    accuracy = Interval(
        *share_over_puzzles(per_puzzle, confidence=confidence, resamples=resamples, seed=seed)
    )
    text = {
        "auc": "probability that the wrong one of a right and a wrong run has the higher residual",
        "auc_within": "the same within a puzzle, averaged over puzzles that have both",
        "spearman": "rank correlation of residual and error",
    }
    variables: dict[str, schema.Variable] = {}
    for name, value in values.items():
        variables |= Interval(value, *bounds[name]).variables(name, ("depth",), text[name])
    variables["status"] = (("depth",), status, "why a correlation is undefined")
    variables["auc_puzzle"] = (("puzzle", "depth"), auc_puzzle, "AUC within the puzzle")
    pair = ("selector", "depth")
    variables |= accuracy.variables("accuracy", pair, "share of puzzles whose chosen answer is right")
    variables["accuracy_puzzle"] = (("puzzle", *pair), per_puzzle, "chance that the chosen answer is right")
    attributes = {
        **schema.carried(ensemble),
        "confidence": confidence,
        "bootstrap": f"{resamples} resamples of puzzles, seed {seed}",
    }
    coordinates = {"depth": depths, "selector": names, "puzzle": ensemble.puzzle.values}
    return schema.dataset(variables, attributes, coordinates, {"status": schema.STATUS})


def depth_points(depth: int) -> np.ndarray:
    """Return the depths at which results are reported: powers of two and the last."""
    return np.unique([*(2 ** np.arange(int(np.log2(depth)) + 1)), depth])


def selector_accuracy(ensemble: xr.Dataset, depths: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each selector the chance (puzzle, depth) that the answer it chooses among all restarts is right."""
    names = [n for n in SHOWN if n in available(ensemble)]
    table = accuracy_table(ensemble, names, depths, [ensemble.sizes["restart"]])
    return {name: table[:, i, :, 0] for i, name in enumerate(names)}
