"""Planes through state space against exact borders, fractions and dimensions; their pictures and their command."""

from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from scipy import stats

from eqrlab import attractors as at
from eqrlab.analyses.commands.plane import plane_command
from eqrlab.analyses.figures import planes as plane_plots
from eqrlab.analyses.figures.style import figure_of
from eqrlab.attractors.perturbation.fractal import basin_entropy, uncertainty_exponent
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.interval import Interval
from eqrlab.core import MapSystem
from tests.core_models import tiny_file
from tests.zoo import (
    contraction,
    henon,
    hidden_selector,
    ikeda,
    logistic,
    normal_start,
    puzzles,
    rotor,
    selector,
    selector_level,
)


def newton() -> MapSystem:
    """Newton's method for z^3 = 1; the answer is the nearest root."""
    roots = torch.tensor([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)

    def step(z, x):
        w = torch.view_as_complex(z)
        return torch.view_as_real(w - (w**3 - 1) / (3 * w**2))

    return MapSystem(
        step, normal_start(2), lambda z, x: torch.cdist(torch.nan_to_num(z), roots).argmin(1)[:, None]
    )


def two_cycles() -> MapSystem:
    """z -> -tanh(3 z) in two numbers: one cycle where their signs agree, another where they differ."""
    return MapSystem(lambda z, x: -torch.tanh(3 * z), normal_start(2))


@pytest.fixture(scope="module")
def halves():
    """G3 with two units on a grid of cell centres."""
    return at.plane(selector([[0.3, -0.2]]), puzzles(), extent=2, resolution=80, jitter=False)


def quadrants(plane) -> np.ndarray:
    u, v = np.meshgrid(plane.u.values, plane.v.values)
    return 2 * (u > 0.3) + (v > -0.2)


def test_every_cell_of_the_selector_leads_where_its_signs_say(halves):
    expected = quadrants(halves)
    found = halves.attractor_id.values[0]
    assert len({*zip(expected.ravel().tolist(), found.ravel().tolist(), strict=True)}) == 4
    share = np.sort(np.bincount(expected.ravel()) / expected.size)[::-1]
    assert np.array_equal(halves.fraction.values[0], share), "the largest basin is number 0"
    assert halves.fraction_none.values[0] == 0
    assert (halves.fate.values == 0).all() and (halves.settling_step.values > 0).all()


def test_grid_cells_have_no_intervals_but_a_reason(halves):
    for name in ("fraction", "basin_entropy", "boundary_entropy", "uncertainty_exponent"):
        assert np.isnan(halves[f"{name}_low"].values).all() and np.isnan(halves[f"{name}_high"].values).all()
    assert "no random sample" in halves.attrs["interval"]


def test_straight_borders_have_uncertainty_exponent_one(halves):
    drawn = at.plane(selector([[0.3, -0.2]]), puzzles(), extent=2, resolution=80)
    for plane in (halves, drawn):
        alpha, low, high = (
            v.item() for v in Interval.of(plane.sel(label="attractor"), "uncertainty_exponent")
        )
        assert abs(alpha - 1) < 0.03
    assert low <= 1 <= high
    assert float(halves.boundary_dimension.sel(label="attractor")[0]) == pytest.approx(1, abs=0.03)


def test_boundary_entropy_of_a_straight_border_is_that_of_the_cut_it_makes():
    """A border behind k of b columns: -p ln p - (1 - p) ln (1 - p) with p = k / b; on average 1/2 - for many cells."""
    labels = np.zeros((40, 40), int)
    labels[:, 13:] = 1
    everywhere, border = basin_entropy(labels, 10)
    p = 0.3
    assert border.value == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert everywhere.value == pytest.approx(border.value / 4)
    cuts = []
    for k in range(40):
        one = np.zeros((40, 40), int)
        one[:, k:] = 1
        cuts.append(basin_entropy(one, 40)[0].value)
    assert np.mean(cuts) == pytest.approx(0.5, abs=5e-3), (
        "the mean over all cuts, -2 times the integral of p ln p"
    )


def test_plain_labels_have_no_border_and_no_exponent():
    everywhere, border = basin_entropy(np.zeros((40, 40), int), 5)
    assert everywhere.value == 0 and np.isnan(border.value)
    assert np.isnan(uncertainty_exponent(np.zeros((40, 40), int)).exponent.value)
    assert np.isnan(uncertainty_exponent(np.eye(9, dtype=int)).exponent.value), "too few cells"


def test_noise_has_exponent_zero():
    labels = np.random.default_rng(0).integers(0, 2, (96, 96))
    exponent = uncertainty_exponent(labels).exponent
    assert abs(exponent.value) < 0.02 and exponent.high - exponent.low < 0.1


def test_interval_of_the_exponent_holds_the_one_of_straight_borders():
    rng, hits = np.random.default_rng(1), 0
    for angle, offset in rng.uniform((0, -24), (np.pi, 24), (20, 2)):
        place = np.stack(np.meshgrid(np.arange(80), np.arange(80)), -1) - 40 + rng.random((80, 80, 2))
        labels = place @ np.array([np.cos(angle), np.sin(angle)]) > offset
        exponent = uncertainty_exponent(labels.astype(int)).exponent
        hits += exponent.low <= 1 <= exponent.high
    assert hits >= 17, "19 of 20 expected"


@pytest.fixture(scope="module")
def roots():
    return at.plane(newton(), puzzles(), extent=1.5, resolution=96, depth=60)


def test_newton_basins_have_their_known_fractions(roots):
    count = np.round(roots.fraction.values[0] * roots.attractor_id.size).astype(int)
    assert len(count) == 3 and roots.fraction_none.values[0] == 0
    answers = roots.answer_id.values[0]
    for a, exact in ((0, 0.3456), (1, 0.32715), (2, 0.32715)):
        assert stats.binomtest(int(count[a]), roots.attractor_id.size, exact).pvalue > 1e-3
        assert roots.fraction_low.values[0, a] <= exact <= roots.fraction_high.values[0, a]
        assert len(np.unique(answers[roots.attractor_id.values[0] == a])) == 1


def test_newton_border_is_fractal(roots):
    one = roots.sel(label="attractor").isel(puzzle=0)
    assert float(one.uncertainty_exponent_high) < 0.9
    assert float(one.uncertainty_exponent_low) > 0.3
    assert 1.2 < float(one.boundary_dimension) < 1.6, "the Julia set has dimension 1.43"


def test_ikeda_fixed_point_has_its_known_basin():
    result = at.plane(ikeda(), puzzles(), extent=(-1, 4, -2.5, 5), resolution=40, depth=300)
    count = int((result.settling_step.values > 0).sum())
    assert stats.binomtest(count, 1600, 0.7847).pvalue > 1e-3
    settled = result.attractor_id.values[result.settling_step.values > 0]
    assert len(np.unique(settled)) == 1


def test_henon_keeps_its_known_share_of_the_square():
    result = at.plane(henon(), puzzles(), extent=2, resolution=60, depth=100)
    away = round(float(result.fraction_away[0]) * 3600)
    assert stats.binomtest(3600 - away, 3600, 0.43298).pvalue > 1e-3
    assert (result.attractor_id.values[np.isin(result.fate.values, [5, 6])] == -1).all()
    assert float(result.fraction_away_low[0]) <= 1 - 0.43298 <= float(result.fraction_away_high[0])


def test_decided_cells_leave_the_batch(halves):
    spent = halves.steps.values
    assert spent.max() < 64 and halves.attrs["evaluations"] < 1.1 * (spent.sum() + spent.size) + 64 * 1024


def test_cells_that_do_not_settle_take_the_whole_depth():
    result = at.plane(rotor(1.0), puzzles(), extent=0.5, resolution=6, depth=48)
    assert (result.steps.values == 48).all() and (result.attractor_id.values == -1).all()


def test_cycles_are_told_apart_and_left_early():
    result = at.plane(two_cycles(), puzzles(), extent=1, resolution=12, depth=400)
    fates = result.fate.values
    assert (fates == 1).mean() == 1 and result.steps.values.max() < 400
    agree = (result.u.values > 0) == (result.v.values > 0)[:, None]
    assert np.array_equal(result.attractor_id.values[0] == result.attractor_id.values[0, 0, 0], agree)


def test_jittered_cells_do_not_depend_on_batches_or_company():
    system = selector([[0.3, -0.2], [0.0, 0.5]])
    options = {"extent": 2, "resolution": 15, "box": 3}
    both = at.plane(system, puzzles(2), **options)
    alone = at.plane(system, puzzles(2)[1:], batch_size=7, **options)
    for name in ("attractor_id", "settling_step", "fate", "mark_u"):
        assert np.array_equal(both[name].values[1], alone[name].values[0], equal_nan=True), name


def test_attractors_have_the_numbers_of_the_ensemble():
    system = selector([[-0.8, 0.1]])
    ensemble = at.sample(system, puzzles(), restarts=64, depth=64)
    found = at.basins(ensemble)
    result = at.plane(system, puzzles(), extent=2, resolution=16, ensemble=ensemble)
    for a in range(found.sizes["attractor"]):
        run = np.flatnonzero(found.attractor_id.values[0] == a)[0]
        cell = np.flatnonzero(result.attractor_id.values[0].ravel() == a)[0]
        theirs = ensemble.answer.values[0, run]
        number = result.answer_id.values[0].ravel()[cell]
        assert np.array_equal(theirs, result.answer.values[0, number])


def test_plane_through_three_states_holds_them():
    system = hidden_selector(200, torch.full((198,), 0.5, dtype=torch.float64))
    ensemble = at.sample(system, puzzles(), restarts=24, depth=64, keep=("summary", "final_state"))
    number = at.basins(ensemble).attractor_id.values[0]
    members = [int(np.flatnonzero(number == a)[0]) for a in range(3)]
    states = ensemble.final_state.values[:, members]
    result = at.plane(system, puzzles(), resolution=21, states=states, ensemble=ensemble, jitter=False)
    for i in range(3):
        column = int(np.abs(result.u.values - float(result.mark_u[0, i])).argmin())
        row = int(np.abs(result.v.values - float(result.mark_v[0, i])).argmin())
        assert result.attractor_id.values[0, row, column] == i
    assert np.isclose(float(result.unit[0]), np.linalg.norm(states[0, 0]), rtol=1e-6)


def test_plane_along_given_directions_is_the_plane_of_these():
    states = torch.zeros(1, 1, 3, dtype=torch.float64)
    directions = torch.tensor([[[0.0, 0.0, 2.0], [0.0, 1.0, 1.0]]], dtype=torch.float64)
    system = MapSystem(lambda z, x: torch.tanh(2 * z), normal_start(3), lambda z, x: (z > 0).long())
    result = at.plane(
        system, puzzles(), resolution=4, extent=1, states=states, directions=directions, unit=1.0
    )
    signs = result.answer.values[0][result.answer_id.values[0]]
    assert np.array_equal(signs[..., 2], np.broadcast_to(result.u.values > 0, (4, 4)))
    assert np.array_equal(signs[..., 1], np.broadcast_to((result.v.values > 0)[:, None], (4, 4)))


def test_right_and_wrong_cells_are_those_of_the_labels():
    result = at.plane(
        selector([[0.3, -0.2]]), puzzles(), labels=torch.tensor([[2, 2]]), extent=2, resolution=20
    )
    up = (result.answer.values[0][result.answer_id.values[0]] == 2).all(-1)
    assert np.array_equal(result.correct.values[0], up)
    assert float(result.fraction_correct[0]) == up.mean()
    assert result.attractor_correct.values[0].sum() == 1


def test_noise_is_shared_by_the_cells():
    system = MapSystem(
        lambda z, x, noise=None: z / 2 + (noise(z) if noise is not None else 0),
        normal_start(2),
        noise_scale=0.1,
    )
    result = at.plane(system, puzzles(), extent=1, resolution=6, noise=None, depth=40)
    assert result.attrs["noise"] == 0.1
    again = at.plane(system, puzzles(), extent=1, resolution=6, noise=None, depth=40)
    assert np.array_equal(result.attractor_id, again.attractor_id)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 1}, "resolution"),
        ({"extent": -1}, "extent"),
        ({"extent": (1, 0, 0, 1)}, "extent"),
        ({"unit": 0}, "unit"),
        ({"box": 1}, "box"),
        ({"confidence": 1}, "confidence"),
        ({"escape": 0.5}, "escape"),
        ({"depth": 0}, "depth"),
        ({"states": torch.zeros(1, 4, 2)}, "one to three"),
        ({"states": torch.zeros(1, 1, 5)}, "state shape"),
        ({"directions": torch.zeros(1, 2, 2)}, "directions"),
        ({"labels": torch.zeros(3, 2, dtype=torch.long)}, "labels"),
    ],
)
def test_misuse_of_planes_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        at.plane(selector([[0.3, -0.2]]), puzzles(), **{"resolution": 4, **options})


