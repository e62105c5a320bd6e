"""Directions in which states are perturbed: random, leading eigenvectors and singular vectors, between attractors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import SMALL, Products
from eqrlab.attractors.dynamics.jacobian import (
    Jacobian,
    check_differentiable,
    random_directions,
    rows_within,
    with_derivatives,
)
from eqrlab.attractors.dynamics.krylov.golub_kahan import leading_triples
from eqrlab.attractors.dynamics.krylov.krylov_schur import leading_pairs
from eqrlab.attractors.dynamics.singular import Stretch
from eqrlab.attractors.ensemble.states import Points
from eqrlab.attractors.perturbation.returns import Homes
from eqrlab.core.random import restart_generator

KINDS = ("random", "eigen", "singular", "between")


class Directions(NamedTuple):
    """Directions of n rows.

    Attributes
    ----------
    vector
        (n, k, d) unit vectors, NaN where a row has none.
    length
        (n, k) how far to go along them at most, NaN: as far as asked for.
    kind, sign
        Of each of the k.
    """

    vector: Tensor
    length: Tensor
    kind: list[str]
    sign: list[int]


def shock_directions(
    points: Points, homes: Homes, kinds: Sequence[str], random: int, leading: int, seed: int
) -> Directions:
    """Return directions of the kinds asked for, for all rows; vectors and their opposites for eigen and singular."""
    parts: list[Tensor] = []
    lengths: list[Tensor] = []
    names: list[str] = []
    signs: list[int] = []
    smooth = points
    if {"eigen", "singular"} & set(kinds):
        check_differentiable(points, seed)
        smooth = with_derivatives(points)
    for kind in KINDS:
        if kind not in kinds:
            continue
        if kind == "random":
            vector = random_unit_vectors(points, random, seed)
        elif kind == "between":
            vector, far = _between(points, homes)
        else:
            half = _leading(smooth, kind, min(leading, points.size), seed)
            vector = torch.cat((half, -half), 1)
        count = vector.shape[1]
        parts.append(vector)
        lengths.append(far if kind == "between" else vector.new_full(vector.shape[:2], torch.nan))
        names += [kind] * count
        signs += [1] * (count // 2) + [-1] * (count // 2) if kind in ("eigen", "singular") else [1] * count
    return Directions(torch.cat(parts, 1), torch.cat(lengths, 1), names, signs)


def random_unit_vectors(points: Points, count: int, seed: int, first: int = 2**20) -> Tensor:
    """Return isotropic unit vectors (n, count, d), those of a row keyed by (seed, input tokens, point)."""
    rows = []
    for key in points.keys(seed):
        for point in range(points.shape[1]):
            generator = restart_generator(key, first + point)
            rows.append(torch.randn((count, points.size), generator=generator, dtype=torch.float64))
    vector = torch.stack(rows).to(points.z)
    return vector / vector.norm(dim=2, keepdim=True)


def _between(points: Points, homes: Homes) -> tuple[Tensor, Tensor]:
    """Return the ways to a puzzle's attractors (n, attractors, d) and their lengths; NaN to the own one."""
    puzzle = torch.arange(len(points.z), device=points.z.device) // points.shape[1]
    way = homes.targets[puzzle] - points.z.flatten(1)[:, None]
    own = torch.as_tensor(homes.label)[:, None] == torch.arange(way.shape[1])
    length = way.norm(dim=2)
    length[own.to(length.device)] = torch.nan
    return way / length[..., None], length


@torch.no_grad()
def _leading(points: Points, kind: str, k: int, seed: int) -> Tensor:
    """Return leading right eigenvectors or singular vectors (n, k, d) of df/dz; parts of complex ones, NaN at gaps."""
    out = points.z.new_full((len(points.z), k, points.size), torch.nan)
    for rows in points.batches(rows_within(points, 80)):
        jacobian = Jacobian(points.system, points.context(rows), points.z[rows])
        if points.size <= SMALL:
            dense = jacobian.dense().cpu().double()
            vector = (
                torch.linalg.svd(dense).Vh[:, :k] if kind == "singular" else _dense_eigenvectors(dense, k)
            )
        else:
            start = random_directions(len(rows), points.size, seed, points.z).contiguous()
            if kind == "singular":
                vector = leading_triples(Stretch(jacobian), start, k, tol=1e-3).right
            else:
                vector = leading_pairs(Products(jacobian, "right"), start, k, tol=1e-3).vector[:, :k]
        vector = vector.to(out)
        out[rows] = vector / vector.norm(dim=2, keepdim=True)
    return out


def _dense_eigenvectors(matrices: Tensor, k: int) -> Tensor:
    """Return k real vectors (n, k, d) that span the leading right eigenvectors: parts of complex ones."""
    rows = []
    for matrix in matrices.numpy():
        value, vector = np.linalg.eig(matrix)
        columns: list[np.ndarray] = []
        for i in np.argsort(-np.abs(value), kind="stable"):
            if value[i].imag >= 0:
                columns.append(vector[:, i].real)
            if value[i].imag > 0:
                columns.append(vector[:, i].imag)
        rows.append(np.stack(columns)[:k])
    return torch.as_tensor(np.stack(rows))
