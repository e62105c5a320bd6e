"""Singular values that occur several times: a Krylov space shows one of each, a fresh one beside it the next."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.krylov.golub_kahan import Triples, TwoSided, leading_triples
from eqrlab.attractors.dynamics.krylov.krylov_schur import orthogonalise

LOOK = 4  # steps of the bidiagonalisation that looks for values left out


class _Beside:
    """The operators on what is orthogonal to vectors (n, k, d)."""

    def __init__(self, operator: TwoSided, known: Tensor):
        self.operator, self.known = operator, known

    def forward(self, v: Tensor) -> Tensor:
        return self.operator.forward(orthogonalise(self.known, v)[0])

    def adjoint(self, u: Tensor) -> Tensor:
        return orthogonalise(self.known, self.operator.adjoint(u))[0]

    def select(self, rows: Tensor) -> _Beside:
        return _Beside(self.operator.select(rows), self.known[rows])


def with_copies(
    operator: TwoSided, triples: Triples, start: Tensor, tol: float, subspace: int | None, max_products: int
) -> Triples:
    """Return triples (n, k) to which larger ones are added that a space beside them shows, the k largest of all.

    Parameters
    ----------
    start
        (n, d) start vectors other than those from which the triples were found.

    Notes
    -----
    A few products with each operator where nothing is missing.  The value that they show is a lower bound of the
    largest one left out; one hardly above the least value may stay unseen.
    """
    value, left, right, residual, products = triples
    value, residual, products = value.copy(), residual.copy(), products.copy()
    left, right, k = left.clone(), right.clone(), value.shape[1]
    rows = torch.arange(len(value), device=start.device)
    for _ in range(k):
        here = rows.cpu().numpy()
        beside = _Beside(operator.select(rows), right[rows])
        first = orthogonalise(right[rows], start[rows])[0]
        look = leading_triples(beside, first, 1, tol=tol, subspace=LOOK, max_products=0)
        products[here] += look.products
        missing = look.value[:, 0] > value[here, -1] + tol * value[here, 0]
        missing &= products[here] < max_products
        if not missing.any():
            break
        chosen = torch.as_tensor(np.flatnonzero(missing), device=start.device)
        rows = rows[chosen]
        here = rows.cpu().numpy()
        more = leading_triples(
            beside.select(chosen), first[chosen], k, tol=tol, subspace=subspace,
            max_products=max_products - int(products[here].max()),
        )  # fmt: skip
        products[here] += more.products
        values = np.concatenate((value[here], more.value), 1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        largest = np.maximum(values.max(1), 1e-300)[:, None]
        off = (
            np.concatenate((residual[here] * value[here, :1], more.residual * more.value[:, :1]), 1) / largest
        )
        value[here], residual[here] = (np.take_along_axis(table, order, 1) for table in (values, off))
        pick = torch.as_tensor(order, device=start.device)[..., None].expand(-1, -1, start.shape[1])
        left[rows], right[rows] = (
            torch.cat((mine[rows], new), 1).gather(1, pick)
            for mine, new in ((left, more.left), (right, more.right))
        )
    return Triples(value, left, right, residual, products)
