"""Check of an archive against the schema, checksums included; reports the first violation in a sentence.

Runs in the child process of `archive.look`, so it imports nothing heavy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import netCDF4
import numpy as np

from eqrlab.attractors.results.variables import ATTRIBUTES, GROUPS, SCHEMA_VERSION

SLAB = 2**25  # bytes read at once ...
READING = 20  # ... and seconds of processor time that may take
NESTED = 32  # the most that JSON is nested
SLACK = 1e-6  # by which shares may miss 0 and 1
KINDS = {"float": "f", "int": "iu", "flag": "iu", "bool": "i", "complex": "f", "text": "OU"}
DECODED = (
    "scale_factor",
    "add_offset",
    "missing_value",
    "_Unsigned",
    "valid_min",
    "valid_max",
    "valid_range",
)
SHARED = {  # dimensions that groups of one checkpoint have in common
    "puzzle": ("ensemble", "basins", "alignment", "modes", "spectrum", "noop", "sensitivity"),
    "restart": ("ensemble", "basins"),
    "token": ("ensemble", "basins"),
}
Bound = tuple[float, float | str]  # the name of a dimension: its last number; "size of" it: one more


class Rule(NamedTuple):
    """What the schema says of a variable: its possible dimensions, kind, meanings of flags, and if it must be there."""

    dims: tuple[str, ...]
    kind: str
    flags: str
    required: bool


class Schema(NamedTuple):
    """The schema as tables: its version; attribute to (groups, type), those that may be missing apart; group to its
    variables; "group/variable" or attribute to its range."""

    version: int
    attributes: dict[str, tuple[tuple[str, ...], str]]
    optional: dict[str, tuple[tuple[str, ...], str]]
    groups: dict[str, dict[str, Rule]]
    ranges: dict[str, Bound]


class Found(NamedTuple):
    """What was checked: groups, variables, variables whose checksum was compared, and variables of known groups that
    SCHEMA.md does not list."""

    groups: int
    variables: int
    checksums: int
    unlisted: list[str]


@functools.cache
def read_schema() -> Schema:
    """Return the registry as tables."""
    schema = Schema(SCHEMA_VERSION, {}, {}, {}, {})
    for a in ATTRIBUTES:
        name, known = a.name.rstrip("?"), schema.optional if a.name.endswith("?") else schema.attributes
        known[name] = (tuple(a.groups.split()), a.kind)
        if a.least is not None or a.most is not None:
            schema.ranges[name] = _bound(a.least, a.most)
    for group in GROUPS:
        rules = schema.groups[group.name] = {}
        for v in group.variables:
            name, flags = v.name.rstrip("?"), "" if isinstance(v.kind, str) else " ".join(v.kind)
            dims = tuple("" if d == "-" else d for d in v.dims.split(" or "))
            rules[name] = Rule(dims, v.kind if isinstance(v.kind, str) else "flag", flags, name == v.name)
            if v.least is not None or v.most is not None:
                schema.ranges[f"{group.name}/{name}"] = _bound(v.least, v.most)
        for name, least in group.coordinates.items():
            schema.ranges[f"{group.name}/{name}"] = _bound(least, None)
    return schema


def _bound(least: float | None, most: float | str | None) -> Bound:
    return (-math.inf if least is None else least, math.inf if most is None else most)


def check(
    path: str | Path,
    *,
    values: bool | Collection[str] = True,
    complete: bool = True,
    step: Callable[..., None] = lambda *_: None,
) -> Found:
    """Check the contents of a file against the schema.

    Parameters
    ----------
    values, complete
        As for `archive.look`.
    step
        Called before each thing that takes time, with the seconds of a long one: a watchdog is told of progress.

    Raises
    ------
    ValueError
        At the first violation: group, variable or attribute, what is there and what is required.
    """
    # Else the last chunks of all variables stay in memory until the file is closed.
    netCDF4.set_chunk_cache(1)
    try:
        file = netCDF4.Dataset(path)
    except OSError as error:
        raise ValueError(f"not a readable NetCDF-4 file ({error.strerror or error})") from None
    with file:
        file.set_auto_maskandscale(False)
        if not file.groups:
            raise ValueError("holds no group; a group for each result is required, such as /ensemble")
        checked = _Check(values, complete, step, Path(path).stat().st_size)
        for group in _groups(file):
            for fault in checked.faults(group):
                where = "" if group.path == "/" else f"group {group.path}, "
                raise ValueError(f"{where}{fault}")
    return Found(checked.groups, checked.variables, checked.checksums, checked.unlisted)


def _groups(group: netCDF4.Dataset) -> Iterator[netCDF4.Dataset]:
    yield group
    for inner in group.groups.values():
        yield from _groups(inner)


def _attributes(thing: netCDF4.Dataset | netCDF4.Variable) -> dict[str, Any]:
    return {name: thing.getncattr(name) for name in thing.ncattrs()}


def _rules(group: netCDF4.Dataset) -> dict[str, Rule]:
    """Return the rules of a group's variables, bounds included."""
    rules = dict(read_schema().groups.get(group.name, {}))
    for name in group.variables:
        base = re.sub(r"_(low|high)$", "", name)
        if base in rules and name not in rules:
            rules[name] = rules[base]._replace(required=False)
    return rules


