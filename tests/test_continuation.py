"""Attractors followed over a parameter: exact births, deaths and masses at bifurcations, and what is left undecided."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from eqrlab import attractors as at
from eqrlab.attractors.landscape.continuation import EVENTS
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.results.validate import unlisted, validate
from eqrlab.core import MapSystem
from tests.zoo import normal_start, puzzles, selector, selector_level, up_mass


def tilted(beta: float, tilt: float) -> MapSystem:
    """z -> tanh(beta z + tilt), with one answer: one attractor, or two beyond the fold."""
    return MapSystem(lambda z, x: torch.tanh(beta * z + tilt), normal_start(1))


def fold(tilt: float) -> float:
    """The beta at which a second attractor of `tilted` appears: z = tanh(u), beta (1 - z^2) = 1, u = beta z + tilt."""
    return brentq(lambda b: -np.arctanh(np.sqrt(1 - 1 / b)) + b * np.sqrt(1 - 1 / b) - tilt, 1 + 1e-9, 5)


def test_the_pitchfork_at_1_is_the_death_of_one_attractor_and_the_birth_of_two():
    betas = (0.7, 0.9, 1.2, 1.5, 2.0)
    found = at.continuation({b: tilted(b, 0.0) for b in betas}, puzzles(), restarts=24, depth=160)
    assert found.born.values[:, 0].tolist() == [0, 0, 2, 0, 0]
    assert found.died.values[:, 0].tolist() == [0, 0, 1, 0, 0]
    assert found.attractors.values[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert found.goes_to.values[1, 0, 0] == -2  # the old one is left to both sides
    mass = found.mass.values[:, 0]
    np.testing.assert_allclose(np.nansum(mass, 1), 1)
    assert (np.diff(found["count"].values[2:, 0, 1:], axis=0) == 0).all()  # the same restarts, the same sides


def test_a_fold_gives_birth_to_one_attractor_beside_one_that_goes_on():
    """Where the symmetry is broken the old attractor continues, however far the new one lies from it."""
    where = fold(0.1)
    below, above = where - 0.1, where + 0.1
    systems = {b: tilted(b, 0.1) for b in (below - 0.1, below, above, above + 0.1)}
    found = at.continuation(systems, puzzles(), restarts=24, depth=160)
    assert [EVENTS[e] for e in found.event.values[:, 0, 0]] == [
        "first",
        "continues",
        "continues",
        "continues",
    ]
    assert [EVENTS[e] for e in found.event.values[:, 0, 1]] == ["absent", "absent", "born", "continues"]
    back = at.continuation({-b: s for b, s in reversed(systems.items())}, puzzles(), restarts=24, depth=160)
    assert back.died.values[:, 0].tolist() == [0, 0, 1, 0] and back.born.values.sum() == 0
    dead = int(np.flatnonzero(~back.alive.values[2, 0])[0])
    assert back.goes_to.values[1, 0, dead] == 1 - dead  # it falls to the one that is left


def test_masses_of_the_selector_follow_its_offset():
    """G3: as b moves the upper attractor keeps its branch, and its mass is Phi(-b) within the intervals."""
    offsets = (-1.0, -0.5, 0.0, 0.5, 1.0)
    found = at.continuation({b: selector([[b]]) for b in offsets}, puzzles(), restarts=400, depth=40)
    assert found.sizes["branch"] == 2 and found.born.values.sum() == 0 and found.died.values.sum() == 0
    up = int(found.answer.values[0, :, 0].argmax())
    truth = np.array([up_mass(b) for b in offsets])
    low, high = (found[f"mass_{e}"].values[:, 0, up] for e in ("low", "high"))
    assert ((low <= truth) & (truth <= high)).all()
    moved = found.step_length.values[1:, 0, up] * (np.array(offsets[1:]) + selector_level(2.0)).__abs__()
    np.testing.assert_allclose(moved, 0.5, rtol=1e-3)


def test_an_attractor_that_no_restart_reaches_is_followed_from_a_neighbour():
    """Starts four deviations below the border: the upper attractor is alive with mass 0 and an upper bound."""
    system, means = selector([[0.0]]), (0.0, -2.0, -6.0)
    laws = {m: lambda x, g, m=m: torch.randn(x.shape, generator=g, dtype=torch.float64) + m for m in means}
    systems = {-m: system for m in means}
    options = {"initial": {-m: laws[m] for m in means}, "restarts": 60, "depth": 40}
    found = at.continuation(systems, puzzles(), **options)
    up = int(found.answer.values[0, :, 0].argmax())
    assert found.alive.values.all() and found.mass.values[0, 0, up] > 0.3
    assert found["count"].values[2, 0, up] == 0 and 0 < found.mass_high.values[2, 0, up] < 0.1
    plain = at.continuation(systems, puzzles(), match="answer", **options)
    assert not plain.alive.values[2, 0, int(plain.answer.values[0, :, 0].argmax())]


def test_noise_that_tears_a_basin_is_seen():
    """G3 with noise: two clouds under little noise; under much the side keeps changing, and none is left."""
    table = torch.tensor([[0.1]], dtype=torch.float64)

    def step(z, x, noise=None):
        following = x + torch.tanh(2 * (z - x))
        return following if noise is None else following + noise(following)

    system = MapSystem(
        step, normal_start(1), lambda z, x: (z > x).long() + 1, lambda tokens: table[tokens[:, 0]]
    )
    found = at.continuation(
        {s: system.with_noise(s) for s in (0.0, 0.01, 0.02, 2.0)},
        puzzles(),
        parameter="noise",
        restarts=24,
        depth=64,
    )
    assert found.attractors.values[:, 0].tolist() == [2, 2, 2, 0]
    assert found.died.values[:, 0].tolist() == [0, 0, 0, 2] and found.born.values.sum() == 0
    assert found.attrs["parameter"] == "noise" and json.loads(found.attrs["noise"]) == {
        "0.0": 0.0, "0.01": 0.01, "0.02": 0.02, "2.0": 2.0,
    }  # fmt: skip
    assert found.attrs["depth"] == 64 and found.attrs["family"] == "map", "what all values share is said once"


def test_modes_and_accuracy_follow_the_masses():
    offsets = (-3.0, 0.0, 9.0)
    labels = torch.full((3, 1), 2)
    systems = {b: selector([[b]] * 3) for b in offsets}
    found = at.continuation(systems, puzzles(3), labels=labels, restarts=64, depth=40, match="answer")
    assert [MODES[m] for m in found.landscape_mode.values] == ["d", "b", "a"]
    assert (found.accuracy.values[0] > 0.97) and found.accuracy.values[2] == 0
    np.testing.assert_allclose(found.correct_mass + found.spurious_mass + found.mass_none, 1)
    np.testing.assert_allclose(found.mode_probability.sum("mode"), 1)


def test_puzzles_do_not_depend_on_company(tmp_path):
    systems = {b: selector([[0.3], [b]]) for b in (0.0, 0.5)}
    both = at.continuation(systems, puzzles(2), restarts=20, depth=40)
    alone = at.continuation(systems, puzzles(2)[1:], restarts=20, depth=40)
    np.testing.assert_array_equal(both.mass.values[:, 1], alone.mass.values[:, 0])
    archive.write(tmp_path / "c.nc", {"continuation": both})
    assert validate(tmp_path / "c.nc").groups == 1 and unlisted(tmp_path / "c.nc") == []
    again = archive.read(tmp_path / "c.nc")["continuation"]
    np.testing.assert_array_equal(again.event, both.event)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"systems": {0.0: selector([[0.0]])}}, "two or more increasing values, got 0.0"),
        ({"systems": {1.0: selector([[0.0]]), 0.0: selector([[0.0]])}}, "increasing values"),
        ({"match": "colour"}, "match 'colour' unknown; choose from state, answer"),
        ({"push": 0.0}, "push > 0"),
        ({"restarts": 0}, "restarts must be an integer >= 1"),
    ],
)
def test_misuse_is_named(options, message):
    options = {"systems": {0.0: selector([[0.0]]), 1.0: selector([[1.0]])}, **options}
    with pytest.raises(ValueError, match=message):
        at.continuation(options.pop("systems"), puzzles(), **options)
