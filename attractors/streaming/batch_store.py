"""The folder in which an export stores completed batches until its archive is complete."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.core.checkpoints.tensors import read_tensors, write_tensors
from eqrlab.core.files import replaced_whole
from eqrlab.core.messages import brief
from eqrlab.core.regular import parse_json, require_regular

FORMAT = 2
OPEN_FILES = 4
_OWN = re.compile(
    r"plan\.safetensors|part-\d+-of-\d+-\d{8,}-[0-9a-f]{16}\.safetensors|(all|\d+-of-\d+)\.lock"
)
_TEMPORARY = (".part-*.tmp", ".plan.safetensors.*.tmp")
_FLOATS = ("F64", "F32", "F16", "BF16")
_STEPPED = ("residual", "update", "norm", "token_accuracy", "code", "correct")  # (rows, steps)
_RECORDS: dict[str, tuple[str, ...]] = {  # of every part: name to the types it can have
    **dict.fromkeys(("residual", "update", "norm", "token_accuracy"), _FLOATS),
    "code": ("U64",), "correct": ("BOOL",), "answer": ("I64", "I32"),
    **dict.fromkeys(("run_cycle", "run_last", "run_mean", "run_spread"), _FLOATS),
    "run_finite": ("BOOL",), "run_drifting": ("BOOL",), "run_period": ("I64", "I32"),
}  # fmt: skip


class Shard(NamedTuple):
    """One of `of` processes that share an export: it runs every `of`-th batch, from number `number` on."""

    number: int = 0
    of: int = 1


def folder_of(path: Path) -> Path:
    """Return the folder of the parts of an archive: FILE.nc.parts beside it."""
    return path.with_name(f"{path.name}.parts")


@contextmanager
def claimed(path: Path, shard: Shard) -> Iterator[None]:
    """Hold the lock for writing this shard of an archive; it is released when its process ends, in whatever way.

    A single process excludes all others; a shard excludes a second process with the same shard, and other divisions.

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
    require_regular(folder_of(path) / name)
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
    """Hold the lock for writing the archive itself; other shards wait."""
    with contextlib.ExitStack() as stack:
        if shard.of > 1:
            _take(path, "all.lock", stack, -1)
        yield


def write_plan(folder: Path, plan: Mapping[str, Any], tokens: Mapping[str, np.ndarray]) -> None:
    """Write the plan of an export: plain values, and the puzzles."""
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
    require_regular(file)
    if not file.exists():
        return None
    tensors, header = read_tensors(file)
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{file}: has format {brief(header.get('format'))}, and this eqrlab continues only format {FORMAT}"
        )
    plan = header.get("plan")
    if not isinstance(plan, dict):
        raise ValueError(f"{file}: holds no plan")
    for key, (fits, what) in _PLAN.items():
        value = plan.get(key)
        if not fits(value):
            raise ValueError(f"{file}: {key} is {brief(value)}, {what} is required")
    for name in ("inputs", "labels"):
        values = tensors.get(name)
        if values is None and (name == "inputs" or plan["labels"] != "none"):
            raise ValueError(f"{file}: has no {name}")
        if values is not None and (
            values.dtype.is_floating_point or values.ndim < 2 or len(values) != plan["puzzles"]
        ):
            raise ValueError(f"{file}: its {name} are not the tokens of {plan['puzzles']} puzzles")
    return plan, {name: values.numpy() for name, values in tensors.items()}


def _whole(least: int | None = None) -> tuple[Callable[[Any], bool], str]:
    """Return whether a value is a whole number of at least this, and what that is called."""
    what = "a whole number" + ("" if least is None else f" of at least {least}")
    return lambda v: type(v) is int and (least is None or v >= least) and abs(v) < 2**64, what


