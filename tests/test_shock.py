"""Critical shocks, edge states and basin stability against exact borders."""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.attractors.results import archive
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import MapSystem
from tests.zoo import contraction, normal_start, one_pattern, puzzles, rotor, selector, selector_level

M = selector_level(2.0)
OFFSETS = torch.tensor([[0.3, -0.2], [0.0, 1.0]], dtype=torch.float64)
STATES = torch.stack([OFFSETS + M, OFFSETS + torch.tensor([M, -M], dtype=torch.float64)], 1)


@pytest.fixture(scope="module")
def shocks():
    """G3, two puzzles, two attractors each, tracked to their edge states."""
    return at.critical_shock(selector(OFFSETS.tolist()), puzzles(2), STATES, tol=1e-5, random=4, edge=True)


def test_least_shock_of_the_selector_is_the_distance_to_its_border(shocks):
    assert np.allclose(shocks.least_shock, M, rtol=1e-5)
    assert (shocks.least_shock.values >= M).all(), "an upper bound"


def test_random_shock_crosses_the_first_border_on_its_ray(shocks):
    rows = np.flatnonzero(shocks.kind.values == "random")
    found = shocks.result.values[..., rows] == 0
    assert found.any()
    low, high = shocks.shock_low.values[..., rows][found], shocks.shock.values[..., rows][found]
    assert (high - low <= 1e-5 * high).all()
    assert (high >= M).all()


def test_shock_towards_the_other_attractor_is_half_the_way(shocks):
    between = shocks.shock.values[..., shocks.kind.values == "between"]
    assert np.allclose(between[np.isfinite(between)], M, rtol=1e-5)
    own = shocks.result.values[..., shocks.kind.values == "between"] == 4
    assert (own.sum(-1) == 1).all(), "no direction leads to the attractor a state is at"


def test_edge_state_is_the_saddle_with_one_unstable_eigenvalue(shocks):
    distance = []
    for unit in (0, 1):  # the saddle lies on the border of one unit, the other unit stays
        saddle = STATES.numpy().copy()
        saddle[..., unit] = OFFSETS.numpy()[:, None, unit]
        distance.append(np.abs(shocks.edge_state.values - saddle).max(-1))
    assert (np.minimum(*distance) < 1e-9).all()
    assert np.allclose(shocks.edge_eigenvalue.values, 2.0)
    assert (shocks.edge_unstable.values == 1).all()
    assert (shocks.edge_residual.values < 1e-6).all()


@pytest.mark.parametrize("size", [100, 100_000])
def test_least_shock_of_one_pattern_is_m_root_d(size):
    system, xi = one_pattern(size)
    result = at.critical_shock(
        system,
        puzzles(1),
        (M * xi).view(1, 1, -1),
        directions=("eigen",),
        leading=1,
        scan=2,
        tol=0.01,
        depth=40,
    )
    low = result.shock_low.values[0, 0][int(result.least_direction.values[0, 0])]
    exact = M * size**0.5
    assert low <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= float(result.least_shock.values[0, 0])
    assert float(result.least_shock.values[0, 0]) <= 1.0102 * exact


def test_edge_state_of_one_pattern_is_the_origin():
    system, xi = one_pattern(100)
    states = torch.stack((M * xi, -M * xi))[None]
    result = at.critical_shock(
        system, puzzles(1), states, directions=("between",), tol=1e-4, depth=64, edge=True
    )
    assert np.allclose(result.edge_state.values, 0, atol=1e-9) and np.allclose(
        result.edge_eigenvalue.values, 2.0
    )
    assert (result.edge_unstable.values == 1).all()


def test_shock_within_a_global_basin_is_not_found():
    result = at.critical_shock(
        contraction(0.5), puzzles(1), torch.ones(1, 1, 3, dtype=torch.float64), random=3
    )
    within = result.result.values[..., result.kind.values != "between"]
    assert (within == 1).all()
    assert np.isnan(result.least_shock.values).all() and (result.least_direction.values == -1).all()


def test_state_that_never_settles_has_no_shock():
    result = at.critical_shock(
        rotor(1.0),
        puzzles(1),
        torch.tensor([[[1.0, 0.0]]], dtype=torch.float64),
        directions=("random",),
        depth=64,
    )
    assert (result.result.values == 2).all() and np.isnan(result.shock.values).all()


def test_shocks_do_not_depend_on_company_or_batch_size(shocks):
    alone = at.critical_shock(
        selector(OFFSETS.tolist()), puzzles(2)[1:], STATES[1:], tol=1e-5, random=4, batch_size=3
    )
    assert np.array_equal(alone.shock.values[0], shocks.shock.values[1], equal_nan=True)


def test_map_without_derivatives_can_be_shocked_along_random_directions():
    system = MapSystem(lambda z, x: torch.sign(z) + (z - torch.sign(z)).detach() / 2, normal_start(2))
    state = torch.ones(1, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="derivatives"):
        at.critical_shock(system, puzzles(1), state)
    result = at.critical_shock(system, puzzles(1), state, directions=("random",), random=16, tol=1e-4)
    assert float(result.least_shock.values[0, 0]) >= 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"directions": ("sideways",)}, "sideways"),
        ({"directions": ()}, "directions"),
        ({"tol": 0.0}, "tol"),
        ({"reach": -1}, "reach"),
        ({"random": 0}, "random"),
        ({"depth": 0}, "depth"),
    ],
)
def test_misuse_of_shocks_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        at.critical_shock(selector(OFFSETS.tolist()), puzzles(2), STATES, **options)


