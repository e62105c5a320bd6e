"""The training data as an endless stream that can be continued where it was left."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class PuzzleStream:
    """An endless, resumable stream of training rows: shuffled passes over the puzzles, each under a fresh symmetry."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, augment: Augment | None, seed: int):
        if inputs.shape != labels.shape or inputs.ndim != 2 or not len(inputs):
            raise ValueError(
                f"training needs inputs and labels of one shape (P, S), got {inputs.shape} and {labels.shape}"
            )
        self.inputs, self.labels, self.augment = inputs, labels, augment
        self.rng = np.random.default_rng([seed, 1])
        self.order, self.position = self.rng.permutation(len(inputs)), 0

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the next rows: inputs and labels (count, S) int64."""
        index = np.empty(count, dtype=np.int64)
        for i in range(count):
            if self.position == len(self.order):
                self.order, self.position = self.rng.permutation(len(self.order)), 0
            index[i] = self.order[self.position]
            self.position += 1
        inputs, labels = self.inputs[index], self.labels[index]
        if self.augment is not None:
            inputs, labels = self.augment(inputs, labels, self.rng)
        return torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(labels.astype(np.int64))

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as plain values."""
        return {"rng": self.rng.bit_generator.state, "order": self.order.tolist(), "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.rng.bit_generator.state = state["rng"]
        self.order, self.position = np.array(state["order"]), state["position"]

    def check(self, seq_len: int, vocab_size: int) -> None:
        """Raise ValueError unless the puzzles have this length and their tokens are below this number."""
        lowest = min(self.inputs.min(), self.labels.min())
        highest = max(self.inputs.max(), self.labels.max())
        if self.inputs.shape[1] != seq_len or lowest < 0 or highest >= vocab_size:
            raise ValueError(
                f"the puzzles have {self.inputs.shape[1]} cells and tokens {lowest}..{highest}, "
                f"the model requires {seq_len} cells and tokens 0..{vocab_size - 1}"
            )

    @property
    def sha256(self) -> str:
        """SHA-256 of the puzzles and their solutions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.inputs, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        return digest.hexdigest()
