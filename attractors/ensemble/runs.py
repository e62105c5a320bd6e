"""What identity and masses need to know of the runs of one puzzle, so that rounds of restarts can be joined."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.fate import CODE
from eqrlab.attractors.statistics.trends import decay_rate

RESOLUTION = {"float64": 1e-6}  # relative distance up to which two exact states are one attractor
COARSE_RESOLUTION = 1e-3  # the same in lower precision
RATE_CAP = 0.999  # a slower decay than this is not extrapolated further


@dataclass(frozen=True)
class Runs:
    """Runs of one puzzle, leading axis n.

    Attributes
    ----------
    restart
        Numbers of the restarts.
    fate, period, settling_step
        As in the ensemble.
    residual
        Final relative residual.
    scale
        Unit of distances.
    error
        Estimated distance of the long-run state from its attractor, relative to the scale.
    resolution
        Relative distance up to which two exact states count as one, by the precision of the run.
    place
        Sketch (n, F) of the long-run state.
    answer
        (n, L).
    correct
        Right at the last step, a periodic run throughout its last period.
    state
        Final state (n, d) where kept, else (n, 0).
    exact
        Whether `place` is the sketch of `state`: settled without noise.
    """

    restart: np.ndarray
    fate: np.ndarray
    period: np.ndarray
    settling_step: np.ndarray
    residual: np.ndarray
    scale: np.ndarray
    error: np.ndarray
    resolution: np.ndarray
    place: np.ndarray
    answer: np.ndarray
    correct: np.ndarray
    state: np.ndarray
    exact: np.ndarray

    def __len__(self) -> int:
        return len(self.restart)

    def take(self, rows: np.ndarray) -> Runs:
        """Return some rows."""
        return Runs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def attracted(self) -> np.ndarray:
        """Which runs ended at an attractor, (n,) bool: settled, periodic or recurrent."""
        return np.isin(self.fate, [CODE[f] for f in ("settled", "periodic", "recurrent")])


def join(first: Runs, second: Runs) -> Runs:
    """Return the runs of two rounds of one puzzle together."""
    names = [f.name for f in fields(Runs)]
    return Runs(**{n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in names})


def state_error(ensemble: xr.Dataset) -> np.ndarray:
    """Estimate how far each long-run state is from its attractor, relative to its scale, (puzzle, restart).

    A settled run is off by what a geometric decay still has to go; a recurrent or noisy one by its spread.
    """
    with np.errstate(invalid="ignore"):  # a nonfinite run has an infinite scale
        relative = ensemble.residual.values.astype(float) / ensemble.scale.values[:, :, None]
    puzzles, restarts, depth = relative.shape
    k = min(depth, 16)
    recent = np.nan_to_num(relative[:, :, -k:], nan=1.0, posinf=1.0).reshape(-1, k)
    rate = np.clip(decay_rate(recent) if k > 1 else np.zeros(len(recent)), 0, RATE_CAP)
    left = np.nan_to_num(relative[:, :, -1], nan=1.0, posinf=1.0) / (1 - rate.reshape(puzzles, restarts))
    extended = (ensemble.fate.values == CODE["recurrent"]) | is_noisy(ensemble)
    epsilon = torch.finfo(getattr(torch, ensemble.attrs["dtype"])).eps
    return np.maximum(np.where(extended, ensemble.spread.values.astype(float), left), 4 * epsilon)


def is_noisy(ensemble: xr.Dataset) -> bool:
    """Say whether the runs of an ensemble were driven by noise."""
    return float(ensemble.attrs.get("noise", 0)) > 0


def runs_of(ensemble: xr.Dataset) -> list[Runs]:
    """Return the runs of each puzzle of an ensemble."""
    values = {
        "fate": ensemble.fate.values,
        "period": ensemble.period.values,
        "settling_step": ensemble.settling_step.values,
        "residual": ensemble.relative_residual.values[:, :, -1].astype(float),
        "scale": ensemble.scale.values.astype(float),
        "error": state_error(ensemble),
        "place": ensemble.sketch.values.astype(float),
        "answer": ensemble.answer.values,
        "correct": _right_at_the_end(ensemble),
        "exact": (ensemble.fate.values == CODE["settled"]) & (not is_noisy(ensemble)),
    }
    shape = ensemble.fate.shape
    values["resolution"] = np.full(shape, RESOLUTION.get(ensemble.attrs["dtype"], COARSE_RESOLUTION))
    kept = "final_state" in ensemble
    values["state"] = ensemble.final_state.values.reshape(*shape, -1) if kept else np.zeros((*shape, 0))
    restart = ensemble.restart.values
    return [Runs(restart=restart, **{n: v[p] for n, v in values.items()}) for p in range(shape[0])]


def _right_at_the_end(ensemble: xr.Dataset) -> np.ndarray:
    """Return which runs are right at the last step, periodic ones over their last period, (puzzle, restart)."""
    if "correct" not in ensemble:
        return np.zeros(ensemble.fate.shape, bool)
    correct = ensemble.correct.values
    right = correct[:, :, -1].copy()
    for p, r in zip(*np.nonzero(ensemble.fate.values == CODE["periodic"]), strict=True):
        right[p, r] = correct[p, r, -int(ensemble.period.values[p, r]) :].all()
    return right
