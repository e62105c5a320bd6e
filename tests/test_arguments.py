"""Arguments that analyses share: arrays of any layout, names alone or in a list, and what is refused in a sentence."""

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
