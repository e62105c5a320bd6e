"""Files of torch.save read as data: a small interpreter of their pickle that can only build plain containers."""

from __future__ import annotations

import itertools
import math
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.checkpoints.zipfile import open_records, record_bytes
from eqrlab.core.errors import DAMAGE, CheckpointError
from eqrlab.core.kinds import LOOKED_AT, kind_of
from eqrlab.core.messages import brief

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REQUIRED = "a file written by torch.save (1.6 or later) or an eqrlab .safetensors file is required"
_MOST_PICKLE = 1 << 28  # bytes: strings and arrays in it take as much memory again
_MOST_OPERATIONS = 2_000_000  # a few hundred bytes of memory each; an official file has some ten thousand
_MOST_TENSORS = 20_000  # an official file has some hundred
_MOST_EXPANDED = 1 << 16  # values of a tensor that has more than its record, of which some are repeated
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number that torch.save wrote before version 1.6


class Name:
    """A class or function that a file names; it is never looked up."""

    __slots__ = ("module", "name")

    def __init__(self, module: Any, name: Any):
        if not isinstance(module, str) or not isinstance(name, str):
            raise CheckpointError("the pickle names a class by something that is no text")
        self.module, self.name = module, name


class Opaque:
    """Stand-in for an object of a foreign class, with its arguments, state and items; it does nothing."""

    __slots__ = ("arguments", "items", "state")

    def __init__(self, arguments: Any):
        self.arguments = arguments
        self.state: Any = None
        self.items: dict[Any, Any] | None = None  # of a subclass of dict


