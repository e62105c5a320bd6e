"""Options that many analyses share, each described once; an unknown name raises TypeError."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.judge import Oracle
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.states import Points, States, take_points
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.core import System

Bundle = TypeVar("Bundle")


class DrawOptions(TypedDict, total=False):
    """Options of functions that draw runs of puzzles and judge them; described at `sample`."""

    labels: Tensor | np.ndarray | None
    identifiers: Tensor | np.ndarray | None
    oracle: Oracle | None
    seed: int
    noise: float | None
    device: str | torch.device | None
    dtype: torch.dtype | str | None


class RunOptions(DrawOptions, total=False):
    """Options of functions that run restarts of puzzles; described at `sample`, with the same defaults."""

    restarts: int
    depth: int
    initial: Tensor | Law | None
    keep: Sequence[str]
    tolerances: Tolerances | None
    first_restart: int
    residuals: str
    retire: bool


class WorkOptions(TypedDict, total=False):
    """Options of functions that may take long.

    batch_size
        Rows computed at once; None chooses from the size of a state.  Results depend on it only by rounding.
    progress
        True shows a bar on a terminal; if a function says so, a callable receives (done, all).
    """

    batch_size: int | None
    progress: bool | Callable[[int, int], None]


class AnalysisOptions(DrawOptions, WorkOptions, total=False):
    """Options of analyses that choose the number of runs and their starts themselves.

    depth
        Largest number of outer steps of a run; default 64.
    """

    depth: int


class StateOptions(WorkOptions, total=False):
    """Options of analyses of given states, besides those of `WorkOptions`.

    seed
        Seed of random directions and first vectors; default 0.
    dtype
        Precision, float32 or float64; None keeps that of the states, but raises half precision to float32.
    device
        Where to compute; None leaves it to the system.
    identifiers
        Identifiers of the puzzles, (P,); None: those of the ensemble from which the states come, or none.
    """

    seed: int
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    identifiers: Tensor | np.ndarray | None


class AnswerOptions(StateOptions, total=False):
    """Options of analyses of given states that compare answers, besides those of `StateOptions`.

    labels
        Labels of the puzzles, (P, L): answers that differ only where the label is 0 count as equal.  None: the labels
        by which the ensemble of the states was judged, or none.
    """

    labels: Tensor | np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """`AnswerOptions` with their defaults."""

    seed: int = 0
    batch_size: int | None = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    progress: bool | Callable[[int, int], None] = False
    identifiers: Tensor | np.ndarray | None = None
    labels: Tensor | np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            require_integers(batch_size=self.batch_size)

    def points(
        self, system: System, inputs: Tensor | np.ndarray, states: States, finite: bool = True
    ) -> Points:
        """Return the states as rows, see `states.take_points`."""
        return take_points(
            system,
            inputs,
            states,
            identifiers=self.identifiers,
            labels=self.labels,
            dtype=self.dtype,
            device=self.device,
            finite=finite,
        )


def computing(options: Mapping[str, Any], function: Callable, bundle: type = StateOptions) -> Computing:
    """Return the `AnswerOptions` among the options of a function, with the defaults of those not given.

    Parameters
    ----------
    bundle
        All options of the function: `StateOptions`, or a class that adds some to them.

    Raises
    ------
    TypeError
        For a name that is no option, naming the function and the options there are.
    """
    check_options(options, bundle, function)
    return Computing(**part_of(options, AnswerOptions))


def check_options(options: Mapping[str, object], bundle: type, function: Callable) -> None:
    """Raise TypeError for the first option that does not belong to the bundle of a function."""
    own = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    refuse_unknown(options, [*own, *bundle.__annotations__], function.__name__)


def part_of(options: Mapping[str, Any], bundle: type[Bundle]) -> Bundle:
    """Return those of the options that belong to a bundle."""
    return cast(Bundle, {name: value for name, value in options.items() if name in bundle.__annotations__})


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
