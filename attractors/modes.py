"""The four landscape modes: a verdict per puzzle and per checkpoint, with probabilities and advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from scipy.special import betainc, betaln, logsumexp

from eqrlab.attractors import schema
from eqrlab.attractors.basins import basins
from eqrlab.attractors.fate import CODE
from eqrlab.attractors.statistics import share_over_puzzles


@dataclass(frozen=True)
class ModeRule:
    """Definition of the modes, prior, and the probability at which a verdict is given.

    With p_c the mass of correct attractors and q the share of spurious attractors in the remaining mass:
    (a) p_c = 0; (d) p_c >= broad; (b) 0 < p_c < broad and q >= 1/2: failures settle elsewhere;
    (c) 0 < p_c < broad and q < 1/2: failures settle nowhere.

    Attributes
    ----------
    broad
        Correct mass from which on a basin is called broad.
    prior
        Prior probabilities of a, b, c, d.
    decide
        A mode is given as verdict when its probability reaches this.
    """

    broad: float = 0.9
    prior: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)
    decide: float = 0.9


def mode_posterior(
    correct: np.ndarray, spurious: np.ndarray, unsettled: np.ndarray, rule: ModeRule
) -> np.ndarray:
    """Return the posterior probabilities (n, 4) of the modes given counts of restarts, each (n,).

    Notes
    -----
    Within b, c and d the masses (correct, spurious, none) are uniform on the simplex, restricted to the mode; in a,
    the split of the failures is uniform.  All integrals are incomplete beta functions, hence exact.
    """
    k, s, u = (np.asarray(v, float) for v in (correct, spurious, unsettled))
    failures = s + u

    def log_tail(a: np.ndarray, b: np.ndarray, x: float, upper: bool) -> np.ndarray:
        """log of the integral of t^(a-1) (1-t)^(b-1) over [x, 1] or [0, x]."""
        part = betainc(b, a, 1 - x) if upper else betainc(a, b, x)
        with np.errstate(divide="ignore"):
            return betaln(a, b) + np.log(part)

    one = np.ones_like(k)
    # density of p_c under the uniform simplex is 2 (1 - p_c); of q given p_c it is 1
    narrow = log_tail(k + 1, failures + 2, rule.broad, False) - log_tail(one, 2 * one, rule.broad, False)
    wide = log_tail(k + 1, failures + 2, rule.broad, True) - log_tail(one, 2 * one, rule.broad, True)
    split = betaln(s + 1, u + 1)
    with np.errstate(divide="ignore"):
        elsewhere = log_tail(s + 1, u + 1, 0.5, True) + np.log(2)
        nowhere = log_tail(s + 1, u + 1, 0.5, False) + np.log(2)
        logs = np.stack(
            [np.where(k == 0, split, -np.inf), narrow + elsewhere, narrow + nowhere, wide + split], axis=-1
        )
        logs = logs + np.log(rule.prior)
    return np.exp(logs - logsumexp(logs, axis=-1, keepdims=True))


def modes(
    ensemble: xr.Dataset, *, confidence: float = 0.95, rule: ModeRule | None = None, seed: int = 0
) -> xr.Dataset:
    """Decide which landscape mode each puzzle, and the checkpoint, is in.

    Parameters
    ----------
    ensemble
        From `sample`, with labels or an oracle.
    confidence, seed
        Of the bootstrap over puzzles behind the shares.
    rule
        Definitions, prior and decision threshold.

    Returns
    -------
    xarray.Dataset
        `mode(puzzle)` with flags a b c d undecided; `mode_probability(puzzle, mode)`, where "undecided" is the
        probability that unfinished runs leave open; `advice(puzzle)`; counts of runs at correct attractors, at spurious
        ones, at none, and unfinished; `landscape_share(mode)` with `_low`, `_high` (the mean probability over puzzles);
        `landscape_mode` and `landscape_probability`, the bootstrap probability that it has the largest share.

    Raises
    ------
    ValueError
        When the ensemble knows nothing of correctness.

    Notes
    -----
    Unfinished runs may yet end anywhere: the posterior is taken with all of them at correct attractors, at spurious
    ones and at none, and each mode gets its least probability; what remains is "undecided".

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, section 4 (the modes; the paper gives no thresholds).
    """
    if "correct" not in ensemble:
        raise ValueError("modes need to know what is correct: sample with labels or an oracle")
    rule = rule or ModeRule()
    found = basins(ensemble, confidence=confidence)
    right = np.where(found.correct.values, found["count"].values, 0).sum(1)
    spurious = found["count"].values.sum(1) - right
    unfinished = (ensemble.fate.values == CODE["unfinished"]).sum(1)
    unsettled = ensemble.sizes["restart"] - right - spurious - unfinished
    extremes = np.stack(
        [
            mode_posterior(
                right + i * unfinished, spurious + j * unfinished, unsettled + k * unfinished, rule
            )
            for i, j, k in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
    )
    sure = extremes.min(0)
    sure = np.where((unfinished > 0)[:, None], sure, extremes[0])
    probability = np.concatenate([sure, 1 - sure.sum(1, keepdims=True).clip(0, 1)], axis=1)
    probability /= probability.sum(1, keepdims=True)
    best = sure.argmax(1)
    decided = sure.max(1) >= rule.decide
    mode = np.where(decided, best, schema.MODES.index("undecided")).astype(np.int8)
    open_share = probability[:, -1] > 1 - rule.decide
    by_mode = np.array(
        [
            schema.ADVICE.index(n)
            for n in ("retrain", "more_restarts", "more_restarts_and_depth", "deeper_is_enough")
        ]
    )
    advice = np.where(
        decided,
        by_mode[best],
        np.where(open_share, schema.ADVICE.index("buy_depth"), schema.ADVICE.index("buy_restarts")),
    ).astype(np.int8)
    share, low, high = share_over_puzzles(probability, confidence=confidence, seed=seed)
    landscape, certainty = _checkpoint(probability, mode, rule, seed)
    each = ("puzzle",)
    variables: dict[str, schema.Variable] = {
        "mode": (each, mode, "landscape mode of the puzzle"),
        "mode_probability": (("puzzle", "mode"), probability, "posterior probability of the mode"),
        "advice": (
            each,
            advice,
            "what compute can buy: a retrain, b restarts, c both, d depth; or what would decide",
        ),
        "count_correct": (each, right.astype(np.int32), "runs at correct attractors"),
        "count_spurious": (
            each,
            spurious.astype(np.int32),
            "runs at attractors that decode to a wrong answer",
        ),
        "count_unsettled": (
            each,
            unsettled.astype(np.int32),
            "runs at no attractor: wandering, diverged, nonfinite",
        ),
        "count_unfinished": (
            each,
            unfinished.astype(np.int32),
            "runs that were still settling at the last step",
        ),
        "landscape_share": (("mode",), share, "mean probability of the mode over puzzles"),
        "landscape_share_low": (("mode",), low, f"lower bound of the share, {confidence:.0%}"),
        "landscape_share_high": (
            ("mode",),
            high,
            f"upper bound of the share, {confidence:.0%}",
        ),
        "landscape_mode": ((), np.int8(landscape), "mode with the largest share, if that is sure"),
        "landscape_probability": (
            (),
            np.float64(certainty),
            "bootstrap probability that it has the largest share",
        ),
    }
    attributes = {**schema.carried(ensemble), "confidence": confidence, "rule": asdict(rule)}
    codes = {"mode": schema.MODES, "landscape_mode": schema.MODES, "advice": schema.ADVICE}
    coordinates = {"mode": list(schema.MODES), "puzzle": ensemble.puzzle.values}
    return schema.dataset(variables, attributes, coordinates, codes)


def _checkpoint(probability: np.ndarray, mode: np.ndarray, rule: ModeRule, seed: int) -> tuple[int, float]:
    """Return the checkpoint's mode (or undecided) and the bootstrap probability that its share is the largest."""
    puzzles = len(probability)
    if puzzles == 1:
        return int(mode[0]), float(probability[0].max())
    draws = np.random.default_rng(seed).multinomial(puzzles, np.full(puzzles, 1 / puzzles), size=2000)
    wins = np.bincount((draws @ probability).argmax(1), minlength=len(schema.MODES)) / len(draws)
    best = int(probability.mean(0).argmax())
    if best == schema.MODES.index("undecided") or wins[best] < rule.decide:
        return schema.MODES.index("undecided"), float(wins[best])
    return best, float(wins[best])
