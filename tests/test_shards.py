"""States in folders of bounded files: what comes back, what is refused, what an interrupted write leaves."""

from __future__ import annotations

import json

import pytest
import torch

from eqrlab.core.checkpoints.load import CheckpointError
from eqrlab.core.training import shards
from eqrlab.core.training.shards import MANIFEST, read_shards, write_shards

TENSORS = {
    "weights": torch.randn(50, 7),
    "half": torch.randn(300).bfloat16(),
    "empty": torch.zeros(0, 3),
    "number": torch.tensor(5),
    "bytes": torch.arange(100, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(one[k], other[k]) for k in one
    )


@pytest.mark.parametrize("limit", [9, 100, 1000, 10**6])
def test_tensors_come_back_from_files_of_any_size(limit, tmp_path):
    write_shards(tmp_path / "state", TENSORS, {"step": 3}, limit)
    tensors, header = read_shards(tmp_path / "state")
    assert same(tensors, TENSORS) and header == {"step": 3}
    files = list((tmp_path / "state").glob("*.safetensors"))
    assert len(files) >= sum(t.numel() * t.element_size() for t in TENSORS.values()) / limit
    overhead = 120 * (len(TENSORS) + 3)
    assert all(f.stat().st_size <= limit + overhead for f in files)


def test_a_new_state_takes_the_place_of_the_old_one_alone(tmp_path):
    write_shards(tmp_path, TENSORS, {}, 100)
    (tmp_path / "state-notes.txt").write_text("mine")
    write_shards(tmp_path, {"x": torch.ones(3)}, {"step": 2}, 100)
    assert same(read_shards(tmp_path)[0], {"x": torch.ones(3)})
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 and (tmp_path / "state-notes.txt").exists()


@pytest.mark.parametrize("failing", [0, 2, "manifest"])
def test_an_interrupted_write_leaves_the_old_state(failing, tmp_path, monkeypatch):
    write_shards(tmp_path, TENSORS, {"step": 1}, 400)
    written = []
    original, replace = shards.write_tensors, shards.replaced_whole

    def write(path, *rest):
        if len(written) == failing:
            raise KeyboardInterrupt
        written.append(path)
        original(path, *rest)

    def replaced(path):
        if failing == "manifest":
            raise KeyboardInterrupt
        return replace(path)

    monkeypatch.setattr(shards, "write_tensors", write)
    monkeypatch.setattr(shards, "replaced_whole", replaced)
    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path, {k: v + v for k, v in TENSORS.items() if k != "flags"}, {"step": 2}, 400)
    monkeypatch.undo()
    tensors, header = read_shards(tmp_path)
    assert same(tensors, TENSORS) and header == {"step": 1}


def test_damaged_foreign_and_missing_files_are_refused(tmp_path):
    state, other = tmp_path / "state", tmp_path / "other"
    write_shards(state, TENSORS, {}, 400)
    write_shards(other, TENSORS, {}, 400)
    files = json.loads((state / MANIFEST).read_text())["files"]
    foreign = json.loads((other / MANIFEST).read_text())["files"]
    content = (state / files[1]).read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b""):
        (state / files[1]).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"not a readable safetensors file|the file is damaged"):
            read_shards(state)
    (state / files[1]).write_bytes((other / foreign[1]).read_bytes())
    with pytest.raises(CheckpointError, match="belongs to another state"):
        read_shards(state)
    (state / files[1]).unlink()
    with pytest.raises(CheckpointError, match=files[1]):
        read_shards(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("files"), "not a readable list"),
        (lambda m: m["tensors"]["weights"].update(dtype="object"), "not a readable list"),
        (lambda m: m["tensors"]["weights"].update(shape=[2, 2]), "has not the 4 values"),
        (lambda m: m["tensors"]["weights"].update(shards=[99]), "weights is not in the files"),
        (lambda m: m.update(files=["../x.safetensors"]), "files outside of its folder"),
        (lambda m: m.update(header=3), "has no header"),
    ],
)
def test_a_list_that_does_not_fit_its_files_is_refused(change, message, tmp_path):
    write_shards(tmp_path, TENSORS, {}, 400)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    change(manifest)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        read_shards(tmp_path)


def test_a_folder_without_a_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a readable list of a training state"):
        read_shards(tmp_path)
