"""AdamATan2: Adam without an epsilon (Everett et al. 2024, arXiv 2407.05872), as EqR, TRM and HRM use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


class AdamATan2(torch.optim.Optimizer):
    """p <- p (1 - lr wd); p <- p - lr / bc1 * atan2(m, sqrt(v / bc2)), with bc_i = 1 - beta_i^t.

    Parameters
    ----------
    params
        Parameters, or groups of them.
    lr, betas, weight_decay
        Learning rate, decay rates of the two moments, decoupled weight decay (every parameter decays).

    Notes
    -----
    The first bias correction is outside the arc tangent, as in the CUDA kernel of the `adam-atan2` package that the
    official trainers use (the rule above is taken from its source).  The paper, and the package
    `adam-atan2-pytorch` with a = b = 1, have it inside, atan2(m / bc1, ...).  Compared with version 0.4.1 in float64,
    the moments agree up to rounding, the first update here is 1.269 times theirs, and the ratio tends to 1 like
    beta1^t (within 1e-3 after 50 steps, 1e-9 after 200).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 1.0,
    ):
        if lr < 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(
                f"lr and weight_decay must be >= 0 and betas in [0, 1), got {lr}, {weight_decay}, {betas}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved: dict[int, list[Tensor]] = {}  # parameters by the number of their own step
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] += 1
                moved.setdefault(state["step"], []).append(p)
            for t, params in moved.items():
                self._move(params, t, group)
        return loss

    def _move(self, params: list[Tensor], t: int, group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[p]["exp_avg"] for p in params]
        v = [self.state[p]["exp_avg_sq"] for p in params]
        (beta1, beta2), lr = group["betas"], group["lr"]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        denominator = torch._foreach_div(v, 1 - beta2**t)
        torch._foreach_sqrt_(denominator)
        torch._foreach_clamp_min_(denominator, _TINY)  # atan2(0, 0) is 0, and 0 / 0 is not
        angle = torch._foreach_div(m, denominator)
        torch._foreach_atan_(angle)
        torch._foreach_add_(params, angle, alpha=-lr / (1 - beta1**t))


@torch.no_grad()
def sign_step(tensor: Tensor, lr: float, weight_decay: float) -> None:
    """Move a tensor by p <- p (1 - lr wd) - lr sign(gradient), and clear the gradient; without one it stays."""
    if tensor.grad is not None:
        tensor.mul_(1 - lr * weight_decay).sub_(tensor.grad.sign(), alpha=lr)
        tensor.grad = None
