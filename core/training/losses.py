"""Losses of the recursive reasoners: stablemax cross-entropy and binary cross-entropy of the halting head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from eqrlab.core.labels import counts, wanted


def log_stablemax(logits: Tensor) -> Tensor:
    """Return log(s / sum s) over the last axis, s(x) = x + 1 for x >= 0 and 1 / (1 - x) below, in float64.

    References
    ----------
    Prieto et al. 2025, "Grokking at the edge of numerical stability", eq. 5.
    """
    x = logits.double()
    s = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0) + 1e-30))
    return torch.log(s / s.sum(-1, keepdim=True))


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the counted cells of each row, (n,) float64.

    Parameters
    ----------
    logits
        (n, S, V).
    labels
        (n, S); cells with label 0 do not count, -1 is a token 0 that does.
    """
    counted = counts(labels)
    loss = -log_stablemax(logits).gather(-1, wanted(labels).long().unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, loss, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)


def exact(logits: Tensor, labels: Tensor) -> Tensor:
    """Say for each row whether every counted cell is right, (n,) bool; a row without counted cells is not right."""
    counted = counts(labels)
    return ((logits.argmax(-1) == wanted(labels)) | ~counted).all(-1) & counted.any(-1)


def halting_loss(q_halt: Tensor, correct: Tensor) -> Tensor:
    """Return the binary cross-entropy (n,) of the halting logit against present correctness."""
    return F.binary_cross_entropy_with_logits(q_halt.float(), correct.float(), reduction="none")
