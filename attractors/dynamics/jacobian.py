"""The Jacobian of a system at a batch of states, as products, and the check that those products are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from eqrlab.attractors.ensemble.sizes import run_sizes
from eqrlab.attractors.ensemble.states import Points, few_rows
from eqrlab.core import System
from eqrlab.core.models.system import take_rows

DENSE_LIMIT = 4096  # the largest state whose Jacobian is formed in full
_LEAST = 1e-3  # products of unit vectors are compared to this size at least: far smaller ones may be rounding alone


class Jacobian:
    """df/dz of n independent rows, as products with vectors (n, d); nothing of size d x d is formed.

    Parameters
    ----------
    system, x
        A system and the context of the rows, leading axis n.
    z
        States (n, *state_shape), float32 or float64.
    steps
        Outer steps p of which the Jacobian of the composition f^p is taken, along the orbit that starts in z.

    Attributes
    ----------
    value
        f^p(z), (n, d); known once a product has been asked for.

    Notes
    -----
    The first product runs the map and keeps what reverse mode needs; each further product costs about twice a step
    (`pull`) or 1.5 steps (`push`).  `push` runs reverse mode through the pullback, which is linear in its argument, so
    that its transpose is J; it reuses all activations, costs a quarter of a forward-mode product, and needs no
    forward-mode rule (fused attention has none).  Memory: the saved activations of n rows of p steps, twice that once
    `push` has been used; see `row_bytes`.

    References
    ----------
    J. Townsend, A new trick for calculating Jacobian vector products, 2017.
    """

    def __init__(self, system: System, x: Any, z: Tensor, steps: int = 1):
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}")
        self.system, self.x, self.z, self.steps = system, x, z.detach(), int(steps)
        self.rows, self.size = z.shape[0], z[0].numel()
        self._pull: Any = None
        self._push: Any = None
        self._value: Tensor | None = None

    def map(self, flat: Tensor) -> Tensor:
        """Apply f^p to flat states (n, d)."""
        z = flat.view(-1, *self.z.shape[1:])
        for _ in range(self.steps):
            z = self.system.step(z, self.x)
        return z.flatten(1)

    @property
    def value(self) -> Tensor:
        if self._value is None:
            with torch.no_grad():
                self._value = self.map(self.z.flatten(1))
        return self._value

    @torch.no_grad()
    def pull(self, u: Tensor) -> Tensor:
        """Return J^T u (n, d)."""
        if self._pull is None:
            self._value, self._pull = linearised(self.map, self.z.flatten(1), self._has_weights)
        return self._pull(u)

    @torch.no_grad()
    def push(self, v: Tensor) -> Tensor:
        """Return J v (n, d)."""
        if self._push is None:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                self._value, self._pull = linearised(self.map, self.z.flatten(1), self._has_weights)
                _, self._push = linearised(self._pull, torch.zeros_like(v), self._has_weights)
        return self._push(v)

    @property
    def _has_weights(self) -> bool:
        return has_weights(self.system)

    def select(self, rows: Tensor) -> Jacobian:
        """Return the Jacobian of some of the rows; its first product runs the map again."""
        return Jacobian(self.system, take_rows(self.x, rows), self.z[rows], self.steps)

    def dense(self) -> Tensor:
        """Return the Jacobians in full, (n, d, d).

        Raises
        ------
        ValueError
            When a state has more than `DENSE_LIMIT` numbers.

        Notes
        -----
        d reverse products; n d^2 numbers.
        """
        if self.size > DENSE_LIMIT:
            raise ValueError(
                f"a dense Jacobian needs a state of at most {DENSE_LIMIT} numbers, got {self.size}; with a smaller k "
                "none is needed"
            )
        full = self.z.new_empty(self.rows, self.size, self.size)
        unit = self.z.new_zeros(self.rows, self.size)
        for i in range(self.size):
            unit[:, i] = 1
            full[:, i] = self.pull(unit)
            unit[:, i] = 0
        return full


def has_weights(system: System) -> bool:
    """Return whether plain reverse mode would keep what the gradients of weights need."""
    return isinstance(system, torch.nn.Module) and any(p.requires_grad for p in system.parameters())


def linearised(
    function: Callable[[Tensor], Tensor], at: Tensor, weights: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the function's value and its pullback u -> J^T u, which is linear and can be linearised in its turn.

    Notes
    -----
    Systems whose weights ask for gradients (`weights`) go through `torch.func`, which keeps nothing for them; others
    through autograd itself, which costs a third of the overhead and does not load the compiler (two seconds).
    """
    if weights:
        value, pull = torch.func.vjp(function, at)  # type: ignore[misc]
        return value, lambda u: pull(u)[0]
    leaf = at.detach().requires_grad_()
    with torch.enable_grad():
        out = function(leaf)
    if not out.requires_grad:
        return out.detach(), torch.zeros_like

    def pullback(u: Tensor) -> Tensor:
        with torch.enable_grad():
            total = (
                out * u
            ).sum()  # J^T u is its gradient; given to `grad` itself, u makes torch load SymPy (0.5 s)
        grown = torch.autograd.grad(
            total, leaf, retain_graph=True, create_graph=u.requires_grad, materialize_grads=True
        )
        return grown[0]

    return out.detach(), pullback


