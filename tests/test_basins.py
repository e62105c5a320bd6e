"""Attractors and masses on maps whose basins are known exactly."""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests.zoo import contraction, logistic, narrow_in_sea, puzzles, rotor, selector, up_mass


def test_masses_of_the_selector_are_right():
    offsets = [-1.0, 0.0, 0.7]
    ensemble = at.sample(
        selector([[b] for b in offsets]), puzzles(3), labels=torch.full((3, 1), 2), restarts=400, depth=48
    )
    found = at.basins(ensemble)
    assert found.attractors.values.tolist() == [2, 2, 2]
    for p, b in enumerate(offsets):
        count = int(found["count"].values[p][found.correct.values[p]].sum())
        assert stats.binomtest(count, 400, up_mass(b)).pvalue > 1e-3
        np.testing.assert_allclose(found.correct_mass[p], count / 400)


def test_masses_and_none_sum_to_one():
    ensemble = at.sample(narrow_in_sea(0.5), puzzles(), labels=torch.tensor([[3]]), restarts=80, depth=120)
    found = at.basins(ensemble)
    np.testing.assert_allclose(float(found.mass.sum("attractor")[0] + found.mass_none[0]), 1)
    assert float(found.mass_none[0]) > 0.3 and (found.attractor_id.values == -1).mean() == float(
        found.mass_none[0]
    )


def test_product_landscapes_have_all_their_attractors():
    offsets = [0.0, 0.5, -0.5, 0.2]
    ensemble = at.sample(selector([offsets]), puzzles(), restarts=2000, depth=48)
    found = at.basins(ensemble)
    assert int(found.attractors[0]) == 16
    for answer, count in zip(found.answer.values[0], found["count"].values[0], strict=True):
        mass = np.prod(
            [up_mass(b) if a == 2 else 1 - up_mass(b) for a, b in zip(answer, offsets, strict=True)]
        )
        assert stats.binomtest(int(count), 2000, mass).pvalue > 1e-4


def test_states_tell_attractors_apart_where_answers_do_not():
    system = selector([[0.0]])
    blind = MapSystem(
        system.step, system.initial, lambda z, x: torch.ones(len(z), 1, dtype=torch.long), system.encode
    )
    found = at.basins(at.sample(blind, puzzles(), restarts=100, depth=48))
    assert int(found.attractors[0]) == 2


def test_runs_out_of_phase_share_a_cycle():
    found = at.basins(at.sample(logistic(3.2), puzzles(), restarts=64, depth=300))
    assert int(found.attractors[0]) == 1 and int(found.period[0, 0]) == 2
    found = at.basins(at.sample(rotor(2 * np.pi / 5), puzzles(), restarts=20, depth=400))
    assert set(found.period.values[found["count"].values > 0]) == {5}


@pytest.mark.parametrize(
    ("border", "depth", "mass"),
    [(0.6, 299, "changing"), (0.6, 300, "changing"), (0.4, 300, "correct"), (0.9, 300, "spurious")],
)
def test_a_cycle_is_right_or_wrong_only_throughout_its_period(border, depth, mass):
    """The logistic map at 3.2 goes between .513 and .799; answers above the border are right."""
    base = logistic(3.2)
    system = MapSystem(base.step, base.initial, lambda z, x: (z > border).long() + 1)
    runs = at.sample(system, puzzles(), labels=torch.tensor([[2]]), restarts=20, depth=depth)
    found, verdict = at.basins(runs), at.modes(runs)
    masses = {name: float(found[f"{name}_mass"][0]) for name in ("correct", "spurious", "changing")}
    assert masses == {name: float(name == mass) for name in masses}
    counts = [int(verdict[f"count_{name}"][0]) for name in ("correct", "spurious", "unsettled")]
    assert counts == [20 * (mass == name) for name in ("correct", "spurious", "changing")]


def test_high_dimension_does_not_split_an_attractor():
    """G3 on two units, rotated into 20,000 dimensions by a Householder reflection (G4)."""
    size = 20_000
    v = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v /= v.norm()

    def reflect(z):
        return z - 2 * (z @ v)[:, None] * v

    def step(z, x):
        y = reflect(z)
        return reflect(torch.cat((torch.tanh(2 * y[:, :2]), 0.6 * y[:, 2:]), 1))

    start = lambda x, g: torch.randn((len(x), size), generator=g, dtype=torch.float64)
    system = MapSystem(step, start, lambda z, x: (reflect(z)[:, :2] > 0).long() + 1)
    found = at.basins(at.sample(system, puzzles(), restarts=60, depth=40))
    assert int(found.attractors[0]) == 4 and int(found.ambiguous[0]) == 0


def test_identity_does_not_depend_on_the_order_of_restarts():
    ensemble = at.sample(selector([[0.0, 0.3]]), puzzles(), restarts=60, depth=30)
    order = np.random.default_rng(0).permutation(60)
    plain, turned = at.basins(ensemble), at.basins(ensemble.isel(restart=order))
    np.testing.assert_array_equal(plain["count"], turned["count"])
    assert set(map(tuple, plain.answer.values[0])) == set(map(tuple, turned.answer.values[0]))


def test_unfinished_runs_have_no_attractor():
    found = at.basins(at.sample(contraction(1 - 1e-3), puzzles(), restarts=10, depth=50))
    assert int(found.attractors[0]) == 0 and float(found.mass_none[0]) == 1
    assert np.isnan(found.mass.values).all()


def test_a_landscape_without_attractors_still_has_bounds():
    found = at.basins(at.sample(rotor(1.0), puzzles(2), restarts=10, depth=300))
    assert (found.spurious_mass == 0).all() and (found.spurious_mass_high > 0.2).all()
    np.testing.assert_allclose(found.unseen_mass_high, 1 - 0.05**0.1)


@pytest.mark.parametrize("method", ["wilson", "clopper-pearson", "jeffreys"])
def test_intervals_contain_their_estimates(method):
    found = at.basins(at.sample(selector([[0.0], [2.0]]), puzzles(2), restarts=50, depth=40), method=method)
    inside = (found.mass_low <= found.mass) & (found.mass <= found.mass_high)
    assert bool(inside.where(found.mass.notnull(), True).all())
    assert found.attrs["interval_method"] == method
