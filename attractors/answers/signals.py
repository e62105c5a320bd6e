"""Signals of a right answer: AUC within and across puzzles, risk against coverage, and which signal to trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.attractors.answers.selectors import available, least, selector_score
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
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.core.seeds import nonnegative

SIGNALS = ("top1_converged", "top1_logit_delta", "majority", "halting", "answer_entropy", "settle_time")
COVERAGE = np.round(np.arange(1, 21) / 20, 2)
FEWEST = 4  # puzzles that can be halved

Statistic = Callable[[np.ndarray], Any]


def signals(
    ensemble: xr.Dataset, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> xr.Dataset:
    """Measure how well each signal of an answer tells right from wrong, and which one to trust.

    Parameters
    ----------
    ensemble
        From `sample`, with labels or an oracle.  Its last step is used.
    confidence, resamples
        Of the bootstrap, which draws whole puzzles.
    seed
        Seed of the bootstrap and of the split into halves.

    Returns
    -------
    xarray.Dataset
        Over signal, named after the selector that uses it (`top1_converged` is the residual, `majority` the
        share of the restarts that agree): `auc_within` = probability that a wrong run of a puzzle looks worse
        than a right one, mean of `auc_puzzle(puzzle, signal)` over puzzles that have both; `auc_across` = the
        same of runs of different puzzles; `accuracy` of the answer chosen among all restarts, `gain` of it over
        one restart and `over_residual` over choosing by the residual; `risk(signal, coverage)` = share of wrong
        answers when only that share of the puzzles is answered, those whose chosen answers look best;
        `risk_area`, its mean over all coverages, and `least_risk_area`, what it would be if right answers came
        first.  All with `_low`, `_high`. `held_out(puzzle)`: the half that did not choose the signal;
        `trusted_accuracy`, and `trusted_gain` over choosing by the residual, on that half, with bounds.
        Attributes: `trusted`, the signal most accurate on the first half (of equals the one of least risk
        area), "none" with fewer than 4 puzzles; `warning`, a sentence where choosing by the residual misleads,
        else "none".

    Raises
    ------
    ValueError
        When the ensemble knows nothing of correctness.

    Notes
    -----
    Ties are shared throughout.  NaN counts as the worst value of a signal.  Every interval resamples whole puzzles;
    `gain`, `over_residual` and `trusted_gain` are paired by puzzle.  The signal is chosen on one half and reported on
    the other, since the best of several looks too good on the puzzles on which it was chosen.

    References
    ----------
    Geifman & El-Yaniv 2017, "Selective classification for deep neural networks" (risk against coverage).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> start = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    >>> sign = MapSystem(lambda z, x: torch.tanh(2 * z), start, lambda z, x: (z > 0).long() + 1)
    >>> ensemble = sample(sign, torch.arange(8)[:, None], labels=torch.full((8, 1), 2), restarts=8, depth=32)
    >>> found = signals(ensemble)
    >>> found.signal.values.tolist(), found.attrs["trusted"] in found.signal.values
    (['top1_converged', 'majority', 'settle_time'], True)
    """
    ensemble = common_restarts(ensemble)
    names = [name for name in SIGNALS if name in (*available(ensemble), "majority")]
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    depth, restarts = ensemble.sizes["step"], ensemble.sizes["restart"]
    correct = ensemble.correct.values[:, :, -1]
    score = np.stack([selector_score(ensemble, name, depth) for name in names])
    chance = np.stack([least(values, correct, restarts) for values in score], axis=1)  # (puzzle, signal)
    single = correct.mean(1, keepdims=True)
    within, across, each_puzzle = _aucs(score, ~correct, draw)
    best = score.min(2)
    half = _halves(value_order(chance, best.T), seed)
    variables: dict[str, schema.Variable] = {}
    gain, beyond = (share_over_puzzles(chance - base, least=-1.0, **draw) for base in (single, chance[:, :1]))
    per_signal: dict[str, tuple[Interval, str]] = {
        "auc_within": (within, "probability that the wrong one of two runs of a puzzle looks worse, mean over puzzles"),
        "auc_across": (across, "the same of runs of different puzzles"),
        "accuracy": (
            Interval(*share_over_puzzles(chance, **draw)), "share of puzzles whose chosen answer is right"
        ),
        "gain": (Interval(*gain), "that accuracy above that of one restart"),
        "over_residual": (Interval(*beyond), "that accuracy above that of least residual"),
        "risk_area": (_risk(best, chance, draw, risk_area), "mean over coverages of the share of wrong answers"),
        "least_risk_area": (_risk(1 - chance.T, chance, draw, risk_area), "that mean if right answers came first"),
    }  # fmt: skip
    for name, (value, text) in per_signal.items():
        variables |= value.variables(name, ("signal",), text)
    text = "share of wrong answers among the puzzles answered, those whose answers look best"
    variables |= _risk(best, chance, draw, risk_at).variables("risk", ("signal", "coverage"), text)
    trusted, on_half = _trusted(names, best, chance, half, draw)
    for name, value, text in (
        ("trusted_accuracy", on_half[0], "accuracy of the trusted signal on the half that did not choose it"),
        ("trusted_gain", on_half[1], "that accuracy above that of least residual, on the same half"),
    ):
        variables |= value.variables(name, (), text)
    variables["auc_puzzle"] = (("puzzle", "signal"), each_puzzle, "that AUC within the puzzle")
    variables["held_out"] = (("puzzle",), half, "of the half that did not choose the trusted signal")
    attributes = {
        **schema.carried(ensemble), "confidence": confidence, "trusted": trusted,
        "bootstrap": f"{resamples} resamples of puzzles, seed {seed}",
        "warning": _warning(Interval(*gain).each(lambda v: v[0]), within.each(lambda v: v[0]), trusted, on_half[1]),
    }  # fmt: skip
    coordinates = {"signal": names, "coverage": COVERAGE, "puzzle": ensemble.puzzle.values}
    return schema.dataset(variables, attributes, coordinates)


def _aucs(
    score: np.ndarray, wrong: np.ndarray, draw: dict[str, Any]
) -> tuple[Interval, Interval, np.ndarray]:
    """Return the AUC of scores (signal, puzzle, restart) within and across puzzles (signal,), and in each puzzle."""
    puzzles = np.empty((wrong.shape[0], len(score)))
    found: tuple[list[tuple], list[tuple]] = ([], [])
    for i, values in enumerate(score):
        order = value_order(wrong.sum(1), np.sort(values, 1))
        pooled = PooledAuc(values[order], wrong[order])
        each = puzzles[order, i] = pooled.within()
        inner, defined = mean_where_defined(np.sort(each)), np.isfinite(each).sum()
        having = min(wrong.any(1).sum(), (~wrong).any(1).sum())
        for kind, (statistic, count) in enumerate(((inner, defined), (pooled.across, having))):
            found[kind].append(_bounded(statistic, len(wrong), int(count), draw))
    within, across = (Interval(*map(np.array, zip(*rows, strict=True))) for rows in found)
    return within, across, puzzles


def _bounded(
    statistic: Statistic, puzzles: int, having: int, draw: dict[str, Any]
) -> tuple[float, float, float]:
    """Return a statistic in [0, 1] of puzzle weights, with bounds."""
    value = statistic(np.ones(puzzles))
    if not np.isfinite(value):
        return np.nan, np.nan, np.nan
    low, high = widened(value, *cluster_bootstrap(statistic, puzzles, **draw), having, draw["confidence"])
    return value, float(low), float(high)


def _risk(
    score: np.ndarray,
    chance: np.ndarray,
    draw: dict[str, Any],
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
) -> Interval:
    """Return a statistic of the risk of each signal, from scores (signal, puzzle) and chances (puzzle, signal)."""
    pairs = [(s[order], wrong[order]) for s, wrong in zip(score, 1 - chance.T, strict=True)
             for order in [value_order(wrong, s)]]  # fmt: skip
    each = lambda weight: np.stack([statistic(s, wrong, weight) for s, wrong in pairs], weight.ndim - 1)
    value = each(np.ones(len(chance)))
    low, high = cluster_bootstrap(each, len(chance), together=True, **draw)
    return Interval(value, *widened(value, low, high, len(chance), draw["confidence"]))


def risk_curve(score: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and wrong answers among those given, (..., n + 1) from (0, 0) on, as shares of the total weight.

    Parameters
    ----------
    score, wrong, weight
        (puzzle,) and, the weight, (..., puzzle): lower scores are answered first, all of equal score at once; chance of
        being wrong; weight.
    """
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.r_[True, score[order][1:] != score[order][:-1]])
    total = weight.sum(-1, keepdims=True)
    parts = (np.add.reduceat(part[..., order], first, axis=-1) / total for part in (weight, weight * wrong))
    covered, failed = (np.concatenate((0 * total, part.cumsum(-1)), -1) for part in parts)
    return covered, failed


