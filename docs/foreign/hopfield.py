"""A dense associative memory that stores solved boards: its attractors are known.

Krotov & Hopfield (2016), Dense associative memory for pattern recognition; Ramsauer et al. (2021), Hopfield networks is
all you need, equation 3.
"""

import torch
from torch import nn

from eqrlab.core import from_module
from eqrlab.datasets import bundled


class Memory(nn.Module):
    def __init__(self, boards, beta=8.0, field=0.5):
        super().__init__()
        self.register_buffer("stored", nn.functional.one_hot(boards, 8).flatten(1).float())
        self.beta, self.field = beta, field

    def forward(self, z, x):
        alike = z @ self.stored.T + self.field * (x @ self.stored.T)
        return torch.softmax(self.beta * alike, dim=-1) @ self.stored


memory = Memory(torch.as_tensor(bundled("sudoku6").labels[:16]))

system = from_module(
    memory,
    inputs=lambda memory, tokens: nn.functional.one_hot(tokens, 8).flatten(1).float(),
    carry=lambda memory, x, generator: torch.randn(len(x), 36 * 8, generator=generator),
    step=lambda memory, z, x: memory(z, x),
    readout=lambda memory, z, x: z.unflatten(1, (36, 8)),
    task="sudoku6",
)
