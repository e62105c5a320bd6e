"""The construction path: rungs of equal depth, runs taken up where they stand, intervals over seeds and puzzles."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from safetensors.torch import load_file

from eqrlab.analyses.commands import ladder as ladder_verb
from eqrlab.analyses.commands.ladder import cost_of, ladder_command
from eqrlab.analyses.commands.train import train as train_command
from eqrlab.analyses.studies.ladder import text as ladder_text
from eqrlab.analyses.studies.ladder.climb import Interrupted, climb, measured, take_up
from eqrlab.analyses.studies.ladder.rungs import (
    PATH,
    RUNGS,
    WEIGHTS,
    Ladder,
    Sampling,
    rung_before,
    rung_options,
)
from eqrlab.analyses.studies.ladder.summary import (
    ACCURACY,
    ADVANTAGE,
    CORRECT,
    GAP,
    SELECTED,
    summarise,
)
from eqrlab.analyses.studies.training_recipes import configurations
from eqrlab.analyses.text.describe import blocks_per_step
from eqrlab.attractors.answers.scaling import path_independence_gap
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.core.checkpoints.build import build
from eqrlab.datasets import build as build_puzzles
from eqrlab.datasets import fingerprint, write_csv

TINY = {"hidden": 8, "heads": 2, "steps": 6, "batch_size": 4, "halt_max_steps": 2}
SMALL = Sampling(limit=3, restarts=3, depth=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training and held-out 4x4 puzzles, no two of them symmetric."""
    folder = tmp_path_factory.mktemp("data")
    seen = build_puzzles("sudoku4", 8, "easy", seed=1)
    held = build_puzzles("sudoku4", 5, "easy", seed=2, exclude=fingerprint("sudoku4", seen.inputs))
    write_csv(folder / "train.csv", seen)
    write_csv(folder / "test.csv", held)
    return {"puzzles": str(folder / "train.csv"), "test_puzzles": str(folder / "test.csv")}


def small(files, out, **changes):
    options = {
        "rungs": ("tied", "ri"),
        "seeds": (0, 1),
        "options": TINY,
        "sampling": SMALL,
        **files,
        **changes,
    }
    return Ladder("sudoku4", out, **options)


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """A ladder of two rungs and two seeds, climbed without interruption."""
    out = tmp_path_factory.mktemp("whole")
    ladder = small(files, out)
    return ladder, climb(ladder)


def model_of(task, rung, **common):
    options = rung_options(task, rung, common)
    config, training = configurations(task, {**options, "seed": 0}, "cpu")
    return build(options["family"], config, task), training


@pytest.mark.parametrize(
    ("task", "common"),
    [("sudoku6", {}), ("sudoku9", {"hidden": 16}), ("sudoku4", {"layers": 2, "h_cycles": 3})],
)
def test_every_rung_applies_equally_many_blocks(task, common):
    assert len({blocks_per_step(model_of(task, rung, **common)[0]) for rung in RUNGS}) == 1


def test_each_rung_changes_what_its_name_says():
    models = {rung: model_of("sudoku6", rung) for rung in RUNGS}
    config = {rung: model.config for rung, (model, _) in models.items()}
    halting = {rung: training.halting for rung, (_, training) in models.items()}
    assert [m.family for m, _ in models.values()] == [
        "feedforward",
        "tied",
        "tied",
        "trm",
        "trm",
        *["eqr"] * 7,
    ]
    assert config["tied"].halt_max_steps == 1 and config["sot"].halt_max_steps == 8
    assert (config["sot"].H_cycles, config["sot"].L_cycles) == (2, 3)
    assert [halting[r] for r in RUNGS] == ["off"] * 4 + ["learned"] * 8
    assert (config["ri"].noise_scale, config["ri"].damping) == (0, 0)
    assert (config["ni"].noise_scale, config["ni"].damping) == (0.01, 0.05)
    assert config["noise"] == dataclasses.replace(config["ni"], H_init_std=0.0, L_init_std=0.0)
    shaped = ["entropy", "stability", "spectral"]
    assert [r for r in RUNGS if models[r][0].random_starts] == ["ri", "ni", *shaped, "narrow"]
    training = {rung: t for rung, (_, t) in models.items()}
    assert training["ni"].regulariser is None and all(training[r].regulariser == r for r in shaped)
    assert all(config[r] == config["ni"] and training[r].regulariser_weight == WEIGHTS[r] for r in shaped)
    assert config["narrow"] == dataclasses.replace(config["ni"], H_init_std=0.5, L_init_std=0.5)
    assert not models["ni"][0].replace(H_init_std=0.0, L_init_std=0.0).random_starts


