"""The Jacobian products are those of the map, and a map they cannot be trusted for is refused in one sentence."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.jacobian import (
    DENSE_LIMIT,
    Jacobian,
    check_differentiable,
    row_bytes,
    rows_within,
)
from eqrlab.attractors.ensemble.states import take_points
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import normal_start, puzzles

A = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
mlp = EqRConfig(vocab_size=6, seq_len=5, hidden_size=8, num_heads=2, H_cycles=2, L_cycles=2)
attention = EqRConfig(
    vocab_size=6, seq_len=4, hidden_size=8, num_heads=2, mixer="attention", positions="rope2d"
)


def reasoner_points(config, dtype=torch.float64, points=3):
    model = EqR(config)
    inputs = torch.arange(2 * config.seq_len).reshape(2, -1) % config.vocab_size
    z = torch.randn(2, points, *model.state_shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return take_points(model, inputs, z)


def checked(step, state=None, dtype=torch.float64):
    z = torch.linspace(0.31, 1.77, 8, dtype=dtype).reshape(1, 2, 4) if state is None else state
    check_differentiable(take_points(MapSystem(step, normal_start(4)), puzzles(), z))


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated"
)  # torch's forward mode, used here as oracle
@pytest.mark.parametrize("config", [mlp, attention], ids=["mlp", "attention"])
def test_products_are_those_of_the_dense_jacobian(config):
    points = reasoner_points(config)
    x = points.context(torch.arange(len(points.z)))
    jacobian = Jacobian(points.system, x, points.z)
    dense = jacobian.dense()
    v = torch.randn(6, points.size, dtype=torch.float64)
    assert torch.allclose(jacobian.push(v), torch.einsum("nij,nj->ni", dense, v), rtol=1e-11, atol=1e-12)
    assert torch.allclose(jacobian.pull(v), torch.einsum("nji,nj->ni", dense, v), rtol=1e-11, atol=1e-12)
    with torch.no_grad(), forward_ad.dual_level():
        forward = forward_ad.unpack_dual(jacobian.map(forward_ad.make_dual(points.z.flatten(1), v))).tangent
    assert torch.allclose(jacobian.push(v), forward, rtol=1e-11, atol=1e-12)
    part = jacobian.select(torch.tensor([4, 1]))
    assert torch.allclose(part.pull(v[[4, 1]]), jacobian.pull(v)[[4, 1]], rtol=1e-11, atol=1e-12)


def test_the_jacobian_of_two_steps_is_the_product_along_the_orbit():
    points = reasoner_points(mlp)
    x = points.context(torch.arange(6))
    with torch.no_grad():
        second = points.system.step(points.z, x)
    product = Jacobian(points.system, x, second).dense() @ Jacobian(points.system, x, points.z).dense()
    assert torch.allclose(Jacobian(points.system, x, points.z, steps=2).dense(), product, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("config", [mlp, attention], ids=["mlp", "attention"])
def test_models_pass_the_check(config, dtype):
    check_differentiable(reasoner_points(config, dtype))


@pytest.mark.parametrize(
    "step",
    [
        lambda z, x: z @ torch.eye(4, dtype=z.dtype) / 2,
        lambda z, x: torch.tanh(50 * z),  # saturated: its derivative is nearly zero, and right
        lambda z, x: torch.ones_like(z),  # constant: zero, and right
        lambda z, x: (z - 1) ** 2 * 0 + 0.2,
        lambda z, x: torch.relu(z - 0.5),
    ],
)
def test_odd_but_honest_maps_pass(step):
    checked(step)


def test_a_superattracting_point_passes():
    checked(lambda z, x: 1 + (z - 1) ** 2, torch.ones(1, 1, 4, dtype=torch.float64))


def half_detached(z, x):
    return 0.5 * z + 0.1 * torch.tanh(z).detach()


def without_gradient(z, x):
    with torch.no_grad():
        return torch.tanh(z)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda z, x: 0.5 * z + 0.01 * torch.randn_like(z), "not deterministic"),
        (lambda z, x: F.dropout(z, 0.5), "not deterministic"),
        (without_gradient, "records no gradient"),
        (lambda z, x: torch.tanh(z).detach(), "records no gradient"),
        (half_detached, "disagree with finite differences"),
        (lambda z, x: torch.round(z), "piecewise constant"),
        (lambda z, x: F.one_hot(z.argmax(1), 4).to(z), "records no gradient"),
        (lambda z, x: z + (torch.round(z) - z).detach(), "disagree with finite differences"),
        (lambda z, x: torch.sign(z - 0.9), "piecewise constant"),
        (lambda z, x: torch.tanh(z.float()).double(), "disagree with finite differences"),
        (lambda z, x: z / z.sum(), "mixes rows"),
        (lambda z, x: z / 0.0, "NaN or infinity"),
        (lambda z, x: z.float(), "must return a state"),
        (lambda z, x: z[:, :3], "must return a state"),
        (lambda z, x: z.mul_(0.5), "writes into its state"),
    ],
)
def test_faulty_maps_are_refused(step, words):
    with pytest.raises(ValueError, match=words):
        checked(step)


def test_states_that_are_not_finite_are_named_and_gaps_are_left_out():
    z = torch.ones(2, 2, 4, dtype=torch.float64)
    system = MapSystem(lambda z, x: z / 2, normal_start(4))
    z[1, 0] = np.nan
    points = take_points(system, puzzles(2), z)
    assert points.present.tolist() == [True, True, False, True]
    check_differentiable(points)
    z[1, 0, 0] = 1.0
    with pytest.raises(ValueError, match="puzzle 1, point 0"):
        take_points(system, puzzles(2), z)
    with pytest.raises(ValueError, match="all states are NaN"):
        check_differentiable(take_points(system, puzzles(2), torch.full((2, 1, 4), np.nan)))


@pytest.mark.parametrize(
    ("states", "options", "words"),
    [
        (torch.ones(1, 4), {}, "puzzle, point"),
        (torch.ones(3, 1, 4), {}, "3 puzzles, inputs 1"),
        (torch.ones(1, 1, 4, dtype=torch.long), {}, "floating"),
        (torch.ones(1, 1, 4), {"dtype": "float16"}, "float32 or float64"),
        (torch.ones(1, 1, 4), {"dtype": "huge"}, "unknown"),
    ],
)
def test_states_of_the_wrong_kind_are_refused(states, options, words):
    with pytest.raises(ValueError, match=words):
        take_points(MapSystem(lambda z, x: z, normal_start(4)), puzzles(), states, **options)


def test_half_precision_is_raised_to_float32():
    points = take_points(
        MapSystem(lambda z, x: z, normal_start(4)), puzzles(), torch.ones(1, 1, 4, dtype=torch.bfloat16)
    )
    assert points.z.dtype == torch.float32


def test_a_dense_jacobian_has_a_limit():
    z = torch.zeros(1, DENSE_LIMIT + 1)
    with pytest.raises(ValueError, match="dense Jacobian"):
        Jacobian(MapSystem(lambda z, x: z, normal_start(4)), None, z).dense()


def test_rows_within_follows_the_memory():
    points = reasoner_points(mlp)
    rows = torch.arange(6)
    graph = row_bytes(points.system, points.context(rows), points.z)
    assert graph > points.size * 8
    assert rows_within(points, 10, 1, memory=5 * (graph + 80 * points.size)) == 5
    assert rows_within(points, 10, 1, memory=1) == 1


@pytest.mark.parametrize("size", [2, 100])
def test_states_without_a_finite_derivative_get_nan_and_leave_the_others_alone(size):
    roots = MapSystem(lambda z, x: torch.sqrt(z.clamp(min=0)), normal_start(size))
    z = torch.rand(1, 5, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    z[0, 1:3, 0] = 0.0
    smooth = z[:, [0, 3, 4]]
    for name, value, options in (
        ("spectrum", "eigenvalue", {}),
        ("singular_values", "singular_value", {}),
        ("ftle", "ftle", {"steps": 3}),
    ):
        analysis = getattr(at, name)
        found = analysis(roots, puzzles(), z, k=2, **options)
        assert np.isnan(found[value].values[0, 1:3]).all() and not found.converged.values[0, 1:3].any()
        alone = analysis(roots, puzzles(), smooth, k=2, **options)
        np.testing.assert_allclose(found[value].values[:, [0, 3, 4]], alone[value], rtol=1e-6)
        with pytest.raises(
            ValueError, match="step\\(\\) or its derivative gives NaN or infinity at every state"
        ):
            analysis(roots, puzzles(), z[:, 1:2], k=2)
