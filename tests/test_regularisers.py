"""Regularisers: values in closed form, gradients as stated, and runs that differ by the term alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from eqrlab.attractors.ensemble.certainty import certainty
from eqrlab.core import CheckpointError, Reasoner, families, load
from eqrlab.core.checkpoints.tensors import write_tensors
from eqrlab.core.training import regularisers
from eqrlab.core.training import trainer as training
from eqrlab.core.training.objective import REGULARISERS, TrainConfig
from eqrlab.core.training.regularisers import TERMS, entropy_term, late_terms, spectral_term, stability_term
from eqrlab.core.training.state import pack
from eqrlab.core.training.trainer import train
from tests.core_models import small_eqr, tokens
from tests.test_recipes import trainer as family_trainer
from tests.test_train import same, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class Linear(Reasoner):
    """A tiny system: z -> M z on one position, one stream; its logits are the state."""

    family, streams = "linear", 1

    def __init__(self, matrix):
        nn.Module.__init__(self)
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=torch.float64))
        self.config = dataclasses.replace(small_eqr().config, H_cycles=1, L_cycles=1, noise_scale=0.0)

    def apply_level(self, level, z, injection):
        return z @ self.matrix.T

    @property
    def state_shape(self):
        return (1, 1, len(self.matrix))

    def logits(self, z, x):
        return z[:, 0]


def state(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def parts(model, rows=3):
    """A state, a context, counted cells and normals of a model in float64."""
    x = model.encode(tokens(rows, model)).detach()
    generator = torch.Generator().manual_seed(1)
    z = model.initial(x, generator)
    counted = torch.ones(rows, model.config.seq_len, dtype=torch.bool)
    counted[0, :2] = False
    return z, x, counted, torch.randn(z.shape, generator=generator, dtype=z.dtype)


def test_there_is_a_term_for_every_name():
    assert tuple(TERMS) == REGULARISERS


def test_the_entropy_term_is_the_recorded_answer_entropy():
    model = small_eqr().double()
    z, x, counted, normals = parts(model)
    got = entropy_term(model, z, x, counted, normals)
    assert torch.allclose(got, certainty(model.logits(z, x), counted)[0], rtol=1e-12)


def test_the_gradient_of_the_entropy_is_finite_where_a_chance_is_zero():
    z = state([0.0, 2000.0]).requires_grad_()
    term = entropy_term(Linear(torch.eye(2)), z, None, torch.ones(1, 1, dtype=torch.bool), z)
    term.sum().backward()
    assert term.item() == 0 and torch.equal(z.grad, torch.zeros_like(z))


def test_the_stability_term_is_the_divergence_between_the_answers_of_plain_and_pushed_state():
    model, z, normals = Linear([[0.5, 0.0], [0.3, -0.2]]), state([3.0, 4.0]), state([0.0, -7.0])
    plain = torch.log_softmax(model.matrix @ z.flatten(), 0)
    pushed = torch.log_softmax(model.matrix @ torch.tensor([3.0, 4.0 - 0.1 * 5.0], dtype=torch.float64), 0)
    got = stability_term(model, z, None, torch.ones(1, 1, dtype=torch.bool), normals)
    assert got.item() == pytest.approx((plain.exp() * (plain - pushed)).sum().item(), rel=1e-12)
    got.backward()
    want = torch.autograd.grad((plain.exp().detach() * -pushed).sum(), model.matrix)[
        0
    ]  # the plain answer is a target, without gradient
    assert torch.allclose(model.matrix.grad, want)
    assert (
        stability_term(Linear(torch.zeros(2, 2)), z, None, torch.ones(1, 1, dtype=torch.bool), normals) == 0
    )


def test_the_spectral_term_tends_to_the_squared_radius_and_its_gradient_too(monkeypatch):
    matrix = torch.tensor([[1.2, 0.3], [0.0, 0.4]], dtype=torch.float64)
    model, z, normals = Linear(matrix), state([3.0, 4.0], [0.0, 0.0]), state([1.0, 2.0], [-0.1, 1.0])
    monkeypatch.setattr(regularisers, "ITERATIONS", 60)
    got = spectral_term(model, z, None, None, normals)
    assert torch.allclose(got, torch.full((2,), 1.44, dtype=torch.float64), rtol=1e-9)
    got[0].backward()
    leading = torch.tensor([1.0, 0.0], dtype=torch.float64)  # right eigenvector of 1.2
    want = 2 * torch.outer(matrix @ leading, leading)  # of ||M v||^2 with v as it is
    assert torch.allclose(model.matrix.grad, want, atol=1e-9)


def test_without_iterations_the_mean_of_the_spectral_term_is_the_frobenius_norm(monkeypatch):
    matrix = torch.tensor([[1.2, 0.3], [-0.7, 0.4]], dtype=torch.float64)
    monkeypatch.setattr(regularisers, "ITERATIONS", 0)
    normals = torch.randn(20000, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = spectral_term(Linear(matrix), torch.zeros_like(normals), None, None, normals)
    assert got.mean().item() == pytest.approx(matrix.square().sum().item() / 2, rel=0.02)


def test_a_map_that_forgets_its_state_has_no_gain():
    assert spectral_term(Linear(torch.zeros(2, 2)), state([1.0, 2.0]), None, None, state([1.0, 0.0])) == 0


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("name", REGULARISERS)
def test_every_family_trains_with_every_term(name, family):
    t = family_trainer(family, regulariser=name, halting="off")
    for _ in range(3):
        t.step()
    assert all(p.isfinite().all() for p in t.model.parameters())
    late, terms = t.window[4:].tolist()
    assert late > 0 and (terms > 0 or (family == "feedforward" and name != "entropy"))


# The run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_term_of_weight_zero_leaves_the_run_as_it_is_to_the_last_bit(name):
    plain, weightless = trainer(), trainer(regulariser=name, regulariser_weight=0.0)
    for _ in range(12):
        assert repr(plain.step()) == repr(weightless.step())
    assert same(weights(plain), weights(weightless)) and torch.equal(plain.window, weightless.window)


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_term_changes_the_weights_and_takes_nothing_from_the_generator_of_the_run(name):
    plain, shaped = trainer(halting="off"), trainer(halting="off", regulariser=name)
    for _ in range(6):
        plain.step(), shaped.step()
    assert not same(weights(plain), weights(shaped))
    assert torch.equal(plain.generator.get_state(), shaped.generator.get_state())
    assert torch.equal(plain.inputs, shaped.inputs)


def test_only_rows_in_the_second_half_of_their_steps_have_a_term():
    t = trainer(halting="off", regulariser="entropy")  # of 4 steps: the third and the fourth
    late = []
    for _ in range(6):
        before = t.window[4].item()
        t.step()
        late.append(t.window[4].item() - before)
    assert late == [0, 0, 8, 8, 0, 0]


def test_the_random_directions_are_those_of_seed_row_and_segment(monkeypatch):
    model, seen = small_eqr(halt_max_steps=1), []
    monkeypatch.setitem(
        TERMS, "stability", lambda *parts: seen.append(parts[-1]) or parts[1].flatten(1).sum(1)
    )
    z, x, counted, _ = parts(model)
    one = torch.ones(3, dtype=torch.long)
    for taken, seed, step in ((one, 0, 1), (one * torch.tensor([0, 1, 0]), 0, 1), (one, 0, 2), (one, 1, 1)):
        config = TrainConfig(regulariser="stability", seed=seed)
        late_terms(model, z, x, counted, taken, config, step)
    assert torch.equal(seen[1], seen[0][1:2])
    assert not any(torch.equal(a, b) for a, b in ((seen[0], seen[2]), (seen[0], seen[3])))


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_term_falls_along_its_gradient(name):
    model = small_eqr()
    given, found = parts(model), []
    descent = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        found.append(TERMS[name](model, *given).mean())
        descent.zero_grad()
        found[-1].backward()
        descent.step()
    assert found[-1] < 0.7 * found[0]


def test_a_heavy_term_is_lowered_by_training_with_it():
    """Entropy, whose effect is large beside chance; the others enter the loss in the same place."""
    found = []
    for weight in (1e-6, 10.0):
        t = trainer(halting="off", regulariser="entropy", regulariser_weight=weight, steps=60)
        for _ in range(60):
            t.step()
        found.append((t.window[5] / t.window[4]).item())
    assert found[1] < 0.5 * found[0]


def test_a_continued_run_is_the_uninterrupted_one(tmp_path):
    changes = {"regulariser": "spectral", "supervision": "anchors", "anchors": (2, 4), "halting": "off"}
    whole, first, second = (trainer(**changes) for _ in range(3))
    for _ in range(5):
        whole.step(), first.step()
    first.save_state(tmp_path / "state")
    second.load_state(tmp_path / "state")
    for _ in range(5):
        assert repr(second.step()) == repr(whole.step())
    assert same(weights(whole), weights(second)) and torch.equal(whole.window, second.window)
    assert whole.window[4] == 10 * 2 * 8, "the third and fourth of the anchored steps are late"


def test_a_state_of_before_there_were_regularisers_is_taken_up(tmp_path):
    t, later = trainer(), trainer()
    t.step()
    tensors, header = pack(t)
    for name in ("late", "regulariser"):
        del header["window"][name]
    write_tensors(tmp_path / "state", tensors, header)
    later.load_state(tmp_path / "state")
    assert torch.equal(later.window, t.window)


def test_another_regulariser_is_another_run(tmp_path):
    trainer(regulariser="entropy").save_state(tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"train.regulariser entropy there, spectral here"):
        trainer(regulariser="spectral").load_state(tmp_path / "state")


def test_the_log_has_the_mean_term_of_late_rows_and_the_model_says_how_it_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 4)
    t = trainer(steps=8, regulariser="entropy", regulariser_weight=0.3, halting="off")
    list(train(t, tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8] and all(line["regulariser"] > 0 for line in lines)
    kept = load(tmp_path / "model.safetensors").provenance["train"]
    assert (kept["regulariser"], kept["regulariser_weight"]) == ("entropy", 0.3)
    list(train(trainer(steps=4), tmp_path / "plain"))
    assert "regulariser" not in (tmp_path / "plain" / "log.jsonl").read_text()
