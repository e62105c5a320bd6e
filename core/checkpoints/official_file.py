"""The content of a file of weights before translation: tensors, configuration, and what was inferred from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eqrlab.core.checkpoints.torchfile import StoredTensor
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief, one_line


@dataclass
class OfficialFile:
    """The content of an official checkpoint, before translation.

    Attributes
    ----------
    content
        The top-level dictionary; empty for a file that is a plain dictionary of weights.
    tensors
        The chosen weights under stripped names, still in the file.
    config
        The official configuration, from the file or from the YAML beside it.
    weights
        "ema" or "raw".
    origin
        "eqr" for files of EqR's trainer, which also trains TRM and HRM, "own" for those of the family's own, "unknown".
    inferred
        What the translation inferred from the weights or assumed by default, in words.
    pre_norm
        Whether blocks normalise before they mix, if the names of the tensors say so.
    puzzle_cells
        Returns the number of cells of the puzzles; called if neither weights nor configuration give the grid size.
    """

    content: dict[str, Any]
    tensors: dict[str, StoredTensor]
    config: dict[str, Any]
    weights: str
    origin: str = "own"
    inferred: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    pre_norm: bool | None = None
    puzzle_cells: Callable[[], int] | None = None

    @property
    def arch(self) -> dict[str, Any]:
        """The section of the configuration that describes the network."""
        arch = self.config.get("arch")
        if not isinstance(arch, dict):
            raise CheckpointError("the configuration has no 'arch' section")
        return arch

    def value(self, name: str, kind: type, default: Any = None, source: str = "by default") -> Any:
        """Return `arch.<name>`, or the default in its source code; a required value has no default."""
        self.asked.add(name)
        if name not in self.arch:
            if default is None:
                raise CheckpointError(f"the configuration lacks arch.{name}, which the weights do not tell")
            self.inferred.append(f"{name} {default} {source}")
            return default
        value: Any = self.arch[name]
        if kind is float and type(value) is int and abs(value) < 1 << 63:
            value = float(value)
        large = isinstance(value, int) and abs(value) >= 1 << 63
        if type(value) is not kind or large:
            raise CheckpointError(f"arch.{name} must be {kind.__name__}, got {brief(value)}")
        return value

    def shape(self, name: str, dims: int = 2) -> tuple[int, ...]:
        """Return the shape of a tensor that must be there."""
        if name not in self.tensors or len(self.tensors[name].shape) != dims:
            raise CheckpointError(f"tensor {name} with {dims} axes is missing")
        return self.tensors[name].shape

    def ignored(self) -> list[str]:
        """Names in the network section of the configuration that were not used."""
        return listed(name for name in self.arch if name not in self.asked)


def listed(names: Iterable[Any]) -> list[str]:
    """Return names of a file in order, as text that can be stored: the first hundred of them."""
    known = sorted(one_line(name, 80) if isinstance(name, str) else brief(name) for name in names)
    return known[:100] + [f"and {len(known) - 100} more"] * (len(known) > 100)