def test_a_rung_is_compared_with_the_nearest_one_below_it():
    for lower, upper in pairwise(PATH):
        assert rung_before(upper, PATH) == lower
    assert rung_before("noise", tuple(RUNGS)) == "act" and rung_before("ri", tuple(RUNGS)) == "act"
    assert (
        rung_before("ni", ("tied", "noise", "ni")) == "tied" and rung_before("tied", ("tied", "ni")) is None
    )


def test_effects_of_crossed_ingredients_are_those_of_the_four_models(files, tmp_path):
    ladder = small(files, tmp_path, rungs=("act", "noise", "ri", "ni"))
    summary = summarise(ladder, climb(ladder))
    each = summary.seed_mean.mean("seed", skipna=False)
    act, noise, ri, ni = (each.sel(rung=r) for r in ("act", "noise", "ri", "ni"))
    effect = summary.effect
    np.testing.assert_allclose(
        effect.sel(ingredient="random starts"), (ri - act + ni - noise) / 2, atol=1e-12
    )
    np.testing.assert_allclose(
        effect.sel(ingredient="noise and damping"), (noise - act + ni - ri) / 2, atol=1e-12
    )
    np.testing.assert_allclose(effect.sel(ingredient="interaction"), ni - noise - ri + act, atol=1e-12)
    tables = dict(ladder_text.tables(summary))
    assert any("Effects of random starts" in title for title in tables)
    chosen = [each.sel(quantity=q) for q in (*SELECTED, ADVANTAGE)]
    np.testing.assert_allclose(chosen[1] - chosen[0], chosen[2], atol=1e-12)
    assert (np.abs(summary[["low", "high"]].sel(quantity=ADVANTAGE).to_array()) <= 1).all()
    rows = tables["Choosing 1 of 3 restarts, %"]
    assert rows[0]["change"] == "" and rows[3]["change"].endswith(" to ri") and rows[0]["rung"] == "act *"
    whole = summary.fillna(0.0)
    assert "A number without interval" not in "".join(ladder_text.notes(whole))
    whole["effect_low"][0, 0] = np.nan
    assert "A number without interval" in "".join(ladder_text.notes(whole))


def test_the_papers_effects_are_confirmed_refuted_or_open():
    names = ["random starts", "noise and damping"]
    for mean, spread, words in (
        (0.1, 0.05, "confirmed in direction"),
        (-0.1, 0.05, "refuted"),
        (0.1, 0.2, "open"),
    ):
        value = np.full((2, 1), mean)
        pair = ("ingredient", "quantity")
        data = {
            "effect": (pair, value),
            "effect_low": (pair, value - spread),
            "effect_high": (pair, value + spread),
        }
        summary = xr.Dataset(data, {"ingredient": names, "quantity": [ACCURACY]})
        (said,) = ladder_text.effect_sentences(summary)
        assert said.count(words) == 2 and f"{100 * mean:+.1f} [" in said and "(paper +1.2)" in said
    assert ladder_text.effect_sentences(synthetic({"act": 0.1, "ri": 0.2}, 0.1)) == []


def test_misuse_of_rungs_is_named(files, tmp_path):
    with pytest.raises(ValueError, match="rung 'ladder' unknown; choose from feedforward, tied"):
        rung_options("sudoku6", "ladder")
    with pytest.raises(ValueError, match="'halting' is set by the rungs"):
        rung_options("sudoku6", "act", {"halting": "off"})
    with pytest.raises(ValueError, match="distinct seeds"):
        small(files, tmp_path, seeds=(0, 0))
    with pytest.raises(ValueError, match="restarts must be >= 2, got 1"):
        Sampling(restarts=1)


