"""Leading eigenvalues of the Jacobian df/dz at many states, matrix-free, each with its measured residual."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import Wanted, eigenvalues
from eqrlab.attractors.dynamics.jacobian import check_differentiable
from eqrlab.attractors.dynamics.krylov.krylov_schur import Order
from eqrlab.attractors.ensemble.options import StateOptions, WorkOptions, computing, part_of
from eqrlab.attractors.ensemble.states import Points, States
from eqrlab.attractors.fates.fate import LEAST_SCALE
from eqrlab.attractors.results import schema
from eqrlab.core import System

KINDS = ("modulus", "real")


class SpectrumOptions(StateOptions, total=False):
    """Options of `spectrum`: what is spent on it, and how it computes."""

    condition: bool
    radius: bool
    subspace: int | None
    max_products: int


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
    **options: Unpack[SpectrumOptions],
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
        `fixed_points`.  A state that is NaN throughout is a gap and gets NaN, and
        so does a state at which the step or its derivative is not finite.
    k
        Eigenvalues wanted.
    tol
        Relative residual ||J v - value v|| / |value| (||v|| = 1) and relative error of a value asked for.
    which
        "modulus": largest modulus; "real": largest real part; a number: nearest to it.
    steps
        Outer steps p: the Jacobian of f^p along the orbit of the state, for the multipliers of a p-cycle.
    power
        Report the eigenvalues of f^power, as powers of those of f: right at fixed points of f only, which is checked.
        For a reasoner whose outer step is H equal cycles, `spectrum(reasoner.replace(H_cycles=1), ..., power=H)` finds
        the spectrum of an outer step from products that cost an H-th of it, where a state is fixed by every cycle.
    condition
        Compute the condition numbers 1 / |w* v| to the tolerance, not only as well as the errors need them; False
        unless given.
    radius
        Refine only the eigenvalues that the spectral radius depends on; the others are flagged as not converged where
        what was found on the way is not enough.  False unless given.
    subspace
        Krylov vectors kept for a state; None, unless given, is max(32, 2 k + 16).
    max_products
        Products spent on a state, with J^T and again with J, before its row is given up as not converged; 1000 unless
        given.
    **options
        `seed` (of the start vector, which all states share), `batch_size` (None is what 1 GiB, or a quarter of a GPU's
        free memory, holds), `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, eig): `eigenvalue` complex, `eigen_residual`, `eigen_condition`, `eigen_error` (bound on
        the distance to the exact eigenvalue; infinite: not known), `converged` (residual and error are within the
        tolerance).  Over (puzzle, point): `spectral_radius` (largest modulus found) with `_low` and `_high`, `complete`
        (all values found converged), `products`.  A conjugate pair is never cut: where the k-th value is the first of a
        pair, its partner follows as the (k + 1)-th, and `eig` is one longer; other states have NaN there.

    Raises
    ------
    ValueError
        For misuse, and for a step whose derivatives cannot be trusted (see `jacobian.check_differentiable`).

    Notes
    -----
    States of up to 64 numbers: dense.  Larger ones: Krylov-Schur for all states of a batch at once, on J^T (its
    eigenvalues are those of J and its products the cheapest), then k products that measure the residuals, then 8 from
    another start vector that look for values left out, such as one that occurs several times, and more where there are
    (one that hardly comes before the last may stay unseen; none is looked for with `radius` or near a number), then a
    Krylov space of J for the right eigenvectors.  The states of a batch share the sizes of these spaces: another batch
    size changes results within the errors given.  A product costs about two steps.  Memory for a state: 1.5 times
    `subspace` vectors and twice the saved activations of p steps.  Eigenvalues deep inside the spectrum ("nearest to" a
    number there) converge slowly or not at all, and are then not flagged as converged.

    A small residual alone says little of a non-normal Jacobian: of .9 I + .3 N, with N the shift of 100 numbers, every
    number within .3 of .9 is an eigenvalue to rounding.  The error of a value is its residual times its condition
    number as long as no other eigenvalue is within reach (see `conditioning`); else it is infinite, and the value not
    converged.  The bounds of the spectral radius are those of the leading values' errors; for dense Jacobians they are
    the tighter ones of that and of the norms and traces of J^(2^i), which hold for any condition.

    References
    ----------
    G. W. Stewart, A Krylov-Schur algorithm for large eigenproblems, SIAM J. Matrix Anal. Appl. 23 (2001) 601;
    W. Kahan, B. N. Parlett and E. Jiang, SIAM J. Numer. Anal. 19 (1982) 470 (residuals of non-normal matrices);
    Z. Jia, Linear Algebra Appl. 259 (1997) 1 (refined Ritz vectors).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z * torch.tensor([0.9, -0.5]), lambda x, g: torch.randn(len(x), 2, generator=g))
    >>> spectrum(system, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 2), k=2).spectral_radius.values
    array([[0.9]], dtype=float32)
    """
    own, max_products = computing(options, spectrum, SpectrumOptions), options.get("max_products", 1000)
    points = own.points(system, inputs, states)
    order = _order(which)
    points.require_k(k)
    if not tol > 0:
        raise ValueError(f"tol must be > 0, got {tol}")
    if steps < 1 or power < 1:
        raise ValueError(f"steps and power must be >= 1, got {steps} and {power}")
    # Before the expensive part: a step whose derivatives are wrong gives plausible eigenvalues.
    check_differentiable(points, own.seed)
    if power > 1:
        _check_fixed(points)
    wanted = Wanted(
        k=k, tol=tol, order=order, condition=options.get("condition", False), radius=options.get("radius", False),
        subspace=options.get("subspace"), max_products=max_products, seed=own.seed,
    )  # fmt: skip
    eigen = eigenvalues(points, wanted, steps=steps, **part_of(options, WorkOptions))
    eigen = eigen.to_power(power)
    # The partner of a complex pair at the edge is reported too, where any state has one.
    wide = k + bool(np.isfinite(eigen.value[:, k:]).any())
    value = eigen.value[:, :wide]
    real = np.float64 if points.z.dtype == torch.float64 else np.float32
    converged = eigen.converged(tol, torch.finfo(points.z.dtype).eps)[:, :wide]
    found = ~np.isnan(value)
    fold = lambda values: points.fold(values.astype(real))
    at, each = ("puzzle", "point"), ("puzzle", "point", "eig")
    variables: dict[str, schema.Variable] = {
        "eigenvalue": (
            each, points.fold(value.astype(np.result_type(real, np.complex64))), "eigenvalue of the Jacobian"
        ),
        "eigen_residual": (each, fold(eigen.residual[:, :wide]), "||J v - value v|| / |value|, measured"),
        "eigen_error": (
            each, fold(eigen.error[:, :wide]),
            "bound on the distance to the exact eigenvalue, infinite where it is not known",
        ),
        "converged": (each, points.fold(converged), "residual and error are within the tolerance"),
        "eigen_condition": (each, fold(eigen.condition[:, :wide]), "condition number 1 / |w* v|"),
        "spectral_radius": (at, fold(eigen.radius), "largest modulus among the eigenvalues found"),
        "spectral_radius_low": (at, fold(eigen.low), "lower bound of the spectral radius"),
        "spectral_radius_high": (
            at, fold(eigen.high), "upper bound of the spectral radius, infinite where it is not known"
        ),
        "complete": (
            at, points.fold((converged | ~found).all(1) & found.any(1)), "all eigenvalues found converged"
        ),
        "products": (at, points.fold(eigen.products), "Jacobian products spent"),
    }  # fmt: skip
    attributes = points.attributes(
        seed=own.seed,
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
        # The run that led to a state next to the origin gives it a size; else it has its norm alone.
        size = torch.maximum(z.flatten(1).norm(dim=1), (LEAST_SCALE * points.run_size[rows]).to(move))
        moved = (move > limit * size).nonzero()[:, 0]
        if len(moved):
            name = points.name(int(rows[moved[0]]))
            raise ValueError(
                f"power > 1 needs fixed points of the step, but {name} moves by {float(move[moved[0]]):.1e}"
            )


def _order(which: str | float) -> Order:
    if isinstance(which, str):
        if which not in KINDS:
            raise ValueError(f"which {which!r} unknown; choose from {', '.join(KINDS)}, or give a number")
        return Order(which)
    if isinstance(which, complex) or not np.isfinite(which):
        raise ValueError(f"which must be 'modulus', 'real' or a finite real number, got {which}")
    return Order("near", float(which))
