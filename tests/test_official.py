"""Official checkpoints: outputs agree with the official code, files that half match are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from eqrlab.core import CheckpointError, StoredNoise, load
from tests.core_models import (
    PREFIX,
    assert_same_outputs,
    official_config,
    official_tensors,
    refused,
    small_eqr,
    training_state,
    write,
)

OFFICIAL = {
    "eqr_mlp": "conformance/eqr_mlp/checkpoint/checkpoints/step_2000_refrun01.pth",
    "eqr_prefix_mlp": "conformance/eqr_prefix_mlp/checkpoint/eqr.pth",
}


def golden(shared, name):
    with np.load(shared / "conformance" / name / "golden.npz") as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fiu"}


def assert_close(got, want, what, perturbed=None, fine=None):
    """Relative to the largest value 1e-5, or what the map makes of rounding, which processors do differently.

    That is ten times the recorded growth of a relative 1e-6 change of the start or, where none was recorded, four
    times the difference from the value `fine` in float64.
    """
    tolerance = 1e-5 * want.abs().max().item()
    if perturbed is not None:
        tolerance = max(tolerance, 10 * perturbed.item())
    elif fine is not None:
        tolerance = max(tolerance, 4 * (got - fine).abs().max().item())
    assert (got - want).abs().max().item() <= tolerance, what


@pytest.mark.parametrize("prefix", ["", "noisy_"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_states_logits_and_halting_agree_with_the_official_forward_pass(shared, name, prefix):
    want = golden(shared, name)
    if f"{prefix}z_H_1" not in want:
        pytest.skip("no outputs with noise were recorded for this checkpoint")
    model = load(shared / OFFICIAL[name])
    rows = len(want[f"{prefix}z_H_1"])
    x = model.encode(want["inputs"][:rows].long())
    z = torch.stack((want["z_H_0"], want["z_L_0"]), dim=1)[:rows]
    noise, same = (StoredNoise(want["noisy_unit_noise"]) if prefix else None for _ in range(2))
    fine, fine_x, compared = z.double(), x.double(), 0
    for step in range(1, 17):
        if prefix and step > 4:
            break
        with torch.no_grad():
            z, fine = model.step(z, x, noise), model.step(fine, fine_x, same)
        if f"{prefix}z_H_{step}" not in want:
            continue
        got, exact = (
            {"z_H": s[:, 0], "z_L": s[:, 1], "logits": model.logits(s, c), "q_halt": model.halt_logit(s, c)}
            for s, c in ((z, x), (fine, fine_x))
        )
        for key, value in got.items():
            perturbed = want.get(f"pert1e6_maxabsdiff_{key}_{step}")
            expected, told = want[f"{prefix}{key}_{step}"], f"{key} at step {step}"
            assert_close(value.detach(), expected, told, perturbed, exact[key].detach())
        compared += 1
    assert compared == (3 if prefix else 4)


def test_every_level_call_of_the_first_step_agrees(shared):
    want = golden(shared, "eqr_mlp")
    model = load(shared / OFFICIAL["eqr_mlp"])
    x = model.encode(want["inputs"][:1].long())
    streams = (want["z_H_0"][:1], want["z_L_0"][:1])
    for level, after in zip(model.schedule, want["trace_L_level_calls_step1_sample0"], strict=True):
        with torch.no_grad():
            streams = model.update(streams, x, level, None)
        assert_close(streams[0 if level == "H" else 1][0], after, f"level call {level}")


def test_answers_of_the_official_evaluator_are_reproduced_at_every_step(shared):
    want = golden(shared, "eqr_mlp")
    model = load(shared / OFFICIAL["eqr_mlp"])
    x = model.encode(want["inputs"].long())
    z = torch.stack((want["z_H_0"], want["z_L_0"]), dim=1)
    for step in range(16):
        with torch.no_grad():
            before, z = z, model.step(z, x)
        assert torch.equal(model.decode(z, x), want["preds_all"][step].long())
        residual = (z - before).flatten(1).norm(dim=1)
        assert torch.allclose(residual, want["residual_per_sample"][step], rtol=1e-3, atol=1e-4)


# Synthetic files in the official layout, written from random models -------------------------------------------------

MODELS = {
    "mlp": {"damping": 0.3, "H_init_std": 0.7, "L_init_std": 1.3},
    "mlp prefix": {"prefix_len": 3, "prefix_dim": 20},
    "mlp prefix shorter than one position": {"prefix_len": 1, "prefix_dim": 10},
    "mlp learned": {"positions": "learned"},
    "attention rope": {"mixer": "attention", "positions": "rope", "rope_theta": 500.0, "layers": 2},
    "attention rope prefix": {"mixer": "attention", "positions": "rope", "prefix_len": 2, "prefix_dim": 32},
    "attention rope2d": {"mixer": "attention", "positions": "rope2d"},
    "attention learned": {"mixer": "attention", "positions": "learned"},
    "attention none": {"mixer": "attention", "H_cycles": 1, "L_cycles": 3},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_in_the_official_layout_gives_the_model_it_was_written_from(name, tmp_path):
    model = small_eqr(**MODELS[name])
    loaded = load(write(tmp_path, training_state(model)))
    assert loaded.config == model.config
    assert_same_outputs(model, loaded)
    assert loaded.provenance["step"] == 77 and loaded.provenance["weights"] == "raw"
    assert "carry" in loaded.provenance["dropped"]
    assert "loss" in loaded.provenance["ignored_config"] and "H_layers" in loaded.provenance["ignored_config"]
    if MODELS[name].get("mixer") == "attention" and MODELS[name].get("positions") != "learned":
        assert "seq_len from the training state" in loaded.provenance["inferred"]


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.model.inner.", "model.inner.", "model._orig_mod.inner.", "inner.", ""]
)
def test_wrappers_in_names_are_stripped(prefix, tmp_path):
    model = small_eqr()
    assert_same_outputs(model, load(write(tmp_path, training_state(model, prefix=prefix))))


def test_averaged_weights_are_what_counts_and_both_can_be_had(tmp_path):
    raw, average = (small_eqr(seed=s, prefix_len=2, prefix_dim=20) for s in (0, 1))
    average.embed_tokens.prefix.copy_(raw.embed_tokens.prefix)  # a buffer: never averaged
    path = write(tmp_path, training_state(raw, ema=average))
    for weights, model in {"auto": average, "ema": average, "raw": raw}.items():
        loaded = load(path, weights=weights)
        assert_same_outputs(model, loaded)
        assert loaded.provenance["weights"] == ("raw" if weights == "raw" else "ema")


def test_a_flat_dictionary_of_averages_is_read_too(tmp_path):
    raw, average = small_eqr(), small_eqr(seed=1)
    content = training_state(raw, ema=average)
    content["ema"] = content["ema"]["shadow"]
    assert_same_outputs(average, load(write(tmp_path, content)))


def test_averages_are_left_alone_when_the_configuration_says_so(tmp_path):
    raw = small_eqr()
    content = training_state(raw, ema=small_eqr(seed=1))
    content["config"]["ema"] = False
    assert_same_outputs(raw, load(write(tmp_path, content)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_other_precisions_become_float32(dtype, tmp_path):
    model = small_eqr().to(dtype)
    loaded = load(write(tmp_path, training_state(model)))
    assert loaded.dtype == torch.float32
    assert_same_outputs(model.float(), loaded)


def test_views_of_a_larger_storage_are_read_right(tmp_path):
    model = small_eqr()
    content = training_state(model)
    name = PREFIX + "lm_head.weight"
    base = torch.zeros(16, 12)
    base[:, 4:9] = content["model"][name].T
    content["model"][name] = base[:, 4:9].T
    assert_same_outputs(model, load(write(tmp_path, content)))


def test_a_plain_state_dict_takes_its_configuration_from_the_folder(tmp_path):
    model = small_eqr()
    config = official_config(model)
    for place in ("all_config.yaml", "config.yaml", "../all_config.yaml"):
        folder = tmp_path / place.replace("/", "_").replace(".", "_") / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(official_tensors(model, PREFIX), folder / "step_5")
        refused(folder / "step_5", "no configuration inside, and no all_config.yaml or config.yaml beside it")
        (folder / place).write_text(yaml.safe_dump(config))
        assert_same_outputs(model, load(folder / "step_5"))
        for text, reason in {
            "a: [": "not readable as YAML",
            "- 1": "must be a mapping",
            "d: 2001-99-99": "not read",
        }.items():
            (folder / place).write_text(text)
            refused(folder / "step_5", reason)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol, tmp_path):
    model = small_eqr()
    content = training_state(model)
    assert_same_outputs(model, load(write(tmp_path, content, pickle_protocol=protocol)))


def test_a_square_board_is_assumed_when_none_is_given(tmp_path):
    model = small_eqr(mixer="attention", positions="rope2d", seq_len=9, board=None)
    content = training_state(model)
    for name in ("board_height", "board_width", "rope_theta"):
        del content["config"]["arch"][name]
    loaded = load(write(tmp_path, content))
    assert_same_outputs(model, loaded)
    assert loaded.provenance["inferred"][-2:] == ["rope_theta 10000.0 by default", "square board by default"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"board_width": None}, "got board 2x2"),
        ({"board_height": None, "board_width": None}, "got board 2x2"),
        ({"board_height": "2"}, "arch.board_height must be int, got '2'"),
        ({"board_height": [2]}, "arch.board_height must be int, got a list"),
    ],
)
def test_a_board_that_is_told_in_part_is_never_guessed(changes, reason, tmp_path):
    content = training_state(small_eqr(mixer="attention", positions="rope2d"))
    content["config"]["arch"] |= changes
    with pytest.raises(CheckpointError, match=reason):
        load(write(tmp_path, content))


def test_the_grid_size_can_be_passed_when_no_tensor_tells_it(tmp_path):
    model = small_eqr(mixer="attention", positions="rope")
    content = training_state(model)
    del content["carry"]
    path = write(tmp_path, content)
    refused(path, "does not tell its grid size; pass seq_len")
    assert_same_outputs(model, load(path, seq_len=6))


def test_a_grid_size_that_contradicts_the_weights_is_refused(tmp_path):
    path = write(tmp_path, training_state(small_eqr()))
    with pytest.raises(CheckpointError, match="seq_len 81 was asked for, the token mixer has 6 grid cells"):
        load(path, seq_len=81)


# What is refused -----------------------------------------------------------------------------------------------------


def changed_arch(**changes):
    def change(content):
        arch = content["config"]["arch"]
        for name, value in changes.items():
            arch[name] = value
            if value is None:
                del arch[name]

    return change


def changed_tensor(name, make):
    def change(content):
        content["model"][PREFIX + name] = make(content["model"].get(PREFIX + name))

    return change


def dropped(*keys):
    def change(content):
        for key in keys:
            del content[key]

    return change


HALF_MATCHING = {
    "no tensor": (lambda c: c.update(model={}), "'model' is no dictionary of tensors"),
    "model is a number": (lambda c: c.update(model=3), "'model' is no dictionary of tensors"),
    "a value is no tensor": (changed_tensor("lm_head.weight", lambda t: "x"), "is no dictionary of tensors"),
    "missing head": (
        lambda c: c["model"].pop(PREFIX + "lm_head.weight"),
        "lm_head.weight with 2 axes is missing",
    ),
    "missing tensor": (lambda c: c["model"].pop(PREFIX + "q_head.bias"), "tensor q_head.bias is missing"),
    "extra tensor": (
        changed_tensor("extra", lambda t: torch.ones(2)),
        "tensor extra is not part of this eqr model",
    ),
    "twice": (lambda c: c["model"].update({"q_head.bias": torch.zeros(2)}), "q_head.bias is there twice"),
    "one axis": (changed_tensor("lm_head.weight", lambda t: t[0]), "lm_head.weight with 2 axes is missing"),
    "another shape": (changed_tensor("q_head.bias", lambda t: torch.zeros(3)), "q_head.bias has shape (3,)"),
    "nan": (changed_tensor("q_head.bias", lambda t: t * torch.nan), "q_head.bias has NaN or infinite values"),
    "integers": (changed_tensor("q_head.bias", lambda t: t.long()), "floating values are required"),
    "layers": (changed_arch(L_layers=2), "the weights have 1 L_level layers, the configuration says 2"),
    "width": (changed_arch(hidden_size=32), "lm_head.weight has width 16, the configuration says 32"),
    "vocabulary": (
        changed_arch(vocab_size=12),
        "lm_head.weight has a vocabulary of 5, the configuration says 12",
    ),
    "mixer": (
        changed_arch(mlp_t=False),
        "the weights have the mlp mixer, the configuration says mlp_t=False",
    ),
    "positions": (
        changed_arch(pos_encodings="sinusoidal"),
        "arch.pos_encodings 'sinusoidal' does not go with the weights",
    ),
    "no lambda": (changed_arch(lambda_=None), "lacks arch.lambda_, which the weights do not tell"),
    "no cycles": (changed_arch(H_cycles=None), "lacks arch.H_cycles"),
    "cycles are text": (changed_arch(H_cycles="3"), "arch.H_cycles must be int, got '3'"),
    "cycles are many": (changed_arch(L_cycles=-1), "L_cycles must be >= 1, got -1"),
    "lambda out of range": (changed_arch(lambda_=7.0), "arch.lambda_ must be in (0, 1], got 7.0"),
    "lambda is not a number": (changed_arch(lambda_=float("nan")), "arch.lambda_ must be in (0, 1], got nan"),
    "expansion is huge": (changed_arch(expansion=1e300), ""),
    "expansion is another": (changed_arch(expansion=64), "larger than the"),
    "an object in the configuration": (changed_arch(num_heads=torch.zeros(2)), "arch.num_heads must be int"),
    "no network section": (lambda c: c["config"].pop("arch"), "the configuration has no 'arch' section"),
    "no configuration": (dropped("config"), "no configuration inside"),
    "prefix table without rows": (
        changed_tensor("puzzle_emb.weights", lambda t: torch.zeros(0, 16)),
        "puzzle_emb.weights has no row",
    ),
    "prefix table missing": (
        changed_arch(puzzle_emb_len=16, puzzle_emb_ndim=16),
        "tensor puzzle_emb.weights with 2 axes is missing",
    ),
    "prefix table of another width": (
        lambda c: (
            changed_tensor("puzzle_emb.weights", lambda t: torch.zeros(1, 16))(c),
            changed_arch(puzzle_emb_len=2, puzzle_emb_ndim=20)(c),
        ),
        "puzzle_emb.weights has width 16, the configuration says puzzle_emb_ndim=20",
    ),
    "average lacks a tensor": (
        lambda c: c.update(
            ema={"mu": 0.9, "shadow": {k: v for k, v in c["model"].items() if "q_head" not in k}}
        ),
        "EMA weights lack tensor q_head.bias",
    ),
    "average has another tensor": (
        lambda c: c.update(ema={"mu": 0.9, "shadow": {**c["model"], "other": torch.zeros(1)}}),
        "EMA tensor other has no counterpart",
    ),
}


@pytest.mark.parametrize("name", HALF_MATCHING)
def test_a_file_that_half_matches_is_refused(name, tmp_path):
    change, reason = HALF_MATCHING[name]
    content = training_state(small_eqr())
    change(content)
    path = write(tmp_path, content)
    refused(path, reason)


def test_asking_for_averages_that_are_not_there_is_refused(tmp_path):
    path = write(tmp_path, training_state(small_eqr()))
    with pytest.raises(CheckpointError, match="holds no EMA weights"):
        load(path, weights="ema")


NOT_A_DICTIONARY = {"a list": [torch.zeros(2)], "a tensor": torch.zeros(2), "a number": 3, "an empty one": {}}


@pytest.mark.parametrize("name", NOT_A_DICTIONARY)
def test_other_things_that_torch_saves_are_refused(name, tmp_path):
    refused(write(tmp_path, NOT_A_DICTIONARY[name]))


def test_a_whole_module_is_refused_as_an_object(tmp_path):
    path = write(tmp_path, torch.nn.Linear(2, 2))
    refused(path, "holds an object of a foreign class, a dictionary of weights or training state is required")
