"""eqrlab's own files: they come back exactly, are replaced whole or not at all, and damage is refused in one line."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from eqrlab.core import CheckpointError, build, load, save
from eqrlab.core.checkpoints import load as checkpoint
from eqrlab.core.checkpoints import tensors as tensor_files
from eqrlab.core.files import sha256
from tests.core_models import assert_same_outputs, small_eqr

CONFIGS = {
    "mlp": {},
    "attention": {"mixer": "attention", "positions": "rope2d"},
    "learned": {"mixer": "attention", "positions": "learned", "layers": 2},
    "prefix": {"prefix_len": 2, "prefix_dim": 20},
}


def header_of(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(json.loads(file.read(size))["__metadata__"]["eqrlab"])


def rewrite(source, target, change_header=lambda h: h, change_tensors=lambda t: t):
    """Copy a saved model with another header or other tensors; the checksum is left out."""
    header = change_header(header_of(source))
    if isinstance(header, dict):
        header.pop("tensors_sha256", None)
    save_file(change_tensors(load_file(source)), target, metadata={"eqrlab": json.dumps(header)})
    return target


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save(small_eqr(), path)
    return path


def refused(path, *parts):
    """Check that a file is refused with one line that names it and says these things."""
    state = torch.get_rng_state()
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) <= 1000
    for part in parts:
        assert part in message
    assert torch.equal(torch.get_rng_state(), state)
    return message


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_comes_back_exactly(name, tmp_path):
    model = small_eqr(**CONFIGS[name])
    model.provenance = {"trained_by": "a test", "steps": 3}
    path = tmp_path / "m.safetensors"
    save(model, path)
    state = torch.get_rng_state()
    again = load(path)
    assert torch.equal(torch.get_rng_state(), state), "loading disturbs the global random state"
    assert (again.family, again.task, again.config) == (model.family, model.task, model.config)
    assert again.provenance == {
        **model.provenance,
        "checkpoint": "m.safetensors",
        "checkpoint_sha256": sha256(path),
    }
    assert not again.training
    assert_same_outputs(model, again)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_weights_is_kept(dtype, tmp_path):
    model = small_eqr().to(dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(1 / 3)
    save(model, tmp_path / "m.safetensors")
    again = load(str(tmp_path / "m.safetensors"))
    assert again.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_saved_file_is_readable_by_others_and_follows_the_umask(saved):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o666 & ~os.umask(os.umask(0o22) or 0o22)
    assert set(load_file(saved)) == set(small_eqr().state_dict())
    header = header_of(saved)
    assert header["family"] == "eqr" and header["format"] == 1
    assert header["config"] == json.loads(json.dumps(small_eqr().config.to_dict()))


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save(small_eqr(seed=1), saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_an_error_of_the_system(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OSError):
        save(small_eqr(), folder / "m.safetensors")


def test_a_path_through_a_file_is_an_error_of_the_system(saved):
    with pytest.raises(OSError):
        save(small_eqr(), saved / "below" / "m.safetensors")


def test_the_name_must_tell_the_format(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save(small_eqr(), tmp_path / "model.pth")


def test_a_missing_name_lists_the_bundled_models():
    message = refused("no-such-model", "no such file", "bundled are")
    for name in checkpoint.bundled():
        assert name in message
    refused("x" * 900)


def test_bundled_models_load_by_name():
    for name, path in checkpoint.bundled().items():
        model = load(name)
        assert model.provenance["checkpoint"] == path.name and model.task != "unknown"


def test_folders_empty_files_and_texts_are_refused(tmp_path):
    refused(tmp_path, "a folder without a checkpoint")
    for content in (
        b"",
        b"{}",
        b"# A model\n\nSee the paper.\n",
        b"\x00" * 100,
        b"\xff" * 100,
        bytes(range(256)) * 9,
    ):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        refused(path, "not a readable safetensors file")


def test_a_file_without_rights_is_refused(saved):
    saved.chmod(0)
    if os.access(saved, os.R_OK):
        pytest.skip("this user may read everything")
    refused(saved, "not a readable safetensors file")


def test_truncation_anywhere_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    for length in [*range(1, 40), *range(40, len(content), 997), len(content) - 1]:
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[:length])
        refused(path, "not a readable safetensors file")


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused_or_harmless(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("flip") / "m.safetensors"
    model = small_eqr()
    save(model, path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        again = load(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:  # a bit of the configuration or the provenance: the weights at least are right
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


HEADERS = {
    "no header": (lambda h: None, "no eqrlab header"),
    "a list": (lambda h: [1], "no eqrlab header"),
    "a training state": (lambda h: {"training_state": 1}, "no valid 'format'"),
    "newer format": (
        lambda h: {**h, "format": 99},
        "format 99 is newer than this eqrlab, which reads up to 1",
    ),
    "no config": (lambda h: {k: v for k, v in h.items() if k != "config"}, "no valid 'config'"),
    "config is text": (lambda h: {**h, "config": "x"}, "no valid 'config'"),
    "unknown family": (lambda h: {**h, "family": "gpt"}, "family 'gpt' unknown; choose from eqr"),
    "unknown key": (
        lambda h: {**h, "config": {**h["config"], "lamda": 0.1}},
        "unknown configuration keys lamda",
    ),
    "missing key": (
        lambda h: {**h, "config": {k: v for k, v in h["config"].items() if k != "seq_len"}},
        "configuration lacks seq_len",
    ),
    "wrong type": (
        lambda h: {**h, "config": {**h["config"], "hidden_size": "16"}},
        "hidden_size must be of type int, got '16'",
    ),
    "nested type": (
        lambda h: {**h, "config": {**h["config"], "H_cycles": [[[]]]}},
        "H_cycles must be of type int",
    ),
    "huge model": (lambda h: {**h, "config": {**h["config"], "hidden_size": 1 << 20}}, "larger than the"),
    "huge expansion": (lambda h: {**h, "config": {**h["config"], "expansion": 1e308}}, ""),
    "number beyond the floats": (
        lambda h: {**h, "config": {**h["config"], "noise_scale": 10**400}},
        "noise_scale must be finite, got an integer of more than 64 bits",
    ),
    "rotary frequencies beyond the floats": (
        lambda h: {**h, "config": {**h["config"], "rope_theta": 1e-320}},
        "rope_theta must be in [1e-06, 1e+12]",
    ),
    "huge rotary table": (
        lambda h: {
            **h,
            "config": {**h["config"], "mixer": "attention", "positions": "rope", "seq_len": 10**12},
        },
        "must be <= 65536",
    ),
    "another width": (
        lambda h: {**h, "config": {**h["config"], "vocab_size": 4}},
        "has shape (5, 16), the configuration requires (4, 16)",
    ),
    "line breaks": (lambda h: {**h, "family": "a\nb\rc\u2028d"}, "unknown"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_fit_is_refused(name, saved, tmp_path):
    change, reason = HEADERS[name]
    refused(rewrite(saved, tmp_path / "bad.safetensors", change_header=change), reason)


def without(tensors, name):
    return {k: v for k, v in tensors.items() if k != name}


TENSORS = {
    "missing": (lambda t: without(t, "q_head.bias"), "tensor q_head.bias is missing (1 of 8 are)"),
    "extra": (
        lambda t: {**t, "surplus": torch.zeros(1)},
        "tensor surplus is not part of this eqr model (1 unknown)",
    ),
    "shape": (lambda t: {**t, "q_head.bias": torch.zeros(3)}, "q_head.bias has shape (3,)"),
    "nan": (
        lambda t: {**t, "q_head.bias": torch.tensor([0.0, torch.nan])},
        "q_head.bias has NaN or infinite values",
    ),
    "infinite": (
        lambda t: {**t, "q_head.bias": torch.tensor([0.0, torch.inf])},
        "has NaN or infinite values",
    ),
    "integers": (
        lambda t: {**t, "q_head.bias": torch.zeros(2, dtype=torch.int64)},
        "floating values are required",
    ),
    "long name": (lambda t: {**t, "a\nb" * 9999: torch.zeros(1)}, "is not part of"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_half_match_are_refused(name, saved, tmp_path):
    change, reason = TENSORS[name]
    path = rewrite(saved, tmp_path / "bad.safetensors", change_tensors=change)
    if name == "long name":
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) <= 1000
    else:
        refused(path, reason)


def test_a_safetensors_file_of_others_is_refused(saved, tmp_path):
    path = tmp_path / "bad.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    refused(path, "has no eqrlab header")
    for text in ("[" * 100_000, "1" * 10_000, "{"):
        save_file({"weight": torch.zeros(2)}, path, metadata={"eqrlab": text})
        refused(path, "has no eqrlab header")


def test_a_damaged_tensor_is_found_by_the_checksum(saved):
    content = bytearray(saved.read_bytes())
    content[-3] ^= 0x40
    saved.write_bytes(content)
    refused(saved, "do not have the checksum in the header: the file is damaged")


def test_weights_must_be_one_of_three(saved):
    with pytest.raises(ValueError, match="weights must be auto, ema or raw, got 'best'"):
        load(saved, weights="best")


@pytest.mark.parametrize(
    ("about", "held", "lacking"),
    [
        ({"weights": "raw"}, "raw", "EMA weights"),
        ({"weights": "ema"}, "ema", "raw weights, only their averages"),
        ({"train": {"ema": 0.99}}, "ema", "raw weights, only their averages"),
        ({"train": {"ema": 0.0}}, "raw", "EMA weights"),
        ({}, "raw", "EMA weights"),
    ],
)
def test_weights_that_a_saved_model_does_not_hold_are_refused(about, held, lacking, tmp_path):
    model = small_eqr()
    model.provenance = about
    save(model, tmp_path / "m.safetensors")
    for weights in ("auto", held):
        assert_same_outputs(model, load(tmp_path / "m.safetensors", weights=weights))
    other = {"raw": "ema", "ema": "raw"}[held]
    with pytest.raises(CheckpointError, match=rf"m.safetensors: holds no {lacking}$"):
        load(tmp_path / "m.safetensors", weights=other)


@pytest.mark.parametrize("cells", [0, -5, "6", True, 6.0, [6]])
def test_the_number_of_cells_is_an_integer_of_at_least_one(cells, saved):
    with pytest.raises(ValueError, match="seq_len must be an integer >= 1, got "):
        load(saved, seq_len=cells)
    assert load(saved, seq_len=6).config.seq_len == 6


def test_an_unknown_family_cannot_be_built():
    with pytest.raises(ValueError, match="family 'foo' unknown; choose from eqr"):
        build("foo", {})


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_file(saved, monkeypatch):
    """Found by filling a disk during training: the library below raises an error of its own."""
    before = saved.read_bytes()

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors: cannot be written \(.*No space left"):
        save(small_eqr(seed=1), saved)
    assert saved.read_bytes() == before and list(saved.parent.glob(".*")) == []
