"""What to run and what to record, as plain values: the input of every function that iterates the map."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.contract import Law, law_name, law_of
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.fates.fate import Tolerances, ring_length
from eqrlab.core import System
from eqrlab.core.random import puzzle_keys

KEEP = ("summary", "path", "final_state", "trajectory", "logit_delta")
FEATURES = 64  # numbers of a sketch of a state
PATH_FEATURES = 16  # those of them that are kept of every step for pictures
TRACE = 8  # numbers of a sketch that are followed through all steps, to find periods


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run of many restarts of some puzzles: the map, the starts, the depth, the judge, and what is kept.

    Attributes
    ----------
    system
        The map, with the requested noise, on the device.
    inputs
        Puzzles (P, L), int64, on the CPU.
    identifiers
        Of the puzzles, (P,) int64 on the CPU; None where they have none.
    judge
        Decides which answers are right.
    restarts, depth, seed
        Breadth B, depth D, and the seed by which random numbers are keyed.
    noise
        Amplitude in every level call, 0: none.
    initial
        Starts (P, B, *state_shape), a callable `(x, generator) -> z`, or None for the system's own law.
    keep
        Of `KEEP`; without "summary" nothing is recorded that only fates need.
    tolerances
        Thresholds of the fates.
    place
        Device and dtype.
    first_restart
        Number of the first restart, by which random numbers are keyed; starts given as a tensor are counted from 0.
    before
        Outer steps taken before the given starts; 0 unless runs are continued.
    residuals
        "all" steps, or "sparse": the steps at which a residual that needs its own evaluation is measured.
    retire
        Whether rows at rest leave their batch; their last values are repeated for all later steps.
    """

    system: System
    inputs: Tensor
    identifiers: Tensor | None = None
    judge: Judge = field(default_factory=Judge)
    restarts: int = 64
    depth: int = 64
    seed: int = 0
    noise: float = 0.0
    initial: Tensor | Law | None = None
    keep: tuple[str, ...] = ("summary",)
    tolerances: Tolerances = field(default_factory=Tolerances)
    place: Place = field(default_factory=Place)
    first_restart: int = 0
    before: int = 0
    residuals: str = "all"
    retire: bool = False

    @property
    def rows(self) -> int:
        """Number of runs; run r of puzzle p is row p * restarts + r."""
        return len(self.inputs) * self.restarts

    @property
    def window(self) -> int:
        """Number of last states whose sketches are kept."""
        return ring_length(self.before + self.depth)

    @functools.cached_property
    def start(self) -> Tensor:
        """A start (1, *state_shape) of the first puzzle, which tells the shape and the dtype of states."""
        if isinstance(self.initial, Tensor):
            return self.initial[:1, 0]
        return law_of(self.initial, self.system)(
            self.context(np.zeros(1, int)), torch.Generator().manual_seed(0)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the states."""
        return self.place.dtype or self.start.dtype

    @property
    def law(self) -> str:
        """Name of the restart law."""
        return law_name(self.initial)

    def with_(self, **changes: Any) -> Self:
        """Return the same run with some changes."""
        return replace(self, **changes)

    def puzzles(self, chosen: slice | np.ndarray) -> Self:
        """Return the run of some puzzles alone, and their labels."""
        given = self.initial[chosen] if isinstance(self.initial, Tensor) else self.initial
        known = self.identifiers if self.identifiers is None else self.identifiers[chosen]
        return self.with_(
            inputs=self.inputs[chosen], identifiers=known, judge=self.judge.of(chosen), initial=given
        )

    def keys(self, puzzles: np.ndarray) -> list[int]:
        """Return the keys of the randomness of puzzles, by their places (n,)."""
        return puzzle_keys(self.seed, *self._chosen(puzzles))

    def context(self, puzzles: np.ndarray) -> Any:
        """Return the context of puzzles, by their places (n,), on the device and in the dtype of the run."""
        return self.place.context(self.system, *self._chosen(puzzles))

    def _chosen(self, puzzles: np.ndarray) -> tuple[Tensor, Tensor | None]:
        index = torch.as_tensor(puzzles)
        return self.inputs[index], None if self.identifiers is None else self.identifiers[index]
