"""`eqrlab train`, `evaluate` and `info`: what they print, write, refuse and continue."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scipy.stats import binomtest

from eqrlab.analyses.commands.evaluate import evaluate
from eqrlab.analyses.commands.info import info
from eqrlab.analyses.commands.train import train
from eqrlab.analyses.studies.accuracy import measure
from eqrlab.analyses.studies.shares import clustered
from eqrlab.analyses.studies.training_recipes import OPTIONS, configurations
from eqrlab.analyses.text.describe import blocks_per_step, describe
from eqrlab.core import load, save
from eqrlab.core.checkpoints.build import build, configure
from eqrlab.core.training.trainer import Trainer
from eqrlab.datasets import bundled, write_csv
from tests.core_models import small_eqr

TINY = "--hidden 16 --heads 2 --batch-size 8 --halt-max-steps 3 --depth 2 --quiet"


def run(command, arguments, code=0):
    """Run a command; return what it printed."""
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A handful of 4x4 puzzles, to train on and to test on."""
    folder = tmp_path_factory.mktemp("data")
    solution = np.array([1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1])
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("test", 6)):
        rows = []
        for _ in range(count):
            renamed = rng.permutation(4)[solution - 1] + 1
            blank = rng.random(16) < 0.3
            rows.append(
                (
                    "".join("." if b else str(d) for b, d in zip(blank, renamed, strict=True)),
                    "".join(map(str, renamed)),
                )
            )
        (folder / f"{name}.csv").write_text("puzzle,solution\n" + "".join(f"{p},{s}\n" for p, s in rows))
    (folder / "unsolved.txt").write_text("".join(f"{p}\n" for p, _ in rows))
    return folder


def arguments(data, out, *more, steps=12):
    files = f"--puzzles {data}/train.csv --test-puzzles {data}/test.csv --evaluate-every 6 --save-every 5"
    return ["sudoku4", "--out", out, "--steps", steps, *TINY.split(), *files.split(), *more]


def test_training_writes_a_model_a_log_and_the_final_accuracy(data, tmp_path):
    out = tmp_path / "runs" / "one"
    printed = run(train, arguments(data, out))
    files = ["log.jsonl", "model.safetensors", "options.json", "slots.jsonl", "state.safetensors"]
    assert sorted(p.name for p in out.iterdir()) == files
    model = load(out / "model.safetensors")
    assert model.task == "sudoku4" and model.config.hidden_size == 16 and model.config.noise_scale == 0.01
    assert model.provenance["steps"] == 12
    accuracy = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["test_exact"]
    interval = binomtest(round(accuracy * 6), 6).proportion_ci(method="wilson")
    interval = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    assert f"exact accuracy at depth 2: {100 * accuracy:.1f} % {interval} of 6" in printed


def test_the_default_folder_data_and_recipe_are_those_of_the_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run(
        train,
        ["sudoku6", "--steps", 1, "--batch-size", 2, "--hidden", 16, "--heads", 2, "--depth", 1, "--quiet"],
    )
    model = load("runs/eqr-sudoku6/model.safetensors")
    assert model.config.seq_len == 36 and model.config.halt_max_steps == 8
    assert model.provenance["puzzles"] == len(bundled("sudoku6", "train")) and model.provenance["augmented"]
    assert f"of {len(bundled('sudoku6', 'test'))} held-out puzzles" in printed


