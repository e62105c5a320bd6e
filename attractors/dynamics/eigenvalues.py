"""Leading eigenvalues of the Jacobians at many states, dense or by Krylov spaces, with error bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.conditioning import (
    CLOSE,
    SIMPLE,
    Known,
    is_triangular,
    power_bounds,
    right_vectors,
)
from eqrlab.attractors.dynamics.jacobian import (
    Jacobian,
    random_directions,
    rows_within,
    with_derivatives,
)
from eqrlab.attractors.dynamics.krylov.copied_pairs import with_copies
from eqrlab.attractors.dynamics.krylov.krylov_schur import (
    MODULUS,
    Order,
    Pairs,
    default_subspace,
    leading_pairs,
    power_of_two,
    relative,
)
from eqrlab.attractors.ensemble.options import WorkOptions
from eqrlab.attractors.ensemble.states import Points, spread
from eqrlab.core.progress import shown, tqdm

SMALL = 64  # states of up to this many numbers have their Jacobian formed and solved in full


class Products:
    """The products J^T u ("left" eigenvectors) or J v ("right" ones) of a Jacobian."""

    def __init__(self, jacobian: Jacobian, side: str):
        self.jacobian, self.side = jacobian, side

    def __call__(self, v: Tensor) -> Tensor:
        return self.jacobian.pull(v) if self.side == "left" else self.jacobian.push(v)

    def select(self, rows: Tensor) -> Products:
        return Products(self.jacobian.select(rows), self.side)


class Eigen(NamedTuple):
    """Eigenvalues of n states with their error bounds.

    Attributes
    ----------
    value, residual
        (n, k + 1) as in `Pairs`.
    condition
        (n, k + 1) condition numbers, infinite where no right eigenvector was found.
    error
        (n, k + 1) bound on |value - eigenvalue|, infinite: not known.
    radius, low, high
        (n,) largest modulus found, and bounds on the spectral radius.
    scale
        (n,) size of the Jacobian.
    products
        (n,) spent.
    """

    value: np.ndarray
    residual: np.ndarray
    condition: np.ndarray
    error: np.ndarray
    radius: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: np.ndarray
    products: np.ndarray

    def converged(self, tol: float, epsilon: float) -> np.ndarray:
        """Return which values (n, k + 1) are known to the tolerance, zeros to rounding."""
        size, tiny = np.abs(self.value), epsilon ** (2 / 3) * self.scale[:, None]
        with np.errstate(invalid="ignore"):
            known = (self.error <= tol * size) | (size + self.error <= tiny)
            return known & (self.residual <= tol)

    def to_power(self, p: int) -> Eigen:
        """Return the same of the p-th power of the Jacobians, to first order."""
        slope = p * np.abs(self.value) ** (p - 1)
        return self._replace(
            value=self.value**p, residual=p * self.residual, error=slope * self.error, radius=self.radius**p,
            low=self.low**p, high=self.high**p, scale=self.scale**p,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The requested eigenvalues, their precision, and the limit on products; see `spectrum`."""

    k: int
    tol: float
    order: Order = MODULUS
    condition: bool = False
    subspace: int | None = None
    radius: bool = False
    max_products: int = 1000
    seed: int = 0

    @property
    def vectors(self) -> int:
        """Krylov vectors kept for a state."""
        return max(self.k + 3, default_subspace(self.k) if self.subspace is None else self.subspace)

    def refined(self, value: np.ndarray) -> np.ndarray:
        """Return which values (n, k + 1) are to be known to the tolerance: all, or those of the spectral radius."""
        found, size = ~np.isnan(value), np.abs(value)
        if not self.radius:
            return found
        # Of a radius known to the tolerance, no smaller value is within reach.
        return found & (size >= (1 - 2 * self.tol) * np.where(found, size, 0).max(1, keepdims=True))

    def pairs(self, products: Products, start: Tensor, **limits: Any) -> Pairs:
        """Return the leading eigenpairs that these products give, to the tolerance and number of products given."""
        return leading_pairs(products, start, self.k, order=self.order, subspace=self.vectors, **limits)

    def left_pairs(self, jacobian: Jacobian, start: Tensor, tol: np.ndarray, most: int | np.ndarray) -> Pairs:
        """Return the same with left eigenvectors, and with the copies of values that occur several times."""
        products = Products(jacobian, "left")
        pairs = self.pairs(products, start, tol=tol, max_products=most)
        if self.radius or self.order.kind == "near":
            return pairs
        other = random_directions(len(start), start.shape[1], self.seed + 400, start)
        return with_copies(
            products, pairs, other, self.order, tol, np.broadcast_to(most, len(tol)), self.pairs
        )


