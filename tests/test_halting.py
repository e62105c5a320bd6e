"""Accuracy and steps of `evaluate` where runs stop when their halting head asks for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.analyses.studies.accuracy import halting, measure
from eqrlab.core import save
from eqrlab.datasets import bundled, write_csv
from tests.family_models import small_model


def test_a_run_stops_at_the_first_step_that_asks_and_at_the_last_where_none_does():
    logit = np.array([[[-1.0, 2.0, -1.0], [-1.0, -1.0, -1.0]], [[0.5, -3.0, -3.0], [0.0, 0.0, 1e-9]]])
    correct = np.array([[[0, 1, 0], [1, 1, 0]], [[0, 1, 1], [0, 0, 1]]], bool)
    found = halting(correct, logit)
    assert found["steps"]["value"] == (2 + 3 + 1 + 3) / 4
    assert found["exact"]["value"] == 0.5 and found["halted"]["value"] == 0.75
    assert found["steps"]["low"] < found["steps"]["value"] < found["steps"]["high"]
    assert found["steps"]["low"] >= 1, "every run makes its first step"
    alone = halting(correct[:1], logit[:1])["steps"]
    assert alone == {"value": 2.5, "low": None, "high": None}


@pytest.mark.parametrize("name", ["eqr", "trm mlp", "hrm", "urm"])
def test_every_family_halts_by_the_rule_of_its_training(name):
    """The same by hand: one step after the other, HRM against its logit of continuing, the others against 0."""
    model = small_model(name, vocab_size=8, seq_len=36, noise_scale=0.0, board=None)
    with torch.no_grad():
        model.q_head.weight.mul_(3)
    puzzles = bundled("sudoku6").take(slice(12))
    found = measure(model, puzzles, depth=5, restarts=1, noise=0)["halting"]
    x = model.encode(torch.as_tensor(puzzles.inputs))
    if model.random_starts:
        assert 1 <= found["steps"]["value"] <= 5
        return
    z, stopped = model.initial(x), torch.full((12,), 5)
    for step in range(1, 6):
        with torch.no_grad():
            z = model.step(z, x)
            q = model.q_values(z)
        asks = q[:, 0] > (q[:, 1] if name == "hrm" else 0)
        stopped = torch.where(asks & (stopped == 5), step, stopped)
    assert found["steps"]["value"] == pytest.approx(float(stopped.float().mean()))
    assert stopped.min() < 5, "some run halts"
    plain = small_model(name, vocab_size=8, seq_len=36, noise_scale=0.0, board=None)
    assert plain.halt_logit.__func__ is type(plain).halt_logit


def test_evaluate_says_accuracy_and_steps_with_halting(tmp_path):
    save(
        small_model("trm mlp", vocab_size=8, seq_len=36, noise_scale=0.0, board=None),
        tmp_path / "m.safetensors",
    )
    run = lambda *more: CliRunner().invoke(
        cli,
        ["evaluate", str(tmp_path / "m.safetensors"), "--puzzles", str(puzzle_file), "--depth", "4", *more],
    )
    puzzle_file = tmp_path / "p.csv"
    rows = bundled("sudoku6").take(slice(3))
    write_csv(puzzle_file, rows)
    told = json.loads(run("--json").output)["halting"]
    assert set(told) == {"exact", "steps", "halted"}
    assert "of 4 steps" in run().output
