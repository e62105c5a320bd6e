"""Restarts drawn until the masses are precise: those of `sample`, enough of them, and not many more."""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.attractors.landscape.estimate import DECISIONS, STOPS, restarts_for
from eqrlab.attractors.statistics.intervals import mass_above, proportion_interval
from eqrlab.core import MapSystem
from tests.zoo import noisy_ar, normal_start, puzzles, selector, up_mass


def lottery(masses):
    """A start falls at once onto attractor 1, 2, ... with these masses; the answer is its number."""
    edges = torch.tensor(masses, dtype=torch.float64).cumsum(0)[:-1]

    def start(x, generator):
        u = torch.rand((len(x), 1), generator=generator, dtype=torch.float64)
        return torch.bucketize(u, edges).double() + 1

    return MapSystem(lambda z, x: z.round(), start, lambda z, x: z.round().long())


def stops(found):
    return [STOPS[i] for i in found.stop.values]


def test_the_first_restarts_are_those_of_sample():
    """Every restart of the estimate ends where the same restart of a plain ensemble ends."""
    system = selector([[0.0, 0.4], [1.5, -1.0]])
    found = at.estimate_basins(system, puzzles(2), half_width=0.06, depth=40, seed=3)
    used = found.restarts_used.values
    plain = at.basins(at.sample(system, puzzles(2), restarts=int(used.max()), depth=40, seed=3))
    assert used[0] != used[1] and found.sizes["restart"] == used.max()
    for p, n in enumerate(used):
        ends = [d.answer.values[p][d.attractor_id.values[p, :n]] for d in (found, plain)]
        np.testing.assert_array_equal(*ends)
        assert (found.attractor_id.values[p, n:] == -2).all() and (
            found.attractor_id.values[p, :n] >= -1
        ).all()


def test_an_ensemble_is_continued_exactly_with_noise_too():
    system = noisy_ar(0.5, 0.1, size=5)
    whole = at.sample(system, puzzles(2), restarts=12, depth=9)
    later = at.sample(system, puzzles(2), restarts=5, depth=9, first_restart=7)
    np.testing.assert_array_equal(whole.residual[:, 7:], later.residual)
    assert later.restart.values.tolist() == [7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="first_restart must be an integer >= 0, got -1"):
        at.sample(system, puzzles(), first_restart=-1)


def test_the_band_of_the_first_round_holds_for_all():
    """Labels give a solved band that depends on the runs; the fates of the first round must not change later."""
    system, labels = selector([[0.1], [0.8]]), torch.full((2, 1), 2)
    first = at.sample(system, puzzles(2), labels=labels, restarts=32, depth=12)
    found = at.estimate_basins(system, puzzles(2), labels=labels, half_width=0.06, depth=12)
    np.testing.assert_array_equal(found.attractor_id[:, :32] >= 0, np.isin(first.fate, [0, 1, 2]))


def test_every_interval_is_as_narrow_as_asked_and_restarts_go_where_they_are_needed():
    offsets = [0.0, 1.3, 2.5, 8.0]
    found = at.estimate_basins(
        selector([[b] for b in offsets]), puzzles(4), labels=torch.full((4, 1), 2), half_width=0.05, depth=40
    )
    assert stops(found) == ["precise"] * 4 and (found.half_width <= 0.05).all()
    for name in ("mass", "mass_none", "correct_mass", "spurious_mass"):
        assert float((found[f"{name}_high"] - found[f"{name}_low"]).max()) <= 0.1
    used = found.restarts_used.values
    assert (np.diff(used) <= 0).all() and used[0] > 4 * used[3]
    needed = [restarts_for(0.05, mass=max(up_mass(b), 1e-9)) for b in offsets]
    assert (used <= 1.5 * np.array(needed) + 32).all()
    assert used[0] <= 1.05 * found.attrs["fixed_restarts"] == 1.05 * restarts_for(0.05)


def test_masses_are_right():
    """Binomial tests of the counts are not valid after stopping; the mean over 60 puzzles alike is nearly unbiased."""
    found = at.estimate_basins(
        selector([[0.5]] * 60), puzzles(60), labels=torch.full((60, 1), 2), half_width=0.1, depth=40
    )
    assert abs(float(found.correct_mass.mean()) - up_mass(0.5)) < 0.025
    inside = (found.correct_mass_low <= up_mass(0.5)) & (up_mass(0.5) <= found.correct_mass_high)
    assert int(inside.sum()) >= 52  # 57 expected; fewer than 52 once in 200


@pytest.mark.parametrize("masses", [(0.5, 0.5), (0.9, 0.1), (0.6, 0.3, 0.1)])
def test_coverage_survives_stopping_at_a_width(masses):
    """300 planted puzzles through the whole pipeline."""
    found = at.estimate_basins(lottery(masses), puzzles(300), half_width=0.1, depth=8)
    answer = found.answer.values[:, :, 0]
    truth = np.array(masses)[np.maximum(answer, 1) - 1]
    covered = (found.mass_low.values <= truth) & (truth <= found.mass_high.values)
    for a in range(1, len(masses) + 1):
        missed = ((answer == a) & ~covered).any(1).mean()
        assert missed <= 0.08


