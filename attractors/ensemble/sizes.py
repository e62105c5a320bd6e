"""Lengths by which states are measured: their norm, or that of the states of their run where they are at the origin."""

from __future__ import annotations

import numpy as np
import torch

from eqrlab.attractors.ensemble.states import Points
from eqrlab.attractors.fates.fate import LEAST_SCALE
from eqrlab.core.models.contract import draw_starts

DRAWS = 8  # starts of a puzzle of which the restart law's size is the root mean square


@torch.no_grad()
def run_sizes(points: Points) -> np.ndarray:
    """Return the size (n,) of the states on the way to each point; zero where even the restart law has none.

    It is the largest norm of the point's run where an ensemble tells it, else the root mean square norm of starts.
    """
    known = points.run_size.cpu().double().numpy()
    if (known > 0).all():
        return known
    law = np.zeros(points.shape[0])
    for p, key in enumerate(points.keys(0)):
        starts = draw_starts(points.system.initial, points.x, p, key, DRAWS)
        law[p] = starts.flatten(1).double().norm(dim=1).square().mean().sqrt()
    return np.where(known > 0, known, np.repeat(law, points.shape[1]))


def least_lengths(points: Points) -> np.ndarray:
    """Return the length (n,) below which distances at a point mean nothing: a thousandth of its run's size."""
    return LEAST_SCALE * run_sizes(points)


def own_lengths(points: Points, required: bool = True) -> np.ndarray:
    """Return the norms (n,) of states, or the size of their run for those smaller than a thousandth of it; NaN at gaps.

    A state at the origin has no size of its own: its norm is rounding, or what iteration has left to go.

    Raises
    ------
    ValueError
        If a length is required of every state, and one is zero where nothing else has a size.
    """
    norm, size = points.z.flatten(1).double().norm(dim=1).cpu().numpy(), run_sizes(points)
    lengths = np.where(norm < LEAST_SCALE * size, size, norm)
    if required:
        require_lengths(points, lengths, points.present.cpu().numpy().nonzero()[0])
    return lengths


def require_lengths(points: Points, lengths: np.ndarray, rows: np.ndarray) -> None:
    """Refuse points without a length.

    Raises
    ------
    ValueError
        If the length (n,) of one of these rows is zero.
    """
    none = rows[lengths[rows] == 0]
    if len(none):
        raise ValueError(
            f"the state of {points.name(int(none[0]))} is zero, and so are all starts of the restart law: relative "
            "sizes have no meaning there; give a system whose restart law has starts of the usual size"
        )
