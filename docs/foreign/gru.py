"""A GRU cell that reads the whole board at every step."""

import torch
from torch import nn

from eqrlab.core import from_module

torch.manual_seed(0)
net = nn.ModuleDict({"cell": nn.GRUCell(36 * 8, 32), "head": nn.Linear(32, 36 * 8)})

system = from_module(
    net,
    inputs=lambda net, tokens: nn.functional.one_hot(tokens, 8).flatten(1).float(),
    carry=lambda net, x, generator: torch.randn(len(x), 32, generator=generator),
    step=lambda net, h, x: net["cell"](x, h),
    readout=lambda net, h, x: net["head"](h).unflatten(1, (36, 8)),
    name="GRU",
    task="sudoku6",
)
