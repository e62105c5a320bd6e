"""Keyed random numbers: a restart draws the same numbers whatever else is computed with it, and in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]

# Increment and multipliers of SplitMix64, as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _mix_(x: Tensor) -> Tensor:
    """Apply the SplitMix64 finaliser in place to a tensor of int64 (Steele, Lea & Flood 2014)."""
    high = torch.empty_like(x)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        torch.bitwise_right_shift(x, shift, out=high)
        high &= (1 << (64 - shift)) - 1  # the shift of a signed integer copies the sign: clear those bits
        x ^= high
        if factor is not None:
            x *= factor
    return x


def puzzle_key(seed: int, tokens: np.ndarray | Tensor, identifier: int | None = None) -> int:
    """Return the 64-bit key of one puzzle under a seed, independent of its position in the set.

    The key is a hash of the input tokens, and of the puzzle's identifier if it has one.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(str(int(seed)).encode() + b"|")
    digest.update(np.ascontiguousarray(np.asarray(tokens).reshape(-1), dtype="<i8").tobytes())
    if identifier is not None:
        digest.update(b"|" + int(identifier).to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little", signed=True)


def puzzle_keys(seed: int, tokens: Tensor, identifiers: Tensor | None = None) -> list[int]:
    """Return the keys of puzzles (n, L) on the CPU, with identifiers (n,) if the puzzles have them."""
    known = [None] * len(tokens) if identifiers is None else identifiers.tolist()
    return [puzzle_key(seed, row.numpy(), each) for row, each in zip(tokens, known, strict=True)]


def restart_keys(puzzle_keys: Tensor, restarts: Tensor) -> Tensor:
    """Combine puzzle keys and restart numbers, both (n,) int64, into one key per row."""
    return _mix_(puzzle_keys + _mix_((restarts + 1) * _GOLDEN))


def restart_generator(key: int, restart: int) -> torch.Generator:
    """Return a CPU generator for one restart of the puzzle with this key.

    Notes
    -----
    PyTorch's Mersenne twister uses 32 bits of its seed.  These bits are an invertible function of the restart
    number, so that two restarts of a puzzle never share a seed.
    """
    x = (restart ^ (key & 0xFFFFFFFF)) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # the 32-bit finaliser of MurmurHash3
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return torch.Generator().manual_seed(x ^ ((key >> 32) & 0xFFFFFFFF))


class KeyedNoise:
    """Standard normals keyed by (row key, step, call): counter-based, the same in any batch and on any device.

    Parameters
    ----------
    keys
        (n,) int64, one per row, from `restart_keys`.
    step
        Number of the outer step: one for all rows, or a tensor (n,) with one per row.  The calls within the step are
        counted here.

    Notes
    -----
    SplitMix64 bits, Box-Muller transform.  bfloat16 and float32 normals are computed in float32, float64 ones in
    float64 from the same bits.
    """

    def __init__(self, keys: Tensor, step: int | Tensor):
        self._keys, self._call = keys, 0
        self._step = step.to(keys) if isinstance(step, Tensor) else keys.new_tensor(int(step))

    def __call__(self, like: Tensor) -> Tensor:
        rows, size = like.shape[0], like.shape[1:].numel()
        half = (size + 1) // 2
        stream = _mix_(self._keys + _mix_(((self._step << 20) + self._call + 1) * _GOLDEN))
        self._call += 1
        bits = torch.arange(1, half + 1, device=like.device) * _GOLDEN + stream.to(like.device)[:, None]
        _mix_(bits)
        real = torch.float64 if like.dtype == torch.float64 else torch.float32
        angle = (bits & 0xFFFFFFFF).to(real).mul_(2 * torch.pi / 2**32)
        bits >>= 32
        bits &= 0xFFFFFFFF
        radius = bits.to(real).add_(0.5).div_(2**32).log_().mul_(-2).clamp_(min=0).sqrt_()
        normals = torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)[:, :size]
        return normals.reshape(rows, *like.shape[1:]).to(like.dtype)


class StoredNoise:
    """Standard normals replayed from a stored sequence, one entry per call, for tests against recorded runs.

    Parameters
    ----------
    sequence
        Tensors (n, positions, channels) in the order of the level calls.

    Raises
    ------
    ValueError
        When more calls are made than entries were stored, or an entry has another shape than the state.
    """

    def __init__(self, sequence: Sequence[Tensor] | Tensor):
        self._sequence, self._call = sequence, 0

    def __call__(self, like: Tensor) -> Tensor:
        if self._call >= len(self._sequence):
            raise ValueError(
                f"stored noise has {len(self._sequence)} entries, call {self._call + 1} has none"
            )
        entry = self._sequence[self._call]
        self._call += 1
        if entry.shape != like.shape:
            raise ValueError(f"stored noise has shape {tuple(entry.shape)}, the state {tuple(like.shape)}")
        return entry.to(like)


class GeneratorNoise:
    """Standard normals from one torch generator, for training, where rows need not be keyed."""

    def __init__(self, generator: torch.Generator):
        self._generator = generator

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)
