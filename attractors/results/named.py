"""Results by name: the modes as labels of their dimension, codes as words, a table of a result's rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

NONE = "none"  # the word for a code of -1
ADVICE_WORDS = {  # the advice of `modes`, as people read it
    "deeper_is_enough": "depth is enough",
    "more_restarts": "more restarts",
    "more_restarts_and_depth": "more restarts and depth",
    "retrain": "retrain",
    "buy_restarts": "undecided: more restarts",
    "buy_depth": "undecided: more depth",
    "depth_will_not_tell": "undecided: depth will not help",
}
ROWS = (("mass", ("puzzle", "attractor")), ("mode_probability", ("puzzle", "mode")))
Found = TypeVar("Found", xr.Dataset, xr.DataArray)


class NamedDataset(xr.Dataset):
    """A result that is both over a dimension and has a variable of that name: `mode`.

    Notes
    -----
    xarray allows no coordinate `mode` over the dimension `mode` beside a variable `mode` over `puzzle`.  The names
    are kept in `mode_name`; every array taken out of the dataset has them as its coordinate `mode`, and `sel` of the
    dataset finds them.  Everything else is that of `xarray.Dataset`; files hold a plain dataset, see `named`.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        over = self.variables[key].dims if isinstance(key, str) and key in self.variables else ()
        if "mode" not in over or key == "mode_name" or "mode" not in self.variables:
            return super().__getitem__(key)
        return _labelled(xr.Dataset.__getitem__(self.drop_vars("mode"), key))

    def get_index(self, key: Hashable) -> pd.Index:
        """Return the index of a dimension; that of `mode` has the names of the modes."""
        name = f"{key}_name"
        return (
            pd.Index(self.coords[name].values, name=key) if _is_named(self, key) else super().get_index(key)
        )

    def sel(
        self, indexers: Any = None, method: Any = None, tolerance: Any = None, drop: bool = False, **by_name: Any
    ) -> Any:  # fmt: skip
        """Select by labels, those of `mode` included; see `xarray.Dataset.sel`."""
        wanted = {**(indexers or {}), **by_name}
        here = {dim: wanted.pop(dim) for dim in list(wanted) if _is_named(self, dim)}
        found = self
        for dim, labels in here.items():
            found = found.isel({dim: _places(self.get_index(dim), labels)}, drop=drop)
        return (
            xr.Dataset.sel(found, wanted, method=method, tolerance=tolerance, drop=drop) if wanted else found
        )

    def to_dataframe(self, dim_order: Sequence[Hashable] | None = None) -> pd.DataFrame:
        """Return a table of a row for each attractor, or for each mode, of each puzzle.

        Parameters
        ----------
        dim_order
            Dimensions of the rows in this order: then as `xarray.Dataset.to_dataframe`, every variable spread over all
            of them.

        Notes
        -----
        Variables over other dimensions (the tokens of an answer, the restarts) are left out: spread over all
        dimensions at once they would make millions of rows.
        """
        kept, dims = self, dict(ROWS)
        main = next((dims[str(name)] for name in self.data_vars if str(name) in dims), None)
        if dim_order is None and main is not None and set(main) <= set(self.dims):
            kept = self[[n for n, v in self.data_vars.items() if set(v.dims) <= set(main)]]
            dim_order = [d for d in main if d in kept.dims]
        frame = _as(xr.Dataset, kept).to_dataframe(dim_order)
        if "mode_name" in frame:
            frame = frame.rename(columns={"mode": "puzzle_mode"})
            frame = frame.set_index("mode_name", append=True).droplevel("mode")
            frame.index = frame.index.rename([*frame.index.names[:-1], "mode"])
        return frame


def _is_named(found: xr.Dataset, dim: Hashable) -> bool:
    name = f"{dim}_name"
    return dim in found.dims and name in found.coords and found.coords[name].dims == (dim,)


def _labelled(found: xr.DataArray) -> xr.DataArray:
    """Give the names of the modes to the dimension itself."""
    if "mode_name" not in found.coords:
        return found
    names = found.coords["mode_name"]
    return found.drop_vars("mode_name").assign_coords(mode=names.variable)


def _places(index: pd.Index, labels: Any) -> Any:
    """Return where labels stand, one or several, or a slice of them, both ends included."""
    if isinstance(labels, slice):
        return index.slice_indexer(labels.start, labels.stop, labels.step)
    single = np.ndim(labels) == 0
    wanted = [str(v) for v in np.atleast_1d(np.asarray(labels))]
    missing = [v for v in wanted if v not in index]
    if missing:
        raise KeyError(f"no {index.name} {missing[0]!r}; there are {', '.join(index)}")
    places = [int(index.get_loc(v)) for v in wanted]
    return places[0] if single else places


def named(found: xr.Dataset) -> xr.Dataset:
    """Return a result, such as one read from a file, as the function that made it returned it."""
    return _as(NamedDataset, found) if any(name in found for name, _ in ROWS) else found


def _as(kind: type[xr.Dataset], found: xr.Dataset) -> xr.Dataset:
    return kind({str(n): found.variables[n] for n in found.data_vars}, found.coords, found.attrs)


def words(found: Found) -> Found:
    """Return a result with its codes as words: fates, modes, advice, verdicts, reasons.

    Parameters
    ----------
    found
        A result, or one variable of it; from a function or from a file.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Variables with `flag_meanings` as text without underscores, -1 as "none", advice as reports print it; the others
        as they are.  Files keep the codes.

    Examples
    --------
    >>> from eqrlab.attractors.results import schema
    >>> codes = schema.dataset({"fate": (("run",), np.array([0, 4, -1]), "fate")}, {}, codes={"fate": schema.FATES})
    >>> print(*words(codes.fate).values)
    settled unfinished none
    """
    if isinstance(found, xr.DataArray):
        return _word(found)
    coded = [n for n, v in found.variables.items() if "flag_meanings" in v.attrs]
    told = {str(n): _word(found[n]).variable for n in coded}
    where = {n: v for n, v in told.items() if n in found.coords}  # `mode` is one, being named as a dimension
    return found.assign({n: v for n, v in told.items() if n not in where}).assign_coords(where)


def _word(found: xr.DataArray) -> xr.DataArray:
    meanings = str(found.attrs.get("flag_meanings", "")).split()
    if not meanings or found.dtype.kind not in "iu":
        return found
    told_as = [ADVICE_WORDS.get(meaning, meaning.replace("_", " ")) for meaning in meanings]
    table = dict(zip(np.atleast_1d(found.attrs["flag_values"]).tolist(), told_as, strict=True))
    texts = np.array([table.get(code, NONE) for code in found.values.ravel().tolist()], dtype=object)
    kept = {k: v for k, v in found.attrs.items() if k not in ("flag_values", "flag_meanings", "units")}
    told = found.copy(data=texts.reshape(found.shape))
    told.attrs = kept
    return told
