"""Runs that ended together get one label, whatever the order, the batches and the precision; doubt is counted."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.landscape.basins import tabulate
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import MapSystem
from tests.zoo import narrow_in_sea, normal_start, puzzles, selector, up_mass


def planted(places, *, error=1e-12, answers=None, resolution=1e-6, state=None, fate="settled"):
    """Runs of scale 1 that ended at these places."""
    places = np.atleast_2d(np.asarray(places, float))
    n = len(places)
    answers = np.zeros(n, int) if answers is None else np.asarray(answers)
    return Runs(
        restart=np.arange(n),
        fate=np.full(n, CODE[fate], np.int8),
        period=np.ones(n, int),
        settling_step=np.ones(n, int),
        residual=np.zeros(n),
        scale=np.ones(n),
        error=np.broadcast_to(np.asarray(error, float), (n,)),
        resolution=np.full(n, resolution),
        place=places,
        answer=answers[:, None],
        code=answers.astype(np.uint64),
        correct=np.zeros(n, bool),
        state=np.zeros((n, 0)) if state is None else state,
        exact=np.full(n, fate == "settled"),
    )


def line(*positions):
    return [[x] for x in positions]


def test_radii_follow_the_errors_of_the_states():
    """Half a percent apart: two attractors when known to 1e-6, one when known to 1e-3."""
    places = line(1, 1.005)
    assert identify(planted(places, error=1e-6)).label.tolist() == [0, 1]
    assert identify(planted(places, error=1e-3)).label.tolist() == [0, 0]


def test_states_closer_than_the_resolution_are_one():
    places = line(1, 1 + 5e-4)
    assert identify(planted(places, resolution=1e-3)).label.tolist() == [0, 0]
    assert identify(planted(places, resolution=1e-6)).label.tolist() == [0, 1]


def test_two_labels_tell_states_and_answers_apart():
    found = identify(planted(line(1, 1, 2, 1), answers=[5, 6, 5, 5]))
    assert found.label.tolist() == [0, 1, 2, 0]
    assert found.dynamical.tolist() == [0, 0, 1]  # the first two agree in state
    system = selector([[0.0, 0.0]])
    first_only = MapSystem(
        system.step, system.initial, lambda z, x: (z[:, :1] > x[:, :1]).long(), system.encode
    )
    table = at.basins(at.sample(first_only, puzzles(), restarts=60, depth=40))
    assert sorted(table.dynamical.values[0]) == [0, 1, 2, 3]
    assert sorted(table.semantic.values[0]) == [0, 0, 1, 1]


def test_a_split_in_doubt_widens_both_counts():
    """Two clusters two radii apart: they may be one."""
    found = identify(planted(line(1, 1, 1, 1.012), error=1e-3))
    assert found.label.tolist() == [0, 0, 0, 1]
    assert found.fewest.tolist() == [3, 1] and found.most.tolist() == [4, 4] and found.ambiguous == 4


def test_a_run_within_reach_of_two_attractors_is_in_doubt():
    found = identify(planted(line(1, 1.1, 1, 1.1, 1.05), error=[1e-9, 1e-9, 1e-9, 1e-9, 0.05]))
    assert found.label.tolist() == [0, 1, 0, 1, 0]
    assert found.fewest.tolist() == [2, 2] and found.most.tolist() == [3, 3] and found.ambiguous == 1


def test_doubt_reaches_the_intervals_of_masses():
    """Two attractors with one answer, and a run so far from settled that it may belong to either."""
    system = selector([[0.0]])
    blind = MapSystem(
        system.step, system.initial, lambda z, x: torch.ones(len(z), 1, dtype=torch.long), system.encode
    )
    ensemble = at.sample(blind, puzzles(), restarts=40, depth=40)
    plain = at.basins(ensemble)
    blurred = ensemble.copy(deep=True)
    blurred.residual.values[0, 7, :] = 0.35  # not falling: its error is unbounded
    table = at.basins(blurred)
    mine = int(table.attractor_id[0, 7])
    assert int(table.ambiguous[0]) >= 1 and int(plain.ambiguous[0]) == 0
    assert int(table.count_low[0, mine]) < int(table["count"][0, mine])
    alone = [proportion_interval(int(c), 40) for c in table["count"].values[0]]
    assert float(table.mass_low[0, mine]) < alone[mine][0]
    assert float(table.mass_high[0, 1 - mine]) > alone[1 - mine][1]
    inside = (table.mass_low <= table.mass) & (table.mass <= table.mass_high)
    assert bool(inside.where(table.mass.notnull(), True).all())


def test_full_states_settle_what_sketches_leave_open():
    """The sketches of two states say .9 of the radii apart; in full they are twice as far, or half."""
    places = np.zeros((2, 64))
    places[1, 0] = 0.9 * 6e-3
    sketched = identify(planted(places, error=1e-3))
    assert sketched.label.tolist() == [0, 0] and sketched.fewest.tolist() == [1] and sketched.alone.sum() == 1
    for apart, label in ((0.5, [0, 0]), (4.0, [0, 1])):
        state = np.zeros((2, 500))
        state[1, 7] = apart * 6e-3
        found = identify(planted(places, error=1e-3, state=state))
        assert found.label.tolist() == label and found.ambiguous == 0


def test_labels_do_not_depend_on_the_order_of_rows():
    """Overlapping clusters of unequal errors, in 20 orders."""
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.normal(c, 0.02, (15, 2)) for c in ((1, 0), (0, 1), (1, 0.1))])
    runs = planted(places, error=rng.uniform(0.005, 0.03, 45))
    label = identify(runs).label
    assert 2 <= label.max() < 20
    for _ in range(20):
        order = rng.permutation(45)
        turned = identify(runs.take(order))
        np.testing.assert_array_equal(turned.label, label[order])


def test_masses_do_not_depend_on_batches_or_on_the_company_of_puzzles():
    system = selector([[0.0, 0.3], [-0.5, 0.1]])
    whole = at.basins(at.sample(system, puzzles(2), restarts=50, depth=30))
    split = at.basins(at.sample(system, puzzles(2), restarts=50, depth=30, batch_size=7))
    alone = at.basins(at.sample(system, puzzles(2)[1:], restarts=50, depth=30))
    np.testing.assert_array_equal(whole.attractor_id, split.attractor_id)
    np.testing.assert_array_equal(whole.attractor_id[1], alone.attractor_id[0])


def test_single_precision_finds_the_same_attractors():
    system = selector([[0.0, 0.3, -0.4]])
    runs = {d: at.basins(at.sample(system, puzzles(), restarts=200, depth=40, dtype=d)) for d in
            ("float64", "float32")}  # fmt: skip
    np.testing.assert_array_equal(runs["float64"].attractor_id, runs["float32"].attractor_id)


@pytest.mark.gpu
def test_attractors_do_not_depend_on_the_device():
    rate = lambda z: torch.arange(z.shape[1], device=z.device) < 2
    system = MapSystem(
        lambda z, x: torch.where(rate(z), torch.tanh(2 * z), z / 2),
        normal_start(300),
        lambda z, x: (z[:, :2] > 0).long(),
    )
    found = [
        at.basins(at.sample(system, puzzles(), restarts=64, depth=40, device=d)) for d in ("cpu", "cuda")
    ]
    np.testing.assert_array_equal(found[0].attractor_id, found[1].attractor_id)


def test_rounds_joined_are_the_whole():
    ensemble = at.sample(selector([[0.0, 0.5]]), puzzles(), restarts=30, depth=30)
    whole = runs_of(ensemble)[0]
    parts = join(*(runs_of(ensemble.isel(restart=r))[0] for r in (slice(11), slice(11, None))))
    np.testing.assert_array_equal(identify(whole).label, identify(parts).label)


def test_a_basin_of_a_thousandth_is_found():
    """G3 with b = 3.0902: P(up) = .001; 6,000 restarts find it but for one chance in 400."""
    found = at.basins(at.sample(selector([[3.0902]]), puzzles(), restarts=6000, depth=40))
    mass = up_mass(3.0902)
    assert abs(mass - 1e-3) < 1e-6 and int(found.attractors[0]) == 2
    assert float(found.mass_low[0, 1]) <= mass <= float(found.mass_high[0, 1])
    assert int(found.ambiguous[0]) == 0 and float(found.unseen_mass_high[0]) < 1e-3


def test_a_landscape_of_1024_attractors_has_its_masses_and_its_unseen_mass():
    offsets = np.linspace(-0.6, 0.6, 10)
    found = at.basins(at.sample(selector([offsets.tolist()]), puzzles(), restarts=4000, depth=40))
    up = np.array([up_mass(b) for b in offsets])
    answer = found.answer.values[0]
    mass = np.where(answer == 2, up, 1 - up).prod(1)
    assert len(np.unique(answer, axis=0)) == int(found.attractors[0]) == len(mass) > 800
    covered = (found.mass_low.values[0] <= mass) & (mass <= found.mass_high.values[0])
    assert covered.mean() >= 0.93
    np.testing.assert_allclose(float(found.unseen_mass[0]), 1 - mass.sum(), atol=0.015)
    assert 1 - mass.sum() <= float(found.unseen_mass_high[0])
    total = at.basins(
        at.sample(selector([offsets.tolist()]), puzzles(), restarts=4000, depth=40), method="simultaneous"
    )
    assert ((total.mass_low.values[0] <= mass) & (mass <= total.mass_high.values[0])).all()


def test_doubtful_merges_raise_the_bound_of_the_unseen_mass():
    places = np.zeros((40, 64))
    places[1:, 0] = 0.9 * 6e-3
    assert identify(planted(places, error=1e-3)).alone.sum() == 39
    doubtful, sure = planted(places, error=1e-3), planted(np.zeros((40, 64)), error=1e-3)
    bound = [
        float(tabulate([r], [identify(r)], 0.95, "mid-p")["unseen_mass_high"][1][0]) for r in (doubtful, sure)
    ]
    assert bound[0] > 0.9 > 0.1 > bound[1]


def test_wandering_runs_and_quiet_ones_are_not_mixed():
    ensemble = at.sample(narrow_in_sea(0.5), puzzles(), labels=torch.tensor([[3]]), restarts=80, depth=120)
    found = identify(runs_of(ensemble)[0])
    np.testing.assert_array_equal(found.label >= 0, np.isin(ensemble.fate.values[0], [0, 1, 2]))


def test_a_cycle_is_right_only_if_it_is_right_all_along():
    """A rotation by 180 degrees alternates between two answers."""
    turn = MapSystem(lambda z, x: -z / z.norm(dim=1, keepdim=True), normal_start(2),
                     lambda z, x: (z[:, :1] > 0).long() + 1)  # fmt: skip
    ensemble = at.sample(turn, puzzles(), labels=torch.tensor([[2]]), restarts=6, depth=40)
    assert (ensemble.fate.values == CODE["periodic"]).all()
    assert not at.basins(ensemble).correct.values.any() and ensemble.correct.values[:, :, -1].any()


def test_a_landscape_without_attractors_has_empty_labels():
    grows = MapSystem(lambda z, x: 1.5 * z, normal_start(2))
    found = identify(runs_of(at.sample(grows, puzzles(), restarts=5, depth=300))[0])
    assert found.label.tolist() == [-1] * 5 and len(found.fewest) == 0 and found.ambiguous == 0
