"""Numbers of a training run followed beside log.jsonl; services by stand-ins."""

from __future__ import annotations

import csv
import json
import sys
import types

import pytest
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.analyses.commands.common.training_log import follow

ARGUMENTS = ["--family", "trm", "--puzzles", "sudoku6", "--batch-size", "4", "--hidden", "16", "--quiet"]


def train(out, *more):
    done = CliRunner().invoke(cli, ["train", "sudoku6", *ARGUMENTS, "--out", str(out), *map(str, more)])
    assert done.exit_code == 0, (done.output, done.exception)


def rows(path):
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_the_table_is_the_log_also_after_a_run_is_extended(tmp_path):
    train(tmp_path, "--steps", 20, "--log", "csv", "--evaluate-every", 1000, "--regulariser", "entropy")
    train(tmp_path, "--steps", 30, "--resume", "--log", "csv")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows(tmp_path / "log.csv") == lines and lines[-1]["step"] == 30 and "regulariser" in lines[0]


@pytest.fixture
def board(monkeypatch):
    """A stand-in for TensorBoard, and the numbers it was given."""
    given = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            given.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            given.append((name, value, step))

        def flush(self):
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return given


def log(folder, *records):
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_tensorboard_gets_every_number_once_from_the_step_on(board, tmp_path):
    log(tmp_path, {"step": 5, "loss": 3.0})
    tell = follow("tensorboard", tmp_path, {}, 5)
    log(tmp_path, {"step": 5, "loss": 3.0}, {"step": 10, "loss": 2.0, "test_exact": 0.5})
    tell()
    tell()
    assert board == [(str(tmp_path / "tensorboard"), 6), ("loss", 2.0, 10), ("test_exact", 0.5, 10)]


@pytest.fixture
def service(monkeypatch):
    """A stand-in for Weights & Biases, and what it was given."""
    given = []

    def init(**how):
        given.append(how)
        return types.SimpleNamespace(
            id=how["id"] or f"new{len(given)}", log=lambda numbers, step: given.append((numbers, step))
        )

    module = types.ModuleType("wandb")
    module.init, module.errors = init, types.SimpleNamespace(Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return given


def test_weights_and_biases_gets_every_number_once_under_the_name_of_the_run(service, tmp_path):
    tell = follow("wandb", tmp_path, {"out": tmp_path, "steps": 9}, 0)
    log(tmp_path, {"step": 5, "loss": 3.0})
    tell()
    assert service[0]["name"] == tmp_path.name and service[0]["config"] == {"out": str(tmp_path), "steps": 9}
    assert service[1:] == [({"loss": 3.0}, 5)]


def test_weights_and_biases_goes_on_with_the_run_of_this_folder_alone(service, tmp_path):
    """A run of the same name, elsewhere or in this folder before, would refuse steps that it has already."""
    for since in (0, 5, 0):
        follow("wandb", tmp_path, {}, since)
    assert [how["id"] for how in service] == [None, "new1", None]
    assert (tmp_path / "wandb-id.txt").read_text() == "new3\n"


def test_a_service_that_refuses_ends_in_one_sentence_and_leaves_no_run(service, monkeypatch, tmp_path):
    def refuse(**how):
        raise RuntimeError("No API key configured.")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    asked = ["train", "sudoku6", *ARGUMENTS, "--steps", "2", "--out", str(tmp_path), "--log", "wandb"]
    run = CliRunner().invoke(cli, asked)
    assert str(run.exception) == "--log wandb: No API key configured." and not list(tmp_path.iterdir())


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"--log wandb needs the package wandb; run: pip install wandb"):
        follow("wandb", tmp_path, {}, 0)
