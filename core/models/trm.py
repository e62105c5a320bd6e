"""Tiny Recursive Model (TRM, arXiv 2510.04871): two-level recursion of one stack from stored initial vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class TRMConfig(ReasonerConfig):
    """Configuration of TRM; without prefix positions it is the weight-tied model with hierarchy."""


class TRM(Reasoner):
    """TRM: z_L <- Blocks(z_L + z_H + x), L_cycles times, then z_H <- Blocks(z_H + z_L); all H_cycles times.

    Both levels share one stack of blocks.  Every run starts from the stored vectors `H_init` and `L_init`, drawn once
    at construction and never trained.
    """

    family = "trm"
    stored_starts = ("H_init", "L_init")
    config_class = TRMConfig
    config: TRMConfig

    def __init__(self, config: TRMConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.L_level = self.stack(config.layers)
        self.draw_starts()

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return self.L_level(z + injection)
