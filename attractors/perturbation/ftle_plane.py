"""Finite-time Lyapunov exponents over a plane through state space: where nearby states are torn apart."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.ftle import ftle
from eqrlab.attractors.dynamics.jacobian import Jacobian, check_differentiable, rows_within
from eqrlab.attractors.dynamics.tangent import advance, product_log_singular_values, triangular
from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.contract import starts_of
from eqrlab.attractors.ensemble.options import StateOptions, computing, part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.states import Points, take_points
from eqrlab.attractors.perturbation.follow import Follower, FollowOptions
from eqrlab.attractors.perturbation.plane_geometry import (
    Frame,
    SliceOptions,
    cell_centres,
    frame_variables,
    make_frames,
    make_sides,
    with_axes_named,
)
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.models.system import dtype_name
from eqrlab.core.progress import shown, tqdm

ALONG = ("plane", "all")
NUMBERS = 2**26  # of the states of one call


class FieldOptions(SliceOptions, StateOptions, total=False):
    """Options of `ftle_field`: which plane, and how it computes."""


def ftle_field(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    steps: int = 8,
    along: str = "plane",
    initial: Law | None = None,
    tol: float = 1e-2,
    **options: Unpack[FieldOptions],
) -> xr.Dataset:
    """Compute the leading finite-time exponent, log of the largest stretch in n = `steps` over n, on a plane.

    Parameters
    ----------
    system, inputs, resolution, extent, states, directions, unit, initial
        The plane, as for `plane`: the same arguments give the same one, but 61 cells along a side unless given.  The
        system must be differentiable.
    steps
        Outer steps n.
    along
        "plane": the stretch of perturbations within the plane, what shows where its basins meet; "all": that of all
        perturbations, `ftle` itself, never smaller, at ten times the cost or more.
    tol
        Residual of the singular values where `along` is "all"; the exponents are then right to about tol^2 / n.
    **options
        `seed` (of the plane and the first vectors), `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        `ftle(puzzle, v, u)` at the centres of the cells, natural logarithm per outer step, NaN where the orbit is not
        finite; `converged(puzzle, v, u)`; `mark_u`, `mark_v` (puzzle, point): the given states; `unit(puzzle)`.

    Raises
    ------
    ValueError
        For states, directions and sides that make no plane, and for a step whose derivatives cannot be trusted.

    Notes
    -----
    Exact derivatives along each orbit, no differences between cells, so that the field does not depend on the
    resolution.  Ridges are where basins meet, or where a transient tears states apart.  Noise is off.  Cost a cell:
    about 4 n evaluations for "plane"; for "all" some 10 to 40 products with Df^n and its transpose, 2 n evaluations
    each.  States of two numbers: both are the same.

    References
    ----------
    G. Haller, Physica D 149 (2001) 248; S. C. Shadden et al., Physica D 212 (2005) 271.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn(len(x), 2, generator=g).double())
    >>> field = ftle_field(system, torch.zeros(1, 1, dtype=torch.long), steps=1, resolution=3, extent=1)
    >>> field.ftle.values[0].round(3)  # slope 2 on the axes, where basins meet
    array([[-0.722,  0.693, -0.722],
           [ 0.693,  0.693,  0.693],
           [-0.722,  0.693, -0.722]])
    """
    own = computing(options, ftle_field, FieldOptions)
    resolution = options.get("resolution", 61)
    if along not in ALONG:
        raise ValueError(f"along {along!r} unknown; choose from {', '.join(ALONG)}")
    require_integers(2, resolution=resolution)
    require_integers(steps=steps)
    follower = Follower(system, inputs, depth=1, **part_of(options, FollowOptions))
    frames, shape = make_frames(follower, part_of(options, SliceOptions), initial)
    sides = make_sides(options.get("extent"), frames)
    u, v = cell_centres(sides, resolution)
    grid = torch.as_tensor(np.stack(np.meshgrid(u, v), -1).reshape(-1, 2))
    values = np.full((len(frames), resolution**2), np.nan)
    converged = np.zeros(values.shape, bool)
    common: dict[str, Any] = {"dtype": own.dtype, "device": follower.device}
    most = max(1, NUMBERS // frames[0].centre.numel())
    with tqdm(total=values.size, unit="cell", **shown(own.progress)) as bar:
        for p, frame in enumerate(frames):
            if follower.identifiers is not None:
                common["identifiers"] = follower.identifiers[p : p + 1]
            # A grid of large states exceeds memory: cells are taken in parts.
            for cells in torch.split(torch.arange(len(grid)), most):
                z = frame.states(grid[cells]).view(1, -1, *shape)
                tokens = follower.tokens[p : p + 1]
                if along == "all":
                    found = ftle(follower.system, tokens, z, steps=steps, k=1, tol=tol, subspace=6, seed=own.seed,
                                 batch_size=own.batch_size, **common)  # fmt: skip
                    values[p, cells] = found.ftle.values[0, :, 0]
                    converged[p, cells] = found.converged.values[0]
                else:
                    points = take_points(follower.system, tokens, z, **common)
                    check_differentiable(points, own.seed)
                    values[p, cells] = _within(points, frame, steps, own.batch_size)
                    converged[p, cells] = np.isfinite(values[p, cells])
                bar.update(len(cells))
    text = f"log of the largest stretch in {steps} steps, over {steps}"
    square = (len(frames), resolution, resolution)
    variables: dict[str, schema.Variable] = {
        "ftle": (("puzzle", "v", "u"), values.reshape(square), text),
        "converged": (("puzzle", "v", "u"), converged.reshape(square), "the singular value is within the tolerance"),
        **frame_variables(frames),
    }  # fmt: skip
    attributes = {
        **schema.provenance(follower.system), **starts_of(follower.system, initial),
        "seed": own.seed, "steps": steps, "along": along, "noise": 0.0,
        "resolution": resolution, "extent": list(sides), "tolerances": {"singular_residual": tol},
        "dtype": dtype_name(frames[0].centre.dtype), "device": str(follower.device),
    }  # fmt: skip
    return with_axes_named(schema.dataset(variables, attributes, {"u": u, "v": v}))


@torch.no_grad()
def _within(points: Points, frame: Frame, steps: int, batch_size: int | None) -> np.ndarray:
    """Return the exponents (n,) of perturbations within the plane: of Df^n times its two axes, which stays d x 2."""
    size = batch_size or rows_within(points, 8)
    out = np.full(len(points.z), np.nan)
    for rows in points.batches(size):
        z, x = points.z[rows], points.context(rows)
        block = frame.axes.to(z).expand(len(rows), -1, -1)
        factors = []
        for _ in range(steps):
            z, block = advance(Jacobian(points.system, x, z), block)
            ok = z.flatten(1).isfinite().all(1) & block.flatten(1).isfinite().all(1)
            z, block = _held(z, ok), _held(block, ok)
            block, R = triangular(block)
            factors.append(torch.where(ok[:, None, None], R, torch.nan).cpu().double())
        finite = torch.stack([f.isfinite().flatten(1).all(1) for f in factors]).all(0)
        logs = product_log_singular_values([torch.nan_to_num(f) for f in factors])[:, 0] / steps
        out[rows.cpu().numpy()] = torch.where(finite, logs, torch.nan).numpy()
    return out


def _held(values: Tensor, ok: Tensor) -> Tensor:
    """Return values (n, ...) with zero in the rows that are not finite, so that they do no harm."""
    return torch.where(ok.view(-1, *(1,) * (values.ndim - 1)), values, torch.zeros_like(values))
