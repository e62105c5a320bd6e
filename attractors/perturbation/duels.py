"""Duels: from the midpoint between two runs with different answers, which answer wins?"""

from __future__ import annotations

import dataclasses
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import require_integers, require_states
from eqrlab.attractors.ensemble.options import computing
from eqrlab.attractors.ensemble.states import Points
from eqrlab.attractors.perturbation.follow import Follower
from eqrlab.attractors.perturbation.returns import ReturnOptions, follower_of
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import System

NEAR = 0.02  # of `aside`: relative residual at which a state is left, small beside that of a midpoint at a saddle


def duels(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    answers: int = 4,
    pairs: int = 16,
    aside: float = 1e-3,
    confidence: float = 0.95,
    **options: Unpack[ReturnOptions],
) -> xr.Dataset:
    """Start from midpoints between runs with different answers, and count which of the answers wins.

    Parameters
    ----------
    system, inputs
        Those of the ensemble.
    ensemble
        With `final_state` kept.
    answers
        Largest number of answers of a puzzle that are compared, the most frequent ones.
    pairs
        Largest number of pairs of runs for each two answers; a run belongs to only one pair.
    aside
        From each midpoint two runs start, this share of the distance to either side along a random direction, so that a
        midpoint on the border itself is a draw.
    confidence
        Of the intervals.
    **options
        `depth` (64 unless given), `escape`, `tolerances`, see `ReturnOptions`, and those of `AnswerOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, contender): `answer_id` as in the ensemble at its last step, -1: none; `runs` with it; `correct`
        where known; `strength` = mean share of wins over the others.  Over (puzzle, contender, opponent): `wins` =
        share of the starts between both that end with the contender's answer, with `_low`, `_high`, and `duels` =
        pairs; NaN and 0 for one that meets itself.

    Raises
    ------
    ValueError
        For an ensemble without final states, and for misuse, naming the argument.

    Notes
    -----
    Of the runs, those with the 2 * `answers` most frequent answers are followed, and merged where they end with one
    answer; states are left early where their answer has been constant for a quarter of the depth and a step moves
    them by at most a fiftieth of `aside`.

    A start that ends with a third answer is won by neither.  Intervals are Wilson's at the number of pairs, which are
    independent; the two starts of a pair are not, so that their mean varies less.  The winner is the answer whose basin
    reaches further along these lines.  This measures basins; as a selector it is not worth its cost. Cost: 2 * pairs
    orbits for each two answers.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> start = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    >>> sign = MapSystem(lambda z, x: torch.tanh(2 * z), start, lambda z, x: (z > 0).long() + 1)
    >>> inputs = torch.zeros(1, 1, dtype=torch.long)
    >>> runs = sample(sign, inputs, restarts=16, depth=64, keep=("final_state",))
    >>> duels(sign, inputs, runs).wins.values[0, :2, :2].tolist()  # the border is half way
    [[nan, 0.5], [0.5, nan]]
    """
    own = computing(options, duels, ReturnOptions)
    require_states(ensemble)
    require_integers(2, answers=answers)
    require_integers(pairs=pairs)
    if not 0 < aside < 0.5:
        raise ValueError(f"aside must be between 0 and 0.5, got {aside}")
    points = own.points(system, inputs, ensemble)
    follower = follower_of(points, {"depth": 64, **options}, 1.0)
    puzzles, last = points.shape[0], ensemble.answer_id.values[:, :, -1]
    present = points.fold(points.present)
    number = np.full((puzzles, answers), -1, np.int32)
    runs = np.zeros((puzzles, answers), np.int32)
    correct = np.zeros((puzzles, answers), bool)
    wins = np.full((3, puzzles, answers, answers), np.nan)
    met = np.zeros((puzzles, answers, answers), np.int32)
    # What runs decode to at the end, and so what a duel is won with; a puzzle with one answer has no duel.
    for p in range(puzzles):
        present[p] &= _frequent(last[p], present[p], 2 * answers)
    several = np.array([len(np.unique(one[here])) > 1 for one, here in zip(last, present, strict=True)])
    code = np.zeros(present.shape, np.int64)
    if len(rows := np.flatnonzero(present & several[:, None])):
        z = points.z[torch.as_tensor(rows, device=points.z.device)]
        code.flat[rows] = follower.answers(z, rows // points.shape[1], NEAR * aside)
    for p in range(puzzles):
        found = _contenders(last[p], code[p], present[p], answers)
        for a, members in enumerate(found):
            number[p, a], runs[p, a] = last[p, members[0]], len(members)
            if "correct" in ensemble:
                correct[p, a] = bool(ensemble.correct.values[p, members[0], -1])
            for b, others in enumerate(found[:a]):
                count = min(len(members), len(others), pairs)
                share = _duel(follower, points, p, members[:count], others[:count], code[p], aside, own.seed)
                met[p, a, b] = met[p, b, a] = count
                for first, second, won in ((a, b, share[0]), (b, a, share[1])):
                    low, high = proportion_interval(np.array(won * count), count, confidence, "wilson")
                    wins[:, p, first, second] = won, low, high
    # Strength of an answer: its mean share of wins, over the answers that it met.
    every = ("puzzle", "contender", "opponent")
    fought = ~np.isnan(wins[0])
    with np.errstate(invalid="ignore"):
        strength = np.where(fought, wins[0], 0).sum(2) / fought.sum(2)
    pair = ("puzzle", "contender")
    variables: dict[str, schema.Variable] = {
        "answer_id": (pair, number, "number of the answer among those its puzzle has seen, -1 none"),
        "runs": (pair, runs, "runs that end with the answer"),
        "strength": (pair, strength, "mean share of wins over the other answers"),
        "duels": (every, met, "pairs of runs that met"),
        **Interval(*wins).variables("wins", every, "share of starts between both that end with the contender's answer"),
    }  # fmt: skip
    if "correct" in ensemble:
        variables["correct"] = (pair, correct, "the answer is right")
    attributes = points.attributes(
        seed=own.seed, depth=follower.depth, pairs=pairs, aside=aside, confidence=confidence,
        evaluations=follower.evaluations, interval="Wilson, at the number of pairs",
        tolerances=dataclasses.asdict(follower.tolerances),
    )  # fmt: skip
    return schema.dataset(variables, attributes, {"puzzle": ensemble.puzzle.values})


def _frequent(last: np.ndarray, present: np.ndarray, most: int) -> np.ndarray:
    """Return which runs have one of the most frequent answers."""
    values, counts = np.unique(last[present], return_counts=True)
    return np.isin(last, values[np.argsort(-counts, kind="stable")[:most]])


def _contenders(last: np.ndarray, code: np.ndarray, present: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the runs of each of the most frequent answers that stay when the runs go on."""
    groups = []
    for answer in np.unique(last[present]):
        members = np.flatnonzero(present & (last == answer))
        values, counts = np.unique(code[members], return_counts=True)
        groups.append(members[code[members] == values[counts.argmax()]])
    distinct = {
        int(code[g[0]]): g for g in sorted(groups, key=len)
    }  # of those that go on to one answer the larger
    return sorted(distinct.values(), key=len, reverse=True)[:most]


def _duel(
    follower: Follower, points: Points, puzzle: int, first: np.ndarray, second: np.ndarray, code: np.ndarray,
    aside: float, seed: int,
) -> tuple[float, float]:  # fmt: skip
    """Return the shares of starts between pairs of runs that end with the first's and with the second's answer."""
    flat = points.z.flatten(1)[puzzle * points.shape[1] : (puzzle + 1) * points.shape[1]]
    one, two = (flat[torch.as_tensor(rows, device=flat.device)] for rows in (first, second))
    generator = torch.Generator().manual_seed(seed)
    way = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one)
    step = aside * (one - two).norm(dim=1, keepdim=True) * way / way.norm(dim=1, keepdim=True)
    middle = (one + two) / 2
    z = torch.cat((middle + step, middle - step)).view(-1, *points.z.shape[1:])
    ends = follower.answers(z, np.full(len(z), puzzle), NEAR * aside)
    return tuple(float((ends == code[rows[0]]).mean()) for rows in (first, second))  # type: ignore[return-value]
