"""The four landscape modes: a verdict per puzzle and per checkpoint, with probabilities and advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from eqrlab.attractors.ensemble.arguments import require_known
from eqrlab.attractors.ensemble.schedule import measured_of
from eqrlab.attractors.fates.fate import CODE, Tolerances
from eqrlab.attractors.landscape.basins import basins
from eqrlab.attractors.landscape.mode_rule import ModeRule, mode_posterior, population
from eqrlab.attractors.landscape.return_test import RETURNS
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import drawn_of, interval_of
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import (
    cluster_bootstrap,
    resampled,
    share_over_puzzles,
    value_order,
    widened,
)
from eqrlab.attractors.statistics.intervals import proportion_interval, stated_level
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.attractors.statistics.trends import decay_rate, filled, slows_for_ever, tail

UNDECIDED = schema.MODES.index("undecided")
MOST = 256  # times the restarts drawn: where even so many would not decide, `restarts_needed` is -1
BY_MODE = np.array(
    [
        schema.ADVICE.index(n)
        for n in ("retrain", "more_restarts", "more_restarts_and_depth", "deeper_is_enough")
    ]
)
VARIATIONS: dict[str, tuple[float, ...]] = {
    "broad": (0.8, 0.95),
    "elsewhere": (0.3, 0.7),
    "least": (0.01, 0.05),
    "narrow": (0.0, 1.0),
    "alignment": (1.0, 4.0),
    "decide": (0.8, 0.95),
}


@dataclass(frozen=True)
class Evidence:
    """Counts of runs of each puzzle, all (puzzle,), by where they ended; `auc` is NaN where undefined."""

    correct: np.ndarray
    spurious: np.ndarray
    unsettled: np.ndarray
    unfinished: np.ndarray
    auc: np.ndarray

    def times(self, factor: float) -> Evidence:
        """Return the evidence of this many times the runs, if they split like those seen."""
        counts = (self.correct, self.spurious, self.unsettled, self.unfinished)
        correct, spurious, unsettled, unfinished = (c * factor for c in counts)
        return Evidence(correct, spurious, unsettled, unfinished, self.auc)


def evidence_of(
    ensemble: xr.Dataset, returns: xr.Dataset | None = None, confidence: float = 0.95
) -> Evidence:
    """Count where the runs of each puzzle ended.

    Parameters
    ----------
    returns
        From `return_test` on the final states of the ensemble: runs at an attractor that leave it when pushed count as
        unsettled, and runs that the test does not decide as unfinished.

    Raises
    ------
    ValueError
        If correctness is unknown, or the tests are of other runs.
    """
    require_known(ensemble, "modes")
    found = basins(ensemble, confidence=confidence)
    identity = found.attractor_id.values
    reached = identity >= 0
    right, changing = (
        reached & np.take_along_axis(found[name].values, np.maximum(identity, 0), axis=1)
        for name in ("correct", "changing")
    )
    reached &= ~changing  # a set whose answer changes is no answer's attractor
    unfinished = (ensemble.fate.values == CODE["unfinished"]) | found.transient.values
    if returns is not None:
        result = returns.result.values
        if result.shape != reached.shape:
            raise ValueError(f"returns must have one test for each run, {reached.shape}, got {result.shape}")
        unfinished = unfinished | (reached & (result == RETURNS.index("undecided")))
        reached = reached & ~np.isin(result, [RETURNS.index("undecided"), RETURNS.index("leaves")])
    unfinished = unfinished & ~reached
    last, drawn = ~ensemble.correct.values[:, :, -1], drawn_of(ensemble)
    auc = PooledAuc(ensemble.residual.values[:, :, -1].astype(float), last, drawn).within()
    unsettled = drawn & ~reached & ~unfinished
    return Evidence(
        (reached & right).sum(1), (reached & ~right).sum(1), unsettled.sum(1), unfinished.sum(1), auc
    )  # fmt: skip


def verdict(evidence: Evidence, rule: ModeRule) -> np.ndarray:
    """Return the probabilities (puzzle, 5) of a, b, c, d and of "undecided", which unfinished runs leave open.

    Notes
    -----
    Unfinished runs may still end anywhere.  The posterior is computed with all of them at correct attractors, at
    spurious ones, and at none; each mode gets its smallest probability, and the rest is "undecided".
    """
    e = evidence
    extremes = np.stack(
        [
            mode_posterior(
                e.correct + i * e.unfinished, e.spurious + j * e.unfinished, e.unsettled + k * e.unfinished,
                rule, e.auc,
            )
            for i, j, k in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
    )  # fmt: skip
    sure = np.where((e.unfinished > 0)[:, None], extremes.min(0), extremes[0])
    probability = np.concatenate([sure, 1 - sure.sum(1, keepdims=True).clip(0, 1)], axis=1)
    return probability / probability.sum(1, keepdims=True)


def decided(probability: np.ndarray, rule: ModeRule) -> np.ndarray:
    """Return the mode (puzzle,) whose probability reaches the rule's threshold, or undecided."""
    sure = probability[:, :-1]
    return np.where(sure.max(1) >= rule.decide, sure.argmax(1), UNDECIDED).astype(np.int8)


