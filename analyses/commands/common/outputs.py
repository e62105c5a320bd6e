"""The output files of a verb, checked before its run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from eqrlab.core.regular import require_regular

SOURCES = ("checkpoint", "checkpoints", "puzzles", "test_puzzles", "source", "file", "archives", "like",
           "against", "exclude")  # fmt: skip
READ = (".npy", ".json", ".safetensors", ".csv", ".gz")  # of a folder that is an input


def require_writable(folder: Path, *names: str) -> None:
    """Make a folder, and check that these files can be written there and are not inputs of the command.

    Raises
    ------
    ValueError
        For a file that is an input, or something that is no file: a folder, a pipe, a device; for a name that is not
        UTF-8.
    OSError
        When one cannot be written.
    """
    targets = [folder / name for name in names]
    for target in (folder, *targets):
        if any("\ud800" <= letter <= "\udfff" for letter in str(target)):
            raise ValueError(
                f"{str(target)!a}: a name that is not UTF-8 cannot be given to NetCDF; choose another"
            )
    require_regular(*targets)
    _require_others(targets)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or ("eqrlab",):
            probe = folder / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            probe.unlink()
    except OSError as error:
        raise OSError(f"{folder}: cannot write there ({error.strerror})") from None


def _require_others(targets: list[Path]) -> None:
    """Refuse a target that is an input, also by another name: a link, or another way through the folders."""
    there = [target for target in targets if target.exists()]
    for source in _inputs() if there else ():
        for target in there:
            if target.samefile(source):
                raise ValueError(f"{target}: is an input of this command ({source}); choose another name")


def _inputs() -> Iterator[Path]:
    """Yield the files that the arguments of the running command name, of folders those that can be data."""
    context = click.get_current_context(silent=True)
    given: dict[str, Any] = context.params if context else {}
    for name in SOURCES:
        values = given.get(name) or ()
        for value in values if isinstance(values, tuple) else (values,):
            path = Path(value)
            if path.is_file():
                yield path
            elif path.is_dir():
                yield from (p for p in path.rglob("*") if p.suffix in READ and p.is_file())
