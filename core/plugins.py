"""What other installed packages add to eqrlab: entry points of the groups eqrlab.commands, eqrlab.families, ...."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from eqrlab.core.messages import one_line


def entries(group: str) -> list[EntryPoint]:
    """Return the entry points of a group in the order of their names; nothing is imported."""
    return sorted(entry_points(group=group), key=lambda entry: entry.name)


def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; if several packages use a name, the last."""
    return {entry.name: entry for entry in entries(group)}


def origin(entry: EntryPoint) -> str:
    """Return the package and version that an entry point comes from."""
    return "another package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def imported(entry: EntryPoint, kind: str) -> Any:
    """Import and return the object that an entry point names.

    Parameters
    ----------
    kind
        What it is to be, for the message: "family", "verb", ....

    Raises
    ------
    ValueError
        When it cannot be imported.
    """
    try:
        return entry.load()
    except Exception as error:  # whatever the other package raises
        said = f"{kind} {entry.name!r} of {origin(entry)} cannot be imported from {entry.value}: {error}"
        raise ValueError(one_line(said, 600)) from error
