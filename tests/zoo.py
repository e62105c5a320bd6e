"""Systems with exact answers (GROUND_TRUTH), as MapSystems in float64; the decoded answer is one or more tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eqrlab.core import MapSystem


class Dense:
    """Full matrices (n, d, d) as operators."""

    def __init__(self, matrices: Tensor):
        self.matrices = matrices

    def forward(self, v: Tensor) -> Tensor:
        return torch.einsum("nij,nj->ni", self.matrices, v)

    __call__ = forward

    def adjoint(self, u: Tensor) -> Tensor:
        return torch.einsum("nji,nj->ni", self.matrices, u)

    def select(self, rows: Tensor) -> Dense:
        return Dense(self.matrices[rows])


def normal_start(size: int):
    """Restart law: standard normals (n, size)."""
    return lambda x, generator: torch.randn((x.shape[0], size), generator=generator, dtype=torch.float64)


def linear(matrix: Tensor, offset: Tensor | None = None) -> MapSystem:
    """G1: z -> A z + b; answers are the signs of z."""
    b = torch.zeros(len(matrix), dtype=torch.float64) if offset is None else offset
    return MapSystem(
        lambda z, x: z @ matrix.T + b, normal_start(len(matrix)), lambda z, x: (z > 0).long() + 1
    )


def selector(offsets: list[list[float]], beta: float = 2.0) -> MapSystem:
    """G3: y_i -> b_i + tanh(beta (y_i - b_i)); puzzle p has the offsets in row p; token 2 is up, 1 is down."""
    table = torch.tensor(offsets, dtype=torch.float64)
    return MapSystem(
        lambda z, x: x + torch.tanh(beta * (z - x)),
        lambda x, generator: torch.randn(x.shape, generator=generator, dtype=torch.float64),
        lambda z, x: (z > x).long() + 1,
        lambda inputs: table[inputs[:, 0]],
    )


def up_mass(offset: float) -> float:
    """Probability that a standard normal start of G3 ends up, P(z > b)."""
    return 0.5 * math.erfc(offset / math.sqrt(2))


def rotor(angle: float, eta: float = 0.1) -> MapSystem:
    """G8: w -> e^{i angle} w (1 + eta (1 - |w|^2)); the answer is the half plane."""
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)

    def start(x: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn((x.shape[0], 2), generator=generator, dtype=torch.float64)
        return z / z.norm(dim=1, keepdim=True).clamp(min=1.0)

    return MapSystem(
        lambda z, x: (1 + eta * (1 - (z**2).sum(1, keepdim=True))) * z @ turn.T,
        start,
        lambda z, x: (z[:, :1] > 0).long() + 1,
    )


def logistic(r: float) -> MapSystem:
    """z -> r z (1 - z) from uniform starts; the answer is constant."""
    return MapSystem(
        lambda z, x: r * z * (1 - z),
        lambda x, generator: torch.rand((x.shape[0], 1), generator=generator, dtype=torch.float64),
        lambda z, x: torch.ones(z.shape[0], 1, dtype=torch.long),
    )


def contraction(rho: float, size: int = 3) -> MapSystem:
    """G10: z -> z* + rho (z - z*) with z* = 1; right (token 2) once every coordinate is above 0.9."""
    return MapSystem(
        lambda z, x: 1 + rho * (z - 1),
        normal_start(size),
        lambda z, x: (z > 0.9).all(1, keepdim=True).long() + 1,
    )


def narrow_in_sea(threshold: float) -> MapSystem:
    """Mode (c): starts above the threshold contract to 3; the others meet a chaotic logistic factor for ever.

    The state is (y, u): y tells the side and is kept; u follows z/2 on the right side and r = 4 on the wrong one.
    """

    def step(z: Tensor, x: Tensor) -> Tensor:
        y, u = z[:, :1], z[:, 1:]
        inside = y > threshold
        chaos = 4 * u.clamp(0, 1) * (1 - u.clamp(0, 1))
        return torch.cat(
            (
                torch.where(inside, threshold + 1 + (y - threshold - 1) / 2, y),
                torch.where(inside, u / 2, chaos),
            ),
            1,
        )

    def start(x: Tensor, generator: torch.Generator) -> Tensor:
        y = torch.randn((x.shape[0], 1), generator=generator, dtype=torch.float64)
        u = torch.rand((x.shape[0], 1), generator=generator, dtype=torch.float64)
        return torch.cat((y, u), 1)

    return MapSystem(
        step, start, lambda z, x: torch.where(z[:, :1] > threshold, 3, 1 + (z[:, 1:] > 0.5).long())
    )


def noisy_ar(rho: float, sigma: float, size: int = 400) -> MapSystem:
    """G9: z -> rho z + sigma xi."""
    return MapSystem(
        lambda z, x, noise=None: rho * z + (noise(z) if noise is not None else 0.0),
        normal_start(size),
        noise_scale=sigma,
    )


def puzzles(count: int = 1) -> Tensor:
    """Inputs (count, 1): the numbers of the puzzles."""
    return torch.arange(count)[:, None]


def rotation_blocks(values: list[complex]) -> Tensor:
    """G1: a normal real matrix with these eigenvalues; each complex one stands for itself and its conjugate."""
    blocks = [
        torch.tensor([[v.real, -v.imag], [v.imag, v.real]] if v.imag else [[v.real]], dtype=torch.float64)
        for v in map(complex, values)
    ]
    return torch.block_diag(*blocks)


def householder(size: int, seed: int = 3) -> Tensor:
    """Unit vector (size,) of a Householder reflection H z = z - 2 u (u . z)."""
    u = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u / u.norm()


def reflect(z: Tensor, u: Tensor) -> Tensor:
    """Apply the Householder reflection with unit vector u to rows of z."""
    return z - 2 * (z @ u)[:, None] * u


def hidden_selector(size: int, rest: Tensor, units: int = 2, beta: float = 2.0) -> MapSystem:
    """G4: H g(H z) with g = G3 (offsets 0) on the first units and a contraction by `rest` on the others."""
    u = householder(size)

    def step(z: Tensor, x: Tensor) -> Tensor:
        w = reflect(z, u)
        return reflect(torch.cat((torch.tanh(beta * w[:, :units]), rest.to(z) * w[:, units:]), 1), u)

    return MapSystem(step, normal_start(size), lambda z, x: (reflect(z, u)[:, :units] > 0).long() + 1)


def selector_level(beta: float) -> float:
    """m = tanh(beta m) > 0, to machine precision."""
    m = 1.0
    for _ in range(200):
        m = math.tanh(beta * m)
    return m


def one_pattern(size: int, beta: float = 2.0) -> tuple[MapSystem, Tensor]:
    """G5: tanh(beta xi (xi . z) / d) and its pattern xi."""
    xi = (torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(5)) * 2 - 1).double()
    step = lambda z, x: torch.tanh(beta * xi * (z @ xi)[:, None] / size)
    return MapSystem(step, normal_start(size), lambda z, x: (z[:, :1] > 0).long() + 1), xi


def hopfield(power: int, patterns: int, beta: float = 2.0) -> tuple[MapSystem, Tensor]:
    """G6: tanh(beta W z), W = sum of xi xi^T / d over rows 1.. of the Sylvester-Hadamard matrix of size 2^power."""
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(power):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    xi = h[1 : patterns + 1]
    return MapSystem(lambda z, x: torch.tanh(beta * (z @ xi.T) @ xi / len(h)), normal_start(len(h))), xi


def softmax_memory(size: int, patterns: int, beta: float) -> MapSystem:
    """G7: X softmax(beta X^T z) with X the first unit vectors."""
    return MapSystem(
        lambda z, x: torch.cat(
            (torch.softmax(beta * z[:, :patterns], 1), torch.zeros_like(z[:, patterns:])), 1
        ),
        normal_start(size),
        lambda z, x: z[:, :patterns].argmax(1, keepdim=True),
    )


def henon(a: float = 1.4, b: float = 0.3) -> MapSystem:
    """(x, y) -> (1 - a x^2 + y, b x)."""
    return MapSystem(
        lambda z, x: torch.stack((1 - a * z[:, 0] ** 2 + z[:, 1], b * z[:, 0]), 1),
        lambda x, g: 0.1 * torch.randn((len(x), 2), generator=g, dtype=torch.float64),
    )


def ikeda(u: float = 0.9, a: float = 0.4, b: float = 6.0) -> MapSystem:
    """w -> 1 + u w exp(i (a - b / (1 + |w|^2)))."""

    def step(z: Tensor, x: Tensor) -> Tensor:
        angle = a - b / (1 + z.square().sum(1))
        c, s = torch.cos(angle), torch.sin(angle)
        return torch.stack((1 + u * (z[:, 0] * c - z[:, 1] * s), u * (z[:, 0] * s + z[:, 1] * c)), 1)

    return MapSystem(step, normal_start(2))


def cat_map() -> MapSystem:
    """(x, y) -> (2x + y, x + y) mod 1."""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)

    def step(z: Tensor, x: Tensor) -> Tensor:
        w = z @ matrix.T
        return w - torch.floor(w).detach()

    return MapSystem(step, lambda x, g: torch.rand((len(x), 2), generator=g, dtype=torch.float64))
