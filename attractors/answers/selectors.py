"""Ways to choose one answer among the restarts of a puzzle, and their exact accuracy over all subsets of restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import xarray as xr
from scipy.special import binom, gammaln

from eqrlab.attractors.ensemble.arguments import require_known
from eqrlab.attractors.ensemble.schedule import measured_of

WINDOW = 3  # steps over which the convergence scores are averaged (EqR, eq. 20)
HALT = 0.0  # a restart halts where its halting logit exceeds this
EXACT_VOTE = 64  # votes of more restarts are drawn, not enumerated
DRAWS = 4000

SELECTORS = {
    "top1_converged": "least residual, averaged over the last 3 steps (those measured)",
    "top1_logit_delta": "least change of the logits, averaged over the last 3 steps",
    "majority": "most frequent whole answer",
    "halting": "highest halting logit",
    "first_to_halt": "answer of the restart that halts first, at that step",
    "answer_entropy": "least mean entropy of the cells' distributions",
    "settle_time": "answer unchanged for longest",
    "mean": "one restart, on average",
    "any_correct": "ceiling: some restart is right",
}

Chance = Callable[[int], np.ndarray]


def available(ensemble: xr.Dataset) -> list[str]:
    """Return the selectors that an ensemble has the data for, in the order of `SELECTORS`.

    Raises
    ------
    ValueError
        When the ensemble knows nothing of correctness.
    """
    require_known(ensemble, "a selector")
    needs = {
        "top1_logit_delta": "logit_delta", "halting": "halt_logit", "first_to_halt": "halt_logit",
        "answer_entropy": "answer_entropy",
    }  # fmt: skip
    return [name for name in SELECTORS if needs.get(name, "correct") in ensemble]


def accuracy_table(
    ensemble: xr.Dataset, names: Sequence[str], depths: Iterable[int], breadths: Iterable[int]
) -> np.ndarray:
    """Return the chance that the chosen answer is right, (puzzle, selector, depth, breadth).

    Parameters
    ----------
    names
        Of `SELECTORS`.
    depths, breadths
        Steps and numbers of restarts, within those of the ensemble.

    Notes
    -----
    Each value is the average over all subsets of that many restarts, and therefore unbiased for fresh restarts.
    It is exact, except for votes of more than 64 restarts (see `vote_chance`).
    """
    depths, breadths = [int(d) for d in depths], [int(b) for b in breadths]
    chances = [[chance(ensemble, name, depth) for depth in depths] for name in names]
    values: np.ndarray = np.array([[[f(b) for b in breadths] for f in row] for row in chances])
    return np.moveaxis(values, -1, 0).round(12)  # what selectors share is one number, whatever its form


def chance(ensemble: xr.Dataset, name: str, depth: int) -> Chance:
    """Return, for a selector at a depth, the function breadth -> chance (puzzle,) that its answer is right."""
    now = ensemble.correct.values[:, :, depth - 1]
    if name == "majority":
        answer = ensemble.answer_id.values[:, :, depth - 1]
        return lambda breadth: majority(answer, now, breadth)
    if name == "mean":
        return lambda breadth: now.mean(1)
    if name == "any_correct":
        return lambda breadth: any_correct(now, breadth)
    if name == "first_to_halt":
        step, now = halting(ensemble, depth)
        return lambda breadth: least(step, now, breadth)
    score = selector_score(ensemble, name, depth)
    return lambda breadth: least(score, now, breadth)


def selector_score(ensemble: xr.Dataset, name: str, depth: int) -> np.ndarray:
    """Return the score (puzzle, restart), lower is better, by which a selector ranks restarts; NaN becomes infinite."""
    if name == "halting":
        score = -ensemble.halt_logit.values[:, :, depth - 1].astype(float)
    elif name == "answer_entropy":
        score = ensemble.answer_entropy.values[:, :, depth - 1].astype(float)
    elif name == "settle_time":
        score = unchanged_since(ensemble.answer_id.values[:, :, :depth]).astype(float)
    elif name == "majority":
        answer = ensemble.answer_id.values[:, :, depth - 1]
        score = -(answer[:, :, None] == answer[:, None, :]).mean(2)
    else:
        name = {"top1_converged": "residual", "top1_logit_delta": "logit_delta"}[name]
        first = max(0, depth - WINDOW)
        window = ensemble[name].values[:, :, first:depth].astype(float)
        if name == "residual":
            window = window[:, :, measured_of(ensemble)[first:depth]]
            if not window.shape[2]:
                raise ValueError(f"no residual was measured in the last {WINDOW} steps up to {depth}: "
                                 "sample with residuals='all'")  # fmt: skip
        if name == "logit_delta":
            window = window[:, :, 1:] if depth <= WINDOW else window  # nothing precedes the first step
            window = window if window.shape[2] else np.full((*window.shape[:2], 1), np.nan)
        score = window.mean(-1)
    return np.where(np.isnan(score), np.inf, score)


def unchanged_since(answer: np.ndarray) -> np.ndarray:
    """Return the first step since which the answer equals the last one, (puzzle, restart), of (puzzle, restart, step).

    Examples
    --------
    >>> unchanged_since(np.array([[[7, 7, 7], [7, 8, 8], [8, 8, 7]]])).tolist()
    [[1, 2, 3]]
    """
    other = (answer != answer[:, :, -1:])[:, :, ::-1]
    return np.where(other.any(2), answer.shape[2] - other.argmax(2), 0) + 1


def halting(ensemble: xr.Dataset, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return when each restart halts, (puzzle, restart), infinite if not by this depth, and whether it is right then.

    A restart that does not halt is judged at the depth itself.
    """
    halts = ensemble.halt_logit.values[:, :, :depth] > HALT
    first = np.where(halts.any(2), halts.argmax(2), depth - 1)
    right = np.take_along_axis(ensemble.correct.values, first[:, :, None], 2)[:, :, 0]
    return np.where(halts.any(2), first + 1.0, np.inf), right


