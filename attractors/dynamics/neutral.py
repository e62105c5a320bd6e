"""Fixed points whose stability linearisation does not decide: uncertainty of the Jacobian, and pushes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.certificate import LEAST_RESIDUAL, WIDEST, Merged
from eqrlab.attractors.dynamics.eigenvalues import SMALL
from eqrlab.attractors.dynamics.jacobian import Jacobian, random_directions
from eqrlab.attractors.ensemble.states import Points
from eqrlab.core.models.system import take_rows

STABILITY = ("stable", "unstable", "undecided")
VAGUE = 1e-7  # an error bound over the size of a state that asks for a closer look
SAFETY = 10.0  # error bounds within which the Jacobian counts: at a multiple root the bound is too short
NEAR_ONE = 0.05  # a spectral radius this near to 1, and known this well, is looked at by pushes
TURNS = 512  # iterations of a push, and the window of it whose largest distance counts
WINDOW = 16
CHANGE = 1e-9  # relative change of that distance which is no rounding
PUSHES = (1e-3, 1e-2, 3e-2)  # lengths, relative to the size of the state
SWEEPS = 3  # power iterations for the norm of a difference of Jacobians
ALIGNING = 300  # products that turn a vector into the leading direction


def stability_of(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the stability of states at rest from bounds of the spectral radius, as codes of `STABILITY`.

    This is the one place that decides it, for `fixed_points`, `endings`, and the local dynamics of a diagnosis.

    Examples
    --------
    >>> stability_of(np.array([0.8, 1.1, 0.9, np.nan]), np.array([0.9, np.inf, 1.1, np.nan])).tolist()
    [0, 1, 2, 2]
    """
    return np.select([high < 1, low > 1], [0, 1], 2).astype(np.int8)


@torch.no_grad()
def uncertain_moves(
    points: Points, merged: Merged, rows: np.ndarray, residual: np.ndarray, size: np.ndarray, period: int
) -> tuple[Tensor, np.ndarray]:
    """Return moves (m, d) within which the exact points of some rows lie, and bounds (m,) on their length.

    Ten error bounds in the direction in which I - J is weakest; for a cycle, in that of its last turn.  If the
    bound is large, as at a multiple root, a distance found from the residual itself replaces it.
    """
    index = torch.as_tensor(rows, device=points.z.device)
    flat, epsilon = points.z[index].flatten(1), torch.finfo(points.z.dtype).eps
    floor = np.maximum(residual[rows], LEAST_RESIDUAL * epsilon * flat.norm(dim=1).cpu().double().numpy())
    if period == 1:
        way, error = merged.weakest[index], merged.error[rows]
    else:
        z = points.z[index]
        for _ in range(period):
            z = points.system.step(z, points.context(index))
        way = z.flatten(1) - flat
        length = way.norm(dim=1, keepdim=True)
        random = random_directions(len(rows), points.size, 5, flat)
        way = torch.where(length > 0, way / length.clamp(min=1e-300), random)
        error = np.where(floor > 0, np.inf, 0.0)
    vague = np.flatnonzero(~(error <= VAGUE * size[rows]))
    if len(vague):
        error = error.copy()
        error[vague] = blind_radius(points, index[vague], way[vague], period, floor[vague], size[rows[vague]])
    error = np.minimum(error, WIDEST * size[rows])
    return SAFETY * torch.as_tensor(error).to(flat)[:, None] * way, error


