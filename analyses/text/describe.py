"""What a checkpoint is: size, state, cost of a step, configuration and provenance."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch

from eqrlab.core import Reasoner
from eqrlab.core.models.layers import Block


def describe(reasoner: Reasoner) -> dict[str, Any]:
    """Return the facts about a model that `eqrlab info` shows, as plain values."""
    c = reasoner.config
    encoding = {"none": "no position encoding", "learned": "learned positions"}.get(c.positions, c.positions)
    made = f"{c.mixer} mixer, {encoding}, {c.prefix_len or 'no'} prefix position{'s' * (c.prefix_len != 1)}"
    return {
        "family": reasoner.family,
        "variant": made,
        "task": reasoner.task,
        "parameters": sum(p.numel() for p in reasoner.parameters()),
        "state_shape": list(reasoner.state_shape),
        "state_dimension": math.prod(reasoner.state_shape),
        "level_calls": len(reasoner.schedule),
        "equivalent_layers": blocks_per_step(reasoner),
        "identifiers": reasoner.identifiers,
        "config": c.to_dict(),
        "provenance": reasoner.provenance,
    }


@torch.no_grad()
def blocks_per_step(reasoner: Reasoner) -> int:
    """Count the blocks that one outer step applies, by taking one."""
    applied: list[None] = []
    tokens = torch.zeros(1, reasoner.config.seq_len, dtype=torch.long, device=reasoner.device)
    x = reasoner.encode(tokens, torch.zeros(1, dtype=torch.long))
    with contextlib.ExitStack() as hooks:
        for block in reasoner.modules():
            if isinstance(block, Block):
                hooks.enter_context(block.register_forward_hook(lambda *_: applied.append(None)))
        reasoner.step(torch.zeros(1, *reasoner.state_shape, dtype=x.dtype, device=x.device), x)
    return len(applied)