def least(score: np.ndarray, correct: np.ndarray, breadth: int) -> np.ndarray:
    """Return the chance (puzzle,) that the restart with the lowest score in a subset is right; ties are shared.

    Parameters
    ----------
    score, correct
        (puzzle, restart); scores are numbers or infinite, not NaN.
    breadth
        Size of the subset.

    Notes
    -----
    Restarts of equal score share: whichever of them a subset contains, the expected share of right ones is that among
    all of them.  The best of a subset has rank k or lower (0 the best) with probability C(N - k, B) / C(N, B).
    """
    order = np.argsort(score, axis=1, kind="stable")
    ranked = np.take_along_axis(score, order, 1)
    right = np.take_along_axis(correct, order, 1).astype(float)
    weight = rank_weights(score.shape[1], breadth)
    new = np.concatenate([np.ones((len(score), 1), bool), ranked[:, 1:] != ranked[:, :-1]], 1)
    group = np.cumsum(new, 1) - 1 + score.shape[1] * np.arange(len(score))[:, None]

    def grouped(values: np.ndarray) -> np.ndarray:
        return np.bincount(group.ravel(), values.ravel(), score.size).reshape(score.shape)

    size = grouped(np.ones_like(right))
    share = grouped(right) / np.maximum(size, 1)
    return (grouped(np.broadcast_to(weight, score.shape)) * share).sum(1)


def rank_weights(restarts: int, breadth: int) -> np.ndarray:
    """Return the probabilities (restart,) that the best of a subset has rank 0, 1, ... among all restarts."""
    return -np.diff(_none_of(restarts, breadth))


def _none_of(restarts: int, breadth: int) -> np.ndarray:
    """Return the chances (restarts + 1,) that a subset has none of 0, 1, ... given restarts."""
    left = restarts - np.arange(restarts + 1)
    log = gammaln(left + 1) - gammaln(np.maximum(left - breadth, 0) + 1)
    return np.where(left >= breadth, np.exp(log - log[0]), 0.0)


def _heads(number: np.ndarray, coins: int, p: float) -> np.ndarray:
    """Return the binomial probabilities of these numbers of heads; faster to load than SciPy's distributions."""
    return binom(coins, number) * p**number * (1 - p) ** (coins - number)


def any_correct(correct: np.ndarray, breadth: int) -> np.ndarray:
    """Return the chance (puzzle,) that a subset contains a right restart."""
    return 1 - _none_of(correct.shape[1], breadth)[correct.sum(1)]


