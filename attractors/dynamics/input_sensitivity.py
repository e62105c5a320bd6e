"""Input sensitivity of fixed points: how far each clue of a puzzle moves them, and how the margin depends on it."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from eqrlab.attractors.dynamics.jacobian import (
    Jacobian,
    check_differentiable,
    has_weights,
    linearised,
    rows_within,
    with_derivatives,
)
from eqrlab.attractors.dynamics.krylov.gmres import gmres
from eqrlab.attractors.ensemble.options import StateOptions, computing
from eqrlab.attractors.ensemble.states import Points, States
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.models.system import context_of
from eqrlab.core.progress import shown, tqdm

ROUNDS = 8  # Krylov spaces one after another, each on what the last has left
REST = 1e-3  # relative residual up to which a state counts as a fixed point


def input_sensitivity(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    blank: int,
    tol: float = 1e-4,
    **options: Unpack[StateOptions],
) -> xr.Dataset:
    """Compute to first order how far each clue moves a fixed point, and how much of the answer's margin depends on it.

    Parameters
    ----------
    system, inputs, states
        As for `spectrum`; fixed points, as settled final states of `sample` or those of `fixed_points`.
    blank
        Token of a cell without a clue.
    tol
        Relative residual that the linear solves stop at.
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, input_token), NaN at cells without a clue and at states that are not at rest:
        `moved` = length of the change of the fixed point if the clue is removed, over its norm; with `logits`
        also `margin_lost` = the largest share of a cell's margin (largest logit minus second) that is lost with
        it: at 1 or above, the answer of some cell is predicted to change; `solve_residual` of the linear solve.
        Over (puzzle, point): `residual`, relative, at the state.

    Raises
    ------
    ValueError
        For misuse, and for a system that is not differentiable in its state or its context.

    Notes
    -----
    At z* = f(z*; x) the implicit function theorem gives dz*/dx = (I - J)^-1 df/dx with J = df/dz.  A clue's
    direction in x is the difference of the contexts of the puzzle with and without it: for a `Reasoner` its
    embedding.  No matrix is formed: df/dx by double reverse mode, the solve by GMRES for all clues of a state.
    First order gives the direction of the response, not the result of removing the clue: the real change is
    finite, and may cross a border.  States with a relative residual above 1e-3 are no fixed points.

    References
    ----------
    Krantz & Parks 2002, "The implicit function theorem"; Bai, Kolter & Koltun 2019, "Deep equilibrium models".

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> half = MapSystem(lambda z, x: z / 2 + x, lambda x, g: torch.randn(x.shape, generator=g, dtype=torch.float64))
    >>> fixed = torch.tensor([[[6.0, 2.0]]], dtype=torch.float64)  # twice the input
    >>> found = input_sensitivity(half, torch.tensor([[3, 1]]), fixed, blank=1)
    >>> (found.moved * float(fixed.norm())).values.round(9)  # the clue 3 gone for 1: 2 (3 - 1)
    array([[[ 4., nan]]])
    """
    own = computing(options, input_sensitivity)
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}")
    points = own.points(system, inputs, states)
    check_differentiable(points, own.seed)
    points = with_derivatives(points)
    with torch.no_grad():
        residual = _residuals(points)
    length = points.tokens.shape[1]
    shape = (len(points.z), length)
    found = {name: np.full(shape, np.nan) for name in ("moved", "margin_lost", "solve_residual")}
    read = getattr(points.system, "logits", None)
    at_once = own.batch_size or rows_within(points, 60)
    jobs = [
        (row, cell)
        for row in np.flatnonzero(residual <= REST)
        for cell in np.flatnonzero(points.tokens[row // points.shape[1]].numpy() != blank)
    ]
    with tqdm(total=len(jobs), unit="clue", **shown(own.progress)) as bar:
        for start in range(0, len(jobs), at_once):
            row, cell = np.array(jobs[start : start + at_once]).T
            change, left = _without(points, row, cell, blank, tol)
            norm = points.z[row].flatten(1).norm(dim=1)
            found["moved"][row, cell] = (change.norm(dim=1) / norm).cpu().numpy()
            found["solve_residual"][row, cell] = left.cpu().numpy()
            if read is not None:
                found["margin_lost"][row, cell] = _margin_lost(points, row, change).cpu().numpy()
            bar.update(len(row))
    each = ("puzzle", "point", "input_token")
    texts = {
        "moved": "length of the first-order change of the fixed point if the clue is taken out, over its norm",
        "margin_lost": "largest share of a cell's margin that goes with the clue, to first order",
        "solve_residual": "relative residual of the linear solve",
    }
    names = [name for name in texts if name != "margin_lost" or read is not None]
    variables: dict[str, schema.Variable] = {
        name: (each, points.fold(found[name]), texts[name]) for name in names
    }
    variables["residual"] = (("puzzle", "point"), points.fold(residual), "relative residual at the state")
    variables["inputs"] = (("puzzle", "input_token"), points.tokens.numpy().astype(np.int32), "puzzle")
    return schema.dataset(variables, points.attributes(seed=own.seed, blank=blank, tol=tol, at_rest=REST))


def _residuals(points: Points) -> np.ndarray:
    """Return the relative residuals (n,) of all states, NaN at gaps."""
    found = np.full(len(points.z), np.nan)
    for rows in points.batches(256):
        z = points.z[rows]
        gap = (points.system.step(z, points.context(rows)) - z).flatten(1).norm(dim=1)
        found[rows.cpu().numpy()] = (gap / z.flatten(1).norm(dim=1).clamp(min=1e-300)).cpu().numpy()
    return found


def _without(
    points: Points, row: np.ndarray, cell: np.ndarray, blank: int, tol: float
) -> tuple[Tensor, Tensor]:
    """Return the first-order change (n, d) of the fixed points of rows if one clue each is taken out."""
    tokens = points.tokens[row // points.shape[1]]
    fewer = tokens.clone()
    fewer[np.arange(len(row)), cell] = blank
    place = torch.as_tensor(row, device=points.z.device)
    x = points.context(place)
    known = None if points.identifiers is None else points.identifiers[row // points.shape[1]]
    without = context_of(points.system, fewer.to(points.z.device), known)
    change = pytree.tree_map(
        lambda a, b: b.to(a) - a if isinstance(a, Tensor) and a.is_floating_point() else a, x, without
    )
    return response(points.system, x, points.z[place], change, tol)


def response(system: System, x: Any, z: Tensor, change: Any, tol: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Return dz*/dx applied to a change of the context, (n, d), and the relative residual (n,) of the solve.

    Parameters
    ----------
    x
        Context of n rows.
    z
        Their fixed points (n, *state_shape).
    change
        Like x; what is not floating in it does not count.
    tol
        Relative residual asked for.
    """
    right = _pushed_context(system, x, z, change)
    jacobian = Jacobian(system, x, z)
    size = right.norm(dim=1)
    scale = torch.where(size > 0, size, torch.ones_like(size))
    y, left = torch.zeros_like(right), right.clone()
    for _ in range(ROUNDS):
        open_ = left.norm(dim=1) > tol * scale
        if not bool(open_.any()):
            break
        aim = (tol * scale / left.norm(dim=1).clamp(min=1e-300)).clamp(max=0.5)
        step, _ = gmres(lambda v: v - jacobian.push(v), left, aim)
        y = y + step
        left = right - (y - jacobian.push(y))
    return y, left.norm(dim=1) / scale


