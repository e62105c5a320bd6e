"""Identifiers of puzzles: embeddings agree with the official code, and only the rows asked for are read."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

from eqrlab.core import CheckpointError, MapSystem, load, save
from eqrlab.core.models.system import context_of
from eqrlab.core.random import puzzle_key
from tests.family_models import small_model
from tests.sparse_checkpoint import write_sparse
from tests.test_official_families import PREFIX, official_config, official_tensors, write

ARC = {"trm_arc": "step_700", "hrm_arc": "step_400"}
ROWS = 40
NAMES = ["trm mlp prefix", "trm attention prefix", "hrm prefix", "urm prefix"]


# The reference files -----------------------------------------------------------------------------------------------


@pytest.fixture(params=ARC)
def arc(request, shared):
    folder = shared / "conformance" / request.param
    with np.load(folder / "golden.npz") as file:
        want = {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fiu"}
    return load(folder / "checkpoint" / ARC[request.param], seq_len=900), want


@pytest.mark.parametrize("whose", ["", "blank_", "rolled_"])
def test_states_and_answers_under_every_identifier_agree_with_the_official_forward_pass(arc, whose):
    model, want = arc
    identifiers = want[f"{whose}puzzle_identifiers"]
    x = model.encode(want["inputs"], identifiers)
    assert torch.equal(
        model.initial(x)[:, :, 0], torch.stack((want["z_H_init"], want["z_L_init"])).expand(4, -1, -1)
    )
    z, compared = model.initial(x), 0
    fine, fine_x = z.double(), x.double()
    with torch.no_grad():
        for step in range(1, 17):
            z, fine = model.step(z, x), model.step(fine, fine_x)
            halt = model.halt_logit(z, x)
            # Processors round differently, and the map amplifies it: float64 says how much where the file does not.
            rounding = {"q_halt": (halt - model.halt_logit(fine, fine_x)).abs().max().item()}
            got = {"z_H": z[:, 0][:, want["positions"].long()], "z_L": z[:, 1][:, want["positions"].long()]}
            got |= {"logits": model.logits(z, x)[:, want["cells"].long()], "q_halt": halt}
            for key, value in got.items():
                expected = want.get(f"{whose}{key}_{step}")
                if expected is not None:
                    known = float(want.get(f"pert1e6_maxabsdiff_{key}_{step}", 4 * rounding.get(key, 0)))
                    assert (value - expected).abs().max() <= max(1e-5, known), f"{key} at step {step}"
                    compared += 1
            assert (model.decode(z, x) == want[f"{whose}preds_all"][step - 1]).float().mean() > 0.999
    assert compared == (16 if not whose else 3)


def test_one_step_from_a_late_state_agrees_with_the_official_code(arc):
    model, want = arc
    x = model.encode(want["inputs"][1:2], want["puzzle_identifiers"][1:2])
    with torch.no_grad():
        z = model.step(torch.stack((want["late_z_H_15"], want["late_z_L_15"]), dim=1), x)
    for stream, name in enumerate(("z_H", "z_L")):
        assert (z[:, stream][:, want["positions"].long()] - want[f"{name}_16"][1:2]).abs().max() < 1e-5


def test_no_identifier_is_the_blank_one(arc):
    model, want = arc
    blank = model.encode(want["inputs"], torch.zeros(4, dtype=torch.long))
    with pytest.warns(
        UserWarning, match="has 109 puzzle identifiers and was given none: it runs with the blank one"
    ):
        assert torch.equal(model.encode(want["inputs"]), blank)
    assert model.identifiers == 109
    assert not torch.equal(model.encode(want["inputs"], want["puzzle_identifiers"]), blank)


# Tables in files of every family -------------------------------------------------------------------------------------


def with_table(name, folder, dtype=torch.float32):
    """Return a small model, a table of ROWS rows, and the official file of the model with that table."""
    model = small_model(name)
    model = model if model.family != "urm" else small_model("urm bfloat16")
    tensors = official_tensors(model)
    tensors = {k: v.bfloat16().float() if "dwconv" in k else v for k, v in tensors.items()}
    width = model.config.prefix_dim
    table = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    tensors[PREFIX + "puzzle_emb.weights"] = table
    content = {"step": 9, "model_state_dict": tensors} if model.family == "urm" else tensors
    return table.float(), write(folder, content, official_config(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_puzzle_has_the_context_of_a_model_with_its_row_alone(name, dtype, tmp_path):
    table, path = with_table(name, tmp_path, dtype)
    model = load(path, seq_len=6)
    inputs, identifiers = torch.arange(18).view(3, 6) % 5, torch.tensor([7, 0, 39])
    x = model.encode(inputs, identifiers)
    for row, identifier in enumerate(identifiers):
        alone = copy.deepcopy(model)
        alone.table = None
        alone.embed_tokens.prefix.copy_(table[identifier])
        assert torch.equal(x[row], alone.encode(inputs[row : row + 1])[0])
    width, size = table.shape[1], model.config.hidden_size
    assert model.config.prefix_len == (
        3 if name == "trm mlp prefix" else -(-width // size) if name != "trm attention prefix" else 2
    )
    assert model.double().encode(inputs, identifiers).dtype == torch.float64


@pytest.mark.parametrize("identifier", [-1, ROWS])
def test_an_identifier_out_of_range_is_refused(identifier, tmp_path):
    model = load(with_table("hrm prefix", tmp_path)[1], seq_len=6)
    with pytest.raises(
        ValueError, match=f"this model has 40 puzzle identifiers, 0 to 39, got identifier {identifier}$"
    ):
        model.encode(torch.ones(2, 6, dtype=torch.long), torch.tensor([1, identifier]))


def test_a_model_of_one_puzzle_takes_the_blank_identifier_only():
    model, inputs = small_model("hrm prefix"), torch.ones(1, 6, dtype=torch.long)
    assert torch.equal(model.encode(inputs, torch.tensor([0])), model.encode(inputs))
    with pytest.raises(ValueError, match=r"this model has one puzzle identifier, 0, got identifier 3$"):
        model.encode(inputs, torch.tensor([3]))


def test_systems_without_identifiers_ignore_them():
    plain = MapSystem(lambda z, x: z / 2, lambda x, g: x, encode=lambda inputs: inputs * 1.0)
    asked = MapSystem(
        lambda z, x: z / 2,
        lambda x, g: x,
        encode=lambda inputs, identifiers=None: inputs + identifiers[:, None],
    )
    inputs, identifiers = torch.ones(2, 3, dtype=torch.long), torch.tensor([5, 6])
    assert (
        context_of(plain, inputs, identifiers).tolist() == context_of(plain, inputs).tolist() == [[1] * 3] * 2
    )
    assert context_of(asked, inputs, identifiers).tolist() == [[6] * 3, [7] * 3]
    silent = MapSystem(lambda z, x: z / 2, lambda x, g: x, encode=torch.Tensor.float)  # tells no arguments
    assert context_of(silent, inputs, identifiers).tolist() == [[1] * 3] * 2
    free = small_model("trm mlp")
    assert free.identifiers == 0 and torch.equal(
        context_of(free, inputs.repeat(1, 2), identifiers), free.encode(inputs.repeat(1, 2))
    )


def test_a_row_that_is_not_finite_is_refused_when_it_is_read(tmp_path):
    _, path = with_table("hrm prefix", tmp_path)
    content = torch.load(path, weights_only=True)
    content[PREFIX + "puzzle_emb.weights"][17, 3] = torch.inf
    torch.save(content, path)
    model, inputs = load(path, seq_len=6), torch.ones(1, 6, dtype=torch.long)
    model.encode(inputs, torch.tensor([16]))
    with pytest.raises(CheckpointError, match=r"row 17 of puzzle_emb.weights has NaN or infinite values"):
        model.encode(inputs, torch.tensor([17]))


def test_rows_are_found_whatever_the_working_folder_becomes(tmp_path, monkeypatch):
    table, path = with_table("hrm prefix", tmp_path)
    monkeypatch.chdir(tmp_path)
    model = load(path.name, seq_len=6)
    monkeypatch.chdir("/")
    assert torch.equal(model.table([7])[0], table[7])


def test_a_file_that_changes_under_a_model_is_noticed(tmp_path):
    _, path = with_table("hrm prefix", tmp_path)
    model = load(path, seq_len=6)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="has changed since the model was loaded; load it again"):
        model.encode(torch.ones(1, 6, dtype=torch.long), torch.tensor([1]))


@pytest.mark.parametrize("whole", [True, False])
def test_a_saved_model_keeps_the_rows_that_were_used(whole, tmp_path, monkeypatch):
    _, path = with_table("urm prefix", tmp_path)
    if not whole:
        monkeypatch.setattr("eqrlab.core.models.puzzle_table.WHOLE", 0)
    model, inputs = load(path, seq_len=6), torch.ones(2, 6, dtype=torch.long)
    x = model.encode(inputs, torch.tensor([30, 2]))
    for _ in range(2):  # saved again it keeps what it has
        save(model, tmp_path / "kept.safetensors")
        model = load(tmp_path / "kept.safetensors")
        assert torch.equal(model.encode(inputs, torch.tensor([30, 2])), x) and model.identifiers == ROWS
    if whole:
        model.encode(inputs, torch.tensor([0, 39]))
    else:
        with pytest.raises(
            ValueError, match="keeps 3 of 40 puzzle embeddings, and not that of identifier 39: load"
        ):
            model.encode(inputs, torch.tensor([0, 39]))


def test_a_table_of_2_gigabytes_costs_the_rows_that_are_read(tmp_path):
    model, shape = small_model("trm mlp prefix", prefix_len=32, prefix_dim=512), (1_191_730, 512)
    tensors, width = official_tensors(model), shape[1]
    rows = {0: torch.full((width,), 0.5), 700_001: torch.arange(512.0), shape[0] - 1: torch.ones(width)}
    del tensors[PREFIX + "puzzle_emb.weights"]
    write(tmp_path, {}, official_config(model))
    path = write_sparse(tmp_path / "step_77", tensors, PREFIX + "puzzle_emb.weights", shape, rows)
    assert path.stat().st_size > 2.4e9 and path.stat().st_blocks * 512 < 1e7
    code = (
        "import resource, sys, torch\nfrom eqrlab.core import load\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "model = load(sys.argv[1])\n"
        "x = model.encode(torch.ones(3, 6, dtype=torch.long), torch.tensor([700001, 0, 1191729]))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
        "print((x[:, 0, :3] / 4).tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    megabytes, values = run.stdout.splitlines()
    assert values == "[[0.0, 1.0, 2.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]" and int(megabytes) < 64


# Randomness ----------------------------------------------------------------------------------------------------------


def test_randomness_is_keyed_by_the_identifier_only_where_there_is_one():
    tokens = np.arange(6)
    assert puzzle_key(3, tokens) == puzzle_key(3, tokens, None) == -6868507739192731734
    keys = {puzzle_key(3, tokens, i) for i in (None, 0, 1, 1_000_000)}
    assert len(keys) == 4
