"""Landscapes of fixed points, cycles and recurrent sets side by side, with exactly known masses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from eqrlab.core import MapSystem

Planar = Callable[[Tensor], Tensor]  # of points (n, 2) that start in [.1, .5]^2


def logistic(r: float) -> Planar:
    """Two equal coordinates that follow the logistic map: the second forgets its start."""
    return lambda u: (r * u[:, :1] * (1 - u[:, :1])).expand(-1, 2)


def still(rate: float = 0.5) -> Planar:
    """A fixed point at (.3, .3)."""
    return lambda u: 0.3 + rate * (u - 0.3)


def henon(u: Tensor) -> Tensor:
    return torch.stack((1 - 1.4 * u[:, 0] ** 2 + u[:, 1], 0.3 * u[:, 0]), 1)


def ikeda(u: Tensor) -> Tensor:
    t = 0.4 - 6 / (1 + (u**2).sum(1))
    x, y, c, s = u[:, 0], u[:, 1], torch.cos(t), torch.sin(t)
    return torch.stack((1 + 0.9 * (x * c - y * s), 0.9 * (x * s + y * c)), 1)


def rotation(angle: float, locked: int = 0, lock: float = 0.5, radius: float = 1.0) -> Planar:
    """A turn on an attracting circle; with `locked` = p the angle is drawn to one p-cycle, whose step is `angle`."""

    def step(u: Tensor) -> Tensor:
        theta, size = torch.atan2(u[:, 1], u[:, 0]), u.norm(dim=1)
        theta = theta + angle - (lock / locked * torch.sin(locked * theta) if locked else 0.0)
        size = radius + 0.4 * (size - radius)
        return size[:, None] * torch.stack((torch.cos(theta), torch.sin(theta)), 1)

    return step


def turning(p: int, k: int = 1, **options: float) -> Planar:
    """One attracting cycle of period p on a circle."""
    return rotation(2 * math.pi * k / p, locked=p, **options)


def leaking(r: float) -> Planar:
    """Transient chaos: the logistic map with r > 4, whose runs end at (2, 2) once they leave [0, 1]."""

    def step(u: Tensor) -> Tensor:
        x = u[:, :1]
        return torch.where((x < 0) | (x > 1), 2.0, r * x * (1 - x)).expand(-1, 2)

    return step


def mixture(
    parts: Sequence[Planar],
    masses: Sequence[float] | None = None,
    *,
    offset: float = 1.0,
    dimension: int = 3,
    rate: float = 0.5,
    answers: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> MapSystem:
    """Put maps of the plane beside one another: which of them a run follows is decided by a coordinate of its start.

    Parameters
    ----------
    masses
        Of the parts; equal by default.
    offset
        Distance of neighbouring parts in state space: the deciding coordinate is drawn to 0, offset, 2 offset, ...
    dimension
        Of the states, at least 3: all is turned by a random orthogonal matrix, further coordinates contract.
    rate
        Of contraction of everything but the parts.
    answers
        `(part, u) -> token` (n,); None: 2 in the first part, then 3, 4, ...
    """
    share = np.full(len(parts), 1 / len(parts)) if masses is None else np.asarray(masses)
    borders = torch.as_tensor(norm.ppf(np.cumsum(share)[:-1]))
    turn = torch.as_tensor(np.linalg.qr(np.random.default_rng(3).normal(size=(dimension, dimension)))[0])
    middle = offset * (torch.arange(len(parts), dtype=torch.float64))

    def part_of(y: Tensor) -> Tensor:
        return (y[:, None] > offset * (borders_at - 0.5)).sum(1)

    borders_at = torch.arange(1, len(parts), dtype=torch.float64)

    def step(z: Tensor, x: Tensor) -> Tensor:
        z = z @ turn.T
        part = part_of(z[:, 0])
        u = torch.stack([f(z[:, 1:3]) for f in parts])[part, torch.arange(len(z))]
        y = middle[part] + rate * (z[:, 0] - middle[part])
        return torch.cat((y[:, None], u, rate * z[:, 3:]), 1) @ turn

    def start(x: Tensor, generator: torch.Generator) -> Tensor:
        n = x.shape[0]
        side = torch.randn(n, generator=generator, dtype=torch.float64)
        part = (side[:, None] > borders).sum(1)
        y = middle[part] + 0.2 * offset * torch.tanh(side)
        u = 0.1 + 0.4 * torch.rand((n, 2), generator=generator, dtype=torch.float64)
        rest = torch.randn((n, dimension - 3), generator=generator, dtype=torch.float64)
        return torch.cat((y[:, None], u, rest), 1) @ turn

    def decode(z: Tensor, x: Tensor) -> Tensor:
        z = z @ turn.T
        part = part_of(z[:, 0])
        return (2 + part if answers is None else answers(part, z[:, 1:3]))[:, None]

    return MapSystem(step, start, decode)
