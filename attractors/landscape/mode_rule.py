"""The four landscape modes as definitions with a prior, and their posterior given counts of runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaln, logsumexp, roots_legendre

NODES, WEIGHTS = roots_legendre(256)
ROUNDS = 60  # of expectation maximisation


@dataclass(frozen=True)
class ModeRule:
    """All thresholds of a verdict: definitions of the modes, prior, and the probability at which a mode is decided.

    With p_c the mass of correct attractors and q the share of spurious attractors in the remaining mass:
    (a) p_c = 0; (d) p_c >= broad; (b) 0 < p_c < broad and q >= elsewhere: failures settle at other attractors;
    (c) 0 < p_c < broad and q < elsewhere: failures settle at none.

    Attributes
    ----------
    broad
        Correct mass from which on a basin is called broad.
    elsewhere
        Smallest share of spurious attractors in the mass of failures for which failures count as settling elsewhere.
    least
        Smallest basin considered: if no run was right, (a) means that no correct attractor has a mass of `least` or
        more.
    prior
        Prior probabilities of a, b, c, d.
    narrow
        Within b and c, the correct mass is log-uniform between `least` and `broad` with this prior weight, and uniform
        below `broad` otherwise; within d it is uniform.  The split q is uniform in each mode.
    alignment
        Largest Bayes factor between b and c that the residuals can add: in b wrong runs come to rest like right ones,
        in c they do not.  1 ignores them.  It is small, since fates are judged from the same residuals.
    decide
        A mode becomes the verdict when its probability reaches this.
    """

    broad: float = 0.9
    elsewhere: float = 0.5
    least: float = 0.02
    prior: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)
    narrow: float = 0.5
    alignment: float = 2.0
    decide: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.least < self.broad < 1:
            raise ValueError(f"0 < least < broad < 1 is required, got least {self.least}, broad {self.broad}")
        for name in ("elsewhere", "decide"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.narrow <= 1 or self.alignment < 1:
            raise ValueError(
                f"narrow must be from 0 to 1 and alignment >= 1, got {self.narrow} and {self.alignment}"
            )
        if len(self.prior) != 4 or min(self.prior) < 0 or abs(sum(self.prior) - 1) > 1e-9:
            raise ValueError(f"prior must be four probabilities that sum to 1, got {self.prior}")


def mode_posterior(
    correct: np.ndarray,
    spurious: np.ndarray,
    unsettled: np.ndarray,
    rule: ModeRule,
    auc: np.ndarray | None = None,
) -> np.ndarray:
    """Return the posterior probabilities (n, 4) of the modes given counts of restarts, each (n,).

    Parameters
    ----------
    correct, spurious, unsettled
        Restarts at correct attractors, at attractors that decode to a wrong answer, and at none.
    auc
        (n,) probability that, of a right and a wrong run of the puzzle, the wrong one has the higher residual; NaN if
        undefined.

    Notes
    -----
    The integrals over masses are incomplete beta functions, but for k = 0 under the log-uniform prior: that one is
    Gauss-Legendre quadrature in log p.  Once a correct run was seen, masses below `least` are admitted.
    """
    k, s, u = np.broadcast_arrays(*(np.asarray(v, float) for v in (correct, spurious, unsettled)))
    log_split = betaln(s + 1, u + 1)
    with np.errstate(divide="ignore"):
        elsewhere = _log_beta(s + 1, u + 1, rule.elsewhere, True) - np.log(1 - rule.elsewhere)
        nowhere = _log_beta(s + 1, u + 1, rule.elsewhere, False) - np.log(rule.elsewhere)
        narrow = log_narrow(k, s + u, rule)
        wide = _log_beta(k + 1, s + u + 1, rule.broad, True) - np.log(1 - rule.broad)
        lean = _lean(auc, k, s + u, rule)
        logs = np.stack(
            [
                np.where(k == 0, log_split, -np.inf),
                narrow + elsewhere - lean,
                narrow + nowhere + lean,
                wide + log_split,
            ],
            axis=-1,
        ) + np.log(rule.prior)
    return np.exp(logs - logsumexp(logs, axis=-1, keepdims=True))


def log_narrow(k: np.ndarray, failures: np.ndarray, rule: ModeRule) -> np.ndarray:
    """Return the log evidence (n,) of k right runs and some failures for a correct mass between 0 and `broad`."""
    log_uniform = np.where(
        k > 0,
        _log_beta(np.maximum(k, 1), failures + 1, rule.broad, False),
        _log_none(failures, rule.least, rule.broad),
    ) - np.log(np.log(rule.broad / rule.least))
    uniform = _log_beta(k + 1, failures + 1, rule.broad, False) - np.log(rule.broad)
    with np.errstate(divide="ignore"):
        weights = np.log([rule.narrow, 1 - rule.narrow])
    return np.logaddexp(log_uniform + weights[0], uniform + weights[1])


def _log_beta(a: np.ndarray, b: np.ndarray, x: float, upper: bool) -> np.ndarray:
    """Return the log of the integral of t^(a-1) (1-t)^(b-1) over [x, 1] or [0, x]."""
    part = betainc(b, a, 1 - x) if upper else betainc(a, b, x)
    with np.errstate(divide="ignore"):
        return betaln(a, b) + np.log(part)


def _log_none(failures: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the log of the integral of (1-p)^failures / p over [low, high], for failures (n,)."""
    half = np.log(high / low) / 2
    p = np.exp(np.log(low) + half * (NODES + 1))
    return logsumexp(failures[..., None] * np.log1p(-p) + np.log(WEIGHTS * half), axis=-1)


def _lean(auc: np.ndarray | None, right: np.ndarray, wrong: np.ndarray, rule: ModeRule) -> np.ndarray:
    """Return half the log Bayes factor (n,) of c against b that the residuals give: bounded, and less for few runs."""
    if auc is None:
        return np.zeros(right.shape)
    separated = np.clip(2 * (np.nan_to_num(np.asarray(auc, float), nan=0.75) - 0.5), 0, 1)
    fewer = np.minimum(right, wrong)
    return np.log(rule.alignment) / 2 * (2 * separated - 1) * fewer / (fewer + 4)


def population(posterior: np.ndarray, prior: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the shares (..., 4) of the modes among all puzzles of the kind, by maximum likelihood.

    Parameters
    ----------
    posterior
        (puzzle, 4) under a common prior (4,), which is divided out.
    weight
        (..., puzzle) how often each puzzle counts.

    Notes
    -----
    Expectation maximisation with one pseudo-count shared by the modes.  Puzzles with little evidence take the
    shares of the others, whereas an average of their posteriors would keep them at the prior.
    """
    likelihood = posterior / np.maximum(prior, 1e-300)
    likelihood = likelihood / likelihood.max(1, keepdims=True)
    possible = (likelihood > 0).any(0)
    once = possible / possible.sum()
    share = np.broadcast_to(once, (*weight.shape[:-1], len(once)))
    for _ in range(ROUNDS):
        each = likelihood * share[..., None, :]
        each /= each.sum(-1, keepdims=True)
        share = (weight[..., None, :] @ each)[..., 0, :] + once
        share = share / share.sum(-1, keepdims=True)
    return share
