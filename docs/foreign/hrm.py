"""PyPI's hrm-pytorch: the carry is a tuple of hidden states, low to high."""

import torch
from HRM import HRM

from eqrlab.core import from_module

torch.manual_seed(0)
block = dict(dim=16, depth=1, attn_dim_head=8, heads=2, attn_flash=False)
model = HRM(networks=[block, dict(block)], dim=16, num_tokens=8, reasoning_steps=2)

system = from_module(
    model,
    carry=lambda model, x, generator: tuple(torch.randn(*x.shape, 16, generator=generator) for _ in range(2)),
    step=lambda model, carry, x: tuple(model(x, carry, detach_hiddens=False, one_step_grad=False)[1]),
    readout=lambda model, carry, x: model.to_pred(carry[-1]),
    task="sudoku6",
)