def test_what_starts_and_noise_a_result_is_of_is_recorded():
    def law(x, generator):
        return torch.randn((len(x), 2), generator=generator, dtype=torch.float64)

    system, one = selector([[0.3, -0.2]]), puzzles()
    for found in (
        at.plane(system, one, resolution=4, depth=8, initial=law),
        at.ftle_field(system, one, resolution=4, steps=2, initial=law),
        at.noop_test(system, one, restarts=2, depth=8, initial=law),
        at.adaptive(system, one, at.Policy(stop="settled", depth=8), initial=law),
        at.trajectory_exponents(system, one, restarts=2, depth=8, initial=law),
    ):
        assert found.attrs["initial_law"] == "law" and found.attrs["init_std"] == "none"
        assert found.attrs["noise"] == 0 and found.attrs["dtype"] == "float64"
    runs = at.sample(system, one, restarts=2, depth=40, initial=law, seed=5, keep=("summary", "final_state"))
    taken = at.spectrum(system, one, runs, k=1, seed=7).attrs
    assert (taken["restarts"], taken["depth"], taken["initial_law"], taken["seed"]) == (2, 40, "law", 7)
    states = torch.full((1, 1, 2), 0.9, dtype=torch.float64)
    for found in (at.spectrum(system, one, states, k=1), at.fixed_points(system, one, states)):
        assert found.attrs["noise"] == 0


