"""Perturbations carried along an orbit: products with Df^n and its transpose, and their graded factorisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.jacobian import Jacobian
from eqrlab.core import KeyedNoise, System
from eqrlab.core.models.system import take_rows

RESOLVED = 8.0  # a factor below this many epsilons of the largest in its step cannot be told from zero
CLOSE, MOST_SWEEPS = (
    1e-11,
    200,
)  # change of a logarithm per factor that ends the sweeps over a product, and their limit
SMALL_BLOCK = 1 << 15  # numbers in a block that is carried in one pass


class NoisyStep:
    """The system with the noise of one outer step fixed: a deterministic map that shares the run's random numbers."""

    def __init__(self, system: System, keys: Tensor, step: int):
        self.system, self.keys, self.number = system, keys, step

    def step(self, z: Tensor, x: Any) -> Tensor:
        return self.system.step(z, x, KeyedNoise(self.keys, self.number))


def one_step(system: System, x: Any, z: Tensor, keys: Tensor | None, number: int) -> Jacobian:
    """Return the Jacobian of the outer step `number` (from 1) at z, with the noise of the rows' keys (None: none)."""
    stepper = system if keys is None else NoisyStep(system, keys, number)
    return Jacobian(stepper, x, z)  # type: ignore[arg-type]


def advance(jacobian: Jacobian, block: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states (n, *state_shape) that the map leads to, and J applied to a block of vectors (n, k, d)."""
    n, k, d = block.shape
    if not in_one_pass(jacobian.system, block):
        pushed = push_block(jacobian, block)
        return jacobian.value.view_as(jacobian.z), pushed
    rows = torch.arange(n, device=block.device).repeat_interleave(k)
    repeated = jacobian.select(rows)
    pushed = repeated.push(block.reshape(n * k, d)).view(n, k, d)
    return repeated.value[::k].reshape(jacobian.z.shape), pushed


def in_one_pass(system: Any, block: Tensor) -> bool:
    """Say whether a block (n, k, d) is carried by n k repeated rows at once; noise belongs to its n rows."""
    return block.numel() <= SMALL_BLOCK and not isinstance(system, NoisyStep)


def push_block(jacobian: Jacobian, block: Tensor) -> Tensor:
    """Return J applied to a block of vectors, (n, k, d) to (n, k, d).

    Small blocks repeat the rows instead of the products: one pass, at the cost of k states.
    """
    n, k, d = block.shape
    if not in_one_pass(jacobian.system, block):
        return torch.stack([jacobian.push(block[:, i].contiguous()) for i in range(k)], 1)
    rows = torch.arange(n, device=block.device).repeat_interleave(k)
    return jacobian.select(rows).push(block.reshape(n * k, d)).view(n, k, d)


def pull_block(jacobian: Jacobian, block: Tensor) -> Tensor:
    """Return J^T applied to a block of vectors, (n, k, d) to (n, k, d)."""
    return torch.stack([jacobian.pull(block[:, i].contiguous()) for i in range(block.shape[1])], 1)


def triangular(block: Tensor) -> tuple[Tensor, Tensor]:
    """Factor blocks (n, k, d) into orthonormal rows (n, k, d) and a lower factor; return them as Q and R (n, k, k).

    block = R^T Q, R upper triangular with a non-negative diagonal; a diagonal entry that rounding cannot tell from
    zero, against the longest row, is zero.  Q is orthonormal even then.
    """
    Q, R = torch.linalg.qr(block.transpose(1, 2))
    diagonal = torch.diagonal(R, dim1=1, dim2=2)
    sign = torch.where(diagonal < 0, -1.0, 1.0).to(R)
    R, Q = R * sign[:, :, None], Q * sign[:, None, :]
    longest = block.norm(dim=2).amax(1, keepdim=True)
    size = torch.diagonal(R, dim1=1, dim2=2)
    lost = size <= RESOLVED * torch.finfo(R.dtype).eps * longest
    return Q.transpose(1, 2).contiguous(), R - torch.diag_embed(torch.where(lost, size, 0.0))


def log_factors(R: Tensor) -> Tensor:
    """Return the logarithms of the diagonals (n, k) of triangular factors, -inf for zeros, float64."""
    return torch.diagonal(R, dim1=1, dim2=2).double().log()


class Orbit:
    """Df^n along stored orbits, as a two-sided operator scaled so that its size is near one.

    Parameters
    ----------
    states
        z_0 .. z_{n-1}, each (rows, *state_shape).
    keep
        Keep the linearisations: memory for n steps; else each product runs the map again.

    Attributes
    ----------
    log_scale
        (rows,) log of the factor by which the operator was divided.
    """

    def __init__(self, system: System, x: Any, states: list[Tensor], keep: bool):
        self.system, self.x, self.states, self.keep = system, x, states, keep
        self._kept: dict[int, Jacobian] = {}
        self.scale = [z.new_ones(len(z), 1) for z in states]
        self.log_scale = np.zeros(len(states[0]))

    def at(self, t: int) -> Jacobian:
        """Return the Jacobian at z_t."""
        if t in self._kept:
            return self._kept[t]
        jacobian = Jacobian(self.system, self.x, self.states[t])
        if self.keep:
            self._kept[t] = jacobian
        return jacobian

    def fit_scale(self, v: Tensor) -> None:
        """Choose the factor of every step from the growth of v, so that long products neither overflow nor vanish.

        Rows of which some Jacobian is not finite get a `log_scale` of NaN.
        """
        logs, smooth = torch.zeros(len(v), dtype=torch.float64), torch.ones(len(v), dtype=torch.bool)
        for t in range(len(self.states)):
            v = self.at(t).push(v)
            length = v.norm(dim=1, keepdim=True)
            length = torch.where((length > 0) & length.isfinite(), length, torch.ones_like(length))
            self.scale[t], v = length, v / length
            logs += length[:, 0].double().log().cpu()
            smooth &= v.isfinite().all(1).cpu()
        self.log_scale = torch.where(smooth, logs, torch.nan).numpy()

    def forward(self, v: Tensor) -> Tensor:
        for t in range(len(self.states)):
            v = self.at(t).push(v) / self.scale[t]
        return v

    def adjoint(self, u: Tensor) -> Tensor:
        for t in reversed(range(len(self.states))):
            u = self.at(t).pull(u) / self.scale[t]
        return u

    def select(self, rows: Tensor) -> Orbit:
        other = Orbit(self.system, take_rows(self.x, rows), [z[rows] for z in self.states], self.keep)
        other.scale, other.log_scale = [c[rows] for c in self.scale], self.log_scale[rows.cpu().numpy()]
        return other

    def sweep(self, block: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Carry a block (rows, k, d) to the end, orthonormalised at every step, and back; return it and the factors."""
        factors = []
        for t in range(len(self.states)):
            block, R = triangular(push_block(self.at(t), block))
            factors.append(R.cpu().double())
        for t in reversed(range(len(self.states))):
            block, _ = triangular(pull_block(self.at(t), block))
        return block, factors


def product_log_singular_values(factors: list[Tensor]) -> Tensor:
    """Return log singular values (n, k), descending, of products F_m ... F_1 of small matrices, each (n, k, k).

    Notes
    -----
    Orthogonal iteration forth and back over the factors, never over their product, so that values of any ratio come
    out to relative accuracy; a sweep reduces the error by the squared ratio of neighbouring values.

    References
    ----------
    L. Dieci and C. Elia, Math. Comput. Simul. 79 (2008) 1235.
    """
    n, k = factors[0].shape[0], factors[0].shape[-1]
    block = torch.eye(k, dtype=torch.float64).expand(n, k, k)
    previous = torch.full((n, k), torch.nan, dtype=torch.float64)
    for _ in range(MOST_SWEEPS):
        logs = torch.zeros(n, k, dtype=torch.float64)
        for F in factors:
            block, R = triangular(block @ F.transpose(1, 2))
            logs += log_factors(R)
        for F in reversed(factors):
            block, _ = triangular(block @ F)
        change = torch.where(logs == previous, 0.0, (logs - previous).abs())
        if (change <= CLOSE * len(factors)).all():
            break
        previous = logs
    return logs.sort(dim=1, descending=True).values
