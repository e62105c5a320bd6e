"""Equilibrium Reasoner (EqR, arXiv 2605.21488): damped, noisy two-level recursion from random initial states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.layers import truncated_normal
from eqrlab.core.models.reasoner import Reasoner


@dataclass(frozen=True, kw_only=True)
class EqRConfig(ReasonerConfig):
    """Configuration of EqR.

    Attributes
    ----------
    damping
        lambda of the paper: the share of the old state that every level call keeps (the code's `lambda_` is
        1 - damping).
    noise_scale
        beta: amplitude of the normals that every level call adds when noise is on.
    H_init_std, L_init_std
        Standard deviations of the truncated normal restart law (RI) of z_H and z_L; both 0: every run starts at 0.
    """

    damping: float = 0.05
    noise_scale: float = 0.01
    H_init_std: float = 1.0
    L_init_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.damping < 1:
            raise ValueError(f"damping must be in [0, 1), got {self.damping}")
        if min(self.H_init_std, self.L_init_std) < 0:
            raise ValueError(
                f"initial standard deviations must be >= 0, got {self.H_init_std}, {self.L_init_std}"
            )


class EqR(Reasoner):
    """EqR: z_L <- F(z_L, z_H + x), L_cycles times, then z_H <- F(z_H, z_L); all H_cycles times in an outer step.

    F(z, inj) = damping z + (1 - damping) Blocks(z + inj) + beta eps, one stack of blocks for both levels.
    """

    family = "eqr"
    config_class = EqRConfig
    config: EqRConfig

    def __init__(self, config: EqRConfig, task: str = "unknown", provenance: dict[str, Any] | None = None):
        super().__init__(config, task, provenance)
        self.L_level = self.stack(config.layers)

    @property
    def random_starts(self) -> bool:  # type: ignore[override]
        """Whether restarts differ in their start."""
        return max(self.config.H_init_std, self.config.L_init_std) > 0

    def initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        z = truncated_normal((x.shape[0], *self.state_shape), generator)
        for stream, deviation in enumerate((self.config.H_init_std, self.config.L_init_std)):
            z[:, stream] *= (
                deviation  # no tensor of deviations: making one on an accelerator makes the host wait
            )
        return z.to(device=x.device, dtype=x.dtype)

    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        keep = self.config.damping
        return keep * z + (1 - keep) * self.L_level(z + injection)
