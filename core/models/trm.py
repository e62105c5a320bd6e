"""Tiny Recursive Model (TRM, arXiv 2510.04871): two-level recursion of one stack from stored initial vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.layers import truncated_normal
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class TRMConfig(ReasonerConfig):
    """Configuration of TRM; without prefix positions it is the weight-tied model with hierarchy."""


class TRM(Reasoner):
    """TRM: z_L <- Blocks(z_L + z_H + x), L_cycles times, then z_H <- Blocks(z_H + z_L); H_cycles times an outer step.

    Both levels share one stack of blocks.  Every run starts from the stored vectors `H_init` and `L_init`, drawn once
    at construction and never trained.
    """

    family = "trm"
    config_class = TRMConfig
    config: TRMConfig

    def __init__(self, config: TRMConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.L_level = self.stack(config.layers)
        self.H_init: Tensor
        self.L_init: Tensor
        self.register_buffer("H_init", truncated_normal((config.hidden_size,)))
        self.register_buffer("L_init", truncated_normal((config.hidden_size,)))

    @property
    def trained_updates(self) -> int:
        return self.config.L_cycles + 1

    def initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.stored_initial(x, self.H_init, self.L_init)

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return self.L_level(z + injection)
