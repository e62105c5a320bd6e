"""Models made from a family, a configuration and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.checkpoints.tensors import WEIGHTS
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief, one_line
from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.families import family_named
from eqrlab.core.models.reasoner import Reasoner


def plain_values(value: Any, what: str, depth: int = 8) -> Any:
    """Return values of a file that are safe to store and to print: JSON kinds, printable, nested `depth` deep at most.

    Raises
    ------
    CheckpointError
        For anything else.
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return value
    if isinstance(value, str):
        return one_line(value, 10_000)
    if depth and isinstance(value, dict):
        return {one_line(str(k), 200): plain_values(v, what, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list | tuple):
        return [plain_values(v, what, depth - 1) for v in value]
    raise CheckpointError(
        f"{what} holds {brief(value)} where plain values, nested at most 8 deep, are required"
    )


def configure(family: str, values: dict[str, Any]) -> ReasonerConfig:
    """Return the configuration of a family with these values.

    Raises
    ------
    ValueError
        For an unknown family or configuration key, naming the known ones, and for values that no model can have.
    """
    return family_named(family).config_class.from_dict(values)


def build(
    family: str, config: dict[str, Any], task: str = "unknown", provenance: dict | None = None
) -> Reasoner:
    """Build a freshly initialised model of a family from plain configuration values.

    Raises
    ------
    ValueError
        See `configure`.
    """
    configuration = configure(family, config)
    return family_named(family)(configuration, task, provenance)


def fill(reasoner: Reasoner, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Put tensors into a model: all of them, no others, of the right shapes, finite floating values.

    Raises
    ------
    CheckpointError
        Naming the first disagreement; the model is then as it was.
    """
    expected = reasoner.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing:
        raise CheckpointError(
            f"{path}: tensor {missing[0]} is missing ({len(missing)} of {len(expected)} are)"
        )
    if extra:
        raise CheckpointError(
            f"{path}: tensor {extra[0]} is not part of this {reasoner.family} model ({len(extra)} unknown)"
        )
    for name, target in expected.items():
        tensor = tensors[name]
        if tensor.shape != target.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"the configuration requires {tuple(target.shape)}"
            )
        if tensor.dtype not in WEIGHTS:
            raise CheckpointError(
                f"{path}: tensor {name} holds {tensor.dtype}, floating values are required (16 to 64 bits)"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} has NaN or infinite values")
        if not torch.isfinite(tensor.to(target.dtype)).all():
            raise CheckpointError(f"{path}: tensor {name} has values that are infinite in {target.dtype}")
    reasoner.load_state_dict(tensors)


def assemble(
    path: Path,
    family: str,
    config: dict[str, Any],
    task: str,
    provenance: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Reasoner:
    """Build the model that a file describes and fill it; it has the widest dtype among the tensors.

    Raises
    ------
    CheckpointError
        When the configuration is invalid, or tensors and configuration disagree.

    Notes
    -----
    A configuration that declares more than twice as many weights as the file has values is refused before anything is
    allocated, and the global random state is left as it was.
    """
    try:
        values = sum(t.numel() for t in tensors.values())
        if configure(family, config).least_weights > 2 * values:  # with less, `fill` names what is missing
            raise CheckpointError(
                f"the configuration declares a model larger than the {values} values in the file"
            )
        with torch.random.fork_rng(devices=[]):
            reasoner = build(family, config, task, provenance)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: {str(error) or type(error).__name__}") from None
    if any(t.dtype == torch.float64 for t in tensors.values()):
        reasoner.double()
    elif all(t.dtype == torch.bfloat16 for t in tensors.values()):
        reasoner.bfloat16()
    fill(reasoner, tensors, path)
    return reasoner