def _is_coordinate(group: netCDF4.Dataset, name: str) -> bool:
    return group.variables[name].dimensions in ((name,), (name.removesuffix("_name"),))


class _Check:
    """Goes through the groups of a file, and counts what it has seen."""

    def __init__(self, values: bool | Collection[str], complete: bool, step: Callable[..., None], size: int):
        self.values, self.complete, self.step, self.size = values, complete, step, size
        self.groups = self.variables = self.checksums = self.text = 0
        self.unlisted: list[str] = []
        self.sizes: dict[tuple[str, str], tuple[str, int]] = {}  # (checkpoint, dimension) to (group, size)

    def faults(self, group: netCDF4.Dataset) -> Iterator[str]:
        """Yield what is wrong with a group; one without variables only holds others."""
        self.step()
        about = _attributes(group)
        if group.path == "/" or group.variables:
            version = about.get("schema_version", 1)
            if not self.complete and isinstance(version, np.integer) and version > read_schema().version:
                return  # its rules are not known: who reads it says so
            if self.complete:
                yield from _version_faults(about)
        if not group.variables:
            return
        self.groups += 1
        known = group.name in read_schema().groups
        yield from self._attribute_faults(group.name, about)
        yield from self._size_faults(group)
        rules = _rules(group)
        if self.complete:
            for name in group.dimensions:
                named = [n for n in (name, f"{name}_name") if n in group.variables]
                if not any(group.variables[n].dimensions == (name,) for n in named):
                    yield f"dimension {name!r} has no coordinate"
            for name, rule in rules.items():
                if rule.required and name not in group.variables:
                    yield f"variable {name!r} is missing"
        for name, variable in group.variables.items():
            self.step()
            self.variables += 1
            coordinate = _is_coordinate(group, name)
            listed = known and (name in rules or coordinate)
            if known and not listed:
                self.unlisted.append(f"{group.path}/{name}")
            for fault in _variable_faults(variable, rules.get(name), listed, self.complete):
                yield f"variable {name!r} {fault}"
            wanted = self.values if isinstance(self.values, bool) else name in self.values
            if wanted or coordinate:
                bound = read_schema().ranges.get(f"{group.name}/{name}")
                for fault in self._value_faults(variable, listed, bound):
                    yield f"variable {name!r} {fault}"
        if group.name == "ensemble" and self.complete:
            yield from _ensemble_faults(group, about)

    def _attribute_faults(self, group: str, about: dict[str, Any]) -> Iterator[str]:
        schema = read_schema()
        for required, table in ((self.complete, schema.attributes), (False, schema.optional)):
            for name, (where, kind) in table.items():
                if ("every" in where or group in where) and (required or name in about):
                    yield from _attribute_faults(name, kind, about)

    def _size_faults(self, group: netCDF4.Dataset) -> Iterator[str]:
        """Yield dimensions that differ from those of another group of the checkpoint, or that nothing is along."""
        for name, dimension in group.dimensions.items():
            if group.name not in SHARED.get(name, ()):
                continue
            size = len(dimension)
            if not size:
                yield f"dimension {name!r} is empty"
            other, before = self.sizes.setdefault((group.path.rpartition("/")[0], name), (group.path, size))
            if size != before:
                yield f"dimension {name!r} has {size}, in {other} it has {before}"

    def _value_faults(self, variable: netCDF4.Variable, listed: bool, bound: Bound | None) -> Iterator[str]:
        """Yield what is wrong with a variable's values: checksum, flags, booleans, range."""
        about = _attributes(variable)
        if "sha256" not in about and listed and self.complete:
            yield "has no sha256"
        allowed = None
        if about.get("dtype") == "bool":
            allowed = np.array([0, 1])
        elif "flag_values" in about:
            allowed = np.append(np.atleast_1d(about["flag_values"]), -1)
        low, high = _limits(bound, variable)
        digest = hashlib.sha256()
        self.step(READING)
        for values in _slabs(variable):
            self.step(READING)
            if allowed is not None and not np.isin(values, allowed).all():
                yield f"holds {values[~np.isin(values, allowed)].flat[0]}, one of {allowed.tolist()} is required"
            if bound is not None and values.dtype.kind in "iuf":
                out = (values < low) | (values > high)  # NaN is neither
                if out.any():
                    yield f"holds {values[out].flat[0]}, numbers from {low:g} to {high:g} are required"
            if values.dtype.kind in "OUS":
                text = b"".join(str(v).encode() + b"\0" for v in values.reshape(-1))
                self.text += len(text) - values.size
                if self.text > self.size:  # it is not compressed: many entries may stand for the same bytes
                    yield "holds more text than the file has bytes"
                digest.update(text)
            else:
                digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        if "sha256" in about:
            self.checksums += 1
            if digest.hexdigest() != about["sha256"]:
                yield "does not have the values of its checksum: it was changed or damaged"


