"""What is fuzzed: each target feeds bytes to a reader of files from strangers; only a refusal in one line may come out.

A target raises nothing for bytes that are read or refused as documented.  Whatever else escapes it is a bug.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.results import archive
from eqrlab.core import CheckpointError, load, save
from eqrlab.core.checkpoints.tensors import read_tensors
from eqrlab.datasets import bundled, read_puzzles, write_csv, write_npy_folder
from tests.core_models import official_config, official_tensors, small_eqr

Target = Callable[[bytes], None]
SUFFIXES = (".csv", ".txt", ".csv.gz", ".gz")
ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")


@cache
def workplace() -> Path:
    """A folder of this process, in memory where there is one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="eqrlab-fuzz-", dir=memory))


def one_line(error: Exception) -> None:
    """Check what a user would read."""
    text = str(error)
    assert text and len(text) < 5000, f"no reason given: {error!r}"


def checkpoint(path: Path) -> None:
    """Load a checkpoint; anything but a model or a CheckpointError is a bug."""
    try:
        load(path)
    except CheckpointError as error:
        one_line(error)
        assert str(error).isprintable(), repr(error)


def puzzles(data: bytes) -> None:
    """CSV, plain text and gzip; the first byte picks the name."""
    path = workplace() / f"puzzles{SUFFIXES[data[0] % 4 if data else 0]}"
    path.write_bytes(data[1:])
    try:
        read_puzzles(path, limit=50)
    except ValueError as error:
        one_line(error)


@cache
def npy_folder() -> Path:
    folder = workplace() / "npy"
    write_npy_folder(folder, bundled("sudoku6").take(slice(4)))
    return folder


def npy(data: bytes) -> None:
    """The official folder; the first byte picks the file that is replaced."""
    folder = npy_folder()
    names = ["dataset.json", *(f"all__{key}.npy" for key in ARRAYS)]
    path = folder / "test" / names[data[0] % len(names) if data else 0]
    good = path.read_bytes()
    path.write_bytes(data[1:])
    try:
        read_puzzles(folder)
    except ValueError as error:
        one_line(error)
    finally:
        path.write_bytes(good)


def pickled(data: bytes) -> None:
    """The pickle of an archive of torch.save, with a right checksum."""
    path = workplace() / "pickled.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"x/data.pkl": data, "x/byteorder": b"little", "x/data/0": bytes(64)}.items():
            file.writestr(name, content)
    checkpoint(path)


def zipped(data: bytes) -> None:
    """The whole archive."""
    path = workplace() / "zipped.pth"
    path.write_bytes(data)
    checkpoint(path)


def configured(data: bytes) -> None:
    """The YAML beside plain weights."""
    path = workplace() / "configured" / "plain.pth"
    if not path.exists():
        path.parent.mkdir()
        torch.save(official_tensors(small_eqr(), ""), path)
    (path.parent / "all_config.yaml").write_bytes(data)
    checkpoint(path)


def safetensors(data: bytes) -> None:
    """A model as .safetensors, whole; as a training state too."""
    path = workplace() / "x.safetensors"
    path.write_bytes(data)
    checkpoint(path)
    try:
        read_tensors(path)
    except CheckpointError as error:
        one_line(error)


@cache
def own_parts() -> tuple[dict, bytes]:
    save(small_eqr(), workplace() / "good.safetensors")
    content = (workplace() / "good.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def own_header(data: bytes) -> None:
    """The JSON header of eqrlab inside a good safetensors file."""
    header, tensors = own_parts()
    inner = data.decode("utf-8", "replace")
    content = json.dumps({**header, "__metadata__": {"eqrlab": inner}}).encode()
    path = workplace() / "header.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + tensors)
    checkpoint(path)


def archived(data: bytes) -> None:
    """An archive of results, through the one door that all of them take."""
    path = workplace() / "x.nc"
    path.write_bytes(data)
    try:
        archive.read(path)
    except ValueError as error:
        one_line(error)
        assert str(error).isprintable(), repr(error)


TARGETS: dict[str, Target] = {
    t.__name__: t for t in (puzzles, npy, pickled, zipped, configured, safetensors, own_header, archived)
}


@cache
def seeds(name: str) -> list[bytes]:
    """Return small sound inputs of a target to start from."""
    place = workplace()
    sudoku, maze = (bundled(task).take(slice(2)) for task in ("sudoku6", "maze9"))
    if name == "puzzles":
        found = []
        for i, suffix in enumerate(SUFFIXES):
            for puzzles_ in (sudoku, maze):
                write_csv(place / f"seed{'.csv.gz' if suffix.endswith('gz') else '.csv'}", puzzles_)
                seed = place / f"seed{'.csv.gz' if suffix.endswith('gz') else '.csv'}"
                found.append(bytes([i]) + seed.read_bytes())
        return [*found, b"\x01" + b"." * 36 + b"\n# comment\n" + b"1" + b"." * 35]
    if name == "npy":
        folder = npy_folder() / "test"
        names = ["dataset.json", *(f"all__{key}.npy" for key in ARRAYS)]
        return [bytes([i]) + (folder / n).read_bytes() for i, n in enumerate(names)]
    model = small_eqr()
    if name in ("pickled", "zipped"):
        stream = io.BytesIO()
        torch.save({"model": official_tensors(model, ""), "config": official_config(model)}, stream)
        if name == "zipped":
            return [stream.getvalue()]
        with zipfile.ZipFile(stream) as file:
            real = file.read(next(n for n in file.namelist() if n.endswith("data.pkl")))
        plain = {"step": 3, "config": official_config(model), "model": {"a": [1.5, None, True, b"x", {2}]}}
        return [real, *(pickle.dumps(plain, protocol) for protocol in range(6))]
    if name == "configured":
        return [
            json.dumps(official_config(model)).encode(),
            b"arch:\n  hidden_size: &a 16\n  num_heads: *a\n",
        ]
    if name == "safetensors":
        own_parts()
        tiny = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"eqrlab": "{}"}}
        content = json.dumps(tiny).encode()
        return [
            (place / "good.safetensors").read_bytes(),
            len(content).to_bytes(8, "little") + content + bytes(4),
        ]
    if name == "own_header":
        return [own_parts()[0]["__metadata__"]["eqrlab"].encode()]
    data = xr.Dataset(
        {
            "mass": (("puzzle", "attractor"), np.ones((2, 3))),
            "code": ("puzzle", [1, 2], {"flag_meanings": "a b"}),
        },
        coords={"puzzle": [0, 1], "attractor": [0, 1, 2]},
        attrs={"seed": 1, "config": "{}"},
    )
    archive.write(place / "seed.nc", {"ensemble": data, "spectrum": data.assign(value=("puzzle", [1j, 2.0]))})
    return [(place / "seed.nc").read_bytes()]
