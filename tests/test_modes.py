"""Verdicts on planted landscapes of known mode, and undecided where the evidence does not suffice."""

import numpy as np
import pytest
import torch
from scipy import integrate

from eqrlab import attractors as at
from eqrlab.attractors.landscape.mode_rule import ModeRule, mode_posterior, population
from eqrlab.attractors.landscape.modes import Evidence, restarts_needed
from eqrlab.attractors.results.schema import ADVICE, MODES
from tests.landscapes import calibration_table, draw_masses, near_threshold, run_landscapes
from tests.zoo import contraction, narrow_in_sea, puzzles, rotor, selector

UP = torch.tensor([[2]])


def verdict(system, labels, restarts=64, depth=100, seed=0):
    result = at.modes(
        at.sample(system, puzzles(len(labels)), labels=labels, restarts=restarts, depth=depth, seed=seed)
    )
    return MODES[int(result.mode[0])], ADVICE[int(result.advice[0])], result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "system", "label", "expected"),
    [
        ("a: attractors, none correct", selector([[0.0]]), [[5]], "a"),
        ("a: nothing settles", rotor(1.0), [[5]], "a"),
        ("b: decoy", selector([[0.0]]), [[2]], "b"),
        ("b: small correct basin", selector([[1.2]]), [[2]], "b"),
        ("c: small basin in a sea", narrow_in_sea(1.0), [[3]], "c"),
        ("d: broad", selector([[-2.5]]), [[2]], "d"),
        ("d: contraction", contraction(0.6), [[2]], "d"),
    ],
)
def test_planted_modes_are_recognised_at_64_restarts(name, system, label, expected, seed):
    assert verdict(system, torch.tensor(label), seed=seed)[0] == expected, name


def test_unfinished_landscapes_are_undecided_and_ask_for_depth():
    mode, advice, result = verdict(contraction(1 - 1e-3), torch.tensor([[2]]), depth=64)
    assert (mode, advice) == ("undecided", "buy_depth")
    assert int(result.count_unfinished[0]) == 64 and float(result.mode_probability[0, 4]) > 0.9


def test_few_restarts_are_undecided_and_ask_for_restarts():
    mode, advice, _ = verdict(selector([[0.0]]), torch.tensor([[5]]), restarts=3)
    assert (mode, advice) == ("undecided", "buy_restarts")


def test_advice_follows_the_mode():
    assert verdict(selector([[-2.5]]), UP)[1] == "deeper_is_enough"
    assert verdict(selector([[0.0]]), UP)[1] == "more_restarts"
    assert verdict(narrow_in_sea(1.0), torch.tensor([[3]]))[1] == "more_restarts_and_depth"
    assert verdict(selector([[0.0]]), torch.tensor([[5]]))[1] == "retrain"


def test_probabilities_sum_to_one_whatever_the_counts():
    counts = np.random.default_rng(0).integers(0, 200, (3, 50))
    np.testing.assert_allclose(mode_posterior(*counts, ModeRule()).sum(-1), 1)
    np.testing.assert_allclose(mode_posterior([100_000], [0], [3], ModeRule()).sum(-1), 1)


@pytest.mark.parametrize("counts", [(0, 3, 2), (4, 1, 2), (7, 0, 0), (2, 2, 2), (9, 0, 1), (0, 40, 24)])
def test_posterior_agrees_with_numerical_integration(counts):
    k, s, u = counts
    rule = ModeRule()
    log_range = np.log(rule.broad / rule.least)

    def narrow(p):
        """Density of the correct mass in b and c; below `least` only once a run was right."""
        logarithmic = 1 / (p * log_range) if p >= rule.least or k else 0.0
        return rule.narrow * logarithmic + (1 - rule.narrow) / rule.broad

    seen = lambda p, density: p**k * (1 - p) ** (s + u) * density
    split = lambda low, high: integrate.quad(lambda q: q**s * (1 - q) ** u, low, high)[0] / (high - low)
    whole = [
        integrate.quad(lambda p: seen(p, narrow(p)), *ends)[0]
        for ends in ((1e-12, rule.least), (rule.least, rule.broad))
    ]
    wide = integrate.quad(lambda p: seen(p, 1 / (1 - rule.broad)), rule.broad, 1)[0]
    evidence = np.array(
        [
            split(0, 1) if k == 0 else 0.0,
            sum(whole) * split(rule.elsewhere, 1),
            sum(whole) * split(0, rule.elsewhere),
            wide * split(0, 1),
        ]
    )
    np.testing.assert_allclose(mode_posterior([k], [s], [u], rule)[0], evidence / evidence.sum(), rtol=1e-6)


