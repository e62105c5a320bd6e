"""Leading eigenvalues of the Jacobian df/dz at many states, matrix-free, each with its measured residual."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from eqrlab.attractors.dynamics.jacobian import Jacobian, check_differentiable, random_directions, rows_within
from eqrlab.attractors.dynamics.krylov_schur import MODULUS, Order, Pairs, default_subspace, leading_pairs
from eqrlab.attractors.ensemble.states import Points, States, spread, take_points
from eqrlab.attractors.results import schema
from eqrlab.core import System

SMALL = 64  # states of up to this many numbers have their Jacobian formed and solved in full
KINDS = ("modulus", "real")


class Products:
    """The products J^T u ("left" eigenvectors) or J v ("right" ones) of a Jacobian."""

    def __init__(self, jacobian: Jacobian, side: str):
        self.jacobian, self.side = jacobian, side

    def __call__(self, v: Tensor) -> Tensor:
        return self.jacobian.pull(v) if self.side == "left" else self.jacobian.push(v)

    def select(self, rows: Tensor) -> Products:
        return Products(self.jacobian.select(rows), self.side)


class Eigen(NamedTuple):
    """Eigenvalues (n, k + 1) as in `Pairs`, residuals, condition numbers (NaN: unknown) and products (n,)."""

    value: np.ndarray
    residual: np.ndarray
    condition: np.ndarray
    products: np.ndarray


def spectrum(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    k: int = 6,
    tol: float = 1e-4,
    which: str | float = "modulus",
    steps: int = 1,
    power: int = 1,
    condition: bool = False,
    subspace: int | None = None,
    max_products: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Compute the k leading eigenvalues of df/dz at every state.

    Parameters
    ----------
    system
        Any system whose step is differentiable; checked first.
    inputs
        Puzzles (P, L), integer tokens.
    states
        (P, M, *state_shape), or an ensemble sampled with keep=("summary", "final_state"), or the result of
        `fixed_points`.  A state that is NaN throughout is a gap and gets NaN.
    k
        Eigenvalues wanted.
    tol
        Relative residual ||J v - value v|| / |value| (||v|| = 1) asked for.
    which
        "modulus": largest modulus; "real": largest real part; a number: nearest to it.
    steps
        Outer steps p: the Jacobian of f^p along the orbit of the state, for the multipliers of a p-cycle.
    power
        Report the eigenvalues of f^power, as powers of those of f: right at fixed points of f only, which is checked.
        For a reasoner whose outer step is H equal cycles, `spectrum(reasoner.replace(H_cycles=1), ..., power=H)` finds
        the spectrum of an outer step from products that cost an H-th of it, where a state is fixed by every cycle.
    condition
        Also compute right eigenvectors, for the condition numbers 1 / |w* v|: twice the work and memory.
    subspace
        Krylov vectors kept for a state; None is max(32, 2 k + 16).
    max_products
        Products spent on a state before its row is given up as not converged.
    seed
        Of the start vector, which all states share.
    batch_size
        States treated at once; None is what 1 GiB (a quarter of a GPU's free memory) holds.
    dtype, device
        Precision (float32, float64; None: that of the states) and place.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, eig): `eigenvalue` complex, `eigen_residual`, `converged`, `eigen_condition`.
        Over (puzzle, point): `spectral_radius` (largest modulus found), `complete` (all wanted ones converged),
        `products`.  A conjugate pair is never cut: where the k-th value is the first of a pair, its partner follows
        as the (k + 1)-th, and `eig` is one longer; other states have NaN there.

    Raises
    ------
    ValueError
        For misuse, and for a step whose derivatives cannot be trusted (see `jacobian.check_differentiable`).

    Notes
    -----
    States of up to 64 numbers: dense.  Larger ones: Krylov-Schur for all states of a batch at once, on J^T (its
    eigenvalues are those of J and its products the cheapest), then k products that measure the residuals.  A product
    costs about two steps.  Memory for a state: 1.5 times `subspace` vectors and the saved activations of p steps.
    Eigenvalues deep inside the spectrum ("nearest to" a number there) converge slowly or not at all, and are then not
    flagged as converged; a small residual bounds the error of a value only up to its condition number.

    References
    ----------
    G. W. Stewart, A Krylov-Schur algorithm for large eigenproblems, SIAM J. Matrix Anal. Appl. 23 (2001) 601.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z * torch.tensor([0.9, -0.5]), lambda x, g: torch.randn(len(x), 2, generator=g))
    >>> spectrum(system, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 2), k=2).spectral_radius.values
    array([[0.9]], dtype=float32)
    """
    points = take_points(system, inputs, states, dtype=dtype, device=device)
    order = _order(which)
    if not 1 <= k <= points.size:
        raise ValueError(f"k must be between 1 and the {points.size} numbers of a state, got {k}")
    if not tol > 0:
        raise ValueError(f"tol must be > 0, got {tol}")
    if steps < 1 or power < 1:
        raise ValueError(f"steps and power must be >= 1, got {steps} and {power}")
    check_differentiable(points, seed)
    if power > 1:
        _check_fixed(points)
    eigen = eigenvalues(
        points, k, tol=tol, order=order, steps=steps, condition=condition, subspace=subspace,
        max_products=max_products, seed=seed, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    eigen = eigen._replace(value=eigen.value**power, residual=eigen.residual * power)  # to first order
    wide = k + bool(np.isfinite(eigen.value[:, k:]).any())
    value, residual = eigen.value[:, :wide], eigen.residual[:, :wide]
    real = np.float64 if points.z.dtype == torch.float64 else np.float32
    found = ~np.isnan(value)
    converged = found & (np.nan_to_num(residual, nan=np.inf) <= tol)
    radius = np.where(found.any(1), np.where(found, np.abs(value), -np.inf).max(1), np.nan)
    at, each = ("puzzle", "point"), ("puzzle", "point", "eig")
    variables: dict[str, schema.Variable] = {
        "eigenvalue": (
            each,
            points.fold(value.astype(np.result_type(real, np.complex64))),
            "eigenvalue of the Jacobian",
        ),
        "eigen_residual": (each, points.fold(residual.astype(real)), "||J v - value v|| / |value|, measured"),
        "converged": (each, points.fold(converged), "the residual is within the tolerance"),
        "eigen_condition": (
            each,
            points.fold(eigen.condition[:, :wide].astype(real)),
            "condition number 1 / |w* v|",
        ),
        "spectral_radius": (
            at,
            points.fold(radius.astype(real)),
            "largest modulus among the eigenvalues found",
        ),
        "complete": (
            at,
            points.fold((converged | ~found).all(1) & found.any(1)),
            "all eigenvalues found converged",
        ),
        "products": (at, points.fold(eigen.products), "Jacobian products spent"),
    }
    attributes = points.attributes(
        seed=seed,
        which=str(which),
        steps=steps,
        tolerances={"eigen_residual": tol, "max_products": max_products},
    )
    return schema.dataset(variables, attributes)


@torch.no_grad()
def _check_fixed(points: Points) -> None:
    """Refuse states that one step moves: the eigenvalues of f^p are powers of those of f at its fixed points only."""
    limit = torch.finfo(points.z.dtype).eps ** 0.5
    for rows in points.batches(64):
        z = points.z[rows]
        move = (points.system.step(z, points.context(rows)) - z).flatten(1).norm(dim=1)
        moved = (move > limit * z.flatten(1).norm(dim=1).clamp(min=1.0)).nonzero()[:, 0]
        if len(moved):
            name = points.name(int(rows[int(moved[0])]))
            raise ValueError(
                f"power > 1 needs fixed points of the step, but {name} moves by {float(move.max()):.1e}"
            )


def _order(which: str | float) -> Order:
    if isinstance(which, str):
        if which not in KINDS:
            raise ValueError(f"which {which!r} unknown; choose from {', '.join(KINDS)}, or give a number")
        return Order(which)
    if isinstance(which, complex) or not np.isfinite(which):
        raise ValueError(f"which must be 'modulus', 'real' or a finite real number, got {which}")
    return Order("near", float(which))


def eigenvalues(
    points: Points,
    k: int,
    *,
    tol: float,
    order: Order = MODULUS,
    steps: int = 1,
    condition: bool = False,
    subspace: int | None = None,
    max_products: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> Eigen:
    """Return the leading eigenvalues of all rows of `points`; see `spectrum` (which checks the step first)."""
    m = max(k + 3, default_subspace(k) if subspace is None else subspace)
    total, parts, done = len(points.z), [], []
    small = points.size <= max(SMALL, m)
    graphs = steps * (1 + 2 * condition)
    vectors = points.size if small else (3 * m // 2 + 2 * k) * (1 + condition)
    size = batch_size or rows_within(points, vectors, graphs)
    with tqdm(
        total=int(points.present.sum()), unit="state", desc="spectrum", disable=not progress, leave=False
    ) as bar:
        for rows in points.batches(size):
            jacobian = Jacobian(points.system, points.context(rows), points.z[rows], steps)
            if small:
                parts.append(dense_eigenvalues(jacobian.dense().double().cpu().numpy(), k, order))
            else:
                start = random_directions(len(rows), points.size, seed, points.z)
                options = {"order": order, "tol": tol, "subspace": m, "max_products": max_products}
                parts.append(_krylov(jacobian, start, k, condition, options))
            done.append(rows)
            bar.update(len(rows))
    rows = torch.cat(done)
    fills = (np.nan, np.nan, np.nan, 0)
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Eigen(*[spread(total, column, rows, fill) for column, fill in zip(joined, fills, strict=True)])


def _krylov(jacobian: Jacobian, start: Tensor, k: int, condition: bool, options: dict) -> Eigen:
    left = leading_pairs(Products(jacobian, "left"), start, k, **options)
    unknown = np.full(left.value.shape, np.nan)
    if not condition:
        return Eigen(left.value, left.residual, unknown, left.products)
    right = leading_pairs(Products(jacobian, "right"), start, k, **options)
    return Eigen(left.value, left.residual, conditions(left, right), left.products + right.products)


def conditions(left: Pairs, right: Pairs) -> np.ndarray:
    """Return 1 / |w* v| (n, k + 1) of left eigenvectors w and right ones v of the nearest value, NaN without."""
    w, v = complex_vectors(left), complex_vectors(right)
    out = np.full(left.value.shape, np.nan)
    for row, (mine, others) in enumerate(zip(left.value, right.value, strict=True)):
        for j in np.flatnonzero(~np.isnan(mine)):
            distance = np.abs(others - mine[j].conj())  # J^T w = value w is w* J = conj(value) w*
            distance[np.isnan(distance)] = np.inf
            i = int(distance.argmin())
            if distance[i] <= 1e-2 * abs(mine[j]):
                overlap = abs(np.vdot(w[row, j], v[row, i]))
                out[row, j] = 1 / overlap if overlap > 0 else np.inf
    return out


def complex_vectors(pairs: Pairs) -> np.ndarray:
    """Return unit eigenvectors (n, k + 1, d) from the real and imaginary parts kept in `pairs`."""
    real = pairs.vector.double().cpu().numpy()
    out = real.astype(complex)
    for row, j in zip(*np.nonzero(np.nan_to_num(pairs.value).imag > 0), strict=True):
        out[row, j] = real[row, j] + 1j * real[row, j + 1]
        out[row, j + 1] = out[row, j].conj()
    length = np.linalg.norm(out, axis=2, keepdims=True)
    return out / np.where(length > 0, length, 1)


def dense_eigenvalues(matrices: np.ndarray, k: int, order: Order) -> Eigen:
    """Return the same as the Krylov method from full matrices (n, d, d), with condition numbers."""
    n, d, _ = matrices.shape
    value = np.full((n, k + 1), np.nan + 0j)
    residual, condition = np.full((n, k + 1), np.nan), np.full((n, k + 1), np.nan)
    for row, matrix in enumerate(matrices):
        values, left, right = scipy.linalg.eig(matrix, left=True)
        first = order(values)
        count = min(k, d)
        if values[first[count - 1]].imag > 0:
            count += 1
        chosen = first[:count]
        lam, w, v = values[chosen], left[:, chosen], right[:, chosen]
        overlap = np.abs((w.conj() * v).sum(0))
        size = np.maximum(np.abs(lam), np.finfo(float).eps * np.linalg.norm(matrix, 2))
        value[row, :count] = lam
        residual[row, :count] = np.linalg.norm(matrix @ v - v * lam, axis=0) / np.where(size > 0, size, 1)
        with np.errstate(divide="ignore"):
            condition[row, :count] = 1 / overlap
    return Eigen(value, residual, condition, np.full(n, d))
