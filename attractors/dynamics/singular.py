"""How far the Jacobian can stretch a perturbation: singular values, transient growth, departure from normality."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import SMALL
from eqrlab.attractors.dynamics.jacobian import (
    Jacobian,
    check_differentiable,
    random_directions,
    rows_within,
    with_derivatives,
)
from eqrlab.attractors.dynamics.krylov.copied_triples import with_copies
from eqrlab.attractors.dynamics.krylov.golub_kahan import leading_triples
from eqrlab.attractors.dynamics.transient import exact_growth, transient_growth
from eqrlab.attractors.ensemble.options import StateOptions, computing
from eqrlab.attractors.ensemble.states import States, spread
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

PROBES = 4  # random vectors of the departure from normality
LOOSE = 1e-2  # tolerance from which on small Krylov spaces are enough


class Stretch:
    """The products J v and J^T u of a Jacobian, as a two-sided operator."""

    def __init__(self, jacobian: Jacobian):
        self.jacobian = jacobian
        self.forward, self.adjoint = jacobian.push, jacobian.pull

    def select(self, rows: Tensor) -> Stretch:
        return Stretch(self.jacobian.select(rows))


class Growth(NamedTuple):
    """What one batch of states gives, each (m, ...)."""

    value: np.ndarray
    residual: np.ndarray
    growth: np.ndarray
    when: np.ndarray
    departure: np.ndarray


def singular_values(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    k: int = 4,
    tol: float = 1e-4,
    horizon: int = 16,
    max_products: int = 1000,
    **options: Unpack[StateOptions],
) -> xr.Dataset:
    """Compute the k leading singular values of df/dz at every state, and what they imply for perturbations.

    Parameters
    ----------
    system, inputs, states
        As for `spectrum`.
    k
        Singular values wanted.
    tol
        Residual ||J^T u - value v|| over the largest value asked for; values are then right to about tol squared.
    horizon
        Most steps n over which growth ||J^n|| is followed; 0 leaves out growth and departure, which are then NaN.
    max_products
        As for `spectrum`.
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, eig): `singular_value`, `singular_residual`, `converged`.  Over (puzzle, point):
        `reactivity` = singular_value[0] - 1, the fastest growth of a perturbation in one step; `transient_growth` =
        sup over 1 <= n <= horizon of ||J^n|| (a lower bound of it at states of more than 64 numbers; infinite beyond
        the range of the dtype) and its `transient_step` n; `departure` = ||J J^T - J^T J||_F / ||J||_F^2, 0 for a
        normal Jacobian.

    Raises
    ------
    ValueError
        For k, tol or horizon out of range, and for a step whose derivatives cannot be trusted.

    Notes
    -----
    States of up to 64 numbers: dense and exact.  Larger ones: Golub-Kahan with thick restarts for the values, then ten
    products from another start vector that look for larger ones left out, such as one that occurs several times, and
    more where there are (one hardly larger than the least may stay unseen); a lower bound of ||J^n|| as the largest
    stretch of the space of the k leading right singular vectors, or of a random vector after two power iterations with
    the sum of (J^n)^T J^n over n, refined at its peak by power iterations with J^n; the departure from four random
    vectors (relative standard error about 1/3).  Growth costs horizon (k + 5) products and up to 9 horizon more.  At an
    expanding state (spectral radius above 1) it ends with the horizon.
    Memory for a state: 2 m + k vectors, m = max(20, 2 k + 10), and twice the saved activations of a step.

    References
    ----------
    L. N. Trefethen and M. Embree, Spectra and Pseudospectra, 2005, sections 14-16 (transient growth); M. G. Neubert
    and H. Caswell, Ecology 78 (1997) 653 (reactivity); P. Henrici, Numer. Math. 4 (1962) 24.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> A = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
    >>> system = MapSystem(lambda z, x: z @ A.T, lambda x, g: torch.randn(len(x), 2, generator=g))
    >>> result = singular_values(system, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 2, dtype=A.dtype), k=1)
    >>> result.reactivity.values.round(4)
    array([[4.0407]])
    """
    own = computing(options, singular_values)
    points = own.points(system, inputs, states)
    points.require_k(k)
    if not tol > 0 or horizon < 0:
        raise ValueError(f"tol must be > 0 and horizon >= 0, got {tol} and {horizon}")
    check_differentiable(points, own.seed)
    points = with_derivatives(points)
    # Forming the Jacobian of a small state costs no more than a Krylov space, and its values are exact.
    small = points.size <= max(SMALL, 2 * k)
    size = own.batch_size or rows_within(
        points, points.size if small else 2 * max(20, 2 * k + 10) + 2 * k, graphs=2
    )
    parts, done = [], []
    for rows in tqdm(points.batches(size), unit="batch", **shown(own.progress)):
        jacobian = Jacobian(points.system, points.context(rows), points.z[rows])
        if small:
            parts.append(_dense(jacobian.dense().cpu().double().numpy(), k, horizon))
        else:
            start = random_directions(len(rows), points.size, own.seed, points.z)
            parts.append(_krylov(jacobian, start, k, tol, horizon, max_products, own.seed))
        done.append(rows)
    rows = torch.cat(done)
    value, residual, growth, when, departure = (
        spread(len(points.z), np.concatenate(column), rows, -1 if column[0].dtype.kind == "i" else np.nan)
        for column in zip(*parts, strict=True)
    )
    real = np.float64 if points.z.dtype == torch.float64 else np.float32
    with np.errstate(over="ignore"):  # growth beyond the range of the states' numbers is infinite
        growth = growth.astype(real)
    bound = "" if small else "lower bound of the "
    fold = lambda values: points.fold(values.astype(real))
    at, each = ("puzzle", "point"), ("puzzle", "point", "eig")
    variables: dict[str, schema.Variable] = {
        "singular_value": (each, fold(value), "singular value of the Jacobian"),
        "singular_residual": (each, fold(residual), "||J^T u - value v|| / largest value"),
        "converged": (each, points.fold(residual <= tol), "the residual is within the tolerance"),
        "reactivity": (at, fold(value[:, 0] - 1), "largest growth of a perturbation in one step"),
        "transient_growth": (at, points.fold(growth), f"{bound}largest ||J^n|| within the horizon"),
        "transient_step": (at, points.fold(when), "n at which ||J^n|| is largest, -1: not followed"),
        "departure": (at, fold(departure), "||J J^T - J^T J|| / ||J||^2 in Frobenius norms"),
    }
    tolerances = {"singular_residual": tol, "max_products": max_products}
    return schema.dataset(variables, points.attributes(seed=own.seed, horizon=horizon, tolerances=tolerances))


def _dense(matrices: np.ndarray, k: int, horizon: int) -> Growth:
    values = np.linalg.svd(matrices, compute_uv=False)
    residual = np.zeros((len(values), k))
    if not horizon:
        return _without_growth(values[:, :k], residual)
    growth, when = exact_growth(matrices, values[:, 0], horizon)
    unit = matrices / np.where(values[:, 0] > 0, values[:, 0], 1)[:, None, None]
    transposed = unit.transpose(0, 2, 1)
    commutator = np.linalg.norm(unit @ transposed - transposed @ unit, axis=(1, 2))
    square = (unit**2).sum((1, 2))
    departure = np.divide(commutator, square, out=np.zeros_like(square), where=square > 0)
    return Growth(values[:, :k], residual, growth, when, departure)


def _krylov(
    jacobian: Jacobian, start: Tensor, k: int, tol: float, horizon: int, max_products: int, seed: int
) -> Growth:
    few = 2 * k + 6 if tol >= LOOSE else None
    triples = leading_triples(Stretch(jacobian), start, k, tol=tol, subspace=few, max_products=max_products)
    if k > 1:  # of the largest alone, a copy tells nothing
        beside = random_directions(jacobian.rows, jacobian.size, seed + 300, jacobian.z)
        triples = with_copies(Stretch(jacobian), triples, beside, tol, few, max_products)
    if not horizon:
        return _without_growth(triples.value, triples.residual)
    growth, when = transient_growth(jacobian, triples.right, triples.value[:, 0], horizon, seed)
    departure = departure_from_normality(jacobian, triples.value[:, 0], seed)
    return Growth(triples.value, triples.residual, growth, when, departure)


def _without_growth(value: np.ndarray, residual: np.ndarray) -> Growth:
    nothing = np.full(len(value), np.nan)
    return Growth(value, residual, nothing, np.full(len(value), -1), nothing)


def departure_from_normality(jacobian: Jacobian, first: np.ndarray, seed: int) -> np.ndarray:
    """Return ||J J^T - J^T J||_F / ||J||_F^2 (rows,), both norms estimated with the same random vectors.

    Parameters
    ----------
    first
        (rows,) ||J||, by which products are divided, so that their squares stay within range.
    """
    over = torch.as_tensor(np.where(first > 0, first, 1.0)).to(jacobian.z)[:, None]
    commutator = np.zeros(jacobian.rows)
    square = np.zeros(jacobian.rows)
    for probe in range(PROBES):
        v = random_directions(jacobian.rows, jacobian.size, seed + 100 + probe, jacobian.z)
        v = v.contiguous() * jacobian.size**0.5
        pushed, pulled = jacobian.push(v) / over, jacobian.pull(v) / over
        difference = (jacobian.push(pulled) - jacobian.pull(pushed)) / over
        commutator += difference.double().square().sum(1).cpu().numpy() / PROBES
        square += (pushed.double().square().sum(1) + pulled.double().square().sum(1)).cpu().numpy() / (
            2 * PROBES
        )
    return np.divide(np.sqrt(commutator), square, out=np.zeros_like(square), where=square > 0)
