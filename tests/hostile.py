"""Hostile and damaged checkpoints, a catalogue: each entry writes files into a folder and returns what to load."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from eqrlab.core import save
from tests.core_models import official_config, official_tensors, small_eqr, training_state, write

Made = Path | str | list[Path] | list[str]
CASES: dict[str, dict[str, Callable[[Path], Made]]] = {}
RUN = "touch {marker}"  # what a bomb runs; the marker is a file that must never appear


def case(group: str, name: str) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        CASES.setdefault(group, {})[name] = make
        return make

    return register


def marker(folder: Path) -> Path:
    return folder / "executed"


# Pickles that want to run something ----------------------------------------------------------------------------------

CODE = "Pickles that call"


class Call:
    """Its pickle asks for a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, data: bytes, records: dict[str, bytes] | None = None) -> Path:
    """Write an archive in the layout of torch.save around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"x/data.pkl": data, "x/byteorder": b"little", **(records or {})}.items():
            file.writestr(name, content)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


for protocol in range(6):

    @case(CODE, f"os.system, protocol {protocol}")
    def _(folder: Path, protocol: int = protocol) -> Path:
        bomb = pickle.dumps({"model": Call(os.system, RUN.format(marker=marker(folder)))}, protocol)
        return archive(folder / "x.pth", bomb)


@case(CODE, "eval reached through getattr(__import__('builtins'), ...)")
def _(folder: Path) -> Path:
    code = f"open({str(marker(folder))!r}, 'w')"
    module = b"cbuiltins\n__import__\n" + text("builtins") + b"\x85R"
    function = b"cbuiltins\ngetattr\n" + module + text("eval") + b"\x86R"
    return archive(folder / "x.pth", b"\x80\x02" + function + text(code) + b"\x85R.")


@case(CODE, "dotted name by STACK_GLOBAL")
def _(folder: Path) -> Path:
    name = b"\x8c\x08builtins\x8c\x0eobject.__class__"
    return archive(folder / "x.pth", b"\x80\x04" + name + b"\x93" + text("x") + b"\x85R.")


@case(CODE, "INST and OBJ of protocol 0 and 1")
def _(folder: Path) -> Path:
    command = RUN.format(marker=marker(folder))
    inst = b"(" + text(command) + b"ios\nsystem\n"
    obj = b"(cos\nsystem\n" + text(command) + b"o"
    return archive(folder / "x.pth", b"\x80\x02" + inst + b"0" + obj + b".")


@case(CODE, "NEWOBJ_EX of subprocess.Popen")
def _(folder: Path) -> Path:
    command = b"](" + text("touch") + text(str(marker(folder))) + b"e\x85"
    return archive(folder / "x.pth", b"\x80\x04csubprocess\nPopen\n" + command + b"}\x92.")


@case(CODE, "BUILD that replaces the class of an object")
def _(folder: Path) -> Path:
    state = b"}" + text("__class__") + b"cos\nsystem\ns"
    return archive(folder / "x.pth", b"\x80\x02cbuiltins\nobject\n)R" + state + b"b.")


@case(CODE, "pickle in a pickle in a pickle")
def _(folder: Path) -> Path:
    bomb = pickle.dumps(Call(os.system, RUN.format(marker=marker(folder))))
    for _ in range(3):
        bomb = pickle.dumps(Call(pickle.loads, bomb))
    return archive(folder / "x.pth", bomb)


@case(CODE, "torch.hub and torch.load called by the file")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", pickle.dumps([Call(torch.load, "x"), Call(torch.hub.load, "a/b", "c")]))


@case(CODE, "extension registry (EXT1)")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x02\x82\x01)R.")


@case(CODE, "bare pickle with the name of a checkpoint")
def _(folder: Path) -> Path:
    path = folder / "x.pth"
    path.write_bytes(pickle.dumps(Call(os.system, RUN.format(marker=marker(folder)))))
    return path


@case(CODE, "bomb in place of one tensor of a good file")
def _(folder: Path) -> Path:
    content = training_state(small_eqr())
    first = next(iter(content["model"]))
    content["model"][first] = Call(os.system, RUN.format(marker=marker(folder)))
    return write(folder, content)


# Pickles that want memory or time ------------------------------------------------------------------------------------

BOMB = "Pickles that grow"
DOUBLED = b")" + b"2\x86" * 100  # a tuple of two tuples of two ...: 2**100 leaves in 200 bytes


def configured(folder: Path, name: str, value: bytes) -> Path:
    """Write a good training state in which one option of the network is another pickled value."""
    content = training_state(small_eqr(), **{name: "REPLACE"})
    path = write(folder, content, pickle_protocol=2)
    with zipfile.ZipFile(path) as file:
        records = {n: file.read(n) for n in file.namelist()}
    key = next(n for n in records if n.endswith("/data.pkl"))
    before, after = records[key].split(text("REPLACE"))
    records[key] = before + value + after
    with zipfile.ZipFile(path, "w") as file:
        for record, data in records.items():
            file.writestr(record, data)
    return path


for option in ("hidden_size", "name", "pos_encodings", "H_init_std"):

    @case(BOMB, f"billion laughs as {option}")
    def _(folder: Path, option: str = option) -> Path:
        return configured(folder, option, DOUBLED)


@case(BOMB, "a number of 30,000 digits as hidden_size")
def _(folder: Path) -> Path:
    return configured(folder, "hidden_size", b"\x8b" + struct.pack("<i", 12_000) + b"\x7f" * 12_000)


@case(BOMB, "lists 100,000 deep")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


@case(BOMB, "three million operations")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x02(" + b"}" * 3_000_000 + b"t.")


@case(BOMB, "a text said to have 2**63 bytes")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"x.")


@case(BOMB, "memo number 2**31")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x02}r\xff\xff\xff\x7f.")


@case(BOMB, "a list that holds itself as the model")
def _(folder: Path) -> Path:
    return archive(folder / "x.pth", b"\x80\x02}" + text("model") + b"]q\x00h\x00as.")


@case(BOMB, "name of a tensor of ten million segments")
def _(folder: Path) -> Path:
    data = {"." * 10_000_000: torch.zeros(1)}
    torch.save(data, folder / "x.pth")
    return folder / "x.pth"


# Zip archives that lie -----------------------------------------------------------------------------------------------

ZIP = "Archives that lie"


def good_records() -> dict[str, bytes]:
    stream = io.BytesIO()
    content = {"model": official_tensors(small_eqr(), ""), "config": official_config(small_eqr())}
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as file:
        return {name: file.read(name) for name in file.namelist()}


def rezipped(path: Path, records: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in records:
            file.writestr(name, data)
    return path


@case(ZIP, "names that climb out of the folder (../../executed)")
def _(folder: Path) -> Path:
    names = {n: n.replace("archive/", "../") for n in good_records()}
    return rezipped(folder / "x.pth", [(names[n], d) for n, d in good_records().items() if "/data/" not in n])


@case(ZIP, "data.pkl of 256 MB, deflated to 256 kB")
def _(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("x/data.pkl", "w") as record:
            for _ in range(256):
                record.write(bytes(1 << 20))
    return folder / "x.pth"


@case(ZIP, "a tensor of 256 MB, deflated to 256 kB")
def _(folder: Path) -> Path:
    count = 1 << 26
    numbers = b"\x8a\x09" + count.to_bytes(9, "little")
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numbers + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + numbers + b"\x85K\x01\x85\x89}tR"
    path = archive(folder / "x.pth", b"\x80\x02}" + text("w") + tensor + b"s.")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file, file.open("x/data/0", "w") as record:
        for _ in range(256):
            record.write(bytes(1 << 20))
    return path


def patched(path: Path, name: str, place: int, value: bytes) -> Path:
    """Overwrite bytes of the directory entry of a record."""
    data = bytearray(path.read_bytes())
    entry = -1
    while True:
        entry = data.index(b"PK\x01\x02", entry + 1)
        length = struct.unpack_from("<H", data, entry + 28)[0]
        if bytes(data[entry + 46 : entry + 46 + length]) == name.encode():
            break
    data[entry + place : entry + place + len(value)] = value
    path.write_bytes(data)
    return path


@case(ZIP, "data.pkl said to have 2 GB")
def _(folder: Path) -> Path:
    path = rezipped(folder / "x.pth", good_records().items())
    return patched(path, "archive/data.pkl", 20, struct.pack("<II", 2 << 30, 2 << 30))


@case(ZIP, "a record with two different sizes")
def _(folder: Path) -> Path:
    path = rezipped(folder / "x.pth", good_records().items())
    return patched(path, "archive/data.pkl", 24, struct.pack("<I", 1 << 30))


@case(ZIP, "an encrypted record")
def _(folder: Path) -> Path:
    path = rezipped(folder / "x.pth", good_records().items())
    return patched(path, "archive/data/0", 8, b"\x01\x00")


@case(ZIP, "a record twice, the second with other content")
def _(folder: Path) -> Path:
    records = good_records()
    path = rezipped(folder / "x.pth", records.items())
    data = path.read_bytes()  # a second name of equal length is written, then renamed
    other = rezipped(folder / "y.pth", [*records.items(), ("archive/data.pkX", records["archive/data.pkl"])])
    data = other.read_bytes().replace(b"archive/data.pkX", b"archive/data.pkl")
    path.write_bytes(data)
    return path


@case(ZIP, "a hundred records on top of each other (quoted-overlap bomb)")
def _(folder: Path) -> Path:
    records = {**good_records(), **{f"archive/data/{100 + i}": bytes(1000) for i in range(100)}}
    path = rezipped(folder / "x.pth", records.items())
    with zipfile.ZipFile(path) as file:
        first = file.getinfo("archive/data/100").header_offset
    for i in range(100):
        patched(path, f"archive/data/{100 + i}", 42, struct.pack("<I", first))
    return path


@case(ZIP, "a record said to lie beyond the end of the file")
def _(folder: Path) -> Path:
    path = rezipped(folder / "x.pth", good_records().items())
    return patched(path, "archive/data/0", 42, struct.pack("<I", 0xFFFF_FF00))


@case(ZIP, "a directory said to have 4 GB")
def _(folder: Path) -> Path:
    path = rezipped(folder / "x.pth", good_records().items())
    data = bytearray(path.read_bytes())
    data[-10:-6] = b"\xff\xff\xff\xfe"
    path.write_bytes(data)
    return path


@case(ZIP, "a directory of 400,000 empty records")
def _(folder: Path) -> Path:
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<HHHHHII", 4, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%04x" % (i & 0xFFFF) for i in range(400_000))
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    (folder / "x.pth").write_bytes(directory + end)
    return folder / "x.pth"


@case(ZIP, "the end of a zip64 archive with sizes of 2**63")
def _(folder: Path) -> Path:
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 1 << 63, 0)
    pointer = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (folder / "x.pth").write_bytes(end64 + pointer + end)
    return folder / "x.pth"


@case(ZIP, "no data.pkl, and two of them")
def _(folder: Path) -> list[Path]:
    none = rezipped(folder / "none.pth", [("a/readme", b"x")])
    return [
        none,
        rezipped(folder / "two.pth", [("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"\x80\x02}.")]),
    ]


@case(ZIP, "60 random cuts of a good file")
def _(folder: Path) -> list[Path]:
    data = write(folder, training_state(small_eqr())).read_bytes()
    return cuts(folder, data, ".pth")


def cuts(folder: Path, data: bytes, suffix: str) -> list[Path]:
    places = random.Random(1).sample(range(1, len(data)), 56)
    paths = []
    for place in (0, 8, len(data) - 22, len(data) - 1, *places):
        paths.append(folder / f"cut{place}{suffix}")
        paths[-1].write_bytes(data[:place])
    return paths


# Tensors that cannot be ----------------------------------------------------------------------------------------------

TENSOR = "Tensors that cannot be"


def with_tensor(folder: Path, view: bytes, count: int = 4, kind: str = "FloatStorage") -> Path:
    numbers = b"\x8a\x09" + count.to_bytes(9, "little", signed=True)
    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text("0") + text("cpu") + numbers + b"tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89}tR"
    return archive(folder / "x.pth", b"\x80\x02}" + text("w") + tensor + b"s.", {"x/data/0": bytes(16)})


def long(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


VIEWS = {
    "2**60 values of stride 0": b"K\x00" + long(1 << 60) + b"\x85K\x00\x85",
    "three axes of 2**40": b"K\x00(" + long(1 << 40) * 3 + b"t(K\x00K\x00K\x00t",
    "negative stride": b"K\x00K\x04\x85" + long(-1) + b"\x85",
    "negative offset": long(-4) + b"K\x04\x85K\x01\x85",
    "offset 2**61": long(1 << 61) + b"K\x04\x85K\x01\x85",
    "rows on top of each other": b"K\x00K\x04K\x04\x86K\x00K\x01\x86",
    "axes of -1": b"K\x00" + long(-1) + b"\x85K\x01\x85",
    "a shape of text": b"K\x00" + text("abcd") + b"K\x01\x85",
    "a thousand axes": b"K\x00(" + b"K\x01" * 1000 + b"t(" + b"K\x01" * 1000 + b"t",
}
for name, view in VIEWS.items():

    @case(TENSOR, name)
    def _(folder: Path, view: bytes = view) -> Path:
        return with_tensor(folder, view)


@case(TENSOR, "a record that is not there")
def _(folder: Path) -> Path:
    path = with_tensor(folder, b"K\x00K\x04\x85K\x01\x85")
    with zipfile.ZipFile(path) as file:
        records = {n: file.read(n) for n in file.namelist() if n != "x/data/0"}
    return rezipped(path, records.items())


@case(TENSOR, "a record that is a path (../../etc/passwd)")
def _(folder: Path) -> Path:
    path = with_tensor(folder, b"K\x00K\x04\x85K\x01\x85")
    with zipfile.ZipFile(path) as file:
        records = {n: file.read(n) for n in file.namelist()}
    records["x/data.pkl"] = records["x/data.pkl"].replace(text("0"), text("../../../../etc/passwd"))
    return rezipped(path, records.items())


@case(TENSOR, "more values than the record has bytes for")
def _(folder: Path) -> Path:
    return with_tensor(folder, b"K\x00K\x04\x85K\x01\x85", count=1 << 50)


@case(TENSOR, "complex numbers")
def _(folder: Path) -> Path:
    return with_tensor(folder, b"K\x00K\x02\x85K\x01\x85", count=2, kind="ComplexFloatStorage")


@case(TENSOR, "5,000 tensors that look into one record of 4 MB")
def _(folder: Path) -> Path:
    base = torch.zeros(1 << 20)
    torch.save({f"w{i}": base[i : i + 1] for i in range(5_000)}, folder / "x.pth")
    save_config(folder)
    return folder / "x.pth"


def save_config(folder: Path) -> None:
    (folder / "all_config.yaml").write_text(json.dumps(official_config(small_eqr())))


for value in (math.nan, math.inf):

    @case(TENSOR, f"one {value} among the weights, official and own file")
    def _(folder: Path, value: float = value) -> list[Path]:
        model = small_eqr()
        with torch.no_grad():
            model.lm_head.weight[0, 0] = value
        save(model, folder / "x.safetensors")
        return [write(folder, training_state(model)), folder / "x.safetensors"]


def good_files(folder: Path) -> list[Path]:
    """Files that must load: what is refused is refused for a reason."""
    model = small_eqr()
    save(model, folder / "own.safetensors")
    torch.save(official_tensors(model, ""), folder / "plain.pth")
    save_config(folder)
    return [folder / "own.safetensors", folder / "plain.pth", write(folder, training_state(model, ema=model))]
