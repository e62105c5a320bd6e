"""Products chosen by measuring, said in results, with derivatives of every kind; weights are cast once a run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from eqrlab import attractors as at
from eqrlab.core import load
from eqrlab.core.models import onednn, products
from eqrlab.core.models.layers import Linear
from eqrlab.core.models.products import Fastest
from tests.core_models import small_eqr, tokens

# torch.func.jvp loads decompositions that torch itself still writes with torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
has_onednn = pytest.mark.skipif(not onednn.is_available(), reason="this build of PyTorch has no oneDNN")


@pytest.mark.parametrize(
    ("blas", "dnn", "narrow", "chosen"),
    [
        (1.0, 0.4, 0.2, Fastest(onednn=True, bfloat16=True)),
        (1.0, 0.4, 0.5, Fastest(onednn=True, bfloat16=False)),
        (1.0, 0.9, 0.95, Fastest(onednn=False, bfloat16=True)),  # no clear gain: the BLAS stays
        (1.0, 1.1, 5.0, Fastest(onednn=False, bfloat16=False)),
    ],
)
def test_the_fastest_products_are_taken_and_measured_once(monkeypatch, blas, dnn, narrow, chosen):
    timed = []

    def least(multiply, a, weight):
        timed.append(a.dtype)
        if a.dtype == torch.bfloat16:
            return narrow
        return dnn if multiply is onednn.plain_product else blas

    monkeypatch.setattr(products, "_fastest", None)
    monkeypatch.setattr(products, "_least_time", least)
    monkeypatch.setattr(onednn, "is_available", lambda: True)
    assert [products.fastest() for _ in range(3)] == [chosen] * 3
    assert len(timed) == 3


def test_without_onednn_the_blas_multiplies(monkeypatch):
    monkeypatch.setattr(products, "_fastest", None)
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    assert not products.fastest().onednn


def test_the_time_measured_is_of_products_in_their_own_precision(monkeypatch):
    a, weight = torch.ones(64, 64), torch.ones(64, 64)
    assert 0 <= products._least_time(F.linear, a, weight) < 1
    monkeypatch.setattr(products, "_fastest", None)
    assert products.fastest() in [Fastest(a, b) for a in (True, False) for b in (True, False)]


@pytest.mark.parametrize("native", [True, False])
def test_both_ways_give_the_product_to_one_rounding(monkeypatch, native):
    monkeypatch.setattr(products, "_fastest", Fastest(False, native))
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


@pytest.mark.parametrize(
    ("dtype", "fastest", "text"),
    [
        ("bfloat16", Fastest(False, True), "bfloat16"),
        ("bfloat16", Fastest(False, False), "float32, rounded"),
        ("float32", Fastest(False, True), "BLAS"),
        pytest.param("float32", Fastest(True, True), "oneDNN", marks=has_onednn),
        ("float64", Fastest(False, True), None),
    ],
)
def test_ensembles_say_how_products_were_computed(monkeypatch, dtype, fastest, text):
    model = small_eqr(noise_scale=0.0)
    model.multiply("fastest")
    monkeypatch.setattr(products, "_fastest", fastest)
    ensemble = at.sample(model, tokens(1, model), restarts=1, depth=8, dtype=dtype)
    assert ensemble.attrs.get("products") == text
    if dtype == "float32":
        model.multiply("official")
        assert at.sample(model, tokens(1, model), restarts=1, depth=8).attrs["products"] == "BLAS"


def factors():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) for shape in ((3, 4, 5), (7, 5), (3, 4, 5), (7, 5)))


# Of a product f(h, weight) with tangents (dh, dweight), what each transform of torch.func gives.
DERIVATIVES = {
    "jvp": lambda f, h, w, dh, dw: jvp(f, (h, w), (dh, dw)),
    "jvp of the input": lambda f, h, w, dh, dw: jvp(lambda a: f(a, w), (h,), (dh,)),
    "jvp of the weight": lambda f, h, w, dh, dw: jvp(lambda b: f(h, b), (w,), (dw,)),
    "vjp": lambda f, h, w, dh, dw: vjp(f, h, w)[1](torch.ones(3, 4, 7)),
    "a single row": lambda f, h, w, dh, dw: vjp(f, h[0, 0], w)[1](torch.ones(7)),
    "gradients of each row": lambda f, h, w, dh, dw: vmap(grad(lambda b, a: f(a, b).sum()), (None, 0))(
        w, h[0]
    ),
    "several tangents": lambda f, h, w, dh, dw: vmap(lambda v: jvp(lambda a: f(a, w), (h,), (v,))[1])(
        torch.stack((dh, h))
    ),
    "several cotangents": lambda f, h, w, dh, dw: vmap(lambda v: vjp(f, h, w)[1](v))(torch.ones(2, 3, 4, 7)),
    "inputs one by one": lambda f, h, w, dh, dw: vmap(vmap(lambda a: f(a, w)))(h),
    "several weights": lambda f, h, w, dh, dw: vmap(lambda b: f(h, b))(torch.stack((w, dw))),
    "an input for each weight": lambda f, h, w, dh, dw: vmap(f)(torch.stack((h, dh)), torch.stack((w, dw))),
    "a vector for each weight": lambda f, h, w, dh, dw: vmap(f)(h[:2, 0], torch.stack((w, dw))),
    "reverse Jacobian": lambda f, h, w, dh, dw: jacrev(lambda a: f(a, w))(h[0]),
    "forward Jacobian": lambda f, h, w, dh, dw: jacfwd(lambda a: f(a, w))(h[0]),
    "Hessian in the input": lambda f, h, w, dh, dw: hessian(lambda a: f(a, w).sum())(h[0]),
    "Hessian in the weight": lambda f, h, w, dh, dw: hessian(lambda b: f(h, b).sum())(w),
    "a gradient for each input": lambda f, h, w, dh, dw: vmap(grad(lambda b, a: f(a, b).sum()), (None, 0))(
        w, h
    ),
}


@has_onednn
@pytest.mark.parametrize("name", DERIVATIVES)
def test_products_of_onednn_have_the_derivatives_of_torch(name):
    derivative, values = DERIVATIVES[name], tuple(factors())
    got, expected = (
        derivative(lambda h, w, multiply=multiply: torch.tanh(multiply(h, w)), *values)
        for multiply in (onednn.product, F.linear)
    )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@has_onednn
def test_a_model_multiplied_by_onednn_is_the_same_model(monkeypatch):
    """States, gradients and Jacobian products agree to rounding with either product."""
    model = small_eqr(noise_scale=0.0)
    inputs = tokens(2, model)
    monkeypatch.setattr(products, "_fastest", Fastest(True, True))

    def computed(how):
        model.multiply(how)
        model.zero_grad()
        x = model.embed_tokens(inputs)
        z = model.initial(x, torch.Generator().manual_seed(0)).detach()
        out = model.step(z, x)
        out.square().mean().backward()
        pushed = jvp(lambda s: model.step(s, x.detach()), (z,), (torch.ones_like(z),))[1]
        return (
            out.detach(),
            [p.grad.clone() for p in model.parameters() if p.grad is not None],
            pushed.detach(),
        )

    torch.testing.assert_close(computed("fastest"), computed("official"), rtol=1e-3, atol=1e-4)


def test_a_loaded_model_multiplies_as_the_official_code_does_and_copies_share_the_choice():
    model = load("eqr-sudoku6")
    quiet = model.with_noise(0.0)
    assert model.multiplied == quiet.multiplied == "official"
    model.multiply()
    assert model.multiplied == quiet.multiplied == "fastest"
    assert all(module.fast for module in model.modules() if isinstance(module, Linear))
    with pytest.raises(ValueError, match="'quick' unknown; choose from official, fastest"):
        model.multiply("quick")


@has_onednn
@pytest.mark.filterwarnings("ignore")  # what the compiler warns of in itself
def test_compiled_blocks_multiply_by_onednn_too(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(products, "_fastest", Fastest(True, True))
    model = small_eqr(noise_scale=0.0)
    x = model.encode(tokens(2, model)).detach()
    z = model.initial(x, torch.Generator().manual_seed(0))
    model.multiply("fastest")

    def computed():
        leaf = z.clone().requires_grad_()
        out = model.step(leaf, x)
        out.square().sum().backward()
        return out.detach(), leaf.grad

    plain = computed()
    model.compile("training")
    try:
        torch.testing.assert_close(computed(), plain, rtol=1e-4, atol=1e-4)
    finally:
        model.compile("never")
        torch._dynamo.reset()


@has_onednn
def test_empty_and_strided_inputs():
    h, weight, *_ = factors()
    assert onednn.product(h[:0], weight.requires_grad_()).sum().backward() is None
    assert torch.equal(weight.grad, torch.zeros(7, 5))  # a sum of no products
    with torch.no_grad():
        assert onednn.product(h[:0], weight).shape == (0, 4, 7)
        torch.testing.assert_close(
            onednn.product(h.transpose(0, 1), weight), F.linear(h.transpose(0, 1), weight)
        )
