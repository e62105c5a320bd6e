"""Device and precision of a computation: the one place where systems and contexts are moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eqrlab.core import Reasoner, System
from eqrlab.core.models.system import cast_floating, context_of


@dataclass(frozen=True)
class Place:
    """A device and a floating dtype; a dtype of None leaves the precision to the starts of a system."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype | None = None

    @classmethod
    def of(
        cls,
        system: System,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Place:
        """Return the requested place; a device of None means that of the system, else the processor.

        Raises
        ------
        ValueError
            If the name is not a floating dtype, or for float64 on a device without it (mps).
        """
        where = torch.device(device if device is not None else getattr(system, "device", "cpu"))
        _require_precision(where, dtype_of(dtype))
        return cls(where, dtype_of(dtype))

    def bring(self, system: System) -> System:
        """Return the system on the device; weights keep their dtype, plain maps are left as they are.

        Raises
        ------
        CheckpointError
            For weights that are infinite in the dtype.
        ValueError
            For weights that are float64 on a device that has none (mps).
        """
        _require_precision(self.device, getattr(system, "dtype", None))
        moved = system.to(self.device) if isinstance(system, torch.nn.Module) else system
        if self.dtype is not None and isinstance(moved, Reasoner):
            moved.require_finite_in(self.dtype)  # layers cast their weights to the dtype of the state
        return moved

    def context(self, system: System, tokens: Tensor, identifiers: Tensor | None = None) -> Any:
        """Return the context of puzzles (n, L), with identifiers (n,), on the device, floating tensors in the dtype."""
        x = context_of(system, tokens.to(self.device), identifiers)
        return cast_floating(x, self.dtype, self.device)


def without_float64(device: torch.device) -> bool:
    """Say whether a device cannot compute in float64: Apple's GPUs (mps) cannot."""
    return device.type == "mps"


def _require_precision(device: torch.device, dtype: Any) -> None:
    if dtype == torch.float64 and without_float64(device):
        raise ValueError(
            f"the device {device} has no float64: use dtype float32 (--dtype float32), or the device cpu (--device cpu)"
        )


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating dtype from its name; None is returned as it is.

    Raises
    ------
    ValueError
        If the name is not a floating dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype {dtype!r} unknown; choose from float32, float64, bfloat16, float16")
    return found
