"""Random symmetries drawn and applied on the training device, without waiting for it: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eqrlab.datasets import maze, sudoku

DeviceAugment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def maze_symmetries(board: maze.Board, device: torch.device | str) -> DeviceAugment:
    """Return `augment(inputs, labels, generator)`: turns and mirror images of mazes, uniformly."""
    table = torch.from_numpy(maze.turns(*board)).to(device)

    def turned(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        turn = torch.randint(len(table), (len(inputs),), generator=generator, device=device)
        cells = table[turn]
        return inputs.gather(1, cells), labels.gather(1, cells)

    return turned


def sudoku_symmetries(board: sudoku.Geometry, device: torch.device | str) -> DeviceAugment:
    """Return `augment(inputs, labels, generator)`: digits, bands, rows in bands, stacks, columns in stacks and, where
    boxes are square, transposition, uniformly.
    """
    side, length = board.side, board.cells

    def disguised(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(inputs)

        def order(*shape: int) -> Tensor:
            return torch.rand((n, *shape), generator=generator, device=device).argsort(dim=-1)

        def lines(bands: int, width: int) -> Tensor:
            return (order(bands)[..., None] * width + order(bands, width)).view(n, side)

        rows = lines(side // board.box_rows, board.box_rows)
        columns = lines(side // board.box_columns, board.box_columns)
        cells = rows[:, :, None] * side + columns[:, None, :]
        if board.box_rows == board.box_columns:
            flip = torch.rand((n, 1, 1), generator=generator, device=device) < 0.5
            cells = torch.where(flip, cells.transpose(1, 2), cells)
        kept = torch.arange(sudoku.FIRST_DIGIT, device=device).expand(n, -1)
        tokens = torch.cat((kept, order(side) + sudoku.FIRST_DIGIT), dim=1)
        cells = cells.reshape(n, length)
        return tokens.gather(1, inputs.gather(1, cells)), tokens.gather(1, labels.gather(1, cells))

    return disguised
