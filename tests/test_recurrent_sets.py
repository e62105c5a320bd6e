"""Cycles are attractors by their states, whatever the phase; chaotic and quasi-periodic sets by where runs go back."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.runs import runs_of
from eqrlab.attractors.fates.clouds import recurs
from eqrlab.attractors.fates.orbits import outlines
from eqrlab.core import MapSystem
from tests.mixtures import henon, ikeda, leaking, logistic, mixture, rotation, still, turning
from tests.zoo import puzzles, rotor

INPUTS = torch.zeros(1, 1, dtype=torch.long)


def sampled(system, *, depth=200, restarts=120, label=2):
    return at.sample(system, INPUTS, labels=torch.tensor([[label]]), restarts=restarts, depth=depth)


def agrees(ensemble, count, part_of=lambda answer: answer):
    """Check that attractors are exactly the parts of a mixture: no part is split, no two are joined."""
    found = at.basins(ensemble)
    label, part = found.attractor_id.values[0], part_of(ensemble.answer.values[0, :, 0])
    at_one = label >= 0
    pairs = {(int(a), int(b)) for a, b in zip(label[at_one], part[at_one], strict=True)}
    assert int(found.attractors[0]) == count == len(pairs)
    return found


CYCLES = {
    "two of period 2": ([logistic(3.2)] * 2, {}),
    "side by side": ([logistic(3.2)] * 2, {"offset": 1e-3}),
    "a hundred-thousandth apart": ([logistic(3.2)] * 2, {"offset": 1e-5}),
    "periods 1 to 4": ([still(), logistic(3.2), logistic(3.83), logistic(3.5)], {}),
    "in 200 dimensions": ([logistic(3.2), logistic(3.5)], {"dimension": 200}),
    "in 200 dimensions, close": ([logistic(3.2)] * 2, {"dimension": 200, "offset": 0.01}),
    "period 5 at two radii": ([turning(5), turning(5, radius=2.0)], {}),
    "the same points in another order": ([turning(5), turning(5, 2)], {"offset": 0.1}),
    "period 23": ([turning(23, 5), turning(23, 7)], {}),
    "three slow ones": ([turning(7, lock=0.1), turning(7, lock=0.1, radius=2.0), still(0.9)], {}),
    "one and a circle": ([rotation(2**0.5), turning(7)], {}),
}


@pytest.mark.parametrize("name", CYCLES)
def test_every_cycle_is_one_attractor_and_no_two_are(name):
    parts, options = CYCLES[name]
    found = agrees(sampled(mixture(parts, **options)), len(parts))
    assert float(found.mass_none[0]) <= 0.01  # one run may take longer
    for mass, low, high in zip(*(found[f"mass{e}"].values[0] for e in ("", "_low", "_high")), strict=True):
        assert low <= mass <= high and binomtest(round(mass * 120), 120, 1 / len(parts)).pvalue > 1e-4
    assert float(found.correct_mass[0] + found.spurious_mass[0] + found.mass_none[0]) == pytest.approx(1)


def test_a_cycle_longer_than_what_is_kept_of_it_is_one_attractor():
    agrees(sampled(mixture([turning(300, 7), turning(300, 11)]), depth=1000, restarts=40), 2)


def test_a_cycle_nearer_than_the_resolution_is_the_same_one():
    assert int(at.basins(sampled(mixture([logistic(3.2)] * 2, offset=1e-8))).attractors[0]) == 1


def test_cycles_are_told_apart_in_estimated_basins_too():
    found = at.estimate_basins(mixture([logistic(3.2)] * 2), INPUTS, half_width=0.1, depth=64)
    assert int(found.attractors[0]) == 2 and int(found.ambiguous[0]) == 0
    found = at.estimate_basins(mixture([henon, still()]), INPUTS, half_width=0.1, depth=200)
    assert int(found.attractors[0]) == 2 and found.fate.values[0].tolist()[:2].count(2) == 1


def test_cycles_that_coexist_are_mode_b():
    assert int(at.modes(sampled(mixture([logistic(3.2)] * 2)))["mode"][0]) == 1


def test_a_cycle_that_moves_with_the_parameter_is_one_branch():
    law = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64) * 0.8 + 0.1
    ricker = {r: MapSystem(lambda z, x, r=r: z * torch.exp(r * (1 - z)), law) for r in (2.2, 2.25, 2.3)}
    close = {r: MapSystem(lambda z, x, r=r: r * z * (1 - z), law) for r in (3.2, 3.2001, 3.2002)}
    for systems in (ricker, close):
        found = at.continuation(systems, INPUTS, restarts=16, depth=256)
        assert found.sizes["branch"] == 1 and not found.born.values.any() and not found.died.values.any()


def test_noise_carries_runs_from_cycle_to_cycle():
    step = lambda z, x, e=None: -torch.tanh(2 * z) + (0 if e is None else e(z))
    law = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
    system = MapSystem(step, law)
    ensemble = at.sample(system, INPUTS, restarts=32, depth=64, keep=("summary", "final_state"))
    found = at.transitions(system, INPUTS, ensemble, noises=(0.01, 1.0), trials=100)
    assert found.present.values.sum() == 2
    assert (found.escape.values[0] == 0).all() and (found.escape.values[1] > 0.2).all()


def test_the_error_of_a_cycle_is_known_to_rounding():
    ensemble = sampled(mixture([logistic(3.2)] * 2))
    assert (ensemble.cycle_error.values < 1e-12).all()


def test_a_doubled_cycle_taken_for_a_simple_one_is_kept_whole():
    """States that alternate by a thousandth of a step: recognised as period 2, they are four states."""
    states = np.array([0.0, 1.0, 0.001, 1.001])[np.arange(400) % 4][None, :, None]
    orbit, error = outlines(states, np.array([2]))
    assert np.isfinite(orbit[0, :, 0]).sum() == 4 and error[0] == 0


SETS = {
    "two of Henon": ([henon] * 2, {}),
    "two of Henon, close": ([henon] * 2, {"offset": 0.01}),
    "Henon, a point and a cycle": ([henon, still(), logistic(3.2)], {}),
    "three of chaos": ([logistic(3.9), logistic(3.7), henon], {}),
    "in 100 dimensions": ([ikeda, henon], {"dimension": 100}),
    "circles": ([rotation(1.0), rotation(1.0, radius=1.5)], {"offset": 0.01}),
    "circles, one in the other": ([rotation(1.0), rotation(1.0, radius=1.1)], {"offset": 0.01}),
    "a circle and a cycle": ([rotation(2**0.5), turning(7)], {}),
    "bands of chaos": ([logistic(3.6), logistic(3.58)], {}),
    "chaos and a fixed point": ([logistic(3.9), still(0.8)], {}),
}


@pytest.mark.parametrize("name", SETS)
def test_every_recurrent_set_is_one_attractor_and_no_two_are(name):
    """All but the runs that leave for infinity are at an attractor, each part of the landscape being one."""
    parts, options = SETS[name]
    ensemble = sampled(mixture(parts, **options))
    found = agrees(ensemble, len(parts))
    lost = np.isin(ensemble.fate.values[0], [5, 6]).mean()
    assert abs(float(found.mass_none[0]) - lost) <= 0.03
    assert (
        int(found.ambiguous[0]) <= 40
    )  # of 120: runs too short, or past a saddle at their end, join in doubt


def test_nine_in_ten_runs_of_henon_are_on_its_strange_attractor():
    law = lambda x, g: torch.rand((len(x), 2), generator=g, dtype=torch.float64) - 0.5
    ensemble = at.sample(MapSystem(lambda z, x: henon(z), law), INPUTS, restarts=200, depth=200)
    found = at.basins(ensemble)
    bounded = np.isin(ensemble.fate.values[0], [2, 3]).sum()
    assert int(found.attractors[0]) == 1 and int(found.fate[0, 0]) == 2
    assert abs(int(found["count"][0, 0]) - bounded) <= 2


def test_the_basin_of_the_fixed_point_beside_the_chaos_of_ikeda():
    """.7847(9) of [-1, 4] x [-2.5, 5] is its basin, the rest that of the chaotic attractor."""
    corner, sides = torch.tensor([-1.0, -2.5]), torch.tensor([5.0, 7.5])
    law = lambda x, g: corner + sides * torch.rand((len(x), 2), generator=g, dtype=torch.float64)
    found = at.basins(at.sample(MapSystem(lambda z, x: ikeda(z), law), INPUTS, restarts=400, depth=400))
    assert found.fate.values[0, :2].tolist() == [0, 2] and int(found.attractors[0]) == 2
    assert binomtest(int(found["count"][0, 0]), 400, 0.7847).pvalue > 1e-3
    assert float(found.mass_none[0]) <= 0.01


@pytest.mark.parametrize(("angle", "depth"), [(1.0, 300), (1.0, 800), (2.0, 800), (2**0.5, 800)])
def test_a_rotor_is_one_quasi_periodic_attractor(angle, depth):
    """At 800 steps the nearest states are of one near-return of the angle (after 44 or 22 steps) before."""
    found = at.basins(at.sample(rotor(angle), puzzles(), restarts=20, depth=depth))
    assert int(found.attractors[0]) == 1 and float(found.mass[0, 0]) == 1 and int(found.fate[0, 0]) == 2


@pytest.mark.parametrize("r", [4.02, 4.0005, 4.00002])
def test_transient_chaos_is_no_attractor(r):
    """Runs that are still on it when others have left may leave too: they decide nothing."""
    ensemble = sampled(mixture([leaking(r), still()]))
    found, modes = at.basins(ensemble), at.modes(ensemble)
    assert not (found.fate.values[0] == 2).any()
    moving = np.isin(ensemble.fate.values[0], [2, 3])
    assert not (found.attractor_id.values[0][moving] >= 0).any()
    assert int(modes.count_unfinished[0]) >= int(found.transient.sum()) >= 0.8 * moving.sum()


def test_a_set_is_right_or_wrong_only_where_its_answer_stays():
    """Henon whose answer follows its first coordinate is no answer's attractor, though it has a basin."""
    same = sampled(mixture([henon, still()]), label=2)
    changes = sampled(
        mixture(
            [henon, still()],
            answers=lambda part, u: torch.where(part == 0, (u[:, 0] > 0).long() + 2, 5),
        )
    )
    assert float(at.basins(same).correct_mass[0]) > 0.3 and int(at.modes(same).count_correct[0]) > 36
    found, modes = at.basins(changes), at.modes(changes)
    assert float(found.changing_mass[0]) > 0.3 and float(found.correct_mass[0]) == 0
    total = sum(float(found[n][0]) for n in ("correct_mass", "spurious_mass", "changing_mass", "mass_none"))
    assert total == pytest.approx(1)
    assert int(modes.count_correct[0]) == 0 and int(modes.count_unsettled[0]) > 36


def test_a_slow_turn_that_has_not_come_round_shows_no_set():
    turn = np.arange(100)[:, None] * 0.01
    assert not recurs(np.concatenate([np.cos(turn), np.sin(turn)], 1), 1e-6)
    near = np.arange(100)[:, None] * (2 * np.pi / 5 + 1e-3)  # five arcs that creep along
    assert not recurs(np.concatenate([np.cos(near), np.sin(near)], 1), 1e-6)
    once = np.arange(100)[:, None] * 1.0
    assert recurs(np.concatenate([np.cos(once), np.sin(once)], 1), 1e-6)


def test_chaos_of_many_dimensions_shows_no_set():
    """A few hundred states do not tell what a run of high dimension keeps coming back to."""
    coupled = lambda z, x: 0.95 * (y := 3.9 * z * (1 - z)) + 0.025 * (y.roll(1, 1) + y.roll(-1, 1))
    law = lambda x, g: torch.rand((len(x), 20), generator=g, dtype=torch.float64)
    runs = runs_of(at.sample(MapSystem(coupled, law), INPUTS, restarts=20, depth=300))[0]
    assert not runs.recurs.any()