def test_an_existing_run_is_not_overwritten(data, tmp_path):
    run(train, arguments(data, tmp_path, steps=1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    printed = run(train, arguments(data, tmp_path, steps=1), code=2)
    assert "continue with --resume, or choose another --out" in printed
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_run_stopped_by_signals_continues_to_the_same_end(data, tmp_path, monkeypatch):
    run(train, arguments(data, tmp_path / "whole", steps=60))
    out, one_step = tmp_path / "stopped", Trainer.step

    def step_and_signal(trainer):
        record = one_step(trainer)
        if trainer.step_count in (13, 31):
            signal.raise_signal(signal.SIGTERM if trainer.step_count == 13 else signal.SIGINT)
        return record

    monkeypatch.setattr(Trainer, "step", step_and_signal)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    again = ["sudoku4", "--out", out, "--resume", "--quiet"]
    for options, reached in ((arguments(data, out, steps=60), 13), (again, 31)):
        printed = run(train, options, code=128 + (signal.SIGTERM if reached == 13 else signal.SIGINT))
        assert printed.splitlines()[-1] == (
            f"eqrlab: stopped at step {reached} of 60 with all saved; "
            f"continue with: eqrlab train sudoku4 --out {out} --resume"
        )
    assert run(train, again).startswith(f"continuing {out} at step 31")
    one, other = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


PAPER_TINY = "--hidden 16 --heads 2 --layers 1 --h-cycles 2 --l-cycles 2 --batch-size 8 --depth 2 --quiet"


def test_a_paper_size_recipe_trains_in_slots_that_end_in_time_and_go_on_from_their_folder_alone(
    tmp_path, monkeypatch
):
    """The preset's own path (bfloat16, rates measured) at a tiny width, folder by folder."""
    moves, one_step = [], Trainer.step

    def step(trainer):
        moves.append(trainer.step_count)
        return one_step(trainer)

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("eqrlab.core.training.trainer.LOG_EVERY", 4)
    clock = itertools.count()
    monkeypatch.setattr("eqrlab.analyses.commands.train.time.monotonic", lambda: float(next(clock)))
    options = ["sudoku9", "--preset", "paper", "--steps", 24, "--lr", 3e-3, *PAPER_TINY.split()]
    write_csv(tmp_path / "test.csv", bundled("sudoku9-hard").take(slice(4)))
    options += [
        "--test-puzzles",
        tmp_path / "test.csv",
        "--evaluate-every",
        1000,
        "--save-every",
        7,
        "--minutes",
        0.25,
        "--ema",
        0.5,
        "--warmup",
        2,
    ]
    reached, folder = [], tmp_path / "slot0"
    for slot in range(8):
        printed = run(train, [*options, "--out", folder, *(["--resume"] if slot else [])])
        record = json.loads((folder / "slots.jsonl").read_text().splitlines()[-1])
        reached.append(record["to"])
        if reached[-1] == 24:
            break
        assert f"the 0.25 minutes are over at step {record['to']} of 24" in printed
        assert "of the device's matmul rate" in printed and 0 < record["matmul_share"]
        moved = tmp_path / f"slot{slot + 1}"
        folder.rename(moved)
        folder = moved
    assert reached[-1] == 24 and len(reached) >= 3 and moves == list(range(24))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(4, 25, 4))
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"], "the loss falls"
    model = load(folder / "model.safetensors")
    assert model.provenance["train"]["dtype"] == "bfloat16"
    assert model.config.noise_scale == 0.01 and model.config.damping == 0.05
    assert model.provenance["train"]["lr_min_ratio"] == 1.0 and model.provenance["train"]["ema"] == 0.5
    assert len(bundled("sudoku9-hard", "train")) == model.provenance["puzzles"]


def test_a_slot_without_time_writes_the_model_of_its_state_and_no_step(data, tmp_path):
    run(train, arguments(data, tmp_path, "--minutes", 60, steps=3))
    state = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    run(train, ["sudoku4", "--out", tmp_path, "--resume", "--quiet", "--minutes", 0])
    assert load(tmp_path / "model.safetensors").provenance["steps"] == 3
    assert (tmp_path / "state.safetensors").read_bytes() == state


@pytest.mark.parametrize(
    ("key", "size"),
    [
        (("paper", "sudoku9", "eqr"), 4_855_298),
        (("paper", "maze30", "eqr"), None),
        (("paper-small", "maze30", "eqr"), None),
        (("paper", "sudoku9", "trm"), None),
        (("paper", "maze30", "trm"), None),
    ],
)
def test_presets_are_the_models_and_options_of_the_paper(key, size):
    name, task, family = key
    empty = {**dict.fromkeys(OPTIONS), "box_gap": False, "family": family, "preset": name}
    model, config = configurations(task, empty, "cpu")
    c = configure(family, model)
    small = name == "paper-small"
    width = {"sudoku9": 512, "maze30": 44 if small else 512 if family == "trm" else 128}[task]
    assert (c.hidden_size, c.H_cycles, c.L_cycles, c.halt_max_steps) == (
        width,
        3,
        6 if task == "sudoku9" else 4,
        16,
    )
    assert c.layers == (1 if (task, family) == ("maze30", "eqr") else 2)
    assert c.mixer == ("mlp" if task == "sudoku9" else "attention")
    assert c.positions_total == c.seq_len + (16 if family == "trm" else 0)
    assert (config.lr, config.weight_decay) == ((1e-3, 0.1) if small else (1e-4, 1.0))
    assert (config.batch_size, config.warmup, config.ema, config.dtype) == (768, 2000, 0.999, "bfloat16")
    assert (config.beta1, config.beta2, config.lr_min_ratio, config.halt_weight) == (0.9, 0.95, 1.0, 0.5)
    assert config.compile is False and configurations(task, empty, "cuda")[1].compile is True
    if family == "eqr":
        assert (c.noise_scale, c.damping, c.H_init_std, c.halt_exploration) == (0.01, 0.05, 1.0, 0.1)
    if size is not None:
        with torch.device("meta"):
            assert sum(p.numel() for p in build(family, model, task).parameters()) == size


def test_a_preset_that_does_not_exist_is_refused():
    printed = run(train, ["sudoku6", "--preset", "paper"], code=2)
    assert "no preset 'paper' for eqr on sudoku6; there are paper for eqr on sudoku9" in printed


def test_a_finished_run_can_be_continued_to_no_effect(data, tmp_path):
    first = run(train, arguments(data, tmp_path, steps=6))
    again = run(train, ["sudoku4", "--out", tmp_path, "--resume", "--quiet"])
    assert first.splitlines()[-1] == again.splitlines()[-1]


def test_a_finished_run_goes_on_for_more_steps(data, tmp_path):
    """The steps asked for are kept: continuing again needs no options."""
    run(train, arguments(data, tmp_path, steps=6))
    again = ["sudoku4", "--out", tmp_path, "--resume", "--quiet"]
    assert "12 steps of 8 rows" in run(train, [*again, "--steps", 12])
    provenance = load(tmp_path / "model.safetensors").provenance
    assert provenance["steps"] == provenance["train"]["steps"] == 12
    assert provenance["extended"] == [{"step": 6, "steps": 6}]
    assert run(train, again).startswith(f"continuing {tmp_path} at step 12")
    with pytest.raises(ValueError, match="at step 12 already, beyond the 9 steps asked for"):
        run(train, [*again, "--steps", 9])


def test_a_run_that_is_stopped_before_its_first_step_is_continued_as_it_says(data, tmp_path):
    said = run(train, arguments(data, tmp_path / "one late", "--minutes", 0))
    program, verb, *again = shlex.split(said.splitlines()[-1].partition("continue with: ")[2])
    assert (program, verb, *again[-3:]) == ("eqrlab", "train", "--resume", "--minutes", "0")
    run(train, [*again[:-2], "--quiet"])
    run(train, arguments(data, tmp_path / "whole"))
    ends = [load_file(tmp_path / name / "state.safetensors") for name in ("one late", "whole")]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[1])