def test_states_of_one_number_have_no_plane():
    with pytest.raises(ValueError, match="two numbers"):
        at.plane(logistic(2.5), puzzles(), resolution=4)


def test_planes_survive_an_archive(roots, tmp_path):
    archive.write(tmp_path / "p.nc", {"plane": roots})
    back = archive.read(tmp_path / "p.nc")["plane"].to_dataset()
    assert np.array_equal(back.attractor_id, roots.attractor_id)
    assert list(back.label.values) == ["attractor", "answer"]
    assert all("units" in v.attrs and "long_name" in v.attrs for v in back.data_vars.values())


def test_picture_colours_each_cell_by_where_it_leads():
    result = at.plane(
        selector([[0.3, -0.2]]), puzzles(), labels=torch.tensor([[2, 2]]), extent=2, resolution=40
    )
    kinds = plane_plots.kinds_of(result, 0)
    assert sum(mask.sum() for mask, _, _ in kinds) == 1600
    assert [name for _, _, name in kinds if name.startswith("right")] != []
    right = next(k for k in kinds if k[2].startswith("right"))
    assert np.array_equal(right[0], result.correct.values[0])
    figure = figure_of(partial(plane_plots.plot_plane, result))
    pixels = figure.axes[0].images[0].get_array()
    factor, _ = plane_plots.brightness(result, 0)
    row, column = np.argwhere(right[0])[0]
    assert np.allclose(pixels[row, column], np.array(to_rgb(right[1])) * factor[row, column])
    slow, soon = (f(result.settling_step.values[0]) for f in (np.argmax, np.argmin))
    assert factor.ravel()[slow] < factor.ravel()[soon]


