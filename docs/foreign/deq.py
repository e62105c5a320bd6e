"""A cell of a deep equilibrium model, its weights normalised by torchdeq."""

import torch
from torch import nn
from torchdeq.norm import apply_norm, remove_norm

from eqrlab.core import from_module

torch.manual_seed(0)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.input, self.head = nn.Linear(24, 24), nn.Linear(36 * 8, 24), nn.Linear(24, 36 * 8)

    def forward(self, z, x):
        return torch.tanh(self.hidden(z) + x)


cell = Cell()
apply_norm(cell.hidden, "weight_norm", filter_out=["bias"])
remove_norm(cell)  # after training: the normalised weights themselves

system = from_module(
    cell,
    inputs=lambda cell, tokens: cell.input(nn.functional.one_hot(tokens, 8).flatten(1).float()),
    carry=lambda cell, x, generator: torch.randn(len(x), 24, generator=generator),
    step=lambda cell, z, x: cell(z, x),
    readout=lambda cell, z, x: cell.head(z).unflatten(1, (36, 8)),
    task="sudoku6",
)
