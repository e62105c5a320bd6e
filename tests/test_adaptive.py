"""Adaptive inference: exact settling steps and costs, races, independence of slots and order, replay."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.answers.policy import ENDS, REASONS, Race
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import contraction, narrow_in_sea, puzzles, rotor, selector


class Counting:
    """A system that counts the rows its step is given; `halt` makes it offer a halting logit."""

    def __init__(self, system, halt=None):
        self.system, self.rows, self.widest = system, 0, 0
        self.noise_scale = system.noise_scale
        if halt is not None:
            self.halt_logit = halt
        for name in ("encode", "initial", "decode"):
            setattr(self, name, getattr(system, name))

    def step(self, z, x, noise=None):
        self.rows, self.widest = self.rows + len(z), max(self.widest, len(z))
        return self.system.step(z, x, noise)


def tiny(noise=0.05):
    torch.manual_seed(1)
    config = EqRConfig(
        vocab_size=6, seq_len=16, hidden_size=16, num_heads=2, H_cycles=1, L_cycles=1, noise_scale=noise
    )
    model = EqR(config, "sudoku4").double().eval()
    torch.nn.init.normal_(model.q_head.weight, std=0.5)
    torch.nn.init.normal_(model.q_head.bias, std=0.1)
    return model


def tokens(count=7):
    return torch.randint(1, 6, (count, 16), generator=torch.Generator().manual_seed(2))


def same(a, b):
    for name in ("answer", "nfe", "chosen", "end", "steps", "reason", "latency"):
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def test_a_contraction_retires_at_its_settling_step():
    """Relative update (1/2)^t / (1 + (1/2)^t) in z - z* = 2^-t: below 0.01 from t = 7 on."""
    system = MapSystem(
        lambda z, x: 1 + (z - 1) / 2,
        lambda x, g: torch.full((len(x), 1), 2.0, dtype=torch.float64),
        lambda z, x: torch.ones(len(z), 1, dtype=torch.long),
    )
    for window in (1, 3):
        counted = Counting(system)
        policy = at.Policy(stop="settled", settled_below=0.01, window=window, depth=50)
        result = at.adaptive(counted, puzzles(5), policy, labels=torch.ones(5, 1, dtype=torch.long))
        assert (result.nfe == 6 + window).all() and counted.rows == 5 * (6 + window)
        assert float(result.accuracy) == 1 and (result.end == ENDS.index("accepted")).all()
    late = at.adaptive(system, puzzles(2), at.Policy(stop="settled", min_steps=11, depth=50))
    assert (late.nfe == 11).all() and "correct" not in late


def test_equal_costs_of_few_puzzles_leave_the_mean_uncertain():
    """Five puzzles at 4 steps: of all puzzles 55 % or more are like them, the others take 1 to 50 steps."""
    policy = at.Policy(stop="settled", settled_below=1.5, window=3, depth=50)
    halved = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 2), generator=g))
    result = at.adaptive(halved, puzzles(5), policy)
    share = 0.05 ** (1 / 5)
    for name in ("nfe", "latency"):
        low, high = (float(result[f"mean_{name}_{end}"]) for end in ("low", "high"))
        assert float(result[f"mean_{name}"]) == 4
        assert (low, high) == pytest.approx((4 * share + 1 * (1 - share), 4 * share + 50 * (1 - share)))
    fixed = at.adaptive(halved, puzzles(5), at.Policy(stop="never", restarts=2, depth=6))
    costs = [
        float(fixed[f"mean_{name}{end}"]) for name in ("nfe", "latency") for end in ("", "_low", "_high")
    ]
    assert costs == [12, 12, 12, 6, 6, 6], "without stopping the cost is known"


def test_a_rotor_never_settles_and_spends_its_depth():
    result = at.adaptive(rotor(1.0), puzzles(4), at.Policy(stop="settled", restarts=3, depth=20))
    assert (result.nfe == 60).all() and (result.reason == REASONS.index("exhausted")).all()
    assert (result.end == ENDS.index("exhausted")).all()


def test_every_evaluation_of_the_map_is_counted_and_slots_bound_the_width():
    for slots in (1, 3, 64):
        counted = Counting(narrow_in_sea(0.5))
        policy = at.Policy(stop="settled", restarts=8, depth=12, schedule=((0, 4), (5, 2)), agree=2)
        result = at.adaptive(counted, puzzles(7), policy, slots=slots)
        assert counted.rows == int(result.nfe.sum()) == int(result.steps.sum())
        assert counted.widest <= slots


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_results_depend_neither_on_slots_nor_on_order_nor_on_company(noise):
    model, inputs = tiny(noise), tokens()
    policy = at.Policy(
        stop="either", settled_below=0.05, restarts=5, depth=9, schedule=((0, 1), (2, 4), (6, 2)), agree=2
    )
    run = lambda rows, slots: at.adaptive(model, inputs[rows], policy, slots=slots, seed=3)
    whole = run(np.arange(7), 64)
    assert len(set(whole.nfe.values.tolist())) > 1
    for slots in (1, 5):
        same(run(np.arange(7), slots), whole)
    order = np.array([4, 0, 2, 1, 6, 5, 3])
    same(run(order, 3), whole.isel(puzzle=order))
    same(run([6], 3), whole.isel(puzzle=[6]))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(
    "policy",
    [
        at.Policy(depth=12),
        at.Policy(stop="settled", settled_below=0.04, restarts=6, depth=12),
        at.Policy(stop="both", settled_below=0.2, restarts=6, depth=12, schedule=((0, 2),), agree=1),
        at.Policy(restarts=6, depth=12, schedule=at.halving(6, 2), keep_by="halting", select="halting"),
        at.Policy(stop="never", restarts=6, depth=12, schedule=at.halving(6, 2), select="residual"),
    ],
    ids=lambda p: f"{p.stop}-{p.select}",
)
def test_a_replay_of_the_ensemble_is_what_adaptive_does(noise, policy):
    model, inputs = tiny(noise), tokens()
    labels = at.sample(model, inputs, restarts=1, depth=12, seed=9).answer.values[:, 0]
    common = {"labels": labels, "seed": 4}
    ensemble = at.sample(model, inputs, restarts=6, depth=12, **common)
    live = at.adaptive(model, inputs, policy, slots=5, **common)
    played = at.replay(ensemble, policy)
    for name in ("nfe", "latency", "chosen", "reason", "correct"):
        np.testing.assert_array_equal(live[name].values, played[name].values, err_msg=name)
    assert float(live.mean_nfe_low) == float(played.mean_nfe_low)
    for p in range(7):
        restart = int(live.chosen[p])
        if int(live.steps[p, restart]) == 12:
            np.testing.assert_array_equal(live.answer[p], ensemble.answer[p, restart])


def test_without_stopping_the_selectors_are_those_of_the_ensemble():
    """Noise off the update of a step is the residual before it, so that only the votes can be compared exactly."""
    system = selector([[0.3, -0.2]] * 25)
    labels = torch.full((25, 2), 2)
    ensemble = at.sample(system, puzzles(25), labels=labels, restarts=8, depth=6)
    vote = at.adaptive(system, puzzles(25), at.Policy(stop="never", restarts=8, depth=6), labels=labels)
    assert (vote.nfe == 48).all()
    for p in range(25):
        answers, first, counts = np.unique(
            ensemble.answer_id[p, :, -1], return_index=True, return_counts=True
        )
        most = answers[counts == counts.max()]
        leader = most[np.argmin(first[counts == counts.max()])]  # ties to the first inserted
        assert int(ensemble.answer_id[p, int(vote.chosen[p]), -1]) == leader


def test_a_decoy_that_settles_is_believed_by_the_residual_and_refused_by_the_halting_head():
    """G11: both sides settle; a halting head that knows the right side makes the difference."""
    labels = torch.full((40, 1), 2)
    offsets = [[0.5]] * 40  # the right side has mass 0.31
    decoy = selector(offsets)
    residual = at.adaptive(decoy, puzzles(40), at.Policy(stop="settled", restarts=12, agree=1), labels=labels)
    assert float(residual.accuracy) < 0.7
    head = lambda z, x: (z - x)[:, 0]
    knowing = at.Policy(stop="both", restarts=12, depth=16, schedule=((0, 1),), agree=1)
    result = at.adaptive(Counting(decoy, head), puzzles(40), knowing, labels=labels)
    assert float(result.accuracy) > 0.95 and float(result.mean_nfe) < 16 / 0.31


def test_halving_drops_the_runs_that_do_not_settle():
    """Mode (c): one run in six enters the basin; the others wander and are dropped for it."""
    policy = at.Policy(stop="never", restarts=16, depth=32, schedule=at.halving(16, 4), select="residual")
    labels = torch.full((30, 1), 3)
    ensemble = at.sample(narrow_in_sea(1.0), puzzles(30), labels=labels, restarts=16, depth=32)
    result = at.adaptive(narrow_in_sea(1.0), puzzles(30), policy, labels=labels)
    assert (result.nfe == 16 * 4 + 8 * 4 + 4 * 8 + 2 * 16).all()
    np.testing.assert_array_equal(result.correct, ensemble.correct.values[:, :, -1].any(1))
    dropped = (result.end == ENDS.index("dropped")).values
    assert (dropped.sum(1) == 14).all() and (result.steps.values[dropped] <= 16).all()


def test_a_majority_ends_as_soon_as_it_cannot_change():
    race = Race(at.Policy(restarts=5, depth=9, schedule=((0, 1),)), 1)
    spent = 0
    for answer in (7, 8, 7, 7):
        assert race.chosen[0] == -1
        race.advance(np.array([0]), np.ones((1, 1)), np.ones((1, 1)), np.full((1, 1), answer, np.uint64))
        spent += 1
    assert race.chosen[0] == 0 and race.reason[0] == REASONS.index("decided") and race.spent[0] == spent == 4


def test_puzzles_stop_their_other_runs_when_enough_agree():
    race = Race(at.Policy(restarts=3, depth=9, agree=2), 1)
    seen = lambda halts, codes: (np.ones((1, 3)), np.array([halts]), np.array([codes], np.uint64))
    race.advance(np.array([0]), *seen([1.0, -1, -1], [5, 6, 6]))
    assert race.chosen[0] == -1 and race.restart[0].tolist() == [-1, 1, 2]
    race.advance(np.array([0]), *seen([0.0, -1, 1], [0, 6, 5]))
    assert race.chosen[0] == 0 and race.spent[0] == 5
    assert [ENDS[e] for e in race.end[0]] == ["accepted", "stopped", "accepted"] and race.used[
        0
    ].tolist() == [1, 2, 2]


def test_rows_that_are_not_finite_are_never_accepted_as_settled():
    blow = MapSystem(lambda z, x: z * 1e200, lambda x, g: torch.ones(len(x), 1, dtype=torch.float64))
    result = at.adaptive(blow, puzzles(2), at.Policy(stop="settled", depth=6))
    assert (result.reason == REASONS.index("exhausted")).all() and (result.nfe == 6).all()


def test_the_best_policy_is_the_cheapest_that_is_accurate_enough():
    labels = torch.full((20, 1), 2)
    ensemble = at.sample(contraction(0.5, 1), puzzles(20), labels=labels, restarts=4, depth=16)
    candidates = [at.Policy(stop="never", depth=depth) for depth in (16, 12, 8, 1)]
    policy, played = at.best_policy(ensemble, candidates, 1.0, orders=4)
    assert policy.depth == 8 and float(played.accuracy) == 1
    assert at.best_policy(ensemble, candidates[2:], 2.0)[0].depth == 8  # out of reach: the most accurate


def test_costs_are_matched_where_the_baseline_is_as_accurate():
    """The baseline answers puzzle p from step p + 1 on; the result answers 5 of 10, in 2 steps each."""
    step = np.arange(1, 11)
    right = step[None, :] > np.arange(10)[:, None]
    baseline = at.sample(
        contraction(0.5, 1), puzzles(10), labels=torch.full((10, 1), 2), restarts=1, depth=10
    )
    baseline["correct"] = baseline.correct.copy(data=right[:, None])
    result = at.adaptive(
        contraction(0.5, 1), puzzles(10), at.Policy(stop="never", depth=2), labels=torch.full((10, 1), 2)
    )
    result["correct"] = result.correct.copy(data=np.arange(10) < 5)
    found = at.matched_cost(baseline, result)
    assert (
        float(found.baseline_nfe) == 5
        and float(found.ratio) == pytest.approx(2.5)
        and float(found.difference) == pytest.approx(0)
    )
    assert float(found.ratio_low) < 2.5 < float(found.ratio_high) and not bool(found.exceeds)
    result["correct"] = result.correct.copy(data=np.ones(10, bool))
    capped = at.matched_cost(baseline.isel(step=slice(8)), result)
    assert (
        float(capped.baseline_nfe) == 8
        and float(capped.difference) == pytest.approx(0.2)
        and bool(capped.exceeds)
    )
    with pytest.raises(ValueError, match="same puzzles"):
        at.matched_cost(baseline.isel(puzzle=slice(4)), result)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"stop": "soon"}, "stop 'soon' unknown"),
        ({"restarts": 0}, "restarts must be an integer >= 1"),
        ({"settled_below": 0}, "settled_below"),
        ({"schedule": ((1, 2),)}, "begin at step 0"),
        ({"schedule": ((0, 2), (4, 0))}, "width >= 1"),
        ({"agree": 0}, "agree"),
    ],
)
def test_policies_out_of_range_are_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        at.Policy(**values)


def test_what_a_policy_needs_must_be_there():
    with pytest.raises(ValueError, match="which this system does not have"):
        at.adaptive(rotor(1.0), puzzles(1), at.Policy())
    with pytest.raises(ValueError, match="slots"):
        at.adaptive(rotor(1.0), puzzles(1), at.Policy(stop="never"), slots=0)
    ensemble = at.sample(contraction(0.5), puzzles(2), labels=torch.full((2, 1), 2), restarts=2, depth=3)
    with pytest.raises(ValueError, match="depth 64, the ensemble only 3"):
        at.replay(ensemble, at.Policy(stop="never"))
    with pytest.raises(ValueError, match="halting"):
        at.replay(ensemble, at.Policy(depth=3))
    with pytest.raises(ValueError, match="orders"):
        at.replay(ensemble, at.Policy(stop="never", depth=3), orders=3)
    with pytest.raises(ValueError, match="first"):
        at.halving(8, 0)


def test_a_run_that_ends_exactly_at_the_origin_is_at_rest():
    gone = MapSystem(lambda z, x: 0 * z, lambda x, g: torch.randn((len(x), 2), generator=g))
    policy = at.Policy(stop="settled", depth=20)
    ensemble = at.sample(gone, puzzles(), labels=torch.ones(1, 1, dtype=torch.long), restarts=1, depth=20)
    found, again = at.adaptive(gone, puzzles(), policy), at.replay(ensemble, policy)
    assert found.nfe.values.tolist() == again.nfe.values.tolist() == [2]
