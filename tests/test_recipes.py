"""Recipes of the families: what carries gradient, what the halting head learns, when rows end; all of it resumable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eqrlab.core.checkpoints.tensors import read_tensors, write_tensors
from eqrlab.core.training.accuracy import exact_accuracy
from eqrlab.core.training.losses import exact, stablemax_cross_entropy
from eqrlab.core.training.objective import (
    SegmentLoss,
    TrainConfig,
    continuation_value,
    halted_rows,
    recipe,
    rollout,
    segment,
    segment_loss,
)
from eqrlab.core.training.trainer import Trainer
from tests.core_models import tokens
from tests.family_models import SMOOTH, VARIANTS, small_model

PLAN = {"vocab_size": 5, "seq_len": 4, "hidden_size": 16, "num_heads": 2, "expansion": 1.0}


def puzzles(n=40, seed=0):
    """Rows of four tokens whose solution is the row reversed."""
    inputs = np.random.default_rng(seed).integers(1, 5, (n, 4))
    return inputs, inputs[:, ::-1].copy()


def trainer(family="eqr", model=None, data=None, **changes):
    steps = {} if family == "feedforward" else {"halt_max_steps": 4}
    config = recipe(family, **{"steps": 40, "batch_size": 8, "warmup": 5, "ema": 0.9, **changes})
    return Trainer(family, {**PLAN, **steps, **(model or {})}, "toy", *(data or puzzles()), config)


def gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def equal(one, other, rtol=1e-11):
    return one.keys() == other.keys() and all(
        torch.allclose(one[k], other[k], rtol=rtol, atol=1e-15) for k in one
    )


# What carries gradient ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in SMOOTH if "prefix" not in n])
def test_a_segment_is_the_outer_step_and_only_its_last_updates_carry_gradient(name):
    cycles = {} if "feedforward" in name else {"H_cycles": 3, "L_cycles": 2}
    model = small_model(name, **cycles).double()
    x = model.encode(tokens(3, model))
    z = model.random_initial(x, torch.Generator().manual_seed(0)).requires_grad_()
    u = torch.randn_like(z)
    out = segment(model, z, x, None)
    assert torch.allclose(out, model.step(z, x), rtol=0, atol=1e-14)
    got = gradients(model, (out * u).sum())
    assert z.grad is None, "no gradient reaches the state that came in"
    free = (
        len(model.schedule)
        - {"eqr": 3, "trm": 3, "hrm": 2, "urm": 2, "tied": 2, "feedforward": 1}[model.family]
    )
    streams = z.detach().unbind(1)
    for i, level in enumerate(model.schedule):
        if i < free:
            streams = tuple(s.detach() for s in model.update(streams, x.detach(), level, None))
        else:
            streams = model.update(streams, x, level, None)
    assert equal(got, gradients(model, (torch.stack(streams, 1) * u).sum()))
    if free:
        assert not equal(got, gradients(model, (model.step(z, x) * u).sum()), rtol=1e-3)


def test_hrm_sends_gradient_through_one_update_of_each_level():
    model = small_model("hrm").double()
    x = model.encode(tokens(3, model)).detach()
    z = segment(model, model.initial(x), x, None)
    by_hand = model.initial(x).unbind(1)
    with torch.no_grad():
        for level in ("L", "L", "H", "L"):
            by_hand = model.update(by_hand, x, level, None)
    z_L = model.L_level(by_hand[1] + by_hand[0] + x)
    z_H = model.H_level(by_hand[0] + z_L)
    assert torch.allclose(z, torch.stack((z_H, z_L), 1), rtol=0, atol=1e-14)
    assert equal(gradients(model, z[:, 0].sum()), gradients(model, z_H.sum()))


# The objective ------------------------------------------------------------------------------------------------------


def judged_model(name, **changes):
    """Return a model, a segment's end, its context, labels and segments taken."""
    model = small_model(name, halt_max_steps=4, **changes).double()
    x = model.encode(tokens(6, model))
    z = segment(model, model.random_initial(x, torch.Generator().manual_seed(0)), x, None)
    labels = tokens(6, model, seed=1).clamp(min=1)
    labels[:2] = model.decode(z, x)[:2].clamp(min=1)
    return model, z, x, labels, torch.tensor([1, 2, 3, 4, 4, 1])


