"""The folder in which an export keeps completed batches until its archive is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eqrlab.core.checkpoints.load import read_tensors, replaced_whole, write_tensors

FORMAT = 1
OPEN_FILES = 4


class Shard(NamedTuple):
    """One of `of` processes that share an export: it runs every `of`-th batch, from number `number` on."""

    number: int = 0
    of: int = 1


def folder_of(path: Path) -> Path:
    """Return where the parts of an archive are kept: FILE.nc.parts beside it."""
    return path.with_name(f"{path.name}.parts")


@contextmanager
def claimed(path: Path, shard: Shard) -> Iterator[None]:
    """Hold the right to write this shard of an archive; a lock ends with its process, however that ends.

    A single process excludes all others; shards of one division exclude each other's doubles and other divisions.

    Raises
    ------
    BlockingIOError
        When another process has it.
    """
    folder = folder_of(path)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held, contextlib.ExitStack() as briefly:
        mine = f"{shard.number}-of-{shard.of}.lock"
        _take(path, "all.lock", held if shard.of == 1 else briefly, 0 if shard.of == 1 else 30)
        for other in sorted(folder.glob("*-of-*.lock")):
            if not other.name.endswith(f"-of-{shard.of}.lock"):
                _take(path, other.name, briefly, 0)
        _take(path, mine, held, 0)
        briefly.close()
        yield


def _take(path: Path, name: str, stack: contextlib.ExitStack, seconds: float) -> None:
    lock = filelock.FileLock(folder_of(path) / name, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            f"{path}: another process is writing it (it holds {folder_of(path).name}/{name})"
        ) from None
    stack.callback(lock.release)


@contextmanager
def merging(path: Path, shard: Shard) -> Iterator[None]:
    """Hold the right to write the archive itself; other shards wait."""
    with contextlib.ExitStack() as stack:
        if shard.of > 1:
            _take(path, "all.lock", stack, -1)
        yield


def write_plan(folder: Path, plan: Mapping[str, Any], tokens: Mapping[str, np.ndarray]) -> None:
    """Write what the export is: plain values, and the puzzles."""
    tensors = {name: torch.as_tensor(values) for name, values in tokens.items()}
    write_tensors(folder / "plan.safetensors", tensors, {"format": FORMAT, "plan": dict(plan)})
    _sync(folder)


def read_plan(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Return the plan of an export and its puzzles; None where none was begun.

    Raises
    ------
    ValueError
        For a damaged plan, or one of a newer format.
    """
    file = folder / "plan.safetensors"
    if not file.exists():
        return None
    tensors, header = read_tensors(file)
    if header.get("format") != FORMAT:
        raise ValueError(f"{file}: format {header.get('format')}, this eqrlab goes on with {FORMAT} only")
    return header["plan"], {name: values.numpy() for name, values in tensors.items()}


class Parts:
    """Completed batches of an export, by number.

    Attributes
    ----------
    place
        Batch number to (file, first row in it).
    least
        Smallest number of rows run at once where memory did not allow the batch size, else None.

    Notes
    -----
    A file holds the records of a few batches, row axis first.  It appears under its name only when it is complete and
    synced, and the name holds the beginning of the SHA-256 of its content: a damaged file is found, left out and
    computed again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.place: dict[int, tuple[Path, int]] = {}
        self.least: int | None = None
        self._seen: set[str] = set()
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def clean(self, shard: Shard) -> None:
        """Remove what a killed process left unfinished: everything, or only this shard's."""
        own = f".part-{shard.number}-of-{shard.of}-*.tmp"
        for rest in self.folder.glob(".*.tmp" if shard.of == 1 else own):
            rest.unlink(missing_ok=True)

    def refresh(self, repair: bool = True) -> None:
        """Look for completed batches; damaged files are left out, and to repair that, removed with a warning."""
        for file in sorted(self.folder.glob("part-*.safetensors")):
            if file.name in self._seen:
                continue
            self._seen.add(file.name)
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if not file.stem.endswith(digest[:16]):
                if repair:
                    warnings.warn(f"{file}: damaged, its batches are computed again", stacklevel=2)
                    file.unlink()
                continue
            with safe_open(file, framework="numpy") as opened:
                content = json.loads(opened.metadata()["eqrlab"])
            row = 0
            for number, rows in content["batches"]:
                self.place.setdefault(number, (file, row))
                row += rows
            if content["least"]:
                self.least = min(self.least or content["least"], content["least"])

    def write(self, shard: Shard, batches: Mapping[int, dict[str, np.ndarray]], least: int | None) -> None:
        """Keep the records of some batches: when this returns they survive a power cut.

        Raises
        ------
        OSError
            When they cannot be written; nothing is then left behind.
        """
        first = next(iter(batches.values()))
        sizes = [(number, len(records["residual"])) for number, records in batches.items()]
        joined = {
            name: np.ascontiguousarray(np.concatenate([b[name] for b in batches.values()])) for name in first
        }
        data = save(joined, metadata={"eqrlab": json.dumps({"batches": sizes, "least": least})})
        digest = hashlib.sha256(data).hexdigest()
        name = f"part-{shard.number}-of-{shard.of}-{sizes[0][0]:08d}-{digest[:16]}.safetensors"
        try:
            with replaced_whole(self.folder / name) as temporary:
                temporary.write_bytes(data)
        except OSError as error:  # that of a full disk names no file
            raise OSError(error.errno, error.strerror, str(self.folder / name)) from None
        _sync(self.folder)
        self._seen.add(name)
        row = 0
        for number, rows in sizes:
            self.place[number] = (self.folder / name, row)
            row += rows
        if least:
            self.least = min(self.least or least, least)

    def read(self, number: int, rows: int, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """Return the records of a batch of so many rows, all or some of them."""
        file, row = self.place[number]
        opened = self._opened(file)
        chosen = opened.keys() if names is None else names
        return {name: opened.get_slice(name)[row : row + rows] for name in chosen}

    def _opened(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise OSError(f"{file}: cannot be read any more ({error})") from None
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]

    def close(self) -> None:
        """Let go of all files."""
        self._open.clear()


def remove(folder: Path) -> None:
    """Remove the folder of an archive that is whole."""
    shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
