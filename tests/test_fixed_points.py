"""Fixed points and cycles are found, told apart, and certified; every other end has its code."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.certificate import smallest_singular
from eqrlab.attractors.dynamics.jacobian import Jacobian
from eqrlab.attractors.dynamics.krylov.gmres import gmres
from eqrlab.attractors.dynamics.solvers import RESULTS, anderson, begin, newton, picard, projection
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import (
    contraction,
    henon,
    hidden_selector,
    householder,
    ikeda,
    linear,
    logistic,
    normal_start,
    puzzles,
    reflect,
    rotation_blocks,
    rotor,
    selector,
    selector_level,
)

M = selector_level(2.0)


def points(*values):
    return torch.tensor([[list(v) for v in values]], dtype=torch.float64)


def names(result):
    return [RESULTS[i] for i in result.result.values.ravel()]


def started(system, z, tol=1e-12):
    return begin(system, torch.zeros(len(z), 1, dtype=torch.float64), z, tol, z.flatten(1).norm(dim=1))


def randoms(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", ["staged", "picard", "anderson", "newton"])
def test_every_method_solves_a_contraction_exactly(method):
    matrix = rotation_blocks([0.9 + 0.2j, -0.5])
    offset = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    exact = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - matrix, offset)
    result = at.fixed_points(linear(matrix, offset), puzzles(), randoms(1, 4, 3), method=method, tol=1e-13)
    assert set(names(result)) <= {"converged", "at_floor"}
    np.testing.assert_allclose(result.fixed_point.values[0], exact.expand(4, 3), atol=1e-10)
    assert (result.solution == 0).all() and result.representative.sum() == 1 and result.stable.all()
    np.testing.assert_allclose(result.spectral_radius, abs(0.9 + 0.2j), rtol=1e-12)
    error = np.linalg.norm(result.fixed_point.values[0] - exact.numpy(), axis=1)
    assert (error <= result.error_bound.values[0]).all()


def test_all_nine_fixed_points_of_two_selectors():
    starts = torch.cartesian_prod(*[torch.linspace(-1.3, 1.3, 9, dtype=torch.float64)] * 2)[None]
    result = at.fixed_points(selector([[0.0, 0.0]]), puzzles(), starts, method="newton")
    one = result.where(result.representative, drop=True)
    found = {tuple(v) for v in np.round(one.fixed_point.values[0], 6)}
    assert len(found) == one.sizes["point"] == 9 and result.ambiguous.item() == 0
    np.testing.assert_allclose(sorted({abs(v) for pair in found for v in pair})[-1], 0.957504, atol=1e-6)
    stable = result.stable.values[0]
    inside = np.abs(result.fixed_point.values[0]).min(1) > 0.9
    assert (stable == inside)[result.result.values[0] == 0].all()
    returned = result.return_ratio.values[0]
    assert (returned[stable] < 1e-6).all() and (returned[~stable & (result.result.values[0] == 0)] > 10).all()


def test_forward_iteration_finds_stable_points_only():
    starts = randoms(1, 40, 2)
    result = at.fixed_points(selector([[0.1, -0.3]]), puzzles(), starts)
    assert set(names(result)) == {"converged"} and result.stable.all()
    assert result.solution.max() == 3 and (result.forward_drift < 1e-8).all() and result.answer_returns.all()


def test_saddles_of_henon_by_newton_with_their_eigenvalues():
    result = at.fixed_points(henon(), puzzles(), points([0.6, 0.2], [-1.0, -0.3]), method="newton")
    exact = [[0.6313544771, 0.1894063431], [-1.1313544771, -0.3394063431]]
    np.testing.assert_allclose(result.fixed_point.values[0], exact, atol=1e-10)
    np.testing.assert_allclose(
        result.eigenvalue.values[0].real,
        [[-1.9237388582, 0.1559463223], [3.2598220979, -0.0920295620]],
        atol=1e-9,
    )
    assert not result.stable.any() and (result.return_ratio > 10).all()


def test_ikeda_point_and_its_coexisting_chaos():
    result = at.fixed_points(ikeda(), puzzles(), points([2.9, 4.1], [0.5, 0.5]), method="picard")
    assert names(result) == ["converged", "wandering"]
    np.testing.assert_allclose(result.fixed_point.values[0, 0], [2.97213162, 4.14594642], atol=1e-8)
    np.testing.assert_allclose(result.spectral_radius.values[0, 0], 0.9, rtol=1e-9)


@pytest.mark.parametrize(
    ("r", "period", "multiplier"), [(3.2, 2, 0.16), (3.5, 4, np.exp(4 * -0.8725073458)), (3.83, 3, 0.3298817)]
)
def test_cycles_have_their_minimal_period_and_multiplier(r, period, multiplier):
    result = at.fixed_points(logistic(r), puzzles(), points([0.5], [0.51]))
    assert set(names(result)) == {"periodic"} and (result.period == period).all()
    np.testing.assert_allclose(np.abs(result.spectral_radius), multiplier, rtol=2e-5)
    assert result.stable.all() and (result.residual < 1e-6).all()
    unstable = at.fixed_points(logistic(r), puzzles(), points([0.3]), method="newton")
    assert names(unstable) == ["converged"] and not unstable.stable.any() and unstable.period.item() == 1


def test_the_ends_of_searches_without_a_fixed_point():
    shift = MapSystem(lambda z, x: z + 1.0, normal_start(1))
    assert names(at.fixed_points(shift, puzzles(), points([0.3]))) == ["wandering"]
    grow = at.fixed_points(
        linear(2 * torch.eye(1, dtype=torch.float64)), puzzles(), points([0.3]), method="picard"
    )
    assert names(grow) == ["diverged"]
    turning = rotor(2 * np.pi * (np.sqrt(5) - 1) / 2)
    result = at.fixed_points(turning, puzzles(), points([1.0, 0.0]), method="picard")
    assert (
        names(result) == ["wandering"]
        and result.solution.item() == -1
        and np.isnan(result.error_bound.item())
    )
    rational = at.fixed_points(rotor(2 * np.pi * 2 / 7), puzzles(), points([0.9, 0.0]), method="picard")
    assert names(rational) == ["periodic"] and rational.period.item() == 7
    slow = at.fixed_points(
        contraction(0.9999), puzzles(), points([3.0, 3, 3]), method="picard", max_steps=300
    )
    assert names(slow) == ["budget"]
    assert names(at.fixed_points(contraction(0.9999), puzzles(), points([3.0, 3, 3]))) == ["converged"]


def test_a_row_that_is_not_finite_stays_alone():
    starts = points([0.5], [np.nan], [np.inf], [-0.5])
    result = at.fixed_points(selector([[0.0]]), puzzles(), starts)
    assert names(result) == ["converged", "nonfinite", "nonfinite", "converged"]
    np.testing.assert_allclose(result.fixed_point.values[0, [0, 3], 0], [M, -M], rtol=1e-9)
    blown = MapSystem(lambda z, x: torch.where(z > 5, z * torch.inf, z / 2), normal_start(1))
    assert names(at.fixed_points(blown, puzzles(), points([1.0], [9.0]), method="picard", certify=False)) == [
        "converged",
        "nonfinite",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_origin_is_one_fixed_point_however_near_to_it_searches_end(dtype):
    starts = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    for matrix in (torch.eye(2) / 2, -0.9 * torch.eye(2)):
        system = MapSystem(lambda z, x, A=matrix: z @ A.to(z), normal_start(2))
        result = at.fixed_points(system, puzzles(), starts)
        assert set(names(result)) == {"converged"}
        assert (result.solution == 0).all() and (result.ambiguous == 0).all() and result.stable.all()


@pytest.mark.parametrize("size", [2, 100])
def test_a_fixed_point_without_derivative_is_undecided_and_leaves_the_others_alone(size):
    roots = MapSystem(lambda z, x: torch.sqrt(z.clamp(min=0)), normal_start(size))
    starts = torch.full((1, 4, size), 0.5, dtype=torch.float64)
    starts[0, 1:3] = 0.0
    result = at.fixed_points(roots, puzzles(), starts)
    assert set(names(result)) == {"converged"}
    assert result.solution.values.tolist() == [[1, 0, 0, 1]]
    assert result.stability.values.tolist() == [[0, 2, 2, 0]]
    np.testing.assert_allclose(result.spectral_radius, [[0.5, np.nan, np.nan, 0.5]], rtol=1e-6)


def test_single_precision_ends_at_its_floor():
    start = torch.tensor([[[0.5], [-0.4]]])
    result = at.fixed_points(selector([[0.1]]), puzzles(), start, tol=1e-12, dtype="float32")
    assert set(names(result)) <= {"at_floor", "converged"} and result.residual.dtype == "float32"


@pytest.mark.parametrize(("angle", "fate"), [(np.pi / 2, "periodic"), (1.0, "wandering")])
def test_finished_rows_are_retired(angle, fate):
    """One row that turns for ever, on a cycle or not, costs no more than the 99 that settle."""
    c, s = np.cos(angle), np.sin(angle)
    rows = []

    def step(z, x):  # rows contract to (1, 1) by 1/20 a step; those above 5 turn
        rows.append(len(z))
        turn = torch.stack((c * z[:, 0] - s * z[:, 1], s * z[:, 0] + c * z[:, 1]), 1)
        return torch.where(z.norm(dim=1, keepdim=True) > 5, turn, 1 + (z - 1) / 20)

    starts = randoms(1, 100, 2).clamp(-2, 2)
    starts[0, 7] = torch.tensor([6.0, 6.0])
    result = at.fixed_points(
        MapSystem(step, normal_start(2)), puzzles(), starts, method="picard", certify=False, tol=1e-6
    )
    assert (np.delete(result.result.values[0], 7) == 0).all() and names(result)[7] == fate
    assert int(result.evaluations.sum()) <= sum(rows) <= 900


def test_deflation_finds_the_other_points_from_one_start():
    result = at.fixed_points(selector([[0.0]]), puzzles(), points([0.8]), method="newton", deflate=2)
    np.testing.assert_allclose(sorted(result.fixed_point.values.ravel()), [-M, 0, M], atol=1e-9)
    assert result.start.values.tolist() == [0, 0, 0] and sorted(result.solution.values[0]) == [0, 1, 2]


def test_radii_follow_residual_and_conditioning():
    nearly = MapSystem(lambda z, x: z - 1e-3 * (z**2 - 1e-8) * z, normal_start(1))  # three points, 1e-4 apart
    starts = points([1e-4], [-1e-4], [0.0])
    result = at.fixed_points(nearly, puzzles(), starts, method="newton", tol=1e-15)
    assert result.sigma_min.values.min() < 1e-10
    far = at.fixed_points(
        selector([[0.0]]), puzzles(), points([0.9575040240], [0.9575040241]), method="picard"
    )
    assert (far.solution == 0).all() and float(far.error_bound.max()) < 1e-8


@pytest.mark.parametrize("size", [400, pytest.param(50_000, marks=pytest.mark.slow)])
def test_saddles_at_any_size_by_newton_krylov_and_projection(size):
    rest = torch.linspace(-0.6, 0.6, size - 2, dtype=torch.float64)
    system, u = hidden_selector(size, rest), householder(size)
    exact = torch.zeros(3, size, dtype=torch.float64)
    exact[0, 0], exact[2, :2] = M, torch.tensor([M, -M], dtype=torch.float64)  # saddle, origin, sink
    exact = reflect(exact, u)
    starts = exact + 0.02 * randoms(3, size) / size**0.5
    result = at.fixed_points(system, puzzles(), starts[None], method="newton")
    assert set(names(result)) == {"converged"}
    np.testing.assert_allclose(result.fixed_point.values[0], exact, atol=1e-9)
    np.testing.assert_allclose(result.spectral_radius.values[0], [2, 2, 0.6], rtol=2e-3)
    assert (
        result.stable.values[0].tolist() == [False, False, True] and len(set(result.solution.values[0])) == 3
    )
    np.testing.assert_allclose(result.sigma_min.values[0], [0.4, 0.4, 0.4], rtol=0.02)
    search = started(system, starts[:2], tol=1e-10)
    projection(search)
    assert (search.code == 0).all() and torch.allclose(search.z, exact[:2], atol=1e-8)


def test_anderson_beats_plain_iteration():
    matrix = torch.diag(torch.linspace(-0.5, 0.98, 100, dtype=torch.float64))
    system = linear(matrix, torch.ones(100, dtype=torch.float64))
    searches = {}
    for method in (anderson, lambda s: picard(s, 10_000)):
        searches[method] = started(system, randoms(3, 100), tol=1e-8)
        method(searches[method])
    mixed, plain = searches.values()
    assert (mixed.code == 0).all() and mixed.evaluations.max() < plain.evaluations.min() / 5


def test_newton_does_not_depend_on_company():
    system = selector([[0.0]])
    starts = randoms(1, 12, 1, seed=3)
    together = at.fixed_points(system, puzzles(), starts, method="newton")
    parts = at.fixed_points(system, puzzles(), starts, method="newton", batch_size=5)
    np.testing.assert_allclose(together.fixed_point, parts.fixed_point, atol=1e-12)


def test_gmres_solves_its_system():
    A = torch.eye(60, dtype=torch.float64) + 0.3 * randoms(4, 60, 60) / 60**0.5
    b = randoms(4, 60, seed=1)
    y, used = gmres(lambda v: torch.einsum("nij,nj->ni", A, v), b, torch.full((4,), 1e-10))
    assert torch.allclose(torch.einsum("nij,nj->ni", A, y), b, atol=1e-8) and used <= 40


def test_the_smallest_singular_value_agrees_with_the_dense_one():
    matrix = 0.5 * randoms(90, 90) / 90**0.5
    system = linear(matrix)
    exact = torch.linalg.svdvals(torch.eye(90, dtype=torch.float64) - matrix)[-1]
    found, v = smallest_singular(Jacobian(system, None, torch.zeros(2, 90, dtype=torch.float64)), 0)
    np.testing.assert_allclose((v - v @ matrix.T).norm(dim=1) / v.norm(dim=1), found, rtol=1e-12)
    np.testing.assert_allclose(found, exact, rtol=1e-2)
    assert (found >= exact * (1 - 1e-12)).all()


def test_models_with_noise_are_searched_without_it():
    config = EqRConfig(vocab_size=6, seq_len=6, hidden_size=12, num_heads=2, H_cycles=1, L_cycles=2)
    torch.manual_seed(1)
    model, inputs = EqR(config), torch.arange(12).reshape(2, 6) % 6
    result = at.fixed_points(model, inputs, randoms(2, 3, *model.state_shape), max_steps=64)
    good = result.result.values <= 1
    x = model.encode(inputs).double()
    for p, m in zip(*np.nonzero(good), strict=True):
        z = torch.as_tensor(result.fixed_point.values[p, m : m + 1])
        residual = float((model.step(z, x[p : p + 1]) - z).norm().detach())
        assert residual <= 1e-9 * float(z.norm())
    assert result.fixed_point.dims == ("puzzle", "point", "state_0", "state_1", "state_2")


@pytest.mark.parametrize("options", [{"method": "magic"}, {"tol": 0}, {"max_steps": 0}, {"deflate": -1}])
def test_misuse_is_refused(options):
    with pytest.raises(ValueError, match=r"choose from|must be"):
        at.fixed_points(contraction(0.5), puzzles(), points([1.0, 2, 3]), **options)


def test_a_noisy_step_is_refused():
    noisy = MapSystem(lambda z, x: 0.5 * z + 0.01 * torch.randn_like(z), normal_start(1))
    with pytest.raises(ValueError, match="not deterministic"):
        at.fixed_points(noisy, puzzles(), points([0.3]))


def test_newton_stops_where_there_is_nothing_to_find():
    search = started(
        MapSystem(lambda z, x: z + 1 + z**2, normal_start(1)), torch.tensor([[0.7]], dtype=torch.float64)
    )
    newton(search)
    assert (search.code == -1).all()


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_deflation_finds_the_other_points_of_a_map_of_any_size(size):
    m = 0.9575040240772688 * size
    law = lambda x, g: size * torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    system = MapSystem(lambda z, x: size * torch.tanh(2 * z / size), law)
    start = torch.full((1, 1, 1), m, dtype=torch.float64)
    found = at.fixed_points(system, torch.zeros(1, 1, dtype=torch.long), start, deflate=2).fixed_point.values
    np.testing.assert_allclose(np.sort(found.ravel()), [-m, 0, m], atol=1e-9 * size)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_searches_and_certificates_do_not_depend_on_the_size_of_states(size):
    """A cubic whose stable point is the origin, with borders at half the size; starts at zero, inside and outside."""
    system = MapSystem(
        lambda z, x: size * (0.5 * (z / size) + 2 * (z / size) ** 3),
        lambda x, g: 0.3 * size * torch.ones(len(x), 1, dtype=torch.float64),
    )
    found = at.fixed_points(system, puzzles(), points((0.3 * size,), (0.0,), (0.65 * size,)))
    assert names(found) == ["converged", "converged", "diverged"]
    assert found.evaluations.values.tolist() == [[44, 1, 5]]
    assert (found.return_ratio.values[0, :2] < 1e-15).all() and found.stable.values.tolist() == [[1, 1, 0]]
    away = MapSystem(lambda z, x: size * (1 + 0.5 * torch.tanh(z / size)), system.initial)
    assert names(at.fixed_points(away, puzzles(), points((0.0,)))) == ["converged"]


@pytest.mark.parametrize("start", [1e-7, 1e-9])
def test_a_start_next_to_a_saddle_at_the_origin_reaches_the_attractor(start):
    """The attractor of tanh(2 z) is 10^7 times as large as the start, but not as the starts of the restart law."""
    system = MapSystem(lambda z, x: torch.tanh(2 * z), normal_start(1))
    found = at.fixed_points(system, puzzles(), points((start,)))
    assert names(found) == ["converged"] and found.fixed_point.item() == pytest.approx(M)
    assert np.isfinite(found.return_ratio).all()


@pytest.mark.parametrize("size", [2.0**66, 2.0**-66])
def test_states_whose_squares_leave_single_precision_are_refused(size):
    start = lambda x, g: torch.full((len(x), 1), size)
    system, starts = MapSystem(lambda z, x: size * torch.cos(z / size), start), torch.full((1, 1, 1), size)
    with pytest.raises(ValueError, match=r"puzzle 0, point 0 .* float32 .* dtype='float64'"):
        at.fixed_points(system, puzzles(), starts)
    found = at.fixed_points(system, puzzles(), starts, dtype="float64")
    assert found.fixed_point.item() / size == pytest.approx(0.7390851332)