def row_bytes(system: System, x: Any, z: Tensor) -> int:
    """Return how many bytes reverse mode keeps for one row of one step, measured on the first row."""
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        system.step(z[:1].detach().clone().requires_grad_(), take_rows(x, slice(0, 1)))
    return sum(seen.values())


def rows_within(points: Points, vectors: int, graphs: int = 2, memory: int | None = None) -> int:
    """Return how many rows fit into the memory of an analysis.

    Parameters
    ----------
    vectors
        State-sized vectors that the method keeps for a row.
    graphs
        How often the saved activations of a step are kept: 1 for `pull`, 2 for `push`.
    memory
        Bytes; None is 1 GiB on a CPU and a quarter of the free memory of a GPU.
    """
    if memory is None:
        memory = 2**30 if points.z.device.type != "cuda" else torch.cuda.mem_get_info(points.z.device)[0] // 4
    first = points.present.nonzero()[:1, 0]
    if not len(first):
        return 1
    graph = row_bytes(points.system, points.context(first), points.z[first])
    row = graphs * graph + vectors * points.size * points.z.element_size()
    return max(1, int(memory // max(row, 1)))


def random_directions(rows: int, size: int, seed: int, like: Tensor) -> Tensor:
    """Return one random unit vector, the same for every row, as (rows, size): results do not depend on the batch."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return (vector / vector.norm()).to(like).expand(rows, size)


@torch.no_grad()
def with_derivatives(points: Points, steps: int = 1) -> Points:
    """Return the points at which f^steps and its Jacobian are finite; the others become gaps, whose results are NaN.

    One product with J^T for each state.
    """
    present = points.present.clone()
    for rows in points.batches(rows_within(points, 3, graphs=steps)):
        jacobian = Jacobian(points.system, points.context(rows), points.z[rows], steps)
        pulled = jacobian.pull(random_directions(len(rows), points.size, 3, points.z))
        present[rows] = pulled.isfinite().all(1) & jacobian.value.isfinite().all(1)
    return dataclasses.replace(points, present=present)


def check_differentiable(points: Points, seed: int = 0) -> None:
    """Check at up to three states that the products of the Jacobian are the derivatives of the map.

    Raises
    ------
    ValueError
        With one sentence that names the fault: values or derivatives that are finite at no state; `no_grad` or
        `detach` inside the step; a step with rounding or argmax; a step that computes in lower precision than its
        state.

    Notes
    -----
    About 40 evaluations of three rows, and a product for each state where the step or its derivative is not finite at
    one of the three.  The finite differences are central, at five lengths, and the best agreement counts: with a
    shorter length the truncation error falls and the rounding error grows, so a correct product agrees at some length.
    """
    points.require_some()
    first = points.name(int(few_rows(points.present, 1)))
    rows, few = few_rows(points.present), torch.zeros_like(points.present)
    few[rows] = True
    if not with_derivatives(dataclasses.replace(points, present=few)).present[rows].all():
        rows = few_rows(with_derivatives(points).present)
    if not len(rows):
        raise ValueError(
            f"step() or its derivative gives NaN or infinity at every state, such as that of {first}"
        )
    x, z = points.context(rows), points.z[rows]
    with torch.no_grad():
        y = points.system.step(z, x)
    jacobian = Jacobian(points.system, x, z)
    flat = z.flatten(1)
    v = random_directions(len(rows), points.size, seed + 1, flat)
    u = random_directions(len(rows), points.size, seed + 2, flat)
    reaches, length = _reaches_state(points.system, x, z), _lengths(points, rows)
    if not reaches and not _is_constant(jacobian, flat, length * v, y.flatten(1)):
        raise ValueError(
            "step() records no gradient: it calls no_grad, detach or a non-differentiable operation on its state; "
            "remove that, so that reverse-mode derivatives exist"
        )
    forward, pulled = jacobian.push(v), jacobian.pull(u)
    double = z.dtype == torch.float64
    difference, error = _finite_difference(jacobian, length, v, forward)
    if (error > (1e-6 if double else 2e-2)).any():
        row = int(rows[int(error.argmax())])
        raise ValueError(
            f"the derivatives of step() disagree with finite differences by {float(error.max()):.1e} at "
            f"{points.name(row)}: it hides a no_grad, a detach, a cast to lower precision or a rounding operation"
        )
    scale = forward.norm(dim=1) + pulled.norm(dim=1) + _LEAST
    gap = ((u * forward).sum(1) - (pulled * v).sum(1)).abs()
    if (gap > (1e-9 if double else 1e-3) * scale).any():
        raise ValueError("step() has derivatives that are not linear: <u, J v> differs from <J^T u, v>")
    stuck = (forward == 0).all(1) & (difference == 0).all(1)
    if stuck.any() and _jumps(jacobian, flat, length * v, y.flatten(1), stuck):
        raise ValueError("step() is piecewise constant (rounding, argmax, sign): it has no useful derivative")


def _reaches_state(system: System, x: Any, z: Tensor) -> bool:
    """Say whether the graph of a step reaches its state (weights alone may record one)."""
    leaf = z[:1].detach().clone().requires_grad_()
    with torch.enable_grad():
        y = system.step(leaf, take_rows(x, slice(0, 1)))
    return y.requires_grad and torch.autograd.grad(y.sum(), leaf, allow_unused=True)[0] is not None


def _lengths(points: Points, rows: Tensor) -> Tensor:
    """Return the norms (n, 1) of states; at the origin the size of their run, or 1 where nothing has a size."""
    length = points.z[rows].flatten(1).norm(dim=1)
    if (length == 0).any():
        length = torch.where(length > 0, length, torch.as_tensor(run_sizes(points)).to(points.z)[rows])
    return torch.where(length > 0, length, 1.0)[:, None]


@torch.no_grad()
def _is_constant(jacobian: Jacobian, flat: Tensor, v: Tensor, y: Tensor) -> bool:
    """Say whether the map keeps its value along v, as long as the state, near and far."""
    return all(torch.equal(jacobian.map(flat + h * v), y) for h in (1e-3, 0.1, 3.0, -3.0, 100.0, -100.0))


@torch.no_grad()
def _finite_difference(
    jacobian: Jacobian, length: Tensor, v: Tensor, forward: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the central difference along v at the shortest length, and the best relative error over all of them."""
    flat = jacobian.z.flatten(1)
    powers = (-2, -3, -4, -5, -6) if flat.dtype == torch.float64 else (-1, -1.5, -2, -2.5, -3)
    best = flat.new_full((len(flat),), np.inf)
    difference = torch.zeros_like(flat)
    for power in powers:
        h = length * 10.0**power
        difference = (jacobian.map(flat + h * v) - jacobian.map(flat - h * v)) / (2 * h)
        scale = forward.norm(dim=1) + difference.norm(dim=1) + _LEAST
        best = torch.minimum(best, (difference - forward).norm(dim=1) / scale)
    return difference, best


@torch.no_grad()
def _jumps(jacobian: Jacobian, flat: Tensor, v: Tensor, y: Tensor, rows: Tensor) -> bool:
    """Say whether the map, constant nearby, changes further along v, as long as the state, by a jump, not a slope."""
    row = int(rows.nonzero()[0, 0])
    one = jacobian.select(torch.tensor([row], device=flat.device))
    start, direction, low = flat[row : row + 1], v[row : row + 1], 0.0

    def same(h: float) -> bool:
        return torch.equal(one.map(start + h * direction), y[row : row + 1])

    high = next((h for h in (0.03, 0.1, 0.3, 1.0, 3.0) if not same(h)), None)
    if high is None:
        return False  # constant: its derivative is zero indeed
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if same(middle) else (low, middle)
    there = Jacobian(one.system, one.x, (start + high * direction).view(1, *jacobian.z.shape[1:]))
    return bool((there.push(direction) == 0).all())