def test_shocks_survive_an_archive(shocks, tmp_path):
    archive.write(tmp_path / "s.nc", {"shock": shocks})
    back = archive.read(tmp_path / "s.nc")["shock"].to_dataset()
    assert np.array_equal(back.shock, shocks.shock, equal_nan=True)
    assert list(back.kind.values) == list(shocks.kind.values)


def test_stability_of_the_selector_is_the_share_of_the_sphere_inside():
    """Beyond m, a perturbation of length r on the circle leaves through y_i = b_i within an angle acos(m / r)."""
    sizes = np.array([0.5, 1.2]) * M / float(STATES[0, 0].norm())
    result = at.basin_stability(selector([[0.3, -0.2]]), puzzles(1), STATES[:1, :1], sizes=sizes, trials=400)
    outside = 2 * 2 * np.arccos(1 / 1.2) / (2 * np.pi)
    count = result.returned.values[0, 0]
    assert count[0] == 400
    assert stats.binomtest(int(count[1]), 400, 1 - outside).pvalue > 1e-3
    method = result.attrs["interval"].split(",")[0]
    np.testing.assert_allclose(result.stability_low[0, 0], proportion_interval(count, 400, method=method)[0])
    assert (result.stability_low <= result.stability).all() and (
        result.stability <= result.stability_high
    ).all()


def test_stability_of_a_state_that_never_settles_is_unknown():
    state = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    result = at.basin_stability(rotor(1.0), puzzles(1), state, sizes=(0.1,), trials=4, depth=64)
    assert np.isnan(result.stability.values).all() and not result.settled.values.any()


def test_misuse_of_stability_is_named():
    for options, words in (({"sizes": ()}, "sizes"), ({"sizes": (0.0,)}, "sizes"), ({"trials": 0}, "trials")):
        with pytest.raises(ValueError, match=words):
            at.basin_stability(selector([[0.3, -0.2]]), puzzles(1), STATES[:1], **options)


def unit_starts(x, generator):
    """Restart law of states (n, 1): 1 or -1."""
    return 2.0 * torch.randint(2, (len(x), 1), generator=generator).double() - 1


CUBE = MapSystem(lambda z, x: torch.clamp(z**3, -8, 8), unit_starts, lambda z, x: (z.abs() > 1).long())


@pytest.mark.parametrize("state", [0.0, 1e-12, -1e-7])
def test_a_state_at_the_origin_is_measured_by_the_size_of_starts(state):
    """z^3: the basin of 0 ends at +-1, which is the size of the starts."""
    z = torch.full((1, 1, 1), state, dtype=torch.float64)
    assert at.basin_stability(CUBE, puzzles(), z, sizes=(0.5, 2.0), trials=8).stability.values.tolist() == [
        [[1, 0]]
    ]
    shock = at.critical_shock(CUBE, puzzles(), z, random=2, tol=1e-9)
    np.testing.assert_allclose(shock.least_shock, 1, rtol=1e-6)
    np.testing.assert_allclose(shock.least_relative_shock, 1, rtol=1e-6)
    np.testing.assert_allclose(at.basin_radius(CUBE, puzzles(), z, tol=1e-9).basin_radius, 1, rtol=1e-6)


def test_the_run_of_a_state_at_the_origin_gives_its_size():
    """From +-0.5 runs pass +-0.125 after a step; the basin of 0 reaches eight times as far."""
    starts = torch.tensor([[[0.5], [-0.5]]], dtype=torch.float64)
    runs = at.sample(CUBE, puzzles(), restarts=2, depth=16, initial=starts, keep=("summary", "final_state"))
    assert (runs.final_state == 0).all()
    shock = at.critical_shock(CUBE, puzzles(), runs, random=2, reach=10.0, tol=1e-9)
    np.testing.assert_allclose(shock.least_shock, 1, rtol=1e-6)
    np.testing.assert_allclose(shock.norm, 0.125)
    np.testing.assert_allclose(shock.least_relative_shock, 8, rtol=1e-6)


def test_where_nothing_has_a_size_shocks_are_refused():
    nowhere = MapSystem(CUBE.step, lambda x, g: torch.zeros(len(x), 1, dtype=torch.float64), CUBE.decode)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    for function in (at.critical_shock, at.basin_stability, at.basin_radius):
        with pytest.raises(ValueError, match="puzzle 0, point 0 is zero, and so are all starts"):
            function(nowhere, puzzles(), zero)


@pytest.mark.parametrize("state", [0.0, 1e-12, 1e-7])
def test_the_edge_seen_from_the_origin_is_its_saddle(state):
    """tanh(3 z^3) has a saddle at 0.6253979704 between 0 and 0.9945."""
    system = MapSystem(lambda z, x: torch.tanh(3 * z**3), unit_starts, lambda z, x: (z.abs() > 0.5).long())
    states = torch.tensor([[[state], [0.9945492510256935]]], dtype=torch.float64)
    found = at.critical_shock(system, puzzles(), states, edge=True)
    np.testing.assert_allclose(found.edge_state, 0.6253979704177671, atol=1e-9)
    np.testing.assert_allclose(found.least_shock, [[0.62539797, 0.36915128]], rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bracket_is_as_narrow_as_rounding_allows(dtype):
    system, epsilon = selector([[0.0]]), torch.finfo(dtype).eps
    state = torch.full((1, 1, 1), M, dtype=dtype)
    shock = at.critical_shock(system, puzzles(), state, random=2, tol=1e-17).least_shock
    radius = at.basin_radius(system, puzzles(), state, directions=2, tol=1e-17).basin_radius
    np.testing.assert_allclose([shock, radius], M, rtol=4 * epsilon)
    saddle = at.critical_shock(system, puzzles(), torch.zeros(1, 1, 1, dtype=dtype), random=2)
    assert 0 < float(saddle.least_shock[0, 0]) < 4 * epsilon
