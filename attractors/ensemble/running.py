"""The rows of a batch that still run: rows that have come to rest leave it, and their last values are repeated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.attractors.fates.fate import LEAST_SCALE, answer_window

REST = 4.0  # relative residual, in epsilons of the state's dtype, up to which a state is at rest: rounding is left


class Running:
    """Keeps the last values of every row, and retires rows whose state is at rest and whose answer is constant.

    Attributes
    ----------
    left
        Numbers (m,) of the rows that still run, increasing.
    last
        Last values of all rows, by name, row axis first.
    retired
        (n,) outer step since the start after which a row was retired; -1 if it still runs.
    """

    def __init__(self, rows: int, recipe: Recipe, dtype: torch.dtype):
        self.left = np.arange(rows)
        self.last: dict[str, Tensor] = {}
        self.retired = np.full(rows, -1, np.int32)
        self._before, self._window = recipe.before, answer_window(recipe.before + recipe.depth)
        epsilon = torch.finfo(dtype).eps
        self._floor = min(REST * epsilon, recipe.tolerances.numerical_floor(epsilon))
        self._noisy = recipe.noise > 0  # driven by noise, a state is never at rest
        self._largest = np.zeros(rows)

    def take(self, seen: Mapping[str, Tensor]) -> None:
        """Record the values of the running rows after a step."""
        if len(self.left) == len(self.retired):
            self.last = dict(seen)
            return
        for name, values in seen.items():
            whole = self.last[name].clone()
            whole[torch.as_tensor(self.left, device=values.device)] = values
            self.last[name] = whole

    def retire(self, unchanged: np.ndarray, step: int) -> Tensor | None:
        """Retire rows that are at rest after this step; return the positions of those that stay, None: all of them.

        Parameters
        ----------
        unchanged
            (n,) steps for which the answer of each row has been the same.

        Notes
        -----
        A state is at rest when a step without noise moves it only by rounding.  With noise no state is at rest:
        a run that hovers in the solved band may still leave it.
        """
        if self._noisy or not len(self.left):
            return None
        residual, norm = self.last["residual"], self.last["norm"]
        size = norm.cpu().numpy().astype(float)
        self._largest = np.fmax(self._largest, size)
        scale = np.maximum(size, LEAST_SCALE * self._largest)
        with np.errstate(invalid="ignore"):
            rest = (residual.cpu().numpy() <= self._floor * scale) & (unchanged >= self._window)
        done = rest[self.left]
        if not done.any():
            return None
        self.retired[self.left[done]] = self._before + step
        self.left = self.left[~done]
        return torch.as_tensor(np.flatnonzero(~done), device=residual.device)
