"""Is an archive what SCHEMA.md says?  The first violation, in a sentence; checksums included."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import netCDF4
import numpy as np

from eqrlab.attractors.results import schema

SLAB = 2**25  # bytes read at once
KINDS = {"float": "f", "int": "iu", "flag": "iu", "bool": "i", "complex": "f", "text": "OU"}


class Rule(NamedTuple):
    """What SCHEMA.md says of a variable: its possible dimensions, kind, meanings of flags, and if it must be there."""

    dims: tuple[str, ...]
    kind: str
    flags: str
    required: bool


class Summary(NamedTuple):
    """What was checked: groups, variables, and variables whose checksum was compared."""

    groups: int
    variables: int
    checksums: int


@functools.cache
def schema_tables() -> tuple[dict[str, tuple[tuple[str, ...], str]], dict[str, dict[str, Rule]]]:
    """Return the tables of SCHEMA.md: attribute to (groups, type), and group to its variables."""
    text = (files("eqrlab.attractors") / "SCHEMA.md").read_text(encoding="utf-8")
    attributes: dict[str, tuple[tuple[str, ...], str]] = {}
    groups: dict[str, dict[str, Rule]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines() if line.startswith("| `")]
        cells = [[cell.strip() for cell in row] for row in rows]
        if title == "Attributes":
            attributes = {name.strip("`"): (tuple(where.split()), kind) for name, where, kind, _ in cells}
        elif title.startswith("Group "):
            groups[title.removeprefix("Group ").strip()] = {
                name.strip("?`"): Rule(
                    tuple("" if d == "-" else d for d in dims.split(" or ")),
                    kind.split(":")[0], kind.partition(": ")[2], not name.endswith("?"),
                )
                for name, dims, kind, _ in cells
            }  # fmt: skip
    return attributes, groups


def validate(path: str | Path, *, checksums: bool = True) -> Summary:
    """Check an archive against the schema.

    Parameters
    ----------
    checksums
        Also read all values: compare checksums, and flags with their meanings.

    Returns
    -------
    Summary
        How much was checked.

    Raises
    ------
    ValueError
        At the first violation: file, group, variable or attribute, what is there and what is required.

    Notes
    -----
    Reads a file once, in pieces of 32 MB, whatever its size.

    Examples
    --------
    >>> validate("nowhere.nc")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.nc: no such file
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        file = netCDF4.Dataset(path)
    except OSError as error:
        raise ValueError(f"{path}: not a readable NetCDF-4 file ({error.strerror or error})") from None
    with file:
        file.set_auto_maskandscale(False)
        counts = np.zeros(3, int)
        try:
            if not file.groups:
                raise ValueError("holds no group; a group for each result is required, such as /ensemble")
            for group in _groups(file):
                for fault in _faults(group, checksums, counts):
                    where = "" if group.path == "/" else f"group {group.path}, "
                    raise ValueError(f"{where}{fault}")
        except (
            ValueError,
            RuntimeError,
            OSError,
        ) as error:  # the library's own: a damaged chunk, for example
            raise ValueError(f"{path}: {error}") from None
    return Summary(*map(int, counts))


def unlisted(path: str | Path) -> list[str]:
    """Return the variables of known groups that SCHEMA.md does not list, as /group/name."""
    with netCDF4.Dataset(path) as file:
        return [
            f"{group.path}/{name}"
            for group in _groups(file)
            for name in group.variables
            if group.name in schema_tables()[1]
            and name not in _rules(group)
            and not _is_coordinate(group, name)
        ]


def _groups(group: netCDF4.Dataset) -> Iterator[netCDF4.Dataset]:
    yield group
    for inner in group.groups.values():
        yield from _groups(inner)


def _rules(group: netCDF4.Dataset) -> dict[str, Rule]:
    """Return the rules of a group's variables, bounds included."""
    rules = dict(schema_tables()[1].get(group.name, {}))
    for name in group.variables:
        base = re.sub(r"_(low|high)$", "", name)
        if base in rules and name not in rules:
            rules[name] = rules[base]._replace(required=False)
    return rules


def _is_coordinate(group: netCDF4.Dataset, name: str) -> bool:
    return group.variables[name].dimensions in ((name,), (name.removesuffix("_name"),))


def _faults(group: netCDF4.Dataset, checksums: bool, counts: np.ndarray) -> Iterator[str]:
    """Yield what is wrong with a group; one without variables only holds others."""
    about = {name: group.getncattr(name) for name in group.ncattrs()}
    if group.path == "/" or group.variables:
        yield from _version_faults(about)
    if not group.variables:
        return
    counts[0] += 1
    for name, (where, kind) in schema_tables()[0].items():
        if "every" in where or group.name in where:
            yield from _attribute_faults(name, kind, about)
    for name in group.dimensions:
        named = [n for n in (name, f"{name}_name") if n in group.variables]
        if not any(group.variables[n].dimensions == (name,) for n in named):
            yield f"dimension {name!r} has no coordinate"
    rules = _rules(group)
    for name, rule in rules.items():
        if rule.required and name not in group.variables:
            yield f"variable {name!r} is missing"
    for name, variable in group.variables.items():
        counts[1] += 1
        for fault in _variable_faults(variable, rules.get(name)):
            yield f"variable {name!r} {fault}"
        if checksums:
            listed = name in rules or _is_coordinate(group, name)
            for fault in _value_faults(variable, group.name in schema_tables()[1] and listed, counts):
                yield f"variable {name!r} {fault}"
    if group.name == "ensemble":
        yield from _ensemble_faults(group, about)


