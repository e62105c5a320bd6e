"""Settling against correctness: the table of four, the effect of depth, and statements without any threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eqrlab.attractors.ensemble.arguments import require_known
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import RESAMPLES, cluster_bootstrap, value_order, widened
from eqrlab.attractors.statistics.intervals import check_confidence
from eqrlab.attractors.statistics.ranks import PooledAuc

SETTLING = ("settled", "not_settled")
CORRECTNESS = ("right", "wrong")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def outcomes(
    runs: xr.Dataset, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> xr.Dataset:
    """Count how runs end: settled or not, right or wrong, at one depth or several.

    Parameters
    ----------
    runs
        From `sample` (its last step is the one depth) or `prolong`, with labels or an oracle.
    confidence, resamples, seed
        Of the bootstrap, which draws whole puzzles.

    Returns
    -------
    xarray.Dataset
        Over depth: `count` and `share` (settling, correctness); `fate_count` and `fate_share` (fate_name, correctness);
        `accuracy`; of the wrong runs `settled_of_wrong`, `unfinished_of_wrong`; and without any threshold `auc` = the
        probability that the wrong one of a right and a wrong run has the higher relative residual, `least_wrong` = the
        smallest relative residual of a wrong run, `right_below` = share of right runs below that, and
        `residual_quantile` (correctness, quantile).  With several depths: `late_solved` = share of the runs wrong at
        the first depth that are right at this one, `reverted` = share of those right at some earlier depth that are
        wrong, `collapsed` = the same of those right and settled then.  Shares and the AUC have `_low` and `_high`.

    Raises
    ------
    ValueError
        If correctness is unknown, or the confidence is outside (0, 1).

    Notes
    -----
    Restarts of a puzzle are not independent, so every interval resamples whole puzzles.  If all puzzles agree, the
    bounds follow from the number of puzzles that have such runs (see `bootstrap.share_over_puzzles`). NaN means that
    there is no run to count, a single puzzle, or, for `reverted` and `collapsed`, that not all runs were continued.
    "Settled" is the fate of that name, hence relative to the model; the AUC and `right_below` do not depend on it.

    References
    ----------
    Hao 2026 (failures wander); Krishna et al. 2026 (most failures are unfinished); Equilibrium Reasoners, arXiv
    2605.21488, eq. 7 (when a small residual certifies).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> start = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    >>> sign = MapSystem(lambda z, x: torch.tanh(3 * z), start, lambda z, x: (z > 0).long() + 1)
    >>> inputs = torch.zeros(1, 1, dtype=torch.long)
    >>> table = outcomes(sample(sign, inputs, labels=torch.tensor([[2]]), restarts=8, depth=32))
    >>> table["count"].values.tolist()  # settled: right, wrong; not settled: right, wrong
    [[[4, 4], [0, 0]]]
    """
    require_known(runs, "outcomes")
    check_confidence(confidence)
    runs = common_restarts(runs)
    fate, correct, relative, depths = _by_depth(runs)
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    every = np.ones(fate.shape, bool)
    settled = fate == CODE["settled"]
    sides = (correct, ~correct)
    cells = np.stack([np.stack([row & side for side in sides]) for row in (settled, ~settled)])
    kinds = np.stack([np.stack([(fate == i) & side for side in sides]) for i in range(len(schema.FATES))])
    first_wrong = np.broadcast_to(~correct[..., :1], correct.shape)
    known = str(runs.attrs.get("which", "all")) == "all"
    before = _earlier(correct) if known else np.zeros_like(correct)
    shares = {
        "share": (cells, every, ("settling", "correctness"), "share of the runs"),
        "fate_share": (kinds, every, ("fate_name", "correctness"), "share of the runs"),
        "accuracy": (correct, every, (), "share of the runs that are right"),
        "settled_of_wrong": (settled & ~correct, ~correct, (), "share of the wrong runs that settled"),
        "unfinished_of_wrong": (
            (fate == CODE["unfinished"]) & ~correct,
            ~correct,
            (),
            "share of the wrong runs that are unfinished",
        ),
    }
    if len(depths) > 1:
        rest = _earlier(correct & settled) if known else np.zeros_like(correct)
        shares |= {
            "late_solved": (first_wrong & correct, first_wrong, (), "share right among runs wrong at the first depth"),
            "reverted": (before & ~correct, before, (), "share wrong among runs right at a smaller depth"),
            "collapsed": (rest & ~correct, rest, (), "share wrong among runs settled and right at a smaller depth"),
        }  # fmt: skip
    variables: dict[str, schema.Variable] = {}
    for name, (part, whole, axes, text) in shares.items():
        dims = ("depth", *axes)
        counts = (np.moveaxis(np.broadcast_to(event, part.shape).sum(-2), -1, 0) for event in (part, whole))
        values = [share_of_runs(some, of, **draw) for some, of in zip(*counts, strict=True)]
        variables |= Interval(*map(np.stack, zip(*values, strict=True))).variables(name, dims, text)
    for name, part in (("count", cells), ("fate_count", kinds)):
        dims = variables["share" if name == "count" else "fate_share"][0]
        variables[name] = (dims, np.moveaxis(part.sum((2, 3)), -1, 0).astype(np.int32), "runs")
    variables |= _without_threshold(relative, correct, draw)
    attributes = {**schema.carried(runs), "confidence": confidence}
    attributes["bootstrap"] = f"{resamples} resamples of puzzles, seed {seed}"
    coordinates = {
        "depth": depths, "settling": list(SETTLING), "correctness": list(CORRECTNESS), "quantile": list(QUANTILES),
        "fate_name": list(schema.FATES),
    }  # fmt: skip
    return schema.dataset(variables, attributes, coordinates)


def _by_depth(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return fate, correctness and relative residual, all (puzzle, restart, depth), and the depths."""
    if "depth" in runs.dims:
        relative = runs.relative_residual.values.astype(float)
        return runs.fate.values, runs.correct.values.astype(bool), relative, runs.depth.values
    last = runs.isel(step=[-1])
    relative = last.relative_residual.values.astype(float)
    return runs.fate.values[..., None], last.correct.values, relative, last.step.values