@pytest.mark.parametrize("name", ["eqr", "trm mlp prefix", "urm", "tied mlp"])
def test_the_halting_logit_is_trained_against_present_correctness(name):
    model, z, x, labels, taken = judged_model(name)
    judged = segment_loss(model, z, x, labels, taken, TrainConfig(halt_weight=0.7), None)
    logits, q = model.logits(z, x), model.q_values(z)[:, 0]
    right = exact(logits, labels)
    by_hand = F.binary_cross_entropy_with_logits(q.float(), right.float(), reduction="none")
    assert torch.allclose(judged.loss, stablemax_cross_entropy(logits, labels) + 0.7 * by_hand)
    assert torch.equal(judged.right, right) and torch.equal(judged.margin, q.detach())
    model.zero_grad()
    judged.loss.sum().backward()
    assert model.q_head.weight.grad[0].abs().max() > 0 and model.q_head.weight.grad[1].abs().max() == 0


def test_hrm_also_trains_the_continuation_logit_towards_the_value_of_one_more_step():
    model, z, x, labels, taken = judged_model("hrm")
    judged = segment_loss(model, z, x, labels, taken, TrainConfig(), None)
    with torch.no_grad():
        halt, go_on = model.q_values(model.step(z, x)).unbind(1)
    target = torch.tensor([halt[i] if taken[i] == 4 else max(halt[i], go_on[i]) for i in range(6)]).sigmoid()
    assert torch.allclose(continuation_value(model, z, x, taken, None), target.double())
    assert (go_on > halt)[taken < 4].any() and (go_on > halt)[taken == 4].any(), "both cases must be met"
    q = model.q_values(z).float()
    both = F.binary_cross_entropy_with_logits(q[:, 0], judged.right.float(), reduction="none")
    both = both + F.binary_cross_entropy_with_logits(q[:, 1], target.float(), reduction="none")
    assert torch.allclose(judged.loss, stablemax_cross_entropy(model.logits(z, x), labels) + 0.5 * both)
    assert torch.equal(judged.margin, (model.q_values(z)[:, 0] - model.q_values(z)[:, 1]).detach())
    model.zero_grad()
    judged.loss.sum().backward()
    assert model.q_head.weight.grad.abs().amax(1).min() > 0


@pytest.mark.parametrize("name", ["eqr", "hrm", "feedforward mlp"])
@pytest.mark.parametrize("halting", ["off", "oracle"])
def test_without_learned_halting_the_loss_is_the_cross_entropy_alone(name, halting):
    changes = {"halt_max_steps": 1} if "feedforward" in name else {}
    model = small_model(name, **changes)
    x = model.encode(tokens(3, model))
    labels = tokens(3, model, seed=1)
    z = model.random_initial(x)
    judged = segment_loss(model, z, x, labels, torch.ones(3), TrainConfig(halting=halting), None)
    assert torch.equal(judged.loss, stablemax_cross_entropy(model.logits(z, x), labels))


# When rows end ------------------------------------------------------------------------------------------------------


def ended(name, halting, margin, right, taken, **changes):
    model = small_model(name, halt_max_steps=4, **changes)
    judged = SegmentLoss(torch.zeros(len(taken)), torch.tensor(right), torch.tensor(margin))
    config = TrainConfig(halting=halting)
    return halted_rows(model, judged, torch.tensor(taken), config, torch.Generator().manual_seed(0)).tolist()


def test_rows_end_by_the_learned_head_by_the_oracle_or_by_their_last_segment():
    margin, right, taken = [1.0, -1.0, 1.0, -1.0], [False, True, True, False], [1, 1, 4, 4]
    assert ended("eqr", "learned", margin, right, taken, halt_exploration=0.0) == [True, False, True, True]
    assert ended("eqr", "oracle", margin, right, taken) == [False, True, True, True]
    assert ended("eqr", "off", margin, right, taken) == [False, False, True, True]


