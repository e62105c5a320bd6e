"""Official checkpoints of TRM, HRM and URM: outputs agree with the official code, half-matching files are refused."""

from __future__ import annotations

import copy
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from eqrlab.core import CheckpointError, load
from tests.core_models import assert_same_outputs, urm_state
from tests.family_models import small_model

OFFICIAL = {
    "trm_mlp": "conformance/trm_mlp/checkpoint/step_936",
    "hrm": "conformance/hrm/checkpoint/step_750",
    "urm": "conformance/urm/checkpoint/step_750.pt",
}
PREFIX = "_orig_mod.model.inner."


# The reference files -----------------------------------------------------------------------------------------------


def golden(shared, name):
    with np.load(shared / "conformance" / name / "golden.npz") as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fiu"}


@pytest.mark.parametrize("variant", ["", "randinit_", "f32conv_"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_states_logits_and_halting_agree_with_the_official_forward_pass(shared, name, variant):
    want, model = golden(shared, name), load(shared / OFFICIAL[name])
    streams = ["hidden"] if name == "urm" else ["z_H", "z_L"]
    if f"{variant}{streams[0]}_1" not in want:
        pytest.skip("this variant was recorded for URM alone")
    bfloat16 = name == "urm" and variant != "f32conv_"
    if variant == "f32conv_":
        model = model.replace(conv_dtype="state")
    start = "" if variant == "f32conv_" else variant
    x = model.encode(want["inputs"].long())
    z = torch.stack([want[f"{start}{k}_0"] for k in streams], dim=1)
    if not variant:
        assert torch.equal(model.initial(x), z)
    compared = 0
    for step in range(1, 17):
        with torch.no_grad():
            z = model.step(z, x)
            q = model.q_values(z)
        if f"{variant}{streams[0]}_{step}" not in want:
            continue
        got = {k: z[:, i] for i, k in enumerate(streams)}
        got |= {"logits": model.logits(z, x).detach(), "q_halt": q[:, 0], "q_continue": q[:, 1]}
        for key, value in got.items():
            expected = want[f"{variant}{key}_{step}"]
            tolerance = (2e-2 if bfloat16 else 1e-5) * expected.abs().max()
            assert (value - expected).abs().max() <= tolerance, f"{key} at step {step}"
        compared += 1
    assert compared == (2 if variant == "randinit_" else 4)
    if variant == "":
        assert torch.equal(model.halt_logit(z, x), q[:, 0])
        assert (model.decode(z, x) == want["preds_all"][15].long()).float().mean() > (
            0.99 if bfloat16 else 0.9999
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "trm_mlp",
            {
                "format": "official TRM",
                "variant": "16 prefix positions, token-mixing MLP",
                "weights": "ema",
                "step": 936,
                "forward_dtype": "float32",
                "inferred": [
                    "vocab_size 8 from lm_head",
                    "prefix positions from puzzle_emb",
                    "seq_len from the token mixer",
                    "step from the name of the file",
                ],
                "dropped": [],
                "ignored_config": ["H_layers", "loss", "name", "no_ACT_continue"],
            },
        ),
        (
            "hrm",
            {
                "format": "official HRM",
                "variant": "1 prefix position, attention, positions rope",
                "weights": "raw",
                "dropped": [],
                "ignored_config": ["loss", "name"],
            },
        ),
        (
            "urm",
            {
                "format": "official URM",
                "variant": "1 prefix position, attention, positions rope, bfloat16 convolution",
                "weights": "ema",
                "step": 750,
                "dropped": ["optimizer_states", "rng_state"],
            },
        ),
    ],
)
def test_provenance_says_what_was_found_inferred_and_dropped(shared, name, expected):
    model = load(shared / OFFICIAL[name])
    assert {k: model.provenance[k] for k in expected} == expected
    assert model.task == "sudoku6" and model.config.halt_max_steps == 8
    if name != "trm_mlp":
        assert "seq_len from the vocabulary of 8 tokens, that of a Sudoku" in model.provenance["inferred"]


