"""The training data on the training device, as an endless stream that can be continued from a saved position."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.core.labels import wanted

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class PuzzleStream:
    """An endless, resumable stream of training rows: shuffled passes over the puzzles, each under a fresh symmetry.

    Parameters
    ----------
    inputs, labels
        Training puzzles and solutions (P, S), integer tokens; they are kept on the device.
    augment
        Draws a random symmetry per row: `(inputs, labels, generator) -> (inputs, labels)`, tensors on the device.
    seed
        Of order and symmetries.
    device
        Where the rows are drawn.

    Raises
    ------
    ValueError
        When inputs and labels are not integers of one shape (P, S) with P >= 1.

    Notes
    -----
    The next rows depend only on the number of rows drawn so far, so that drawing never has to wait for the device.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        augment: Augment | None,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        inputs, labels = np.asarray(inputs), np.asarray(labels)
        whole = all(np.issubdtype(tokens.dtype, np.integer) for tokens in (inputs, labels))
        if not whole or inputs.shape != labels.shape or inputs.ndim != 2 or not len(inputs):
            raise ValueError(
                "training needs inputs and labels of one shape (P, S), integers, "
                f"got {inputs.dtype} {inputs.shape} and {labels.dtype} {labels.shape}"
            )
        self.augment, self.sha256 = augment, _sha256(inputs, labels)
        self.inputs, self.labels = (
            torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device) for a in (inputs, labels)
        )
        self.generator = torch.Generator(device).manual_seed(seed + 2)
        self.order, self.position = self._shuffled(), 0

    def _shuffled(self) -> Tensor:
        return torch.randperm(len(self.inputs), generator=self.generator, device=self.inputs.device)

    def offer(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the next rows: inputs and labels (count, S) int64."""
        parts: list[Tensor] = []
        while count:
            if self.position == len(self.order):
                self.order, self.position = self._shuffled(), 0
            part = self.order[self.position : self.position + count]
            parts.append(part)
            self.position, count = self.position + len(part), count - len(part)
        index = torch.cat(parts)
        inputs, labels = self.inputs[index], self.labels[index]
        return (inputs, labels) if self.augment is None else self.augment(inputs, labels, self.generator)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `restore` needs: tensors and plain values."""
        return {"order": self.order, "generator": self.generator.get_state()}, {"position": self.position}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises
        ------
        KeyError, TypeError, ValueError, RuntimeError
            If the state does not belong to this stream.
        """
        order, position = tensors["order"], int(values["position"])
        if order.shape != self.order.shape or not 0 <= position <= len(order):
            raise ValueError(f"an order of {len(self.order)} puzzles is required, got {tuple(order.shape)}")
        self.generator.set_state(tensors["generator"])
        self.order, self.position = order.to(self.order), position

    def check(self, seq_len: int, vocab_size: int) -> None:
        """Raise ValueError unless the puzzles have this length and their tokens are below this number."""
        lowest = int(min(self.inputs.min(), wanted(self.labels).min()))
        highest = int(max(self.inputs.max(), self.labels.max()))
        if self.inputs.shape[1] != seq_len or lowest < 0 or highest >= vocab_size:
            raise ValueError(
                f"the puzzles have {self.inputs.shape[1]} cells and tokens {lowest}..{highest}, "
                f"the model requires {seq_len} cells and tokens 0..{vocab_size - 1}"
            )


def _sha256(inputs: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of puzzles and solutions."""
    digest = hashlib.sha256(np.ascontiguousarray(inputs, "<i8").tobytes())
    digest.update(np.ascontiguousarray(labels, "<i8").tobytes())
    return digest.hexdigest()
