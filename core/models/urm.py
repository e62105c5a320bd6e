"""Universal Reasoning Model (URM, arXiv 2512.14693): single-state recursion with a convolution in its SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.reasoner import Reasoner

CONV_DTYPES = ("bfloat16", "state")


@dataclass(frozen=True, kw_only=True)
class URMConfig(ReasonerConfig):
    """Configuration of URM.

    Attributes
    ----------
    conv_dtype
        "bfloat16": as in the official code, everything from the convolution's input to the SwiGLU's output is rounded
        to bfloat16, so that the map is a staircase of relative step 4e-3 and its derivatives hold between steps only;
        "state": that section computes in the dtype of the state, as derivatives require (`smooth()` asks for it).
    """

    smoothing: ClassVar[dict[str, Any]] = {"conv_dtype": "state"}

    mixer: str = "attention"
    positions: str = "rope"
    conv_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_dtype not in CONV_DTYPES:
            raise ValueError(f"conv_dtype {self.conv_dtype!r} unknown; choose from {', '.join(CONV_DTYPES)}")


class URM(Reasoner):
    """URM: z <- Blocks(z + x), H_cycles x L_cycles times in an outer step, from the stored vector `init_hidden`.

    Every block's SwiGLU has a causal convolution over two tokens.  In training only the last L_cycles updates carry
    gradient ("truncated loops").
    """

    family = "urm"
    streams = 1
    stored_starts = ("init_hidden",)
    config_class = URMConfig
    config: URMConfig

    def __init__(self, config: URMConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.level = self.stack(config.layers, convolution=True)
        self.draw_starts()

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        return self.level(z + injection, self.config.conv_dtype == "bfloat16")
