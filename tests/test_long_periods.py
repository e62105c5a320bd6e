"""Periods of any length that a run shows three times, exact and minimal, in sample, fixed_points and endings."""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.solvers import RESULTS
from eqrlab.attractors.fates.cycles import find_period, longest_period
from eqrlab.attractors.fates.fate import ANSWER, find_answer_fate
from eqrlab.attractors.results.schema import FATES
from eqrlab.core import MapSystem
from tests.zoo import normal_start, puzzles, rotor

UP = torch.tensor([[2]])


def shift(period, decode=None):
    """Cyclic shift of the coordinates, started at unit vectors: one cycle, exact in floating point."""

    def start(x, generator):
        return torch.eye(period, dtype=torch.float64)[
            torch.randint(0, period, (len(x),), generator=generator)
        ]

    return MapSystem(lambda z, x: torch.roll(z, 1, 1), start, decode)


def two_clocks(first, second):
    """Two shifts side by side: the period is their least common multiple."""

    def start(x, generator):
        ring = [torch.eye(p, dtype=torch.float64)[torch.randint(0, p, (len(x),), generator=generator)]
                for p in (first, second)]  # fmt: skip
        return torch.cat(ring, 1)

    step = lambda z, x: torch.cat((torch.roll(z[:, :first], 1, 1), torch.roll(z[:, first:], 1, 1)), 1)
    return MapSystem(step, start)


def hidden(system, size):
    """The same in `size` dimensions, mixed by a rotation; the other coordinates contract."""
    z0 = system.initial(torch.zeros(1, 1), torch.Generator().manual_seed(0))
    small = z0.shape[1]
    turn = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1)).double())[0]

    def step(w, x):
        z = w @ turn
        return torch.cat((system.step(z[:, :small], x), 0.3 * z[:, small:]), 1) @ turn.T

    start = lambda x, g: torch.cat((system.initial(x, g), normal_start(size - small)(x, g)), 1) @ turn.T
    return MapSystem(step, start)


def doubled(mu, period):
    """A clock of `period` hands beside a logistic map of period 2: lcm(2, period)."""
    logistic = lambda y: mu * y * (1 - y)
    step = lambda z, x: torch.cat((logistic(z[:, :1]), torch.roll(z[:, 1:], 1, 1)), 1)
    clock = shift(period)

    def start(x, generator):
        y = 0.2 + 0.6 * torch.rand((len(x), 1), generator=generator, dtype=torch.float64)
        return torch.cat((y, clock.initial(x, generator)), 1)

    return MapSystem(step, start)


CYCLES = {
    "17 at 400": (shift(17), 400, 17),
    "30 at 400": (shift(30), 400, 30),
    "31, the last that 93 steps show three times": (shift(31), 93, 31),
    "133 at 400": (shift(133), 400, 133),
    "lcm(5, 7)": (two_clocks(5, 7), 300, 35),
    "lcm(8, 12)": (two_clocks(8, 12), 200, 24),
    "a hundred, in 500 dimensions": (hidden(shift(100), 500), 400, 100),
    "a rotor of 41": (rotor(2 * math.pi * 12 / 41), 1500, 41),
    "a rotor of 97, weakly attracting": (rotor(2 * math.pi * 44 / 97, eta=0.05), 1500, 97),
    "one of 29 beside a 2-cycle": (doubled(3.2, 29), 400, 58),
    "short ones as before": (two_clocks(2, 3), 40, 6),
}


@pytest.mark.parametrize("name", CYCLES)
def test_the_period_is_exact_and_minimal(name):
    system, depth, period = CYCLES[name]
    ensemble = at.sample(system, puzzles(), restarts=8, depth=depth)
    assert {FATES[i] for i in ensemble.fate.values[0]} == {"periodic"}
    assert set(ensemble.period.values[0]) == {period}


def test_a_period_that_the_depth_does_not_show_three_times_is_not_claimed():
    ensemble = at.sample(shift(32), puzzles(), restarts=4, depth=95)
    assert longest_period(95) == 31 and (ensemble.period == 0).all()
    assert "periodic" not in {FATES[i] for i in ensemble.fate.values[0]}