def restarts_needed(evidence: Evidence, restarts: int | np.ndarray, rule: ModeRule) -> np.ndarray:
    """Return the restarts (puzzle,) at which a verdict is reached if further runs split like those seen.

    This is the present number if there is a verdict, and -1 if up to 256 times as many would give none, because the
    masses are too near a threshold or runs are unfinished.
    """
    needed = np.where(decided(verdict(evidence, rule), rule) != UNDECIDED, restarts, -1)
    for factor in 2.0 ** np.arange(0.25, np.log2(MOST) + 0.25, 0.25):
        enough = decided(verdict(evidence.times(factor), rule), rule) != UNDECIDED
        needed = np.where((needed < 0) & enough, np.ceil(factor * restarts), needed)
    return needed.astype(np.int32)


def slowing(ensemble: xr.Dataset) -> np.ndarray:
    """Return the unfinished runs, (puzzle, restart) bool, whose decay is too slow ever to come to rest."""
    relative = filled(ensemble.relative_residual.values.astype(float), measured_of(ensemble))
    scaled = np.nan_to_num(relative, nan=1.0, posinf=1.0)
    slow = slows_for_ever(scaled.reshape(-1, scaled.shape[2])).reshape(scaled.shape[:2])
    return slow & (ensemble.fate.values == CODE["unfinished"])