def eigenvalues(
    points: Points,
    wanted: Wanted,
    *,
    steps: int = 1,
    slack: np.ndarray | None = None,
    **work: Unpack[WorkOptions],
) -> Eigen:
    """Return the leading eigenvalues of all rows of `points`; see `spectrum` (which checks the step first).

    They are NaN where the Jacobian is not finite.

    Parameters
    ----------
    slack
        (n,) bound on the difference, in norm, between each Jacobian and the intended one; the errors allow for it.
    """
    k, m = wanted.k, wanted.vectors
    points = with_derivatives(points, steps)
    total = len(points.z)
    done = [torch.zeros(0, dtype=torch.long)]
    parts = [dense_eigenvalues(np.zeros((0, points.size, points.size)), k, wanted.order)]
    small = points.size <= max(SMALL, m)
    vectors = points.size if small else 3 * m + 4 * k
    size = work.get("batch_size") or rows_within(points, vectors, 2 * steps)
    off = np.zeros(total) if slack is None else slack
    bars = shown(work.get("progress", False))
    with tqdm(total=int(points.present.sum()), unit="state", desc="spectrum", **bars) as bar:
        for rows in points.batches(size):
            jacobian = Jacobian(points.system, points.context(rows), points.z[rows], steps)
            mine, epsilon = off[rows.cpu().numpy()], float(torch.finfo(points.z.dtype).eps)
            if small:
                parts.append(
                    dense_eigenvalues(jacobian.dense().cpu().double().numpy(), k, wanted.order, epsilon, mine)
                )
            else:
                start = random_directions(len(rows), points.size, wanted.seed, points.z)
                parts.append(_krylov(jacobian, start, wanted, mine))
            done.append(rows.cpu())
            bar.update(len(rows))
    rows = torch.cat(done)
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Eigen(*[spread(total, v, rows, 0 if v.dtype.kind == "i" else np.nan) for v in joined])


def _krylov(jacobian: Jacobian, start: Tensor, wanted: Wanted, slack: np.ndarray) -> Eigen:
    """Return eigenvalues from left eigenvectors and errors from right ones, refined where errors are too large."""
    n, epsilon = len(start), float(torch.finfo(start.dtype).eps)
    tol, most = wanted.tol, wanted.max_products
    limit = np.full(n, min(tol, CLOSE / 2))
    left = wanted.left_pairs(jacobian, start, limit, most)
    known = _right(jacobian, left, start, wanted)
    scale, size = left.scale[:, None], np.abs(left.value)
    with np.errstate(invalid="ignore", divide="ignore"):
        # the residual that would make each error small enough
        asked = np.fmin(tol * size / (2 * known.condition), SIMPLE * scale / (2 * known.condition**2))
        counts = wanted.refined(left.value)
        asked = np.nanmin(
            np.where(counts & (size > epsilon ** (2 / 3) * scale), asked / size, np.nan),
            axis=1,
            initial=np.inf,
        )
    loose = np.where(counts, left.residual, 0).max(1)
    again = (asked < loose) & (asked > 30 * epsilon) & (left.products < most / 2)
    products = left.products + known.products
    if again.any():
        rows = torch.as_tensor(np.flatnonzero(again), device=start.device)
        part = jacobian.select(rows)
        better = wanted.left_pairs(part, start[rows], asked[again], most - left.products[again])
        sharper = _right(part, better, start[rows], wanted)
        products[again] += better.products + sharper.products
        left, known = _replaced(left, better, again), _replaced(known, sharper, again)
    error = known.errors(left.absolute, left.scale, epsilon, slack)
    radius, low, high = radius_of(left.value, error)
    high = _largest(wanted.order, high, np.inf)
    return Eigen(left.value, left.residual, known.condition, error, radius, low, high, left.scale, products)


def _replaced(old: Any, new: Any, where: np.ndarray) -> Any:
    """Return a named tuple of row arrays with some of its rows replaced."""
    values = []
    for mine, other in zip(old, new, strict=True):
        mine = mine.clone() if isinstance(mine, Tensor) else mine.copy()
        mine[torch.as_tensor(where, device=mine.device) if isinstance(mine, Tensor) else where] = other
        values.append(mine)
    return type(old)(*values)


def _right(jacobian: Jacobian, left: Pairs, start: Tensor, wanted: Wanted) -> Known:
    """Find the right eigenvectors: starting near the left ones and, if that fails, from the start vector."""
    m, tol = wanted.vectors, wanted.tol
    jacobian = jacobian.select(
        torch.arange(len(start), device=start.device)
    )  # frees what the left products kept
    scale, found = left.scale[:, None], ~np.isnan(left.value)

    def unclear(known: Known) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):
            enough = np.fmin(CLOSE, SIMPLE / known.condition**2) * scale
            if wanted.condition:
                enough = np.fmin(enough, tol * np.abs(left.value))
            return (wanted.refined(left.value) & (known.residual > enough)).any(1) & (left.scale > 0)

    known = right_vectors(Products(jacobian, "right"), left, left.vector.sum(1), m, unclear)
    poor = unclear(known)
    if not poor.any():
        return known
    rows = torch.as_tensor(np.flatnonzero(poor), device=start.device)
    part = Products(jacobian.select(rows), "right")
    enough_is = tol if wanted.condition else CLOSE
    pairs = wanted.pairs(part, start[rows], tol=enough_is, max_products=wanted.max_products)
    sharper = right_vectors(part, _take(left, poor), pairs.vector.sum(1), m)
    products = known.products.copy()
    products[poor] += pairs.products + sharper.products
    better = np.zeros_like(found)
    better[poor] = sharper.residual < known.residual[poor]
    condition_, residual = known.condition.copy(), known.residual.copy()
    condition_[poor], residual[poor] = (
        np.where(better[poor], new, old[poor])
        for new, old in ((sharper.condition, known.condition), (sharper.residual, known.residual))
    )
    return Known(condition_, residual, products)


