"""Error bounds of eigenvalues: condition numbers turn residuals into errors, and powers bound the spectral radius."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from eqrlab.attractors.dynamics.krylov.krylov_schur import ROUNDING, KrylovSpace, Operator, Pairs

SIMPLE = (
    0.1  # condition^2 * residual over the size of J, up to which an eigenvalue stays apart from the others
)
CLOSE = 1e-3  # and residuals over that size: larger ones are those of wave packets as much as of eigenvectors
MARGIN = 1.25  # of the first-order error: what the second order may add to it
POWERS = 40  # squarings


class Known(NamedTuple):
    """Condition numbers and residuals of eigenvalues, each (n, k), and the products (n,) used.

    Attributes
    ----------
    condition
        1 / |w^T v| of unit left and right eigenvectors.
    residual
        ||J v - value v||.
    """

    condition: np.ndarray
    residual: np.ndarray
    products: np.ndarray

    def errors(self, left: np.ndarray, scale: np.ndarray, epsilon: float, slack: np.ndarray) -> np.ndarray:
        """Return bounds on |value - eigenvalue| (n, k), infinite if no bound is known.

        Parameters
        ----------
        left
            (n, k) ||J^T w - value w||.
        scale, slack
            (n,) size of J, and how far J itself may be off.

        Notes
        -----
        (value, w, v) is an eigentriplet of a matrix within the larger residual of J (Kahan, Parlett and Jiang), so that
        to first order the error is that residual times the condition number.  That order is enough while no other
        eigenvalue can be reached: 1 / condition^2 is about how far, relative to its size, a matrix is from one where
        two meet.
        """
        size = scale[:, None]
        mine = left + slack[:, None] + 4 * epsilon * size
        worst = np.maximum(mine, self.residual)
        with np.errstate(invalid="ignore", over="ignore"):
            simple = (self.condition**2 * worst <= SIMPLE * size) & (worst <= CLOSE * size)
            bound = np.where(simple, MARGIN * self.condition * mine, np.inf)
        return np.where(np.isnan(left), np.nan, np.where(size > 0, bound, slack[:, None]))


def complex_vectors(pairs: Pairs) -> np.ndarray:
    """Return unit eigenvectors (n, k + 1, d) from the real and imaginary parts kept in `pairs`."""
    real = pairs.vector.cpu().double().numpy()
    out = real.astype(complex)
    for row, j in zip(*np.nonzero(np.nan_to_num(pairs.value).imag > 0), strict=True):
        out[row, j] = real[row, j] + 1j * real[row, j + 1]
        out[row, j + 1] = out[row, j].conj()
    length = np.linalg.norm(out, axis=2, keepdims=True)
    return out / np.where(length > 0, length, 1)


def right_vectors(
    operator: Operator, left: Pairs, start: Tensor, m: int, poor: Callable[[Known], np.ndarray] | None = None
) -> Known:
    """Return what the right eigenvectors of the operator show about eigenvalues found with left ones.

    Parameters
    ----------
    operator
        J, of whose transpose `left` are eigenpairs.
    start
        (n, d): the Krylov space of m vectors begins here; the sum of the left vectors is near where J is nearly normal.
    poor
        Says which rows (n,) are not known well enough: the spaces of all stay smaller once there are none, so that
        condition numbers depend on the company of a row within what is asked for.
    """
    w = complex_vectors(left)
    space, spent = KrylovSpace(start, m), 0
    for size in range(m - m // 8 * 3, m + 1, max(m // 8, 1)) if poor else (m,):
        spent += space.expand(operator, size)
        known = Known(*_overlaps(space, left, w), np.full(len(left.value), spent))
        if poor and not poor(known).any():
            break
    return known


def _overlaps(space: KrylovSpace, left: Pairs, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return condition numbers and residuals (n, k + 1) from the right eigenvectors in a space.

    For each value the vector of the space with the least residual (refined Ritz vector, Jia); of several that are
    equally good, as at a multiple eigenvalue, the one with the largest overlap with w.
    """
    condition, residual = np.full(left.value.shape, np.inf), np.full(left.value.shape, np.inf)
    for row, values in enumerate(left.value):
        S, b = space.projected(row)
        V = space.V[row, : len(b)].cpu().double().numpy()
        for j in np.flatnonzero(~np.isnan(values)):
            if values[j].imag < 0:
                condition[row, j], residual[row, j] = condition[row, j - 1], residual[row, j - 1]
                continue
            shifted = np.vstack((S - values[j] * np.eye(len(b)), b[None]))
            _, sigma, adjoint = np.linalg.svd(shifted, full_matrices=False)
            least = max(2 * sigma[-1], left.absolute[row, j], ROUNDING * space.epsilon * left.scale[row])
            near = adjoint[
                sigma <= least
            ].conj()  # rows: the vectors that are eigenvectors as far as one can see
            overlap = near @ (V @ w[row, j])
            length = np.linalg.norm(overlap)
            if length > 0:
                y = overlap.conj() @ near / length
                condition[row, j], residual[row, j] = max(1 / length, 1.0), np.linalg.norm(shifted @ y)
    return condition, residual


def power_bounds(matrices: np.ndarray, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on the spectral radius (n,) of every matrix within `slack` (n,) of these (n, d, d), in norm.

    Notes
    -----
    |tr A^m| / d <= radius^m <= ||A^m|| for every m: here all m = 2^i, whatever the condition of the eigenvalues.  The
    powers are computed by squaring, with a running bound on their error.  The lower bound may be far off (zero for a
    cyclic permutation), the upper one is close.

    References
    ----------
    L. N. Trefethen and M. Embree, Spectra and Pseudospectra, 2005, section 16 (powers of a matrix).
    """
    n, d, _ = matrices.shape
    P, error, logs = matrices.astype(float), slack.astype(float), np.zeros(n)
    low, high = np.full(n, -np.inf), np.full(n, np.inf)  # logarithms
    epsilon = np.finfo(float).eps
    for i in range(POWERS):
        size = np.linalg.norm(P, axis=(1, 2))
        unit = np.where(size > 0, size, 1.0)
        with np.errstate(over="ignore"):
            P, error, logs = P / unit[:, None, None], error / unit, logs + np.log(unit)
        size = np.where(size > 0, 1.0, 0.0)
        with np.errstate(divide="ignore"):
            trace = np.abs(np.trace(P, axis1=1, axis2=2)) - d * error
            high = np.minimum(high, (np.log(size + error) + logs) / 2.0**i)
            low = np.maximum(low, (np.log(np.maximum(trace, 0) / d) + logs) / 2.0**i)
        with np.errstate(over="ignore"):
            error = 2 * error + error**2 + 2 * d * epsilon * (1 + error) ** 2
        P, logs = P @ P, 2 * logs
    return np.exp(low), np.exp(high)


def is_triangular(matrix: np.ndarray) -> bool:
    """Return whether some order of rows and columns makes a matrix triangular; its diagonal is then its spectrum."""
    links = matrix != 0
    np.fill_diagonal(links, False)
    left = np.ones(len(links), bool)
    while left.any():
        free = left & ~links[:, left].any(1)  # rows that depend on none of those that are left
        if not free.any():
            return False
        left &= ~free
    return True
