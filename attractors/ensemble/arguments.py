"""Arguments that all analyses share, checked and brought into form: tokens, and the amplitude of the noise."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.contract import require_system
from eqrlab.core import System


def with_noise(system: System, noise: float | None) -> tuple[System, float]:
    """Return the system with the noise amplitude asked for (None: its own), and that amplitude.

    Raises
    ------
    ValueError
        For what is no system, a negative amplitude, or a system that has no `with_noise` where another amplitude than
        its own is wanted.
    """
    require_system(system)
    own = float(getattr(system, "noise_scale", 0.0))
    if noise is None or noise == own:
        return system, own
    if not noise >= 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    change = getattr(system, "with_noise", None)
    if change is None and noise > 0:
        raise ValueError("this system has no with_noise method; wrap it in MapSystem(..., noise_scale=...)")
    return (system if change is None else change(noise)), float(noise)


def tokens_of(values: Tensor | np.ndarray, name: str) -> Tensor:
    """Return token rows (P, L) as int64 on the CPU.

    Raises
    ------
    ValueError
        For values of another kind or shape, or without rows or tokens, naming the argument.
    """
    if not isinstance(values, (Tensor, np.ndarray, xr.DataArray, list, tuple)):
        remedy = f": pass its .{name}" if hasattr(values, name) else ""
        raise ValueError(
            f"{name} must be integer tokens (puzzle, token), got a {type(values).__name__}{remedy}"
        )
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
    if tensor.ndim != 2 or tensor.is_floating_point() or not len(tensor) or not tensor.shape[1]:
        raise ValueError(
            f"{name} must be integer tokens (puzzle, token), got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    return tensor.cpu().long()
