"""Accuracy of a model on puzzles, with intervals whose units are puzzles."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.analyses.studies import arc
from eqrlab.analyses.studies.shares import clustered
from eqrlab.attractors import sample
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.core import Reasoner
from eqrlab.core.labels import counts
from eqrlab.datasets import PuzzleSet

KEPT = 1 << 27  # numbers of states that are kept at once


def measure(
    reasoner: Reasoner,
    puzzles: PuzzleSet,
    *,
    depth: int,
    restarts: int,
    noise: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Return exact and cell accuracy with 95 % intervals whose units are puzzles; of ARC also what the vote gives.

    None where it is not known what is right.  Of ARC puzzles whose tasks are known see also `arc.vote_results`.

    Raises
    ------
    ValueError
        When the puzzles are of another size or vocabulary than the model's.
    """
    c = reasoner.config
    own = c is None  # a system of the user's own, which says itself what it reads
    if not own and (puzzles.inputs.shape[1] != c.seq_len or puzzles.inputs.max() >= c.vocab_size):
        raise ValueError(
            f"{puzzles.source}: {puzzles.task} puzzles of {puzzles.inputs.shape[1]} cells, "
            f"the model reads {c.seq_len} cells and tokens 0 to {c.vocab_size - 1}"
        )
    votes = not own and bool(arc.shown_names(puzzles))
    given: dict[str, Any] = {
        "restarts": restarts, "depth": depth, "seed": seed, "noise": noise, "oracle": puzzles.oracle, "device": device,
        "progress": progress,
    }  # fmt: skip
    if own:
        ensemble = _sampled(reasoner, puzzles, given)
    elif votes and reasoner.continue_head:
        ensemble = _with_votes(reasoner.to(device), puzzles, given)
    else:
        ensemble = _sampled(by_halting_rule(reasoner.to(device)), puzzles, given)
    exact = cells = halted = None
    if "correct" in ensemble:
        exact = clustered(ensemble.correct.values[:, :, -1].astype(float), 1)
        if "halt_logit" in ensemble:
            halted = halting(ensemble.correct.values, ensemble.halt_logit.values)
    if puzzles.labels is not None:
        counted = int(counts(puzzles.labels).sum(axis=1).mean())
        cells = clustered(ensemble.token_accuracy.values[:, :, -1].astype(float), counted)
    return {
        "family": reasoner.family,
        "task": puzzles.task,
        "puzzles": len(puzzles),
        "depth": depth,
        "restarts": restarts,
        "noise": reasoner.noise_scale if noise is None else noise,
        "seed": seed,
        "exact": exact,
        "cells": cells,
        "halting": halted,
        **(arc.vote_results(ensemble, puzzles) if votes else {}),
    }


def _sampled(system: Reasoner, puzzles: PuzzleSet, given: dict[str, Any]) -> xr.Dataset:
    return sample(system, puzzles.inputs, labels=puzzles.labels, identifiers=puzzles.identifiers, **given)


def _with_votes(reasoner: Reasoner, puzzles: PuzzleSet, given: dict[str, Any]) -> xr.Dataset:
    """Return runs of a family that learns to continue, with the logit that weighs its votes.

    `halt_logit` is what its halting rule asks, `vote_logit` (puzzle, restart) the halting logit at the end: the
    official vote does not look at the other.  Final states are kept of so many puzzles at once as `KEPT` numbers allow.
    """
    stopping, parts = by_halting_rule(reasoner), []
    at_once = max(1, KEPT // (given["restarts"] * math.prod(reasoner.state_shape)))
    for first in range(0, len(puzzles), at_once):
        few = puzzles.take(slice(first, first + at_once))
        runs = _sampled(stopping, few, given | {"keep": ("summary", "final_state")})
        z = torch.as_tensor(runs["final_state"].values, device=reasoner.device)
        with torch.no_grad():
            logit = reasoner.q_values(z.flatten(0, 1))[:, 0].reshape(z.shape[:2])
        parts.append(
            runs.drop_vars("final_state").assign(vote_logit=(("puzzle", "restart"), logit.cpu().numpy()))
        )
    return xr.concat(
        parts, "puzzle", data_vars="minimal", coords="minimal", compat="override", join="override"
    )


def by_halting_rule(reasoner: Reasoner) -> Reasoner:
    """Return a model whose halting logit is above 0 where the rule of its training halts a row.

    Families that learn to continue (HRM) halt where the halting logit exceeds the logit of continuing.
    """
    if not reasoner.continue_head:
        return reasoner
    other = copy.copy(reasoner)

    def margin(z: Tensor, x: Tensor) -> Tensor:
        q = reasoner.q_values(z)
        return q[:, 0] - q[:, 1]

    object.__setattr__(other, "halt_logit", margin)
    return other


def halting(correct: np.ndarray, logit: np.ndarray) -> dict[str, Any]:
    """Return accuracy and steps if every run stops at the first step at which its halting head asks for it.

    Parameters
    ----------
    correct, logit
        Whether the answer is right, and what is above 0 where the head halts: (puzzle, restart, step).

    Returns
    -------
    dict
        `exact`: accuracy of the answers at which runs stop, the last answer if a run is never asked to stop;
        `steps`: their mean number of outer steps; `halted`: share of runs that ask at all; each with a 95 %
        interval whose units are puzzles.
    """
    asks = logit > 0
    some, depth = asks.any(axis=2), asks.shape[2]
    step = np.where(some, asks.argmax(axis=2), depth - 1)
    right = np.take_along_axis(correct, step[:, :, None], axis=2)[:, :, 0]
    # Of the steps beyond the first, which every run makes; one puzzle has no bounds.
    share = Interval(*share_over_puzzles(step.mean(axis=1) / max(depth - 1, 1)))
    return {
        "exact": clustered(right.astype(float), 1),
        "steps": share.each(lambda part: 1 + (depth - 1) * part).plain(),
        "halted": clustered(some.astype(float), 1),
    }