class StoredTensor:
    """A tensor in a file, read on demand; shape and record are checked when it is declared."""

    def __init__(self, archive: zipfile.ZipFile, record: str, dtype: torch.dtype, count: int, view: Any):
        offset, shape, stride = view
        numbers = (
            (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (-1,)
        )
        if len(numbers) > 33 or any(type(v) is not int or not 0 <= v < 1 << 62 for v in numbers):
            raise CheckpointError(f"record {record} is read with an impossible shape or stride")
        if len(shape) != len(stride):
            raise CheckpointError(f"record {record} is read with an impossible shape or stride")
        values = math.prod(shape)
        reach = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1 if values else 0
        if reach > count or values > max(count, _MOST_EXPANDED):
            raise CheckpointError(f"record {record} holds {count} values, shape {shape} asks for more")
        self.archive, self.record, self.dtype, self.count = archive, record, dtype, count
        self.offset, self.shape, self.stride = offset, shape, stride

    @property
    def bytes(self) -> int:
        """Size of the tensor in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def of(self, data: bytearray) -> Tensor:
        """Return a copy of the values, given the bytes of the record, which many tensors may share."""
        if len(data) != self.count * self.dtype.itemsize:
            raise CheckpointError(f"record {self.record} ends early: the file is damaged")
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(data, dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


class _Storage:
    """A record of numbers that tensors refer to."""

    def __init__(self, archive: zipfile.ZipFile, record: str, dtype: torch.dtype, count: int):
        size = record_bytes(archive, record)
        if size != count * dtype.itemsize:
            raise CheckpointError(
                f"record {record} has {size} bytes, {count} values of {dtype} were declared"
            )
        self.fields = (archive, record, dtype, count)


class _Interpreter:
    """Executes pickle operations on plain containers; calls, imports and attributes do not exist here.

    Notes
    -----
    Memory and time are bounded: the numbers of bytes and operations are limited, memo numbers are dictionary
    keys, every operation adds at most one object, only strings and small integers become dictionary keys, and
    nothing recurses.  Containers may share parts (a tree of them can be far larger than the pickle): never walk
    through, compare or print them.
    """

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        self.archive, self.prefix = archive, prefix
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.tensors = 0

    def run(self, data: bytes) -> Any:
        for done, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if done >= _MOST_OPERATIONS:
                raise CheckpointError(f"the pickle has more than {_MOST_OPERATIONS} operations")
            name = operation.name
            if name == "STOP":
                return self.stack.pop()
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise CheckpointError(f"the pickle uses the operation {name}, which torch.save never does")
        raise CheckpointError("the pickle has no end")

    def since_mark(self) -> list[Any]:
        height = self.marks.pop()
        items, self.stack[height:] = self.stack[height:], []
        return items

    def last(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise CheckpointError("the pickle takes more than it has")
        items, self.stack[-count:] = self.stack[-count:], []
        return items

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.items = target.items or {}
            target = target.items
        if isinstance(target, dict):
            target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def memoize(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Opaque):
            self.stack[-1].state = state

    def make(self, function: Any, arguments: Any) -> None:
        made: Any = Opaque(arguments)
        known = _full_name(function)
        if known == ("torch._tensor", "_rebuild_from_type_v2"):
            function, kind, arguments = arguments[:3]  # attributes of the tensor follow, and are left out
            known = _full_name(function) if _full_name(kind) in _PLAIN_KINDS else None
        if known == ("collections", "OrderedDict"):
            made = {}  # its items follow
        elif known in (
            ("torch._utils", "_rebuild_parameter"),
            ("torch._utils", "_rebuild_parameter_with_state"),
        ):
            made = arguments[0]
        elif known == ("torch._utils", "_rebuild_tensor_v2"):
            storage, *view = arguments[:4]
            if not isinstance(storage, _Storage):
                raise CheckpointError("a tensor refers to something that is no record")
            self.tensors += 1
            if self.tensors > _MOST_TENSORS:
                raise CheckpointError(f"the pickle has more than {_MOST_TENSORS} tensors")
            made = StoredTensor(*storage.fields, view)
        self.stack.append(made)

    def persistent(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", Name(module="torch", name=kind), str(key), str(), int(count)) if (
                kind in _STORAGES
            ):
                record = f"{self.prefix}/data/{key}"
                self.stack.append(_Storage(self.archive, record, _STORAGES[kind], count))
            case ("storage", Name(name=kind), *_):
                raise CheckpointError(
                    f"holds tensors of a kind that is not read ({brief(kind)}, such as float8, quantized or complex "
                    "values); save the weights as float32"
                )
            case _:
                raise CheckpointError("the pickle refers to a kind of record that torch.save does not write")


def _full_name(function: Any) -> tuple[str, str] | None:
    return (function.module, function.name) if isinstance(function, Name) else None


def _key(key: Any) -> Any:
    """Return a dictionary key if it is a string or a small integer, else an object that equals no other."""
    return key if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 64) else Opaque(key)


_PLAIN_KINDS = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")}
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_ACTIONS: dict[str, Any] = {
    "PROTO": lambda s, a: None,
    "FRAME": lambda s, a: None,
    "NONE": lambda s, a: s.stack.append(None),
    "NEWTRUE": lambda s, a: s.stack.append(True),
    "NEWFALSE": lambda s, a: s.stack.append(False),
    "MARK": lambda s, a: s.marks.append(len(s.stack)),
    "POP": lambda s, a: s.stack.pop(),
    "POP_MARK": lambda s, a: s.since_mark(),
    "DUP": lambda s, a: s.stack.append(s.stack[-1]),
    "EMPTY_TUPLE": lambda s, a: s.stack.append(()),
    "EMPTY_LIST": lambda s, a: s.stack.append([]),
    "EMPTY_DICT": lambda s, a: s.stack.append({}),
    "EMPTY_SET": lambda s, a: s.stack.append([]),
    "TUPLE": lambda s, a: s.stack.append(tuple(s.since_mark())),
    "TUPLE1": lambda s, a: s.stack.append(tuple(s.last(1))),
    "TUPLE2": lambda s, a: s.stack.append(tuple(s.last(2))),
    "TUPLE3": lambda s, a: s.stack.append(tuple(s.last(3))),
    "LIST": lambda s, a: s.stack.append(s.since_mark()),
    "FROZENSET": lambda s, a: s.stack.append(s.since_mark()),
    "DICT": lambda s, a: (items := s.since_mark(), s.stack.append({}), s.set_items(items)),
    "APPEND": lambda s, a: s.extend(s.last(1)),
    "APPENDS": lambda s, a: s.extend(s.since_mark()),
    "ADDITEMS": lambda s, a: s.extend(s.since_mark()),
    "SETITEM": lambda s, a: s.set_items(s.last(2)),
    "SETITEMS": lambda s, a: s.set_items(s.since_mark()),
    "PUT": lambda s, a: s.memoize(a),
    "BINPUT": lambda s, a: s.memoize(a),
    "LONG_BINPUT": lambda s, a: s.memoize(a),
    "MEMOIZE": lambda s, a: s.memoize(len(s.memo)),
    "GET": lambda s, a: s.stack.append(s.memo[a]),
    "BINGET": lambda s, a: s.stack.append(s.memo[a]),
    "LONG_BINGET": lambda s, a: s.stack.append(s.memo[a]),
    "GLOBAL": lambda s, a: s.stack.append(Name(*a.split(" ", 1))),
    "STACK_GLOBAL": lambda s, a: s.stack.append(Name(*s.last(2))),
    "REDUCE": lambda s, a: s.make(*s.last(2)),
    "NEWOBJ": lambda s, a: s.make(*s.last(2)),
    "NEWOBJ_EX": lambda s, a: s.make(*s.last(3)[:2]),
    "OBJ": lambda s, a: (items := s.since_mark(), s.make(items[0], tuple(items[1:]))),
    "INST": lambda s, a: s.make(Name(*a.split(" ", 1)), tuple(s.since_mark())),
    "BUILD": _Interpreter.build,
    "BINPERSID": _Interpreter.persistent,
}


def read_torch_file(path: str | Path) -> Any:
    """Read a file written by torch.save without executing anything in it.

    Parameters
    ----------
    path
        A zip archive as torch.save has written since version 1.6.

    Returns
    -------
    object
        Plain containers, with `StoredTensor` for tensors and `Opaque` for objects of all other classes.

    Raises
    ------
    CheckpointError
        If the file is not such an archive, is truncated, or its records and declared shapes disagree.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
            if head.startswith(_LEGACY):
                raise CheckpointError(
                    "written in the old format of torch.save (before version 1.6, or with "
                    "_use_new_zipfile_serialization=False); save it again in the usual one"
                )
        kind = kind_of(head)
        if kind not in (None, "a zip archive", "a Python pickle"):
            raise CheckpointError(f"this is {kind}; {_REQUIRED}")
        archive = open_records(path)
        pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise CheckpointError("a zip archive without the one data.pkl that torch.save writes")
        prefix = pickles[0].removesuffix("/data.pkl")
        if (size := record_bytes(archive, pickles[0])) > _MOST_PICKLE:
            raise CheckpointError(f"data.pkl has {size} bytes, at most {_MOST_PICKLE} are read")
        order = f"{prefix}/byteorder"
        if order in archive.NameToInfo and (
            record_bytes(archive, order) != 6 or archive.read(order) != b"little"
        ):
            raise CheckpointError("the tensors are big-endian, little-endian is required")
        with warnings.catch_warnings(action="ignore"):  # pickletools warns of odd escapes in damaged text
            return _Interpreter(archive, prefix).run(archive.read(pickles[0]))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from None


def read_stored(tensors: Mapping[str, StoredTensor | Tensor], path: Path) -> dict[str, Tensor]:
    """Read the values of many tensors of a file; those that were read already stay as they are.

    Raises
    ------
    CheckpointError
        When a record is damaged, or the tensors together are larger than the file can justify.
    """
    stored = {name: t for name, t in tensors.items() if isinstance(t, StoredTensor)}
    asked, size = sum(t.bytes for t in stored.values()), path.stat().st_size
    if asked > 2 * size:
        raise CheckpointError(f"{path}: the tensors ask for {asked} bytes, the file has {size}")
    try:
        read = {name: t for name, t in tensors.items() if isinstance(t, Tensor)}
        by_record = sorted(stored.items(), key=lambda item: item[1].record)
        for record, sharing in itertools.groupby(by_record, key=lambda item: item[1].record):
            named = list(sharing)
            data = bytearray(named[0][1].archive.read(record))  # once, however many tensors look into it
            read |= {name: tensor.of(data) for name, tensor in named}
        return {name: read[name] for name in tensors}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from None


_DAMAGE = (zipfile.BadZipFile, struct.error, EOFError, *DAMAGE)


def _reason(error: BaseException) -> str:
    if isinstance(error, zipfile.BadZipFile) and "CRC" not in str(error):
        return f"not a checkpoint, or truncated; {_REQUIRED}"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"the file is damaged ({str(error)[:120] or type(error).__name__})"