def test_a_task_without_symmetries_or_sizes_has_a_ladder_too(tmp_path):
    for name, rows in (("train", ("1 2 3", "2 2 1", "3 1 1")), ("test", ("1 1 1", "2 3 1"))):
        (tmp_path / f"{name}.csv").write_text("puzzle,solution\n" + "".join(f"{r},{r}\n" for r in rows))
    own = {"puzzles": str(tmp_path / "train.csv"), "test_puzzles": str(tmp_path / "test.csv")}
    ladder = Ladder("generic", tmp_path, rungs=("tied",), seeds=(0,), options=TINY, sampling=SMALL, **own)
    trainer = ladder.trainer("tied", 0)
    assert (ladder.task, trainer.data.augment) == ("generic-3-v4", None)


def test_held_out_puzzles_may_not_be_training_puzzles(files, tmp_path):
    with pytest.raises(ValueError, match="8 of 8 held-out puzzles are training puzzles"):
        small(files, tmp_path, test_puzzles=files["puzzles"])


def test_an_interrupted_ladder_ends_at_the_same_result(files, whole, tmp_path):
    ladder, results = whole
    other = small(files, tmp_path)
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        climb(other, stop=lambda: next(asked) >= 4)  # in the middle of the first training
    state = other.trainer("tied", 0)
    assert not take_up(state, other.folder("tied", 0)) and 0 < state.step_count < TINY["steps"]
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        climb(other, stop=lambda: next(asked) >= TINY["steps"])  # in the first sampling
    assert not (other.folder("tied", 0) / "landscape.nc").exists()
    again = climb(other)
    for run in ladder.runs():
        one, two = (load_file(x.folder(*run) / "model.safetensors") for x in (ladder, other))
        assert all(torch.equal(one[k], two[k]) for k in one)
        for group in ("ensemble", "modes", "own_start"):
            xr.testing.assert_equal(results[run][group], again[run][group])


def test_finished_runs_are_found_and_neither_trained_nor_sampled_again(files, whole):
    ladder, results = whole
    paths = sorted(p for p in ladder.out.rglob("*") if p.is_file())
    before = [(p, p.stat().st_mtime_ns) for p in paths]
    said = []
    again = climb(ladder, tell=said.append)
    assert [(p, p.stat().st_mtime_ns) for p in paths] == before
    assert len(said) == 4 and all("found and found sampled" in line for line in said)
    for run in ladder.runs():
        for group in results[run]:
            xr.testing.assert_equal(results[run][group], again[run][group])


def test_the_cost_is_of_the_runs_that_are_left(files, whole, tmp_path, monkeypatch):
    assert cost_of(whole[0]) == "all done"
    ladder = small(files, tmp_path / "new")
    for name in ("tied-seed0", "ri-seed0"):
        shutil.copytree(whole[0].out / name, tmp_path / "new" / name)
    (tmp_path / "new/ri-seed0/landscape.nc").unlink()  # so that three of four runs are left
    asked = []
    monkeypatch.setattr(ladder_verb, "duration", lambda seconds: asked.append(seconds) or "1 s")
    monkeypatch.setattr(ladder_verb, "sampling_seconds", lambda model, of: 7.0)
    assert cost_of(ladder) == "up to about 1 s: training 1 s, sampling 1 s"
    total, training, sampled = asked
    assert sampled == 3 * 7 and total == training + sampled and training > 0
    assert len([*(tmp_path / "new").rglob("model.safetensors")]) == 2, "measuring trains no run"
    asked.clear()
    cost_of(small(files, tmp_path / "new", sampling=Sampling(limit=2, restarts=4, depth=4)))
    assert asked[2] == 4 * 7, "another sampling is left to do for all"


def test_another_sampling_is_sampled_anew(files, whole, tmp_path):
    ladder, _ = whole
    shutil.copytree(ladder.out, tmp_path / "copy")
    other = small(files, tmp_path / "copy", sampling=Sampling(limit=2, restarts=4, depth=4))
    groups, new = measured(other, "ri", 0, lambda: False)
    assert new and dict(groups["ensemble"].sizes)["restart"] == 4
    assert not measured(other, "ri", 0, lambda: False)[1]


