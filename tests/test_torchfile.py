"""Files of torch.save: damaged, foreign and hostile ones are refused, and nothing in them is ever called."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqrlab.core import CheckpointError, load
from eqrlab.core.checkpoints import torchfile
from tests.core_models import assert_same_outputs, refused, small_eqr, training_state, write


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    for content in (
        b"",
        b"# A model\n",
        b"\x00" * 4096,
        b"PK\x03\x04" + b"\x00" * 99,
        bytes(range(256)) * 16,
    ):
        path.write_bytes(content)
        refused(
            path, "a file written by torch.save (1.6 or later) or an eqrlab .safetensors file is required"
        )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "without the one data.pkl")
    path.unlink()
    path.mkdir()
    refused(path, "a folder without a checkpoint")


def test_the_format_before_version_1_6_is_refused_with_its_remedy(tmp_path):
    path = write(tmp_path, {"a": torch.zeros(2)}, _use_new_zipfile_serialization=False)
    refused(path, "written in the old format of torch.save (before version 1.6, or with ")


def test_a_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    refused(path)


def test_truncation_anywhere_is_refused(tmp_path):
    content = write(tmp_path, training_state(small_eqr())).read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(content), len(content) // 60), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path)


@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=8))
def test_damaged_bytes_anywhere_are_refused_or_harmless(places, damaged):
    content, model, path = damaged
    changed = bytearray(content)
    for share, flip in places:
        changed[int(share * len(content))] ^= flip
    path.write_bytes(changed)
    loads_or_is_refused(path, model)


@given(data=st.data())
def test_a_damaged_pickle_is_refused_or_harmless(data, damaged):
    """The pickle is rewritten with a right checksum, so that damage reaches the interpreter."""
    content, model, path = damaged
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in records if n.endswith("/data.pkl"))
    changed = bytearray(records[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    records[name] = bytes(changed)
    rezip(path, records)
    loads_or_is_refused(path, model)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A good file in the official layout, the model in it, and where to write damaged copies."""
    folder = tmp_path_factory.mktemp("damaged")
    model = small_eqr(mixer="attention", positions="rope")
    content = write(folder, training_state(model, ema=model)).read_bytes()
    return content, model, folder / "damaged.pth"


