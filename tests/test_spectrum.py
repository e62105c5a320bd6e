"""Spectra agree with exact and dense ones, pairs stay whole, and every flag is earned."""

import json

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.eigenvalues import SMALL
from eqrlab.attractors.dynamics.jacobian import Jacobian
from eqrlab.attractors.dynamics.krylov.krylov_schur import Order, leading_pairs
from eqrlab.attractors.ensemble.states import take_points
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import (
    Dense,
    henon,
    hidden_selector,
    hopfield,
    householder,
    ikeda,
    linear,
    normal_start,
    one_pattern,
    puzzles,
    reflect,
    rotation_blocks,
    selector_level,
    softmax_memory,
)


def leading(matrix, order, count):
    values = np.linalg.eigvals(matrix)
    return values[order(values)][:count]


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("order", [Order("modulus"), Order("real"), Order("near", 1.1)])
def test_random_matrices_agree_with_the_dense_solution(order):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(4, 150, 150, generator=generator, dtype=torch.float64) / 150**0.5
    pairs = leading_pairs(
        Dense(A), torch.randn(4, 150, generator=generator, dtype=torch.float64), 4, order=order, tol=1e-10
    )
    for row in range(4):
        found = pairs.value[row][~np.isnan(pairs.value[row])]
        assert len(found) == 4 + (found[3].imag > 0)
        np.testing.assert_allclose(found, leading(A[row].numpy(), order, len(found)), rtol=1e-8)
    assert np.nanmax(pairs.residual) < 1e-9