_TEXT = (lambda v: type(v) is str, "text")
_OBJECT = (lambda v: type(v) is dict, "an object")
_PLAN: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("checkpoint_sha256", "family", "inputs", "labels", "starts", "oracle", "dtype", "device", "source"), _TEXT
    ),
    **dict.fromkeys(("config", "attributes"), _OBJECT),
    **dict.fromkeys(("puzzles", "restarts", "depth", "batch_size"), _whole(1)),
    "first_restart": _whole(0),
    "seed": _whole(),
    "noise": (lambda v: type(v) in (int, float) and 0 <= v < math.inf, "a number of at least 0"),
    "keep": (lambda v: type(v) is list and all(type(k) is str for k in v), "a list of names"),
    "tolerances": (
        lambda v: type(v) is dict
        and set(v) <= set(Tolerances.__dataclass_fields__)
        and all(type(x) in (int, float) for x in v.values()),
        "an object of the known tolerances",
    ),
    "automatic": (lambda v: type(v) is bool, "true or false"),
}  # fmt: skip


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
    A file contains the records of a few batches, row axis first.  It gets its name only when it is complete and
    synced, and the name contains the beginning of the SHA-256 of its content, so that a damaged file is
    recognised, left out and computed again.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.place: dict[int, tuple[Path, int]] = {}
        self.least: int | None = None
        self._plan: dict[str, Any] | None = None
        self._alike: dict[str, tuple] = {}
        self._seen: set[str] = set()
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def clean(self, shard: Shard) -> None:
        """Remove unfinished files of a killed process: all of them, or only those of this shard."""
        own = (f".part-{shard.number}-of-{shard.of}-*.tmp",)
        for pattern in own if shard.of > 1 else _TEMPORARY:
            for rest in self.folder.glob(pattern):
                rest.unlink(missing_ok=True)

    def refresh(self, repair: bool = True) -> None:
        """Look for completed batches; damaged files are left out, and to repair that, removed with a warning.

        Raises
        ------
        ValueError
            For a file that does not belong to this export, whatever its name says.
        """
        for file in sorted(self.folder.glob("part-*.safetensors")):
            if file.name in self._seen:
                continue
            require_regular(file)
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if not file.stem.endswith(digest[:16]):
                self._seen.add(file.name)
                if repair and _OWN.fullmatch(file.name):
                    warnings.warn(f"{file}: damaged, its batches are computed again", stacklevel=2)
                    file.unlink()
                continue
            batches, least = self._content(file)
            self._seen.add(file.name)
            self._hold(file, batches, least)

    def _hold(self, file: Path, batches: Iterable[Sequence[int]], least: int | None) -> None:
        """Take in the batches of a file, number and rows each; one that is held already stays where it is."""
        row = 0
        for number, rows in batches:
            self.place.setdefault(number, (file, row))
            row += rows
        if least:
            self.least = min(self.least or least, least)

    def _content(self, file: Path) -> tuple[list[list[int]], int | None]:
        """Return the batches in a part, number and rows each, and the smallest number of rows that were run at once.

        Raises
        ------
        ValueError
            When it is none of this export's parts.
        """
        if self._plan is None and (found := read_plan(self.folder)):
            self._plan = found[0]
        try:
            with safe_open(file, framework="numpy") as opened:
                content = parse_json((opened.metadata() or {}).get("eqrlab", "null"), "its header")
                slices = {name: opened.get_slice(name) for name in opened.keys()}
                layout = {name: (s.get_dtype(), *s.get_shape()) for name, s in slices.items()}
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{file}: is not a part of an export ({error})") from None
        batches, least = content.get("batches"), content.get("least")
        if self._plan is None or not (least is None or (type(least) is int and least > 0)):
            raise ValueError(f"{file}: is not a part of the export begun in this folder")
        size, total = self._plan["batch_size"], self._plan["puzzles"] * self._plan["restarts"]
        last = -(-total // size) - 1
        for batch in batches if isinstance(batches, list) and batches else ["nothing"]:
            number = batch[0] if isinstance(batch, list) and len(batch) == 2 else None
            right = type(number) is int and 0 <= number <= last
            if not right or batch[1] != min(size, total - size * number):
                raise ValueError(
                    f"{file}: has batch {brief(batch)}, and the export has {last + 1} batches of {size} rows"
                )
        assert isinstance(batches, list)
        self._require_records(file, layout, sum(rows for _, rows in batches))
        return batches, least

    def _require_records(self, file: Path, layout: dict[str, tuple], rows: int) -> None:
        """Refuse a part without the records of an export, of other numbers of rows or steps, or unlike the others."""
        assert self._plan is not None
        kept = {"states" if k in ("final_state", "trajectory") else k for k in self._plan["keep"]}
        for name in sorted({*_RECORDS, *kept, *layout}):
            kind, *shape = layout.get(name, ("nothing",))
            steps = self._plan["depth"] if name in _STEPPED else None
            kinds = _RECORDS.get(name, (kind,))
            if kind not in kinds or shape[:1] != [rows] or (steps and shape[1:] != [steps]):
                raise ValueError(
                    f"{file}: {name} is {kind} {shape}, {' or '.join(kinds)} of {rows} rows"
                    f"{f' and {steps} steps' if steps else ''} is required"
                )
        alike = {name: (kind, *shape[1:]) for name, (kind, *shape) in layout.items()}
        self._alike = self._alike or alike
        if alike != self._alike:
            name = min(n for n in {*alike, *self._alike} if alike.get(n) != self._alike.get(n))
            raise ValueError(f"{file}: {name} has another type or shape than in the other parts")

    def write(self, shard: Shard, batches: Mapping[int, dict[str, np.ndarray]], least: int | None) -> None:
        """Store the records of some batches; once this returns, they survive a power cut.

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
        self._hold(self.folder / name, sizes, least)

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
        """Close all files."""
        self._open.clear()


def remove(folder: Path) -> None:
    """Remove the files of an export from its folder once the archive is complete; other files stay."""
    with contextlib.suppress(OSError):
        for file in [*folder.iterdir()]:
            if _OWN.fullmatch(file.name) or any(file.match(pattern) for pattern in _TEMPORARY):
                file.unlink(missing_ok=True)
        folder.rmdir()


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
