"""Results of finished checkpoints, and runs of one under way, stored while a diagnosis is not complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.compare import COMPARISONS
from eqrlab.attractors.results import archive, schema
from eqrlab.attractors.results.groups import results_of
from eqrlab.attractors.streaming.row_store import REQUEST, RowStore
from eqrlab.core import Reasoner
from eqrlab.core.regular import parse_json, read_text, require_regular
from eqrlab.datasets import PuzzleSet

Groups = dict[str, xr.Dataset]
CONTINUE = "the same command with --resume continues"
OLD = "was written without --resume in mind: it does not say how it was run"


def request(model: Reasoner, puzzles: PuzzleSet, options: Mapping[str, Any], compiled: bool) -> str:
    """Return everything on which the results of one checkpoint depend, as JSON that can be compared."""
    about = {**schema.identity(model), "config": schema.provenance(model)["config"]}
    about |= {"inputs": _sha256(puzzles.inputs), "labels": _sha256(puzzles.labels), "compiled": compiled}
    if puzzles.identifiers is not None:
        about["identifiers"] = _sha256(puzzles.identifiers)
    about |= {name: value for name, value in options.items() if name != "quiet"}
    return json.dumps(about, sort_keys=True, default=str)


def _sha256(values: np.ndarray | None) -> str:
    return (
        "none"
        if values is None
        else hashlib.sha256(np.ascontiguousarray(values, "<i8").tobytes()).hexdigest()
    )


class Kept:
    """The finished checkpoints of a run, each in TARGET.parts/HASH.nc, and runs of one under way in HASH.rows.

    Parameters
    ----------
    target
        The archive of the whole run.
    wanted
        Name to `request` of each checkpoint.
    resume
        Use the stored results of this run; otherwise none are used.

    Raises
    ------
    ValueError
        If the stored results belong to another run (naming the difference), or are not files.
    OSError
        When nothing can be written there.

    Notes
    -----
    Files of other runs in that folder are left alone.
    """

    def __init__(self, target: Path, wanted: Mapping[str, str], resume: bool):
        self.target, self.wanted = target, dict(wanted)
        self.folder = target.with_name(f"{target.name}.parts")
        if self.folder.exists():
            require_writable(self.folder, *(self._file(text).name for text in self.wanted.values()))
        self._there: dict[str, Groups] = self._look() if resume else {}
        if not resume:
            for name in self.wanted:
                self.rows(name).remove()

    def _file(self, text: str) -> Path:
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.nc"

    def _look(self) -> dict[str, Groups]:
        """Return the stored results of this run, request to groups; a damaged part is run again."""
        there: dict[str, Groups] = {}
        wanted = set(self.wanted.values())
        begun = any(
            self._file(text).exists() or self.rows(name).files() for name, text in self.wanted.items()
        )
        if self.target.exists():
            for text, groups in stored(self.target):
                if text in wanted:
                    there[text] = groups
                elif not begun:  # what is begun was to replace the archive of another run
                    raise ValueError(f"{self.target}: {self._difference(text)}; choose another --out")
        for text in wanted - set(there):
            file = self._file(text)
            require_regular(file)
            if not file.exists():
                continue
            try:
                ((found, groups),) = stored(file)
            except ValueError as error:
                click.echo(f"note: {error}: it is run again", err=True)
                continue
            if found != text:
                raise ValueError(f"{file}: {self._difference(found)}")
            there[text] = groups
        if not there and not begun:
            self._require_no_other()
        return there

    def _require_no_other(self) -> None:
        """Refuse to resume if only results of another run are there, naming the difference."""
        own = {self._file(text) for text in self.wanted.values()}
        for file in sorted({*self.folder.glob("*.nc"), *self.folder.glob(f"*.rows/{REQUEST}")} - own):
            require_regular(file)
            try:
                if file.name == REQUEST:
                    text: str | None = read_text(file)
                    parse_json(str(text), REQUEST)
                else:
                    ((text, _),) = stored(file)
            except ValueError:  # damaged, or of no run
                continue
            if text in self.wanted.values():
                continue
            raise ValueError(
                f"{file}: {self._difference(text)}; choose another --out, or go without --resume"
            )

    def _difference(self, text: str | None) -> str:
        """Return the difference between a stored run and the most similar one that is requested."""
        if text is None:
            return OLD
        old = parse_json(text, "request")
        news = [json.loads(wanted) for wanted in self.wanted.values()]
        least = min(([k for k in sorted({*old, *new}) if old.get(k) != new.get(k)] for new in news), key=len)
        new = next(n for n in news if all(old.get(k) == n.get(k) for k in {*old, *n} - {*least}))
        shown = (f"{k} {_short(old.get(k))} there, {_short(new.get(k))} here" for k in least)
        return f"belongs to another run: {'; '.join(shown)}"

    def found(self, name: str) -> Groups | None:
        """Return the groups of a finished checkpoint, None if it is not finished."""
        groups = self._there.get(self.wanted[name])
        return groups and {group: dataset.assign_attrs(name=name) for group, dataset in groups.items()}

    def rows(self, name: str) -> RowStore:
        """Return where the runs of a checkpoint are kept while they are sampled."""
        text = self.wanted[name]
        return RowStore(self._file(text).with_suffix(".rows"), request=text)

    def note(self, error: BaseException) -> None:
        """Tell an error how to continue, if runs are kept of a checkpoint that is not done."""
        if any(self.rows(name).folder.is_dir() for name in self.wanted):
            error.add_note(f"what was sampled is kept in {self.folder}; {CONTINUE}")

    def keep(self, name: str, groups: Groups) -> None:
        """Write the groups of a checkpoint; once this returns, they survive a crash.

        Raises
        ------
        OSError
            When they cannot be written.
        """
        groups["ensemble"].attrs["request"] = self.wanted[name]
        archive.write(self._file(self.wanted[name]), groups)
        self.rows(name).remove()

    def remove(self) -> None:
        """Remove the stored results once the archive is complete, and half-written files of killed runs."""
        with contextlib.suppress(OSError):
            for name, text in self.wanted.items():
                self.rows(name).remove()
                file = self._file(text)
                for rest in (file, *self.folder.glob(f".{file.name}.*.tmp")):
                    rest.unlink(missing_ok=True)
            self.folder.rmdir()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."


def stored(file: Path) -> Iterator[tuple[str | None, Groups]]:
    """Yield the request and the groups of each checkpoint in an archive.

    Raises
    ------
    ValueError
        When it is none, or not sound.
    """
    tree = archive.read(file, complete=True)
    for node in (tree, *tree.children.values()):
        groups = {name: found for name, found in results_of(node).items() if name not in COMPARISONS}
        if "ensemble" in groups:
            yield groups["ensemble"].attrs.get("request"), groups