def depth_needed(ensemble: xr.Dataset) -> np.ndarray:
    """Return the depth (puzzle,) at which nine in ten unfinished runs would be at rest if they continue as they do.

    It is extrapolated from the decay of the last residuals and rounded up to a doubling of the depth: the depth itself
    if no run is unfinished, a lower bound if the decay is slower than geometric, and -1 if runs do not decay, or decay
    so slowly that they never come to rest (like 1 / time, or a lesser power).
    """
    depth, unfinished = ensemble.sizes["step"], ensemble.fate.values == CODE["unfinished"]
    with np.errstate(invalid="ignore"):
        relative = ensemble.residual.values.astype(float) / ensemble.scale.values[:, :, None]
    relative = np.nan_to_num(relative, nan=1.0, posinf=1.0)
    recent = relative[:, :, -max(2, tail(measured_of(ensemble))) :]
    rate = decay_rate(recent.reshape(-1, recent.shape[2])).reshape(unfinished.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        left = np.maximum(recent[:, :, -1] / np.maximum(1 - rate, 1e-300), 1e-300)
        steps = np.where(
            rate < 1,
            np.log(np.minimum(Tolerances.travel / left, 1.0)) / np.log(np.minimum(rate, 1 - 1e-15)),
            np.inf,
        )
    steps[slowing(ensemble)] = np.inf
    needed = np.full(len(unfinished), depth)
    for p, open_runs in enumerate(unfinished):
        if open_runs.any():
            more = np.quantile(steps[p, open_runs], 0.9, method="inverted_cdf")
            total = 2 ** max(1, int(np.ceil(np.log2(1 + more / depth)))) if more < 1e9 else -1
            needed[p] = min(total * depth, 2**31 - 1) if total > 0 else -1
    return needed.astype(np.int32)


def modes(
    ensemble: xr.Dataset, *, confidence: float = 0.95, rule: ModeRule | None = None,
    returns: xr.Dataset | None = None, seed: int = 0,
) -> xr.Dataset:  # fmt: skip
    """Decide which landscape mode each puzzle, and the checkpoint, is in.

    Parameters
    ----------
    ensemble
        From `sample`, with labels or an oracle.
    confidence, seed
        Of the bootstrap over puzzles behind the shares.
    rule
        Definitions, prior and decision threshold.
    returns
        From `return_test` on the ensemble's final states: only runs that come back then count as at an attractor.

    Returns
    -------
    xarray.Dataset
        `mode(puzzle)` with flags a b c d undecided; `mode_probability(puzzle, mode)`, where "undecided" is the
        probability that unfinished runs leave open; `advice(puzzle)`; `restarts_needed`, `depth_needed`: what would
        decide; `correct_mass_high`: upper bound of the mass of correct attractors, about 3 / B where none was found;
        counts of runs at correct attractors, at spurious ones, at none, and unfinished; `landscape_share(mode)` with
        `_low`, `_high` (the mean probability over puzzles); `population_share(mode)` with bounds: the shares of the
        modes among all puzzles of the kind, estimated jointly; `landscape_mode` and `landscape_probability`, the
        bootstrap probability that it has the largest share.

    Raises
    ------
    ValueError
        If correctness is unknown, or `returns` is of other runs.

    Notes
    -----
    `ModeRule` has the definitions, the prior and all thresholds; `mode_sensitivity` shows what happens when they move.
    Unfinished runs may still end anywhere: each mode gets its smallest probability over the places where they might
    end, and the rest is "undecided".

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, section 4 (the modes; the paper gives no thresholds).
    """
    rule = rule or ModeRule()
    evidence = evidence_of(ensemble, returns, confidence)
    probability = verdict(evidence, rule)
    mode = decided(probability, rule)
    open_share = probability[:, -1] > 1 - rule.decide
    if_open = np.where(open_share, schema.ADVICE.index("buy_depth"), schema.ADVICE.index("buy_restarts"))
    stuck = 2 * slowing(ensemble).sum(1) > evidence.unfinished
    if_open = np.where(open_share & stuck, schema.ADVICE.index("depth_will_not_tell"), if_open)
    advice = np.where(mode != UNDECIDED, BY_MODE[np.minimum(mode, 3)], if_open).astype(np.int8)
    share = Interval(*share_over_puzzles(probability, confidence=confidence, seed=seed))
    population = Interval(*_population(evidence, rule, confidence, seed))
    landscape, certainty = _checkpoint(probability, mode, rule, seed)
    restarts = drawn_of(ensemble).sum(1)
    possible = evidence.correct + evidence.unfinished
    bound = proportion_interval(possible, restarts, confidence, interval_of(ensemble))[1]
    each, percent = ("puzzle",), f"{stated_level(confidence)}"
    counts = {
        "count_correct": (evidence.correct, "runs at correct attractors"),
        "count_spurious": (evidence.spurious, "runs at attractors that decode to a wrong answer"),
        "count_unsettled": (evidence.unsettled, "runs at no attractor: wandering, diverged, nonfinite"),
        "count_unfinished": (evidence.unfinished, "runs that were still settling at the last step"),
        "restarts_needed": (restarts_needed(evidence, restarts, rule), "restarts that would decide, -1: too many"),
        "depth_needed": (depth_needed(ensemble), "depth at which 9 in 10 unfinished runs would rest, -1 unknown"),
    }  # fmt: skip
    variables: dict[str, schema.Variable] = {
        "mode": (each, mode, "landscape mode of the puzzle"),
        "mode_probability": (("puzzle", "mode"), probability, "posterior probability of the mode"),
        "advice": (each, advice, "what helps: a retrain, b restarts, c both, d depth; or what would decide"),
        **{name: (each, values.astype(np.int32), text) for name, (values, text) in counts.items()},
        "correct_mass_high": (each, bound, f"upper bound of the mass of correct attractors, {percent}"),
        **share.variables(
            "landscape_share", ("mode",), "mean probability of the mode over puzzles", f"the share, {percent}"
        ),
        **population.variables(
            "population_share", ("mode",), "share of the mode among all puzzles of the kind, estimated jointly",
            f"that share, {percent}",
        ),
        "landscape_mode": ((), np.int8(landscape), "mode with the largest share, if that is sure"),
        "landscape_probability": ((), np.float64(certainty), "bootstrap probability that it has the largest share"),
    }  # fmt: skip
    attributes = {**schema.carried(ensemble), "confidence": confidence, "rule": asdict(rule)}
    attributes["return_test"] = "none" if returns is None else "runs that do not come back are no attractor"
    codes = {"mode": schema.MODES, "landscape_mode": schema.MODES, "advice": schema.ADVICE}
    coordinates = {"mode": list(schema.MODES), "puzzle": ensemble.puzzle.values}
    return schema.dataset(variables, attributes, coordinates, codes)


def mode_sensitivity(
    ensemble: xr.Dataset, *, rule: ModeRule | None = None, returns: xr.Dataset | None = None,
    variations: Mapping[str, tuple[float, ...]] = VARIATIONS, seed: int = 0,
) -> xr.Dataset:  # fmt: skip
    """Measure how the verdicts change when each threshold or prior of the rule is moved.

    Parameters
    ----------
    ensemble, rule, returns, seed
        As for `modes`.
    variations
        Field of `ModeRule` to the values tried, one at a time.

    Returns
    -------
    xarray.Dataset
        Over variation ("as is", "broad = 0.8", ...): `mode(puzzle, variation)`, `mode_probability(puzzle, variation,
        mode)`, `changed` = share of the puzzles whose verdict differs from "as is", `reversed` = share of the puzzles
        that are decided in both, with another mode, with `_low`, `_high` over puzzles; `landscape_mode`.

    Raises
    ------
    ValueError
        For a field that the rule does not have, or a value it cannot have.
    """
    rule = rule or ModeRule()
    numbers = {f.name for f in dataclasses.fields(rule)} - {"prior"}
    unknown = sorted(set(variations) - numbers)
    if unknown:
        raise ValueError(f"rule has no threshold {unknown[0]!r}; choose from {', '.join(sorted(numbers))}")
    rules = {"as is": rule}
    for name, tried in variations.items():
        rules |= {f"{name} = {v:g}": dataclasses.replace(rule, **{name: v}) for v in tried}  # type: ignore[arg-type]
    evidence = evidence_of(ensemble, returns)
    probability = np.stack([verdict(evidence, r) for r in rules.values()], axis=1)
    mode = np.stack([decided(probability[:, i], r) for i, r in enumerate(rules.values())], axis=1)
    other = mode != mode[:, :1]
    both = other & (mode != UNDECIDED) & (mode[:, :1] != UNDECIDED)
    landscape = [_checkpoint(probability[:, i], mode[:, i], r, seed)[0] for i, r in enumerate(rules.values())]
    variables: dict[str, schema.Variable] = {
        "mode": (("puzzle", "variation"), mode, "landscape mode of the puzzle"),
        "mode_probability": (
            ("puzzle", "variation", "mode"),
            probability,
            "posterior probability of the mode",
        ),
        "landscape_mode": (("variation",), np.array(landscape, np.int8), "mode of the checkpoint"),
    }
    for name, event, text in (
        ("changed", other, "puzzles with another verdict"),
        ("reversed", both, "puzzles with another mode, both decided"),
    ):
        found = Interval(*share_over_puzzles(event.astype(float), seed=seed))
        variables |= found.variables(name, ("variation",), f"share of {text}")
    coordinates = {"mode": list(schema.MODES), "puzzle": ensemble.puzzle.values, "variation": list(rules)}
    attributes = {**schema.carried(ensemble), "rule": asdict(rule)}
    codes = {"mode": schema.MODES, "landscape_mode": schema.MODES}
    return schema.dataset(variables, attributes, coordinates, codes)


def _population(
    evidence: Evidence, rule: ModeRule, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares (5,) of the modes among all puzzles, with bounds from resampling puzzles."""
    probability = verdict(evidence, rule)
    prior = np.array([*rule.prior, 1.0])  # what is open is as open whatever the shares
    probability[:, -1] = np.where(evidence.unfinished > 0, probability[:, -1], 0.0)

    probability = probability[value_order(probability)]

    def share(weight: np.ndarray) -> np.ndarray:
        return population(probability, prior, weight)

    value, puzzles = share(np.ones(len(probability))), len(probability)
    bounds = cluster_bootstrap(share, puzzles, confidence=confidence, seed=seed, together=True)
    return value, *widened(value, *bounds, puzzles, confidence)


def _checkpoint(probability: np.ndarray, mode: np.ndarray, rule: ModeRule, seed: int) -> tuple[int, float]:
    """Return the checkpoint's mode (or undecided) and the bootstrap probability that its share is the largest."""
    puzzles = len(probability)
    if puzzles == 1:
        return int(mode[0]), float(probability[0].max())
    draws = resampled(puzzles, 2000, seed)
    wins = np.bincount(
        (draws @ probability[value_order(probability)]).argmax(1), minlength=len(schema.MODES)
    ) / len(draws)
    best = int(probability.mean(0).argmax())
    if best == UNDECIDED or wins[best] < rule.decide:
        return UNDECIDED, float(wins[best])
    return best, float(wins[best])
