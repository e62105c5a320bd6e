"""Labels: what a cell has to hold, and whether it counts at all.

0 marks a cell that does not count, as the pad does in official folders.  A token 0 that does count is written -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # datasets do without torch, which is slow to load
    from torch import Tensor

IGNORED, ZERO = 0, -1
ELSEWHERE = -100  # how most code marks a cell that does not count

Labels = TypeVar("Labels", np.ndarray, "Tensor")


def counts(labels: Labels) -> Labels:
    """Say which cells count, bool of the same shape."""
    return labels != IGNORED


def wanted(labels: Labels) -> Labels:
    """Return the tokens that are right where cells count, and 0 where they do not.

    Examples
    --------
    >>> wanted(np.array([3, ZERO, IGNORED])).tolist()
    [3, 0, 0]
    """
    return labels + (labels == ZERO)


def right(answers: Labels, labels: Labels) -> Labels:
    """Say where answers are right; negative ones, which a user's own map may give, are compared as they are.

    Examples
    --------
    >>> right(np.array([0, -1, 2]), np.array([ZERO, -1, -2])).tolist()
    [True, True, False]
    """
    return (answers == wanted(labels)) | (answers == labels)


def labels_of(tokens: np.ndarray, ignored: int | None) -> np.ndarray:
    """Return tokens as labels, those equal to `ignored` as cells that do not count; None: all count.

    Examples
    --------
    >>> labels_of(np.array([3, 0, -100]), -100).tolist(), labels_of(np.array([3, 0]), 0).tolist()
    ([3, -1, 0], [3, 0])
    """
    known = np.where(tokens == 0, np.full((), ZERO, np.int64), tokens)
    return known if ignored is None else np.where(tokens == ignored, IGNORED, known)
