"""Continued runs are the runs that a deeper ensemble has, and finish what was unfinished."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.results.schema import FATES
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.zoo import (
    contraction,
    linear,
    logistic,
    narrow_in_sea,
    noisy_ar,
    normal_start,
    puzzles,
    rotor,
    selector,
)

STATES = ("summary", "final_state")
UP = torch.tensor([[2]])


def names(result):
    return [sorted({FATES[i] for i in np.unique(result.fate[:, :, d])}) for d in range(result.sizes["depth"])]


@pytest.mark.parametrize(
    ("system", "labels"),
    [
        (contraction(0.97), UP),
        (selector([[0.3]]), UP),
        (narrow_in_sea(0.5), torch.tensor([[3]])),
        (rotor(1.0), UP),
        (logistic(3.5), None),
        (noisy_ar(0.9, 0.05), None),
        (linear(torch.tensor([[0.99, 0.1], [-0.1, 0.99]], dtype=torch.float64)), None),
    ],
)
def test_a_continued_run_is_the_run_of_a_deeper_ensemble(system, labels):
    options = dict(labels=labels, restarts=12, seed=4, keep=STATES)
    base = at.sample(system, puzzles(), depth=16, **options)
    longer = at.prolong(system, puzzles(), base, depth=64, which="all")
    for i, depth in enumerate(longer.depth.values):
        deep = at.sample(system, puzzles(), depth=int(depth), **options)
        np.testing.assert_allclose(longer.residual[:, :, i], deep.residual[:, :, -1], rtol=1e-9, atol=1e-14)
        for axis in ("fate", "state_fate", "answer_fate"):
            np.testing.assert_array_equal(longer[axis][:, :, i], deep[axis])
    np.testing.assert_allclose(longer.final_state, deep.final_state, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(longer.answer, deep.answer)


def test_a_run_at_zero_has_the_relative_residual_that_sample_gives():
    """z / 8 reaches 0 exactly: nothing is left, and 0 / 0 is not unknown."""
    system = MapSystem(lambda z, x: torch.where(z.abs() > 1e-3, z / 8, 0 * z), normal_start(2))
    options = dict(restarts=3, keep=STATES)
    longer = at.prolong(
        system, puzzles(), at.sample(system, puzzles(), depth=8, **options), depth=16, which="all"
    )
    deep = at.sample(system, puzzles(), depth=16, **options)
    np.testing.assert_array_equal(longer.relative_residual[:, :, -1], deep.relative_residual[:, :, -1])
    assert (longer.relative_residual == 0).all()


def test_noise_goes_on_where_it_stopped_in_a_learned_model():
    torch.manual_seed(0)
    model = EqR(
        EqRConfig(vocab_size=6, seq_len=16, hidden_size=16, num_heads=2, noise_scale=0.05), "sudoku4"
    ).double()
    inputs = torch.randint(1, 6, (2, 16), generator=torch.Generator().manual_seed(1))
    base = at.sample(model, inputs, restarts=3, depth=4, keep=STATES, first_restart=5)
    longer = at.prolong(model, inputs, base, depth=8, which="all", batch_size=2)
    deep = at.sample(model, inputs, restarts=3, depth=8, keep=STATES, first_restart=5)
    np.testing.assert_allclose(longer.final_state, deep.final_state, rtol=1e-9, atol=1e-12)


def test_unfinished_runs_settle_and_only_they_go_on():
    system = MapSystem(
        lambda z, x: torch.where(z > 0, 1 + 0.5 * (z - 1), -1 + 0.97 * (z + 1)),
        lambda x, g: torch.sign(torch.randn((len(x), 1), generator=g)).double() * 3,
        lambda z, x: (z > 0).long() + 1,
    )
    base = at.sample(system, puzzles(), labels=UP, restarts=20, depth=64, keep=STATES)
    assert (
        names(at.prolong(system, puzzles(), base, depth=1024))
        == [["settled", "unfinished"]] * 2 + [["settled"]] * 3
    )
    longer = at.prolong(system, puzzles(), base, depth=1024)
    quick = base.correct.values[0, :, -1]
    assert not longer.followed.values[0, quick, 1:].any() and longer.followed.values[0, ~quick, 1].all()
    assert int(longer.attrs["row_steps"]) == (~quick).sum() * (64 + 128)
    assert not longer.followed.values[..., 3:].any()


def test_a_slow_wrong_answer_that_solves_late_is_seen():
    base = at.sample(contraction(0.97), puzzles(), labels=UP, restarts=10, depth=16, keep=STATES)
    longer = at.prolong(contraction(0.97), puzzles(), base, depth=512)
    assert not longer.correct[..., 0].any() and longer.correct[..., -1].all()
    assert names(longer)[0] == ["unfinished"] and names(longer)[-1] == ["settled"]


def test_the_budget_ends_the_doublings():
    base = at.sample(contraction(0.99), puzzles(), labels=UP, restarts=10, depth=8, keep=STATES)
    longer = at.prolong(contraction(0.99), puzzles(), base, depth=512, budget=10 * (8 + 16))
    assert longer.depth.values.tolist() == [8, 16, 32] and int(longer.attrs["row_steps"]) == 240


def test_correctness_by_an_oracle_goes_on():
    system, oracle = selector([[0.0]]), lambda i, a: (a == 2).all(1)
    base = at.sample(system, puzzles(), oracle=oracle, restarts=10, depth=8, keep=STATES)
    longer = at.prolong(system, puzzles(), base, depth=16, which="all", oracle=oracle)
    np.testing.assert_array_equal(longer.correct[..., 1], longer.answer[..., 0] == 2)
    with pytest.raises(ValueError, match="pass it as oracle"):
        at.prolong(system, puzzles(), base, depth=16)


def test_misuse_is_named():
    base = at.sample(contraction(0.5), puzzles(), restarts=2, depth=8, keep=STATES)
    for change, message in (
        ({"depth": 15}, "twice the ensemble's, 16, got 15"),
        ({"which": "some"}, "which 'some' unknown"),
        ({"inputs": puzzles(2)}, "must be the puzzles of the ensemble"),
        ({"ensemble": base.drop_vars("final_state")}, "holds no states"),
    ):
        arguments = {"inputs": puzzles(), "ensemble": base, "depth": 16, **change}
        with pytest.raises(ValueError, match=message):
            at.prolong(contraction(0.5), arguments.pop("inputs"), arguments.pop("ensemble"), **arguments)
