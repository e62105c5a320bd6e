"""Arguments that all analyses share, checked and converted: tokens, identifiers, and the amplitude of the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.models.contract import require_system


def with_noise(system: System, noise: float | None) -> tuple[System, float]:
    """Return the system with the requested noise amplitude (None: its own), and that amplitude.

    Raises
    ------
    ValueError
        If the object is not a system, the amplitude is negative, or another amplitude than the system's own is
        requested and it has no `with_noise`.
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


def require_integers(least: int = 1, **values: float) -> None:
    """Raise ValueError, naming the argument, for the first value that is not an integer >= `least`."""
    for name, value in values.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value}")


def is_whole(value: Any) -> bool:
    """Say whether a value is a whole number; NaN, infinity, None and text are none."""
    try:
        return bool(int(value) == value)
    except (TypeError, ValueError, OverflowError):
        return False


def names_of(given: str | Sequence[str], known: Sequence[str], argument: str) -> tuple[str, ...]:
    """Return names that were given, one or several.

    Raises
    ------
    ValueError
        For a name that is not known, naming the argument and the names there are.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument} {name!r} unknown; choose from {', '.join(known)}")
    return names


def tensor_of(values: Any, name: str) -> Tensor:
    """Return numbers in an array of any layout and byte order as a tensor; tensors lose what gradients need.

    Raises
    ------
    ValueError
        For an array of something else than numbers, naming the argument.
    """
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} must be numbers, got an array of {array.dtype}")
    # torch has no negative strides and one byte order, and warns of memory that may not be written to
    return torch.as_tensor(np.require(array, array.dtype.newbyteorder("="), ("C", "W")))


def require_known(ensemble: xr.Dataset, what: str) -> None:
    """Raise ValueError if the ensemble does not know which answers are right, which `what` needs."""
    if "correct" not in ensemble:
        raise ValueError(f"{what} needs to know what is correct: sample with labels or an oracle")


def require_states(dataset: xr.Dataset, *names: str) -> None:
    """Raise ValueError if a dataset has none of the variables that hold states (`final_state` unless named)."""
    if not set(names or ("final_state",)) & set(dataset.variables):
        raise ValueError("the dataset holds no states; sample with keep=('summary', 'final_state')")


def identifiers_of(values: Tensor | np.ndarray | None, puzzles: int) -> Tensor | None:
    """Return the identifiers of P puzzles, (P,) int64 on the CPU; None is returned as it is.

    Raises
    ------
    ValueError
        For values of another kind or number, or below 0.
    """
    if values is None:
        return None
    tensor = tensor_of(values, "identifiers")
    if tensor.shape != (puzzles,) or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(
            f"identifiers must be {puzzles} integers, one a puzzle, got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    if puzzles and int(tensor.min()) < 0:
        raise ValueError(f"identifiers must be >= 0, got {int(tensor.min())}")
    return tensor.cpu().long()


def identifier_variable(identifiers: Tensor | None) -> dict[str, schema.Variable]:
    """Return the variable in which results store identifiers (P,); empty without identifiers."""
    if identifiers is None:
        return {}
    return {
        "identifier": (("puzzle",), identifiers.numpy(), "identifier of the puzzle, the row of its embedding")
    }


def identifiers_in(ensemble: xr.Dataset) -> Tensor | None:
    """Return the identifiers (P,) of the puzzles of an ensemble, or None."""
    return torch.as_tensor(ensemble.identifier.values).long() if "identifier" in ensemble else None


def distinct(tokens: Tensor, identifiers: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the first puzzle of each kind (U,), in the order of tokens, and the number of the kind of each (P,)."""
    rows = tokens if identifiers is None else torch.cat([tokens, identifiers[:, None]], dim=1)
    _, first, place = np.unique(rows.cpu().numpy(), axis=0, return_index=True, return_inverse=True)
    return first, place.reshape(-1)  # NumPy 2.0 gives it as a column


def require_same_puzzles(ensemble: xr.Dataset, tokens: Tensor, identifiers: Tensor | None) -> Tensor | None:
    """Return the identifiers of an ensemble, whose puzzles must be these (P, L), in the same order.

    Raises
    ------
    ValueError
        If the puzzles differ, or identifiers are given that differ.
    """
    stored = identifiers_in(ensemble)
    if not np.array_equal(ensemble.inputs.values, tokens.numpy()):
        raise ValueError("inputs must be the puzzles of the ensemble, in the same order")
    if identifiers is not None and (stored is None or not torch.equal(stored, identifiers)):
        raise ValueError(
            "identifiers must be those of the ensemble" + (", which has none" if stored is None else "")
        )
    return stored


def require_same_system(system: System, result: xr.Dataset, what: str) -> None:
    """Raise ValueError if a result is of another model, as far as it records; `what` begins the sentence."""
    theirs = schema.identity_in(result.attrs)
    for name, ours in schema.identity(system).items():
        if theirs.get(name, ours) != ours:
            raise ValueError(f"{what} another system: its {name} is {theirs[name]}, this one's {ours}")


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
    tensor = tensor_of(values, name)
    if tensor.ndim != 2 or tensor.is_floating_point() or not len(tensor) or not tensor.shape[1]:
        raise ValueError(
            f"{name} must be integer tokens (puzzle, token), got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    return tensor.cpu().long()
