"""Products in bfloat16: chosen by measuring, said in results, weights cast once a run."""

from __future__ import annotations

import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core.models import products
from tests.core_models import small_eqr, tokens


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr(products, "_native", None)


@pytest.mark.parametrize(("narrow", "faster"), [(0.2, True), (5.0, False)])
def test_the_faster_product_is_taken_and_measured_once(monkeypatch, unmeasured, narrow, faster):
    timed = []

    def least(a, weight):
        timed.append(a.dtype)
        return narrow if a.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(products, "_least_time", least)
    assert [products.has_bfloat16_products() for _ in range(3)] == [faster] * 3
    assert timed == [torch.float32, torch.bfloat16]


def test_the_time_measured_is_of_products_in_their_own_precision(unmeasured):
    a, weight = torch.ones(64, 64), torch.ones(64, 64)
    assert 0 <= products._least_time(a, weight) < 1
    assert products.has_bfloat16_products() in (True, False) and products._native is not None


@pytest.mark.parametrize("native", [True, False])
def test_both_ways_give_the_product_to_one_rounding(monkeypatch, native):
    monkeypatch.setattr(products, "_native", native)
    generator = torch.Generator().manual_seed(0)
    h, weight = (
        torch.randn((9, 300), generator=generator).bfloat16(),
        torch.randn((40, 300), generator=generator),
    )
    exact = h.double() @ weight.bfloat16().double().T
    got = products.linear(h, weight)
    assert got.dtype == torch.bfloat16
    assert ((got.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-3).all()


def casts(monkeypatch):
    """Count the casts of parameters."""
    count = []
    own = torch.Tensor.to

    def to(tensor, *args, **kwargs):
        if isinstance(tensor, torch.nn.Parameter) and args == (torch.bfloat16,):
            count.append(id(tensor))
        return own(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    return count


def test_a_run_casts_each_weight_once_and_forgets_it(monkeypatch):
    model = small_eqr(noise_scale=0.0)
    inputs = tokens(2, model)
    counted = casts(monkeypatch)

    def sampled(depth):
        counted.clear()
        return at.sample(model, inputs, restarts=2, depth=depth, dtype="bfloat16"), len(counted)

    before, few = sampled(3)
    _, many = sampled(9)
    assert few == many >= len(list(model.L_level.parameters()))
    for weight in model.parameters():
        weight.data.mul_(0.5)  # a change that torch does not count
    assert not before.residual.equals(sampled(3)[0].residual)


def test_weights_held_give_the_same_numbers_and_gradients_take_no_held_weight():
    model = small_eqr(noise_scale=0.0)
    x = model.encode(tokens(2, model)).bfloat16()
    z = model.initial(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model.step(z, x)
        with products.weights_held():
            assert torch.equal(model.step(z, x), plain) and torch.equal(model.step(z, x), plain)
    with products.weights_held():
        model.step(z, x.detach()).float().sum().backward()
    assert all(p.grad is not None for p in model.L_level.parameters())


def test_ensembles_say_how_bfloat16_was_multiplied(monkeypatch):
    model = small_eqr(noise_scale=0.0)
    for native, text in ((True, "bfloat16"), (False, "float32, rounded")):
        monkeypatch.setattr(products, "_native", native)
        ensemble = at.sample(model, tokens(1, model), restarts=1, depth=8, dtype="bfloat16")
        assert ensemble.attrs["products"] == text
    assert "products" not in at.sample(model, tokens(1, model), restarts=1, depth=8).attrs