# Synthetic files in the official layouts, written from random models ------------------------------------------------

MODELS = {
    "trm mlp": {},
    "trm mlp prefix": {},
    "trm attention prefix": {},
    "hrm": {},
    "hrm prefix": {},
    "hrm mlp": {"H_layers": 1, "layers": 3},
    "urm bfloat16": {},
}
CLASSES = {
    "eqr": "eqr@EqRModel",
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
    "urm": "urm.urm@URM",
}


def model_of(name, **changes):
    return small_model(name, noise_scale=0.0, board=None, **{**MODELS[name], **changes})


def official_tensors(model, prefix=PREFIX):
    names = {
        "embed_tokens.prefix": "puzzle_emb.weights",
        "embed_tokens.position_weight": "embed_pos.embedding_weight",
    }
    plain = {
        names.get(k, k).removeprefix("level."): v.clone().bfloat16() if "dwconv" in k else v.clone()
        for k, v in model.state_dict().items()
    }
    if "puzzle_emb.weights" in plain:
        plain["puzzle_emb.weights"] = plain["puzzle_emb.weights"][None]
    return {prefix + k: v for k, v in plain.items()}


def official_config(model, **changes):
    c = model.config
    arch = {
        "name": CLASSES[model.family],
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "H_cycles": c.H_cycles,
        "L_cycles": c.L_cycles,
        "hidden_size": c.hidden_size,
        "num_heads": c.num_heads,
        "expansion": c.expansion,
        "pos_encodings": c.positions,
        "puzzle_emb_ndim": c.prefix_dim,
        "forward_dtype": "float32",
    }
    if model.family == "urm":
        arch |= {"num_layers": c.layers, "loops": c.halt_max_steps}
    else:
        arch |= {
            "L_layers": c.layers,
            "H_layers": getattr(c, "H_layers", 0),
            "halt_max_steps": c.halt_max_steps,
        }
        arch |= {"halt_exploration_prob": c.halt_exploration}
    if model.family == "trm":
        arch |= {"mlp_t": c.mixer == "mlp", "puzzle_emb_len": c.prefix_len, "no_ACT_continue": True}
    return {"arch": {**arch, **changes}, "lr": 1e-4}


def write(folder, tensors, config, name="step_77", yaml_name="all_config.yaml"):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / name)
    if config is not None:
        (folder / yaml_name).write_text(yaml.safe_dump(config))
    return folder / name


