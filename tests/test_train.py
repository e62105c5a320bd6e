"""Training: gradients, halting and averages as stated, and a run that continues as if it had never been killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eqrlab.core import CheckpointError, EqRConfig, load
from eqrlab.core.training import trainer as training
from eqrlab.core.training.accuracy import exact_accuracy
from eqrlab.core.training.objective import SegmentLoss, halted_rows, learning_rate, segment
from eqrlab.core.training.trainer import TrainConfig, Trainer, train
from tests.core_models import small_eqr, tokens

MODEL = {
    "vocab_size": 5,
    "seq_len": 4,
    "hidden_size": 16,
    "num_heads": 2,
    "expansion": 1.0,
    "halt_max_steps": 4,
}
TIMING = "steps_per_second"


def puzzles(n=40, seed=0):
    """Rows of four tokens whose solution is the row reversed."""
    inputs = np.random.default_rng(seed).integers(1, 5, (n, 4))
    return inputs, inputs[:, ::-1].copy()


def swap(inputs, labels, generator):
    """A symmetry a row: renumber the tokens."""
    order = torch.rand((len(inputs), 4), generator=generator).argsort(1) + 1
    order = torch.cat((torch.zeros(len(inputs), 1, dtype=torch.long), order), 1)
    return order.gather(1, inputs), order.gather(1, labels)


def trainer(model=None, augment=swap, data=None, **changes):
    config = TrainConfig(**{"steps": 40, "batch_size": 8, "warmup": 5, **changes})
    return Trainer(
        "eqr", {**MODEL, "noise_scale": 0.01, **(model or {})}, "toy", *(data or puzzles()), config, augment
    )


def weights(t):
    return {**t.model.state_dict(), **{f"ema.{k}": v for k, v in t.ema.state_dict().items()}}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# The objective ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_gradients_are_those_of_the_last_cycle_alone(mixer):
    model = small_eqr(mixer=mixer, H_cycles=3, L_cycles=2).double()
    x = model.encode(tokens(3, model))
    z = model.initial(x, torch.Generator().manual_seed(0)).requires_grad_()
    u = torch.randn_like(z)

    def gradients(state):
        model.zero_grad()
        (state * u).sum().backward(retain_graph=True)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    got = gradients(segment(model, z, x, None))
    assert z.grad is None, "no gradient reaches the state that came in"
    streams = z.detach().unbind(1)
    for level in ("L", "L", "H") * 2:
        streams = tuple(s.detach() for s in model.update(streams, x.detach(), level, None))
    for level in ("L", "L", "H"):
        streams = model.update(streams, x, level, None)
    want = gradients(torch.stack(streams, 1))
    assert got.keys() == want.keys() and "embed_tokens.embedding_weight" in got
    assert all(torch.allclose(got[k], want[k], rtol=1e-12, atol=1e-14) for k in got)
    whole = gradients(model.step(z, x))
    assert any(not torch.allclose(got[k], whole[k], rtol=1e-3) for k in got)
    assert torch.equal(segment(model, z, x, None), model.step(z, x))


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = TrainConfig(steps=110, lr=1.0, warmup=10, lr_min_ratio=0.2)
    assert learning_rate(config, 1) == 0.1 and learning_rate(config, 10) == 1.0
    assert learning_rate(config, 60) == pytest.approx(0.6) and learning_rate(config, 110) == pytest.approx(
        0.2
    )
    assert learning_rate(dataclasses.replace(config, lr_min_ratio=1.0), 90) == 1.0
    assert learning_rate(TrainConfig(steps=1, lr=1.0, warmup=0), 1) == 0.1


def test_averaged_weights_follow_the_weights():
    t = trainer(ema=0.9)
    average = {k: v.clone() for k, v in t.model.state_dict().items()}
    for _ in range(5):
        t.step()
        for name, value in t.model.state_dict().items():
            average[name] = 0.9 * average[name] + 0.1 * value
    assert all(torch.allclose(average[k], v, atol=1e-6) for k, v in t.ema.state_dict().items())
    assert not t.ema.training and not any(p.requires_grad for p in t.ema.parameters())


def halted(t, margin):
    """Return which rows end when the halting head says this."""
    return halted_rows(t.model, SegmentLoss(margin, margin > 99, margin), t.taken, t.config, t.generator)


def test_rows_halt_when_the_head_says_so_or_their_segments_are_used_up():
    t = trainer(model={"halt_exploration": 0.0})
    t.taken = torch.tensor([1, 1, 3, 3, 4, 4, 5, 1])
    ended = halted(t, torch.tensor([-1.0, 2.0, -1.0, 0.1, -9.0, 9.0, -1.0, 0.0]))
    assert ended.tolist() == [False, True, False, True, True, True, True, False]


def test_exploring_rows_take_two_segments_or_more():
    t = trainer(model={"halt_exploration": 1.0}, batch_size=1000)
    shares = []
    for taken in (1, 2, 3, 4):
        t.taken = torch.full((1000,), taken)
        shares.append(halted(t, torch.ones(1000)).double().mean().item())
    assert shares[0] == 0.0 and shares[3] == 1.0
    assert shares[1] == pytest.approx(1 / 3, abs=0.06) and shares[2] == pytest.approx(2 / 3, abs=0.06)


def test_a_single_segment_always_halts():
    t = trainer(model={"halt_max_steps": 1})
    t.step()
    assert t.halted.all()


@pytest.mark.parametrize("sparse", [True, False])
def test_only_halted_rows_get_a_new_puzzle_and_a_new_start(sparse):
    t = trainer()
    t.sparse = sparse  # False: how it is done on an accelerator
    t.step()
    t.halted = torch.tensor([True, False] * 4)
    inputs, labels, z, taken = t.inputs.clone(), t.labels.clone(), t.z.clone(), t.taken.clone()
    t._refill()
    kept = ~t.halted
    for now, before in ((t.inputs, inputs), (t.labels, labels), (t.z, z), (t.taken, taken)):
        assert torch.equal(now[kept], before[kept])
    assert t.taken[t.halted].tolist() == [0] * 4
    assert not torch.isclose(t.z[t.halted], z[t.halted]).flatten(1).all(1).any()
    assert torch.equal(t.inputs[t.halted].flip(1), t.labels[t.halted])


def test_every_puzzle_is_drawn_once_a_pass():
    inputs, labels = puzzles()
    inputs[:, 0] = np.arange(40) % 5
    stream = training.PuzzleStream(np.arange(40)[:, None] + inputs * 0, labels, None, seed=0)
    passes = torch.cat([stream.offer(n)[0][:, 0] for n in (7, 30, 3, 40)]).view(2, 40)
    assert sorted(passes[0].tolist()) == sorted(passes[1].tolist()) == list(range(40))
    assert passes[0].tolist() != passes[1].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_tiny_task_is_learned(dtype):
    copied = puzzles()[0], puzzles()[0]
    t = trainer(
        {"mixer": "attention"},
        data=copied,
        steps=120,
        batch_size=16,
        lr=3e-3,
        weight_decay=0.0,
        ema=0.8,
        dtype=dtype,
    )
    before = exact_accuracy(t.ema, *copied, depth=4)
    for _ in range(120):
        t.step()
    assert before < 0.2 and exact_accuracy(t.ema, *copied, depth=4) > 0.9
    assert t.z.dtype == getattr(torch, dtype) and t.model.dtype == torch.float32


def test_exact_accuracy_counts_solved_puzzles():
    model = small_eqr(**{k: v for k, v in MODEL.items()})
    inputs, labels = puzzles(20)
    accuracy = exact_accuracy(model, inputs, labels, depth=2, batch_size=6)
    assert accuracy == exact_accuracy(model, inputs, labels, depth=2, batch_size=6) and 0 <= accuracy <= 1
    answers = []
    generator = torch.Generator().manual_seed(0)
    for i in range(0, 20, 6):
        x = model.encode(torch.as_tensor(inputs[i : i + 6]))
        z = model.initial(x, generator)
        answers.append(model.decode(model.step(model.step(z, x), x), x))
    assert (
        exact_accuracy(model, inputs, torch.cat(answers).clamp(min=1).numpy(), depth=2, batch_size=6)
        >= accuracy
    )


def test_a_judge_decides_what_is_right_where_there_is_one():
    model, (inputs, labels) = small_eqr(**MODEL), puzzles(20)

    def first_is_odd(given, answers):
        return given[:, 0] % 2 == 1

    odd = (inputs[:, 0] % 2).mean()
    assert exact_accuracy(model, inputs, labels, 2, batch_size=6) != odd
    assert exact_accuracy(model, inputs, labels, 2, batch_size=6, judge=first_is_odd) == odd


def test_a_run_that_diverges_ends_with_a_reason_and_leaves_the_last_sound_files(tmp_path):
    t = trainer(lr=200.0, weight_decay=50.0, warmup=0, steps=400)
    with pytest.raises(ValueError, match=r"training diverged: .* smaller lr than 200"):
        list(train(t, tmp_path, save_every=1))
    assert load(tmp_path / "model.safetensors").provenance["steps"] < t.step_count
    again = trainer(lr=200.0, weight_decay=50.0, warmup=0, steps=400)
    again.load_state(tmp_path / "state.safetensors")
    assert again.step_count == t.step_count - 1
    with pytest.raises(ValueError, match="training diverged"):
        t.result()


# Reproducibility ----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    state = torch.get_rng_state()
    runs = [trainer(seed=s) for s in (3, 3, 4)]
    torch.rand(5)  # the global state does not matter
    for t in runs:
        for _ in range(6):
            t.step()
    assert same(weights(runs[0]), weights(runs[1])) and not same(weights(runs[0]), weights(runs[2]))
    torch.set_rng_state(state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_continued_run_is_the_uninterrupted_one(dtype, tmp_path):
    whole = trainer(dtype=dtype)
    first, second = trainer(dtype=dtype), trainer(dtype=dtype)
    for _ in range(13):
        whole.step(), first.step()
    first.save_state(tmp_path / "state.safetensors")
    second.load_state(tmp_path / "state.safetensors")
    assert second.step_count == 13 and torch.equal(second.window, whole.window)
    for _ in range(13):
        assert repr(second.step()) == repr(whole.step())
    assert same(weights(whole), weights(second))
    assert torch.equal(whole.generator.get_state(), second.generator.get_state())


def test_what_a_run_leaves_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 10)
    test = puzzles(16, seed=1)
    records = list(train(trainer(), tmp_path / "run", test=test, evaluate_every=20, save_every=15, depth=2))
    assert len(records) == 40 and {"loss", "exact", "segments", "halted"} <= set(records[0])
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "log.jsonl",
        "model.safetensors",
        "state.safetensors",
    ]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [10, 20, 30, 40]
    assert ["test_exact" in r for r in log] == [False, True, False, True]
    assert log[0]["loss"] == pytest.approx(np.mean([r["loss"] for r in records[:10]]))
    solved = sum(float(r["exact"] * r["halted"]) for r in records[:10] if r["halted"])
    assert log[0]["train_exact"] == pytest.approx(solved / sum(r["halted"] for r in records[:10]))
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.provenance["steps"] == 40 and model.provenance["train"]["batch_size"] == 8
    assert model.task == "toy" and model.provenance["puzzles"] == 40
    assert exact_accuracy(model, *test, 2) == log[-1]["test_exact"]


def test_models_on_the_way_are_kept_and_change_nothing(tmp_path):
    """Each is the averaged model of its step; the last is the result, the same as without."""
    for _ in train(trainer(), tmp_path / "plain"):
        pass
    unfinished = tmp_path / "run" / ".model-000030.safetensors.0123abcd.tmp"  # of a run killed while it wrote
    unfinished.parent.mkdir()
    unfinished.touch()
    on_the_way, t = {}, trainer()
    for record, _ in enumerate(train(t, tmp_path / "run", keep_every=15), 1):
        on_the_way[record] = {k: v.clone() for k, v in t.ema.state_dict().items()}
    kept = sorted(p.name for p in (tmp_path / "run").glob("model-*"))
    assert kept == ["model-000015.safetensors", "model-000030.safetensors", "model-000040.safetensors"]
    models = [load(tmp_path / "run" / name) for name in kept]
    assert [m.provenance["steps"] for m in models] == [15, 30, 40]
    assert all(same(m.state_dict(), on_the_way[s]) for m, s in zip(models, (15, 30, 40), strict=True))
    last, plain = load(tmp_path / "run" / "model.safetensors"), load(tmp_path / "plain" / "model.safetensors")
    assert same(models[-1].state_dict(), last.state_dict()) and same(last.state_dict(), plain.state_dict())
    assert not same(models[0].state_dict(), last.state_dict()) and not unfinished.exists()


def without_timing(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != TIMING} for line in lines]


def test_a_stopped_run_leaves_log_and_weights_as_if_it_had_gone_on(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 10)
    options = {"test": puzzles(16, seed=1), "evaluate_every": 15, "save_every": 10, "depth": 2}
    list(train(trainer(), tmp_path / "whole", **options))
    t, run = trainer(), tmp_path / "parts"
    for stops in (7, 23, 24, 36, 99):
        for _ in train(t, run, stop=lambda t=t, stops=stops: t.step_count >= stops, **options):
            pass
        t = trainer()
        t.load_state(run / "state.safetensors")
    assert t.step_count == 40
    (run / "model.safetensors").unlink()  # as if killed after the last state, before the last model
    assert list(train(t, run, **options)) == []
    assert without_timing(run / "log.jsonl") == without_timing(tmp_path / "whole" / "log.jsonl")
    assert same(load_file(run / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))


SCRIPT = """
import sys
import torch
from eqrlab.core.training import trainer as training
from tests.test_train import puzzles, trainer
torch.set_num_threads(1)
training.LOG_EVERY = 5
t = trainer(steps=60)
run = sys.argv[1]
if sys.argv[2:]:
    t.load_state(run + "/state.safetensors")