@torch.no_grad()
def _pushed_context(system: System, x: Any, z: Tensor, change: Any) -> Tensor:
    """Return df/dx applied to a change of the context, (n, d), by reverse mode through the pullback."""
    leaves, tree = pytree.tree_flatten(x)
    moving = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not moving:
        raise ValueError("the context holds no floating tensor: there is nothing to differentiate by")
    flat = torch.cat([leaves[i].flatten(1) for i in moving], 1)
    way = torch.cat([pytree.tree_leaves(change)[i].flatten(1) for i in moving], 1)
    sizes = [leaves[i][0].numel() for i in moving]

    def map_of(context: Tensor) -> Tensor:
        parts = context.split(sizes, 1)
        filled = list(leaves)
        for i, part in zip(moving, parts, strict=True):
            filled[i] = part.view(leaves[i].shape)
        return system.step(z, pytree.tree_unflatten(filled, tree)).flatten(1)

    weights = has_weights(system)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        value, pull = linearised(map_of, flat, weights)
        _, push = linearised(pull, torch.zeros_like(value), weights)
    return push(way)


def _margin_lost(points: Points, row: np.ndarray, change: Tensor) -> Tensor:
    """Return the largest share (n,) of a cell's margin that a change of the state takes away, to first order."""
    place = torch.as_tensor(row, device=points.z.device)
    x, z = points.context(place), points.z[place]

    def margins(flat: Tensor) -> Tensor:
        logits = points.system.logits(flat.view(z.shape), x)  # type: ignore[attr-defined]
        best = logits.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]

    with torch.no_grad():
        now = margins(z.flatten(1))
        near = 1e-4 if z.dtype == torch.float32 else 1e-6
        step = (
            near * z.flatten(1).norm(dim=1, keepdim=True) / change.norm(dim=1, keepdim=True).clamp(min=1e-300)
        )
        slope = (margins(z.flatten(1) + step * change) - margins(z.flatten(1) - step * change)) / (2 * step)
    return (-slope / now.clamp(min=1e-300)).amax(1)