def exact_coverage(method, p, half_width, step=16, first=32):
    """Coverage when counts are looked at after first, first + step, ... restarts: sums over all ways to stop."""
    running, covered = stats.binom.pmf(np.arange(first + 1), first, p), 0.0
    n = first
    while running.sum() > 1e-9:
        low, high = proportion_interval(np.arange(n + 1), n, 0.95, method)
        stop = (high - low) / 2 <= half_width
        covered += running[stop & (low <= p) & (p <= high)].sum()
        running = np.convolve(np.where(stop, 0, running), stats.binom.pmf(np.arange(step + 1), step, p))
        n += step
    return covered


@pytest.mark.parametrize("p", [0.01, 0.1, 0.125, 0.3, 0.5])
def test_clopper_pearson_bears_to_be_stopped_by(p):
    assert exact_coverage("clopper-pearson", p, 0.05) >= 0.94


def test_the_mid_p_interval_does_not():
    assert exact_coverage("mid-p", 0.1, 0.05) < 0.9


def test_no_more_restarts_than_allowed_are_drawn():
    found = at.estimate_basins(selector([[0.0]]), puzzles(), half_width=0.01, max_restarts=50, depth=30)
    assert int(found.restarts_used[0]) == 50 and stops(found) == ["max_restarts"]
    assert float(found.half_width[0]) > 0.01
    few = at.estimate_basins(selector([[0.0]]), puzzles(), max_restarts=5, depth=30)
    assert int(few.restarts_used[0]) == 5


def test_doubt_that_restarts_cannot_remove_ends_the_sampling():
    """Two attractors .1 apart: clear to fast runs; slow ones end .05 from them, where they may belong to either."""

    def pair(rate):
        def step(z, x):
            goal = torch.where(z[:, 1:] > 0, 1.0, 1.1).double()
            return torch.cat((goal + (z[:, :1] - goal) * rate, z[:, 1:].sign() * 1e-3), 1)

        return MapSystem(step, normal_start(2), lambda z, x: torch.ones(len(z), 1, dtype=torch.long))

    limits = at.Tolerances(travel=0.2)
    clear, doubtful = (
        at.estimate_basins(pair(rate), puzzles(), half_width=0.1, depth=150, tolerances=limits)
        for rate in (0.5, 0.985)
    )
    assert stops(clear) == ["precise"] and int(clear.attractors[0]) == 2
    assert stops(doubtful) == ["ambiguous"] and int(doubtful.ambiguous[0]) > 0
    assert int(doubtful.restarts_used[0]) < 200 and float(doubtful.half_width[0]) > 0.1


def test_a_threshold_is_decided_and_rarely_wrongly():
    """100 puzzles of mass .5 asked about .4 and .6: all decided, at most 5 % wrong; and about .5: rarely decided."""
    truth, system = torch.ones(100, 1, dtype=torch.long), lottery((0.5, 0.5))
    options = {"labels": truth, "depth": 8, "max_restarts": 1500}
    for threshold, right in ((0.35, "above"), (0.65, "below")):
        found = at.estimate_basins(system, puzzles(100), above=threshold, **options)
        said = np.array(DECISIONS)[found.correct_mass_above.values]
        assert set(stops(found)) == {"decided"} and (said == right).mean() >= 0.97
        assert found.attrs["interval_method"] == "sequence"
        sign = mass_above(np.round(found.correct_mass * found.restarts_used), found.restarts_used, threshold)
        np.testing.assert_array_equal(found.correct_mass_above, np.where(sign > 0, 2, 1))
        assert float(found.restarts_used.mean()) < restarts_for(0.05)
    found = at.estimate_basins(system, puzzles(100), above=0.5, **(options | {"max_restarts": 400}))
    assert (found.correct_mass_above > 0).mean() <= 0.05
    assert ((found.correct_mass_low <= 0.5) & (found.correct_mass_high >= 0.5)).mean() >= 0.95


def test_a_user_may_bring_a_restart_law_and_hear_of_progress():
    law = lambda x, g: 3 + torch.rand(x.shape, generator=g, dtype=torch.float64)
    heard = []
    found = at.estimate_basins(
        selector([[0.0], [0.5]]),
        puzzles(2),
        initial=law,
        depth=40,
        progress=lambda d, n: heard.append((d, n)),
    )
    assert found.attractors.values.tolist() == [1, 1] and heard[-1] == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half_width": 0.5}, "half_width"),
        ({"confidence": 1.0}, "confidence"),
        ({"max_restarts": 0}, "max_restarts"),
        ({"first": 0}, "first"),
        ({"above": 0.5}, "give labels or an oracle"),
        ({"above": 1.5, "labels": torch.ones(1, 1, dtype=torch.long)}, "above must be between"),
        ({"method": "wald"}, "'wald' unknown"),
        ({"initial": torch.zeros(1, 32, 1)}, "initial must be None or a callable"),
    ],
)
def test_misuse_is_refused_before_anything_is_run(options, message):
    with pytest.raises(ValueError, match=message):
        at.estimate_basins(selector([[0.0]]), puzzles(), **options)