@pytest.mark.parametrize("depth", [300, 1500])
@pytest.mark.parametrize(
    "angle", [(math.sqrt(5) - 1) / 2, math.sqrt(2) - 1, 1 / 7 + 1e-5, 1 / 40 + 1e-6, 1 / math.pi]
)
def test_near_returns_of_quasi_periodic_motion_are_no_periods(angle, depth):
    ensemble = at.sample(rotor(2 * math.pi * angle), puzzles(), restarts=8, depth=depth)
    assert (ensemble.period == 0).all()


def test_chaos_has_no_long_periods():
    start = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    ensemble = at.sample(MapSystem(lambda z, x: 3.9 * z * (1 - z), start), puzzles(), restarts=100, depth=900)
    assert (ensemble.period == 0).all()


@pytest.mark.parametrize("period", [5, 33, 100, 170])
def test_searches_know_the_periods_that_ensembles_know(period):
    system = shift(period)
    runs = at.sample(system, puzzles(), labels=UP, restarts=2, depth=512, keep=("summary", "final_state"))
    found = at.fixed_points(system, puzzles(), runs, method="picard", max_steps=512, certify=False)
    assert {RESULTS[i] for i in found.result.values[0]} == {"periodic"}
    assert set(found.period.values[0]) == {period} == set(runs.period.values[0])
    ends = at.endings(system, puzzles(), runs, steps=20)
    assert (ends.kind == 2).all() and (ends.period == period).all()  # cycle


def test_searches_have_the_limit_that_ensembles_have():
    system = shift(171)
    runs = at.sample(system, puzzles(), restarts=2, depth=512, keep=("summary", "final_state"))
    found = at.fixed_points(system, puzzles(), runs, method="picard", max_steps=512, certify=False)
    assert (runs.period == 0).all() and {RESULTS[i] for i in found.result.values[0]} == {"wandering"}


def test_runs_continued_to_more_depth_show_longer_periods():
    runs = at.sample(shift(60), puzzles(), restarts=2, depth=128, keep=("summary", "final_state"))
    longer = at.prolong(shift(60), puzzles(), runs, depth=512, which="unsettled")
    assert FATES[int(runs.fate[0, 0])] == "wandering"
    assert FATES[int(longer.fate[0, 0, -1])] == "periodic"


def test_answers_of_long_cycles_are_periodic_and_right_only_throughout():
    """The answer is 2 on half of the circle: constant for 20 steps, and not right."""
    decode = lambda z, x: 1 + (z[:, :20].sum(1, keepdim=True) > 0).long()
    runs = at.sample(shift(40, decode), puzzles(), labels=UP, restarts=30, depth=400)
    assert (runs.answer_fate == ANSWER["periodic"]).all() and {FATES[i] for i in runs.fate.values[0]} == {
        "periodic"
    }
    assert float(at.basins(runs).correct_mass[0]) == 0


def test_answer_codes_of_long_periods_by_hand():
    long, rare = np.resize(np.arange(30), 400), np.resize([1] * 59 + [2], 400)
    broken = long.copy()
    broken[300] = 99
    codes = np.stack([long, np.roll(rare, 3), np.ones(400), broken])
    fate = find_answer_fate(codes, 16, np.array([30, 60, 60, 0]))
    assert fate.tolist() == [ANSWER["periodic"], ANSWER["periodic"], ANSWER["constant"], ANSWER["periodic"]]
    broken[350] = 99
    assert find_answer_fate(broken[None], 16).tolist() == [ANSWER["changing"]]


def test_a_doubled_cycle_whose_halves_nearly_agree_keeps_its_period():
    states = np.array([0.0, 1.0, 1e-4, 1.0 + 1e-4])
    assert find_period(np.resize(states, 400)[None, :, None], 1e-2, 1e-12)[0].tolist() == [4]


def test_a_cycle_passed_slowly_is_said_to_be_passed():
    t = np.arange(400.0)
    period, passing = find_period((np.resize([0.0, 1.0, 3.0], 400) + 1e-5 * t)[None, :, None], 1e-2, 1e-12)
    assert period.tolist() == [0] and passing.tolist() == [True]
