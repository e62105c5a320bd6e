"""Files that nobody would give on purpose: refused in one line, never with a traceback or a full memory."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqrlab import datasets
from eqrlab.attractors.results import archive
from eqrlab.datasets import write_npy_folder

ROOT = Path(__file__).resolve().parents[1]


# Puzzle files ---------------------------------------------------------------------------------------------------------


BOMB = """
import resource, sys
from eqrlab import datasets
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (300 << 20), size + (300 << 20)))
for path in sys.argv[1:]:
    try:
        datasets.read_puzzles(path)
    except ValueError as error:
        print(error)
"""


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    """400 MB of blanks in 400 kB are given up at the bound, in one line or in many."""
    paths = []
    for name, line in (("one", b"." * (1 << 20)), ("many", b"." * 15 + b"\n")):
        paths.append(tmp_path / f"{name}.txt.gz")
        part = gzip.compress(line * ((1 << 20) // len(line)), 9)
        paths[-1].write_bytes(part * 400)  # gzip files in a row are one
    done = subprocess.run(
        [sys.executable, "-c", BOMB, *map(str, paths)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.stdout.count("of gzip give more than") == 2, done.stderr


def test_a_well_compressed_file_is_read(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress((b"." * 16 + b"\n") * 2000))
    assert len(datasets.read_puzzles(path)) == 2000


def test_devices_are_refused_and_pipes_are_read(tmp_path):
    with pytest.raises(ValueError, match="is no regular file"):
        datasets.read_puzzles("/dev/zero")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(pipe)!r}, 'w').write('.' * 16)"])
    assert len(datasets.read_puzzles(pipe)) == 1
    assert writer.wait(60) == 0


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HEADERS = {
    "no shape": "{'descr': '<i8'}",
    "a call": "__import__('os').system('touch executed')",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1, 16)}",
    "a huge shape": f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**62}, 16)}}",
    "a shape of 4,000 digits": f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({'9' * 4000}, 16)}}",
    "a negative shape": "{'descr': '<i8', 'fortran_order': False, 'shape': (-4, -4)}",
    "nesting": "(" * 9000,
    "signs": "-" * 9000 + "1",
    "sums": "1" + "+1" * 4500,
    "a record dtype": "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1, 16)}",
    "an unknown dtype": "{'descr': 'zz', 'fortran_order': False, 'shape': (1, 16)}",
    "a dtype of 10**9 bytes": "{'descr': '|V1000000000', 'fortran_order': False, 'shape': (1, 16)}",
    "a NUL": "\0" * 100,
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_of_arrays_are_refused_and_not_evaluated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_npy_folder(tmp_path / "d", datasets.bundled("sudoku6").take(slice(2)))
    target = tmp_path / "d/test/all__inputs.npy"
    target.write_bytes(npy(HEADERS[name], bytes(128)))
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(tmp_path / "d")
    assert str(caught.value).startswith(str(target)) and "\n" not in str(caught.value)
    assert not Path("executed").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(changes=st.dictionaries(st.sampled_from(["vocab_size", "seq_len", "pad_id", "sets", "total_groups",
                                                "ignore_label_id", "total_puzzles"]), JSON, min_size=1))  # fmt: skip
def test_any_values_in_dataset_json_are_read_or_refused_by_name(changes, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "any-json"
    if not folder.exists():
        write_npy_folder(folder, datasets.bundled("sudoku6").take(slice(2)))
    path = folder / "test/dataset.json"
    before = path.read_bytes()
    try:
        path.write_text(json.dumps({**json.loads(before), **changes}))
        datasets.read_puzzles(folder)
    except ValueError as error:
        assert str(folder) in str(error)
    finally:
        path.write_bytes(before)


# Archives ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A sound archive with flags, text, numbers and complex values, and where to write damaged copies."""
    data = xr.Dataset(
        {
            "mass": (("puzzle", "attractor"), np.tile(np.arange(300.0), (2, 1))),
            "fate": ("puzzle", np.int8([0, 1]), {"flag_values": np.int8([0, 1]), "flag_meanings": "a b"}),
        },
        coords={"puzzle": [0, 1], "attractor": np.arange(300), "selector": ("selector", ["x", "y"])},
        attrs={"seed": 1, "config": "{}"},
    )
    folder = tmp_path_factory.mktemp("archives")
    value = data.assign(value=("puzzle", [1j, 2.0]))
    archive.write(folder / "good.nc", {"ensemble": data, "spectrum": value})
    return (folder / "good.nc").read_bytes(), folder / "damaged.nc"


def opened_or_refused(path):
    try:
        archive.read(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_truncated_archive_is_refused(share, stored):
    content, path = stored
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a readable NetCDF-4 archive"):
        archive.read(path)


@settings(max_examples=40)
@given(places=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=4))
def test_damaged_bytes_of_an_archive_are_read_or_refused(places, stored):
    content, path = stored
    changed = bytearray(content)
    for share, flip in places:
        changed[int(share * len(content))] ^= flip
    path.write_bytes(changed)
    opened_or_refused(path)


def test_a_damaged_compressed_block_is_refused(stored):
    """Found by the fuzzer: the library below reports it as RuntimeError."""
    content, path = stored
    place, damaged = content.find(b"x^"), bytearray(content)
    assert place > 0, "blocks are compressed by zlib"
    while place >= 0:
        damaged[place : place + 4] = b"\0\0\0\0"
        place = content.find(b"x^", place + 1)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.nc: not a readable NetCDF-4 archive"):
        archive.read(path)


def test_foreign_netcdf_files_and_devices_are_refused_as_archives(tmp_path):
    for name, content in {
        "text": b"hello",
        "hdf": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "classic": b"CDF\x01" + bytes(28),
    }.items():
        (tmp_path / name).write_bytes(content)
        opened_or_refused(tmp_path / name)
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "gone", "a\0b"):
        with pytest.raises(ValueError):
            archive.read(path)
