"""Ensembles whose puzzles have unequal numbers of restarts: no more are drawn once the mode of a puzzle is decided."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eqrlab.attractors.statistics.intervals import DEFAULT_INTERVAL


def drawn_of(ensemble: xr.Dataset) -> np.ndarray:
    """Return which restarts were drawn, (puzzle, restart) bool; for each puzzle they are the first ones."""
    if "drawn" in ensemble:
        return ensemble.drawn.values.astype(bool)
    return np.ones((ensemble.sizes["puzzle"], ensemble.sizes["restart"]), bool)


def interval_of(ensemble: xr.Dataset) -> str:
    """Return the method of intervals that suits an ensemble: where the number of restarts depended on their results,
    one that allows for stopping.
    """
    return "sequence" if "waves" in ensemble.attrs else DEFAULT_INTERVAL


def common_restarts(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the restarts that every puzzle has: all, or the first wave of an ensemble that was sampled in waves.

    Notes
    -----
    Statistics that pool runs over puzzles need equally many runs of each, since puzzles that are hard to decide have
    more.  The first wave was drawn unconditionally, so that no run in it was selected by its outcome.
    """
    if "drawn" not in ensemble:
        return ensemble
    number = int(drawn_of(ensemble).sum(1).min())
    return ensemble.isel(restart=slice(0, number)).drop_vars("drawn").assign_attrs(restarts=number)


def require_equal(ensemble: xr.Dataset, what: str) -> None:
    """Raise ValueError if puzzles have unequal numbers of restarts and `what` needs equal ones."""
    if not drawn_of(ensemble).all():
        raise ValueError(
            f"{what} needs equally many restarts of every puzzle, and this ensemble was sampled in waves: "
            "take attractors.common_restarts(ensemble), or sample all (diagnose --fixed)"
        )
