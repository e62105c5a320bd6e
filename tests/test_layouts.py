"""Layouts in which other code saves these models: states equal those of the same weights in the official layout."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
import types

import pytest
import torch
import yaml
from safetensors.torch import save_file

from eqrlab.core import CheckpointError, load, save
from eqrlab.core.checkpoints.foreign_configs import parse_setting
from eqrlab.core.models.layers import rotary_angles
from tests.core_models import assert_same_outputs, small_eqr
from tests.family_models import small_model
from tests.test_official_families import official_config, official_tensors


def model_of(kind="trm attention prefix", **changes):
    return small_model(kind, noise_scale=0.0, board=None, **changes)


def bare(model):
    return official_tensors(model, "")


def renamed(tensors, *pairs):
    for old, new in pairs:
        tensors = {name.replace(old, new): t for name, t in tensors.items()}
    return tensors


def split(tensors, whole, *parts):
    """Keep the rows of a tensor apart under several names."""
    found = {}
    for name, tensor in tensors.items():
        pieces = tensor.chunk(len(parts)) if f"{whole}." in name else ()
        found |= {name.replace(whole, part): p.clone() for part, p in zip(parts, pieces, strict=False)}
        if not pieces:
            found[name] = tensor
    return found


def write(folder, content, config, name="model.pt", config_name="all_config.yaml"):
    torch.save(content, folder / name)
    text = json.dumps(config) if config_name.endswith(".json") else yaml.safe_dump(config)
    (folder / config_name).write_text(text)
    return folder / name


# Names of tensors -----------------------------------------------------------------------------------------------------

QKV = ("self_attn.qkv_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
SPELLINGS = {
    "q, k, v apart": lambda t: split(t, *QKV),
    "attn.to_q, to_k, to_v, to_out": lambda t: renamed(
        split(t, "self_attn.qkv_proj", "attn.to_q", "attn.to_k", "attn.to_v"),
        ("self_attn.o_proj", "attn.to_out"),
    ),
    "attention.wq, wk, wv, wo": lambda t: renamed(
        split(t, "self_attn.qkv_proj", "attention.wq", "attention.wk", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
    ),
    "attn.qkv, attn.proj": lambda t: renamed(
        t, ("self_attn.qkv_proj", "attn.qkv"), ("self_attn.o_proj", "attn.proj")
    ),
    "gate_proj, up_proj": lambda t: split(t, "mlp.gate_up_proj", "mlp.gate_proj", "mlp.up_proj"),
    "w1, w2, w3 of Llama": lambda t: renamed(
        split(t, "mlp.gate_up_proj", "feed_forward.w1", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
    ),
    "w1, w2, w3 in order": lambda t: renamed(
        split(t, "mlp.gate_up_proj", "ffn.w1", "ffn.w2"), ("mlp.down_proj", "ffn.w3")
    ),
    "w12, w3": lambda t: renamed(t, ("mlp.gate_up_proj", "mlp.w12"), ("mlp.down_proj", "mlp.w3")),
    "w1 of both halves, w2": lambda t: renamed(t, ("mlp.gate_up_proj", "ff.w1"), ("mlp.down_proj", "ff.w2")),
    "embed_tokens.weight": lambda t: renamed(t, ("embedding_weight", "weight")),
    "tok_emb, head": lambda t: renamed(
        t, ("embed_tokens.embedding_weight", "tok_emb.weight"), ("lm_head", "head")
    ),
    "y_init, z_init": lambda t: renamed(t, ("H_init", "y_init"), ("L_init", "z_init")),
    "starts (1, 1, D)": lambda t: {n: v.view(1, 1, -1) if n.endswith("_init") else v for n, v in t.items()},
    "blocks outside of a level": lambda t: renamed(t, ("L_level.layers.", "net.blocks.")),
    "L_net": lambda t: renamed(t, ("L_level", "L_net")),
    "all at once": lambda t: renamed(
        split(split(t, *QKV), "mlp.gate_up_proj", "mlp.w1", "mlp.w3"),
        ("mlp.down_proj", "mlp.w2"),
        ("embedding_weight", "weight"),
        ("H_init", "y_init"),
        ("L_init", "z_init"),
        ("L_level.layers.", "layers."),
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_of_tensors_change_no_state(spelling, tmp_path):
    model = model_of(layers=2)
    tensors = SPELLINGS[spelling](bare(model))
    assert set(tensors) != set(bare(model)) or spelling.startswith("starts")
    loaded = load(write(tmp_path, tensors, official_config(model)), seq_len=6)
    assert loaded.config == model.config
    assert_same_outputs(model, loaded)


@pytest.mark.parametrize("kind", ["trm mlp prefix", "hrm prefix", "urm bfloat16", "eqr"])
def test_other_families_have_their_parts_apart_too(kind, tmp_path):
    model = small_eqr() if kind == "eqr" else model_of(kind)
    if kind == "eqr":
        from tests.core_models import official_config as config_of
        from tests.core_models import official_tensors as tensors_of

        tensors, config = tensors_of(model, ""), config_of(model)
    else:
        tensors, config = bare(model), official_config(model)
        if kind == "urm bfloat16":
            state = model.state_dict()
            model.load_state_dict({k: v.bfloat16().float() if "dwconv" in k else v for k, v in state.items()})
    for part in ("mlp", "mlp_t"):
        tensors = split(tensors, f"{part}.gate_up_proj", f"{part}.gate", f"{part}.up")
    tensors = renamed(split(tensors, *QKV), ("H_level", "H_module"), ("L_level", "L_module"))
    assert_same_outputs(model, load(write(tmp_path, tensors, config), seq_len=6))


@pytest.mark.parametrize("table", ["inv_freq", "cos_cached", "half", "broadcast"])
def test_tables_of_rotary_angles_are_seen_to_be_the_models_and_left(table, tmp_path):
    model = model_of()
    angles = rotary_angles(torch.arange(8), 8, 10000.0)
    tables = {
        "inv_freq": {"rotary_emb.inv_freq": 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)},
        "cos_cached": {"rotary_emb.cos_cached": angles.cos(), "rotary_emb.sin_cached": angles.sin()},
        "half": {"rope.cos": angles[:, :4].cos(), "rope.sin": angles[:, :4].sin()},
        "broadcast": {"L_level.layers.0.self_attn.rotary.cos": angles.cos().bfloat16()[None, None]},
    }[table]
    path = write(tmp_path, {**bare(model), **tables}, official_config(model))
    loaded = load(path, seq_len=6)
    assert_same_outputs(model, loaded)
    assert loaded.provenance["dropped"] == sorted(tables)
    with pytest.raises(
        CheckpointError, match=r"is a table of other rotary angles than those of rope_theta 500"
    ):
        load(path, seq_len=6, settings={"rope_theta": 500.0})


def test_a_halting_head_of_one_output_halts_as_the_official_one(tmp_path):
    model = model_of()
    tensors = bare(model)
    tensors |= {f"q_head.{k}": tensors[f"q_head.{k}"][:1].clone() for k in ("weight", "bias")}
    loaded = load(write(tmp_path, tensors, official_config(model)), seq_len=6)
    assert_same_outputs(model, loaded)  # compares the halting logits


def test_parts_that_do_not_fit_and_names_that_meet_are_refused(tmp_path):
    model = model_of()
    tensors = split(bare(model), *QKV)
    tensors["L_level.layers.0.self_attn.k_proj.weight"] = torch.zeros(16, 7)
    with pytest.raises(CheckpointError, match=r"the parts of .*qkv_proj.weight have the shapes"):
        load(write(tmp_path, tensors, official_config(model)), seq_len=6)
    tensors = {**bare(model), "head.weight": bare(model)["lm_head.weight"].clone()}
    with pytest.raises(CheckpointError, match=r"two tensors have names that mean lm_head.weight"):
        load(write(tmp_path, tensors, official_config(model)), seq_len=6)


# Blocks that are not the official ones: the tensors say so, and the model computes them -------------------------------


def rms(h, weight, eps=1e-5):
    return h / (h.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def by_hand(tensors, h, pre, eps=1e-5):
    """Compute one attention block of 16 features and 2 heads, without rotary encoding, from its tensors in float64."""
    get = lambda name: tensors[name].double()

    def attention(h):
        q, k, v = (get(f"self_attn.{n}_proj.weight") for n in "qkv")
        heads = lambda w: (h @ w.T).unflatten(-1, (2, 8)).transpose(1, 2)
        weights = torch.softmax(heads(q) @ heads(k).mT / math.sqrt(8), -1)
        return (weights @ heads(v)).transpose(1, 2).flatten(2) @ get("self_attn.o_proj.weight").T

    def mlp(h):
        gate, up = h @ get("mlp.w1.weight").T, h @ get("mlp.w3.weight").T
        return (gate * torch.sigmoid(gate) * up) @ get("mlp.w2.weight").T

    one, two = get("norm_a"), get("norm_b")
    if pre:
        h = h + attention(rms(h, one, eps))
        return h + mlp(rms(h, two, eps))
    h = rms(h + attention(h), one, eps)
    return rms(h + mlp(h), two, eps)


NORMS = {
    "norm1, norm2": ("norm1.weight", "norm2.weight", False, {}),
    "input_layernorm": ("input_layernorm.weight", "post_attention_layernorm.weight", True, {}),
    "attention_norm, ffn_norm": ("attention_norm.weight", "ffn_norm.weight", True, {}),
    "post_attn_norm": ("post_attn_norm.weight", "post_mlp_norm.weight", False, {}),
    "option pre_norm": ("norm1.weight", "norm2.weight", True, {"pre_norm": True}),
    "option norm_first": ("ln_1.weight", "ln_2.weight", True, {"norm_first": True}),
    "another epsilon": ("norm1.scale", "norm2.scale", False, {"rms_norm_eps": 1e-2}),
}


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_learned_norms_and_pre_norm_are_computed_as_the_tensors_say(kind, final, tmp_path):
    first, second, pre, options = NORMS[kind]
    pre = pre or (final and first.startswith("norm1") and "pre_norm" not in options)
    torch.manual_seed(1)
    width = 40  # no multiple of 256: the weights tell it
    block = {f"self_attn.{n}_proj.weight": torch.randn(16, 16) / 4 for n in "qkvo"}
    block |= {f"mlp.{n}.weight": torch.randn(width, 16) / 4 for n in ("w1", "w3")}
    block |= {"mlp.w2.weight": torch.randn(16, width) / 6}
    norms = {"norm_a": 1 + torch.rand(16), "norm_b": 1 + torch.rand(16), "final": 1 + torch.rand(16)}
    tensors = {f"layers.0.{n}": t for n, t in block.items()}
    tensors |= {f"layers.0.{first}": norms["norm_a"], f"layers.0.{second}": norms["norm_b"]}
    if final:
        tensors["norm.weight"] = norms["final"]
    tensors |= {
        "y_init": torch.randn(16),
        "z_init": torch.randn(16),
        "embed_tokens.weight": torch.randn(5, 16),
    }
    tensors |= {
        "lm_head.weight": torch.randn(5, 16),
        "q_head.weight": torch.randn(2, 16),
        "q_head.bias": torch.zeros(2),
    }
    config = {"n_heads": 2, "h_cycles": 1, "l_cycles": 1, "pos_encodings": "none", **options}
    model = load(write(tmp_path, tensors, config, config_name="config.json"), seq_len=6)
    assert (model.family, model.config.pre_norm, model.config.final_norm) == ("trm", pre, final)

    def level(h):
        h = by_hand({**block, **norms}, h, pre, options.get("rms_norm_eps", 1e-5))
        return rms(h, norms["final"].double(), options.get("rms_norm_eps", 1e-5)) if final else h

    model = model.double()
    x = model.encode(torch.arange(12).view(2, 6) % 5)
    assert torch.allclose(x, 4 * tensors["embed_tokens.weight"].double()[torch.arange(12).view(2, 6) % 5])
    z = model.initial(x)
    z_L = level(z[:, 1] + z[:, 0] + x)
    z_H = level(z[:, 0] + z_L)
    assert torch.allclose(model.step(z, x), torch.stack([z_H, z_L], 1), rtol=1e-10, atol=1e-10)
    save(model, tmp_path / "own.safetensors")
    assert_same_outputs(model, load(tmp_path / "own.safetensors"))


def test_norms_with_weights_of_one_are_the_official_model(tmp_path):
    model = model_of("hrm", layers=2)
    tensors = bare(model)
    for level, count in (("H", 2), ("L", 2)):
        tensors |= {
            f"{level}_level.layers.{i}.norm{k}.weight": torch.ones(16) for i in range(count) for k in (1, 2)
        }
    loaded = load(write(tmp_path, tensors, official_config(model)), seq_len=6)
    assert loaded.config.norm_weights and not loaded.config.pre_norm
    assert_same_outputs(model, loaded)
    assert any("norms behind the mixing" in line for line in loaded.provenance["inferred"])


# Configurations -------------------------------------------------------------------------------------------------------


class Settings:
    """Stands for a class of options that is not there when the file is read."""


def pickled_as(kind, values):
    """Return options as an object of a class that can be pickled, and its class."""
    if kind == "namespace":
        return argparse.Namespace(**values)
    if kind == "dataclass":
        fields = [(name, type(value), value) for name, value in values.items()]
        made = dataclasses.make_dataclass("TRMConfig", fields)
    elif kind == "dict subclass":
        made = type("AttributeDict", (dict,), {})
    else:  # as omegaconf keeps a DictConfig
        made = type("DictConfig", (), {"__init__": lambda self, **held: self.__dict__.update(held)})
        node = type("AnyNode", (), {})
        vars(module("settings_of_others"))["AnyNode"] = node
        node.__module__ = "settings_of_others"
        nodes = {}
        for name, value in values.items():
            nodes[name] = node()
            nodes[name].__dict__ |= {"_val": value, "_metadata": None}
        values = {"_content": nodes, "_parent": None}
    made.__module__, made.__qualname__ = "settings_of_others", made.__name__
    vars(module("settings_of_others"))[made.__name__] = made
    return made(**values)


def module(name):
    return sys.modules.setdefault(name, types.ModuleType(name))


@pytest.mark.parametrize("key", ["config", "args", "hyper_parameters", "hparams", "cfg", "model_config"])
@pytest.mark.parametrize("kind", ["dict", "namespace", "dataclass", "dict subclass", "omegaconf"])
def test_options_in_the_file_are_read_from_objects_without_their_classes(kind, key, tmp_path):
    model = model_of(prefix_len=16)
    values = official_config(model)["arch"]
    values.pop("loss")
    held = values if kind == "dict" else pickled_as(kind, values)
    torch.save({"state_dict": bare(model), key: held}, tmp_path / "last.ckpt")
    sys.modules.pop("settings_of_others", None)
    loaded = load(tmp_path / "last.ckpt", seq_len=6)
    assert loaded.config == model.config
    assert_same_outputs(model, loaded)


def test_options_of_training_alone_in_the_file_leave_the_network_to_the_file_beside_it(tmp_path):
    model = model_of()
    content = {
        "state_dict": bare(model),
        "hyper_parameters": {"lr": 1e-4},
        "args": argparse.Namespace(seed=3),
    }
    assert_same_outputs(model, load(write(tmp_path, content, official_config(model)), seq_len=6))
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no 'arch' section, and no options num_heads, H_cycles"):
        load(tmp_path / "model.pt", seq_len=6)


@pytest.mark.parametrize("nested", ["arch", "model", "flat", "config.model", "hparams.network"])
@pytest.mark.parametrize("name", ["config.yaml", "config.json", "hparams.yaml", "args.json"])
def test_options_beside_the_file_may_be_flat_or_nested_yaml_or_json(nested, name, tmp_path):
    model = model_of()
    config = official_config(model)["arch"]
    for part in reversed([] if nested == "flat" else nested.split(".")):
        config = {part: config, "lr": 1e-4}
    assert_same_outputs(model, load(write(tmp_path, bare(model), config, "model", name), seq_len=6))


@pytest.mark.parametrize("nested", ["arch", "config.arch", "hparams.cfg.model"])
def test_averages_count_where_the_options_around_the_network_say_so(nested, tmp_path):
    raw, average = model_of(), model_of(seed=1)
    config = official_config(raw)["arch"]
    for depth, part in enumerate(reversed(nested.split("."))):
        config = {part: config, **({} if depth else {"ema": True})}
    content = {"model": bare(raw), "ema": {"shadow": bare(average)}, "config": config}
    torch.save(content, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt", seq_len=6)
    assert_same_outputs(average, loaded)
    assert loaded.provenance["weights"] == "ema"


def test_options_in_the_folder_above_are_found_from_within_the_folder(tmp_path, monkeypatch):
    model = model_of()
    (tmp_path / "checkpoints").mkdir()
    torch.save(bare(model), tmp_path / "checkpoints" / "model.pt")
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(official_config(model)))
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert_same_outputs(model, load("model.pt", seq_len=6))


def test_a_link_to_a_checkpoint_has_the_options_beside_it_or_beside_the_file(tmp_path):
    model, other = model_of(), tmp_path / "elsewhere"
    other.mkdir()
    (other / "link").symlink_to(write(tmp_path, bare(model), official_config(model)))
    assert_same_outputs(model, load(other / "link", seq_len=6))
    changed = official_config(model, halt_exploration_prob=0.5)
    (other / "all_config.yaml").write_text(yaml.safe_dump(changed))
    assert load(other / "link", seq_len=6).config.halt_exploration == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "arch:\n\tH_cycles: 2\n",
            r"line 2: while scanning for the next token, found character '\t' that cannot",
        ),
        ("arch: [1\nema: true\n", "line 2: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", "line 2: expected a single document in the stream, but found another document"),
        ("arch:\n  num_heads: 4\n  num_heads: 8\n", "line 3: 'num_heads' is there twice"),
        ("ema: true\narch: {}\n'ema': false\n", "line 3: 'ema' is there twice"),
        ("a: !!python/object:x.Y {b: 1, b: 2}\n", "line 1: 'b' is there twice"),
        ("a: !!map [1, 2]\n", "line 1: expected a mapping node, but found sequence"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", "line 3: merge keys (<<) are not read"),
    ],
)
def test_a_fault_in_yaml_is_told_with_its_line(text, reason, tmp_path):
    torch.save(bare(model_of()), tmp_path / "model")
    (tmp_path / "all_config.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "model", seq_len=6)
    assert f"all_config.yaml beside it is not readable as YAML ({reason}" in str(caught.value)


def test_an_option_that_json_has_twice_is_refused(tmp_path):
    path = write(tmp_path, bare(model_of()), {}, config_name="config.json")
    (tmp_path / "config.json").write_text('{"arch": {"num_heads": 4, "num_heads": 8}}')
    with pytest.raises(CheckpointError, match=r"not readable as JSON \('num_heads' is there twice\)"):
        load(path, seq_len=6)


def test_options_that_are_null_are_those_that_are_not_given(tmp_path):
    model = model_of(prefix_len=16)
    config = official_config(model, seq_len=6)
    optional = ("vocab_size", "rms_norm_eps", "halt_max_steps", "halt_exploration_prob", "rope_theta", "expansion",
                "input_seq_len", "puzzle_emb_len", "puzzle_emb_ndim", "mlp_t", "name", "lambda_")  # fmt: skip
    loaded = load(write(tmp_path, bare(model), {"arch": {**config["arch"], **dict.fromkeys(optional)}}))
    assert_same_outputs(model, loaded)
    assert {"halt_max_steps 16 by default", "puzzle_emb_len 16 by default"} <= set(
        loaded.provenance["inferred"]
    )
    config["arch"] |= {"seq_len": None, "input_seq_len": 6}
    assert_same_outputs(model, load(write(tmp_path, bare(model), config)))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("num_heads", "the configuration lacks arch.num_heads, which the weights do not tell"),
        ("pos_encodings", "arch.pos_encodings must be str, got None"),
    ],
)
def test_options_that_must_be_told_may_not_be_null(option, reason, tmp_path):
    model = model_of()
    path = write(tmp_path, bare(model), official_config(model, **{option: None}))
    with pytest.raises(CheckpointError, match=reason):
        load(path, seq_len=6)


def test_a_token_mixer_needs_no_encoding_of_positions(tmp_path):
    model = model_of("trm mlp")
    assert_same_outputs(model, load(write(tmp_path, bare(model), official_config(model, pos_encodings=None))))


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.e-4", "+1.0e-4", "0.0001"])
def test_numbers_of_yaml_may_have_an_exponent(number, tmp_path):
    assert parse_setting(f"rope_theta={number}") == ("rope_theta", 1e-4)
    model = model_of()
    config = official_config(model)
    config["arch"]["halt_exploration_prob"] = "NUMBER"
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(config).replace("NUMBER", number))
    torch.save(bare(model), tmp_path / "model")
    assert load(tmp_path / "model", seq_len=6).config.halt_exploration == 1e-4


@pytest.mark.parametrize(
    "reference",
    ["${.hidden_size}", "${..arch.hidden_size}", "${arch.hidden_size}", "${width}", "${..sizes.D}"],
)
def test_references_of_hydra_to_other_options_are_followed(reference, tmp_path):
    model = model_of(prefix_len=16, prefix_dim=16)
    config = {
        "width": "${arch.hidden_size}",
        "sizes": {"D": "${..arch.hidden_size}"},
        **official_config(model),
    }
    config["arch"]["puzzle_emb_ndim"] = reference
    (tmp_path / ".hydra").mkdir()
    path = write(tmp_path, bare(model), config, config_name=".hydra/config.yaml")
    assert_same_outputs(model, load(path, seq_len=6))


@pytest.mark.parametrize(
    "reference",
    ["${.puzzle_emb_ndim}", "${arch}", "${....hidden_size}", "${arch.hidden_size.x}", "${oc.env:D}"],
)
def test_a_reference_that_leads_to_no_option_is_told_as_it_stands(reference, tmp_path):
    model = model_of(prefix_len=16, prefix_dim=16)
    path = write(tmp_path, bare(model), official_config(model, puzzle_emb_ndim=reference))
    with pytest.raises(CheckpointError) as caught:
        load(path, seq_len=6)
    assert f"arch.puzzle_emb_ndim must be int, got {reference!r}" in str(caught.value)


def test_a_reference_without_end_takes_no_time(tmp_path):
    model = model_of()
    path = write(tmp_path, bare(model), official_config(model))
    config = yaml.safe_load((tmp_path / "all_config.yaml").read_text())
    config["arch"]["other"] = "${" + "." * 100_000
    started = time.process_time()
    load(path, seq_len=6, config=config)
    assert time.process_time() - started < 5


def test_options_by_other_names_are_named(tmp_path):
    model = model_of()
    arch = official_config(model)["arch"]
    names = {"hidden_size": "d_model", "num_heads": "n_heads", "H_cycles": "T", "L_cycles": "n", "L_layers": "n_layers",
             "pos_encodings": "pos_encoding", "halt_max_steps": "N_sup"}  # fmt: skip
    flat = {names.get(name, name): value for name, value in arch.items()}
    flat |= {"pos_encoding": "rotary", "max_seq_len": 6}
    loaded = load(write(tmp_path, bare(model), flat))
    assert loaded.config == model.config
    assert_same_outputs(model, loaded)
    assert "H_cycles from the option T" in loaded.provenance["inferred"]
    assert "seq_len from the configuration" in loaded.provenance["inferred"]


TAGGED = """\
arch: !!python/object:omegaconf.dictconfig.DictConfig
  num_layers: 1
  loops: 16
  name: urm.urm@URM
  num_heads: 2
  expansion: 1.0
  H_cycles: 2
  L_cycles: 2
  pos_encodings: rope
  forward_dtype: !!python/name:torch.float32 ''
  where: !!python/object/apply:os.system ["touch executed"]
  loop_deltas: !!python/object:omegaconf.listconfig.ListConfig
    _content: &id001
    - !!python/object:omegaconf.nodes.AnyNode {_val: 8, _parent: null}
    - !!python/tuple [1, *id001]
