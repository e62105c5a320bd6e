"""One archive a diagnosis: a NetCDF-4 file with a group for each dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from eqrlab.core.checkpoint import replaced_whole


def write(path: str | Path, groups: Mapping[str, xr.Dataset]) -> None:
    """Write datasets as groups of one NetCDF-4 file, whole or not at all.

    Parameters
    ----------
    path
        Where to write; an older file of that name stays until the new one is complete.
    groups
        Group name ("ensemble", or nested "model/ensemble") to dataset.  Complex variables are stored with a trailing
        dimension `ri` (real, imaginary), and are complex again in `read`.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    tree = xr.DataTree.from_dict({name: _real(dataset) for name, dataset in groups.items()})
    tree.attrs = _common([dataset.attrs for dataset in groups.values()])
    encoding = {
        f"/{name}": {
            str(v): _encoding(dataset[v]) for v in _real(dataset).data_vars if dataset[v].dtype.kind in "fiub"
        }
        for name, dataset in groups.items()
    }
    with replaced_whole(path) as temporary:
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def read(path: str | Path) -> xr.DataTree:
    """Open an archive whole, in memory.

    Raises
    ------
    ValueError
        When the file is missing or no archive, naming it.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected an archive written by eqrlab")
    try:
        with xr.open_datatree(path, engine="netcdf4") as tree:
            loaded = tree.load()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable NetCDF-4 archive ({str(error).splitlines()[0]})") from None
    return loaded.map_over_datasets(_complex)


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


def _encoding(variable: xr.DataArray) -> dict[str, object]:
    encoding: dict[str, object] = {"zlib": True, "complevel": 4, "shuffle": True} if variable.ndim else {}
    if variable.dtype.kind == "f" and np.isfinite(variable.values).all():
        encoding["_FillValue"] = None
    return encoding


def _common(attributes: list[dict]) -> dict:
    """Return the attributes that all groups share."""
    first, *others = attributes
    return {k: v for k, v in first.items() if all(str(o.get(k)) == str(v) for o in others)}