def test_a_run_on_a_task_of_open_sizes_is_continued(tmp_path):
    rows = [" ".join(map(str, row)) for row in np.random.default_rng(0).integers(1, 4, (12, 5))]
    (tmp_path / "copy.csv").write_text("puzzle,solution\n" + "".join(f"{row},{row}\n" for row in rows))
    given = ["generic", "--out", tmp_path / "run", *TINY.split()]
    run(train, [*given, "--puzzles", tmp_path / "copy.csv", "--steps", 3])
    assert "at step 3" in run(train, [*given, "--resume", "--steps", 5])
    assert load(tmp_path / "run" / "model.safetensors").task == "generic-5-v4"


def test_held_out_puzzles_of_several_solutions_are_judged_by_the_oracle(tmp_path, data):
    every = "1234341221434321"  # one of the 288 solutions of an empty board
    (tmp_path / "test.csv").write_text(f"puzzle,solution\n{'.' * 16},{every}\n")
    given = [data / "train.csv", "--test-puzzles", tmp_path / "test.csv", "--evaluate-every", 1]
    judged = []

    def seen(inputs, answers):
        judged.append(answers)
        return np.ones(len(inputs), bool)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bundled("sudoku6")), "oracle", property(lambda puzzles: seen))
        said = run(
            train, ["sudoku4", "--out", tmp_path / "run", *TINY.split(), "--steps", 1, "--puzzles", *given]
        )
    assert judged and "exact accuracy at depth 2: 100" in said


