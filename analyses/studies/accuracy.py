"""Accuracy of a model on puzzles, with intervals whose units are puzzles."""

from __future__ import annotations

from typing import Any

from eqrlab.analyses.studies import arc
from eqrlab.analyses.studies.shares import clustered
from eqrlab.attractors import sample
from eqrlab.core import Reasoner
from eqrlab.datasets import PuzzleSet


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
    if puzzles.inputs.shape[1] != c.seq_len or puzzles.inputs.max() >= c.vocab_size:
        raise ValueError(
            f"{puzzles.source}: {puzzles.task} puzzles of {puzzles.inputs.shape[1]} cells, "
            f"the model reads {c.seq_len} cells and tokens 0 to {c.vocab_size - 1}"
        )
    ensemble = sample(
        reasoner.to(device),
        puzzles.inputs,
        labels=puzzles.labels,
        identifiers=puzzles.identifiers,
        restarts=restarts,
        depth=depth,
        seed=seed,
        noise=noise,
        oracle=puzzles.oracle,
        device=device,
        progress=progress,
    )
    exact = cells = None
    if "correct" in ensemble:
        exact = clustered(ensemble.correct.values[:, :, -1].astype(float), 1)
    if puzzles.labels is not None:
        counted = int((puzzles.labels != 0).sum(axis=1).mean())
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
        **(arc.vote_results(ensemble, puzzles) if arc.shown_names(puzzles) else {}),
    }
