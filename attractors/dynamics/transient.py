"""Transient growth: how far powers of the Jacobian stretch, scaled at every step so that none overflows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from eqrlab.attractors.dynamics.jacobian import Jacobian, random_directions
from eqrlab.attractors.dynamics.krylov.krylov_schur import column, power_of_two

SWEEPS = 4  # refinements of the transient growth at its peak
SEARCHES = 2  # sweeps over all powers that look for growth outside the leading singular vectors
KEPT = 16  # most powers that such a sweep adds up
CLEARLY = 1e-6  # relative gain from which growth found there counts


def exact_growth(matrices: np.ndarray, first: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return max ||J^n||, 1 <= n <= horizon, and its n, both (rows,), of matrices (rows, d, d) with norms `first`."""
    unit, size = _scaled(torch.as_tensor(matrices))
    power, logs, table = unit, size, [_log(first)]
    for _ in range(horizon - 1):
        power, more = _scaled(unit @ power)
        logs = logs + size + more
        table.append(logs + _log(torch.linalg.matrix_norm(power, 2).numpy()))
    peak = np.stack(table, 1)
    return _result(first, peak.max(1), peak.argmax(1) + 1)


def transient_growth(
    jacobian: Jacobian, right: Tensor, first: np.ndarray, horizon: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a lower bound of max ||J^n||, 1 <= n <= horizon, and its n, both (rows,).

    Parameters
    ----------
    right
        (rows, k, d) leading right singular vectors of J.
    first
        (rows,) ||J||.
    seed
        Of a random vector, from which power iterations with the sum of (J^n)^T J^n look for growth that these vectors
        do not show.
    """
    block, logs, table = right, np.zeros(len(first)), [_log(first)]
    for n in range(1, horizon + 1 if horizon > 1 else 1):
        block = torch.stack([jacobian.push(block[:, j].contiguous()) for j in range(block.shape[1])], 1)
        block, more = _scaled(block)
        logs = logs + more
        if n > 1:
            table.append(logs + _log_stretch(block))
    peak = np.stack(table, 1)
    best, when = peak.max(1), peak.argmax(1) + 1
    if horizon > 1:
        v = random_directions(jacobian.rows, jacobian.size, seed + 200, jacobian.z).contiguous()
        for _ in range(SEARCHES):
            v = _amplified(jacobian, v, horizon)
        found = np.stack([size for _, size in _images(jacobian, v, horizon)], 1)
        hidden = found[:, 1:].max(1) > best + CLEARLY
        best = np.where(hidden, found[:, 1:].max(1), best)
        when = np.where(hidden, found[:, 1:].argmax(1) + 2, when)
        start = torch.where(torch.as_tensor(hidden, device=v.device)[:, None], v, right[:, 0])
        for row in np.flatnonzero(when > 1):  # at the peak, the whole space may stretch further
            one = jacobian.select(torch.tensor([row], device=v.device))
            best[row] = max(best[row], _refined(one, start[row : row + 1], int(when[row])))
    return _result(first, best, when)


def _result(first: np.ndarray, best: np.ndarray, when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore"):
        return np.where(when == 1, first, np.exp(best)), when


def _amplified(jacobian: Jacobian, v: Tensor, horizon: int) -> Tensor:
    """Return the sum of (J^n)^T J^n v over n up to the horizon, as a unit vector: Horner's rule, 2 * horizon products.

    The largest eigenvalue of that sum is at least ||J^n||^2 for each n, so its vector shows a growth of at least the
    largest of them over the root of their number.
    """
    kept = set(np.geomspace(1, horizon, KEPT).round().astype(int).tolist())
    images = {
        n: image for n, image in enumerate(_images(jacobian, v, horizon), 1) if n in kept or n == horizon
    }
    w, size = torch.zeros_like(v), np.full(len(v), -np.inf)
    for n in range(horizon, 0, -1):
        if n in images:
            u, other = images[n]
            top = np.maximum(np.maximum(size, other), -1e300)
            w = w * column(np.exp(size - top), w) + u * column(np.exp(other - top), u)
            size = top
        w, more = _scaled(jacobian.pull(w))
        size = size + more
    return normalize(w)


def _images(jacobian: Jacobian, v: Tensor, horizon: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Yield J^n v for n = 1, ..., horizon as unit vectors (zero where it vanishes) with logarithms of lengths."""
    logs = np.zeros(len(v))
    for _ in range(horizon):
        v, more = _scaled(jacobian.push(v))
        logs = logs + more
        yield normalize(v), logs + _log(v.double().norm(dim=1).cpu().numpy())


def _refined(jacobian: Jacobian, v: Tensor, n: int) -> float:
    """Return log ||J^n v|| of one row after power iterations with (J^n)^T J^n."""
    for _ in range(SWEEPS):
        for apply in (jacobian.push, jacobian.pull):
            for _ in range(n):
                v, _ = _scaled(apply(v))
        v = normalize(v)
    *_, (_, size) = _images(jacobian, v, n)
    return float(size.item())


def _scaled(block: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return blocks (rows, ...) over a power of two near their largest entry, and its logarithm (rows,)."""
    over = power_of_two(block)
    return block * column(1 / over, block), np.log(over)


def _log_stretch(block: Tensor) -> np.ndarray:
    """Return the logarithm of the largest singular value of each block (rows, k, d), inf where one is not finite."""
    exact = block.double()
    gram = (exact @ exact.transpose(1, 2)).cpu()
    finite = gram.isfinite().all(2).all(1).numpy()
    largest = torch.linalg.eigvalsh(torch.nan_to_num(gram, 0.0, 0.0, 0.0))[:, -1].clamp(min=0).numpy()
    return np.where(finite, _log(largest) / 2, np.inf)


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(values)