def test_one_correct_attractor_rules_out_mode_a():
    assert mode_posterior([1], [1000], [0], ModeRule())[0, 0] == 0


def test_posterior_is_calibrated_under_its_prior():
    """Landscapes drawn from the prior: among those given probability near p, the share that are in the mode is p."""
    rng, n = np.random.default_rng(0), 20_000
    truth, p_c, q = draw_masses(rng, n, ModeRule())
    counts = np.stack(
        [rng.multinomial(24, [p, (1 - p) * s, (1 - p) * (1 - s)]) for p, s in zip(p_c, q, strict=True)]
    )
    posterior = mode_posterior(*counts.T, ModeRule())
    for low in np.arange(0, 1, 0.1):
        for mode in range(4):
            inside = (posterior[:, mode] >= low) & (posterior[:, mode] < low + 0.1 + 1e-9)
            if inside.sum() > 200:
                predicted, seen = posterior[inside, mode].mean(), (truth[inside] == mode).mean()
                assert abs(predicted - seen) < 4 * np.sqrt(0.25 / inside.sum())


def test_checkpoint_verdict_needs_a_clear_majority():
    clear = at.sample(selector([[-2.5]] * 8), puzzles(8), labels=torch.full((8, 1), 2), restarts=64, depth=48)
    result = at.modes(clear)
    assert MODES[int(result.landscape_mode)] == "d"
    np.testing.assert_allclose(float(result.landscape_share.sum()), 1)
    mixed = at.sample(
        selector([[-2.5], [0.0]] * 4), puzzles(8), labels=torch.full((8, 1), 2), restarts=64, depth=48
    )
    assert MODES[int(at.modes(mixed).landscape_mode)] == "undecided"


def test_correctness_must_be_known():
    with pytest.raises(ValueError, match="labels or an oracle"):
        at.modes(at.sample(rotor(1.0), puzzles(), restarts=2, depth=2))


def wrong_and_confident(rows):
    sure = rows["probability"][:, :4]
    return (sure.max(1) > 0.95) & (sure.argmax(1) != rows["truth"])


def test_verdicts_on_planted_landscapes_are_calibrated():
    rows = run_landscapes(150, seed=0, rule=ModeRule())
    finished = rows["counts"][:, 3] == 0
    only = {name: values[finished] for name, values in rows.items()}
    for predicted, seen, number in calibration_table(only, np.array([0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.001])):
        assert abs(predicted - seen) < 4 * np.sqrt(max(predicted * (1 - predicted), 0.01) / number)
    verdicts = rows["mode"] < 4
    assert verdicts.mean() > 0.4 and (rows["mode"] == rows["truth"])[verdicts].mean() > 0.95
    wrong = wrong_and_confident(rows)
    assert near_threshold(rows["correct"], rows["q"], rows["restarts"], ModeRule())[wrong].all()


def test_no_verdict_on_a_clear_landscape_is_confident_and_wrong():
    rows = run_landscapes(100, seed=77, rule=ModeRule(), clear=True)
    assert not wrong_and_confident(rows).any()
    slow = rows["slow"] & (rows["truth"] > 0)
    assert (rows["mode"][slow & (rows["counts"][:, 3] > 0.3 * rows["restarts"])] == 4).all()


def test_the_restarts_said_to_decide_do_decide():
    few = at.sample(selector([[0.5]]), puzzles(), labels=UP, restarts=3, depth=48)
    first = at.modes(few)
    needed = int(first.restarts_needed[0])
    assert MODES[int(first["mode"][0])] == "undecided" and 3 < needed < 200
    more = at.modes(at.sample(selector([[0.5]]), puzzles(), labels=UP, restarts=2 * needed, depth=48))
    assert MODES[int(more["mode"][0])] == "b" and int(more.restarts_needed[0]) == 2 * needed


def test_masses_at_a_threshold_are_beyond_buying():
    one = lambda *v: Evidence(*(np.array([float(x)]) for x in v))
    assert restarts_needed(one(20, 10, 10, 0, np.nan), 40, ModeRule()).tolist() == [-1]  # q = 1/2 exactly
    assert restarts_needed(one(0, 0, 0, 40, np.nan), 40, ModeRule()).tolist() == [
        -1
    ]  # unfinished: more depth
    assert restarts_needed(one(40, 0, 0, 0, np.nan), 40, ModeRule()).tolist() == [40]