@pytest.mark.parametrize("which", ["modulus", "real"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_values_that_occur_several_times_are_found_as_often(turned, dtype, which):
    exact = torch.cat((torch.full((5,), 0.9), torch.linspace(0.5, 0.1, 75))).double()
    Q = torch.linalg.qr(torch.randn(80, 80, generator=torch.Generator().manual_seed(0)).double())[0]
    A = (Q * exact @ Q.T if turned else torch.diag(exact)).to(dtype)
    system = MapSystem(lambda z, x: z @ A.T, normal_start(80))
    for k in (1, 4, 6):
        found = at.spectrum(system, puzzles(), zeros(1, 2, 80).to(dtype), k=k, which=which)
        np.testing.assert_allclose(
            found.eigenvalue[..., :k].real,
            np.tile(exact[:k], (1, 2, 1)),
            rtol=1e-8 if dtype == torch.float64 else 1e-5,
        )
        assert found.complete.all() and (found.products < 250).all()


def test_pairs_that_occur_several_times_are_found_as_often():
    A = torch.diag(torch.linspace(0.5, 0.1, 80)).double()
    A[:6, :6] = torch.block_diag(*[torch.tensor([[0.6, -0.5], [0.5, 0.6]], dtype=torch.float64)] * 3)
    found = at.spectrum(linear(A), puzzles(), zeros(1, 1, 80), k=8)
    exact = [0.6 + 0.5j, 0.6 - 0.5j] * 3
    np.testing.assert_allclose(found.eigenvalue[0, 0, :6], exact, rtol=1e-8)
    assert found.complete.all()


def test_a_row_does_not_depend_on_its_company():
    A = torch.randn(6, 100, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 10
    A[:3] *= torch.linspace(1, 0, 100, dtype=torch.float64) ** 2  # these rows are done much earlier
    start = torch.ones(6, 100, dtype=torch.float64)
    together = leading_pairs(Dense(A), start, 3, tol=1e-9)
    for row in range(6):
        alone = leading_pairs(Dense(A[row : row + 1]), start[:1], 3, tol=1e-9)
        np.testing.assert_allclose(alone.value[0], together.value[row], rtol=1e-7)
    assert together.products[:3].max() < together.products[3:].min()


def test_the_residual_is_measured_and_a_budget_leaves_rows_unconverged():
    A = torch.randn(2, 400, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 20
    pairs = leading_pairs(Dense(A), torch.ones(2, 400, dtype=torch.float64), 4, tol=1e-12, max_products=40)
    assert np.nanmin(pairs.residual) > 1e-12 and (pairs.products <= 46).all()


@pytest.mark.parametrize("size", [3, SMALL + 40])
def test_prescribed_eigenvalues_are_found_to_rounding(size):
    values = [0.9 + 0.3j, -0.8, 0.2 + 0.5j]
    matrix = torch.zeros(size + 2, size + 2, dtype=torch.float64)
    matrix[:5, :5] = rotation_blocks(values)
    result = at.spectrum(linear(matrix), puzzles(), zeros(1, 2, size + 2), k=5, tol=1e-10)
    expected = [0.9 + 0.3j, 0.9 - 0.3j, -0.8, 0.2 + 0.5j, 0.2 - 0.5j]
    np.testing.assert_allclose(result.eigenvalue.values[0, 1], expected, atol=1e-12)
    np.testing.assert_allclose(result.spectral_radius, abs(0.9 + 0.3j), rtol=1e-12)
    assert result.converged.all() and result.complete.all() and float(result.eigen_residual.max()) < 1e-10


@pytest.mark.parametrize("size", [4, 100])
def test_a_pair_at_the_end_is_kept_whole(size):
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[:4, :4] = rotation_blocks([0.9, 0.5 + 0.5j, 0.1])
    result = at.spectrum(linear(matrix), puzzles(), zeros(1, 1, size), k=2, tol=1e-9)
    np.testing.assert_allclose(result.eigenvalue.values[0, 0], [0.9, 0.5 + 0.5j, 0.5 - 0.5j], atol=1e-9)


def test_a_rotation_has_its_radius():
    result = at.spectrum(linear(rotation_blocks([0.9j])), puzzles(), zeros(1, 1, 2), k=1)
    np.testing.assert_allclose(result.spectral_radius, 0.9, rtol=1e-14)


def test_non_normality_shows_in_the_condition_number():
    matrix = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
    result = at.spectrum(linear(matrix), puzzles(), zeros(1, 1, 2), k=2)
    np.testing.assert_allclose(result.eigenvalue.values[0, 0].real, [0.5, 0.4], rtol=1e-13)
    np.testing.assert_allclose(result.eigen_condition, np.sqrt(1 + 50**2), rtol=1e-10)
    big = torch.zeros(120, 120, dtype=torch.float64)
    big[:2, :2] = matrix
    big[2:4, 2:4] = rotation_blocks([0.2 + 0.3j])
    result = at.spectrum(linear(big), puzzles(), zeros(1, 1, 120), k=4, tol=1e-11, condition=True)
    np.testing.assert_allclose(result.eigen_condition.values[0, 0, :2], np.sqrt(1 + 50**2), rtol=1e-6)
    np.testing.assert_allclose(result.eigen_condition.values[0, 0, 2:4], 1, rtol=1e-6)


def test_the_radius_alone_takes_fewer_products_and_is_known_as_well():
    """Its value stands apart from ill-conditioned ones, which are not refined for it."""
    big = torch.zeros(120, 120, dtype=torch.float64)
    big[0, 0] = 0.9
    big[1:, 1:] = torch.diag(torch.linspace(0.1, 0.6, 119)) + torch.diag(torch.full((118,), 0.2), 1)
    every, alone = (
        at.spectrum(linear(big), puzzles(), zeros(1, 1, 120), k=4, tol=1e-6, radius=only)
        for only in (False, True)
    )
    assert int(alone.products.sum()) < int(every.products.sum()) / 2
    np.testing.assert_allclose(alone.spectral_radius, 0.9, rtol=1e-6)
    assert (alone.spectral_radius_high - alone.spectral_radius_low < 2e-6).all()


def test_a_jordan_block_is_not_hidden():
    matrix = 0.5 * torch.eye(100, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 2] = 1.0
    result = at.spectrum(linear(matrix), puzzles(), zeros(1, 1, 100), k=2, tol=1e-4, max_products=300)
    np.testing.assert_allclose(np.abs(result.eigenvalue), 0.5, atol=1e-2)  # eps^(1/3) is the best there is


def test_an_invariant_space_is_left_by_a_fresh_vector():
    system, xi = one_pattern(500)
    m = selector_level(2.0)
    result = at.spectrum(system, puzzles(), (m * xi)[None, None], k=3, tol=1e-9)
    np.testing.assert_allclose(result.eigenvalue.values[0, 0], [2 * (1 - m**2), 0, 0], atol=1e-12)
    half = at.spectrum(linear(0.5 * torch.eye(90, dtype=torch.float64)), puzzles(), zeros(1, 1, 90), k=4)
    np.testing.assert_allclose(half.eigenvalue, 0.5, rtol=1e-12)


def test_hopfield_patterns_have_a_multiple_eigenvalue():
    system, xi = hopfield(7, 3)
    m = selector_level(2.0)
    result = at.spectrum(system, puzzles(), (m * xi[1])[None, None], k=3, tol=1e-9)
    np.testing.assert_allclose(result.eigenvalue, 2 * (1 - m**2), rtol=1e-9)


def test_softmax_memory_agrees_with_its_dense_jacobian():
    system, z = softmax_memory(90, 6, 8.0), zeros(1, 1, 90)
    z[..., 0] = 1
    for _ in range(60):
        z = system.step(z[0], None)[None]
    dense = Jacobian(system, None, z[0]).dense()[0].numpy()
    result = at.spectrum(system, puzzles(), z, k=3, tol=1e-9)
    np.testing.assert_allclose(
        result.eigenvalue.values[0, 0], leading(dense, Order("modulus"), 3), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize("size", [300, pytest.param(50_000, marks=pytest.mark.slow)])
def test_the_hidden_selector_at_any_size(size):
    rest = torch.zeros(size - 2, dtype=torch.float64)
    rest[:3] = torch.tensor([0.9, -0.8, 0.7], dtype=torch.float64)
    rest[3:] = torch.linspace(-0.5, 0.5, size - 5, dtype=torch.float64)
    system, m = hidden_selector(size, rest), selector_level(2.0)
    w = torch.zeros(3, size, dtype=torch.float64)
    w[0, :2], w[1, 0] = torch.tensor([m, -m], dtype=torch.float64), m  # a sink, a saddle, and the origin
    states = reflect(w, householder(size))[None]
    result = at.spectrum(system, puzzles(), states, k=3, tol=1e-8)
    s = 2 * (1 - m**2)
    assert abs(s - 0.16637208775) < 1e-10
    for point, exact in enumerate([[0.9, -0.8, 0.7], [2.0, 0.9, -0.8], [2.0, 2.0, 0.9]]):
        np.testing.assert_allclose(result.eigenvalue.values[0, point], exact, rtol=1e-8)
    assert result.converged.all()


def test_classic_maps_have_their_eigenvalues():
    states = torch.tensor(
        [[[0.6313544771, 0.1894063431], [-1.1313544771, -0.3394063431]]], dtype=torch.float64
    )
    result = at.spectrum(henon(), puzzles(), states, k=2)
    exact = [[-1.9237388582, 0.1559463223], [3.2598220979, -0.0920295620]]
    np.testing.assert_allclose(result.eigenvalue.values[0].real, exact, atol=1e-9)
    fixed = torch.tensor([[[2.97213162, 4.14594642]]], dtype=torch.float64)
    result = at.spectrum(ikeda(), puzzles(), fixed, k=2)
    np.testing.assert_allclose(np.abs(result.eigenvalue), 0.9, rtol=1e-12)  # |det J| = u^2 everywhere


def test_the_power_relation_holds_at_fixed_points_and_is_refused_elsewhere():
    matrix = torch.block_diag(rotation_blocks([0.9 + 0.3j, -0.5]), torch.zeros(70, 70, dtype=torch.float64))
    system = linear(matrix)
    result = at.spectrum(system, puzzles(), zeros(1, 1, 73), k=3, power=3, tol=1e-9)
    exact = [(0.9 + 0.3j) ** 3, (0.9 - 0.3j) ** 3, -0.125]
    np.testing.assert_allclose(result.eigenvalue.values[0, 0], exact, atol=1e-9)
    np.testing.assert_allclose(
        result.spectral_radius,
        at.spectrum(system, puzzles(), zeros(1, 1, 73), k=1, steps=3, tol=1e-9).spectral_radius,
    )
    with pytest.raises(ValueError, match="needs fixed points"):
        at.spectrum(system, puzzles(), zeros(1, 1, 73) + 1, power=3)


def test_multipliers_of_a_cycle():
    logistic = MapSystem(lambda z, x: 3.2 * z * (1 - z), normal_start(1))
    z = torch.tensor([[[0.5130445095]]], dtype=torch.float64)
    result = at.spectrum(logistic, puzzles(), z, k=1, steps=2)
    np.testing.assert_allclose(result.eigenvalue.values.real, 0.16, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_agree_with_their_dense_jacobian(dtype):
    config = EqRConfig(vocab_size=6, seq_len=6, hidden_size=12, num_heads=2, H_cycles=2, L_cycles=2)
    torch.manual_seed(4)
    model, inputs = EqR(config), torch.arange(12).reshape(2, 6) % 6
    states = torch.randn(2, 2, *model.state_shape, dtype=torch.float64)
    result = at.spectrum(model, inputs, states, k=4, tol=1e-4 if dtype == "float32" else 1e-11, dtype=dtype)
    points = take_points(model, inputs, states)
    dense = Jacobian(model, points.context(torch.arange(4)), points.z).dense().numpy()
    for row, found in enumerate(result.eigenvalue.values.reshape(4, -1)):
        found = found[~np.isnan(found)]
        exact = leading(dense[row], Order("modulus"), len(found))
        np.testing.assert_allclose(found, exact, rtol=1e-3 if dtype == "float32" else 1e-9)
    assert result.complete.all() and result.attrs["dtype"] == dtype
    assert result.spectral_radius.dtype == dtype


def test_batches_do_not_matter_and_gaps_stay_gaps():
    matrix = torch.randn(80, 80, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 9
    system = MapSystem(lambda z, x: torch.tanh(z @ matrix.T), normal_start(80))
    states = torch.randn(2, 3, 80, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    states[1, 0] = np.nan
    whole = at.spectrum(system, puzzles(2), states, k=2, tol=1e-9)
    parts = at.spectrum(system, puzzles(2), states, k=2, tol=1e-9, batch_size=2)
    np.testing.assert_allclose(np.abs(whole.eigenvalue), np.abs(parts.eigenvalue), rtol=1e-7)
    assert np.isnan(whole.spectral_radius.values[1, 0]) and not whole.complete[1, 0]
    assert int(np.isnan(whole.spectral_radius).sum()) == 1


def test_an_ensemble_is_taken_as_it_is():
    system = linear(rotation_blocks([0.5, 0.2 + 0.1j]))
    ensemble = at.sample(system, puzzles(2), restarts=3, depth=20, keep=("summary", "final_state"))
    result = at.spectrum(system, puzzles(2), ensemble, k=1)
    assert result.sizes == {"puzzle": 2, "point": 3, "eig": 1}
    assert (at.spectrum(system, puzzles(2), ensemble.final_state, k=1).eigenvalue == result.eigenvalue).all()
    with pytest.raises(ValueError, match="keep="):
        at.spectrum(system, puzzles(2), ensemble.drop_vars("final_state"))
    assert json.loads(result.attrs["tolerances"])["eigen_residual"] == 1e-4
    assert all({"long_name", "units"} <= set(v.attrs) for v in result.data_vars.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k must"),
        ({"k": 9}, "k must"),
        ({"tol": 0}, "tol"),
        ({"which": "LM"}, "choose from"),
        ({"which": 1j}, "real"),
    ],
)
def test_misuse_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        at.spectrum(linear(rotation_blocks([0.5, 0.1])), puzzles(), zeros(1, 1, 2), **{"k": 1, **options})


def test_a_noisy_step_is_refused():
    noisy = MapSystem(lambda z, x: 0.5 * z + 0.01 * torch.randn_like(z), normal_start(3))
    with pytest.raises(ValueError, match="not deterministic"):
        at.spectrum(noisy, puzzles(), zeros(1, 1, 3), k=1)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_spectrum_at_the_origin_and_the_power_relation_know_no_absolute_size(size):
    law = lambda x, g: size * torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    system = MapSystem(lambda z, x: size * torch.tanh(2 * z / size), law)
    inputs, states = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 1, dtype=torch.float64)
    np.testing.assert_allclose(at.spectrum(system, inputs, states, k=1, power=3).spectral_radius, 8)
    with pytest.raises(ValueError, match="power > 1 needs fixed points"):
        at.spectrum(system, inputs, states + 0.5 * size, k=1, power=3)


@pytest.mark.parametrize("size", [8, 80])
@pytest.mark.parametrize(
    ("dtype", "power"), [(torch.float32, 66), (torch.float32, -100), (torch.float64, -600)]
)
def test_very_large_and_very_small_jacobians(size, dtype, power):
    """A power of two as a factor changes nothing but the values, although squares leave the range of the dtype."""
    A = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(dtype) / size**0.5
    none = torch.zeros(size, dtype=dtype)
    ordinary, scaled = (
        at.spectrum(linear(A * factor, none), puzzles(), zeros(1, 1, size).to(dtype), k=3)
        for factor in (1.0, 2.0**power)
    )
    for name, close in (("eigenvalue", 1e-6), ("spectral_radius_high", 1e-6), ("eigen_error", 0.1)):
        values = scaled[name].values.astype(complex) / 2.0**power
        np.testing.assert_allclose(values, ordinary[name].values, rtol=close)
    assert scaled.complete.all() and ordinary.complete.all()


def test_the_move_that_forbids_a_power_is_that_of_the_state_it_names():
    half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.zeros(len(x), 2, dtype=torch.float64))
    states = torch.tensor([[[1e-3, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"puzzle 0, point 0 moves by 5\.0e-04"):
        at.spectrum(half, torch.zeros(1, 1, dtype=torch.long), states, k=1, power=2)
