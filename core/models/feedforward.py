"""The feedforward model of distinct blocks, as a System whose map forgets the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class FeedforwardConfig(ReasonerConfig):
    """Configuration of the feedforward model: `layers` distinct blocks, no cycles, a single outer step."""

    H_cycles: int = 1
    L_cycles: int = 1
    halt_max_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("H_cycles", "L_cycles", "halt_max_steps"):
            if getattr(self, name) != 1:
                raise ValueError(f"{name} of a feedforward model must be 1, got {getattr(self, name)}")


class Feedforward(Reasoner):
    """Feedforward: f(z; x) = Blocks(x), all blocks in one outer step.

    The map does not depend on z.  Every run is at the only fixed point after the first step, the Jacobian is
    zero, the basin is the whole state space, and neither depth nor breadth changes the answer: this is the
    baseline with which recursion is compared.  Runs start from zero.
    """

    family = "feedforward"
    streams = 1
    config_class = FeedforwardConfig
    config: FeedforwardConfig

    def __init__(
        self, config: FeedforwardConfig, task: str = "unknown", provenance: dict[str, Any] | None = None
    ):
        super().__init__(config, task, provenance)
        self.level = self.stack(config.layers)

    def initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return x.new_zeros(x.shape[0], *self.state_shape)

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return self.level(injection.to(z.dtype))
