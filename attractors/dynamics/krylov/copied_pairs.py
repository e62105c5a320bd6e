"""Eigenvalues that occur several times: a Krylov space shows one of each, a fresh one beside it the next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.krylov.krylov_schur import (
    KrylovSpace,
    Operator,
    Order,
    Pairs,
    Ritz,
    certify,
    orthogonalise,
    relative,
)

LOOK = 8  # products that look for values left out


class _Beside:
    """The operators, projected to what is orthogonal to vectors (n, c, d)."""

    def __init__(self, operator: Operator, known: Tensor):
        self.operator, self.known = operator, known

    def __call__(self, v: Tensor) -> Tensor:
        return orthogonalise(self.known, self.operator(orthogonalise(self.known, v)[0]))[0]

    def select(self, rows: Tensor) -> _Beside:
        return _Beside(self.operator.select(rows), self.known[rows])


def with_copies(
    operator: Operator,
    pairs: Pairs,
    start: Tensor,
    order: Order,
    tol: np.ndarray,
    most: np.ndarray,
    find: Callable[..., Pairs],
) -> Pairs:
    """Return eigenpairs to which those are added that a space beside them shows and that come before the last of them.

    Parameters
    ----------
    start
        (n, d) start vectors other than those from which the pairs were found.
    tol
        (n,) residuals asked for; rows that miss them stay as they are.
    most
        (n,) products after which nothing more is looked for.
    find
        Gives the leading pairs of operators from start vectors, tolerances and numbers of products.

    Notes
    -----
    8 products with each operator where nothing is missing.  A value counts as missing if it comes before the last one
    by more than its residual in the small space: one that hardly does may stay unseen.  The pairs are those of the
    operator on the sum of the invariant spaces.
    """
    pairs = copy.deepcopy(pairs)
    found = ~np.isnan(pairs.value)
    rows = np.flatnonzero((np.where(found, pairs.residual, 0) <= tol[:, None]).all(1) & found.any(1))
    for _ in range(pairs.value.shape[1] - 1):
        if not len(rows):
            break
        at = torch.as_tensor(rows, device=start.device)
        known = _orthonormal(pairs.vector[at])
        first = orthogonalise(known, start[at])[0]
        beside = _Beside(operator.select(at), known)
        space = KrylovSpace(first, LOOK)
        pairs.products[rows] += space.expand(beside)
        missing = np.array(
            [_before(space, i, pairs, int(row), order, tol[row]) for i, row in enumerate(rows)]
        )
        missing &= pairs.products[rows] < most[rows]
        if not missing.any():
            break
        rows, chosen = rows[missing], torch.as_tensor(np.flatnonzero(missing), device=start.device)
        left = most[rows] - pairs.products[rows]
        more = find(beside.select(chosen), first[chosen], tol=tol[rows], max_products=left)
        part: Any = operator.select(at[chosen])
        _join(part, pairs, rows, _orthonormal(torch.cat((known[chosen], more.vector), 1)), order)
        pairs.scale[rows] = np.maximum(pairs.scale[rows], more.scale)
        used = 2 * known.shape[1]
        pairs.absolute[rows], extra = certify(part, pairs.value[rows], pairs.vector[at[chosen]])
        pairs.residual[rows] = relative(
            pairs.absolute[rows], pairs.value[rows], pairs.scale[rows], space.epsilon
        )
        pairs.products[rows] += more.products + used + extra
    return pairs


def _orthonormal(vectors: Tensor) -> Tensor:
    """Return orthonormal vectors (n, c, d) that span these; zero where one depends on those before it."""
    basis = torch.zeros_like(vectors)
    for j, w in enumerate(vectors.unbind(1)):
        rest, _, length = orthogonalise(basis, w)
        sound = length > torch.finfo(w.dtype).eps ** 0.5 * w.norm(dim=1)
        basis[:, j] = torch.where(sound[:, None], rest / torch.where(sound, length, 1.0)[:, None], 0.0)
    return basis


def _before(space: KrylovSpace, i: int, pairs: Pairs, row: int, order: Order, tol: float) -> bool:
    """Return whether space i shows a value that comes before the last one of a row."""
    ritz = Ritz(*space.projected(i), order)
    value = pairs.value[row]
    least = value[~np.isnan(value)][-1]
    size = np.abs if order.kind == "modulus" else np.real
    off = (
        float(np.abs(ritz.b @ ritz.y[:, 0]))
        + tol * float(np.abs(least))
        + space.epsilon ** (2 / 3) * pairs.scale[row]
    )
    return bool(size(ritz.values[0]) - off > size(least))


def _join(operator: Operator, pairs: Pairs, rows: np.ndarray, U: Tensor, order: Order) -> None:
    """Replace the pairs of some rows by the first ones of their operators on orthonormal vectors U (rows, c, d)."""
    image = torch.stack([operator(U[:, j].contiguous()) for j in range(U.shape[1])], 1)
    H = (U.double() @ image.double().transpose(1, 2)).cpu().numpy()
    k = pairs.value.shape[1] - 1
    for i, row in enumerate(rows):
        used = np.flatnonzero((U[i] != 0).any(1).cpu().numpy())
        values, vectors = np.linalg.eig(H[i][np.ix_(used, used)])
        values = values.astype(complex)
        first = order(values)
        first = first[: k + 1 if values[first[k - 1]].imag > 0 else k]
        columns = vectors[:, first].real.copy()
        second = values[first].imag < 0
        columns[:, second] = -vectors[:, first].imag[:, second]
        pairs.value[row], pairs.vector[row] = np.nan, 0
        pairs.value[row, : len(first)] = values[first]
        turned = torch.as_tensor(columns.T).to(U)
        pairs.vector[row, : len(first)] = turned @ U[i, torch.as_tensor(used, device=U.device)]