def test_continuing_where_nothing_was_saved_starts_from_the_beginning(data, tmp_path):
    printed = run(train, arguments(data, tmp_path / "new", "--resume", steps=1))
    assert printed.startswith("nothing was saved in") and (tmp_path / "new" / "model.safetensors").exists()


def test_continuing_with_other_options_names_them(data, tmp_path):
    run(train, arguments(data, tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"other settings: train\.lr 0\.002 there, 0\.5 here"):
        run(train, ["sudoku4", "--out", tmp_path, "--resume", "--lr", 0.5])
    with pytest.raises(ValueError, match="run on another task than sudoku6"):
        run(train, ["sudoku6", "--out", tmp_path, "--resume"])
    (tmp_path / "options.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        run(train, ["sudoku4", "--out", tmp_path, "--resume"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--family", "gpt"], "Invalid value for '--family'"),
        (["--steps", "0"], "steps and batch_size must be >= 1"),
        (["--steps", "many"], "not a valid integer"),
        (["--lr", "-1"], "Invalid value for '--lr'"),
        (["--heads", "3", "--mixer", "attention"], "hidden_size 16 must be a multiple of num_heads 3"),
        (["--mixer", "conv"], "Invalid value for '--mixer'"),
        (["--damping", "1"], "Invalid value for '--damping'"),
        (["--box-gap"], "--box-gap needs --positions rope2d"),
        (["--regulariser-weight", "1"], "--regulariser-weight needs --regulariser"),
        (["--depth", "0"], "Invalid value for '--depth'"),
        (["--unknown"], "No such option"),
    ],
)
def test_wrong_usage_is_named_before_anything_is_written(more, message, data, tmp_path):
    printed = run(train, arguments(data, tmp_path / "run", *more), code=2)
    assert message in printed and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_asking_for_a_device_that_is_not_there_is_wrong_usage(data, tmp_path):
    assert "no CUDA device here" in run(train, arguments(data, tmp_path / "run", "--device", "cuda"), code=2)