def test_pictures_of_diverging_and_of_wandering_planes_are_drawn():
    for system, extent in ((henon(), 2), (rotor(1.0), 0.5), (contraction(0.5), 1)):
        result = at.plane(system, puzzles(), extent=extent, resolution=10, depth=30)
        figure = figure_of(partial(plane_plots.plot_plane, result))
        figure.draw_without_rendering()
        assert "depth 30" in figure.axes[0].get_title(loc="left")


def test_stability_curve_shows_the_shares():
    state = torch.full((1, 2, 1), selector_level(2.0), dtype=torch.float64)
    result = at.basin_stability(selector([[0.0]]), puzzles(), state, sizes=(0.5, 2.0), trials=20)
    line = plane_plots.stability_curve(result).axes[0].lines[0]
    assert np.allclose(line.get_ydata(), result.stability.values[0, 0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_command_writes_a_picture_and_an_archive(tmp_path):
    tiny_file(tmp_path / "tiny.safetensors", hidden_size=8)
    (tmp_path / "four.txt").write_text("1234341223414.23\n12343412.3414123\n")
    call = [str(tmp_path / "tiny.safetensors"), "--puzzles", str(tmp_path / "four.txt"), "--resolution", "8",
            "--depth", "12", "--out", str(tmp_path / "out"), "--quiet", "--stability"]  # fmt: skip
    run = CliRunner().invoke(plane_command, [*call, "--puzzle", "1", "--field", "ftle", "--field-steps", "2"])
    assert run.exit_code == 0, run.output
    assert "share of the plane" in run.output and "borders between answers" in run.output
    assert (tmp_path / "out" / "plane-tiny-1.png").read_bytes()[:4] == b"\x89PNG"
    tree = archive.read(tmp_path / "out" / "plane-tiny-1.nc")
    assert tree["plane"].sizes["u"] == 8
    assert all(node.puzzle.values.tolist() == [1] for node in tree.children.values())
    assert (tmp_path / "out" / "ftle-tiny-1.png").read_bytes()[:4] == b"\x89PNG"
    assert tree["ftle"].attrs["steps"] == 2 and np.isfinite(tree["ftle"].ftle).all()
    np.testing.assert_allclose(tree["ftle"].mark_u, tree["plane"].mark_u)  # the same plane
    random = CliRunner().invoke(plane_command, [*call, "--through", "random"])
    assert random.exit_code == 0, random.output
    beyond = CliRunner().invoke(plane_command, [*call, "--puzzle", "7"])
    assert isinstance(beyond.exception, ValueError) and "2 puzzles" in str(beyond.exception)


@pytest.mark.parametrize("sampled", [0.0, None])
def test_a_plane_beside_an_ensemble_judges_with_its_own_noise(sampled):
    loud = lambda z, x, noise=None: torch.tanh(2 * z) + (0.0 if noise is None else noise(z))
    system = MapSystem(loud, normal_start(2), noise_scale=0.05)
    ensemble = at.sample(system, puzzles(), restarts=16, depth=32, noise=sampled)
    options = {"resolution": 8, "depth": 32, "noise": None, "extent": 1.5}
    result = at.plane(system, puzzles(), ensemble=ensemble, **options)
    assert (result.fate == 0).all()  # at rest within the noise, as without the ensemble
    np.testing.assert_array_equal(result.fate, at.plane(system, puzzles(), **options).fate)
