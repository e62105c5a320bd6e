"""Scaling: exact averages over subsets, costs, onset, front, warning; asymptotic alignment."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import gammaln

from eqrlab import attractors as at
from eqrlab.attractors.answers import selectors
from eqrlab.attractors.answers.scaling import path_independence_gap
from eqrlab.attractors.results import archive
from eqrlab.core import MapSystem
from tests.zoo import contraction, puzzles, selector, up_mass

EACH = ("puzzle", "restart", "step")


def synthetic(seed=0, puzzles=6, restarts=7, steps=5):
    """An ensemble of made-up answers, residuals with ties and NaN, and halting logits."""
    rng = np.random.default_rng(seed)
    answer = rng.integers(0, 4, (puzzles, restarts, steps))
    good = rng.random((puzzles, 4)) < 0.4
    residual = rng.integers(0, 4, answer.shape).astype(float)
    residual[rng.random(answer.shape) < 0.1] = np.nan
    delta = rng.random(answer.shape)
    delta[:, :, 0] = np.nan
    logit = rng.integers(-4, 2, answer.shape).astype(float)
    logit[rng.random(answer.shape) < 0.05] = np.nan
    return xr.Dataset(
        {
            "answer_id": (EACH, answer),
            "correct": (EACH, good[np.arange(puzzles)[:, None, None], answer]),
            "residual": (EACH, residual),
            "logit_delta": (EACH, delta),
            "halt_logit": (EACH, logit),
            "answer_entropy": (
                EACH,
                np.where(rng.random(answer.shape) < 0.1, np.nan, rng.integers(0, 5, answer.shape)),
            ),
        },
        {"puzzle": np.arange(puzzles), "step": np.arange(1, steps + 1)},
    )


def chosen(one, name, depth, subset):
    """Chance that the answer a selector chooses from a subset of one puzzle's restarts is right, by definition.

    `one` holds arrays (restart, step).
    """
    part = {key: values[list(subset)] for key, values in one.items()}
    right, answer = part["correct"][:, depth - 1].copy(), part["answer_id"][:, depth - 1]
    if name == "mean":
        return right.mean()
    if name == "any_correct":
        return right.any()
    if name == "majority":
        answers, counts = np.unique(answer, return_counts=True)
        return np.mean([right[answer == a][0] for a in answers[counts == counts.max()]])
    if name == "first_to_halt":
        score = np.full(len(right), np.inf)
        for r, logits in enumerate(part["halt_logit"]):
            halts = np.flatnonzero(logits[:depth] > 0)
            if len(halts):
                score[r], right[r] = halts[0] + 1, part["correct"][r, halts[0]]
    elif name == "halting":
        score = -part["halt_logit"][:, depth - 1]
    elif name == "answer_entropy":
        score = part["answer_entropy"][:, depth - 1]
    elif name == "settle_time":
        runs = part["answer_id"][:, :depth].tolist()
        score = np.array([min(t for t in range(depth) if len(set(run[t:])) == 1) for run in runs], float)
    else:
        first = max(0, depth - 3) + (name == "top1_logit_delta" and depth <= 3)
        values = part["residual" if name == "top1_converged" else "logit_delta"][:, first:depth]
        score = (
            values.sum(1) / depth if values.size else np.zeros(len(right))
        )  # one length: sums rank as means
    score = np.where(np.isnan(score), np.inf, score)
    return right[score == score.min()].mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_selector_is_the_average_over_all_subsets(seed):
    ensemble = synthetic(seed)
    names = selectors.available(ensemble)
    single = [{str(key): values.values[p] for key, values in ensemble.items()} for p in range(6)]
    assert names == list(selectors.SELECTORS)
    table = selectors.accuracy_table(ensemble, names, (1, 2, 5), range(1, 8))
    for i, name in enumerate(names):
        for j, depth in enumerate((1, 2, 5)):
            for breadth in range(1, 8):
                subsets = list(itertools.combinations(range(7), breadth))
                for p, one in enumerate(single):
                    truth = np.mean([chosen(one, name, depth, s) for s in subsets])
                    assert table[p, i, j, breadth - 1] == pytest.approx(truth, abs=1e-12), (
                        name,
                        depth,
                        breadth,
                    )


def test_drawn_votes_agree_with_exact_ones(monkeypatch):
    votes = tuple([(1, False)] * 9 + [(4, False), (7, True), (8, False)])
    exact = {b: selectors.vote_chance(votes, b) for b in (3, 8, 20)}
    selectors.vote_chance.cache_clear()
    monkeypatch.setattr(selectors, "EXACT_VOTE", 1)
    for breadth, value in exact.items():
        assert abs(selectors.vote_chance(votes, breadth) - value) < 5 * np.sqrt(value * (1 - value) / 4000)
    selectors.vote_chance.cache_clear()


def test_votes_of_many_restarts_neither_overflow_nor_leave_the_unit_interval():
    value = selectors.vote_chance(((600, True), (300, False), (1148, False)), 64)
    assert 0 < value < 0.01
    assert selectors.vote_chance(((1024, True), (1024, False)), 63) == pytest.approx(0.5, abs=1e-9)


def test_rank_weights_are_ratios_of_binomials():
    weight = selectors.rank_weights(2000, 700)
    choose = lambda n: gammaln(n + 1) - gammaln(701) - gammaln(n - 699)
    assert weight.sum() == pytest.approx(1)
    assert weight[3] == pytest.approx(
        np.exp(choose(1997) - choose(2000)) - np.exp(choose(1996) - choose(2000))
    )


def test_known_masses_give_the_binomial_laws_of_fresh_restarts():
    """G3, one unit: restarts are right with the mass p of the upper side, settled alike, so that all laws are known."""
    offset = 0.4
    count, restarts, breadth, p = 40, 32, 4, up_mass(offset)
    ensemble = at.sample(
        selector([[offset]] * count),
        puzzles(count),
        labels=torch.full((count, 1), 2),
        restarts=restarts,
        depth=8,
    )
    result = at.scaling(ensemble, [8], [1, breadth], confidence=0.999).isel(depth=0)
    expected = {
        "mean": p,
        "any_correct": 1 - (1 - p) ** breadth,
        "majority": 4 * p**3 * (1 - p) + p**4 + 3 * p**2 * (1 - p) ** 2,
    }
    for name, value in expected.items():
        cell = result.sel(selector=name, breadth=breadth)
        assert float(cell.accuracy_low) <= value <= float(cell.accuracy_high)
    gap = result.sel(breadth=breadth)
    assert float(gap.path_gap_low) <= 2 * p * (1 - p) <= float(gap.path_gap_high)


def test_costs_are_depth_times_breadth():
    result = at.scaling(synthetic(), [2, 5], [1, 3, 7], layers=6)
    assert result.nfe.values.tolist() == [[2, 6, 14], [5, 15, 35]]
    assert (result.nle == 6 * result.nfe).all()
    assert "nle" not in at.scaling(synthetic(), [2], [1])


def test_steps_to_the_first_halt_are_those_of_the_subsets():
    ensemble = synthetic()
    result = at.scaling(ensemble, [4], [3])
    step = np.where(selectors.halting(ensemble, 4)[0] > 4, 4, selectors.halting(ensemble, 4)[0])
    truth = np.mean([3 * step[:, list(s)].min(1) for s in itertools.combinations(range(7), 3)])
    assert result.nfe_first_to_halt.item() == pytest.approx(truth)
    assert result.nfe_first_to_halt_low.item() <= truth <= result.nfe_first_to_halt_high.item()


def test_path_gap_is_the_share_of_pairs_that_disagree_and_gives_the_figure_of_the_paper():
    ensemble = synthetic()
    right = ensemble.correct.values[:, :, 2].astype(float)
    paper = np.mean([
        np.abs(right[:, list(s)].mean(1) - right[:, r]) for s in itertools.combinations(range(7), 4) for r in s
    ])  # fmt: skip
    pairs = np.mean([right[:, i] != right[:, j] for i, j in itertools.combinations(range(7), 2)])
    found = at.scaling(ensemble, [3], [2, 4, 7]).path_gap
    np.testing.assert_allclose(found, pairs)
    np.testing.assert_allclose(found * 3 / 4, paper)  # (B - 1) / B
    np.testing.assert_allclose(found, path_independence_gap(right.astype(bool)).mean())
    assert np.isnan(at.scaling(ensemble.isel(restart=[0]), [3], [1]).path_gap).all()


def staged(first_right, puzzles=12, restarts=4, steps=4):
    """Runs that are wrong before a step; then half of the restarts of every puzzle are right, and settle lower."""
    right = np.zeros((puzzles, restarts, steps), bool)
    right[:, : restarts // 2, first_right - 1 :] = True
    return xr.Dataset({
        "correct": (EACH, right), "answer_id": (EACH, right.astype(int)), "residual": (EACH, 1.0 - right),
    }, {"puzzle": np.arange(puzzles)})  # fmt: skip


def test_breadth_pays_from_the_depth_at_which_choices_differ():
    result = at.scaling(staged(3), [1, 2, 3, 4], [1, 4])
    onset = result.onset.to_series()
    assert onset["top1_converged"] == onset["any_correct"] == 3 and np.isinf(onset["mean"])
    top = result.sel(selector="top1_converged")
    assert float(top.onset_low) == float(top.onset_high) == 3
    assert top.gain.values[:, 1].tolist() == [0, 0, 0.5, 0.5]


def test_an_early_gain_that_is_lost_again_is_no_onset():
    """At step 1 one restart in two is right and settled lowest, at step 2 all are wrong, then as at step 1."""
    right = np.zeros((9, 2, 4), bool)
    right[:, 0, [0, 2, 3]] = True
    ensemble = xr.Dataset({
        "correct": (EACH, right), "answer_id": (EACH, right.astype(int)), "residual": (EACH, 1.0 - right),
    }, {"puzzle": np.arange(9)})  # fmt: skip
    assert at.scaling(ensemble, [1, 2, 3, 4], [1, 2]).onset.sel(selector="any_correct") == 3
    assert np.isinf(at.scaling(ensemble, [1, 2], [1, 2]).onset.sel(selector="any_correct"))


def test_front_holds_the_points_that_no_cheaper_one_reaches():
    result = at.scaling(staged(3), [1, 2, 3, 4], [1, 2, 4]).sel(selector="any_correct")
    on_front = {
        (int(d), int(b))
        for d in result.depth
        for b in result.breadth
        if result.pareto.sel(depth=d, breadth=b)
    }
    # cost 1: nothing; 3: one restart right with 1/2; 6: two with 5/6; 12: four surely
    assert on_front == {(1, 1), (3, 1), (3, 2), (3, 4)}
    assert result.pareto_support.sel(depth=3, breadth=4) == 1


def test_warning_where_the_least_residual_is_worse_than_the_majority():
    """Most restarts are right, but the wrong ones have the lower residual."""
    right = np.tile(np.array([True, True, True, False])[:, None], (10, 1, 4))
    deceptive = xr.Dataset({
        "correct": (EACH, right), "answer_id": (EACH, right.astype(int)), "residual": (EACH, 1.0 + right),
    }, {"puzzle": np.arange(10)})  # fmt: skip
    result = at.scaling(deceptive, [4], [1, 4])
    assert result.top1_worse.values.tolist() == [[False, True]]
    assert "worse than a majority vote" in result.attrs["warning"] and "depth 4" in result.attrs["warning"]
    assert at.scaling(staged(3)).attrs["warning"] == "none"


def test_intervals_hold_their_estimates_and_one_puzzle_has_none():
    result = at.scaling(synthetic())
    for name in ("accuracy", "gain", "path_gap", "top1_minus_majority", "nfe_first_to_halt"):
        assert (result[f"{name}_low"] <= result[name] + 1e-9).all() and (
            result[name] <= result[f"{name}_high"] + 1e-9
        ).all()
    alone = at.scaling(synthetic(puzzles=1))
    assert np.isnan(alone.accuracy_low).all() and np.isnan(alone.onset_low).all()


def test_result_goes_through_an_archive(tmp_path):
    result = at.scaling(synthetic())
    archive.write(tmp_path / "scale.nc", {"scaling": result})
    xr.testing.assert_equal(archive.read(tmp_path / "scale.nc")["scaling"].to_dataset(), result)
    assert all({"long_name", "units"} <= set(v.attrs) for v in result.data_vars.values())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"depths": [6]}, "depths must be integers from 1 to the 5"),
        ({"breadths": [0]}, "breadths must be integers from 1 to the 7"),
        ({"depths": []}, "depths"),
        ({"layers": 0}, "layers"),
        ({"confidence": 1}, "confidence"),
    ],
)
def test_what_the_ensemble_cannot_tell_is_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        at.scaling(synthetic(), **arguments)


def test_correctness_must_be_known():
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.scaling(at.sample(contraction(0.5), puzzles(), restarts=2, depth=2))


def test_kept_logit_changes_are_those_of_the_states():
    system = MapSystem(
        lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64)
    )
    system.logits = lambda z, x: torch.stack((z, 2 * z), -1)  # (n, 3 cells, 2 tokens)
    ensemble = at.sample(system, puzzles(2), restarts=3, depth=4, keep=("trajectory", "logit_delta"))
    states = ensemble.trajectory.values
    truth = np.sqrt(5) * np.abs(states[:, :, 1:] - states[:, :, :-1]).mean(-1)
    np.testing.assert_allclose(ensemble.logit_delta.values[:, :, 1:], truth, rtol=1e-6)
    assert np.isnan(ensemble.logit_delta.values[:, :, 0]).all()
    with pytest.raises(ValueError, match="logits"):
        at.sample(contraction(0.5), puzzles(), restarts=2, depth=2, keep=("logit_delta",))


def test_a_map_with_one_attractor_a_puzzle_is_asymptotically_aligned():
    system = MapSystem(
        lambda z, x: (z + x) / 2,
        lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype),
        lambda z, x: z.round().long(),
    )
    inputs = torch.tensor([[1, 2], [3, -1], [-2, 1]])
    ensemble = at.sample(system, inputs, labels=inputs, restarts=4, depth=60, keep=("final_state",))
    result = at.asymptotic_alignment(system, inputs, ensemble, labels=inputs)
    assert float(result.mean_alignment) == pytest.approx(1) and float(result.mean_own) == pytest.approx(1)
    truth = [[1, 2], [3, -1], [-2, 1]]
    for p, r in np.ndindex(3, 4):
        a, b = np.array(truth[int(result.partner[p, r])]), np.array(truth[p])
        assert float(result.start[p, r]) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert (
        float(result.mean_same_answer) == float(result.accuracy) == 1 and float(result.accuracy_change) == 0
    )
    assert (result.partner.values != np.arange(3)[:, None]).all()


def test_a_bistable_map_keeps_the_side_of_the_foreign_attractor():
    """G3 with offset 0: the run ends on the side where it starts, so it agrees with the own one about half the time."""
    system = selector([[0.0]] * 30)
    ensemble = at.sample(system, puzzles(30), restarts=8, depth=40, keep=("final_state",))
    result = at.asymptotic_alignment(system, puzzles(30), ensemble)
    np.testing.assert_allclose(result.alignment, result.start, atol=1e-9)
    assert abs(float(result.mean_alignment)) < 0.4
    assert (
        float(result.mean_alignment_low) <= float(result.mean_alignment) <= float(result.mean_alignment_high)
    )


def test_asymptotic_alignment_needs_states_of_these_puzzles():
    system = selector([[0.0], [0.1]])
    bare = at.sample(system, puzzles(2), restarts=2, depth=3)
    with pytest.raises(ValueError, match="final_state"):
        at.asymptotic_alignment(system, puzzles(2), bare)
    kept = at.sample(system, puzzles(2), restarts=2, depth=3, keep=("final_state",))
    with pytest.raises(ValueError, match="same order"):
        at.asymptotic_alignment(system, puzzles(2).flip(0), kept)
    with pytest.raises(ValueError, match="two different puzzles"):
        at.asymptotic_alignment(system, puzzles(1), kept.isel(puzzle=[0]))


def test_partners_of_asymptotic_alignment_are_other_puzzles_whatever_their_order():
    system, tokens = selector([[-0.3], [0.0], [0.4]]), puzzles(3)
    kept = at.sample(system, tokens, restarts=4, depth=8, keep=("final_state",))
    found = at.asymptotic_alignment(system, tokens, kept)
    order = [1, 2, 0, 1]  # with a copy
    again = at.asymptotic_alignment(system, tokens[order], kept.isel(puzzle=order))
    np.testing.assert_array_equal(np.array(order)[again.partner], found.partner[order])
    np.testing.assert_allclose(again.alignment, found.alignment[order])
    assert (found.partner != np.arange(3)[:, None]).all()


@pytest.mark.parametrize("puzzles", [3, 7])
def test_what_two_analyses_report_has_one_value_and_one_interval(puzzles):
    """The accuracy of the same selector with the same restarts and steps."""
    ensemble = synthetic(puzzles=puzzles)
    scaling, alignment, signals = at.scaling(ensemble), at.alignment(ensemble), at.signals(ensemble)
    for name in alignment.selector.values:
        for end in ("", "_low", "_high"):
            grid = scaling[f"accuracy{end}"].sel(selector=name).isel(breadth=-1)
            np.testing.assert_array_equal(grid, alignment[f"accuracy{end}"].sel(selector=name))
            if name in signals.signal:
                assert signals[f"accuracy{end}"].sel(signal=name) == pytest.approx(float(grid[-1]), abs=1e-12)


def test_with_one_restart_all_selectors_are_equal_to_the_last_bit():
    scaling = at.scaling(synthetic(restarts=16))
    one = scaling.accuracy_puzzle.sel(breadth=1)
    for name in set(scaling.selector.values) - {"first_to_halt"}:
        np.testing.assert_array_equal(one.sel(selector=name), one.sel(selector="mean"))