def _limits(bound: Bound | None, variable: netCDF4.Variable) -> tuple[float, float]:
    """Return the range of a variable in numbers."""
    low, high = bound or (-math.inf, math.inf)
    if isinstance(high, str):
        name = high.removeprefix("size of ")
        found = variable.group().dimensions.get(name)
        return low, math.inf if found is None else len(found) - (name == high)
    return (low, high) if variable.dtype is str or variable.dtype.kind != "f" else (low - SLACK, high + SLACK)


def _version_faults(about: Mapping[str, Any]) -> Iterator[str]:
    found, newest = about.get("Conventions"), read_schema().version
    if found != "CF-1.11":
        yield f"attribute 'Conventions' is {found!r}, 'CF-1.11' is required"
    version = about.get("schema_version")
    if not isinstance(version, (int, np.integer)):
        yield f"attribute 'schema_version' is {version!r}, a whole number is required"
    elif not 1 <= version <= newest:
        newer = f"; schema_version {version} is newer than this eqrlab: update it" if version > newest else ""
        yield f"attribute 'schema_version' is {version}, this eqrlab knows 1 to {newest}{newer}"


def _attribute_faults(name: str, kind: str, about: dict[str, Any]) -> Iterator[str]:
    if name not in about:
        yield f"attribute {name!r} is missing"
        return
    value: Any = about[name]
    number: Any = value  # type checkers narrow the other one
    types: dict[str, tuple[type, ...]] = {"int": (int, np.integer), "float": (int, float, np.number)}
    if not isinstance(value, types.get(kind, (str,))) or (kind == "text" and not value):
        yield f"attribute {name!r} is {value!r}, {kind} is required"
    elif kind.startswith("one of ") and value not in kind.split()[2:]:
        yield f"attribute {name!r} is {value!r}, {kind} is required"
    elif kind == "json":
        try:
            sound = isinstance(found := json.loads(str(value)), dict) and _nesting(found) <= NESTED
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            yield f"attribute {name!r} is not a JSON object: {str(value)[:60]!r}"
    elif name in read_schema().ranges:
        low, high = read_schema().ranges[name]
        assert not isinstance(high, str)
        if not low <= number <= high or not math.isfinite(number):
            yield f"attribute {name!r} is {value}, a number from {low:g} to {high:g} is required"


