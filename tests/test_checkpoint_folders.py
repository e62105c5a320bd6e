"""Folders of checkpoints as CKPT, and the options beside one on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import xarray as xr
import yaml
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.core import CheckpointError, load, save
from eqrlab.core.checkpoints.folders import checkpoints_in
from eqrlab.datasets import build, write_csv
from tests.core_models import assert_same_outputs, small_eqr
from tests.family_models import small_model
from tests.test_layouts import shards
from tests.test_official_families import official_config, official_tensors


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def model_of(seed=0, **changes):
    return small_model("trm mlp", seed=seed, noise_scale=0.0, board=None, **changes)


@pytest.fixture
def run_folder(tmp_path):
    """A folder of the official trainer with three checkpoints, and what else such folders hold."""
    models = {step: model_of(step) for step in (50, 100, 1000)}
    for step, model in models.items():
        torch.save(official_tensors(model), tmp_path / f"step_{step}")
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(official_config(models[50])))
    (tmp_path / "trm.py").write_text("raise SystemExit")
    torch.save({"logits": torch.zeros(2)}, tmp_path / "step_1000_all_preds.0")
    torch.save({}, tmp_path / "optimizer.pt")
    return tmp_path, models


def test_the_newest_checkpoint_of_a_folder_is_that_of_the_highest_step(run_folder):
    folder, models = run_folder
    assert [p.name for p in checkpoints_in(folder)] == ["step_50", "step_100", "step_1000"]
    assert_same_outputs(models[1000], load(folder))
    assert_same_outputs(models[100], load(folder, step=100))
    assert load(folder).provenance["checkpoint"] == "step_1000"
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 \(50, 100, 1000 there\)"):
        load(folder, step=7)
    with pytest.raises(CheckpointError, match=r"is not a folder, so that step 50 cannot be chosen in it"):
        load(folder / "step_50", step=50)


def test_age_on_the_disk_does_not_count(run_folder):
    folder, models = run_folder
    os.utime(folder / "step_1000", (1, 1))
    assert_same_outputs(models[1000], load(folder))


LAYOUTS = {
    "of EqR": ["checkpoints/step_10_ab12cd.pth", "checkpoints/step_200_ab12cd.pth"],
    "of Lightning": ["checkpoints/epoch=0-step=10.ckpt", "checkpoints/epoch=9-step=200.ckpt"],
    "of Hugging Face": ["checkpoint-10/model.pt", "checkpoint-200/model.pt"],
    "by epochs": ["model_epoch_2.pt", "model_epoch_10.pt"],
    "the last by name": ["best.pt", "last.pt"],
    "one alone": ["anything.bin"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_of_other_trainers_have_a_newest_checkpoint_too(layout, tmp_path):
    for name in LAYOUTS[layout]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        content = {"model": official_tensors(model_of()), "config": official_config(model_of())}
        torch.save(content, tmp_path / name)
    loaded = load(tmp_path)
    assert loaded.provenance["checkpoint"] == LAYOUTS[layout][-1].split("/")[-1]


def test_a_model_in_several_files_is_one_checkpoint_of_its_folder(tmp_path):
    model = model_of()
    shards(tmp_path, official_tensors(model, ""))
    (tmp_path / "config.json").write_text(json.dumps(official_config(model)))
    assert [p.name for p in checkpoints_in(tmp_path)] == ["model.safetensors.index.json"]
    assert_same_outputs(model, load(tmp_path))


def test_the_newest_of_an_own_run_is_the_model_that_every_save_replaces(tmp_path):
    for step in (10, 20):
        save(small_eqr(step), tmp_path / f"model-{step:06d}.safetensors")
    save(small_eqr(30), tmp_path / "model.safetensors")
    save(small_eqr(30), tmp_path / "state.safetensors")
    assert_same_outputs(small_eqr(30), load(tmp_path))
    assert_same_outputs(small_eqr(10), load(tmp_path, step=10))


def test_folders_that_do_not_tell_are_refused_with_what_is_there(tmp_path):
    with pytest.raises(CheckpointError, match="a folder without a checkpoint"):
        load(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(official_tensors(model_of()), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"it cannot be told which of 'a.pt', 'b.pt' is the newest"):
        load(tmp_path)


@pytest.mark.parametrize("below", [".", "checkpoints"])
def test_a_step_of_two_files_is_refused_with_both(below, tmp_path):
    (tmp_path / below).mkdir(exist_ok=True)
    names = [str(Path(below, f"step_500_run{run}.pth")) for run in "AB"]
    for name in (*names, "step_20.pth"):
        torch.save(official_tensors(model_of()), tmp_path / name)
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(official_config(model_of())))
    both = ", ".join(map(repr, names))
    with pytest.raises(CheckpointError, match=f"it cannot be told which of {both} is the newest; give one"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=f"it cannot be told which of {both} is that of step 500"):
        load(tmp_path, step=500)
    assert load(tmp_path, step=20, seq_len=6).provenance["checkpoint"] == "step_20.pth"


# On the command line --------------------------------------------------------------------------------------------------


def test_info_takes_a_folder_a_step_and_settings(run_folder):
    folder, _ = run_folder
    told = json.loads(run("info", folder, "--step", 100, "--set", "H_cycles=7", "--json").output)
    assert told["config"]["H_cycles"] == 7 and told["provenance"]["checkpoint"] == "step_100"
    assert told["provenance"]["set"] == {"H_cycles": 7}
    assert run("info", folder, "--set", "H_cycles").exit_code == 2


@pytest.fixture
def attention(tmp_path):
    """An attention checkpoint of 4x4 Sudoku, whose vocabulary is that of mazes: nothing in it tells its grid."""
    model = small_model(
        "trm attention prefix", noise_scale=0.0, board=None, vocab_size=6, seq_len=16, prefix_len=1
    )
    torch.save(official_tensors(model), tmp_path / "weights")
    (tmp_path / "mine.json").write_text(json.dumps(official_config(model)))
    write_csv(tmp_path / "p.csv", build("sudoku4", 2, seed=0))
    return tmp_path, model


def test_the_grid_comes_from_the_puzzles(attention):
    folder, _ = attention
    config = ("--config", folder / "mine.json")
    done = run("evaluate", folder / "weights", *config, "--puzzles", folder / "p.csv", "--depth", 2, "--json")
    assert done.exit_code == 0 and json.loads(done.output)["puzzles"] == 2
    told = json.loads(run("info", folder / "weights", *config, "--json").output)
    assert told["config"]["seq_len"] == 900
    assert "an assumption" in " ".join(told["provenance"]["inferred"])
    told = json.loads(run("info", folder / "weights", *config, "--seq-len", 16, "--json").output)
    assert told["config"]["seq_len"] == 16


def test_an_export_is_continued_and_repeated_with_the_options_of_its_checkpoint(attention):
    folder, _ = attention
    common = ("--depth", 2, "--restarts", 2, "--quiet")
    given = ("--config", folder / "mine.json", "--set", "L_cycles=3", "--seq-len", 16)
    first = run(
        "export", folder / "weights", *given, "--puzzles", folder / "p.csv", "--out", folder / "a.nc", *common
    )
    assert first.exit_code == 0, first.output
    again = run("export", "--like", folder / "a.nc", "--out", folder / "b.nc", "--quiet")
    assert again.exit_code == 0, again.output
    one, two = (xr.open_datatree(folder / f"{n}.nc")["ensemble"].to_dataset() for n in "ab")
    assert json.loads(two.attrs["config"])["L_cycles"] == 3
    assert (one.residual == two.residual).all()


def test_continuation_follows_all_steps_of_an_official_folder(tmp_path):
    for step in (5, 20, 100):
        model = small_model("trm mlp", seed=step, noise_scale=0.0, board=None, vocab_size=8, seq_len=36)
        torch.save(official_tensors(model), tmp_path / f"step_{step}")
    (tmp_path / "all_config.yaml").write_text(yaml.safe_dump(official_config(model)))
    done = run(
        "continuation",
        tmp_path,
        "--limit",
        1,
        "--restarts",
        4,
        "--depth",
        4,
        "--out",
        tmp_path / "o",
        "--quiet",
    )
    assert done.exit_code == 0, done.output
    found = xr.open_datatree(tmp_path / "o" / "continuation.nc")["continuation"].to_dataset()
    assert list(found["value"].values) == [5.0, 20.0, 100.0]


def test_an_empty_name_is_no_folder(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder[0])
    with pytest.raises(CheckpointError, match="and no bundled model of that name"):
        load("")
    assert load(".").provenance["checkpoint"] == "step_1000"
