"""Input sensitivity of fixed points: in closed form where the map is linear, by finite differences where it is not."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.input_sensitivity import response
from eqrlab.core import MapSystem, load
from eqrlab.datasets import bundled
from tests.zoo import normal_start, rotation_blocks


def driven(a, b):
    """G1 driven by its input: z -> A z + B x; its answer, and its logits, are read off by a matrix of ones and twos."""
    system = MapSystem(
        lambda z, x: z @ a.T + x @ b.T, normal_start(len(a)), lambda z, x: system.logits(z, x).argmax(-1)
    )
    read = torch.arange(1.0, 1 + len(a), dtype=torch.float64)
    system.logits = lambda z, x: torch.stack((z * read, -z * read), -1)
    return system


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(4)
    a = rotation_blocks([0.6 + 0.5j, 0.3, -0.7])
    b = torch.randn((4, 3), generator=generator, dtype=torch.float64)
    tokens = torch.tensor([[2, 5, 1], [3, 1, 1]])
    fixed = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - a, b @ tokens.T.double()).T[:, None]
    return a, b, tokens, fixed


def test_the_change_is_that_of_the_closed_form_of_g1(linear):
    """dz*/dx = (I - A)^-1 B: taking out clue i moves z* by that times (1 - token) e_i."""
    a, b, tokens, fixed = linear
    found = at.input_sensitivity(driven(a, b), tokens, fixed, blank=1, tol=1e-12)
    exact = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - a, b)
    moved = (exact.norm(dim=0) * (tokens - 1).abs()) / fixed[:, 0].norm(dim=1, keepdim=True)
    clue = tokens.numpy() != 1
    np.testing.assert_allclose(found.moved.values[:, 0][clue], moved.numpy()[clue], rtol=1e-10)
    assert np.isnan(found.moved.values[:, 0][~clue]).all(), "a blank cell is no clue"
    assert np.nanmax(found.solve_residual) < 1e-11
    scale = torch.arange(1.0, 5.0, dtype=torch.float64)
    margin = 2 * (fixed[:, 0] * scale).abs()
    change = exact[None] * (1 - tokens)[:, None, :]  # (puzzle, state, clue)
    lost = -2 * scale[:, None] * change * fixed[:, 0].sign()[:, :, None] / margin[:, :, None]
    np.testing.assert_allclose(found.margin_lost.values[:, 0][clue], lost.amax(1).numpy()[clue], rtol=1e-5)


def test_a_nonlinear_fixed_point_moves_as_finite_differences_say():
    generator = torch.Generator().manual_seed(1)
    w, u = (torch.randn(s, generator=generator, dtype=torch.float64) * 0.4 for s in ((6, 6), (6, 3)))
    system = MapSystem(lambda z, x: torch.tanh(z @ w.T + x @ u.T), normal_start(6))
    x, way = (torch.randn((5, 3), generator=generator, dtype=torch.float64) for _ in range(2))

    def settle(context):
        z = torch.zeros(5, 6, dtype=torch.float64)
        for _ in range(3000):
            z = system.step(z, context)
        return z

    z = settle(x)
    assert (system.step(z, x) - z).abs().max() < 1e-14
    found, left = response(system, x, z, way, tol=1e-13)
    difference = (settle(x + 1e-6 * way) - settle(x - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(found, difference, atol=1e-8 * float(difference.abs().max()))
    assert left.max() < 1e-12


def test_a_model_moves_as_finite_differences_say():
    model, puzzles = load("eqr-sudoku6").double(), bundled("sudoku6").take(slice(0, 1))
    tokens = torch.as_tensor(puzzles.inputs)
    runs = at.sample(model, tokens, labels=puzzles.labels, restarts=4, depth=400, noise=0.0, dtype="float64",
                     keep=("final_state",))  # fmt: skip
    best = int(runs.relative_residual.values[0, :, -1].argmin())
    assert float(runs.relative_residual[0, best, -1]) < 1e-11
    z = torch.as_tensor(runs.final_state.values[0, best : best + 1])
    x = model.encode(tokens).detach().double()
    cell = int(np.flatnonzero(puzzles.inputs[0] != 1)[0])
    fewer = tokens.clone()
    fewer[0, cell] = 1
    way = model.encode(fewer).detach().double() - x
    with torch.no_grad():
        found, _ = response(model, x, z, way, tol=1e-9)
        ends = []
        for sign in (1, -1):
            y = z
            for _ in range(400):
                y = model.step(y, x + sign * 1e-5 * way)
            ends.append(y.flatten(1))
    difference = (ends[0] - ends[1]) / 2e-5
    assert float((found - difference).norm() / difference.norm()) < 1e-5
    whole = at.input_sensitivity(model, tokens, z[None], blank=1, tol=1e-9)
    assert float(whole.moved[0, 0, cell]) == pytest.approx(float(found.norm() / z.norm()), rel=1e-6)
    assert (whole.margin_lost.values[0, 0][puzzles.inputs[0] != 1] > -np.inf).all()


def test_states_that_move_and_gaps_have_no_sensitivity(linear):
    a, b, tokens, fixed = linear
    states = torch.cat((fixed, fixed + 1, torch.full_like(fixed, torch.nan)), 1)
    found = at.input_sensitivity(driven(a, b), tokens, states, blank=1)
    assert np.isfinite(found.moved.values[0, 0, :2]).all() and np.isnan(found.moved.values[:, 1:]).all()
    assert float(found.residual[0, 1]) > 1e-3 and np.isnan(found.residual[0, 2])
    with pytest.raises(ValueError, match="tol must be"):
        at.input_sensitivity(driven(a, b), tokens, fixed, blank=1, tol=2)