def risk_at(score: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the risk at each of `COVERAGE`: expected share of wrong answers among that share of the puzzles."""
    covered, failed = (v.reshape(-1, v.shape[-1]) for v in risk_curve(score, wrong, weight))
    risk = [np.interp(COVERAGE, *row) / COVERAGE for row in zip(covered, failed, strict=True)]
    return np.reshape(risk, (*weight.shape[:-1], len(COVERAGE)))


def risk_area(score: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the mean of the risk over all coverages, exactly: it is linear over the coverage between two scores.

    Notes
    -----
    From coverage a with failures f to coverage b with failures g the risk is (f + s (c - a)) / c with s = (g - f) /
    (b - a), whose integral is s (b - a) + (f - s a) ln(b / a).
    """
    covered, failed = risk_curve(score, wrong, weight)
    a, b, f, g = covered[..., :-1], covered[..., 1:], failed[..., :-1], failed[..., 1:]
    slope = (g - f) / np.where(b > a, b - a, 1.0)
    inner = (a > 0) & (b > a)
    rest = np.where(inner, (f - slope * a) * np.log(np.where(inner, b, 1.0) / np.where(inner, a, 1.0)), 0.0)
    return (slope * (b - a) + rest).sum(-1)


def _halves(order: np.ndarray, seed: int) -> np.ndarray:
    """Return which puzzles are of the second half, drawn at random by their ranks in an order."""
    second = np.zeros(len(order), bool)
    second[order[np.random.default_rng(nonnegative(seed)).permutation(len(order))[len(order) // 2 :]]] = True
    return second


def _trusted(
    names: list[str], best: np.ndarray, chance: np.ndarray, half: np.ndarray, draw: dict[str, Any]
) -> tuple[str, tuple[Interval, Interval]]:
    """Choose a signal on the first half; return its accuracy and its gain over the residual on the second."""
    if len(half) < FEWEST:
        unknown = Interval(np.nan, np.nan, np.nan)
        return "none", (unknown, unknown)
    ones = np.ones(int((~half).sum()))
    merit = [
        (round(chance[~half, i].mean(), 12), -risk_area(best[i, ~half], 1 - chance[~half, i], ones))
        for i in range(len(names))
    ]
    i = max(range(len(names)), key=merit.__getitem__)
    accuracy = Interval(*share_over_puzzles(chance[half, i], **draw))
    gain = Interval(*share_over_puzzles(chance[half, i] - chance[half, 0], least=-1.0, **draw))
    return names[i], (accuracy, gain)


def _warning(gain: Interval, within: Interval, trusted: str, better: Interval) -> str:
    """Return a sentence if choosing by least residual misleads."""
    points = lambda i: f"{100 * i.value:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}]"
    reasons = []
    if np.isfinite(within.high) and within.high < 0.5:
        reasons.append(
            f"within a puzzle wrong runs have the lower residual (AUC {within.value:.2f} [{within.low:.2f}, "
            f"{within.high:.2f}])"
        )
    if np.isfinite(gain.high) and gain.high < -1e-9:
        reasons.append(f"it is worse than a restart taken at random ({points(gain)})")
    if np.isfinite(better.low) and better.low > 1e-9:
        reasons.append(f"{trusted} chooses better on puzzles that did not choose it ({points(better)})")
    return f"Choosing by least residual misleads here: {'; '.join(reasons)}." if reasons else "none"