def test_unknown_tasks_and_unfit_data_are_refused(data, tmp_path):
    assert "task 'sudoku5' unknown" in run(train, ["sudoku5", "--out", tmp_path / "run"], code=2)
    assert "Missing argument 'TASK'" in run(train, [], code=2)
    for files, message in {
        f"--puzzles {data}/unsolved.txt": "training needs puzzles with solutions",
        f"--puzzles {data}/nothing.csv": "nothing.csv",
    }.items():
        with pytest.raises((ValueError, OSError), match=message):
            run(train, ["sudoku4", "--out", tmp_path / "run", *files.split()])
    with pytest.raises(ValueError, match="sudoku"):
        run(train, ["sudoku6", "--out", tmp_path / "run", "--puzzles", data / "train.csv"])
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_an_error_of_the_system(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run(train, arguments(data, tmp_path / "file" / "run"))


@pytest.mark.parametrize("family", ["eqr", "trm"])
def test_boards_for_two_dimensional_positions_come_from_the_task(family, data, tmp_path):
    more = [
        "--mixer",
        "attention",
        "--positions",
        "rope2d",
        "--box-gap",
        "--family",
        family,
        "--no-symmetries",
    ]
    run(train, arguments(data, tmp_path / family, *more, steps=1))
    model = load(tmp_path / family / "model.safetensors")
    assert (model.family, model.config.board, model.config.box) == (family, (4, 4), (2, 2))
    assert not model.provenance["augmented"]


@pytest.mark.parametrize("family", ["eqr", "trm", "hrm", "urm", "feedforward", "tied"])
def test_every_family_trains_with_its_own_recipe(family, data, tmp_path):
    one = ["--halt-max-steps", "1", "--l-cycles", "1", "--h-cycles", "1"] if family == "feedforward" else []
    run(train, arguments(data, tmp_path / "run", "--family", family, *one, steps=2))
    model = load(tmp_path / "run/model.safetensors")
    assert model.family == family and model.noise_scale == (0.01 if family == "eqr" else 0.0)
    options = model.provenance["train"]
    assert options["halting"] == ("off" if family == "feedforward" else "learned")
    assert (options["ema"] == 0.0) == (family == "hrm")


def test_schedules_and_prefix_are_options(data, tmp_path):
    more = ["--family", "tied", "--supervision", "anchors", "--anchors", "2", "3", "--halting", "off"]
    run(train, arguments(data, tmp_path / "run", *more, "--prefix", "2", steps=2))
    model = load(tmp_path / "run/model.safetensors")
    assert (
        model.provenance["train"]["anchors"] == [2, 3]
        and model.provenance["train"]["supervision"] == "anchors"
    )
    assert (model.config.prefix_len, model.config.prefix_dim) == (2, 16)
    printed = run(train, arguments(data, tmp_path / "other", "--supervision", "terminal"), code=2)
    assert "halting must be 'off', got 'learned'" in printed


# evaluate -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    run(train, arguments(data, out, steps=3))
    return out / "model.safetensors"


def test_evaluation_is_the_same_as_text_and_json(trained, data):
    options = [trained, "--puzzles", data / "test.csv", "--depth", 3, "--restarts", 2]
    result = json.loads(run(evaluate, [*options, "--json"]))
    assert (
        result["puzzles"] == 6
        and result["restarts"] == 2
        and result["noise"] == 0.01
        and result["task"] == "sudoku4"
    )
    assert 0 <= result["exact"]["low"] <= result["exact"]["value"] <= result["exact"]["high"] <= 1
    text = run(evaluate, options)
    for key in ("exact", "cells"):
        share = result[key]
        value, low, high = (100 * share[name] for name in ("value", "low", "high"))
        assert f"{value:.1f} % [{low:.1f}, {high:.1f}]" in text
    assert run(evaluate, [*options, "--json"]) == run(evaluate, [*options, "--json"])


def test_evaluation_takes_the_bundled_test_set_by_default(tmp_path):
    save(model := small_eqr(vocab_size=8, seq_len=36), path := tmp_path / "m.safetensors")
    model.task = "sudoku6"
    save(model, path)
    result = json.loads(run(evaluate, [path, "--limit", 5, "--depth", 1, "--noise", 0, "--json"]))
    assert result["puzzles"] == 5 and result["noise"] == 0


def test_cells_are_not_judged_without_solutions(trained, data):
    options = [trained, "--puzzles", data / "unsolved.txt", "--depth", 1]
    assert json.loads(run(evaluate, [*options, "--json"]))["cells"] is None
    assert "not known: the puzzles come without solutions" in run(evaluate, options)


def test_puzzles_of_another_size_are_refused(trained, tmp_path):
    write_csv(tmp_path / "six.csv", bundled("sudoku6").take([0]))
    with pytest.raises(
        ValueError, match=r"sudoku6 puzzles of 36 cells, the model reads sudoku4 of 16 cells and 6 tokens"
    ):
        run(evaluate, [trained, "--puzzles", tmp_path / "six.csv"])
    with pytest.raises(ValueError, match="no such file, and no bundled model of that name"):
        run(evaluate, ["missing.pth"])
    assert "Invalid value for '--restarts'" in run(evaluate, [trained, "--restarts", 0], code=2)


def test_the_interval_with_one_restart_is_wilson_over_puzzles():
    result = clustered(np.array([[1.0]] * 7 + [[0.0]] * 3), 1)
    expected = binomtest(7, 10).proportion_ci(method="wilson")
    assert result["value"] == 0.7
    assert result["low"] == pytest.approx(expected.low, abs=0.01) and result["high"] == pytest.approx(
        expected.high, abs=0.01
    )


def test_restarts_of_a_puzzle_are_not_independent_evidence():
    alike = np.repeat(np.array([[1.0]] * 7 + [[0.0]] * 3), 100, axis=1)
    once, often = clustered(alike[:, :1], 1), clustered(alike, 1)
    assert (once["low"], once["high"]) == pytest.approx((often["low"], often["high"]))
    sure = clustered(np.ones((20, 50)), 1)
    assert sure["value"] == 1.0 and sure["low"] == pytest.approx(
        binomtest(20, 20).proportion_ci(method="wilson").low
    )
    mixed = clustered(np.tile([0.0, 1.0], (50, 10)), 1)
    assert mixed["high"] - mixed["low"] < 0.1


def test_intervals_cover_the_mean_over_puzzles():
    """Puzzles with success rates from a beta law, few restarts each: coverage near 95 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        rates = rng.beta(0.5, 0.3, 60)
        result = clustered((rng.random((60, 4)) < rates[:, None]).astype(float), 1)
        covered += result["low"] <= 0.5 / 0.8 <= result["high"]
    assert 0.92 <= covered / 400 <= 0.985


def test_measuring_judges_by_the_oracle(data):
    model = small_eqr(vocab_size=6, seq_len=16)
    puzzles = bundled("sudoku6").take([0])
    with pytest.raises(ValueError, match="the model reads 16 cells"):
        measure(model, puzzles, depth=1, restarts=1)


# info ---------------------------------------------------------------------------------------------------------------


def test_info_tells_size_state_and_cost(trained):
    facts = json.loads(run(info, [trained, "--json"]))
    model = load(trained)
    assert facts["family"] == "eqr" and facts["task"] == "sudoku4"
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["state_shape"] == [2, 16, 16] and facts["state_dimension"] == 512
    assert facts["level_calls"] == 6 and facts["equivalent_layers"] == 6
    assert facts["config"]["hidden_size"] == 16 and facts["provenance"]["steps"] == 3
    text = run(info, [trained])
    assert "512 numbers: 2 x 16 x 16 (streams, positions, channels)" in text and "train.batch_size" in text
    columns = {
        line.index(value) for line, value in zip(text.splitlines()[1:3], ("eqr", "mlp mixer"), strict=True)
    }
    assert len(columns) == 1


def test_an_outer_step_costs_layers_times_level_calls():
    model = small_eqr(layers=2, H_cycles=3, L_cycles=6)
    assert blocks_per_step(model) == 42 and describe(model)["level_calls"] == 21
    assert not any(block._forward_hooks for block in model.modules())


def test_info_tells_what_an_official_file_left_out(shared):
    path = shared / "conformance/eqr_prefix_mlp/checkpoint/eqr.pth"
    text = run(info, [path])
    assert "16 prefix positions" in text and "official EqR" in text
    assert "ignored_config" in text and "vocab_size 8 from lm_head" in text


@pytest.mark.parametrize("command", [train, evaluate, info])
def test_every_verb_has_help_with_an_example(command):
    printed = run(command, ["--help"])
    assert "Example:  eqrlab " + command.name in printed


def test_the_command_line_keeps_threads_from_spinning_before_torch_is_loaded():
    code = "import os, sys, eqrlab.analyses.cli; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    for given, expected in ({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"):
        environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | given
        printed = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert printed.stdout == f"{expected} False\n", printed.stderr


def test_evaluate_names_puzzles_without_a_solution_and_counts_them_apart(tmp_path):
    """Legal givens, one digit of a solution changed: a perfect model has no right answer to give."""
    sound = [
        "5...1.2...6..2153.45.1...6.2.1...6..",
        "..2......1.4.4..31.5.....3.45.......",
        "2.......4.63.3...2...1...1.4....5...",
    ]
    broken = ["54..1.2...6..2153.45.1...6.2.1...6..", "1.2......1.4.4..31.5.....3.45......."]
    options = ["--depth", "8", "--noise", "0", "--quiet", "--json"]
    figures = []
    for name, lines in {"sound.txt": sound, "half.txt": [*sound, *broken]}.items():
        (tmp_path / name).write_text("\n".join(lines))
        result = CliRunner().invoke(evaluate, ["eqr-sudoku6", "--puzzles", str(tmp_path / name), *options])
        assert result.exit_code == 0
        figures.append(json.loads(result.stdout))
    assert figures[0]["exact"] == figures[1]["exact"] and figures[1]["puzzles"] == 3
    assert [f["unsolvable"] for f in figures] == [0, 2]
    assert (
        "2 of 5 puzzles have no solution and are left out of the figures: half.txt:4, half.txt:5"
        in result.stderr
    )
    (tmp_path / "none.txt").write_text("\n".join(broken))
    result = CliRunner().invoke(evaluate, ["eqr-sudoku6", "--puzzles", str(tmp_path / "none.txt"), *options])
    assert "none of the 2 puzzles has a solution" in str(result.exception)