def test_exploration_concerns_learned_halting_only():
    many = 200
    right, margin = [True] * many, [1.0] * many
    assert not any(ended("eqr", "learned", margin, right, [1] * many, halt_exploration=1.0))
    assert all(ended("eqr", "oracle", margin, right, [1] * many, halt_exploration=1.0))


# Schedules ----------------------------------------------------------------------------------------------------------


def test_schedules_say_which_outer_steps_carry_a_loss():
    off = {"halting": "off"}
    assert rollout(TrainConfig(), 16) == (1, range(1, 2))
    assert rollout(TrainConfig(supervision="terminal", **off), 16) == (16, range(16, 17))
    assert rollout(TrainConfig(supervision="anchors", **off), 16) == (16, range(1, 17))
    assert rollout(TrainConfig(supervision="anchors", anchors=(12, 16), **off), 16) == (16, range(12, 17))
    with pytest.raises(ValueError, match="anchors must lie within halt_max_steps 4, got 12 to 16"):
        trainer(supervision="anchors", anchors=(12, 16), **off)


@pytest.mark.parametrize(
    ("schedule", "anchors"),
    [
        ({"supervision": "terminal"}, [4]),
        ({"supervision": "anchors"}, [1, 2, 3, 4]),
        ({"supervision": "anchors", "anchors": (2, 3)}, [2, 3]),
    ],
)
@pytest.mark.parametrize("family", ["eqr", "tied", "hrm"])
def test_a_rollout_averages_the_gradients_of_its_anchors(family, schedule, anchors, monkeypatch):
    t = trainer(family, {"noise_scale": 0.0}, dtype="float64", halting="off", **schedule)
    t.model.double()
    seen = {}
    monkeypatch.setattr(t, "_descend", lambda: seen.update(gradients_of(t.model)))
    record = t.step()
    x = t.model.encode(t.inputs)
    t.generator.manual_seed(t.config.seed + 1)
    z = t.model.initial(x.detach(), t.generator)
    loss = 0
    for step in range(1, 5):
        z = segment(t.model, z, x, None)
        if step in anchors:
            loss = loss + stablemax_cross_entropy(t.model.logits(z, x), t.labels).mean() / len(anchors)
    assert record["loss"] == pytest.approx(loss.item()) and record["segments"] == 4 and record["halted"] == 8
    assert equal(seen, gradients(t.model, loss), rtol=1e-8)
    assert t.halted.all() and torch.allclose(t.z, z)


def gradients_of(model):
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return got


def test_segments_without_halting_are_all_taken():
    t = trainer("tied", halting="off")
    assert [t.step()["halted"] for _ in range(8)] == [0, 0, 0, 8] * 2


def test_a_feedforward_model_meets_fresh_puzzles_at_every_step():
    t = trainer("feedforward")
    for _ in range(3):
        before = t.inputs.clone()
        assert t.step()["halted"] == 8 and not torch.equal(t.inputs, before)
    assert t.config.halting == "off"


def test_recipes_are_those_of_the_families_own_trainers():
    assert recipe("hrm").ema == 0.0 and recipe("hrm", ema=0.5).ema == 0.5
    assert recipe("eqr") == recipe("trm") == recipe("urm") == TrainConfig()
    assert trainer("hrm", ema=0.0).config.ema == 0.0


def test_without_averaging_the_last_weights_are_the_result():
    t = trainer("hrm", ema=0.0)
    t.step(), t.step()
    state = t.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in t.ema.state_dict().items())


# The prefix ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["trm", "hrm", "urm", "eqr"])
def test_the_prefix_moves_by_the_sign_of_its_gradient_and_decays(family):
    t = trainer(family, {"prefix_len": 1, "prefix_dim": 16}, warmup=0, weight_decay=0.5, lr=0.01)
    assert t.ema.embed_tokens.prefix.count_nonzero() == 0
    t.step()
    rate = 0.01
    assert torch.allclose(t.prefix.abs(), torch.full((16,), rate), rtol=1e-2)
    before = t.prefix.detach().clone()
    t.step()
    moved = t.prefix.detach() - before * (1 - t.optimizer.param_groups[0]["lr"] * 0.5)
    assert torch.allclose(moved.abs(), torch.full((16,), t.optimizer.param_groups[0]["lr"]), rtol=1e-3)
    assert torch.equal(t.ema.embed_tokens.prefix, t.prefix) and t.prefix.grad is None
    assert not t.result().embed_tokens.prefix.requires_grad