def _earlier(event: np.ndarray) -> np.ndarray:
    """Return whether an event (puzzle, restart, depth) happened at some smaller depth."""
    seen = np.logical_or.accumulate(event, axis=-1)
    return np.concatenate([np.zeros_like(seen[..., :1]), seen[..., :-1]], axis=-1)


def share_of_runs(
    some: np.ndarray, of: np.ndarray, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of runs, `some` among `of`, both counts (..., puzzle), and bounds from resampling puzzles.

    Bounds without width are set as wide as the number of puzzles that have such runs allows; fewer than two give NaN.
    """
    some, of = np.broadcast_arrays(np.asarray(some, float), np.asarray(of, float))
    order = np.lexsort((of, some), axis=-1)
    some, of = np.take_along_axis(some, order, -1), np.take_along_axis(of, order, -1)

    def share(weight: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (some @ weight) / (of @ weight)

    puzzles = of.shape[-1]
    value = share(np.ones(puzzles))
    bounds = cluster_bootstrap(share, puzzles, confidence=confidence, resamples=resamples, seed=seed)
    return value, *_widened(value, *bounds, (of > 0).sum(-1), confidence)


def _widened(
    value: np.ndarray | float,
    low: np.ndarray | float,
    high: np.ndarray | float,
    having: np.ndarray,
    confidence: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of shares; those without width by the puzzles that have such runs, NaN where these are too few."""
    low, high = widened(value, low, high, having, confidence)
    few = having < 2
    return np.where(few, np.nan, low), np.where(few, np.nan, high)


def _without_threshold(
    relative: np.ndarray, correct: np.ndarray, draw: dict[str, Any]
) -> dict[str, schema.Variable]:
    """Return statements about right and wrong from the residuals alone, without calling any run settled."""
    depths = relative.shape[-1]
    score = np.where(np.isnan(relative), np.inf, relative)
    auc = np.full((3, depths), np.nan)
    below = np.full((3, depths), np.nan)
    least = np.full(depths, np.nan)
    quantile = np.full((depths, 2, len(QUANTILES)), np.nan)
    for i in range(depths):
        order = value_order(correct[..., i].sum(1), np.sort(score[..., i], 1))
        right, wrong, scores = correct[order, :, i], ~correct[order, :, i], score[order, :, i]
        pooled = PooledAuc(scores, wrong)
        auc[0, i] = pooled(np.ones(len(right)))
        having = np.minimum(right.any(1).sum(), wrong.any(1).sum())
        if np.isfinite(auc[0, i]):
            ends = cluster_bootstrap(pooled, len(right), **draw)
            auc[1:, i] = _widened(auc[0, i], *ends, having, draw["confidence"])
        for j, side in enumerate((right, wrong)):
            if side.any():
                quantile[i, j] = np.quantile(scores[side], QUANTILES, method="inverted_cdf")
        if wrong.any():
            least[i] = scores[wrong].min()
            below[0, i], low, high = _below_least(scores, right, wrong, draw)
            below[1:, i] = _widened(below[0, i], low, high, having, draw["confidence"])
    texts = {
        "auc": "probability that the wrong one of a right and a wrong run has the higher relative residual",
        "right_below": "share of the right runs whose residual is below that of every wrong run",
    }
    variables: dict[str, schema.Variable] = {}
    for name, values in (("auc", auc), ("right_below", below)):
        variables |= Interval(*values).variables(name, ("depth",), texts[name])
    variables["least_wrong"] = (("depth",), least, "smallest relative residual of a wrong run")
    text = "quantile of the relative residual over runs"
    variables["residual_quantile"] = (("depth", "correctness", "quantile"), quantile, text)
    return variables


def _below_least(
    score: np.ndarray, right: np.ndarray, wrong: np.ndarray, draw: dict[str, Any]
) -> tuple[float, float, float]:
    """Return the share of right runs below the least score of a wrong run, and bounds from resampling puzzles."""
    least = np.where(wrong, score, np.inf).min(1)
    order = np.sort(np.where(right, score, np.inf), axis=1)

    def share(weight: np.ndarray) -> float:
        drawn = weight > 0
        limit = least[drawn].min()
        count = (right.sum(1) * weight).sum()
        if not count or not wrong[drawn].any():
            return float("nan")
        return float(((order < limit).sum(1) * weight).sum() / count)

    low, high = cluster_bootstrap(share, len(score), **draw)
    return share(np.ones(len(score))), float(low), float(high)
