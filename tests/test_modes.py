"""Verdicts on planted landscapes of known mode, and undecided where the evidence does not suffice."""

import numpy as np
import pytest
import torch
from scipy import integrate

from eqrlab import attractors as at
from eqrlab.attractors.modes import ModeRule, mode_posterior
from eqrlab.attractors.schema import ADVICE, MODES
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


@pytest.mark.parametrize("counts", [(0, 3, 2), (4, 1, 2), (7, 0, 0), (2, 2, 2), (9, 0, 1)])
def test_posterior_agrees_with_numerical_integration(counts):
    k, s, u = counts
    broad = ModeRule().broad

    def region(p_low, p_high, q_low, q_high):
        mass = lambda q, p: p**k * ((1 - p) * q) ** s * ((1 - p) * (1 - q)) ** u * (1 - p)
        norm = lambda q, p: 1 - p
        return (
            integrate.dblquad(mass, p_low, p_high, q_low, q_high)[0]
            / integrate.dblquad(norm, p_low, p_high, q_low, q_high)[0]
        )

    nothing = integrate.quad(lambda q: q**s * (1 - q) ** u, 0, 1)[0] if k == 0 else 0.0
    evidence = np.array([nothing, region(0, broad, 0.5, 1), region(0, broad, 0, 0.5), region(broad, 1, 0, 1)])
    np.testing.assert_allclose(
        mode_posterior([k], [s], [u], ModeRule())[0], evidence / evidence.sum(), rtol=1e-6
    )


def test_one_correct_attractor_rules_out_mode_a():
    assert mode_posterior([1], [1000], [0], ModeRule())[0, 0] == 0


def test_posterior_is_calibrated_under_its_prior():
    """Landscapes drawn from the prior: among those given probability near p, the share that are in the mode is p."""
    rng, rule, n = np.random.default_rng(0), ModeRule(), 20_000
    truth = rng.integers(0, 4, n)
    p_c, q = np.zeros(n), rng.random(n)
    draws = 1 - np.sqrt(rng.random(2_000_000))  # density 2 (1 - p)
    for mode, pool in {
        1: draws[draws < rule.broad],
        2: draws[draws < rule.broad],
        3: draws[draws >= rule.broad],
    }.items():
        p_c[truth == mode] = pool[: (truth == mode).sum()]
    q = np.where(truth == 1, 0.5 + q / 2, np.where(truth == 2, q / 2, q))
    counts = np.stack(
        [rng.multinomial(24, [p, (1 - p) * s, (1 - p) * (1 - s)]) for p, s in zip(p_c, q, strict=True)]
    )
    posterior = mode_posterior(*counts.T, rule)
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
