"""Ensembles whose puzzles have unequal numbers of restarts: a puzzle is not drawn from once its verdict stands."""

from __future__ import annotations

import numpy as np
import xarray as xr


def drawn_of(ensemble: xr.Dataset) -> np.ndarray:
    """Return which restarts were drawn, (puzzle, restart) bool; a puzzle's are its first ones."""
    if "drawn" in ensemble:
        return ensemble.drawn.values.astype(bool)
    return np.ones((ensemble.sizes["puzzle"], ensemble.sizes["restart"]), bool)


def in_waves(ensemble: xr.Dataset) -> bool:
    """Say whether the number of restarts hung on what they showed, so that intervals must hold however one stops."""
    return "waves" in ensemble.attrs


def common_restarts(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the restarts that every puzzle has: all, or the first wave of an ensemble that was sampled in waves.

    Notes
    -----
    What pools runs over puzzles must look at equally many of each: puzzles that are hard to decide have more.  The
    first wave was drawn whatever it showed, so that nothing is chosen by its outcome.
    """
    if "drawn" not in ensemble:
        return ensemble
    number = int(drawn_of(ensemble).sum(1).min())
    return ensemble.isel(restart=slice(0, number)).drop_vars("drawn").assign_attrs(restarts=number)


def require_equal(ensemble: xr.Dataset, what: str) -> None:
    """Raise ValueError where puzzles have unequal numbers of restarts and `what` needs equal ones."""
    if not drawn_of(ensemble).all():
        raise ValueError(
            f"{what} needs equally many restarts of every puzzle, and this ensemble was sampled in waves: "
            "take attractors.common_restarts(ensemble), or sample all (diagnose --fixed)"
        )