def loads_or_is_refused(path, model):
    try:
        loaded = load(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert set(loaded.state_dict()) == set(model.state_dict())
        assert all(torch.isfinite(t).all() for t in loaded.state_dict().values())


def rezip(path, records, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


# Hostile pickles -----------------------------------------------------------------------------------------------------


class Bomb:
    """Its pickle asks for a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_is_called(tmp_path):
    marker = tmp_path / "executed"
    command = f"touch {marker}"
    calls = [
        (os.system, (command,)),
        (eval, (f"open({str(marker)!r}, 'w')",)),
        (exec, (f"open({str(marker)!r}, 'w')",)),
        (subprocess.call, (["touch", str(marker)],)),
        (Path.touch, (marker,)),
        (pickle.loads, (pickle.dumps(Bomb(os.system, (command,))),)),
    ]
    for call in calls:
        for place in ("carry", "model", "config", "top"):
            content = training_state(small_eqr())
            if place == "top":
                content = Bomb(*call)
            else:
                content[place] = Bomb(*call)
            path = write(tmp_path, content)
            if place == "carry":  # an object in a part that is not used: the weights are good
                assert_same_outputs(small_eqr(), load(path))
            else:
                refused(path)
            assert not marker.exists()


def hostile(path, data, records=None):
    """Write an archive whose pickle is `data`."""
    rezip(path, {"x/data.pkl": data, "x/byteorder": b"little", **(records or {})})
    return path


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%btQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(%b%b%b%b\x89ccollections\nOrderedDict\n)RtR"


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tensor(count=4, offset=0, shape=b"K\x04\x85", stride=b"K\x01\x85"):
    return TENSOR % (STORAGE % number(count), number(offset), shape, stride)


def dictionary(value):
    return b"\x80\x02}X\x01\x00\x00\x00w" + value + b"s."


HOSTILE = {
    "nothing": (b"", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "stack underflow": (b"\x80\x02R.", "takes more than it has"),
    "mark underflow": (b"\x80\x02t.", "damaged"),
    "unknown memo": (b"\x80\x02h\x07.", "damaged"),
    "huge memo number": (b"\x80\x02}r\xff\xff\xff\x7f.", "no dictionary"),
    "huge text": (b"\x80\x02X\xff\xff\xff\x7fab.", "damaged"),
    "huge bytes": (b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "damaged"),
    "huge bytearray": (b"\x80\x05\x96\xff\xff\xff\xff\x0f\x00\x00\x00ab.", "damaged"),
    "huge number": (b"\x80\x02\x8b\xff\xff\xff\x7fab.", "damaged"),
    "long decimal": (b"I" + b"9" * 9999 + b"\n.", "damaged"),
    "deep nesting": (b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", "a list"),
    "deep tuples": (b"\x80\x02)" + b"\x85" * 50_000 + b".", "a tuple"),
    "doubling": (b"\x80\x02)" + b"2\x86" * 100 + b".", "a tuple"),
    "doubling as a key": (b"\x80\x02})" + b"2\x86" * 100 + b"Ns.", "no dictionary"),
    "doubling as a class": (
        b"\x80\x04)" + b"2\x86" * 100 + b"\x8c\x01x\x93.",
        "by something that is no text",
    ),
    "odd escapes": (b"\x80\x02ca\\H\nb\nR.", "takes more than it has"),
    "extension code": (b"\x80\x02\x82\x01.", "the operation EXT1"),
    "persistent text": (b"P123\n.", "the operation PERSID"),
    "out of band": (b"\x80\x05\x97.", "the operation NEXT_BUFFER"),
    "foreign record": (b"\x80\x02(X\x06\x00\x00\x00moduleQ.", "refers to a kind of record"),
    "foreign reference": (b"\x80\x02X\x06\x00\x00\x00moduleQ.", "refers to a kind of record"),
    "missing record": (
        dictionary(tensor().replace(b"\x01\x00\x00\x000X", b"\x01\x00\x00\x009X")),
        "x/data/9 is missing",
    ),
    "more values than bytes": (dictionary(tensor(count=5)), "has 16 bytes, 5 values of torch.float32"),
    "fewer values than bytes": (dictionary(tensor(count=3)), "has 16 bytes, 3 values"),
    "negative count": (dictionary(tensor(count=-4)), "-4 values"),
    "shape beyond the record": (
        dictionary(tensor(shape=b"K\x05\x85")),
        "holds 4 values, shape (5,) asks for more",
    ),
    "offset beyond the record": (dictionary(tensor(offset=1)), "asks for more"),
    "negative offset": (dictionary(tensor(offset=-1)), "impossible shape or stride"),
    "negative stride": (dictionary(tensor(stride=b"J\xff\xff\xff\xff\x85")), "impossible shape or stride"),
    "stride beyond the record": (dictionary(tensor(stride=b"K\x02\x85")), "asks for more"),
    "huge shape without stride": (
        dictionary(tensor(shape=number(1 << 60) + b"\x85", stride=b"K\x00\x85")),
        "asks for more",
    ),
    "overflowing shape": (
        dictionary(tensor(shape=b"(" + number(1 << 61) * 3 + b"t", stride=b"(" + number(0) * 3 + b"t")),
        "asks for more",
    ),
    "many axes": (
        dictionary(tensor(shape=b"(" + b"K\x01" * 99 + b"t", stride=b"(" + b"K\x01" * 99 + b"t")),
        "impossible",
    ),
    "shape and stride differ": (dictionary(tensor(stride=b"(K\x01K\x01t")), "impossible shape or stride"),
    "shape is text": (dictionary(tensor(shape=b"X\x01\x00\x00\x00a")), "impossible shape or stride"),
    "tensor of nothing": (
        dictionary(TENSOR % (b"N", b"K\x00", b")", b")")),
        "refers to something that is no record",
    ),
    "tensor without arguments": (dictionary(b"ctorch._utils\n_rebuild_tensor_v2\n)R"), "damaged"),
    "state for a tensor": (dictionary(tensor() + b"}b"), "lm_head.weight with 2 axes is missing"),
    "state for a function": (
        dictionary(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
        "no dictionary of tensors",
    ),
    "line breaks in names": (dictionary(b"N").replace(b"w", b"\n"), "no dictionary of tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_quickly_and_cheaply(name, tmp_path):
    data, reason = HOSTILE[name]
    path = hostile(tmp_path / "x.pth", data, {"x/data/0": b"\x00" * 16})
    (tmp_path / "config.yaml").write_text("arch: {hidden_size: 4}")
    tracemalloc.start()
    started = time.process_time()
    refused(path, reason)
    elapsed, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 20 and peak < 200e6


def with_attribute(tensor):
    tensor.origin = "elsewhere"
    return tensor


KINDS = {
    "buffers": torch.nn.Buffer,
    "parameters": torch.nn.Parameter,
    "tensors with attributes": lambda t: with_attribute(t.clone()),
    "parameters with attributes": lambda t: with_attribute(torch.nn.Parameter(t)),
    "tensors with an attribute that is a call": lambda t: with_call(t.clone()),
}


def with_call(tensor):
    tensor.call = Bomb(os.system, ("touch executed",))
    return tensor


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_read_whatever_python_keeps_beside_them(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = training_state(small_eqr())
    content["model"] = {name: KINDS[kind](t) for name, t in content["model"].items()}
    assert_same_outputs(small_eqr(), load(write(tmp_path, content)))
    assert not (tmp_path / "executed").exists()


class Foreign(torch.Tensor):
    """A tensor whose values may mean something else."""


def test_tensors_of_foreign_classes_are_refused(tmp_path):
    content = training_state(small_eqr())
    content["model"] = {name: t.as_subclass(Foreign) for name, t in content["model"].items()}
    refused(write(tmp_path, content), "is not a tensor")


def test_small_tensors_whose_values_repeat_are_read_and_large_ones_refused(tmp_path):
    model = small_eqr()
    with torch.no_grad():
        model.q_head.bias.fill_(0.5)
    content = training_state(model)
    name = next(n for n in content["model"] if n.endswith("q_head.bias"))
    content["model"][name] = torch.full((1,), 0.5).expand(2)
    assert_same_outputs(model, load(write(tmp_path, content)))
    content["model"][name] = torch.full((1,), 0.5).expand(1 << 17)
    refused(write(tmp_path, content), "holds 1 values, shape (131072,) asks for more")
    many = {f"x{k}": torch.full((1,), 0.5).expand(1 << 16) for k in range(20)}
    path = write(tmp_path, {**content, "model": {**training_state(model)["model"], **many}})
    refused(path, "the tensors ask for")


def test_one_record_read_ten_thousand_times_is_refused(tmp_path):
    entry = b"X\x06\x00\x00\x00%06d" + tensor(count=10**5, shape=number(10**5) + b"\x85")
    data = b"\x80\x02}(" + b"".join(entry.replace(b"%06d", b"%06d" % i) for i in range(10_000)) + b"u."
    path = hostile(tmp_path / "x.pth", data, {"x/data/0": b"\x00" * 400_000})
    with pytest.raises(CheckpointError, match=r"the tensors ask for 4000000000 bytes, the file has"):
        torchfile.read_stored(torchfile.read_torch_file(path), path)


def test_compressed_records_are_refused(tmp_path):
    content = write(tmp_path, training_state(small_eqr())).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    rezip(tmp_path / "x.pth", records, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x.pth", "is compressed, which torch.save never does")
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in records.items():
            method = zipfile.ZIP_DEFLATED if "/data/" in name else zipfile.ZIP_STORED
            archive.writestr(name, data, compress_type=method)
    refused(tmp_path / "y.pth", "is compressed, which torch.save never does")


def test_big_endian_files_are_refused(tmp_path):
    rezip(tmp_path / "x.pth", {"x/data.pkl": b"\x80\x02}.", "x/byteorder": b"big"})
    refused(tmp_path / "x.pth", "the tensors are big-endian, little-endian is required")


def test_a_size_that_the_directory_overstates_is_found(tmp_path):
    path = hostile(
        tmp_path / "x.pth",
        dictionary(tensor(count=1000, shape=number(1000) + b"\x85")),
        {"x/data/0": b"\0" * 16},
    )
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1) + 1)
    content[entry + 24 : entry + 28] = (4000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        torchfile.read_stored(torchfile.read_torch_file(path), path)


def test_torchscript_archives_are_refused(tmp_path):
    rezip(
        tmp_path / "x.pth",
        {
            "m/data.pkl": b"\x80\x02c__torch__.Module\nNet\n)\x81}X\x01\x00\x00\x00aK\x01sb.",
            "m/code/__torch__.py": b"op_version_set = 1",
            "m/constants.pkl": b"\x80\x02).",
        },
    )
    refused(tmp_path / "x.pth", "holds an object of a foreign class")