@torch.no_grad()
def blind_radius(
    points: Points, rows: Tensor, way: Tensor, period: int, residual: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """Return how far along +-way (m, d) the residual of f^period does not change, (m,): the exact point is within.

    Parameters
    ----------
    residual, size
        (m,) ||f^period(z) - z||, or what rounding makes of it, and the size of the states.

    Notes
    -----
    Where I - J is singular no bound from its smallest singular value holds, whatever the multiplicity of the root.
    """
    x, z = points.context(rows), points.z[rows]
    best, going = np.zeros(len(rows)), np.ones(len(rows), bool)
    for power in np.arange(-12, -0.9, 0.5):
        length = 10.0**power * size
        seen = np.zeros(len(rows), bool)
        for sign in (1, -1):
            start = z + (sign * torch.as_tensor(length).to(z)[:, None] * way).view_as(z)
            w = start
            for _ in range(period):
                w = points.system.step(w, x)
            left = (w - start).flatten(1).norm(dim=1).cpu().double().numpy()
            seen |= left <= 4 * residual
        going &= seen
        best[going] = length[going]
        if not going.any():
            break
    return best


@torch.no_grad()
def jacobian_change(points: Points, rows: Tensor, moves: Tensor, steps: int) -> np.ndarray:
    """Return how much the Jacobian of f^steps changes, in norm (m,), when states are moved by +-moves (m, d).

    Infinite where a Jacobian is not finite.
    """
    x, z = points.context(rows), points.z[rows]
    change = np.zeros(len(rows))
    if not bool((moves != 0).any()):
        return change
    here = Jacobian(points.system, x, z, steps)
    for sign in (1, -1):
        there = Jacobian(points.system, x, z + sign * moves.view_as(z), steps)
        if points.size <= SMALL:
            gap = (there.dense() - here.dense()).double()
            norms = torch.linalg.matrix_norm(gap.nan_to_num(), 2)
            norms[~gap.isfinite().all((1, 2))] = torch.inf
        else:
            v = random_directions(len(rows), points.size, 17, z).contiguous()
            for _ in range(SWEEPS):
                w = there.push(v) - here.push(v)
                norms = w.norm(dim=1)
                v = there.pull(w) - here.pull(w)
                v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-300)
        change = np.maximum(change, np.nan_to_num(norms.cpu().double().numpy(), nan=np.inf, posinf=np.inf))
    return change


@torch.no_grad()
def push_and_see(
    points: Points, row: int, period: int, high: float, error: float, size: float
) -> tuple[bool, bool]:
    """Push a state to both sides along its neutral directions and iterate.

    Parameters
    ----------
    row, period
        Which state; the map looked at is f^period.
    high
        Upper bound of its spectral radius: eigenvalues up to that far inside the unit circle count as neutral.
    error, size
        How far the exact fixed point may be, and the size of the state.

    Returns
    -------
    Whether all pushes come nearer, along the only neutral direction (or plane) there is; and whether one goes away.

    Notes
    -----
    The largest distance over the last 16 iterations is compared with those half-way and at the beginning.  A
    push is at least 100 errors long.  With several neutral directions, pushes along each can show that a point
    is unstable, but not that it is stable.
    """
    index = torch.tensor([row], device=points.z.device)
    z, x = points.z[index], points.context(index)
    directions, single = _neutral_directions(Jacobian(points.system, x, z, period), high)
    both = torch.cat((directions, -directions)).view(-1, *z.shape[1:])
    many = take_rows(x, torch.zeros(len(both), dtype=torch.long, device=z.device))
    for push in PUSHES:
        length = max(push * size, 100 * error)
        w, distance = z + length * both, []
        for _ in range(TURNS):
            for _ in range(period):
                w = points.system.step(w, many)
            distance.append((w - z).flatten(1).norm(dim=1).cpu().double().numpy())
        far = np.nan_to_num(np.stack(distance), nan=np.inf, posinf=np.inf)
        first, half, last = (far[i : i + WINDOW].max(0) for i in (0, TURNS // 2, TURNS - WINDOW))
        gain = CHANGE * first
        if ((last > first + gain) & (last > half)).any():
            return False, True
        if single and ((last < first - gain) & (last < half)).all():
            return True, False
    return False, False


def _neutral_directions(jacobian: Jacobian, high: float) -> tuple[Tensor, bool]:
    """Return unit vectors (q, d) that span the neutral directions of one state, and if it is one eigenvalue's."""
    inside = 1 - 2 * (high - 1) - 1e-6
    if jacobian.size > SMALL:
        v = random_directions(1, jacobian.size, 23, jacobian.z).contiguous()
        for _ in range(ALIGNING):
            v = jacobian.push(v)
            v = v / v.norm().clamp(min=1e-300)
        vectors = torch.cat((v, jacobian.push(v)))
        single = False
    else:
        values, right = np.linalg.eig(jacobian.dense()[0].cpu().double().numpy())
        neutral = np.flatnonzero((np.abs(values) >= inside) & (values.imag >= 0))
        single = len(neutral) == 1
        parts = [
            part for i in neutral for part in (right[:, i].real, right[:, i].imag) if np.abs(part).max() > 0
        ]
        vectors = torch.as_tensor(np.array(parts)).to(jacobian.z)
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)
    sums = [vectors.sum(0, keepdim=True), vectors[:1] - vectors[1:2]] if len(vectors) > 1 else []
    every = torch.cat((vectors, *sums))
    length = every.norm(dim=1, keepdim=True)
    return (every / length.clamp(min=1e-300))[length[:, 0] > 1e-3], single
