"""Lyapunov and finite-time exponents agree with the exact ones."""

import math
import sys

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.lyapunov import kaplan_yorke, mean_interval
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import (
    cat_map,
    henon,
    ikeda,
    linear,
    logistic,
    noisy_ar,
    normal_start,
    one_pattern,
    puzzles,
    rotation_blocks,
    rotor,
)  # fmt: skip

NON_NORMAL = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
CAT = np.log((3 + np.sqrt(5)) / 2)


def start(*values):
    return torch.tensor([[list(values)]], dtype=torch.float64)


def inside(matrix, size):
    big = 0.01 * torch.eye(size, dtype=torch.float64)
    big[: len(matrix), : len(matrix)] = matrix
    return big


@pytest.mark.parametrize(
    ("r", "z", "exact"),
    [
        (2.5, 0.3, np.log(0.5)),
        (3.2, 0.5130445095, -0.9162907319),
        (3.5, 0.5, -0.8725073458),
        (3.83, 0.5, -0.3696738),
    ],
)
def test_logistic_windows(r, z, exact):
    result = at.lyapunov(logistic(r), puzzles(), start(z), k=1, steps=240, transient=2000)
    np.testing.assert_allclose(result.lyapunov_exponent, exact, atol=1e-7)


def test_chaos_lies_in_its_interval():
    many = torch.rand(1, 12, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = at.lyapunov(logistic(4.0), puzzles(), many, k=1, steps=1000)
    inside_own = (result.lyapunov_exponent_low <= np.log(2)) & (result.lyapunov_exponent_high >= np.log(2))
    assert inside_own.sum() >= 10  # intervals at 95 %
    assert result.puzzle_exponent_low.item() < np.log(2) < result.puzzle_exponent_high.item()
    np.testing.assert_allclose(result.puzzle_exponent, np.log(2), atol=5e-3)


def test_henon_and_ikeda():
    z = torch.tensor([0.1, 0.1], dtype=torch.float64).expand(1, 8, 2).clone()
    z += 0.01 * torch.arange(8, dtype=torch.float64)[:, None]
    result = at.lyapunov(henon(), puzzles(), z, k=2, steps=1000)
    np.testing.assert_allclose(result.exponent_sum, np.log(0.3), rtol=1e-10)  # at every step
    np.testing.assert_allclose(result.puzzle_exponent[0, 0], 0.4193, atol=6e-3)
    np.testing.assert_allclose(result.kaplan_yorke.mean(), 1 + 0.4193 / (1.2039728 + 0.4193), atol=5e-3)
    result = at.lyapunov(ikeda(), puzzles(), 0.1 * z, k=2, steps=1000)
    np.testing.assert_allclose(result.exponent_sum, -0.2107210, atol=1e-7)
    np.testing.assert_allclose(result.puzzle_exponent[0, 0], 0.50769, atol=1.5e-2)


def test_the_cat_map_is_exact():
    result = at.lyapunov(cat_map(), puzzles(), start(0.3, 0.45), k=2, steps=200, transient=40)
    np.testing.assert_allclose(result.lyapunov_exponent.values[0, 0], [CAT, -CAT], rtol=1e-12)
    assert abs(CAT - 0.9624236501) < 1e-10


def test_a_linear_map_has_the_logarithms_of_its_moduli():
    matrix = inside(rotation_blocks([0.9 + 0.3j, -0.5]), 70)
    result = at.lyapunov(
        linear(matrix), puzzles(), torch.zeros(1, 1, 70, dtype=torch.float64), k=3, steps=100, transient=200
    )
    np.testing.assert_allclose(
        result.lyapunov_exponent.values[0, 0], np.log([abs(0.9 + 0.3j)] * 2 + [0.5]), rtol=1e-8
    )


def test_rank_deficiency_gives_minus_infinity():
    system, xi = one_pattern(100)
    z = (0.957504024 * xi)[None, None]
    result = at.lyapunov(system, puzzles(), z, k=3, steps=40)
    assert np.isneginf(result.lyapunov_exponent.values[0, 0, 1:]).all()
    np.testing.assert_allclose(result.lyapunov_exponent[0, 0, 0], np.log(0.16637208775), atol=1e-7)
    assert np.isneginf(result.lyapunov_exponent_high.values[0, 0, 1:]).all()
    superstable = at.lyapunov(logistic(2.0), puzzles(), start(0.5), k=1, steps=20)
    assert np.isneginf(superstable.lyapunov_exponent.item())


def test_noise_is_shared_with_the_tangent_and_keyed():
    result = at.lyapunov(
        noisy_ar(0.8, 0.3, 5), puzzles(2), torch.ones(2, 2, 5, dtype=torch.float64), k=2, steps=40
    )
    np.testing.assert_allclose(result.lyapunov_exponent, np.log(0.8), rtol=1e-10)
    assert result.attrs["noise"] == 0.3
    step = lambda z, x, noise=None: torch.sin(3 * z + (noise(z) if noise is not None else 0.0))
    driven = MapSystem(step, normal_start(1), noise_scale=0.5)
    starts = torch.ones(2, 2, 1, dtype=torch.float64)
    whole = at.lyapunov(driven, puzzles(2), starts, k=1, steps=60)
    parts = at.lyapunov(driven, puzzles(2), starts, k=1, steps=60, batch_size=1)
    np.testing.assert_allclose(whole.lyapunov_exponent, parts.lyapunov_exponent, rtol=1e-10)
    other = at.lyapunov(driven, puzzles(2), starts, k=1, steps=60, seed=1)
    assert (np.abs(whole.lyapunov_exponent - other.lyapunov_exponent) > 1e-6).all()
    assert at.lyapunov(driven, puzzles(2), starts, k=1, steps=60, noise=0).attrs["noise"] == 0


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_resumed_run_is_the_uninterrupted_one(noise):
    step = lambda z, x, noise=None: torch.sin(3 * z + (noise(z) if noise is not None else 0.0))
    driven = MapSystem(step, normal_start(3), noise_scale=noise)
    starts = torch.linspace(0.1, 1, 6, dtype=torch.float64).reshape(1, 2, 3)
    whole = at.lyapunov(driven, puzzles(), starts, k=2, steps=80, transient=4)
    half = at.lyapunov(driven, puzzles(), starts, k=2, steps=40, transient=4, keep_frame=True)
    more = at.lyapunov(driven, puzzles(), None, k=2, steps=40, resume=half)
    np.testing.assert_allclose(more.lyapunov_exponent, whole.lyapunov_exponent, rtol=1e-9)
    assert more.sizes["window"] == 40 and more.attrs["steps"] == 80
    with pytest.raises(ValueError, match="keep_frame"):
        at.lyapunov(driven, puzzles(), starts, k=2, steps=40, resume=whole)
    with pytest.raises(ValueError, match="use the same"):
        at.lyapunov(driven, puzzles(), starts, k=1, steps=40, resume=half)
    with pytest.raises(ValueError, match=f"noise {noise:g}; use the same"):
        at.lyapunov(driven.with_noise(0.1), puzzles(), None, k=2, steps=40, resume=half)


def test_the_frames_kept_are_those_of_all_states_of_any_shape():
    system = MapSystem(
        lambda z, x: torch.sin(3 * z.flip(-1)), lambda x, g: torch.randn((len(x), 2, 2), generator=g)
    )
    starts = torch.linspace(0.1, 1, 20, dtype=torch.float64).reshape(1, 5, 2, 2)
    starts[0, 1] = torch.nan  # a gap
    half = at.lyapunov(system, puzzles(), starts, k=3, steps=20, keep_frame=True, batch_size=3)
    assert half.frame.dims == ("puzzle", "point", "eig", "state_0", "state_1")
    assert half.frame.isnull().all(("eig", "state_0", "state_1")).values.tolist() == [
        [False, True, False, False, False]
    ]
    more = at.lyapunov(system, puzzles(), None, k=3, steps=20, resume=half)
    whole = at.lyapunov(system, puzzles(), starts, k=3, steps=40, transient=2)
    np.testing.assert_allclose(more.lyapunov_exponent, whole.lyapunov_exponent, rtol=1e-9)


@pytest.mark.parametrize("step", [0.5, 1e-4], ids=["mild", "graded"])
def test_the_stretch_between_orthonormalisations_does_not_matter(step, monkeypatch):
    """Fast and slow directions: 8 steps at once where the digits allow it, fewer or one where they do not."""
    slopes = torch.tensor([2.0, 1.0, step], dtype=torch.float64)
    system = MapSystem(lambda z, x: torch.sin(slopes * z.roll(1, 1)) + 0.3 * z, normal_start(3))
    starts = torch.linspace(0.1, 1, 6, dtype=torch.float64).reshape(1, 2, 3)
    long = at.lyapunov(system, puzzles(), starts, k=3, steps=180)
    monkeypatch.setattr(
        sys.modules["eqrlab.attractors.dynamics.lyapunov"], "STRIDE", 1
    )  # the name is the function
    one = at.lyapunov(system, puzzles(), starts, k=3, steps=180)
    np.testing.assert_allclose(long.window_exponent, one.window_exponent, atol=1e-8)


def test_diverging_trajectories_are_not_numbers():
    result = at.lyapunov(
        logistic(4.5), puzzles(), torch.tensor([[[0.2], [3.0]]], dtype=torch.float64), k=1, steps=100
    )
    assert np.isnan(result.lyapunov_exponent).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values", [[0.9], [0.9, 0.3], [complex(math.cos(1), math.sin(1))]])
def test_intervals_are_as_wide_as_rounding_where_all_steps_stretch_alike(values, dtype):
    matrix = rotation_blocks(values)
    start = torch.full((1, 1, len(matrix)), 0.3, dtype=torch.float64)
    found = at.lyapunov(linear_in_dtype(matrix), puzzles(), start, k=len(matrix), steps=400, dtype=dtype)
    exact = np.sort(np.log(torch.linalg.svdvals(matrix).numpy()))[::-1]
    assert (found.lyapunov_exponent_low.values <= exact).all()
    assert (found.lyapunov_exponent_high.values >= exact).all()
    assert found.exponent_sum_low.item() <= exact.sum() <= found.exponent_sum_high.item()


def linear_in_dtype(matrix):
    return MapSystem(lambda z, x: z @ matrix.to(z).T, normal_start(len(matrix)))


def test_neutral_directions_count_in_the_dimension_although_they_are_zero_only_within_errors():
    first, second = rotor(1.0), rotor(math.sqrt(2))
    torus = MapSystem(
        lambda z, x: torch.cat((first.step(z[:, :2], x), second.step(z[:, 2:], x)), 1), normal_start(4)
    )
    starts = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    found = at.lyapunov(torus, puzzles(), starts, k=4, steps=400)
    np.testing.assert_allclose(found.kaplan_yorke, 2, atol=1e-3)  # transients
    assert (found.kaplan_yorke_low <= 2).all() and (found.kaplan_yorke_high >= 2).all()


@pytest.mark.parametrize("steps", [200, 1000])
def test_growth_like_time_has_exponents_of_zero_within_their_intervals(steps):
    jordan = linear(torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    found = at.lyapunov(jordan, puzzles(), torch.zeros(1, 3, 2, dtype=torch.float64), k=2, steps=steps)
    for name in ("lyapunov_exponent", "puzzle_exponent", "exponent_sum"):
        assert (found[f"{name}_low"] <= 0).all() and (found[f"{name}_high"] >= 0).all()
    assert (found.lyapunov_exponent[..., 0] > 0).all() and (found.kaplan_yorke == 2).all()


def test_small_parts():
    assert kaplan_yorke(np.array([-0.1, -1.0])) == 0
    assert np.isnan(kaplan_yorke(np.array([0.5, 0.1])))
    assert (
        kaplan_yorke(np.array([-1e-9, -1.0])) == 0
        and kaplan_yorke(np.array([-1e-9, -1.0]), np.array([True, False])) == 1
    )
    assert kaplan_yorke(np.array([0.5, 0.0, -1.0])) == 2.5
    mean, low, high = mean_interval(np.array([[-np.inf, -np.inf], [1.0, 3.0], [np.nan, np.nan]]), 0.95)
    assert (
        mean[0] == low[0] == high[0] == -np.inf
        and mean[1] == 2
        and low[1] < 2 < high[1]
        and np.isnan(mean[2])
    )


@pytest.mark.parametrize("size", [2, 100])
def test_finite_time_exponents_of_the_non_normal_example(size):
    exact = {1: 1.6175, 2: 0.7531, 5: 0.00995, 20: -0.4981, 100: -0.6540}
    for steps, value in exact.items():
        result = at.ftle(
            linear(inside(NON_NORMAL, size)),
            puzzles(),
            torch.zeros(1, 1, size, dtype=torch.float64),
            steps=steps,
            k=2,
        )
        np.testing.assert_allclose(result.ftle[0, 0, 0], value, atol=6e-5)
        np.testing.assert_allclose(
            result.ftle.sum("eig"), np.log(0.2), rtol=1e-8
        )  # the determinant, at every n
        assert result.converged.all()


def test_the_cat_map_is_exact_at_every_length():
    for steps in (1, 2, 7, 20, 60):
        result = at.ftle(cat_map(), puzzles(), start(0.3, 0.45), steps=steps, k=2)
        np.testing.assert_allclose(result.ftle.values[0, 0], [CAT, -CAT], rtol=1e-10)


@pytest.mark.parametrize("steps", [3, 40])
def test_matrix_free_products_agree_with_full_ones(steps):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(80, 80, generator=generator, dtype=torch.float64) / 80**0.5
    system = MapSystem(lambda z, x: torch.tanh(1.5 * z @ W.T), normal_start(80))
    z = torch.randn(1, 3, 80, generator=generator, dtype=torch.float64)
    result = at.ftle(system, puzzles(), z, steps=steps, k=3, tol=1e-6)
    from eqrlab.attractors.dynamics.tangent import Orbit, product_log_singular_values

    states, state = [], z[0]
    for _ in range(steps):
        states.append(state)
        state = system.step(state, None)
    factors = [Orbit(system, None, states, True).at(t).dense() for t in range(steps)]
    exact = product_log_singular_values(factors)[:, :3] / steps
    np.testing.assert_allclose(result.ftle.values[0], exact, atol=1e-6)
    assert result.converged.all()


def test_finite_time_rank_deficiency_and_overflow():
    system, xi = one_pattern(100)
    result = at.ftle(system, puzzles(), (0.957504024 * xi)[None, None], steps=5, k=2)
    assert (
        np.isneginf(result.ftle.values[0, 0, 1])
        and abs(result.ftle.values[0, 0, 0] - np.log(0.16637208775)) < 1e-7
    )
    steep = linear(inside(1e6 * rotation_blocks([1.0, 0.5]), 80))
    result = at.ftle(steep, puzzles(), torch.zeros(1, 1, 80, dtype=torch.float64), steps=100, k=2)
    np.testing.assert_allclose(result.ftle.values[0, 0], np.log([1e6, 5e5]), rtol=1e-9)
    with pytest.raises(ValueError, match="steps must be"):
        at.ftle(steep, puzzles(), torch.zeros(1, 1, 80, dtype=torch.float64), steps=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_agree_with_their_dense_jacobian(dtype):
    config = EqRConfig(vocab_size=6, seq_len=6, hidden_size=12, num_heads=2, H_cycles=2, L_cycles=2)
    torch.manual_seed(4)
    model, inputs = EqR(config).double(), torch.arange(6).reshape(1, 6)
    z = torch.randn(1, 1, *model.state_shape, dtype=torch.float64)
    x = model.encode(inputs)
    twice = torch.func.jacrev(lambda z: model.step(model.step(z, x), x))(z[0]).detach().reshape(144, 144)
    result = at.ftle(model, inputs, z, steps=2, k=2, dtype=dtype)
    np.testing.assert_allclose(
        result.ftle.values[0, 0],
        torch.linalg.svdvals(twice)[:2].log() / 2,
        rtol=1e-3 if dtype == "float32" else 1e-7,
    )


@pytest.mark.parametrize(
    ("matrix", "dimension"),
    [
        ([[2.0, 1.0], [1.0, 1.0]], 2),
        ([[3.0, 2.0], [1.0, 1.0]], 2),
        ([[2.0]], 1),
        ([[2.0, 0.0], [0.0, 3.0]], 2),
        ([[1.0, 0.0], [0.0, 1.0]], 2),
        ([[2.0, 0.0], [0.0, 0.25]], 1.5),
        ([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0]], 3),
    ],
)
def test_all_exponents_decide_the_kaplan_yorke_dimension(matrix, dimension):
    A = torch.tensor(matrix, dtype=torch.float64)
    size = len(A)
    system = MapSystem(
        lambda z, x: (z @ A.T) % 1.0, lambda x, g: torch.rand((len(x), size), generator=g).double()
    )
    start = torch.full((1, 1, size), 0.3, dtype=torch.float64) + 0.11 * torch.arange(size)
    result = at.lyapunov(system, puzzles(), start, k=size, steps=200)
    np.testing.assert_allclose(result.kaplan_yorke, dimension, atol=1e-6)
    if size > 1 and dimension == size:  # fewer exponents do not decide it
        assert np.isnan(at.lyapunov(system, puzzles(), start, k=size - 1, steps=200).kaplan_yorke).all()
