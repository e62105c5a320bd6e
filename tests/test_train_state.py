"""Compact states: what they keep exactly, what they round, and that runs go on from them elsewhere."""

from __future__ import annotations

import pytest
import torch

from eqrlab.analyses.studies.training_recipes import OPTIONS, PAPER, configurations
from eqrlab.core.checkpoints.load import CheckpointError, build, load
from eqrlab.core.training.shards import SHARD_BYTES, write_shards
from eqrlab.core.training.state import pack
from eqrlab.core.training.trainer import exact_accuracy, train
from tests.test_train import puzzles, same, trainer, weights

MIB = 1 << 20


def moved(moves=13, **changes):
    t = trainer(**changes)
    for _ in range(moves):
        t.step()
    return t


def test_a_compact_state_keeps_weights_and_randomness_and_rounds_the_rest(tmp_path):
    first, second = moved(), trainer()
    first.save_state(tmp_path / "state", compact=True)
    second.load_state(tmp_path / "state")
    assert same(dict(first.model.state_dict()), dict(second.model.state_dict()))
    assert second.step_count == 13 and torch.equal(first.window, second.window)
    for one, other in ((first.generator, second.generator), (first.data.generator, second.data.generator)):
        assert torch.equal(one.get_state(), other.get_state())
    assert torch.equal(first.data.order, second.data.order) and first.data.position == second.data.position
    for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert second.optimizer.state[q]["step"] == 13
        for key in ("exp_avg", "exp_avg_sq"):
            exact, rounded = first.optimizer.state[p][key], second.optimizer.state[q][key]
            assert ((rounded - exact).abs() <= exact.abs() * 2**-8).all() and not torch.equal(exact, rounded)
    for name, average in first.ema.state_dict().items():
        weight, rounded = first.model.state_dict()[name], second.ema.state_dict()[name]
        bound = (average - weight).abs() * 2**-8 + average.abs() * 2**-22
        assert ((rounded - average).abs() <= bound).all()
    assert second.halted.all(), "rows under way are not kept"


def test_runs_in_compact_slots_learn_as_an_uninterrupted_one_does(tmp_path):
    """Ten slots of twelve steps, each taken up by a fresh trainer, beside all steps at once, and none."""
    data, options = (puzzles()[0],) * 2, {"batch_size": 16, "lr": 3e-3, "weight_decay": 0.0, "ema": 0.8}
    options |= {"model": {"mixer": "attention"}, "data": data, "steps": 120}
    whole, t = moved(120, **options), trainer(**options)
    before = exact_accuracy(t.ema, *data, depth=4)
    for slot in range(10):
        for _ in range(12):
            t.step()
        t.save_state(tmp_path / "state", compact=True)
        t = trainer(**options)
        t.load_state(tmp_path / "state")
        assert t.step_count == 12 * (slot + 1)
    accuracy = [exact_accuracy(one.ema, *data, depth=4) for one in (t, whole)]
    assert before < 0.2 and min(accuracy) > 0.9


def test_a_slot_that_is_saved_and_taken_up_twice_gives_the_same_run(tmp_path):
    first = moved(9)
    first.save_state(tmp_path / "state", compact=True)
    runs = [trainer(), trainer()]
    for t in runs:
        t.load_state(tmp_path / "state")
        for _ in range(5):
            t.step()
    assert same(weights(runs[0]), weights(runs[1]))


def test_the_first_step_after_a_compact_state_moves_weights_as_the_exact_moments_would(tmp_path):
    exact, rounded = moved(), trainer()
    exact.save_state(tmp_path / "state", compact=True)
    rounded.load_state(tmp_path / "state")
    before = [p.detach().clone() for p in exact.model.parameters()]
    torch.manual_seed(0)
    for p, q in zip(exact.model.parameters(), rounded.model.parameters(), strict=True):
        p.grad = torch.randn_like(p) * 1e-3
        q.grad = p.grad.clone()
    for t in (exact, rounded):
        t.optimizer.param_groups[0]["lr"] = 1e-3
        t.optimizer.step()
    for p, q, old in zip(exact.model.parameters(), rounded.model.parameters(), before, strict=True):
        assert ((p - q).abs().max() / 1e-3) < 2**-7 and (p - old).abs().max() > 1e-5


def test_a_compact_run_leaves_a_model_in_bfloat16_and_small_files(tmp_path):
    list(train(trainer(steps=6), tmp_path / "run", save_every=3, compact=True))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["log.jsonl", "model.safetensors", "state"]
    assert load(tmp_path / "run" / "model.safetensors").dtype == torch.bfloat16
    t = trainer(steps=6)
    t.load_state(tmp_path / "run" / "state")
    assert t.step_count == 6


def test_a_compact_state_of_another_kind_of_device_starts_new_random_numbers(tmp_path):
    t = moved()
    tensors, header = pack(t, compact=True)
    write_shards(tmp_path / "a", tensors, {**header, "device": "cuda"})
    one, other = trainer(), trainer()
    for taken in (one, other):
        taken.load_state(tmp_path / "a")
    assert one.step_count == 13 and same(dict(one.model.state_dict()), dict(t.model.state_dict()))
    assert torch.equal(one.generator.get_state(), other.generator.get_state())
    assert not torch.equal(one.generator.get_state(), t.generator.get_state())
    one.step()
    tensors, header = pack(t, compact=False)
    write_shards(tmp_path / "b", tensors, {**header, "device": "cuda"})
    with pytest.raises(
        CheckpointError, match=r"was saved on cuda, .* only a compact state can change devices"
    ):
        trainer().load_state(tmp_path / "b")


def test_compact_states_of_other_runs_or_without_a_part_are_refused(tmp_path):
    tensors, header = pack(moved(2), compact=True)
    write_shards(tmp_path, tensors, header)
    with pytest.raises(CheckpointError, match=r"train.seed 0 there, 1 here"):
        trainer(seed=1).load_state(tmp_path)
    for missing in ("ema.q_head.bias", "exp_avg.q_head.bias", "stream.order", "generator"):
        write_shards(tmp_path, {k: v for k, v in tensors.items() if k != missing}, header)
        with pytest.raises(CheckpointError, match=r"lacks|is missing|is damaged"):
            trainer().load_state(tmp_path)
    write_shards(tmp_path, tensors, {**header, "training_state": 1})
    with pytest.raises(CheckpointError, match="version 1, 2 is required"):
        trainer().load_state(tmp_path)


@pytest.mark.parametrize(("name", "task", "family"), [key for key in PAPER if key[1:] != ("maze30", "trm")])
def test_the_state_and_model_of_a_paper_size_run_fit_into_few_small_files(name, task, family):
    empty = {**dict.fromkeys(OPTIONS), "box_gap": False, "family": family, "preset": name}
    model, _ = configurations(task, empty, "cpu")
    with torch.device("meta"):
        size = sum(p.numel() for p in build(family, model, task).parameters())
    kept = 10 * size + 2 * size + 100_000  # state, model, lists
    assert kept < 62 * MIB and -(-10 * size // SHARD_BYTES) <= 4
    assert SHARD_BYTES + 30_000 < 16 * MIB
