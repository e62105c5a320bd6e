"""Arguments that analyses share: arrays of any layout, names alone or in a list, and what is refused in a sentence."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests.zoo import puzzles

HALF = MapSystem(
    lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 2, 2), generator=g, dtype=torch.float64)
)
LAYOUTS = {
    "reversed": lambda a: a[::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "columns first": np.asfortranarray,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_arrays_of_any_layout_are_taken(name):
    """A warning would be an error, too."""
    starts = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    tokens, ids, given = map(LAYOUTS[name], (np.arange(4).reshape(2, 2), np.array([1, 0]), starts))
    found = at.sample(HALF, tokens, labels=tokens[:, :1], identifiers=ids, initial=given, depth=4, restarts=3)
    np.testing.assert_array_equal(found.inputs, tokens)
    np.testing.assert_array_equal(found.identifier, ids)
    np.testing.assert_allclose(found["update"][:, :, 0], np.linalg.norm(given.reshape(2, 3, 4) / 2, axis=2))
    assert at.spectrum(HALF, tokens, given, k=2).spectral_radius.values.round(9).tolist() == [[0.5] * 3] * 2


def test_restarts_in_another_order_are_analysed_in_that_order():
    runs = at.sample(HALF, puzzles(), depth=3, restarts=3, keep=("final_state",))
    turned = runs.isel(restart=slice(None, None, -1))
    norm = np.linalg.norm(runs.final_state.values.reshape(3, 4), axis=1)
    for states in (turned, turned.final_state):
        shock = at.critical_shock(HALF, puzzles(), states, directions="random", random=1, depth=8)
        np.testing.assert_allclose(shock.norm[0], norm[::-1])


def test_states_that_ask_for_gradients_are_states_like_others(tmp_path):
    plain = torch.ones(1, 2, 2, 2, dtype=torch.float64)
    graded = plain.clone().requires_grad_()
    around = torch.eye(4).requires_grad_()
    for call in (
        lambda z: at.sample(HALF, puzzles(), initial=z, restarts=2, depth=8).residual,
        lambda z: at.spectrum(HALF, puzzles(), z, k=2).spectral_radius,
        lambda z: at.fixed_points(HALF, puzzles(), z, certify=False).residual,
        lambda z: at.critical_shock(HALF, puzzles(), z, random=1, leading=1, depth=8).norm,
        lambda z: at.basin_radius(HALF, puzzles(), z, directions=around, depth=8).basin_radius,
        lambda z: at.return_test(HALF, puzzles(), z, directions=1, depth=8).left,
        lambda z: at.plane(HALF, puzzles(), states=z, resolution=2, depth=8).steps,
    ):
        np.testing.assert_array_equal(call(graded), call(plain))
    assert at.export(HALF, puzzles(), tmp_path / "a.nc", initial=graded, restarts=2, depth=4).complete


def test_text_is_no_array_of_tokens():
    with pytest.raises(ValueError, match="inputs must be numbers, got an array of <U1"):
        at.sample(HALF, np.array([["1", "2"]]))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None, "many", 2.5])
@pytest.mark.parametrize("name", ["depth", "restarts", "first_restart"])
def test_what_is_no_whole_number_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= [01], got {value}"):
        at.sample(HALF, puzzles(), **{name: value})


def test_one_name_needs_no_list():
    runs = at.sample(HALF, puzzles(), depth=4, restarts=2, keep="final_state")
    assert "final_state" in runs
    with pytest.raises(ValueError, match="keep 'state' unknown; choose from summary, path"):
        at.sample(HALF, puzzles(), keep="state")
    found = at.critical_shock(HALF, puzzles(), runs, directions="random", random=2, depth=8)
    assert found.kind.values.tolist() == ["random"] * 2
    with pytest.raises(ValueError, match="directions 'eigne' unknown; choose from random, eigen"):
        at.critical_shock(HALF, puzzles(), runs, directions="eigne")


def test_directions_may_be_an_array():
    state = np.ones((1, 1, 2, 2))
    found = at.basin_radius(HALF, puzzles(), state, directions=np.eye(4)[::-1], depth=8)
    assert found.sizes["direction"] == 4


@pytest.mark.parametrize(
    "name", ["noop_test", "shells", "estimate_basins", "plane", "trajectory_exponents", "ftle_field"]
)
def test_starts_are_refused_where_they_are_drawn(name):
    shape = {"shells": (1, 64), "trajectory_exponents": (1, 8)}.get(name, (1, 4))
    for given in (torch.zeros(*shape, 2, 2), np.zeros((*shape, 2, 2))):
        with pytest.raises(ValueError, match=r"initial must be None or a callable \(x, generator\) -> z"):
            getattr(at, name)(HALF, puzzles(), initial=given)


def test_a_text_is_no_restart_law():
    with pytest.raises(ValueError, match=r"a callable .* or None, got a str"):
        at.sample(HALF, puzzles(), initial="normal")


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"width": 3, "act": torch.tanh}, {"width": 3, "act": str(torch.tanh)}),
        (SimpleNamespace(width=3, dtype=torch.float32), {"width": 3, "dtype": "torch.float32"}),
        ("large", {}),
    ],
)
def test_any_configuration_of_an_own_system_is_recorded_as_text(config, kept, tmp_path):
    class Own(MapSystem):
        task = Path("mazes")

    system = Own(HALF._step, HALF._initial)
    system.config = config
    at.export(system, puzzles(), tmp_path / "a.nc", restarts=2, depth=4)
    found = at.read(tmp_path / "a.nc")["ensemble"]
    assert json.loads(found.attrs["config"]) == kept and found.attrs["task"] == "mazes"


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_of_no_rows_is_refused(size):
    states = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for analysis in (at.spectrum, at.fixed_points, at.basin_stability):
        with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
            analysis(HALF, puzzles(), states, batch_size=size)


def test_states_of_an_ensemble_belong_to_its_puzzles():
    tokens = torch.tensor([[1], [2]])
    runs = at.sample(HALF, tokens, restarts=2, depth=8, keep="final_state")
    turned = tokens.flip(0)
    for call in (
        lambda: at.spectrum(HALF, turned, runs, k=1),
        lambda: at.duels(HALF, turned, runs),
        lambda: at.critical_shock(HALF, turned, runs),
        lambda: at.plane(HALF, turned, ensemble=runs, resolution=4),
        lambda: at.plane(HALF, tokens[:1], ensemble=runs, resolution=4),
    ):
        with pytest.raises(ValueError, match="inputs must be the puzzles of the ensemble, in the same order"):
            call()
    assert at.spectrum(HALF, turned, runs.final_state, k=1).sizes["puzzle"] == 2  # an array is anyone's


def test_an_ensemble_without_some_of_its_steps_has_no_basins():
    runs = at.sample(HALF, puzzles(), labels=torch.zeros(1, 1, dtype=torch.long) - 1, restarts=2, depth=32)
    for analysis in (at.basins, at.modes):
        with pytest.raises(ValueError, match="has 8 of its 32 steps"):
            analysis(runs.isel(step=slice(8)))


class Counted(MapSystem):
    """Remembers the largest number of rows that a step was asked for."""

    most = 0

    def step(self, z, x, noise=None):
        type(self).most = max(self.most, len(z))
        return super().step(z, x, noise)


def test_batches_of_every_part_of_an_analysis_are_as_small_as_asked_for():
    start = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    system = Counted(lambda z, x: 4 * z * (1 - z), start)
    looked_at = 10  # rows of the checks
    labels = torch.zeros(1, 1, dtype=torch.long) - 1
    runs = at.sample(system, puzzles(), labels=labels, restarts=40, depth=8, keep="final_state", batch_size=2)
    at.noop_test(system, puzzles(), restarts=40, depth=8, batch_size=2)
    at.endings(system, puzzles(), runs, batch_size=2, max_steps=64, steps=20, searches=4)
    assert Counted.most <= looked_at


def test_restarts_that_were_taken_out_cannot_be_prolonged_with_their_noise():
    step = lambda z, x, noise=None: z / 2 + (0 if noise is None else noise(z))
    start = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
    runs = {
        beta: at.sample(
            MapSystem(step, start, noise_scale=beta), puzzles(), restarts=4, depth=8, keep="final_state"
        )
        for beta in (0.0, 0.1)
    }
    some = {beta: one.isel(restart=[0, 2]) for beta, one in runs.items()}
    with pytest.raises(ValueError, match="noise is keyed by their numbers"):
        at.prolong(MapSystem(step, start, noise_scale=0.1), puzzles(), some[0.1], depth=16)
    quiet = MapSystem(step, start)
    found, whole = (
        at.prolong(quiet, puzzles(), one, depth=16, which="all") for one in (some[0.0], runs[0.0])
    )
    np.testing.assert_array_equal(found.residual, whole.residual.isel(restart=[0, 2]))
