"""Finite-time Lyapunov exponents by their definition, log sigma_i(Df^n) / n, matrix-free."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import SMALL
from eqrlab.attractors.dynamics.jacobian import (
    check_differentiable,
    random_directions,
    row_bytes,
    rows_within,
)
from eqrlab.attractors.dynamics.krylov.golub_kahan import leading_triples
from eqrlab.attractors.dynamics.tangent import Orbit, product_log_singular_values, triangular
from eqrlab.attractors.ensemble.options import StateOptions, computing
from eqrlab.attractors.ensemble.states import Points, States, spread
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

KEPT_BYTES = 2**29  # linearisations are kept along an orbit up to this much memory, else computed anew
SWEEPS = 12


def ftle(
    system: System,
    inputs: Tensor | np.ndarray,
    starts: States,
    *,
    steps: int = 16,
    k: int = 1,
    tol: float = 1e-4,
    max_products: int = 400,
    subspace: int | None = None,
    **options: Unpack[StateOptions],
) -> xr.Dataset:
    """Compute the k leading finite-time Lyapunov exponents log sigma_i(Df^n) / n from every start, n = `steps`.

    Parameters
    ----------
    system, inputs, starts
        As for `spectrum`; a fine grid of starts gives the field over a plane.
    steps
        Outer steps n.
    k
        Exponents wanted.
    tol
        Residual of the singular values, relative to the largest; the exponents are then right to about tol^2 / n.
    max_products
        Largest number of products with Df^n and its transpose (n step products each) before a row counts as not
        converged.
    subspace
        Size of the Krylov spaces, k < m < d; None is max(20, 2 k + 10).
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        `ftle(puzzle, point, eig)`, natural logarithm per outer step, descending; `converged(puzzle, point)`.

    Raises
    ------
    ValueError
        For k out of range, no steps or no tolerance, and for a step whose derivatives cannot be trusted.

    Notes
    -----
    This is not the average of QR factors, which depends on the first tangent vectors and agrees only as n grows.  The
    largest singular value is found by Golub-Kahan on Df^n, with products with Df^n and its transpose along the stored
    orbit.  Singular values that are smaller than the largest by more than half the digits would be lost in this; rows
    with such values use orthogonal iteration back and forth through the factors, which keeps relative accuracy at any
    ratio.  States of
    up to 64 numbers have their Jacobians formed.  Noise is off.  A direction that one step shrinks below 8 epsilon of
    its largest factor has exponent -inf; an orbit that is not finite gives NaN.  Memory a row: n states, 2 m vectors,
    and up to 512 MiB a batch of kept linearisations.

    References
    ----------
    S. C. Shadden et al., Physica D 212 (2005) 271 (definition); L. Dieci and C. Elia, Math. Comput. Simul. 79
    (2008) 1235 (graded products).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> A = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
    >>> system = MapSystem(lambda z, x: z @ A.T, lambda x, g: torch.randn(len(x), 2, generator=g))
    >>> start = torch.ones(1, 1, 2, dtype=torch.float64)
    >>> ftle(system, torch.zeros(1, 1, dtype=torch.long), start, steps=2).ftle.values.round(4)
    array([[[0.7531]]])
    """
    own = computing(options, ftle)
    points = own.points(system, inputs, starts)
    points.require_k(k)
    if steps < 1 or not tol > 0:
        raise ValueError(f"steps must be >= 1 and tol > 0, got {steps} and {tol}")
    check_differentiable(points, own.seed)
    small = points.size <= max(SMALL, 2 * k + 2)
    vectors = steps * (points.size + 1) if small else steps + 2 * max(20, 2 * k + 10)
    size = own.batch_size or rows_within(points, vectors, graphs=2)
    logs, good, done = [], [], []
    for rows in tqdm(points.batches(size), unit="batch", **shown(own.progress)):
        orbit, finite = _orbit(points, rows, steps)
        values, converged = (
            _dense(orbit, k) if small else _krylov(orbit, points, k, tol, max_products, subspace, own.seed)
        )
        values[~finite] = np.nan
        converged &= ~np.isnan(values).any(1)
        logs.append(values)
        good.append(converged)
        done.append(rows)
    rows = torch.cat(done)
    exponents = spread(len(points.z), np.concatenate(logs) / steps, rows)
    flags = spread(len(points.z), np.concatenate(good), rows, False)
    at, text = ("puzzle", "point"), f"log sigma(Df^{steps}) / {steps}, natural logarithm"
    variables: dict[str, schema.Variable] = {
        "ftle": ((*at, "eig"), points.fold(exponents), text),
        "converged": (at, points.fold(flags), "the singular values are within the tolerance"),
    }
    tolerances = {"singular_residual": tol, "max_products": max_products}
    return schema.dataset(variables, points.attributes(seed=own.seed, steps=steps, tolerances=tolerances))


@torch.no_grad()
def _orbit(points: Points, rows: Tensor, steps: int) -> tuple[Orbit, np.ndarray]:
    """Run the rows and return the orbit and which rows stayed finite (the others are held at zero)."""
    x, z = points.context(rows), points.z[rows]
    states, finite = [], torch.ones(len(rows), dtype=torch.bool, device=z.device)
    for _ in range(steps):
        states.append(z)
        z = points.system.step(z, x)
        ok = z.flatten(1).isfinite().all(1)
        finite &= ok
        z = torch.where(ok.view(-1, *(1,) * (z.ndim - 1)), z, torch.zeros_like(z))
    graph = 2 * row_bytes(points.system, x, states[0]) * len(rows) * steps
    return Orbit(points.system, x, states, keep=graph <= KEPT_BYTES), finite.cpu().numpy()


def _dense(orbit: Orbit, k: int) -> tuple[np.ndarray, np.ndarray]:
    factors = [orbit.at(t).dense().cpu().double() for t in range(len(orbit.states))]
    product, scale = factors[0], torch.zeros(len(factors[0]), dtype=torch.float64)
    for F in [*factors[1:], None]:
        size = torch.linalg.matrix_norm(product).clamp(min=1e-300)
        product, scale = product / size[:, None, None], scale + size.log()
        product = product if F is None else F @ product
    values = torch.linalg.svdvals(torch.nan_to_num(product))[:, :k]
    logs = values.log() + scale[:, None]
    graded = (values[:, -1] < 1e-6 * values[:, 0]).nonzero()[:, 0]
    if len(graded):
        logs[graded] = product_log_singular_values([torch.nan_to_num(F[graded]) for F in factors])[:, :k]
    return logs.numpy(), np.ones(len(logs), bool)


def _krylov(
    orbit: Orbit, points: Points, k: int, tol: float, max_products: int, subspace: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    start = random_directions(len(orbit.states[0]), points.size, seed, points.z).contiguous()
    orbit.fit_scale(start)
    smooth = np.isfinite(orbit.log_scale)
    if not smooth.all():
        logs, converged = np.full((len(smooth), k), np.nan), np.zeros(len(smooth), bool)
        if smooth.any():
            rows = torch.as_tensor(np.flatnonzero(smooth), device=start.device)
            logs[smooth], converged[smooth] = _krylov(
                orbit.select(rows), points, k, tol, max_products, subspace, seed
            )
        return logs, converged
    triples = leading_triples(orbit, start, k, tol=tol, subspace=subspace, max_products=max_products)
    with np.errstate(divide="ignore"):
        logs = np.log(triples.value) + orbit.log_scale[:, None]
    converged = np.asarray((triples.residual <= tol).all(1))
    least = torch.finfo(points.z.dtype).eps ** 0.5
    graded = np.flatnonzero(triples.value[:, -1] < least * triples.value[:, 0])
    if len(graded):
        rows = torch.as_tensor(graded, device=points.z.device)
        logs[graded], converged[graded] = _sweeps(orbit.select(rows), triples.right[rows], k, tol, seed)
    return logs, converged


def _sweeps(orbit: Orbit, right: Tensor, k: int, tol: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log singular values (rows, k) of widely different size, from two more directions than asked for."""
    generator = torch.Generator().manual_seed(seed)
    extra = torch.randn((2, right.shape[2]), generator=generator, dtype=torch.float64).to(right)
    block, _ = triangular(torch.cat((right, extra.expand(len(right), -1, -1)), 1))
    previous = np.full((len(right), k), np.nan)
    converged = np.zeros(len(right), bool)
    for _ in range(SWEEPS):
        block, factors = orbit.sweep(block)
        logs = product_log_singular_values(factors)[:, :k].numpy()
        with np.errstate(invalid="ignore"):
            converged = ((np.abs(logs - previous) <= tol**2 * len(factors)) | (logs == previous)).all(1)
        if converged.all():
            break
        previous = logs
    return logs, converged