def _nesting(value: Any) -> int:
    """Return how deep lists and objects are nested."""
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, (dict, list))]:
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth


def _variable_faults(
    variable: netCDF4.Variable, rule: Rule | None, listed: bool, complete: bool
) -> Iterator[str]:
    """Yield what is wrong with a variable's labels, dimensions and type."""
    about = _attributes(variable)
    kind = np.dtype(object if variable.dtype is str else variable.dtype).kind
    needed = ("long_name",) if kind in "OUS" else ("long_name", "units")
    for name in needed if complete else ():
        if not isinstance(about.get(name), str) or not about[name].strip():
            yield f"has no {name}"
    meanings = about.get("flag_meanings", "")
    if not isinstance(meanings, str):
        yield f"has flag_meanings {meanings!r}, text is required"
    elif complete and ("flag_values" in about) != ("flag_meanings" in about):
        yield "has only one of flag_values and flag_meanings"
    elif complete and meanings and len(np.atleast_1d(about["flag_values"])) != len(meanings.split()):
        yield f"has {len(np.atleast_1d(about['flag_values']))} flag_values for {len(meanings.split())} flag_meanings"
    if listed:
        yield from _decoding_faults(about, kind)
    if rule is None or not complete:
        return
    dims = [d for d in variable.dimensions if rule.kind != "complex" or d != "ri"]
    if not any(re.fullmatch(_pattern(wanted), " ".join(dims)) for wanted in rule.dims):
        yield f"has dimensions ({', '.join(dims)}), ({' or '.join(rule.dims)}) is required"
    if rule.kind == "complex" and (not variable.dimensions or variable.dimensions[-1] != "ri"):
        yield "has no last dimension ri, a complex number is required"
    if kind not in KINDS[rule.kind]:
        yield f"is of type {variable.dtype}, {rule.kind} is required"
    if (rule.kind == "bool") != (about.get("dtype") == "bool"):
        yield 'has no attribute dtype = "bool"' if rule.kind == "bool" else 'has the attribute dtype = "bool"'
    if rule.kind == "flag":
        known, words = rule.flags.split(), meanings.split()
        if not words or words != known[: len(words)]:  # older archives may lack those added since
            yield f"has flag_meanings {meanings!r}, {rule.flags!r} is required"
        if not np.array_equal(about.get("flag_values", ()), np.arange(len(words))):
            yield f"has flag_values {about.get('flag_values')}, 0, 1, ... is required"


def _decoding_faults(about: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Yield attributes by which readers would make other values of those that are stored."""
    for name in DECODED:
        if name in about:
            yield f"has the attribute {name!r}, by which it would be read as other values"
    if "_FillValue" in about and not (kind == "f" and np.isnan(about["_FillValue"]).all()):
        yield f"has _FillValue {about['_FillValue']}; NaN, of floats alone, is what is missing"


def _pattern(dims: str) -> str:
    """Return the pattern of dimensions joined by spaces, `state_*` being any number of state dimensions."""
    return re.escape(dims).replace(r"state_\*", r"state_\d+( state_\d+)*")


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
