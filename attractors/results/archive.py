"""One archive a diagnosis: a NetCDF-4 file with a group for each dataset."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from eqrlab.attractors.results import schema
from eqrlab.core.checkpoints.load import replaced_whole


def write(path: str | Path, groups: Mapping[str, xr.Dataset]) -> None:
    """Write datasets as groups of one NetCDF-4 file, whole or not at all.

    Parameters
    ----------
    path
        Where to write; an older file of that name stays until the new one is complete.
    groups
        Group name ("ensemble", or nested "model/ensemble") to dataset.  Complex variables are stored with a trailing
        dimension `ri` (real, imaginary), and are complex again in `read`.  Every variable gets the attribute `sha256`
        of its stored values, see SCHEMA.md.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    tree = xr.DataTree.from_dict({name: _with_checksums(_real(dataset)) for name, dataset in groups.items()})
    tree.attrs = _common([dataset.attrs for dataset in groups.values()])
    encoding = {
        f"/{name}": {
            str(v): _encoding(dataset[v]) for v in _real(dataset).data_vars if dataset[v].dtype.kind in "fiub"
        }
        for name, dataset in groups.items()
    }
    with replaced_whole(path) as temporary, netcdf_errors(path):
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def read(path: str | Path) -> xr.DataTree:
    """Open an archive whole, in memory.

    Raises
    ------
    ValueError
        When the file is missing, no archive, or of a newer schema version, naming it.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected an archive written by eqrlab")
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            loaded = tree.load()
    except _DAMAGE as error:
        raise ValueError(f"{path}: not a readable NetCDF-4 archive ({_first_line(error)})") from None
    try:
        loaded = loaded.map_over_datasets(schema.migrated)
        return loaded.map_over_datasets(_without_checksums).map_over_datasets(_complex)
    except _DAMAGE as error:
        raise ValueError(f"{path}: {_first_line(error)}") from None


_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def open_ensemble(
    path: str | Path, *, group: str = "ensemble", chunks: Mapping[str, int] | None = None
) -> xr.Dataset:
    """Open a group of an archive without reading its values: they are read where they are used.

    Parameters
    ----------
    group
        Which one, such as "ensemble".
    chunks
        None: a part taken with `isel` is read alone.  Else dask arrays of such chunks, {} for those of the file, so
        that whole variables are worked on piece by piece; needs `eqrlab[lazy]`.

    Returns
    -------
    xarray.Dataset
        To be closed after use, best with `with`.

    Raises
    ------
    ValueError
        When the file is missing, no archive, of a newer schema version, or has no such group.

    Notes
    -----
    Analyses take whole puzzles: `basins(ensemble.isel(puzzle=slice(0, 100)).load())` needs the memory of 100 puzzles.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected an archive written by eqrlab")
    try:
        opened = xr.open_dataset(path, group=group, engine="netcdf4", chunks=chunks)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: group {group!r} cannot be read ({str(error).splitlines()[0].strip(chr(34))})"
        ) from None
    return schema.migrated(opened)


def completed_part(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the largest whole ensemble in one of an unfinished export: some puzzles, with the same first restarts.

    Raises
    ------
    ValueError
        When not one run is completed.
    """
    if "sampled" not in ensemble:
        return ensemble
    first = np.logical_and.accumulate(ensemble.sampled.values, axis=1).sum(1)  # (puzzle,)
    sizes = [int(r) * int((first >= r).sum()) for r in first]
    restarts = int(first[int(np.argmax(sizes))])
    if not restarts:
        raise ValueError("not one run of this ensemble is completed")
    part = ensemble.isel(puzzle=np.flatnonzero(first >= restarts), restart=slice(restarts))
    return part.drop_vars("sampled").assign_attrs(complete=1, restarts=restarts)


def _real(dataset: xr.Dataset) -> xr.Dataset:
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind == "c":
            parts = xr.concat([variable.real, variable.imag], dim="ri").transpose(..., "ri")
            dataset = dataset.assign(
                {name: parts.assign_attrs({**variable.attrs, "complex": "real and imaginary part"})}
            )
            dataset = dataset.assign_coords(
                ri=("ri", ["real", "imaginary"], {"long_name": "part of a complex number"})
            )
    return dataset


def _complex(dataset: xr.Dataset) -> xr.Dataset:
    if "ri" not in dataset.dims:
        return dataset
    for name, variable in dataset.data_vars.items():
        if "ri" in variable.dims:
            joined = variable.isel(ri=0, drop=True) + 1j * variable.isel(ri=1, drop=True)
            attrs = {k: v for k, v in variable.attrs.items() if k != "complex"}
            dataset = dataset.assign({name: joined.assign_attrs(attrs)})
    return dataset.drop_vars("ri")


@contextmanager
def netcdf_errors(path: str | Path) -> Iterator[None]:
    """Turn the RuntimeError with which the NetCDF library says that a file cannot be written into an OSError."""
    try:
        yield
    except RuntimeError as error:
        code = errno.ENOSPC if shutil.disk_usage(Path(path).parent).free < 2**20 else errno.EIO
        raise OSError(code, f"{os.strerror(code)} ({error})", str(path)) from None


def stored(values: np.ndarray) -> np.ndarray:
    """Return values as they stand in a file: C order, little-endian, booleans as int8."""
    values = values.astype(np.int8) if values.dtype == bool else values
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(values.shape)


def checksum(values: np.ndarray) -> str:
    """Return the SHA-256 of a variable's stored values; of text that of its UTF-8, a zero byte after each entry."""
    if values.dtype.kind in "OU":
        return hashlib.sha256(b"".join(str(v).encode() + b"\0" for v in values.reshape(-1))).hexdigest()
    return hashlib.sha256(stored(values).tobytes()).hexdigest()


def _with_checksums(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy()
    for name in dataset.variables:
        dataset[name].attrs["sha256"] = checksum(dataset[name].values)
    return dataset


def _without_checksums(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy()
    for variable in dataset.variables.values():
        variable.attrs.pop("sha256", None)
    return dataset


def _encoding(variable: xr.DataArray) -> dict[str, object]:
    encoding: dict[str, object] = {"zlib": True, "complevel": 4, "shuffle": True} if variable.ndim else {}
    if variable.dtype.kind == "f" and np.isfinite(variable.values).all():
        encoding["_FillValue"] = None
    return encoding


def _common(attributes: list[dict]) -> dict:
    """Return the attributes that all groups share."""
    first, *others = attributes
    return {k: v for k, v in first.items() if all(str(o.get(k)) == str(v) for o in others)}
