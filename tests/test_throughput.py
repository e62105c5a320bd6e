"""Operations counted by hand, rates measured, and what the log says of them."""

from __future__ import annotations

import json

import pytest
import torch

from eqrlab.core.models.config import inner_width
from eqrlab.core.training import trainer as training
from eqrlab.core.training.throughput import matmul_rate, step_operations
from eqrlab.core.training.trainer import train
from tests.test_recipes import trainer as family_trainer
from tests.test_train import trainer


def level_operations(config):
    """Forward operations of one level call of one row."""
    length, width = config.positions_total, config.hidden_size
    channels = 3 * 2 * length * width * inner_width(width, config.expansion)
    if config.mixer == "mlp":
        mixing = 3 * 2 * width * length * inner_width(length, config.expansion)
    else:
        mixing = 4 * 2 * length * width * width + 2 * 2 * length * length * width
    return config.layers * (channels + mixing)


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_operations_are_those_of_all_calls_forward_and_of_the_last_cycle_backward(mixer):
    t = trainer({"mixer": mixer, "layers": 2, "H_cycles": 3, "L_cycles": 2})
    c = t.model.config
    calls, trained = 9, 3
    level = level_operations(c)
    heads = 3 * 2 * c.hidden_size * (c.seq_len * c.vocab_size + 2)  # forward, and both products backward
    embedded = 0  # a look-up
    per_row = level * (calls + 2 * trained) + heads + embedded
    assert step_operations(t.model, t.config) == pytest.approx(per_row * t.config.batch_size, rel=0.02)
    assert step_operations(t.model, t.config) == step_operations(t.model, t.config)


@pytest.mark.parametrize("family", ["trm", "hrm", "urm", "tied", "feedforward"])
def test_operations_can_be_counted_for_every_family_without_changing_the_run(family):
    t = family_trainer(family)
    before = {k: v.clone() for k, v in t.model.state_dict().items()}
    assert step_operations(t.model, t.config) > 0
    assert all(torch.equal(before[k], v) for k, v in t.model.state_dict().items())
    assert all(p.grad is None for p in t.model.parameters())


def test_a_long_rollout_counts_every_step_and_only_anchored_ones_backward():
    one, rolled = (
        step_operations(t.model, t.config)
        for t in (trainer(), trainer(supervision="terminal", halting="off"))
    )
    c = trainer().model.config
    forward = level_operations(c) * c.H_cycles * (c.L_cycles + 1) * 8
    assert rolled == pytest.approx(one + (c.halt_max_steps - 1) * forward, rel=0.05)


def test_the_rate_of_this_processor_is_within_reason():
    rate = matmul_rate(trainer().model, trainer().config)
    assert 1e6 < rate < 1e15


def test_lines_of_the_log_say_tokens_and_the_share_of_the_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    monkeypatch.setattr(training, "matmul_rate", lambda model, config: 1e9)
    t = trainer(steps=10)
    list(train(t, tmp_path, throughput=True))
    for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()):
        speed = line["steps_per_second"]
        assert line["tokens_per_second"] == pytest.approx(speed * 8 * 4)
        assert line["matmul_share"] == pytest.approx(speed * step_operations(t.model, t.config) / 1e9)