def majority(answer: np.ndarray, correct: np.ndarray, breadth: int) -> np.ndarray:
    """Return the chance (puzzle,) that the most frequent answer of a subset is right; ties are shared.

    Parameters
    ----------
    answer, correct
        (puzzle, restart): a number for each answer, and whether it is right.
    """
    result = np.empty(len(answer))
    for p, (ids, right) in enumerate(zip(answer, correct, strict=True)):
        _, first, counts = np.unique(ids, return_index=True, return_counts=True)
        votes = sorted(zip(counts.tolist(), right[first].tolist(), strict=True))
        result[p] = vote_chance(tuple(votes), breadth)
    return result


@lru_cache(maxsize=65536)
def vote_chance(votes: tuple[tuple[int, bool], ...], breadth: int) -> float:
    """Return the chance that the most frequent answer of a subset is right; ties are shared.

    Parameters
    ----------
    votes
        Restarts of each answer, and whether it is right.
    breadth
        Size of the subset.

    Notes
    -----
    Exact, without drawing subsets.  Give every restart an independent coin of probability B / N; given B heads the
    heads are a uniform subset.  An answer of n restarts has m heads with the binomial probability b(m).  Answer a wins
    with j heads, sharing with t others, with weight 1 / (1 + t): the integral of y^t over [0, 1].  So its chance is

        b_a(j) * integral of [x^(B - j)] prod over other i of (sum_{m < j} b_i(m) x^m + y b_i(j) x^j)

    summed over j, divided by the probability of B heads.  All terms are positive; the polynomial in y is integrated
    exactly by Gauss-Legendre nodes.  Answers of a single restart enter together.  Above 64 restarts, where this takes
    seconds, 4,000 subsets are drawn instead, with a fixed seed: the standard error is at most 0.008 a puzzle.
    """
    right = [n for n, good in votes if good]
    total = sum(n for n, _ in votes)
    if not right or len(right) == len(votes):
        return float(bool(right))
    if breadth == 1:
        return sum(right) / total
    if breadth == total:
        most = max(n for n, _ in votes)
        return float(np.mean([good for n, good in votes if n == most]))
    if breadth > EXACT_VOTE:
        return _drawn_vote_chance(votes, breadth)
    p = breadth / total
    nodes, weights = np.polynomial.legendre.leggauss((breadth + 1) // 2)
    nodes, weights = (nodes + 1) / 2, weights / 2
    chance = 0.0
    for size in set(right):
        others = [n for n, _ in votes]
        others.remove(size)
        ways = _others_below(others, breadth, p, nodes)  # (j, node, heads)
        j = np.arange(1, min(size, breadth) + 1)
        chance += right.count(size) * (_heads(j, size, p) * (ways[j, :, breadth - j] @ weights)).sum()
    return float(chance / _heads(np.asarray(breadth), total, p))


def _drawn_vote_chance(votes: tuple[tuple[int, bool], ...], breadth: int) -> float:
    """Return the same chance from subsets drawn with a fixed seed."""
    counts, good = (np.array(column) for column in zip(*votes, strict=True))
    drawn = np.random.default_rng(0).multivariate_hypergeometric(counts, breadth, size=DRAWS)
    most = drawn == drawn.max(1, keepdims=True)
    return float(((most & good).sum(1) / most.sum(1)).mean())


def _others_below(sizes: list[int], breadth: int, p: float, nodes: np.ndarray) -> np.ndarray:
    """Return the coefficients (j, node, heads) of the product over answers that have at most j heads each."""
    j = np.arange(breadth + 1)
    product = np.zeros((breadth + 1, len(nodes), breadth + 1))
    product[:, :, 0] = 1.0
    singles = sizes.count(1)
    groups = [(n, False) for n in sizes if n > 1] + ([(singles, True)] if singles else [])
    for n, single in groups:
        following = np.zeros_like(product)
        for m, mass in enumerate(_heads(np.arange(min(n, breadth) + 1), n, p)):
            if not single:  # one answer of several restarts
                factor = mass * (np.less(m, j)[:, None] + np.equal(m, j)[:, None] * nodes)
            else:  # answers of one restart: any number of them; at j = 1 each one with a head shares the win
                factor = mass * ((j > 1)[:, None] + (j == 1)[:, None] * nodes**m)
                factor[0] = mass * (m == 0)
            following[:, :, m:] += factor[:, :, None] * product[:, :, : breadth + 1 - m]
        product = following
    return product
