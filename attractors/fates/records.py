"""Quantities that `assemble` computes from the records of many runs: digests of last states, noise, answer numbers."""

from __future__ import annotations

import numpy as np

from eqrlab.attractors.fates.fate import LongRun, Tolerances, long_run
from eqrlab.attractors.fates.orbits import outlines


def digested(records: dict[str, np.ndarray], depth: int, limits: Tolerances, before: int = 0) -> LongRun:
    """Return the statistics from which fates are decided: stored by `digest`, or computed from sketches."""
    if "ring" in records:
        return long_run(records["ring"].astype(float), depth, limits, before, records.get("trace"))
    stored = {name: records[f"run_{name}"] for name in LongRun._fields}
    return LongRun(**{k: v.astype(float) if v.dtype == np.float32 else v for k, v in stored.items()})


def digest(records: dict[str, np.ndarray], depth: int, limits: Tolerances) -> dict[str, np.ndarray]:
    """Return records in which sketches of states are replaced by the statistics for fates and the sets they end on."""
    ring = records["ring"]
    facts = digested(records, depth, limits)._asdict()
    facts |= {
        name: facts[name].astype(ring.dtype) for name in ("last", "cycle")
    }  # states as they were: exact
    rest = {name: values for name, values in records.items() if name not in ("ring", "trace")}
    rest["orbit"], rest["cycle_error"] = outlines(records["trace"], facts["period"])
    return rest | {f"run_{name}": values for name, values in facts.items()}


def relative_to(residual: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return residuals over the norms of their states: at the state 0, one of 0 is at rest, any other is infinite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(size > 0, residual / size, np.where(residual == 0, 0, np.inf))
    return relative.astype(residual.dtype)


def noise_size(residual: np.ndarray, update: np.ndarray, size: np.ndarray) -> float:
    """Return the relative size of the noise in one outer step: the update's excess over the residual before it."""
    ratio = noise_ratios(residual, update, size)
    return float(np.median(ratio)) if ratio.size else 0.0


def noise_ratios(residual: np.ndarray, update: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the finite values of which `noise_size` is the median, one for each run and step of the later half."""
    if residual.shape[1] < 2:
        return np.empty(0)
    half = residual.shape[1] // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = update[:, 1:].astype(float) ** 2 - residual[:, :-1].astype(float) ** 2
        ratio = np.sqrt(np.maximum(excess, 0)) / size[:, 1:]
    ratio = ratio[:, half - 1 :]
    return ratio[np.isfinite(ratio)]


def answer_ids(code: np.ndarray) -> np.ndarray:
    """Number the answers (puzzle, restart, step) of each puzzle, the most frequent first, ties by their hash."""
    ids = np.empty(code.shape, np.int32)
    for p, codes in enumerate(code):
        _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        rank = np.empty(len(counts), np.int32)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        ids[p] = rank[inverse].reshape(codes.shape)
    return ids
