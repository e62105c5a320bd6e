"""Hierarchical Reasoning Model (HRM, arXiv 2506.21734): two-level recursion of two stacks, trained through one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class HRMConfig(ReasonerConfig):
    """Configuration of HRM.

    Attributes
    ----------
    H_layers
        Blocks of the H level; `layers` are those of the L level.
    """

    H_layers: int = 1
    mixer: str = "attention"
    positions: str = "rope"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.H_layers < 1:
            raise ValueError(f"H_layers must be >= 1, got {self.H_layers}")

    @property
    def stacked_blocks(self) -> int:
        return self.layers + self.H_layers


class HRM(Reasoner):
    """HRM: z_L <- L(z_L + z_H + x), L_cycles times, then z_H <- H(z_H + z_L); all H_cycles times.

    The levels have their own stacks.  In training only the very last update of either level carries gradient ("one-step
    gradient"), and the continuation logit is trained too.  Every run starts from the stored vectors `H_init`, `L_init`.
    """

    family = "hrm"
    continue_head = True
    stored_starts = ("H_init", "L_init")
    config_class = HRMConfig
    config: HRMConfig

    def __init__(self, config: HRMConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.H_level = self.stack(config.H_layers)
        self.L_level = self.stack(config.layers)
        self.draw_starts()

    @property
    def trained_updates(self) -> int:
        return 2

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return (self.H_level if level == "H" else self.L_level)(z + injection)