def _take(pairs: Pairs, rows: np.ndarray) -> Pairs:
    """Return some of the rows."""
    here = torch.as_tensor(rows, device=pairs.vector.device)
    taken: Any = [v[here] if isinstance(v, Tensor) else v[rows] for v in pairs]
    return Pairs(*taken)


def radius_of(value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest modulus (n,) of values (n, k), and bounds on it from the errors of the leading ones.

    The leading values are the largest one and those within its error.  If the error of one of them is unknown, the
    radius is unknown, too: its bounds are 0 and infinity.
    """
    found = ~np.isnan(value)
    size = np.where(found, np.abs(value), -np.inf)
    radius = np.where(found.any(1), size.max(1), np.nan)
    reach = np.where(np.isnan(error), np.inf, error)
    first = reach[np.arange(len(reach)), size.argmax(1)]
    with np.errstate(invalid="ignore"):
        leading = found & (size >= (radius - first)[:, None] * (1 - 1e-12))
        sure = np.isfinite(first) & np.isfinite(np.where(leading, reach, 0.0)).all(1)
        low = np.where(leading, size - reach, -np.inf).max(1)
        high = np.where(np.isfinite(reach), size + reach, -np.inf).max(1)
    low = np.where(sure, np.maximum(low, 0.0), 0.0)
    high = np.where(sure, high, np.inf)
    return radius, np.where(np.isnan(radius), np.nan, low), np.where(np.isnan(radius), np.nan, high)


def _largest(order: Order, high: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    """Return an upper bound of the spectral radius: values in another order need not be the largest."""
    return high if order.kind == "modulus" else np.broadcast_to(otherwise, high.shape)


def dense_eigenvalues(
    matrices: np.ndarray, k: int, order: Order, epsilon: float = np.finfo(float).eps, slack: np.ndarray | None = None
) -> Eigen:  # fmt: skip
    """Return the same as the Krylov method from full matrices (n, d, d), known to `epsilon` and within `slack` (n,)."""
    n, d, _ = matrices.shape
    shape = (n, k + 1)
    value, absolute = np.full(shape, np.nan + 0j), np.full(shape, np.nan)
    condition = np.full(shape, np.nan)
    over = power_of_two(
        torch.as_tensor(matrices)
    )  # LAPACK's eigenvalues of far larger or smaller ones are wrong
    matrices = matrices / over[:, None, None]
    scale = np.linalg.norm(matrices, 2, axis=(1, 2))
    off = np.zeros(n) if slack is None else slack / over
    exact = np.zeros(n, bool)
    for row, matrix in enumerate(matrices):
        values, left, right = scipy.linalg.eig(matrix, left=True)
        exact[row] = is_triangular(matrix)  # then LAPACK's balancing finds the diagonal itself
        first = order(values * over[row])
        count = min(k, d)
        if values[first[count - 1]].imag > 0:
            count += 1
        chosen = first[:count]
        lam, w, v = values[chosen], left[:, chosen], right[:, chosen]
        value[row, :count] = lam
        absolute[row, :count] = np.linalg.norm(matrix @ v - v * lam, axis=0)
        with np.errstate(divide="ignore"):
            condition[row, :count] = 1 / np.abs((w.conj() * v).sum(0))
    rounding = 2 * d**0.5 * epsilon * scale
    known = Known(condition, absolute, np.full(n, d))
    error = known.errors(absolute + rounding[:, None], scale, epsilon, off)
    error = np.where((exact & (off == 0))[:, None], 4 * epsilon * np.abs(value), error)
    radius, low, high = radius_of(value, error)
    least, most = power_bounds(matrices, off + rounding)
    low, high = (
        np.fmin(np.fmax(low, least), radius),
        np.fmax(_largest(order, np.fmin(high, most), most), radius),
    )
    residual, products, wide = relative(absolute, value, scale, epsilon), np.full(n, d), over[:, None]
    return Eigen(value * wide, residual, condition, error * wide, radius * over, low * over, high * over,
                 scale * over, products)  # fmt: skip