def test_the_depth_said_to_settle_settles_a_geometric_decay():
    base = at.modes(at.sample(contraction(0.99), puzzles(), labels=UP, restarts=20, depth=64))
    needed = int(base.depth_needed[0])
    assert ADVICE[int(base.advice[0])] == "buy_depth" and needed in (512, 1024)
    assert (
        MODES[
            int(
                at.modes(at.sample(contraction(0.99), puzzles(), labels=UP, restarts=20, depth=needed))[
                    "mode"
                ][0]
            )
        ]
        == "d"
    )


def test_wrong_states_that_leave_when_pushed_are_no_attractors():
    """Runs stopped at a saddle look settled; the return test takes the verdict of mode b away."""
    ensemble = at.sample(
        selector([[0.0]]), puzzles(), labels=UP, restarts=40, depth=48, keep=("summary", "final_state")
    )
    tested = at.return_test(selector([[0.0]]), puzzles(), ensemble, directions=2)
    assert MODES[int(at.modes(ensemble, returns=tested)["mode"][0])] == "b"
    wrong = ~ensemble.correct.values[:, :, -1]
    saddles = tested.assign(
        result=(("puzzle", "point"), np.where(wrong, 1, tested.result.values).astype(np.int8))
    )
    result = at.modes(ensemble, returns=saddles)
    assert MODES[int(result["mode"][0])] == "c" and int(result.count_unsettled[0]) == wrong.sum()
    open_ = tested.assign(
        result=(("puzzle", "point"), np.where(wrong, 2, tested.result.values).astype(np.int8))
    )
    assert MODES[int(at.modes(ensemble, returns=open_)["mode"][0])] == "undecided"
    with pytest.raises(ValueError, match="one test for each run"):
        at.modes(ensemble, returns=tested.isel(point=slice(3)))


def test_sensitivity_moves_verdicts_only_across_the_moved_threshold():
    offsets = [[-1.2], [-3.0], [0.0]]  # masses .885, .9987 and .5
    ensemble = at.sample(selector(offsets), puzzles(3), labels=torch.full((3, 1), 2), restarts=400, depth=48)
    result = at.mode_sensitivity(ensemble)
    names = {v: [MODES[i] for i in result["mode"].sel(variation=v).values] for v in result.variation.values}
    assert names["as is"][1:] == ["d", "b"] and names["broad = 0.8"] == ["d", "d", "b"]
    assert names["broad = 0.95"] == ["b", "d", "b"]
    assert result.changed.sel(variation="as is") == 0
    assert all(n == names["as is"] for v, n in names.items() if not v.startswith("broad"))
    with pytest.raises(ValueError, match="no threshold 'width'"):
        at.mode_sensitivity(ensemble, variations={"width": (1.0,)})


def test_the_population_share_is_not_held_back_by_puzzles_with_little_evidence():
    posterior = np.concatenate(
        [np.tile([0.0, 0.9, 0.1, 0.0], (40, 1)), np.tile([0.0, 0.1, 0.9, 0.0], (10, 1))]
    )
    share = population(posterior, np.full(4, 0.25), np.ones(50))
    exact = np.linspace(0, 1, 100_001)
    likelihood = 40 * np.log(0.9 * exact + 0.1 * (1 - exact)) + 10 * np.log(0.1 * exact + 0.9 * (1 - exact))
    best = exact[likelihood.argmax()]  # .875, while the mean posterior is .74
    np.testing.assert_allclose(share[1], best, atol=0.02)
    np.testing.assert_allclose(share.sum(), 1)
    weights = np.random.default_rng(0).multinomial(50, np.full(50, 0.02), size=7).astype(float)
    one_by_one = np.stack([population(posterior, np.full(4, 0.25), weight) for weight in weights])
    np.testing.assert_allclose(population(posterior, np.full(4, 0.25), weights), one_by_one, rtol=1e-12)


def test_shares_of_modes_over_equal_puzzles_are_known_as_far_as_so_few_can_tell():
    _, _, modes = verdict(contraction(0.6), torch.full((4, 1), 2))
    assert np.unique(modes.mode_probability.values, axis=0).shape[0] == 1
    assert (modes.population_share_high - modes.population_share_low > 0.05).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"broad": 1.0}, "least < broad < 1"),
        ({"decide": 0.0}, "decide must be between 0 and 1"),
        ({"prior": (1.0, 1.0, 0.0, 0.0)}, "four probabilities that sum to 1"),
        ({"alignment": 0.5}, "alignment >= 1"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModeRule(**change)
