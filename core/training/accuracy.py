"""Exact accuracy of a model on held-out puzzles while it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.training.losses import exact

Judge = Callable[[Any, Any], np.ndarray]


@torch.no_grad()
def exact_accuracy(
    model: Reasoner,
    inputs: np.ndarray,
    labels: np.ndarray,
    depth: int,
    batch_size: int = 256,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    judge: Judge | None = None,
) -> float:
    """Return the share of puzzles solved exactly after `depth` noise-free outer steps from one random start each.

    What is right `judge` says, `(inputs, answers) -> bool (n,)`, or, where it is None, the labels.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    solved = torch.zeros((), dtype=torch.long, device=model.device)
    for i in range(0, len(inputs), batch_size):
        x = model.encode(torch.as_tensor(inputs[i : i + batch_size], device=model.device)).to(dtype)
        z = model.initial(x, generator)
        for _ in range(depth):
            z = model.step(z, x)
        logits = model.logits(z, x)
        if judge is None:
            right = exact(logits, torch.as_tensor(labels[i : i + batch_size], device=model.device))
        else:
            right = torch.as_tensor(judge(inputs[i : i + batch_size], logits.argmax(-1)))
        solved += right.sum()
    return solved.item() / len(inputs)