beta1: 0.9
"""


def test_tags_of_python_in_yaml_are_opaque_and_never_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = model_of("urm bfloat16")
    state = model.state_dict()
    model.load_state_dict({k: v.bfloat16().float() if "dwconv" in k else v for k, v in state.items()})
    torch.save({"model_state_dict": bare(model), "step": 3}, tmp_path / "step_3.pt")
    (tmp_path / "all_config.yaml").write_text(TAGGED)
    loaded = load(tmp_path / "step_3.pt", seq_len=6)
    assert_same_outputs(model, loaded)
    assert "loop_deltas" in loaded.provenance["ignored_config"]
    assert loaded.provenance["forward_dtype"] == "float32"
    assert not (tmp_path / "executed").exists()


def test_shared_parts_of_a_configuration_cannot_grow_without_end(tmp_path):
    laughs = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    torch.save(bare(model_of()), tmp_path / "x.pt")
    (tmp_path / "config.yaml").write_text("\n".join(laughs))
    with pytest.raises(CheckpointError, match="the configuration has more than 10000 values"):
        load(tmp_path / "x.pt")


def test_a_configuration_is_given_by_file_or_dictionary_and_single_options_count_before_it(tmp_path):
    model, config = model_of(), official_config(model_of())
    torch.save(bare(model), tmp_path / "bare")
    for given in (config, config["arch"], tmp_path / "mine.yaml", str(tmp_path / "mine.yaml")):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
        assert_same_outputs(model, load(tmp_path / "bare", seq_len=6, config=given))
    other = load(tmp_path / "bare", seq_len=6, config=config, settings={"H_cycles": 5, "n_heads": 1})
    assert (other.config.H_cycles, other.config.num_heads) == (5, 1)
    assert other.provenance["set"] == {"H_cycles": 5, "num_heads": 1}
    alone = {
        k: config["arch"][k] for k in ("num_heads", "H_cycles", "L_cycles", "expansion", "puzzle_emb_len")
    }
    assert_same_outputs(model, load(tmp_path / "bare", seq_len=6, settings=alone))
    with pytest.raises(
        CheckpointError, match=r"the setting 'H_cycle' is no option of this TRM; did you mean"
    ):
        load(tmp_path / "bare", seq_len=6, config=config, settings={"H_cycle": 5})
    with pytest.raises(CheckpointError, match=r"nothing.yaml, the configuration given, is not readable"):
        load(tmp_path / "bare", seq_len=6, config=tmp_path / "nothing.yaml")


def test_settings_change_own_files_too(tmp_path):
    model = small_eqr()
    save(model, tmp_path / "m.safetensors")
    changed = load(tmp_path / "m.safetensors", settings={"H_cycles": 4})
    assert_same_outputs(model.replace(H_cycles=4), changed)
    assert changed.provenance["set"] == {"H_cycles": 4}
    with pytest.raises(CheckpointError, match="unknown configuration keys H_cycle"):
        load(tmp_path / "m.safetensors", settings={"H_cycle": 4})
    with pytest.raises(CheckpointError, match="holds its own configuration"):
        load(tmp_path / "m.safetensors", config={"H_cycles": 4})


# Containers -----------------------------------------------------------------------------------------------------------


def shards(folder, tensors, count=2):
    """Write tensors as the hub does: some files, and an index of where each tensor is."""
    folder.mkdir(parents=True, exist_ok=True)
    names, where = sorted(tensors), {}
    for k in range(count):
        file = f"model-{k + 1:05d}-of-{count:05d}.safetensors"
        part = {n: tensors[n].contiguous() for n in names[k::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def test_safetensors_in_several_files_are_read_by_their_index_or_by_any_of_them(tmp_path):
    model = model_of()
    index = shards(tmp_path, bare(model), 3)
    (tmp_path / "config.json").write_text(json.dumps(official_config(model)))
    digests = set()
    for path in (index, *sorted(tmp_path.glob("*-of-*.safetensors"))):
        loaded = load(path, seq_len=6)
        assert_same_outputs(model, loaded)
        digests.add(loaded.provenance["checkpoint_sha256"])
    assert len(digests) == 1
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"the file 'model-00002-of-00003.safetensors' that it names: no such"
    ):
        load(index, seq_len=6)


def test_a_file_of_several_without_their_index_is_told_so(tmp_path):
    model = model_of()
    shards(tmp_path, bare(model)).unlink()
    (tmp_path / "config.json").write_text(json.dumps(official_config(model)))
    for path in (tmp_path, tmp_path / "model-00001-of-00002.safetensors"):
        with pytest.raises(CheckpointError) as caught:
            load(path, seq_len=6)
        assert str(caught.value) == (
            f"{path}: 'model-00001-of-00002.safetensors' is one of several files of a model, and "
            "model.safetensors.index.json, which lists them, is missing"
        )
    shards(tmp_path / "one", bare(model), 1).unlink()
    (tmp_path / "one" / "config.json").write_text(json.dumps(official_config(model)))
    assert_same_outputs(model, load(tmp_path / "one", seq_len=6))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weight_map": {"x": "../secret.safetensors"}}, "names '../secret.safetensors'"),
        ({"weight_map": {"x": "/etc/passwd"}}, "names '/etc/passwd'"),
        ({"weight_map": {"x": 3}}, "has no 'weight_map'"),
        ({"weight_map": {}}, "has no 'weight_map'"),
        ([], "JSON"),
        ({"weight_map": {"x": "a" * 300 + ".safetensors"}}, f"the file '{'a' * 40}' .*: File name too long"),
        ({"weight_map": {"x": "a\0.safetensors"}}, "the file .* that it names: "),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(change, reason, tmp_path):
    index = shards(tmp_path, bare(model_of()))
    index.write_text(json.dumps(change))
    with pytest.raises(CheckpointError, match=reason):
        load(index, seq_len=6)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_an_index_may_begin_with_a_byte_order_mark(start, tmp_path):
    model = model_of()
    index = shards(tmp_path, bare(model))
    index.write_bytes(start + index.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(official_config(model)))
    assert_same_outputs(model, load(index, seq_len=6))


def test_a_tensor_that_is_not_where_the_index_says_is_refused(tmp_path):
    index = shards(tmp_path, bare(model_of()))
    where = json.loads(index.read_text())
    where["weight_map"]["H_init"] = "model-00002-of-00002.safetensors"
    where["weight_map"]["L_init"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(where))
    with pytest.raises(
        CheckpointError, match=r"tensor '[HL]_init' is not in 'model-00002-of-00002.safetensors'"
    ):
        load(index, seq_len=6)


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint", None), ("step_12", 12), ("weights.bin", None), ("last", None), ("two_step_process", None),
     ("maze_hard_step_32550", 32550), ("step_39060_sudoku_60k_epoch", 39060), ("epoch=9-step=200.ckpt", 200)],
)  # fmt: skip
def test_any_name_is_read_and_a_step_in_it_is_kept(name, step, tmp_path):
    model = model_of()
    loaded = load(write(tmp_path, bare(model), official_config(model), name), seq_len=6)
    assert_same_outputs(model, loaded)
    assert loaded.provenance["step"] == step


# The grid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocab", "cells", "said"),
    [
        (6, 900, "the vocabulary of 6 tokens, that of the public mazes of 30 x 30: an assumption"),
        (12, 900, "the vocabulary of 12 tokens, that of ARC on boards of 30 x 30: an assumption"),
        (11, 81, "the vocabulary of 11 tokens, that of a Sudoku"),
    ],
)
def test_a_known_board_is_taken_for_its_vocabulary_and_named_so(vocab, cells, said, tmp_path):
    model = model_of("hrm prefix", vocab_size=vocab)
    path = write(tmp_path, bare(model), official_config(model))
    loaded = load(path)
    assert loaded.config.seq_len == cells and f"seq_len from {said}" in loaded.provenance["inferred"]
    other = load(path, puzzle_cells=lambda: 25)
    assert other.config.seq_len == 25 and "seq_len from the puzzles" in other.provenance["inferred"]
    assert load(path, seq_len=16, puzzle_cells=lambda: 25).config.seq_len == 16


def mixer_over(positions, kind="trm mlp prefix"):
    """Return tensors and configuration of a token mixer with a prefix of unknown length."""
    model = model_of(kind, prefix_len=16, prefix_dim=16, seq_len=positions - 16)
    config = official_config(
        model, name="m", **({"lambda_": 0.95, "noise_scale": 0.0} if kind == "eqr" else {})
    )
    config["arch"].pop("puzzle_emb_len", None)
    return model, bare(model), config


@pytest.mark.parametrize("kind", ["trm mlp prefix", "eqr"])
@pytest.mark.parametrize("option", ["seq_len", "input_seq_len"])
def test_the_cells_of_the_configuration_tell_the_prefix_of_a_token_mixer(option, kind, tmp_path):
    model, tensors, config = mixer_over(52, kind)
    config["arch"][option] = 36
    for path in (write(tmp_path, tensors, config), write(tmp_path, {"model": tensors, "config": config}, {})):
        loaded = load(path)
        assert (loaded.config.seq_len, loaded.config.prefix_len, loaded.family) == (36, 16, model.family)
        assert_same_outputs(model, loaded)
    config["arch"]["puzzle_emb_len"] = 0
    with pytest.raises(
        CheckpointError, match=r"the configuration says seq_len 36, the token mixer has 51 grid cells"
    ):
        load(write(tmp_path, tensors, config))


@pytest.mark.parametrize("kind", ["trm mlp prefix", "trm mlp", "hrm mlp", "eqr"])
def test_cells_of_the_configuration_that_contradict_the_weights_are_refused(kind, tmp_path):
    model = model_of(kind)
    eqr = {"lambda_": 1.0 - model.config.damping, "noise_scale": 0.0} if kind == "eqr" else {}
    config = official_config(model, **eqr)
    path = write(tmp_path, bare(model), config)
    assert load(path, settings={"seq_len": 6}).config.seq_len == 6
    told = "the configuration says seq_len 81, the token mixer has 6 grid cells"
    with pytest.raises(CheckpointError, match=told):
        load(path, settings={"seq_len": 81})
    config["arch"]["seq_len"] = 81
    with pytest.raises(CheckpointError, match=told):
        load(write(tmp_path, bare(model), config))
    assert_same_outputs(model, load(path, seq_len=6))  # an argument counts before the configuration


def test_a_longest_length_need_not_be_that_of_the_weights(tmp_path):
    model = model_of("trm mlp")
    config = official_config(model)
    config["arch"]["max_seq_len"] = 512
    assert load(write(tmp_path, bare(model), config)).config == model.config


def test_puzzles_are_not_asked_where_the_weights_tell_the_grid(tmp_path):
    model = model_of("trm mlp prefix")

    def never():
        raise AssertionError

    path = write(tmp_path, bare(model), official_config(model))
    assert load(path, puzzle_cells=never).config.seq_len == 6


# Files of none of these families --------------------------------------------------------------------------------------

LLAMA = {
    "model.embed_tokens.weight": torch.zeros(5, 16),
    "model.layers.0.self_attn.q_proj.weight": torch.zeros(16, 16),
    "model.layers.0.input_layernorm.weight": torch.zeros(16),
    "lm_head.weight": torch.zeros(5, 16),
}


@pytest.mark.parametrize(
    ("content", "beside", "said"),
    [
        (LLAMA, None, "a transformer that is not recursive"),
        (LLAMA, {"architectures": ["LlamaForCausalLM"]}, "a Hugging Face model by the config.json beside it, 'L"),
        ({"state_dict": {"encoder.w": torch.ones(2)}, "pytorch-lightning_version": "2"}, None, "a Lightning"),
        ({"base.lora_A.weight": torch.zeros(2)}, None, "an adapter (LoRA)"),
    ],
)  # fmt: skip
def test_files_of_other_models_are_named_with_what_was_looked_for(content, beside, said, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    if beside:
        (tmp_path / "config.json").write_text(json.dumps(beside))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "x.pt")
    message = str(caught.value)
    assert said in message and "H_init and L_init (TRM, HRM)" in message and "EqR:" not in message, message


def test_no_family_is_named_where_nothing_tells_it(tmp_path):
    model = model_of()
    tensors = {n: t for n, t in bare(model).items() if not n.endswith("_init")}
    config = official_config(model)
    with pytest.raises(
        CheckpointError, match=r"one of TRM .* whose weights have H_init, and there is no such"
    ):
        load(write(tmp_path, tensors, config), seq_len=6)
    config["arch"].pop("name")
    with pytest.raises(
        CheckpointError, match=r"it cannot be told whose these weights are: .* add what is missing"
    ):
        load(write(tmp_path, tensors, config), seq_len=6)
