"""Leading singular triples of many operators at once: Golub-Kahan bidiagonalisation with thick restarts."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.krylov.krylov_schur import column, orthogonalise, power_of_two


class TwoSided(Protocol):
    """n independent linear maps A and their transposes, on vectors (n, d)."""

    def forward(self, v: Tensor) -> Tensor: ...

    def adjoint(self, u: Tensor) -> Tensor: ...

    def select(self, rows: Tensor) -> TwoSided:
        """Return the operators of some of the rows."""
        ...


class _Scaled:
    """The operators times a factor (n, 1) each."""

    def __init__(self, operator: TwoSided, factor: Tensor):
        self.operator, self.factor = operator, factor

    def forward(self, v: Tensor) -> Tensor:
        return self.operator.forward(v) * self.factor

    def adjoint(self, u: Tensor) -> Tensor:
        return self.operator.adjoint(u) * self.factor

    def select(self, rows: Tensor) -> _Scaled:
        return _Scaled(self.operator.select(rows), self.factor[rows])


class Triples(NamedTuple):
    """Leading singular triples A v = value u of n operators.

    Attributes
    ----------
    value
        (n, k), descending.
    left, right
        (n, k, d) unit vectors u and v.
    residual
        (n, k) ||A^T u - value v|| / (largest value of the row), estimated; 0 for operators that vanish.
    products
        (n,) products with A and A^T.
    """

    value: np.ndarray
    left: Tensor
    right: Tensor
    residual: np.ndarray
    products: np.ndarray


def leading_triples(
    operator: TwoSided,
    start: Tensor,
    k: int,
    *,
    tol: float = 1e-4,
    subspace: int | None = None,
    max_products: int = 1000,
) -> Triples:
    """Return the k largest singular values of each operator, and their vectors.

    Parameters
    ----------
    start
        (n, d) start vectors.
    tol
        A triple is done when its residual is below tol times the largest value; the error of a value is then about
        tol squared.
    subspace
        Size m of the Krylov spaces, k < m < d; None is max(20, 2 k + 10).

    Notes
    -----
    Each restart keeps the leading half of the singular triples and the next Krylov vector (augmented restart), with
    full reorthogonalisation on both sides in two passes.  The operators are scaled by powers of two, so that squares of
    lengths stay within the range of the dtype.  Memory: 2 m + 1 vectors a row.  A value that occurs several
    times may be found once; see `copied_triples`.

    References
    ----------
    J. Baglama and L. Reichel, SIAM J. Sci. Comput. 27 (2005) 19, section 3.
    """
    n, d = start.shape
    m = min(max(20, 2 * k + 10) if subspace is None else subspace, d - 1)
    if not 1 <= k < m:
        raise ValueError(f"k must be between 1 and {m - 1} for a subspace of {m}, got {k}")
    value, residual = np.zeros((n, k)), np.zeros((n, k))
    left, right = start.new_zeros(n, k, d), start.new_zeros(n, k, d)
    products = np.zeros(n, int)
    rows, unit = torch.arange(n, device=start.device), start / start.norm(dim=1, keepdim=True)
    image = operator.forward(unit)
    over = power_of_two(image)
    working: TwoSided = _Scaled(operator, column(1 / over, start))
    P, Q = start.new_zeros(n, m + 1, d), start.new_zeros(n, m, d)
    P[:, 0] = unit
    B = torch.zeros(n, m, m, dtype=torch.float64)
    image = image * column(1 / over, image)
    kept, keep, spent = 0, k + (m - k) // 2, 0
    alive = np.ones(n, bool)
    while True:
        beta = _expand(working, P, Q, B, kept, image)
        spent += 2 * (m - kept)
        U, S, Vt = torch.linalg.svd(B)
        loose = beta[:, None] * U[:, m - 1].abs()
        scale = S[:, :1].clamp(min=1e-300)
        done = (loose[:, :k] <= tol * scale).all(1).numpy() | (spent + 2 * (m - keep) > max_products)
        new = np.flatnonzero(done & alive)
        if len(new):
            at, into = torch.as_tensor(new), rows[torch.as_tensor(new, device=rows.device)]
            value[into.cpu()], residual[into.cpu()] = S[at, :k].numpy(), (loose[at, :k] / scale[at]).numpy()
            left[into] = _combine(U[at, :, :k], Q[at.to(Q.device)])
            right[into] = _combine(Vt[at, :k].transpose(1, 2), P[at.to(P.device), :m])
            products[into.cpu()] = spent
            alive[new] = False
        if not alive.any():
            return Triples(value * over[:, None], left, right, residual, products)
        if alive.sum() <= 0.75 * len(alive):
            stay = torch.as_tensor(np.flatnonzero(alive))
            here = stay.to(P.device)
            rows, working, P, Q, B = rows[here], working.select(here), P[here], Q[here], B[stay]
            U, S, Vt, alive = U[stay], S[stay], Vt[stay], np.ones(len(stay), bool)
        P[:, :keep], Q[:, :keep], P[:, keep] = (
            _combine(Vt[:, :keep].transpose(1, 2), P[:, :m]),
            _combine(U[:, :, :keep], Q),
            P[:, m].clone(),
        )
        P[:, keep + 1 :], Q[:, keep:] = 0, 0
        B.zero_()
        B[:, range(keep), range(keep)] = S[:, :keep]
        kept = keep


def _combine(coefficients: Tensor, V: Tensor) -> Tensor:
    """Return the vectors (n, c, d) with coefficients (n, m, c) in the rows of V (n, m, d)."""
    return coefficients.transpose(1, 2).to(V) @ V


def _expand(operator: TwoSided, P: Tensor, Q: Tensor, B: Tensor, kept: int, image: Tensor) -> Tensor:
    """Fill P, Q and the triangular B, A P[:m] = Q B, from column `kept` on; return the last length beta (n,).

    `image` is that of the first vector, A P[0].
    """
    m = Q.shape[1]
    epsilon = torch.finfo(P.dtype).eps
    beta = torch.zeros(len(P), dtype=torch.float64)
    for j in range(kept, m):
        q = operator.forward(P[:, j].contiguous()) if j else image
        q, c, alpha = _unit(q, Q[:, : max(j, 1)], epsilon, seed=2 * j)
        if j:
            B[:, :j, j] = c[:, :j].cpu().double()
        B[:, j, j] = alpha.cpu().double()
        Q[:, j] = q
        r = operator.adjoint(q)
        r, _, length = _unit(r, P[:, : j + 1], epsilon, seed=2 * j + 1)
        P[:, j + 1], beta = r, length.cpu().double()
    return beta


def _unit(w: Tensor, V: Tensor, epsilon: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Orthogonalise w against V and normalise it; where nothing is left take a fresh direction and length 0."""
    before = w.norm(dim=1)
    w, c, length = orthogonalise(V, w)
    broken = length <= 10 * epsilon * before
    if broken.any():
        fill = torch.randn(w.shape[1], generator=torch.Generator().manual_seed(seed + 1)).to(w).expand_as(w)
        fresh, _, size = orthogonalise(V, fill)
        w = torch.where(broken[:, None], fresh / size.clamp(min=epsilon)[:, None], w)
    w = w / torch.where(broken, 1.0, length)[:, None]
    return w, c, torch.where(broken, 0.0, length)
