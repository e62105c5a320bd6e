"""Weights in the layouts that people save: states equal those of the plain file, and provenance says what was read."""

from __future__ import annotations

import collections
import shutil
import time

import pytest
import torch
import yaml
from safetensors.torch import save_file

from eqrlab.core import CheckpointError, load, save
from tests.core_models import assert_same_outputs, small_eqr, training_state
from tests.family_models import small_model
from tests.test_official_families import official_config, official_tensors

PREFIX = "_orig_mod.model.inner."


@pytest.fixture(scope="module")
def official(shared):
    """The tensors of an official TRM file, its folder, and the model they are."""
    folder = shared / "conformance/trm_mlp/checkpoint"
    return torch.load(folder / "step_936", weights_only=True), folder, load(folder / "step_936")


def resaved(official, folder, content, name="step_936"):
    shutil.copy(official[1] / "all_config.yaml", folder)
    torch.save(content, folder / name)
    return folder / name


def bare(name):
    return name.removeprefix(PREFIX)


WRAPPERS = {
    "module.": lambda n: "module." + n,
    "_orig_mod.module.": lambda n: n.replace("_orig_mod.", "_orig_mod.module."),
    "_fsdp_wrapped_module.": lambda n: n.replace("_orig_mod.", "_fsdp_wrapped_module."),
    "inner wrappers": lambda n: n.replace(
        "L_level.", "L_level._fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
    "ema_model.": lambda n: "ema_model." + bare(n),
    "model.model.": lambda n: "model.model." + bare(n),
    "_forward_module.": lambda n: "_forward_module." + n,
    "net.": lambda n: "net." + bare(n),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_of_names_change_no_state(official, wrapper, tmp_path):
    content = collections.OrderedDict((WRAPPERS[wrapper](n), t) for n, t in official[0].items())
    assert_same_outputs(official[2], load(resaved(official, tmp_path, content)))


CONTAINERS = {
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "Lightning": lambda t: {
        "epoch": 3,
        "global_step": 936,
        "pytorch-lightning_version": "2.5",
        "state_dict": {"model." + bare(n): v for n, v in t.items()},
        "hyper_parameters": {},
    },
    "model": lambda t: {"model": t, "epoch": 3},
    "model_state_dict": lambda t: {"model_state_dict": t, "optimizer_state_dict": {}},
    "model_state": lambda t: {"model_state": t},
    "net": lambda t: {"net": t, "acc": 0.5},
    "module": lambda t: {"module": t, "global_steps": 3},
    "ema": lambda t: {"ema": t, "step": 3},
    "model_ema": lambda t: {"model_ema": t},
    "ema_state_dict": lambda t: {"ema_state_dict": {"module": t, "decay": 0.99}},
    "AveragedModel": lambda t: {**{"module." + n: v for n, v in t.items()}, "n_averaged": torch.tensor(4)},
    "ema_pytorch": lambda t: {
        **{"ema_model." + bare(n): v for n, v in t.items()},
        **{"online_model." + bare(n): 0 * v for n, v in t.items()},
        "initted": torch.tensor([True]),
        "step": torch.tensor([7]),
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_change_no_state(official, container, tmp_path):
    loaded = load(resaved(official, tmp_path, CONTAINERS[container](official[0]), "last.ckpt"))
    assert_same_outputs(official[2], loaded)
    assert loaded.provenance["weights"] == "ema"
    assert "EqR's trainer" not in loaded.provenance["variant"]


NO_WEIGHTS = {
    "text": "TRM",
    "nothing": None,
    "options": {"hidden_size": 64},
    "options of options": {"ema_decay": {"model": {"beta": 0.9}}},
}


@pytest.mark.parametrize("first", NO_WEIGHTS)
def test_of_several_containers_the_first_that_holds_tensors_is_read(official, first, tmp_path):
    content = {"model": NO_WEIGHTS[first], "state_dict": official[0]}
    assert_same_outputs(official[2], load(resaved(official, tmp_path, content)))
    with pytest.raises(CheckpointError, match=r"'model' is no dictionary of tensors"):
        load(resaved(official, tmp_path, {"model": NO_WEIGHTS[first], "net": []}))


def test_the_state_of_an_optimiser_is_named_for_what_it_is(official, tmp_path):
    content = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
    with pytest.raises(CheckpointError, match=r"it seems to be the state of an optimiser: load the file of"):
        load(resaved(official, tmp_path, content))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_plain_safetensors_beside_the_configuration_give_the_same_states(official, name, tmp_path):
    shutil.copy(official[1] / "all_config.yaml", tmp_path)
    save_file(
        {bare(n): t.contiguous() for n, t in official[0].items()}, tmp_path / name, metadata={"format": "pt"}
    )
    assert_same_outputs(official[2], load(tmp_path / name))
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no all_config.yaml or config.yaml beside it"):
        load(tmp_path / name)


def test_files_are_read_by_what_they_are_whatever_their_names(official, tmp_path):
    model = small_eqr()
    save(model, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").rename(tmp_path / "m.pth")
    assert_same_outputs(model, load(tmp_path / "m.pth"))
    assert_same_outputs(official[2], load(resaved(official, tmp_path, official[0], "x.safetensors")))


# Averages beside raw weights ------------------------------------------------------------------------------------------

AVERAGES = {
    "ema": ("model_state_dict", lambda a: {"ema": a}),
    "ema_state_dict": ("model_state_dict", lambda a: {"ema_state_dict": a}),
    "ema_shadow": ("model", lambda a: {"ema_shadow": {n: t for n, t in a.items() if "_init" not in n}}),
    "ema_model": ("state_dict", lambda a: {"ema_model": {"ema_model." + bare(n): t for n, t in a.items()}}),
    "model_ema": ("model", lambda a: {"model_ema": {"module." + n: t for n, t in a.items()}}),
    "shadow inside": ("model", lambda a: {"ema_state": {"decay": 0.9, "shadow": a}}),
    "counters that are tensors": ("model", lambda a: {"ema": {"mu": torch.tensor(0.9), "shadow": a}}),
    "a decay among them": ("model", lambda a: {"ema": {"mu": 0.9, **a}}),
    "EMA in capitals": ("state_dict", lambda a: {"EMA": a}),
}


@pytest.mark.parametrize("key", AVERAGES)
def test_averages_under_any_usual_key_are_what_counts(key, tmp_path):
    raw, average = (small_model("trm mlp", seed=s, noise_scale=0.0, board=None) for s in (0, 1))
    average.load_state_dict(
        {k: raw.state_dict()[k] if "init" in k else v for k, v in average.state_dict().items()}
    )
    container, beside = AVERAGES[key]
    content = {container: official_tensors(raw), **beside(official_tensors(average))}
    torch.save(content, tmp_path / "x.pt")
    config = official_config(raw)
    for ema, wanted in ((True, average), (False, raw)):
        (tmp_path / "all_config.yaml").write_text(yaml.safe_dump({**config, "ema": ema}))
        loaded = load(tmp_path / "x.pt")
        assert_same_outputs(wanted, loaded)
        assert loaded.provenance["weights"] == ("ema" if ema else "raw")
        assert_same_outputs(average, load(tmp_path / "x.pt", weights="ema"))
        assert_same_outputs(raw, load(tmp_path / "x.pt", weights="raw"))


@pytest.mark.parametrize(
    ("ema", "wanted"),
    [(True, "ema"), (False, "raw"), (None, "raw"), (0.999, "ema"), (1, "ema"), (0, "raw"), (0.0, "raw")],
)
def test_the_configuration_says_by_yes_no_or_a_rate_whether_averages_count(official, ema, wanted, tmp_path):
    state = training_state(small_eqr(), ema=small_eqr(5))
    state["config"]["ema"] = ema
    torch.save(state, tmp_path / "x.pt")
    assert_same_outputs(small_eqr(5 if wanted == "ema" else 0), load(tmp_path / "x.pt"))
    alone = load(resaved(official, tmp_path, official[0]), settings={"ema": ema})
    assert alone.provenance["weights"] == wanted


@pytest.mark.parametrize("ema", ["false", "no", "False", "true", [], {"decay": 0.9}])
def test_other_words_on_averages_are_refused(ema, tmp_path):
    state = training_state(small_eqr(), ema=small_eqr(5))
    state["config"]["ema"] = ema
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(
        CheckpointError, match=r"ema of the configuration must be true, false, or a rate, got "
    ):
        load(tmp_path / "x.pt")
    assert_same_outputs(small_eqr(5), load(tmp_path / "x.pt", settings={"ema": True}))


UNREADABLE = {
    "a list": ({"ema": [torch.zeros(2)]}, "'ema' is no dictionary of averaged tensors"),
    "parameters without names": (
        {"ema_state": {"decay": 0.9, "shadow_params": [torch.zeros(2)]}},
        "'ema_state' is no dictionary of averaged tensors",
    ),
    "a dictionary of mixed content": (
        {"avg_stats": {"lm_head.weight": torch.zeros(5, 16), "kind": "mean"}},
        "'avg_stats' is no dictionary of averaged tensors",
    ),
    "two places": ("twice", "averages lie under"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_averages_that_cannot_be_read_are_refused_unless_raw_weights_are_asked_for(name, tmp_path):
    model = small_eqr()
    beside, reason = UNREADABLE[name]
    state = training_state(model)
    raw = state["model"]
    content = {"model": raw, "config": state["config"], "step": 1}
    content |= {"ema": raw, "ema_shadow": raw} if beside == "twice" else beside
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "x.pt")
    assert_same_outputs(model, load(tmp_path / "x.pt", weights="raw"))


def test_numbers_named_after_averages_are_none(tmp_path):
    model = small_eqr()
    state = training_state(model)
    torch.save(
        {"model": state["model"], "config": state["config"], "ema": 0.99, "ema_decay": 0.9}, tmp_path / "x.pt"
    )
    assert load(tmp_path / "x.pt").provenance["weights"] == "raw"
    with pytest.raises(CheckpointError, match="holds no EMA weights"):
        load(tmp_path / "x.pt", weights="ema")


METRICS = {
    "tensors": {"loss": torch.tensor(0.3)},
    "tensors and numbers": {"loss": torch.tensor(0.3), "acc": 0.5},
    "numbers": {"loss": 0.3},
}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("ema", [True, False])
def test_averages_of_metrics_are_no_averages_of_weights(ema, kind, tmp_path):
    raw, average = small_eqr(), small_eqr(seed=5)
    state = training_state(raw, ema=average)
    state["config"]["ema"] = ema
    torch.save({**state, "avg_metrics": METRICS[kind]}, tmp_path / "x.pt")
    assert_same_outputs(average if ema else raw, load(tmp_path / "x.pt"))
    del state["ema"]
    torch.save({**state, "avg_metrics": METRICS[kind]}, tmp_path / "y.pt")
    assert_same_outputs(raw, load(tmp_path / "y.pt"))


def test_averages_of_another_model_are_refused(tmp_path):
    state = training_state(small_eqr())
    state["config"]["ema"] = True
    torch.save({**state, "ema": {"encoder.weight": torch.zeros(3)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"'ema' is no dictionary of averaged tensors by name"):
        load(tmp_path / "x.pt")


# Prefix positions -----------------------------------------------------------------------------------------------------


def without_length(model, **changes):
    config = official_config(model, **changes)
    config["arch"].pop("puzzle_emb_len")
    return config


@pytest.mark.parametrize("container", ["plain", "model", "state_dict", "model_state_dict", "ema"])
def test_an_attention_trm_keeps_its_16_prefix_positions_however_it_is_wrapped(container, tmp_path):
    model = small_model("trm attention prefix", noise_scale=0.0, board=None, prefix_len=16)
    tensors = official_tensors(model)
    content = tensors if container == "plain" else {container: tensors, "epoch": 3}
    torch.save(content, tmp_path / "x.pt")
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(without_length(model)))
    loaded = load(tmp_path / "x.pt", seq_len=6)
    assert loaded.config.prefix_len == 16
    assert_same_outputs(model, loaded)


def test_a_trm_of_the_trainer_of_eqr_has_as_many_positions_as_its_vector_needs(tmp_path):
    model = small_model("trm attention prefix", noise_scale=0.0, board=None, prefix_len=1)
    content = {"model": official_tensors(model), "optimizers": [], "config": without_length(model)}
    torch.save(content, tmp_path / "x.pt")
    loaded = load(tmp_path / "x.pt", seq_len=6)
    assert loaded.config.prefix_len == 1 and "written by EqR's trainer" in loaded.provenance["variant"]
    assert_same_outputs(model, loaded)


def test_where_nothing_tells_the_prefix_positions_the_file_is_refused(tmp_path):
    model = small_model("trm attention prefix", noise_scale=0.0, board=None, prefix_len=16)
    torch.save({"model": official_tensors(model), "config": without_length(model)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"lacks arch.puzzle_emb_len, and it cannot be told"):
        load(tmp_path / "x.pt", seq_len=6)


def test_the_token_mixer_tells_the_prefix_positions_where_the_grid_is_known(tmp_path):
    for prefix_len in (1, 16):
        model = small_model(
            "trm mlp prefix", noise_scale=0.0, board=None, prefix_len=prefix_len, prefix_dim=16
        )
        torch.save({"model": official_tensors(model), "config": without_length(model)}, tmp_path / "x.pt")
        assert_same_outputs(model, load(tmp_path / "x.pt", seq_len=6))


# Messages and cost ----------------------------------------------------------------------------------------------------


def test_a_prefix_that_is_no_wrapper_is_named(official, tmp_path):
    content = {"student." + bare(n): t for n, t in official[0].items()}
    with pytest.raises(CheckpointError, match=r"begin with 'student.', a wrapper that is not known"):
        load(resaved(official, tmp_path, content))
    with pytest.raises(
        CheckpointError, match=r"no tensor has a name of these families .* there is 'encoder.weight'"
    ):
        load(resaved(official, tmp_path, {"encoder.weight": torch.zeros(2)}))


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<html>\n<head><title>404 Not Found</title>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
    ],
)
def test_other_files_are_named_for_what_they_are(start, kind, tmp_path):
    (tmp_path / "x.pth").write_bytes(start + bytes(200))
    with pytest.raises(CheckpointError, match=kind):
        load(tmp_path / "x.pth")


def test_8_bit_weights_are_refused_for_what_they_are(official, tmp_path):
    content = {n: t.to(torch.float8_e4m3fn) for n, t in official[0].items()}
    with pytest.raises(CheckpointError, match=r"of a kind that is not read .* save the weights as float32"):
        load(resaved(official, tmp_path, content))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["lm_head.weight", "q_head.weight", "H_init"])
def test_8_bit_weights_in_safetensors_are_refused_by_name(official, name, dtype, tmp_path):
    shutil.copy(official[1] / "all_config.yaml", tmp_path)
    tensors = {bare(n): t.contiguous() for n, t in official[0].items()}
    save_file({**tensors, name: tensors[name].to(dtype)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=rf"tensor {name} holds {dtype}, floating values are required"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1e300, "values that are infinite in torch.float32"),
        (-1e39, "values that are infinite in torch.float32"),
        (float("inf"), "NaN or infinite values"),
        (float("nan"), "NaN or infinite values"),
    ],
)
def test_wide_weights_of_others_must_be_finite_in_float32(official, value, reason, tmp_path):
    name = PREFIX + "lm_head.weight"
    content = {**official[0], name: torch.full_like(official[0][name], value, dtype=torch.float64)}
    path = resaved(official, tmp_path, content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: tensor lm_head.weight has {reason}"


@pytest.mark.parametrize("count", [1000, 15_000, 60_000])
def test_many_views_of_one_record_cost_no_more_than_the_bytes_of_the_file(official, count, tmp_path):
    base = torch.zeros(2_000_000)  # 8 MB that each view would be copied from
    views = {f"L_level.layers.0.x{k}": base[k : k + 4] for k in range(count)}
    path = resaved(official, tmp_path, {**official[0], **views})
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"is not part of this trm model|more than 20000 tensors"):
        load(path)
    assert time.process_time() - began < 4  # copies of the record took minutes


def nested_averages(width, depth, inner):
    """Dictionaries in dictionaries, all shared, under names of averages."""
    for _ in range(depth):
        inner = {f"ema_{k}": inner for k in range(width)}
    return inner


LONG = dict.fromkeys((f"{k:0200}" for k in range(1000)), 0)
SHARED = {
    "averages in averages": (
        lambda: nested_averages(100, 3, dict.fromkeys(map(str, range(100)), 0)),
        "'ema_0' is not a tensor",
    ),
    "averages of one tensor": (
        lambda: {"lm_head.weight": torch.zeros(2), **nested_averages(2000, 1, {"x": torch.zeros(2)})},
        "'ema_0' is not a tensor",
    ),
    "many averages of many tensors": (
        lambda: nested_averages(2000, 1, dict.fromkeys(map(str, range(2000)), torch.zeros(2))),
        "no tensor has a name of these families",
    ),
    "metrics that end in a list": (
        lambda: {
            "model": {"x": torch.zeros(2)},
            **nested_averages(5000, 1, {**dict.fromkeys(map(str, range(5000)), 0), "x": []}),
        },
        "no tensor has a name of these families",
    ),
    "dictionaries of other names": (
        lambda: {
            "model": {"x": torch.zeros(2)},
            "x": nested_averages(1, 1, {}),
            **{str(k): LONG for k in range(20_000)},
        },
        "no tensor has a name of these families",
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_parts_that_many_keys_share_are_looked_into_once(official, name, tmp_path):
    make, reason = SHARED[name]
    path = resaved(official, tmp_path, make())
    began = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        load(path)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("part", ["rope.", "layers.pre_norm", ".post_norm_1"])
def test_names_may_be_long_by_their_wrappers_alone(official, part, tmp_path):
    wrapped = {"module." * 40 + bare(n): t for n, t in official[0].items()}
    assert_same_outputs(official[2], load(resaved(official, tmp_path, wrapped)))
    long = (part * 41)[:201]
    with pytest.raises(CheckpointError, match=r"has a name of 201 characters, at most 200 are read"):
        load(resaved(official, tmp_path, {**official[0], long: torch.zeros(1)}))


@pytest.mark.parametrize("value", [1e300, -1e39, 3.5e38])
def test_weights_are_finite_in_the_dtype_that_runs(value, tmp_path):
    model = small_eqr().double()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = value
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    for change in (
        lambda m: m.to(torch.float32),
        lambda m: m.float(),
        lambda m: m.bfloat16(),
        lambda m: m.half(),
    ):
        with pytest.raises(
            ValueError, match=r"m\.safetensors: tensor lm_head\.weight has values that are infinite in"
        ):
            change(loaded)
        assert loaded.dtype == torch.float64 and torch.isfinite(loaded.lm_head.weight).all()
    assert loaded.double().dtype == torch.float64
