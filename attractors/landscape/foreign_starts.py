"""Asymptotic alignment: do runs that start at other puzzles' attractors end where the puzzle's own runs end?"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    distinct,
    identifiers_of,
    require_same_puzzles,
    require_states,
    tokens_of,
)
from eqrlab.attractors.ensemble.judge import Judge, Oracle
from eqrlab.attractors.ensemble.options import StateOptions, check_options
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import require_equal
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import RESAMPLES, mean_over_puzzles, share_over_puzzles
from eqrlab.core import System
from eqrlab.core.seeds import nonnegative

COSINES = ("mean_alignment", "mean_own", "mean_start")


def asymptotic_alignment(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    labels: Tensor | np.ndarray | None = None,
    oracle: Oracle | None = None,
    depth: int | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    **options: Unpack[StateOptions],
) -> xr.Dataset:
    """Start each puzzle's runs at final states of other puzzles' runs, and compare where they end with its own runs.

    Parameters
    ----------
    system, inputs
        Those of the ensemble; at least two different puzzles.
    ensemble
        From `sample` with `keep=("summary", "final_state")`.
    labels, oracle
        As for `sample`; without both correctness is not reported, and answers are compared by the cells that count in
        the ensemble.
    depth
        Outer steps from the foreign start; None: those of the ensemble.
    confidence, resamples
        Of the bootstrap, which draws whole puzzles.
    **options
        `seed` of the partners and of the noise, default 1: it must differ from the ensemble's, so that runs do
        not share their noise; `identifiers`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, restart): `partner` = position of the puzzle started from, and the cosines of whole states
        `alignment` = run from the foreign start and own run, the asymptotic alignment score; `own` = own run and the
        puzzle's next restart, what the restart law itself reaches (NaN with one restart); `start` = foreign start and
        own run, the score of a map that does nothing; `same_answer`.  Means over puzzles `mean_alignment`, `mean_own`,
        `mean_start`, `mean_same_answer`, and where correctness is known `accuracy`, `accuracy_own` and
        `accuracy_change`, each with `_low`, `_high`.

    Raises
    ------
    ValueError
        When the ensemble holds no final states or other puzzles than `inputs`, or there is one puzzle only.

    Notes
    -----
    Cost: as many outer steps as the ensemble.  States are compared at one step.  For runs that never settle,
    the cosine says how far apart they are, not whether they share a recurrent set; `same_answer` says whether
    that matters.

    References
    ----------
    Anil et al. 2022, "Path independent equilibrium models can better exploit test-time computation", section 4.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> halfway = MapSystem(lambda z, x: (z + x) / 2, lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype))
    >>> puzzles = torch.tensor([[1, 2], [3, -1]])
    >>> ensemble = sample(halfway, puzzles, restarts=2, depth=60, keep=("final_state",))
    >>> round(float(asymptotic_alignment(halfway, puzzles, ensemble).mean_alignment), 6)
    1.0
    """
    check_options(options, StateOptions, asymptotic_alignment)
    seed = options.setdefault("seed", 1)
    tokens = tokens_of(inputs, "inputs")
    require_states(ensemble)
    require_equal(ensemble, "asymptotic alignment")
    given = identifiers_of(options.get("identifiers"), len(tokens))
    options["identifiers"] = known = require_same_puzzles(ensemble, tokens, given)
    puzzles, restarts = ensemble.sizes["puzzle"], ensemble.sizes["restart"]
    first, place = distinct(tokens, known)
    if len(first) < 2:
        raise ValueError("asymptotic alignment needs at least two different puzzles, got 1")
    # One shift per restart: every puzzle gets a partner other than itself, and every state is used once.
    shift = np.random.default_rng(nonnegative(seed)).integers(1, len(first), size=restarts)
    partner = first[(place[:, None] + shift) % len(first)]
    own = ensemble.final_state.values
    start = own[partner, np.arange(restarts)]
    foreign = sample(
        system, tokens, labels=labels, oracle=oracle, restarts=restarts, depth=depth or ensemble.sizes["step"],
        noise=float(ensemble.attrs["noise"]), initial=torch.as_tensor(start), keep=("final_state",),
        **options,
    )  # fmt: skip
    solutions = None if labels is None else tokens_of(labels, "labels").numpy()
    given_judge = Judge(solutions, oracle)
    judge = given_judge if given_judge.known else Judge.of_ensemble(ensemble)
    judge = judge.of(np.arange(puzzles).repeat(restarts))
    here, there = (judge.codes(e.answer.values.reshape(puzzles * restarts, -1)) for e in (ensemble, foreign))
    same = (here == there).reshape(puzzles, restarts)
    another = _cosine(own, np.roll(own, -1, axis=1)) if restarts > 1 else np.full(partner.shape, np.nan)
    pair = ("puzzle", "restart")
    texts = {
        "alignment": "cosine of the run from a foreign start and the own run",
        "own": "cosine of the own run and another of the puzzle",
        "start": "cosine of the foreign start and the own run",
        "same_answer": "the run from a foreign start ends with the answer of the own run",
    }
    each: dict[str, np.ndarray] = {
        "alignment": _cosine(foreign.final_state.values, own),
        "own": another,
        "start": _cosine(start, own),
        "same_answer": same,
    }
    variables: dict[str, schema.Variable] = {
        "partner": (pair, partner, "position of the puzzle started from"),
        **{name: (pair, values, texts[name]) for name, values in each.items()},
    }
    means = {f"mean_{name}": (values.astype(float), f"mean {texts[name]}") for name, values in each.items()}
    if "correct" in foreign and "correct" in ensemble:
        after, before = (e.correct.values[:, :, -1].astype(float) for e in (foreign, ensemble))
        means["accuracy"] = (after, "share of right runs from foreign starts")
        means["accuracy_own"] = (before, "share of right runs from the restart law")
        means["accuracy_change"] = (after - before, "the first of these shares minus the second")
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    for name, (values, text) in means.items():
        found = (
            mean_over_puzzles(values.mean(1), **draw)
            if name in COSINES
            else share_over_puzzles(values.mean(1), least=-1.0 if name == "accuracy_change" else 0.0, **draw)
        )
        variables |= Interval(*found).each(np.float64).variables(name, (), text)
    attributes = {**foreign.attrs, "initial_law": "final states of other puzzles", "confidence": confidence}
    attributes["bootstrap"] = f"{resamples} resamples of puzzles, seed {seed}"
    coordinates = {d: ensemble[d].values for d in pair}
    return schema.dataset(variables, attributes, coordinates)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines (puzzle, restart) of states; NaN where one is zero or not finite."""
    u, v = (s.reshape(*s.shape[:2], -1).astype(float) for s in (a, b))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = (u * v).sum(-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
    return np.where(np.isfinite(value), value, np.nan)