# Whole runs ---------------------------------------------------------------------------------------------------------

RUNS = {
    "eqr": {},
    "trm": {"model": {"prefix_len": 2, "prefix_dim": 16}},
    "hrm": {"model": {"prefix_len": 1, "prefix_dim": 16}},
    "urm": {},
    "tied": {},
    "feedforward": {},
    "tied terminal": {"supervision": "terminal", "halting": "off"},
    "trm anchors": {"supervision": "anchors", "anchors": (2, 4), "halting": "off"},
    "eqr oracle": {"halting": "oracle", "model": {"noise_scale": 0.01}},
    "hrm noise": {"model": {"noise_scale": 0.01}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_continued_run_is_the_uninterrupted_one(name, tmp_path):
    whole, first, second = (trainer(name.split()[0], **RUNS[name]) for _ in range(3))
    for _ in range(7):
        whole.step(), first.step()
    first.save_state(tmp_path / "state.safetensors")
    second.load_state(tmp_path / "state.safetensors")
    for _ in range(7):
        assert repr(second.step()) == repr(whole.step())
    for one, other in ((whole.model, second.model), (whole.ema, second.ema)):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    assert torch.equal(whole.generator.get_state(), second.generator.get_state())


@pytest.mark.parametrize("family", ["trm", "hrm", "urm", "tied", "feedforward"])
def test_states_may_be_bfloat16_in_training(family):
    t = trainer(family, {"prefix_len": 1, "prefix_dim": 16}, dtype="bfloat16")
    for _ in range(3):
        assert t.step()["loss"].isfinite()
    assert t.z.dtype == torch.bfloat16 and t.model.dtype == t.prefix.dtype == torch.float32


def test_a_state_from_before_an_option_existed_continues_with_its_default(tmp_path):
    t = trainer()
    t.step()
    path = tmp_path / "state.safetensors"
    t.save_state(path)
    tensors, header = read_tensors(path)
    for name in ("supervision", "anchors", "halting"):
        del header["train"][name]
    write_tensors(path, tensors, header)
    later = trainer()
    later.load_state(path)
    assert later.step_count == 1
    with pytest.raises(ValueError, match=r"train\.halting learned there, off here"):
        trainer(halting="off").load_state(path)


@pytest.mark.parametrize("name", ["trm", "hrm", "urm", "tied", "feedforward", "tied terminal"])
def test_a_tiny_task_is_learned(name):
    copied = puzzles()[0], puzzles()[0]
    run = dict(RUNS[name])
    family = name.split()[0]
    model = {"mixer": "attention", "positions": "rope", **run.pop("model", {})}
    t = trainer(
        family, model, copied, steps=150, batch_size=16, lr=3e-3, weight_decay=0.0, **{**run, "ema": 0.8}
    )
    depth = t.model.config.halt_max_steps
    before = exact_accuracy(t.ema, *copied, depth)
    for _ in range(150):
        t.step()
    assert before < 0.2 and exact_accuracy(t.ema, *copied, depth) > 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supervision": "bptt"}, "supervision 'bptt' unknown; choose from sot, terminal, anchors"),
        ({"halting": "on"}, "halting 'on' unknown; choose from learned, off, oracle"),
        ({"supervision": "terminal"}, "runs every row to its end: halting must be 'off', got 'learned'"),
        ({"anchors": (1, 2)}, "anchors must be two steps, 1 <= first <= last, for supervision 'anchors'"),
        ({"supervision": "anchors", "halting": "off", "anchors": (3, 2)}, "1 <= first <= last"),
        ({"supervision": "anchors", "halting": "off", "anchors": (0, 2)}, "1 <= first <= last"),
        ({"supervision": "anchors", "halting": "off", "anchors": (1, 2, 3)}, "1 <= first <= last"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError) as caught:
        TrainConfig(**changes)
    assert message in str(caught.value)


def test_every_family_has_a_run_here():
    assert {name.split()[0] for name in RUNS} == {family for family, _ in VARIANTS.values()}
