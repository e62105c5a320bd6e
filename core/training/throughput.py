"""How fast training is: floating-point operations counted, the device's matmul rate measured."""

from __future__ import annotations

import copy
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from eqrlab.core.models.products import linear
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.training.objective import DTYPES, TrainConfig, rollout, segment, segment_loss

_CPU_OPERATIONS = 2e9  # of one timed product on a processor
_REPEATS = 5


def step_operations(model: Reasoner, config: TrainConfig) -> int:
    """Count the floating-point operations of matrix products in one optimiser step: forward, backward, all rows.

    Notes
    -----
    Counted by PyTorch's counter on tensors without storage, for one row, times the batch: a product of (m, k) and
    (k, n) is 2 m k n operations; norms, activations, noise, a regulariser and the optimiser are not counted.
    """
    ghost = copy.deepcopy(model).to("meta")
    ghost.compile("never")
    dtype, c = DTYPES[config.dtype], model.config
    inputs = torch.zeros(1, c.seq_len, dtype=torch.long, device="meta")
    z = torch.zeros(1, *model.state_shape, dtype=dtype, device="meta")
    taken = torch.zeros(1, dtype=torch.long, device="meta")
    outer_steps, anchors = rollout(config, c.halt_max_steps)
    with FlopCounterMode(display=False) as counter:
        for step in range(1, outer_steps + 1):
            x = ghost.embed_tokens(inputs).to(dtype)
            if step not in anchors:
                with torch.no_grad():
                    z = ghost.step(z, x)
                continue
            z = segment(ghost, z, x, None)
            segment_loss(ghost, z, x, inputs, taken, config, None).loss.sum().backward()
            z = z.detach()
    return counter.get_total_flops() * config.batch_size


def matmul_rate(model: Reasoner, config: TrainConfig) -> float:
    """Measure the rate (operations per second) of the model's widest product, rows and dtype as in training.

    Notes
    -----
    The product of all positions (n T, D) with the first weight of the channel SwiGLU (D, 2 I) on random values; best of
    five.  On a processor a part of the rows is taken, and the rate varies with what else runs.
    """
    weight = max(
        (p for name, p in model.named_parameters() if name.endswith("mlp.gate_up_proj.weight")),
        key=lambda p: p.numel(),
    )
    rows = config.batch_size * model.config.positions_total
    if model.device.type == "cpu":
        rows = max(1, min(rows, int(_CPU_OPERATIONS // (2 * weight.numel()))))
    right = torch.randn_like(weight, dtype=DTYPES[config.dtype])
    left = torch.randn(rows, weight.shape[1], dtype=right.dtype, device=model.device)
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first is a warm-up, and never the best
        _wait(model.device)
        began = time.perf_counter()
        with torch.no_grad():
            linear(left, right, fast=model.multiplied == "fastest")
        _wait(model.device)
        best = min(best, time.perf_counter() - began)
    return 2 * rows * weight.numel() / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
