"""How sure a system is of its answers, from the logits: entropy and margin of the cells that count."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_entropy(logits: Tensor) -> Tensor:
    """Return the entropy (n, S) in nats of each cell's distribution, the softmax of its logits (n, S, V).

    Computed in float32 or better; NaN where a logit is not finite.

    Examples
    --------
    >>> even = torch.zeros(1, 1, 4, dtype=torch.float64)
    >>> bool(torch.isclose(cell_entropy(even), torch.tensor(4.0, dtype=torch.float64).log()))
    True
    """
    chance = torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    return torch.special.entr(chance).sum(-1).clamp(min=0)


def certainty(logits: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the answer entropy and the answer margin, both (n,), of logits (n, S, V).

    Parameters
    ----------
    logits
        Before decoding.
    counted
        (n, S) bool: cells that count; None: all.

    Returns
    -------
    entropy
        Mean over the cells that count of the entropy of the cell's distribution, in nats: 0 where all are sure.
    margin
        The smallest difference between the largest and the second largest logit of a cell.  The answer cannot change
        unless some logit changes by half of it.  Infinite with a single token.

    Raises
    ------
    ValueError
        For logits of another shape.

    Notes
    -----
    NaN for a row in which no cell counts.  The margin is the gamma of the bound ||R|| < (1 - L) gamma / G under which
    a small residual certifies an answer.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, eq. 7.
    """
    if logits.ndim != 3 or (counted is not None and logits.shape[:2] != counted.shape):
        cells = "L" if counted is None else counted.shape[1]
        raise ValueError(f"logits must return (n, {cells}, V), got {tuple(logits.shape)}")
    entropy = cell_entropy(logits)
    best = logits.topk(min(2, logits.shape[-1]), dim=-1).values.to(entropy.dtype)
    margin = best[..., 0] - best[..., 1] if best.shape[-1] == 2 else torch.full_like(entropy, torch.inf)
    if counted is None:
        return entropy.mean(1), margin.amin(1)
    number = counted.sum(1)
    mean = torch.where(counted, entropy, 0.0).sum(1) / number
    least = torch.where(counted, margin, torch.inf).amin(1)
    return mean, torch.where(number > 0, least, torch.nan)