def _version_faults(about: dict[str, Any]) -> Iterator[str]:
    found = about.get("Conventions")
    if found != "CF-1.11":
        yield f"attribute 'Conventions' is {found!r}, 'CF-1.11' is required"
    version = about.get("schema_version")
    if not isinstance(version, (int, np.integer)):
        yield f"attribute 'schema_version' is {version!r}, a whole number is required"
    elif not 1 <= version <= schema.SCHEMA_VERSION:
        yield f"attribute 'schema_version' is {version}, this eqrlab knows 1 to {schema.SCHEMA_VERSION}"


def _attribute_faults(name: str, kind: str, about: dict[str, Any]) -> Iterator[str]:
    if name not in about:
        yield f"attribute {name!r} is missing"
        return
    value: Any = about[name]
    types: dict[str, tuple[type, ...]] = {"int": (int, np.integer), "float": (int, float, np.number)}
    if not isinstance(value, types.get(kind, (str,))) or (kind == "text" and not value):
        yield f"attribute {name!r} is {value!r}, {kind} is required"
    elif kind == "json":
        try:
            sound = isinstance(json.loads(str(value)), dict)
        except ValueError:
            sound = False
        if not sound:
            yield f"attribute {name!r} is not a JSON object: {str(value)[:60]!r}"


def _variable_faults(variable: netCDF4.Variable, rule: Rule | None) -> Iterator[str]:
    """Yield what is wrong with a variable's labels, dimensions and type."""
    about = {name: variable.getncattr(name) for name in variable.ncattrs()}
    kind = np.dtype(object if variable.dtype is str else variable.dtype).kind
    needed = ("long_name",) if kind in "OUS" else ("long_name", "units")
    for name in needed:
        if not isinstance(about.get(name), str) or not about[name].strip():
            yield f"has no {name}"
    meanings = about.get("flag_meanings", "")
    if ("flag_values" in about) != ("flag_meanings" in about):
        yield "has only one of flag_values and flag_meanings"
    elif meanings and len(np.atleast_1d(about["flag_values"])) != len(meanings.split()):
        yield f"has {len(np.atleast_1d(about['flag_values']))} flag_values for {len(meanings.split())} flag_meanings"
    if rule is None:
        return
    dims = [d for d in variable.dimensions if rule.kind != "complex" or d != "ri"]
    if not any(re.fullmatch(_pattern(wanted), " ".join(dims)) for wanted in rule.dims):
        yield f"has dimensions ({', '.join(dims)}), ({' or '.join(rule.dims)}) is required"
    if rule.kind == "complex" and (not variable.dimensions or variable.dimensions[-1] != "ri"):
        yield "has no last dimension ri, a complex number is required"
    if kind not in KINDS[rule.kind]:
        yield f"is of type {variable.dtype}, {rule.kind} is required"
    if rule.kind == "bool" and about.get("dtype") != "bool":
        yield 'has no attribute dtype = "bool"'
    if rule.kind == "flag" and meanings != rule.flags:
        yield f"has flag_meanings {meanings!r}, {rule.flags!r} is required"


def _pattern(dims: str) -> str:
    """Return the pattern of dimensions joined by spaces, `state_*` being any number of state dimensions."""
    return re.escape(dims).replace(r"state_\*", r"state_\d+( state_\d+)*")


def _value_faults(variable: netCDF4.Variable, required: bool, counts: np.ndarray) -> Iterator[str]:
    """Yield what is wrong with a variable's values: checksum, flags, booleans."""
    about = {name: variable.getncattr(name) for name in variable.ncattrs()}
    if "sha256" not in about:
        if required:
            yield "has no sha256"
        return
    allowed = None
    if about.get("dtype") == "bool":
        allowed = np.array([0, 1])
    elif "flag_values" in about:
        allowed = np.append(np.atleast_1d(about["flag_values"]), -1)
    digest = hashlib.sha256()
    for values in _slabs(variable):
        if allowed is not None and not np.isin(values, allowed).all():
            yield f"holds {values[~np.isin(values, allowed)].flat[0]}, one of {allowed.tolist()} is required"
        if values.dtype.kind in "OUS":
            digest.update(b"".join(str(v).encode() + b"\0" for v in values.reshape(-1)))
        else:
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    counts[2] += 1
    if digest.hexdigest() != about["sha256"]:
        yield "does not have the values of its checksum: it was changed or damaged"


def _slabs(variable: netCDF4.Variable) -> Iterator[np.ndarray]:
    """Yield the values of a variable in C order, in pieces."""
    shape, size = variable.shape, 64 if variable.dtype is str else variable.dtype.itemsize
    axis = 0
    while axis < len(shape) - 1 and int(np.prod(shape[axis + 1 :], dtype=object)) * size > SLAB:
        axis += 1
    if not shape or not np.prod(shape, dtype=object):
        yield np.asarray(variable[...])
        return
    step = max(SLAB // (int(np.prod(shape[axis + 1 :], dtype=object)) * size), 1)
    for outer in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield np.asarray(variable[(*outer, slice(start, start + step))])


def _ensemble_faults(group: netCDF4.Dataset, about: dict[str, Any]) -> Iterator[str]:
    for name, dim in (("restarts", "restart"), ("depth", "step")):
        if dim in group.dimensions and len(group.dimensions[dim]) != about[name]:
            yield f"attribute {name!r} is {about[name]}, dimension {dim!r} has {len(group.dimensions[dim])}"
    if int(about.get("complete", 1)) == ("sampled" in group.variables):
        yield f"attribute 'complete' is {about.get('complete', 1)} and 'sampled' says otherwise"
