"""The steps at which noise-free residuals are measured, if each needs an evaluation of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.attractors.fates.fate import Sparse, answer_window

RESIDUALS = ("all", "sparse")
LEAST = 3  # last steps at which residuals are always measured: least residual is chosen by their mean


def measured_steps(residuals: str, depth: int, before: int = 0) -> np.ndarray:
    """Return at which of the steps 1, ..., `depth` (after `before` others) a residual is measured, (depth,) bool.

    Parameters
    ----------
    residuals
        "all"; or "sparse": after 1, 2, 4, 8, ... steps of the whole run, and throughout its last window, over which
        answers must be constant and trends are judged: a quarter of the steps, at most 16, at least 3.

    Examples
    --------
    >>> (np.flatnonzero(measured_steps("sparse", 40)) + 1).tolist()
    [1, 2, 4, 8, 16, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]
    """
    if residuals == "all":
        return np.ones(depth, bool)
    step = before + np.arange(1, depth + 1)
    window = max(answer_window(before + depth), LEAST)
    return ((step & (step - 1)) == 0) | (step > before + depth - window)


def measured_in(residual: np.ndarray, residuals: str, before: int = 0) -> np.ndarray:
    """Return the steps at which residuals (..., D) were measured, (D,) bool; all steps if a residual costs nothing."""
    known = measured_steps(residuals, residual.shape[-1], before)
    return known | np.isfinite(residual).reshape(-1, residual.shape[-1]).any(0)


def sparse_of(records: Mapping[str, np.ndarray], residuals: str, before: int = 0) -> Sparse | None:
    """Return the steps at which the records (n, D) of runs have residuals; None: all."""
    measured = measured_in(records["residual"], residuals, before)
    return None if measured.all() else Sparse(measured, records["update"].astype(float))


def measured_of(ensemble: xr.Dataset) -> np.ndarray:
    """Return the steps at which the residuals of an ensemble were measured, (D,) bool; elsewhere they are NaN."""
    return measured_in(ensemble.residual.values, str(ensemble.attrs.get("residuals", "all")))


def require_all(ensemble: xr.Dataset, what: str) -> None:
    """Raise ValueError if `what` needs the residual of every step and the ensemble does not have it."""
    if not measured_of(ensemble).all():
        raise ValueError(f"{what} needs residuals at every step: sample with residuals='all' (--fixed)")
