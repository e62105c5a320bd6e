"""The weight-tied single-state model: one stack of blocks applied again and again to one state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class TiedConfig(ReasonerConfig):
    """Configuration of the weight-tied model.

    An outer step applies the stack H_cycles x L_cycles times, the last L_cycles with gradient in training: H_cycles=1
    trains through all of them.  A TRM of (H, L) cycles has the depth of a tied model of (H, L + 1).
    """


class Tied(Reasoner):
    """Weight-tied: z <- Blocks(z + x), H_cycles x L_cycles times in an outer step, from one stored vector.

    With a second state for the hierarchy this is `TRM` without prefix positions; from random starts and with damping
    and noise it is `EqR`.
    """

    family = "tied"
    streams = 1
    stored_starts = ("init_hidden",)
    config_class = TiedConfig
    config: TiedConfig

    def __init__(self, config: TiedConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.level = self.stack(config.layers)
        self.draw_starts()

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return self.level(z + injection)
