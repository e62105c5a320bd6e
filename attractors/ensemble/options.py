"""Options that many analyses share, each described once; a name that is unknown raises TypeError."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.judge import Oracle
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.fates.fate import Tolerances


class RunOptions(TypedDict, total=False):
    """Options of everything that runs restarts of puzzles; described at `sample`, whose defaults they have."""

    labels: Tensor | np.ndarray | None
    restarts: int
    depth: int
    seed: int
    noise: float | None
    initial: Tensor | Law | None
    keep: Sequence[str]
    oracle: Oracle | None
    device: str | torch.device | None
    dtype: torch.dtype | str | None
    tolerances: Tolerances | None
    first_restart: int


class StateOptions(TypedDict, total=False):
    """Options of analyses of given states.

    seed
        Of random directions and first vectors; 0 unless given.
    batch_size
        States worked on at once; None chooses from the size of a state.  Results depend on it by rounding only.
    dtype
        Precision, float32 or float64; None keeps that of the states, but raises half precision to float32.
    device
        Where to compute; None leaves it to the system.
    progress
        True shows a bar on a terminal; `return_test` also takes a callable, which gets (done, all).
    """

    seed: int
    batch_size: int | None
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    progress: bool | Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Computing:
    """`StateOptions` with their defaults."""

    seed: int = 0
    batch_size: int | None = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    progress: bool | Callable[[int, int], None] = False


def computing(options: StateOptions, function: str) -> Computing:
    """Return the options of a function with the defaults of those not given.

    Raises
    ------
    TypeError
        For a name that is no option, naming the function and the options there are.
    """
    refuse_unknown(options, [field.name for field in fields(Computing)], function)
    return Computing(**options)


def refuse_unknown(options: Mapping[str, object], known: list[str], function: str) -> None:
    """Raise TypeError for the first option that is not known.

    Examples
    --------
    >>> refuse_unknown({"sede": 1}, ["seed", "device"], "ftle")
    Traceback (most recent call last):
    TypeError: ftle() got an unexpected keyword argument 'sede'; its options are seed, device
    """
    for name in options:
        if name not in known:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; its options are {', '.join(known)}"
            )
