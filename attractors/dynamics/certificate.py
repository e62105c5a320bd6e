"""Certificates of fixed points: conditioning, error bound, return of perturbations; and which points are the same."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import SMALL
from eqrlab.attractors.dynamics.jacobian import Jacobian, random_directions, with_derivatives
from eqrlab.attractors.dynamics.krylov.gmres import gmres
from eqrlab.attractors.dynamics.krylov.golub_kahan import leading_triples
from eqrlab.attractors.ensemble.states import Points

INVERSE_SPACE, INVERSE_SOLVES = 8, 40
SOLVED = 1e-3  # relative residual of those solves
HORIZON = 64  # steps of the forward and return checks
SHOCK = 1e-3  # relative size of the perturbations
DIRECTIONS = 3
LEAST_RESIDUAL = 8.0  # epsilons of the state's norm: a residual is not known better
WIDEST = 1e-2  # an error bound is used for merging up to this share of the norm
BORDER = 10.0  # pairs between one and this many radii apart are ambiguous


class Merged(NamedTuple):
    """Which rows are the same fixed point.

    Attributes
    ----------
    label
        (n,) number of the solution within the row's puzzle, the most frequent first; -1: not a fixed point.
    leader
        (n,) the row with the smallest residual of the same solution, -1: none.
    sigma, error
        (n,) smallest singular value of I - J at the leader, NaN where J is not finite, and bound on the distance to the
        exact fixed point.
    weakest
        (n, d) direction of that singular value, in which the error is largest; zero for rows that are not leaders.
    ambiguous
        (puzzles,) pairs of a row and a solution that may or may not be the same.
    """

    label: np.ndarray
    leader: np.ndarray
    sigma: np.ndarray
    error: np.ndarray
    weakest: Tensor
    ambiguous: np.ndarray


class Inverse:
    """(I - J)^-1 and its transpose by GMRES, as a two-sided operator."""

    def __init__(self, jacobian: Jacobian):
        self.jacobian = jacobian

    def forward(self, v: Tensor) -> Tensor:
        return gmres(lambda w: w - self.jacobian.push(w), v, v.new_full((len(v),), SOLVED))[0]

    def adjoint(self, u: Tensor) -> Tensor:
        return gmres(lambda w: w - self.jacobian.pull(w), u, u.new_full((len(u),), SOLVED))[0]

    def select(self, rows: Tensor) -> Inverse:
        return Inverse(self.jacobian.select(rows))


@torch.no_grad()
def smallest_singular(jacobian: Jacobian, seed: int) -> tuple[Tensor, Tensor]:
    """Return the smallest singular value of I - J of each row, (n,) float64, and its right vector (n, d).

    Notes
    -----
    States of up to 64 numbers: exact.  Larger ones: Golub-Kahan on the inverse, each product a linear solve by GMRES
    (at most 40), then ||(I - J) v|| / ||v|| with the vector found: never below the true value, and close to it where
    the solves converge.
    """
    if jacobian.size <= SMALL:
        matrix = torch.eye(jacobian.size, dtype=jacobian.z.dtype, device=jacobian.z.device) - jacobian.dense()
        _, values, vectors = torch.linalg.svd(matrix.double())
        return values[:, -1].cpu(), vectors[:, -1].to(jacobian.z)
    start = random_directions(jacobian.rows, jacobian.size, seed, jacobian.z).contiguous()
    triples = leading_triples(
        Inverse(jacobian), start, 1, tol=1e-2, subspace=INVERSE_SPACE, max_products=INVERSE_SOLVES
    )
    v = triples.left[:, 0]
    return ((v - jacobian.push(v)).norm(dim=1) / v.norm(dim=1)).cpu().double(), v


def merge(
    points: Points, residual: np.ndarray, size: np.ndarray, found: np.ndarray, seed: int, batch: int
) -> Merged:
    """Decide which rows are the same fixed point, by error bounds instead of a fixed distance.

    Parameters
    ----------
    residual, size
        (n,) ||f(z) - z||, and the unit of distances: the norm of z, but not less than the states on the way to a fixed
        point at the origin give.

    Notes
    -----
    ||z - z*|| <= 2 ||f(z) - z|| / sigma_min(I - J) to first order (Newton-Kantorovich with h <= 1/2).  The row with
    the smallest residual leads; rows within the sum of both bounds are the same.  sigma_min is computed for leaders
    only.
    """
    n, (puzzles, per) = len(points.z), points.shape
    flat = points.z.flatten(1)
    norm = flat.norm(dim=1).cpu().double().numpy()
    floor = np.maximum(residual, LEAST_RESIDUAL * torch.finfo(flat.dtype).eps * norm)
    label, leader = np.full(n, -1), np.full(n, -1)
    sigma, error, weakest = np.full(n, np.nan), np.full(n, np.nan), torch.zeros_like(flat)
    ambiguous, number = np.zeros(puzzles, int), np.zeros(puzzles, int)
    while True:
        rest = found & (label < 0)
        if not rest.any():
            break
        order = np.where(rest, residual, np.inf).reshape(puzzles, per)
        leaders = order.argmin(1) + np.arange(puzzles) * per
        leaders = leaders[rest[leaders]]
        chosen = torch.zeros_like(points.present)
        chosen[torch.as_tensor(leaders, device=flat.device)] = True
        for part in with_derivatives(dataclasses.replace(points, present=chosen)).batches(batch):
            one, weakest[part] = smallest_singular(
                Jacobian(points.system, points.context(part), points.z[part]), seed
            )
            sigma[part.cpu().numpy()] = one
        for row in leaders:
            value = sigma[row]
            puzzle = row // per
            mine = np.arange(puzzle * per, (puzzle + 1) * per)
            with np.errstate(divide="ignore", invalid="ignore"):
                bound = np.where(floor[mine] > 0, 2 * floor[mine] / np.nan_to_num(value), 0.0)
            reach = np.minimum(bound, WIDEST * size[mine])
            distance = (flat[mine] - flat[row]).norm(dim=1).cpu().double().numpy()
            radius = reach + reach[row - mine[0]]
            same = rest[mine] & (distance <= radius)
            same[row - mine[0]] = True
            ambiguous[puzzle] += int((rest[mine] & ~same & (distance <= BORDER * radius)).sum())
            label[mine[same]], leader[mine[same]] = number[puzzle], row
            sigma[mine[same]], error[mine[same]] = value, bound[same]
            number[puzzle] += 1
    return Merged(
        _by_frequency(label.reshape(puzzles, per)).ravel(), leader, sigma, error, weakest, ambiguous
    )


def _by_frequency(label: np.ndarray) -> np.ndarray:
    """Renumber the labels of every puzzle (P, M), the most frequent first; -1 stays."""
    out = np.full(label.shape, -1)
    for p, row in enumerate(label):
        values, counts = np.unique(row[row >= 0], return_counts=True)
        for rank, i in enumerate(np.argsort(-counts, kind="stable")):
            out[p, row == values[i]] = rank
    return out


@torch.no_grad()
def forward_and_return(
    points: Points, rows: Tensor, size: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Iterate fixed points, unperturbed and perturbed, and measure whether they come back.

    Parameters
    ----------
    size
        (m,) sizes of these points, by which lengths are measured.

    Returns
    -------
    Over the rows: the largest distance from the fixed point within 64 steps, relative to its size; the largest of
    three ratios of the distance between perturbed and unperturbed twin at the end to that at the start; and whether
    the answers of all perturbed twins are those of the unperturbed one.
    """
    x, z = points.context(rows), points.z[rows]
    view = (-1, *(1,) * (z.ndim - 1))
    unit = torch.as_tensor(size).to(z)
    directions = [
        random_directions(len(rows), points.size, seed + i, z).view_as(z) for i in range(DIRECTIONS)
    ]
    shocked = [z + SHOCK * unit.view(view) * v for v in directions]
    alone, drift = z, torch.zeros_like(unit)
    for _ in range(HORIZON):
        alone = points.system.step(alone, x)
        shocked = [points.system.step(s, x) for s in shocked]
        drift = torch.maximum(drift, (alone - z).flatten(1).norm(dim=1) / unit)
    apart = torch.stack([(s - alone).flatten(1).norm(dim=1) for s in shocked]).amax(0) / (SHOCK * unit)
    judge = points.judge.of(rows.cpu().numpy() // points.shape[1])
    own, *others = (judge.codes(points.system.decode(s, x).cpu().numpy()) for s in (alone, *shocked))
    same = np.stack([code == own for code in others]).all(0)
    values = (
        torch.nan_to_num(v, nan=torch.inf, posinf=torch.inf).cpu().double().numpy() for v in (drift, apart)
    )
    return (*values, same)  # type: ignore[return-value]