def test_a_run_of_eqrlab_train_is_recognised_and_the_other_way_round(files, whole, tmp_path):
    ladder, _ = whole
    line = (
        f"sudoku4 --family tied --h-cycles 2 --l-cycles 3 --halt-max-steps 1 --halting off --hidden 8 --heads 2 "
        f"--steps 6 --batch-size 4 --seed 1 --quiet --out {tmp_path / 'tied-seed1'} "
        f"--puzzles {files['puzzles']} --test-puzzles {files['test_puzzles']}"
    )
    assert CliRunner().invoke(train_command, line.split()).exit_code == 0
    same = small(files, tmp_path)
    assert take_up(same.trainer("tied", 1), same.folder("tied", 1))
    models = [load_file(x.folder("tied", 1) / "model.safetensors") for x in (ladder, same)]
    assert all(torch.equal(models[0][k], models[1][k]) for k in models[0])
    shutil.copytree(ladder.folder("ri", 0), tmp_path / "ri-seed0")
    resumed = CliRunner().invoke(
        train_command, ["sudoku4", "--resume", "--quiet", "--out", str(tmp_path / "ri-seed0")]
    )
    assert resumed.exit_code == 0 and "at step 6" in resumed.output


def test_a_foreign_folder_is_refused_before_anything_is_trained(files, whole, tmp_path):
    ladder, _ = whole
    shutil.copytree(ladder.folder("ri", 0), tmp_path / "ri-seed1")  # the last run of the ladder
    with pytest.raises(ValueError, match=r"ri-seed1.*other settings: train.seed 0 there, 1 here"):
        climb(small(files, tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ri-seed1"]
    (tmp_path / "ri-seed1" / "state.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"model.safetensors: belongs to a run with other settings: train.seed"
    ):
        climb(small(files, tmp_path))


def test_a_finished_model_needs_no_training_state_but_an_unfinished_one_does(files, whole, tmp_path):
    ladder, _ = whole
    folder = tmp_path / "ri-seed0"
    shutil.copytree(ladder.folder("ri", 0), folder)
    (folder / "state.safetensors").unlink()
    assert take_up(ladder.trainer("ri", 0), folder)
    shutil.rmtree(folder)
    part = small(files, tmp_path, rungs=("ri",), seeds=(0,))
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        climb(part, stop=lambda: next(asked) >= 3)
    (folder / "state.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"stopped at step 2, and state.safetensors to continue it is missing"
    ):
        climb(part)


def test_the_gap_is_the_chance_that_two_restarts_disagree():
    rng = np.random.default_rng(0)
    p = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    draws = rng.random((4000, 5, 6)) < p[:, None]
    found = np.mean([path_independence_gap(d) for d in draws], axis=0)
    assert np.abs(found - 2 * p * (1 - p)).max() < 0.01  # unbiased at B = 6
    one = draws[0, 2]
    pairs = [one[a] != one[b] for a in range(6) for b in range(6) if a != b]
    assert path_independence_gap(one[None])[0] == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="at least 2 restarts, got 1"):
        path_independence_gap(np.ones((3, 1), bool))


def synthetic(means, spread, quantity=ACCURACY):
    """A summary of one quantity, mean a rung, intervals of the steps of half-width `spread`."""
    rungs = list(means)
    mean = np.array(list(means.values()))[:, None]
    step = np.diff(mean, axis=0, prepend=np.nan)
    pair = ("rung", "quantity")
    data = {
        "mean": (pair, mean),
        "step": (pair, step),
        "step_low": (pair, step - spread),
        "step_high": (pair, step + spread),
    }
    return xr.Dataset(data, {"rung": rungs, "quantity": [quantity], "seed": [0, 1, 2]})


def test_sentences_say_where_the_order_is_the_papers_and_where_not():
    summary = synthetic({"feedforward": 0.1, "tied": 0.5, "sot": 0.3, "hierarchy": 0.31}, 0.05)
    order, agree, contrary, unclear = ladder_text.order_sentences(summary)
    assert "feedforward 10.0 %, sot 30.0 %, hierarchy 31.0 %, tied 50.0 %; the paper's" in order
    assert "feedforward 2.6 %, tied 32.6 %, sot 74.7 %, hierarchy 76.5 %" in order and "2605.21488" in order
    assert agree.startswith("Steps in the paper's direction") and "feedforward -> tied +40.0" in agree
    assert "tied -> sot -20.0 [-25.0, -15.0] (paper +42.1)" in contrary and "against" in contrary
    assert "sot -> hierarchy +1.0" in unclear and "3 seeds cannot tell" in unclear


def test_the_gap_is_compared_with_the_papers_only_where_it_reports_one():
    summary = synthetic({"hierarchy": 0.2, "act": 0.1, "ri": 0.02}, 0.01, GAP)
    order, agree = ladder_text.order_sentences(summary, GAP, ladder_text.PAPER_GAP)
    assert "hierarchy" not in order + agree and "act -> ri -8.0 [-9.0, -7.0] (paper -3.48)" in agree


def test_the_command_writes_archive_page_and_figure(files, whole, tmp_path):
    ladder, results = whole
    shutil.copytree(ladder.out, tmp_path / "out")
    line = [
        "sudoku4",
        "--rungs",
        "ri,tied",
        "--seeds",
        2,
        "--hidden",
        8,
        "--heads",
        2,
        "--steps",
        6,
        "--batch-size",
        4,
    ]
    line += ["--halt-max-steps", 2, "--limit", 3, "--restarts", 3, "--depth", 4, "--quiet", "--device", "cpu"]
    line += [
        "--puzzles",
        files["puzzles"],
        "--test-puzzles",
        files["test_puzzles"],
        "--out",
        tmp_path / "out",
    ]
    done = CliRunner().invoke(ladder_command, [str(a) for a in line], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.output.count("found and found sampled") == 4 and "rest on 2 seeds" in done.output
    assert validate(tmp_path / "out" / "ladder.nc").groups == 1
    summary = archive.read(tmp_path / "out" / "ladder.nc")["ladder"].to_dataset()
    assert summary.rung.values.tolist() == ["tied", "ri"] and summary.equivalent_layers.values.tolist() == [
        6,
        6,
    ]
    for run in ladder.runs():
        one = summary.sel(rung=run[0], seed=run[1])
        masses = results[run]["basins"].correct_mass.values
        assert float(one.seed_mean.sel(quantity=CORRECT)) == pytest.approx(masses.mean())
        assert one.measured.sel(quantity_landscape=CORRECT).values.tolist() == masses.tolist()
        solved = results[run]["own_start"].correct.values[:, {"tied": 0, "ri": 1}[run[0]]]
        assert one.solved.sel(quantity_accuracy=ACCURACY).values.tolist() == solved.tolist()
    step = summary.seed_mean.sel(rung="ri") - summary.seed_mean.sel(rung="tied")
    np.testing.assert_allclose(
        summary.seed_step.sel(rung="ri", quantity=GAP), step.sel(quantity=GAP), atol=1e-12
    )
    assert all("long_name" in v.attrs and "units" in v.attrs for v in summary.data_vars.values())
    page = (tmp_path / "out" / "ladder.md").read_text()
    assert "| tied \\* |" in page and "outside the training law" in page and "tied -> ri" in page
    one_of_the_papers = ladder_text.markdown(summary.sel(rung=["ri"]))
    assert "## Beside the paper" in page and "## Beside the paper" not in one_of_the_papers
    assert (tmp_path / "out" / "ladder.svg").read_text().rstrip().endswith("</svg>")


def test_wrong_usage_ends_with_code_2(tmp_path):
    done = CliRunner().invoke(ladder_command, ["sudoku6", "--rungs", "tied,foo", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "rung 'foo' unknown" in done.output


def test_an_interrupt_leaves_a_run_that_can_be_continued(files, tmp_path):
    line = [sys.executable, "-m", "eqrlab.analyses", "ladder", "sudoku4", "--rungs", "tied", "--seeds", "1"]
    line += [
        "--hidden",
        "8",
        "--heads",
        "2",
        "--steps",
        "100000",
        "--batch-size",
        "4",
        "--quiet",
        "--device",
        "cpu",
    ]
    line += ["--puzzles", files["puzzles"], "--test-puzzles", files["test_puzzles"], "--out", str(tmp_path)]
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    log = tmp_path / "tied-seed0" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from here" in said
    ladder = small(
        files,
        tmp_path,
        rungs=("tied",),
        seeds=(0,),
        options={"hidden": 8, "heads": 2, "steps": 100000, "batch_size": 4},
    )
    trainer = ladder.trainer("tied", 0)
    assert not take_up(trainer, ladder.folder("tied", 0)) and trainer.step_count >= 50
    assert json.loads((tmp_path / "tied-seed0" / "options.json").read_text())["halt_max_steps"] == 1
