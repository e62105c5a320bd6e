"""The model families: those that files of this folder define, and those of other installed packages."""

from __future__ import annotations

import functools
import pkgutil
from importlib import import_module

from eqrlab.core import models, plugins
from eqrlab.core.messages import did_you_mean
from eqrlab.core.models.reasoner import Reasoner

GROUP = "eqrlab.families"


@functools.cache
def built_in() -> dict[str, type[Reasoner]]:
    """Return the families of this folder by name: subclasses of `Reasoner` with a `family` of their own."""
    modules = [
        import_module(f"{models.__name__}.{found.name}") for found in pkgutil.iter_modules(models.__path__)
    ]
    return {
        thing.family: thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Reasoner) and "family" in vars(thing)
    }


def families() -> list[str]:
    """Return the names of all families: those of eqrlab, then those of other packages, which are not imported.

    Examples
    --------
    >>> families()[:6]
    ['eqr', 'feedforward', 'hrm', 'tied', 'trm', 'urm']
    """
    return list(dict.fromkeys([*built_in(), *plugins.installed(GROUP)]))


def family_named(name: str) -> type[Reasoner]:
    """Return the class of a family; no other package can replace a family of eqrlab.

    Raises
    ------
    ValueError
        If there is no family of that name, or the object that a package provides is not a family of that name.
    """
    if name in built_in():
        return built_in()[name]
    entry = plugins.installed(GROUP).get(name)
    if entry is None:
        known = families()
        raise ValueError(
            f"family {name!r} unknown; choose from {', '.join(known)}{did_you_mean(name, known)}"
        )
    found = plugins.imported(entry, "family")
    if not (isinstance(found, type) and issubclass(found, Reasoner) and vars(found).get("family") == name):
        raise ValueError(
            f"family {name!r} of {plugins.origin(entry)}: {entry.value} must be a subclass of eqrlab.core.Reasoner "
            f"with family = {name!r}"
        )
    return found