def read_back(folder, model, prefix=PREFIX, **changes):
    """Write a model as its official trainer does, and load it again."""
    content = official_tensors(model, prefix)
    if model.family == "urm":
        content = urm_state(content, 9)
    return load(write(folder, content, official_config(model, **changes)), seq_len=6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prefix", ["_orig_mod.model.inner.", "model.inner.", "model._orig_mod.inner.", ""])
def test_a_file_in_the_official_layout_gives_the_model_it_was_written_from(name, prefix, tmp_path):
    model = model_of(name)
    if model.family == "urm":
        model.load_state_dict(
            {k: v.bfloat16().float() if "dwconv" in k else v for k, v in model.state_dict().items()}
        )
    loaded = read_back(tmp_path, model, prefix)
    assert loaded.config == model.config and loaded.family == model.family
    assert_same_outputs(model, loaded)


@pytest.mark.parametrize("place", ["all_config.yaml", "config.yaml", "../all_config.yaml"])
def test_the_configuration_may_have_either_name(place, tmp_path):
    model = model_of("hrm")
    path = write(tmp_path / "run", official_tensors(model), official_config(model), yaml_name=place)
    assert_same_outputs(model, load(path, seq_len=6))


@pytest.mark.parametrize("name", ["trm mlp prefix", "hrm", "urm bfloat16"])
def test_starts_stored_in_bfloat16_are_read_exactly(name, tmp_path):
    model = model_of(name)
    starts = [k for k in model.state_dict() if "init" in k]
    state = model.state_dict()
    model.load_state_dict(
        {k: v.bfloat16().float() if k in starts or "dwconv" in k else v for k, v in state.items()}
    )
    tensors = official_tensors(model)
    tensors |= {PREFIX + k: tensors[PREFIX + k].bfloat16() for k in starts}
    config = official_config(model, forward_dtype="bfloat16")
    if name == "hrm":
        del config["arch"]["forward_dtype"]
    loaded = load(write(tmp_path, tensors, config), seq_len=6)
    assert loaded.dtype == torch.float32 and loaded.provenance["forward_dtype"] == "bfloat16"
    assert ("forward_dtype bfloat16 by default" in loaded.provenance["inferred"]) == (name == "hrm")
    assert_same_outputs(model, loaded)


def test_saved_weights_are_averages_when_the_configuration_says_so(tmp_path):
    model = model_of("trm mlp")
    path = write(tmp_path, official_tensors(model), official_config(model) | {"ema": True})
    assert load(path).provenance["weights"] == load(path, weights="ema").provenance["weights"] == "ema"
    with pytest.raises(CheckpointError, match="holds no raw weights, only their averages"):
        load(path, weights="raw")
    path = write(tmp_path, official_tensors(model), official_config(model) | {"ema": False})
    assert load(path).provenance["weights"] == load(path, weights="raw").provenance["weights"] == "raw"
    with pytest.raises(CheckpointError, match="holds no EMA weights"):
        load(path, weights="ema")


def test_sizes_that_the_configuration_lacks_are_read_off_the_weights(tmp_path):
    model = model_of("hrm")
    config = official_config(model)
    for name in ("hidden_size", "H_layers", "L_layers"):
        del config["arch"][name]
    loaded = load(write(tmp_path, official_tensors(model), config), seq_len=6)
    assert_same_outputs(model, loaded)
    inferred = loaded.provenance["inferred"]
    assert {
        "hidden_size 16 from lm_head",
        "H_layers 2 from the weights",
        "L_layers 1 from the weights",
    } <= set(inferred)


def test_a_missing_prefix_length_is_that_of_the_code_that_wrote_the_file(tmp_path):
    for name, expected in {"trm attention prefix": 16, "hrm prefix": 1}.items():
        model = model_of(name)
        config = official_config(model)
        config["arch"].pop("puzzle_emb_len", None)
        loaded = load(write(tmp_path / name[:3], official_tensors(model), config), seq_len=6)
        assert loaded.config.prefix_len == expected
    loaded = read_back(tmp_path, model_of("trm attention prefix", prefix_len=1), puzzle_emb_len=0)
    assert loaded.config.prefix_len == 1, "0 stands for as many as the vector needs"
    loaded = read_back(tmp_path, model_of("hrm prefix"), puzzle_emb_len=16)
    assert loaded.config.prefix_len == 1, "HRM has no such option"
    assert "puzzle_emb_len" in loaded.provenance["ignored_config"]


def test_loops_are_an_option_of_urm_alone(tmp_path):
    options = {"loops": 3, "halt_max_steps": 8}
    assert read_back(tmp_path, model_of("urm bfloat16"), **options).config.halt_max_steps == 3
    loaded = read_back(tmp_path, model_of("hrm prefix"), **options)
    assert loaded.config.halt_max_steps == 8 and "loops" in loaded.provenance["ignored_config"]


def eqr_trainer_file(raw, average, **changes):
    """Return what EqR's trainer saves of its TRM and HRM baselines: averages of parameters only."""
    buffers = ("H_init", "L_init", "puzzle_emb.weights")
    return {
        "step": 5,
        "model": official_tensors(raw),
        "ema": {
            "mu": 0.999,
            "shadow": {k: v for k, v in official_tensors(average).items() if not k.endswith(buffers)},
        },
        "optimizers": [],
        "config": official_config(raw, **changes) | {"ema": True},
    }


@pytest.mark.parametrize("name", ["trm mlp", "trm mlp prefix", "hrm mlp"])
def test_baselines_of_the_eqr_code_keep_their_starts_beside_the_averages(name, tmp_path):
    raw, average = model_of(name), model_of(name, seed=1)
    path = write(tmp_path, eqr_trainer_file(raw, average), None)
    loaded = load(path)
    buffers = dict(raw.named_buffers())
    average.load_state_dict(
        average.state_dict() | {k: buffers[k] for k in average.state_dict() if k in buffers}
    )
    assert_same_outputs(average, loaded)
    assert loaded.provenance["weights"] == "ema" and loaded.provenance["dropped"] == ["optimizers"]
    assert loaded.provenance["variant"].endswith("written by EqR's trainer")
    assert_same_outputs(raw, load(path, weights="raw"))


@pytest.mark.parametrize("kind", ["learned", "absolute"])
def test_position_tables_of_the_eqr_code_are_read(kind, tmp_path):
    model = model_of("trm mlp", positions="learned")
    content = eqr_trainer_file(model, model, pos_encodings=kind)
    if kind == "absolute":  # a buffer
        for tensors in (content["model"], content["ema"]["shadow"]):
            table = tensors.pop(PREFIX + "embed_pos.embedding_weight", None)
        content["ema"]["shadow"] = {k: v for k, v in content["ema"]["shadow"].items() if "pos" not in k}
        content["model"][PREFIX + "absolute_pos_embedding"] = (
            model.embed_tokens.position_weight.detach().clone()
        )
        assert table is None or table.shape == (6, 16)
    loaded = load(write(tmp_path, content, None))
    assert loaded.config.positions == "learned" and loaded.config.seq_len == 6
    assert_same_outputs(model, loaded)


def test_an_eqr_that_stores_unused_starts_is_an_eqr(tmp_path):
    model = small_model("eqr", board=None)
    tensors = official_tensors(model) | {PREFIX + "H_init": torch.ones(16), PREFIX + "L_init": torch.ones(16)}
    config = official_config(model, lambda_=0.95, noise_scale=0.1, mlp_t=True)
    loaded = load(write(tmp_path, tensors, config))
    assert loaded.family == "eqr" and loaded.provenance["dropped"] == ["H_init", "L_init"]


# What is refused ----------------------------------------------------------------------------------------------------


def arch(**changes):
    def change(tensors, config):
        config["arch"] |= changes
        for name in [k for k, v in changes.items() if v is None]:
            del config["arch"][name]

    return change


def tensor(name, make):
    def change(tensors, config):
        tensors[PREFIX + name] = make(tensors.get(PREFIX + name))

    return change


def lacking(name):
    return lambda tensors, config: tensors.pop(PREFIX + name)


REFUSED = {
    "trm: config of hrm": (
        "trm mlp prefix",
        arch(name=CLASSES["hrm"]),
        "the configuration is one of HRM ('hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1'), "
        "the weights look like TRM: they have H_init and no H_level",
    ),
    "urm: config of trm": (
        "urm bfloat16",
        arch(name=CLASSES["trm"]),
        "the weights look like URM: they have init_hidden",
    ),
    "hrm: config of urm": ("hrm", arch(name=CLASSES["urm"]), "the weights look like HRM: they have H_level"),
    "trm: no H_init": (
        "trm mlp",
        lacking("H_init"),
        "whose weights have H_init, and there is no such tensor",
    ),
    "trm: no L_init": ("trm mlp", lacking("L_init"), "tensor L_init is missing (1 of"),
    "hrm: no attention": (
        "hrm",
        lacking("H_level.layers.1.self_attn.o_proj.weight"),
        "tensor H_level.layers.1.self_attn.o_proj.weight is missing",
    ),
    "urm: no convolution": ("urm bfloat16", lacking("layers.0.mlp.dwconv.bias"), "dwconv.bias is missing"),
    "urm: wide convolution": (
        "urm bfloat16",
        tensor("layers.0.mlp.dwconv.weight", lambda t: t.new_zeros(256, 1, 4)),
        "dwconv.weight has shape (256, 1, 4)",
    ),
    "trm: extra": (
        "trm mlp",
        tensor("extra", lambda t: torch.ones(2)),
        "tensor extra is not part of this trm model",
    ),
    "hrm: extra level": (
        "hrm",
        tensor("M_level.w", lambda t: torch.ones(2)),
        "tensor M_level.w is not part of",
    ),
    "hrm: H_layers": ("hrm", arch(H_layers=4), "the weights have 2 H_level layers, the configuration says 4"),
    "urm: num_layers": (
        "urm bfloat16",
        arch(num_layers=8),
        "the weights have 1 layers, the configuration says 8",
    ),
    "hrm: width": ("hrm", arch(hidden_size=512), "lm_head.weight has width 16, the configuration says 512"),
    "hrm: no heads": ("hrm", arch(num_heads=None), "lacks arch.num_heads, which the weights do not tell"),
    "hrm: no cycles": ("hrm", arch(H_cycles=None), "lacks arch.H_cycles, which the weights do not tell"),
    "urm: no cycles": ("urm bfloat16", arch(L_cycles=None), "lacks arch.L_cycles"),
    "trm: cycles are text": ("trm mlp", arch(L_cycles="6"), "arch.L_cycles must be int, got '6'"),
    "trm: mixer": (
        "trm mlp",
        arch(mlp_t=False),
        "the weights have the mlp mixer, the configuration says mlp_t=False",
    ),
    "trm: epsilon": ("trm mlp", arch(rms_norm_eps=-1e-6), "norm_eps must be > 0, got -1e-06"),
    "hrm: positions": ("hrm", arch(pos_encodings="learned"), "arch.pos_encodings 'learned' does not go with"),
    "hrm: prefix missing": (
        "hrm prefix",
        lacking("puzzle_emb.weights"),
        "tensor puzzle_emb.weights with 2 axes is missing",
    ),
    "hrm: prefix width": (
        "hrm prefix",
        arch(puzzle_emb_ndim=512),
        "puzzle_emb.weights has width 16, the configuration says puzzle_emb_ndim=512",
    ),
    "hrm: a table of another width": (
        "hrm prefix",
        tensor("puzzle_emb.weights", lambda t: torch.zeros(400, 8)),
        "puzzle_emb.weights has width 8, the configuration says puzzle_emb_ndim=16",
    ),
    "hrm: a table of another build": (
        "hrm prefix",
        lambda tensors, config: (
            tensor("puzzle_emb.weights", lambda t: torch.zeros(9, 16))(tensors, config),
            arch(num_puzzle_identifiers=12)(tensors, config),
        ),
        "puzzle_emb.weights has 9 rows, the configuration says num_puzzle_identifiers=12",
    ),
    "hrm: puzzle embeddings with NaN": (
        "hrm prefix",
        tensor("puzzle_emb.weights", lambda t: torch.full((9, 16), torch.nan)),
        "row 0 of puzzle_emb.weights has NaN or infinite values",
    ),
    "hrm: puzzle embeddings of whole numbers": (
        "hrm prefix",
        tensor("puzzle_emb.weights", lambda t: torch.zeros(9, 16, dtype=torch.int64)),
        "puzzle_emb.weights holds torch.int64, floating values are required",
    ),
    "trm: an option of eqr": (
        "trm mlp prefix",
        arch(lambda_=0.95),
        "lambda_ is an option of EqR, the configuration is one of TRM ('",
    ),
    "trm: prefix length": (
        "trm mlp prefix",
        arch(puzzle_emb_len=9),
        "9 prefix positions leave no grid cell of the 9",
    ),
    "hrm: no network section": ("hrm", lambda t, c: c.pop("arch"), "the configuration has no 'arch' section"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_half_matches_is_refused_in_one_sentence(name, tmp_path):
    kind, change, reason = REFUSED[name]
    model = model_of(kind)
    tensors, config = official_tensors(model), copy.deepcopy(official_config(model))
    change(tensors, config)
    path = write(tmp_path, tensors, config)
    with pytest.raises(CheckpointError) as caught:
        load(path, seq_len=None if model.config.mixer == "mlp" else 6)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and reason in message, message


def test_a_state_dict_without_configuration_is_refused(tmp_path):
    path = write(tmp_path / "run" / "x", official_tensors(model_of("hrm")), None)
    with pytest.raises(
        CheckpointError, match=r"no configuration inside, and no all_config.yaml or config.yaml beside"
    ):
        load(path)


def test_an_attention_file_of_an_unknown_task_asks_for_its_grid(tmp_path):
    model = model_of("hrm")
    path = write(tmp_path, official_tensors(model), official_config(model))
    with pytest.raises(CheckpointError, match="does not tell its grid size; pass seq_len"):
        load(path)


# The hub ------------------------------------------------------------------------------------------------------------


class NotThere(OSError):
    """Stands in for the hub's EntryNotFoundError."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands in for the hub, and the list of what was asked of it."""
    asked = []

    def hf_hub_download(*, repo_id, filename, revision=None):
        asked.append((repo_id, filename, revision))
        path = tmp_path / repo_id / filename
        if "gone" in repo_id:
            raise OSError("401 Client Error.\nRepository Not Found")
        if not path.is_file():
            raise NotThere(f"404: {filename}")
        return str(path)

    module, utils = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.utils")
    module.hf_hub_download, utils.EntryNotFoundError, module.utils = hf_hub_download, NotThere, utils
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return tmp_path, asked


def test_a_checkpoint_on_the_hub_is_loaded_with_the_configuration_beside_it(hub):
    folder, asked = hub
    model = model_of("hrm")
    write(
        folder / "owner/models/sudoku",
        official_tensors(model),
        official_config(model),
        "hrm.pth",
        "config.yaml",
    )
    loaded = load("hf://owner/models/sudoku/hrm.pth", seq_len=6)
    assert_same_outputs(model, loaded)
    assert loaded.provenance["checkpoint"] == "hf://owner/models/sudoku/hrm.pth"
    names = ["sudoku/hrm.pth", "sudoku/all_config.yaml", "sudoku/config.yaml"]
    assert asked == [("owner/models", name, None) for name in names]


def test_a_file_with_its_own_configuration_needs_no_other_and_a_revision_can_be_named(hub):
    folder, asked = hub
    model = model_of("trm mlp")
    write(folder / "owner/models", eqr_trainer_file(model, model), None, "trm.pth")
    assert_same_outputs(model, load("hf://owner/models@v2/trm.pth"))
    assert {revision for _, _, revision in asked} == {"v2"}


def test_a_model_in_several_files_is_fetched_whole(hub):
    from tests.test_layouts import shards

    folder, asked = hub
    model = model_of("hrm")
    shards(folder / "owner/models", official_tensors(model, ""), 3)
    (folder / "owner/models/config.json").write_text(json.dumps(official_config(model)))
    address = "hf://owner/models/model.safetensors.index.json"
    assert_same_outputs(model, load(address, seq_len=6))
    assert [name for _, name, _ in asked][1:4] == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://owner/models", "hf://owner/repository/path/to/file is required"),
        ("hf:///models/x.pth", "hf://owner/repository/path/to/file is required"),
        ("hf://owner/models/none.pth", "the hub does not give it (404: none.pth)"),
        ("hf://owner/gone/x.pth", "the hub does not give it (401 Client Error. Repository Not Found)"),
    ],
)
def test_what_the_hub_does_not_give_is_refused_in_one_sentence(hub, address, reason):
    with pytest.raises(CheckpointError) as caught:
        load(address)
    assert str(caught.value).startswith(address) and reason in str(caught.value)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        CheckpointError, match=r"needs the package huggingface_hub; run: pip install 'eqrlab\[hub\]'"
    ):
        load("hf://locuslab/EqR-model/sudoku-extreme/eqr.pth")


def test_a_local_path_is_never_taken_for_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(Path(tmp_path / "hf:" / "x.pth"))
