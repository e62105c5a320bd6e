"""An estimate with its interval: how it is written to a dataset, and read from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from eqrlab.attractors.results import schema

BOUNDS = {"low": "lower bound: ", "high": "upper bound: "}


class Interval(NamedTuple):
    """An estimate and the bounds of its interval, numbers or arrays of one shape; NaN bounds: no interval is known.

    In a dataset the three are the variables `name`, `name_low` and `name_high`.
    """

    value: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, found: xr.Dataset, name: str, *place: Any) -> Interval:
        """Read an estimate from a dataset: arrays, or floats where a single number is left.

        Parameters
        ----------
        place
            Index into the values of the variable.

        Examples
        --------
        >>> masses = Interval(np.array([0.5]), np.array([0.2]), np.array([0.8]))
        >>> found = schema.dataset(masses.variables("mass", ("puzzle",), "share of restarts"), {})
        >>> Interval.of(found, "mass", 0)
        Interval(value=0.5, low=0.2, high=0.8)
        """
        parts = (found[f"{name}{end}"].values[place] for end in ("", *(f"_{b}" for b in BOUNDS)))
        return cls(*(float(part) if np.ndim(part) == 0 else part for part in parts))

    def variables(
        self, name: str, dims: Sequence[str] = (), text: str = "", of: str = ""
    ) -> dict[str, schema.Variable]:
        """Return the three variables of a dataset.

        Parameters
        ----------
        text
            What the estimate is: its long name, and that of the bounds.
        of
            The same for the bounds alone, where it is shorter.
        """
        bounds = zip(BOUNDS.items(), (self.low, self.high), strict=True)
        return {
            name: (tuple(dims), self.value, text),
            **{
                f"{name}_{end}": (tuple(dims), values, f"{bound}{of or text}")
                for (end, bound), values in bounds
            },
        }

    def plain(self) -> dict[str, float | None]:
        """Return the three numbers by name as JSON takes them: None for what is not known.

        Examples
        --------
        >>> Interval(0.5, float("nan"), float("nan")).plain()
        {'value': 0.5, 'low': None, 'high': None}
        """
        return {name: None if np.isnan(part) else float(part) for name, part in self._asdict().items()}

    def each(self, change: Callable[[Any], Any]) -> Interval:
        """Return the interval with a change made to the estimate and to both bounds."""
        return Interval(*map(change, self))
