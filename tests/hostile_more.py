"""The catalogue of `hostile` goes on: safetensors, configurations beside weights, and names that are no files."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
from pathlib import Path
from typing import Any

import torch

from eqrlab.core import save
from tests.core_models import official_tensors, small_eqr
from tests.hostile import CASES, case, cuts

__all__ = ["CASES"]

# safetensors ---------------------------------------------------------------------------------------------------------

SAFE = "safetensors that lie"


def own_file(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a good file of eqrlab."""
    save(small_eqr(), folder / "good.safetensors")
    content = (folder / "good.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def raw(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def one_tensor(**entry: Any) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **entry}}).encode()


LYING = {
    "a header longer than the file": (b"{}", b"", 1000),
    "a header of 2**63 bytes": (b"{}", b"", 1 << 63),
    "a header of no bytes": (b"", b"", None),
    "a header that is not UTF-8": (b'{"\xff": 1}', b"", None),
    "a header that is no JSON": (b"{{{{", b"", None),
    "a header nested 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"", None),
    "a tensor twice": (
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        bytes(16),
        None,
    ),
    "offsets beyond the file": (one_tensor(data_offsets=[0, 1 << 40], shape=[1 << 38]), bytes(16), None),
    "offsets the wrong way round": (one_tensor(data_offsets=[16, 0]), bytes(16), None),
    "negative offsets": (one_tensor(data_offsets=[-16, 0]), bytes(16), None),
    "a hole between tensors": (one_tensor(data_offsets=[16, 32]), bytes(32), None),
    "a shape whose product overflows": (one_tensor(shape=[1 << 33, 1 << 33, 1 << 33]), bytes(16), None),
    "more values than bytes": (one_tensor(shape=[1 << 20]), bytes(16), None),
    "an unknown dtype": (one_tensor(dtype="F31"), bytes(16), None),
    "metadata that is no text": (b'{"__metadata__":{"eqrlab":{"format":1}}}', b"", None),
    "no header of eqrlab": (one_tensor(), bytes(16), None),
}
for name, (header, data, length) in LYING.items():

    @case(SAFE, name)
    def _(folder: Path, header: bytes = header, data: bytes = data, length: int | None = length) -> Path:
        return raw(folder, header, data, length)


@case(SAFE, "two tensors on the same bytes")
def _(folder: Path) -> Path:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return raw(folder, json.dumps({"a": entry, "b": entry}).encode(), bytes(16))


@case(SAFE, "a header of 90 MB (a sparse file)")
def _(folder: Path) -> Path:
    path = raw(folder, b"{", length=90_000_000)
    os.truncate(path, 100_000_000)
    return path


DECLARED = {
    "a configuration of 10**9 inner cycles": {"H_cycles": 10**9},
    "a configuration of 10**9 layers": {"layers": 10**9},
    "a vocabulary of 10**30 tokens": {"vocab_size": 10**30},
    "a hidden size of 4,000 digits": {"hidden_size": 10**4000},
    "an expansion of 10**308": {"expansion": 1e308},
    "a grid of 10**9 cells": {"seq_len": 10**9},
    "an unknown option": {"__class__": "os.system"},
}


def redeclared(folder: Path, **changes: Any) -> Path:
    header, data = own_file(folder)
    inner = json.loads(header["__metadata__"]["eqrlab"])
    inner.pop("tensors_sha256")
    config = changes.pop("config", {})
    inner = {**inner, **changes, "config": {**inner["config"], **config}}
    header["__metadata__"]["eqrlab"] = json.dumps(inner)
    return raw(folder, json.dumps(header).encode(), data)


for name, config in DECLARED.items():

    @case(SAFE, name)
    def _(folder: Path, config: dict[str, Any] = config) -> Path:
        return redeclared(folder, config=config)


@case(SAFE, "provenance nested 500 deep")
def _(folder: Path) -> Path:
    nested: dict[str, Any] = {}
    for _ in range(500):
        nested = {"a": nested}
    return redeclared(folder, provenance=nested)


@case(SAFE, "an unknown family, a newer format, a format that is true")
def _(folder: Path) -> list[Path]:
    paths = []
    for i, change in enumerate(({"family": "os.system"}, {"format": 10**400}, {"format": True})):
        paths.append(redeclared(folder, **change).rename(folder / f"{i}.safetensors"))
    return paths


@case(SAFE, "weights of 8 bits, integers, truth values, complex numbers")
def _(folder: Path) -> list[Path]:
    header, data = own_file(folder)
    inner = json.loads(header["__metadata__"]["eqrlab"])
    inner.pop("tensors_sha256")
    header["__metadata__"]["eqrlab"] = json.dumps(inner)
    paths = []
    last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"][1])
    low = header[last]["data_offsets"][0]
    count = math.prod(header[last]["shape"])
    for kind, size in {"F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "BOOL": 1, "C64": 8, "U16": 2}.items():
        entry = {**header[last], "dtype": kind, "data_offsets": [low, low + size * count]}
        changed = json.dumps({**header, last: entry}).encode()
        paths.append(
            raw(folder, changed, data[:low] + bytes(size * count)).rename(folder / f"{kind}.safetensors")
        )
    return paths


@case(SAFE, "one bit of the weights flipped")
def _(folder: Path) -> Path:
    own_file(folder)
    path = folder / "good.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return path


@case(SAFE, "60 random cuts of a good file")
def _(folder: Path) -> list[Path]:
    own_file(folder)
    return cuts(folder, (folder / "good.safetensors").read_bytes(), ".safetensors")


# The configuration beside the weights --------------------------------------------------------------------------------

YAML = "Configurations that lie"
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a0: &a0 {x0: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)
)
YAMLS = {
    "a tag that calls (python/object/apply)": "arch: !!python/object/apply:os.system ['touch executed']\n",
    "a tag that imports (python/name)": "arch: !!python/name:os.system\n",
    "billion laughs as hidden_size": f"{LAUGHS}arch: {{hidden_size: *a59}}\n",
    "billion laughs as name": f"{LAUGHS}arch: {{name: *a59, hidden_size: 16}}\n",
    "billion laughs by merge keys": f"{MERGES}arch: {{hidden_size: *a39}}\n",
    "nested 20,000 deep": "arch: " + "[" * 20_000,
    "a megabyte": "arch: {hidden_size: 16}\n" + "#" * (1 << 20),
    "a number in base 60 of 30,000 places": "arch: {hidden_size: 1" + ":1" * 30_000 + "}\n",
    "a number of no digits": 'arch: !!int ""\n',
    "a date that is none": "arch: !!timestamp x\n",
    "a list": "- 1\n",
    "nothing": "",
    "bytes that are no text": "arch: \udcfe\udc80\n",
    "a mapping that holds itself": "arch: &a {name: *a}\n",
}
for name, content in YAMLS.items():

    @case(YAML, name)
    def _(folder: Path, content: str = content) -> Path:
        torch.save(official_tensors(small_eqr(), ""), folder / "x.pth")
        (folder / "all_config.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
        return folder / "x.pth"


@case(YAML, "a pipe, a folder, a link to /dev/zero in place of the file")
def _(folder: Path) -> list[Path]:
    paths = []
    for kind in ("pipe", "folder", "link"):
        place = folder / kind / "run"
        place.mkdir(parents=True)
        torch.save(official_tensors(small_eqr(), ""), place / "x.pth")
        target = place / "all_config.yaml"
        if kind == "pipe":
            os.mkfifo(target)
        elif kind == "folder":
            target.mkdir()
        else:
            target.symlink_to("/dev/zero")
        paths.append(place / "x.pth")
    return paths


# Names that are no files ---------------------------------------------------------------------------------------------

NAMES = "Names that are no files"


@case(NAMES, "a folder, a pipe, a device, a socket")
def _(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe.pth")
    os.mkfifo(folder / "pipe.safetensors")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have 108 characters
        server.bind("s.pth")
        os.chdir(here)
    return [folder, folder / "pipe.pth", folder / "pipe.safetensors", Path("/dev/zero"), folder / "s.pth"]


@case(NAMES, "a link to nothing, to itself, to a device")
def _(folder: Path) -> list[Path]:
    for name, target in {"nothing": "gone", "itself": "itself.pth", "zero": "/dev/zero"}.items():
        (folder / f"{name}.pth").symlink_to(target)
    return [folder / f"{name}.pth" for name in ("nothing", "itself", "zero")]


@case(NAMES, "no name, a NUL, 5,000 characters, bytes that are no text")
def _(folder: Path) -> list[str]:
    name = os.fsdecode(os.fsencode(folder) + b"/\xff.safetensors")
    save(small_eqr(), folder / "good.safetensors")
    (folder / "good.safetensors").rename(name)
    return ["", "a\0b.pth", "x" * 5000, name]


@case(NAMES, "addresses of the hub that are none")
def _(folder: Path) -> list[str]:
    return [
        f"hf://{rest}"
        for rest in (
            "",
            "a",
            "a/b",
            "a//c.pth",
            "/b/c.pth",
            "a/b/../../c.pth",
            "a/b/",
            "a/b/\x1b[2J",
            "a/b/./c",
        )
    ]


@case(NAMES, "empty files and files of other kinds")
def _(folder: Path) -> list[Path]:
    paths = []
    for i, content in enumerate(
        (b"", b"PK\x03\x04", b"\x7fELF" + bytes(99), b"%PDF-1.7\n", b"\x89HDF\r\n\x1a\n")
    ):
        for suffix in (".pth", ".safetensors"):
            paths.append(folder / f"{i}{suffix}")
            paths[-1].write_bytes(content)
    return paths
