"""The verbs of the command line: those in `analyses/commands`, and those of other packages."""

from __future__ import annotations

import functools
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click

from eqrlab.analyses import commands

GROUP = "eqrlab.commands"
FIRST = ("diagnose", "compare", "basins", "scale", "export", "evaluate", "info")  # in help, before the others
# A verb in a source file: its name, its function and the first sentence of its help.  Importing the files instead
# would load torch, and `eqrlab --help` would take seconds.
_VERB = re.compile(
    r'^@click\.(?:command|group)\(\s*"([\w-]+)".*?^def (\w+)\(.*?^    """(.*?)(?:\.\s|\.?""")',
    re.DOTALL | re.MULTILINE,
)


class Verb(NamedTuple):
    """The place of a verb's command, and a sentence about what it does."""

    module: str
    function: str
    summary: str


@functools.cache
def verbs() -> dict[str, Verb]:
    """Return the verbs of this package by name, in the order of `--help`."""
    found = {
        name: Verb(f"{commands.__name__}.{file.stem}", function, " ".join(summary.split()) + ".")
        for folder in commands.__path__
        for file in sorted(Path(folder).glob("*.py"))
        for name, function, summary in _VERB.findall(file.read_text(encoding="utf-8"))
    }
    return {name: found[name] for name in (*FIRST, *sorted({*found} - {*FIRST}))}


def installed() -> dict[str, str]:
    """Return the verbs that other packages add, name to the package."""
    # `importlib.metadata` takes half as long to import as all of `--help` does: it is left alone where no package can
    # have such a verb.
    files = (file for folder in sys.path for file in Path(folder).glob("*-info/entry_points.txt"))
    if not any(GROUP in file.read_text(encoding="utf-8", errors="replace") for file in files):
        return {}
    from eqrlab.core import plugins

    found = plugins.installed(GROUP)
    return {name: plugins.origin(entry) for name, entry in found.items() if name not in verbs()}


def command_of(name: str) -> click.Command | None:
    """Return the command of a verb, or None if there is no such verb; verbs of this package take precedence.

    Raises
    ------
    ValueError
        When what another package gives for it cannot be imported, or is no command of click.
    """
    if name in verbs():
        verb = verbs()[name]
        return getattr(import_module(verb.module), verb.function)
    from eqrlab.core import plugins

    entry = plugins.installed(GROUP).get(name)
    if entry is None:
        return None
    command = plugins.imported(entry, "verb")
    if not isinstance(command, click.Command):
        raise ValueError(
            f"verb {name!r} of {plugins.origin(entry)}: {entry.value} must be a command of click"
        )
    return command
