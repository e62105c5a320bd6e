"""Accuracy of a model on puzzles, with intervals whose units are puzzles."""

from __future__ import annotations

from typing import Any

import numpy as np

from eqrlab.attractors import sample
from eqrlab.attractors.statistics.intervals import proportion_interval
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
    """Return exact and cell accuracy with 95 % intervals whose units are puzzles.

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
        restarts=restarts,
        depth=depth,
        seed=seed,
        noise=noise,
        oracle=puzzles.oracle,
        device=device,
        progress=progress,
    )
    exact = ensemble.correct.values[:, :, -1].astype(float)
    cells = None if puzzles.labels is None else ensemble.token_accuracy.values[:, :, -1].astype(float)
    return {
        "family": reasoner.family,
        "task": puzzles.task,
        "puzzles": len(puzzles),
        "depth": depth,
        "restarts": restarts,
        "noise": reasoner.noise_scale if noise is None else noise,
        "seed": seed,
        "exact": clustered(exact, 1),
        "cells": None if cells is None else clustered(cells, puzzles.inputs.shape[1]),
    }


def clustered(shares: np.ndarray, trials: int) -> dict[str, float]:
    """Return the mean of shares (puzzle, restart) of `trials` each, with a 95 % interval whose units are puzzles.

    Notes
    -----
    A Wilson interval at the effective number of trials p (1 - p) / var(mean), the variance taken between puzzles; this
    number is at least the number of puzzles (so also where all puzzles agree) and at most all trials.

    References
    ----------
    Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys".
    """
    means = shares.mean(axis=1)
    p, n = float(means.mean()), len(means)
    variance = float(means.var(ddof=1)) / n if n > 1 else np.inf
    effective = p * (1 - p) / variance if variance else np.inf
    effective = min(max(effective, n), shares.size * trials) if 0 < p < 1 else n
    return proportion(p, effective)


def proportion(p: float, trials: float) -> dict[str, float]:
    """Return a proportion of independent trials with its 95 % Wilson interval."""
    low, high = proportion_interval(np.array(p * trials), np.array(trials), method="wilson")
    return {"value": p, "low": float(low), "high": float(high)}
