"""Singular values and what follows from them agree with exact and dense ones."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.krylov.golub_kahan import leading_triples
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import (
    Dense,
    ikeda,
    linear,
    normal_start,
    one_pattern,
    puzzles,
    rotation_blocks,
    selector_level,
)

NON_NORMAL = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)


def inside(matrix, size):
    big = torch.zeros(size, size, dtype=torch.float64)
    big[: len(matrix), : len(matrix)] = matrix
    return big


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def test_random_matrices_agree_with_the_dense_solution():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 150, 150, generator=generator, dtype=torch.float64)
    A[0] *= torch.linspace(1, 0, 150, dtype=torch.float64) ** 4
    triples = leading_triples(
        Dense(A), torch.randn(5, 150, generator=generator, dtype=torch.float64), 5, tol=1e-8
    )
    exact = torch.linalg.svdvals(A)[:, :5].numpy()
    np.testing.assert_allclose(triples.value, exact, rtol=1e-12)
    image = torch.einsum("nij,nkj->nki", A, triples.right)
    assert torch.allclose(image, torch.as_tensor(triples.value)[..., None] * triples.left, atol=1e-9)
    assert triples.residual.max() < 1e-8 and triples.products[0] < triples.products[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_values_that_occur_several_times_are_found_as_often(turned, dtype):
    exact = torch.cat((torch.full((5,), 0.9), torch.linspace(0.5, 0.1, 75))).double()
    Q = torch.linalg.qr(torch.randn(80, 80, generator=torch.Generator().manual_seed(0)).double())[0]
    A = (Q * exact @ Q.T if turned else torch.diag(exact)).to(dtype)
    system = MapSystem(lambda z, x: z @ A.T, normal_start(80))
    for k in (1, 4, 6):
        found = at.singular_values(system, puzzles(), zeros(1, 2, 80).to(dtype), k=k, horizon=0)
        np.testing.assert_allclose(found.singular_value, np.tile(exact[:k], (1, 2, 1)), rtol=1e-5)
        assert found.converged.all()


def test_a_budget_leaves_values_unconverged():
    A = torch.randn(1, 300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    triples = leading_triples(
        Dense(A), torch.ones(1, 300, dtype=torch.float64), 4, tol=1e-12, max_products=40
    )
    assert triples.residual.max() > 1e-6 and triples.products[0] <= 80


def test_rank_deficient_and_vanishing_operators():
    system, xi = one_pattern(200)
    m = selector_level(2.0)
    result = at.singular_values(system, puzzles(), (m * xi)[None, None], k=3)
    np.testing.assert_allclose(result.singular_value.values[0, 0], [2 * (1 - m**2), 0, 0], atol=1e-13)
    nothing = at.singular_values(linear(zeros(90, 90)), puzzles(), zeros(1, 1, 90), k=2)
    assert (
        (nothing.singular_value == 0).all()
        and (nothing.transient_growth == 0).all()
        and (nothing.departure == 0).all()
    )


@pytest.mark.parametrize("size", [2, 90])
def test_the_non_normal_example(size):
    result = at.singular_values(linear(inside(NON_NORMAL, size)), puzzles(), zeros(1, 1, size), k=2)
    np.testing.assert_allclose(result.singular_value.values[0, 0], [5.0407, 0.0397], atol=5e-5)
    np.testing.assert_allclose(result.reactivity, 4.0407, atol=5e-5)  # the spectral radius would say -0.5
    np.testing.assert_allclose(result.transient_growth, 5.0407, atol=5e-5)
    assert result.transient_step.item() == 1


@pytest.mark.parametrize("size", [3, 90])
def test_growth_may_peak_later(size):
    matrix = 0.9 * torch.eye(3, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 2] = 0.8
    exact = [float(torch.linalg.matrix_norm(torch.linalg.matrix_power(matrix, n), 2)) for n in range(1, 40)]
    result = at.singular_values(linear(inside(matrix, size)), puzzles(), zeros(1, 1, size), k=2, horizon=39)
    np.testing.assert_allclose(result.transient_growth, max(exact), rtol=1e-6)
    assert result.transient_step.item() == np.argmax(exact) + 1 > 5


@pytest.mark.parametrize("size", [2, 100])
def test_growth_beyond_the_range_of_single_steps(size):
    def growth(scale, dtype, horizon):
        system = MapSystem(lambda z, x: scale * z, normal_start(size))
        return at.singular_values(system, puzzles(), zeros(1, 1, size).to(dtype), k=1, horizon=horizon)

    single = growth(20.0, torch.float32, 16)
    np.testing.assert_allclose(single.transient_growth, 20.0**16, rtol=1e-5)
    assert single.transient_step.item() == 16
    np.testing.assert_allclose(growth(3.0, torch.float64, 600).transient_growth, 3.0**600, rtol=1e-10)
    assert growth(20.0, torch.float32, 40).transient_growth.item() == np.inf
    assert growth(3.2, torch.float64, 1000).transient_growth.item() == np.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [20, 80])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_very_large_and_very_small_jacobians(size, dtype, scale):
    A = torch.randn(size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def multiply(matrix):
        return MapSystem(lambda z, x: z @ matrix.T.to(z.dtype), normal_start(size))

    plain, scaled = (
        at.singular_values(multiply(s * A), puzzles(), zeros(1, 1, size).to(dtype), k=2) for s in (1, scale)
    )
    np.testing.assert_allclose(
        scaled.singular_value, scale * torch.linalg.svdvals(A)[None, None, :2], rtol=1e-5
    )
    np.testing.assert_allclose(scaled.departure, plain.departure, rtol=1e-5)
    assert scaled.transient_growth.item() == (np.inf if scale > 1 else scaled.singular_value[0, 0, 0].item())


@pytest.mark.parametrize("size", [30, 100])
def test_growth_that_the_leading_singular_vectors_do_not_show(size):
    A = zeros(size, size)
    for i in range(4):
        A[4 + i, i] = 2.0
    for i in range(10, 19):
        A[i + 1, i] = 1.9
    result = at.singular_values(linear(A), puzzles(), zeros(1, 1, size))
    np.testing.assert_allclose(result.singular_value, 2.0, rtol=1e-12)
    np.testing.assert_allclose(result.transient_growth, 1.9**9, rtol=1e-6)
    assert result.transient_step.item() == 9
    assert ("lower bound" in result.transient_growth.long_name) == (size > 64)


def test_departure_from_normality():
    rotation = inside(rotation_blocks([0.5 + 0.5j, 0.3]), 80)
    assert at.singular_values(linear(rotation), puzzles(), zeros(1, 1, 80)).departure.item() < 1e-12
    dense = at.singular_values(linear(NON_NORMAL), puzzles(), zeros(1, 1, 2), k=1).departure
    A = NON_NORMAL
    exact = torch.linalg.matrix_norm(A @ A.T - A.T @ A) / torch.linalg.matrix_norm(A) ** 2
    np.testing.assert_allclose(dense, exact, rtol=1e-12)
    many = torch.block_diag(*[A] * 100)
    estimate = at.singular_values(linear(many), puzzles(), zeros(1, 1, 200), k=1).departure
    np.testing.assert_allclose(estimate * 10, exact, rtol=0.35)


def test_ikeda_fixed_point():
    z = torch.tensor([[[2.97213162, 4.14594642]]], dtype=torch.float64)
    result = at.singular_values(ikeda(), puzzles(), z, k=2)
    np.testing.assert_allclose(result.singular_value.values[0, 0], [1.11278, 0.72790], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_models_agree_with_their_dense_jacobian(mixer, dtype):
    config = EqRConfig(
        vocab_size=6, seq_len=6, hidden_size=12, num_heads=2, H_cycles=2, L_cycles=2, mixer=mixer
    )
    torch.manual_seed(4)
    model, inputs = EqR(config), torch.arange(12).reshape(2, 6) % 6
    states = torch.randn(2, 2, *model.state_shape, dtype=torch.float64)
    result = at.singular_values(model, inputs, states, k=3, horizon=3, dtype=dtype)
    for p in range(2):
        x = model.encode(inputs[p : p + 1]).double()
        for m in range(2):
            dense = (
                torch.func.jacrev(lambda z, x=x: model.step(z, x))(states[p, m : m + 1])
                .detach()
                .reshape(144, 144)
            )
            exact = torch.linalg.svdvals(dense)[:3]
            np.testing.assert_allclose(
                result.singular_value[p, m], exact, rtol=1e-4 if dtype == "float32" else 1e-7
            )
            powers = [
                float(torch.linalg.matrix_norm(torch.linalg.matrix_power(dense, n), 2)) for n in range(1, 4)
            ]
            found = float(result.transient_growth[p, m])
            assert 0.9 * max(powers) <= found <= 1.001 * max(powers)
    assert result.converged.all() and result.singular_value.dtype == dtype


def test_gaps_and_misuse():
    states = zeros(1, 2, 2)
    states[0, 0] = np.nan
    result = at.singular_values(linear(NON_NORMAL), puzzles(), states, k=1)
    assert np.isnan(result.reactivity.values[0]).tolist() == [True, False]
    for options in ({"k": 3}, {"k": 0}, {"tol": 0}, {"horizon": -1}):
        with pytest.raises(ValueError, match="must be"):
            at.singular_values(linear(NON_NORMAL), puzzles(), states, **{"k": 1, **options})
    noisy = MapSystem(lambda z, x: z + 0.1 * torch.randn_like(z), normal_start(2))
    with pytest.raises(ValueError, match="not deterministic"):
        at.singular_values(noisy, puzzles(), states, k=1)