for record in training.train(t, run, test=puzzles(16, seed=1), evaluate_every=20, save_every=2, depth=2):
    print(t.step_count, flush=True)
"""


def test_a_run_killed_at_random_moments_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 5)
    options = {"test": puzzles(16, seed=1), "evaluate_every": 20, "save_every": 2, "depth": 2}
    list(train(trainer(steps=60), tmp_path / "whole", **options))
    run, moments, killed = tmp_path / "killed", random.Random(time.time_ns()), 0
    for steps in (*(moments.randint(3, 17) for _ in range(3)), 1000):
        resume = ["resume"] if (run / "state.safetensors").exists() else []
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(run), *resume]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()) as process:
            for count, _ in enumerate(process.stdout, start=1):
                if count >= steps:
                    time.sleep(moments.random() * 0.03)  # within a step, or while a file is written
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    break
        assert process.returncode in (0, -signal.SIGKILL)
    assert killed == 3 and process.returncode == 0
    assert same(load_file(run / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))
    assert without_timing(run / "log.jsonl") == without_timing(tmp_path / "whole" / "log.jsonl")
    states = [load_file(folder / "state.safetensors") for folder in (run, tmp_path / "whole")]
    assert same(*states)


def test_a_finished_run_that_is_extended_learns_on_with_the_step_size_of_the_longer_run(tmp_path):
    short, path = trainer(steps=6), tmp_path / "state.safetensors"
    for _ in range(6):
        short.step()
    short.save_state(path)
    with pytest.raises(CheckpointError, match=r"train\.steps 6 there, 10 here"):
        trainer(steps=10).load_state(path)
    longer, rates = trainer(steps=10), []
    longer.load_state(path, extend=True)
    assert same(weights(longer), weights(short)) and torch.equal(longer.z, short.z)
    for _ in range(4):
        longer.step()
        rates.append(longer.optimizer.param_groups[0]["lr"])
    assert rates == [learning_rate(longer.config, k) for k in (7, 8, 9, 10)]
    assert longer.result().provenance["extended"] == [{"step": 6, "steps": 6}]
    longer.save_state(path)
    again = trainer(steps=10)
    again.load_state(path)
    assert again.extended == [{"step": 6, "steps": 6}] and again.step_count == 10
    shorter = trainer(steps=9)
    with pytest.raises(CheckpointError, match="at step 10 already, beyond the 9 steps asked for"):
        shorter.load_state(path, extend=True)
    assert shorter.step_count == 0 and "extended" not in shorter.result().provenance


# Misuse -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path):
    t = trainer()
    for _ in range(3):
        t.step()
    path = tmp_path / "state.safetensors"
    t.save_state(path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lr": 1e-3, "seed": 1},
            r"other settings: train.lr 0.002 there, 0.001 here; train.seed 0 there, 1 here",
        ),
        ({"model": {"damping": 0.1}}, "model.damping 0.05 there, 0.1 here"),
        ({"model": {"hidden_size": 32}}, "model.hidden_size 16 there, 32 here"),
        ({"data": puzzles(seed=5)}, "data_sha256"),
        ({"batch_size": 4}, "train.batch_size 8 there, 4 here"),
    ],
)
def test_continuing_with_other_settings_names_those_that_differ(change, message, state):
    t = trainer(**change)
    before = weights(t)
    before = {k: v.clone() for k, v in before.items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        t.load_state(state)
    assert str(caught.value).startswith(str(state)) and "\n" not in str(caught.value)
    assert same(weights(t), before) and t.step_count == 0


def test_a_damaged_state_is_refused(state):
    content = state.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"", content[:-9] + b"\x01" + content[-8:]):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"not a readable safetensors file|the file is damaged"):
            trainer().load_state(state)


def test_a_state_without_one_of_its_parts_is_refused(state):
    from eqrlab.core.checkpoints.tensors import read_tensors, write_tensors

    tensors, header = read_tensors(state)
    for part in (
        "rows.z",
        "generator",
        "exp_avg.q_head.bias",
        "exp_avg_sq.q_head.bias",
        "model.q_head.bias",
        "ema.q_head.bias",
    ):
        write_tensors(state, {k: v for k, v in tensors.items() if k != part}, header)
        with pytest.raises(CheckpointError, match=r"lacks|has no valid|is missing"):
            trainer().load_state(state)
    for part, value in (("stream", {}), ("stream", None), ("step", "x"), ("window", 3)):
        write_tensors(state, tensors, {**header, part: value})
        with pytest.raises(CheckpointError, match="the training state is damaged"):
            trainer().load_state(state)


def test_a_model_is_no_training_state_and_the_reverse(state, tmp_path):
    list(train(trainer(steps=2), tmp_path / "run"))
    with pytest.raises(CheckpointError, match="holds a model, not a training state"):
        trainer().load_state(tmp_path / "run" / "model.safetensors")
    with pytest.raises(CheckpointError, match="no valid 'format'"):
        load(state)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ones((3, 4), int), np.ones((3, 5), int)), r"integers, got int64 \(3, 4\) and int64 \(3, 5\)"),
        ((np.ones((0, 4), int), np.ones((0, 4), int)), "one shape"),
        ((np.full((3, 4), 1.5), np.ones((3, 4), int)), r"integers, got float64 \(3, 4\)"),
        (
            (np.ones((3, 5), int), np.ones((3, 5), int)),
            "have 5 cells and tokens 1..1, the model requires 4 cells",
        ),
        (
            (np.ones((3, 4), int), np.full((3, 4), 5)),
            r"tokens 1..5, the model requires 4 cells and tokens 0..4",
        ),
        ((np.full((3, 4), -1), np.ones((3, 4), int)), r"tokens -1..1"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        trainer(data=data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps and batch_size must be >= 1"),
        ({"batch_size": 0}, "steps and batch_size must be >= 1"),
        ({"dtype": "float8"}, "dtype 'float8' unknown; choose from float32, bfloat16, float64"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"regulariser": "none"}, "regulariser 'none' unknown; choose from entropy, stability, spectral"),
        (
            {"regulariser": "entropy", "regulariser_weight": -1.0},
            "regulariser_weight must be >= 0, got -1.0",
        ),
        ({"steps": 2.5}, "steps must be of type int, got 2.5"),
        ({"steps": True}, "steps must be of type int, got True"),
        ({"warmup": np.int32(3)}, "warmup must be of type int"),
        ({"lr": "1e-3"}, "lr must be of type float, got '1e-3'"),
        ({"compile": "no"}, "compile must be of type bool"),
        ({"seed": 1 << 70}, "seed must be at most 9223372036854775805 in size"),
        ({"supervision": "anchors", "halting": "off", "anchors": 5}, "anchors must be two steps"),
    ],
)
def test_training_options_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_the_configuration_of_a_run_is_that_of_its_model():
    assert trainer().model.config == EqRConfig.from_dict({**MODEL, "noise_scale": 0.01})


# On an accelerator ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler warns of in itself
def test_a_compiled_step_is_the_step():
    one, other = trainer(), trainer(compile=True)
    for _ in range(2):
        records = [t.step() for t in (one, other)]
        assert torch.allclose(records[0]["loss"], records[1]["loss"], rtol=1e-4)
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-4)


@pytest.mark.gpu
def test_the_host_never_waits_for_the_device_within_a_step():
    data, config = puzzles(), TrainConfig(steps=40, batch_size=8, warmup=5, dtype="bfloat16")
    t = Trainer("eqr", {**MODEL, "noise_scale": 0.01}, "toy", *data, config, swap_on_device, "cuda")
    t.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(12):
            record = t.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record["loss"].isfinite() and t.step_count == 13


def swap_on_device(inputs, labels, generator):
    order = torch.rand((len(inputs), 4), generator=generator, device=inputs.device).argsort(1) + 1
    order = torch.cat((torch.zeros_like(order[:, :1]), order), 1)
    return order.gather(1, inputs), order.gather(1, labels)
