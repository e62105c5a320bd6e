"""Validation of archives: whether a file keeps the schema, and whether its checksums are right."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eqrlab.attractors.results import archive


class Summary(NamedTuple):
    """What was checked: groups, variables, and variables whose checksum was compared."""

    groups: int
    variables: int
    checksums: int


def validate(path: str | Path, *, checksums: bool = True) -> Summary:
    """Check an archive against the schema.

    Parameters
    ----------
    checksums
        Also read all values: compare checksums, and flags and numbers with what they may be.

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
    Reads a file once, in pieces of 32 MB, whatever its size, in a process of its own: see `archive.look`.

    Examples
    --------
    >>> validate("nowhere.nc")
    Traceback (most recent call last):
        ...
    ValueError: nowhere.nc: no such file; expected an archive written by eqrlab
    """
    found = archive.look(path, values=checksums)
    return Summary(found["groups"], found["variables"], found["checksums"])


def unlisted(path: str | Path) -> list[str]:
    """Return the variables of known groups that the schema does not list, as /group/name."""
    return archive.look(path)["unlisted"]
