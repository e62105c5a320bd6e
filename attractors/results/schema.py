"""Names, units and attributes of every dataset, in one place."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from eqrlab import __version__
from eqrlab.attractors.results.named import named
from eqrlab.attractors.results.variables import ADVICE as ADVICE
from eqrlab.attractors.results.variables import ANSWER_FATES as ANSWER_FATES
from eqrlab.attractors.results.variables import FATES as FATES
from eqrlab.attractors.results.variables import MODES as MODES
from eqrlab.attractors.results.variables import SCHEMA_VERSION
from eqrlab.attractors.results.variables import STATUS as STATUS

MIGRATIONS: dict[
    int, Callable[[xr.Dataset], xr.Dataset]
] = {}  # n: a group of version n as one of version n + 1
Variable = tuple[tuple[str, ...], np.ndarray | np.generic, str]


def flags(meanings: tuple[str, ...]) -> dict[str, Any]:
    """Return CF flag attributes for integer codes 0, 1, ... with these meanings."""
    return {"flag_values": np.arange(len(meanings), dtype=np.int8), "flag_meanings": " ".join(meanings)}


def dataset(
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
    coordinates: Mapping[str, Any] | None = None,
    codes: Mapping[str, tuple[str, ...]] | None = None,
) -> xr.Dataset:
    """Build a labelled dataset: every variable gets `long_name` and `units`, every dimension a coordinate
    (`mode_name` for the dimension `mode`, since `mode` is also a variable: see `named.NamedDataset`).

    Parameters
    ----------
    variables
        Name to (dims, values, long name); units are "1" throughout, since states have none.
    attributes
        Global attributes; dictionaries and lists are stored as JSON.
    coordinates
        Dimension to coordinate values; other dimensions are numbered from 0.
    codes
        Variable to the meanings of its integer codes.
    """
    told = {name: flags(meanings) for name, meanings in (codes or {}).items()}
    data = {
        name: (dims, values, {"long_name": text, "units": "1", **told.get(name, {})})
        for name, (dims, values, text) in variables.items()
    }
    result = xr.Dataset(data, attrs={k: plain(v) for k, v in attributes.items()})
    for dim, size in result.sizes.items():
        values = (coordinates or {}).get(str(dim), np.arange(size))
        name = f"{dim}_name" if dim in variables else dim  # a variable of the same name, as `mode`, keeps it
        result = result.assign_coords({name: _coordinate(str(dim), values)})
    return named(result)


def _coordinate(dim: str, values: Any) -> tuple[str, np.ndarray, dict[str, str]]:
    labels = np.asarray(values)
    return dim, labels, {"long_name": dim, **({} if labels.dtype.kind in "OU" else {"units": "1"})}


def relabelled(result: xr.Dataset, **labels: Any) -> xr.Dataset:
    """Return a dataset with other labels along some dimensions it has, described as `dataset` does."""
    return result.assign_coords(
        {dim: _coordinate(dim, values) for dim, values in labels.items() if dim in result.dims}
    )


def plain(value: Any) -> Any:
    """Return a value that NetCDF attributes can hold: numbers and text as they are, the rest as JSON or text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str)
    if isinstance(value, str):  # a file name may hold bytes that are no text
        return value.encode(errors="backslashreplace").decode()
    return value


def provenance(system: Any) -> dict[str, Any]:
    """Return the attributes that every result carries about program and system.

    A system without family, task, config or provenance (a user's map) is recorded as such.
    """
    stored = getattr(system, "provenance", {})
    config = getattr(system, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        config = config.to_dict()
    how = ", blocks compiled" if getattr(system, "compiled", None) in ("iteration", "training") else ""
    return {
        "Conventions": "CF-1.11",
        "schema_version": SCHEMA_VERSION,
        "title": "eqrlab: attractor landscape of a recursive reasoner",
        "source": f"eqrlab {__version__}, torch {torch.__version__}, Python {platform.python_version()}{how}",
        "history": f"{now()} {' '.join(sys.argv[:1]) or 'python'}",
        "created": now(),
        "checkpoint": stored.get("checkpoint", "none"),
        "checkpoint_sha256": stored.get("checkpoint_sha256", "none"),
        "checkpoint_provenance": stored,
        "family": str(getattr(system, "family", "map")),
        "task": str(getattr(system, "task", "unknown")),
        "config": dict(config) if isinstance(config, Mapping) else dict(getattr(config, "__dict__", {})),
    }


def identity(system: Any) -> dict[str, str]:
    """Return which model a system is: its checkpoint and family, and which weights of a file that has several."""
    return identity_in(provenance(system))


def identity_in(attributes: Mapping[Any, Any]) -> dict[str, str]:
    """Return which model results are of, by their attributes, as far as these tell."""
    about = {name: str(attributes[name]) for name in ("checkpoint_sha256", "family") if name in attributes}
    stored = attributes.get("checkpoint_provenance", {})
    weights = (json.loads(stored) if isinstance(stored, str) else stored).get("weights")
    return about if weights is None else {**about, "weights": str(weights)}


def migrated(group: xr.Dataset) -> xr.Dataset:
    """Return a group read from a file as one of the present schema version.

    Raises
    ------
    ValueError
        When it is of a newer version than this program knows.

    Notes
    -----
    Groups without the attribute `schema_version` are of version 1, or not of eqrlab.
    """
    version = int(group.attrs.get("schema_version", 1))
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {version} is newer than this eqrlab, which reads up to {SCHEMA_VERSION}: update it"
        )
    for step in range(version, SCHEMA_VERSION):
        group = MIGRATIONS[step](group).assign_attrs(schema_version=step + 1)
    return group


def now() -> str:
    """Return the present time, UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


CARRIED = (
    "Conventions", "schema_version", "title", "source", "checkpoint", "checkpoint_sha256", "checkpoint_provenance",
    "family", "task", "config", "seed", "restarts", "depth", "noise", "init_std", "initial_law", "dtype", "device",
    "products", "tolerances", "oracle", "residuals", "waves", "history",
)  # fmt: skip


def carried(ensemble: xr.Dataset) -> dict[str, Any]:
    """Return the attributes that results derived from an ensemble take over from it.

    Raises
    ------
    ValueError
        When the ensemble is one of an unfinished export.
    """
    require_complete(ensemble)
    return {**{k: ensemble.attrs[k] for k in CARRIED if k in ensemble.attrs}, "created": now()}


def carried_together(ensembles: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Return the attributes of results derived from several ensembles, by label: {label: value} where they differ."""
    each = {label: carried(ensemble) for label, ensemble in ensembles.items()}
    together: dict[str, Any] = {}
    for name in dict.fromkeys(name for attributes in each.values() for name in attributes):
        values = {label: attributes[name] for label, attributes in each.items() if name in attributes}
        first = next(iter(values.values()))
        alike = len(values) == len(each) and all(value == first for value in values.values())
        whole = alike or name in ("history", "created")
        together[name] = first if whole else {label: _parsed(value) for label, value in values.items()}
    return together


def _parsed(value: Any) -> Any:
    """Return the value of an attribute as JSON holds it."""
    if isinstance(value, np.generic):
        return value.item()
    try:
        return json.loads(value) if str(value)[:1] in ("{", "[") else value
    except ValueError:  # the name of a file
        return value


def require_complete(ensemble: xr.Dataset) -> None:
    """Refuse, with a ValueError, an ensemble of an unfinished export: runs that are missing must not count."""
    if not int(ensemble.attrs.get("complete", 1)):
        raise ValueError(
            "the ensemble is unfinished: resume its export, or take what is there with attractors.completed_part"
        )
