"""Linear solves for many rows at once: GMRES without matrices, and dense for small states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eqrlab.attractors.dynamics.jacobian import Jacobian
from eqrlab.attractors.dynamics.krylov.krylov_schur import orthogonalise

KRYLOV = 40  # vectors of a linear solve


def dense_solve(jacobian: Jacobian, f: Tensor) -> Tensor:
    """Return (I - J)^-1 f, by least squares where I - J is singular."""
    matrix = torch.eye(f.shape[1], dtype=f.dtype, device=f.device) - jacobian.dense()
    solution, info = torch.linalg.solve_ex(matrix, f)
    bad = (info != 0) | ~solution.isfinite().all(1)
    if bad.any():
        solution[bad] = (torch.linalg.pinv(matrix[bad]) @ f[bad][:, :, None])[:, :, 0]
    return solution


def gmres(apply: Any, b: Tensor, tol: Tensor) -> tuple[Tensor, int]:
    """Solve A y = b (n, d) for all rows in one Krylov space of up to 40 vectors each; return y and the products.

    References
    ----------
    Y. Saad and M. H. Schultz, SIAM J. Sci. Stat. Comput. 7 (1986) 856.
    """
    n, d = b.shape
    m = min(KRYLOV, d)
    size = b.norm(dim=1).clamp(min=1e-300)
    V, H = b.new_zeros(n, m + 1, d), torch.zeros(n, m + 1, m, dtype=torch.float64)
    V[:, 0] = b / size[:, None]
    right = torch.zeros(n, m + 1, 1, dtype=torch.float64)
    right[:, 0, 0] = 1
    weights = torch.zeros(n, m, 1, dtype=torch.float64)
    for j in range(m):
        w = apply(V[:, j].contiguous())
        before = w.norm(dim=1)
        w, h, length = orthogonalise(V[:, : j + 1], w)
        length = torch.where(length <= 10 * torch.finfo(w.dtype).eps * before, 0.0, length)
        V[:, j + 1] = torch.where(length[:, None] > 0, w / length[:, None], 0.0)
        H[:, : j + 1, j], H[:, j + 1, j] = h.cpu().double(), length.cpu().double()
        if j % 4 == 3 or j == m - 1:
            part = H[:, : j + 2, : j + 1]
            weights = torch.linalg.lstsq(part, right[:, : j + 2], driver="gelsd").solution
            left = (right[:, : j + 2] - part @ weights).norm(dim=1)[:, 0]
            if (left <= tol.cpu().double()).all():
                break
    used = weights.shape[1]
    return size[:, None] * (weights.transpose(1, 2).to(b) @ V[:, :used])[:, 0], j + 1
