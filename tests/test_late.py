"""Depth that does harm is told where it is sure, and hardly ever where it is chance."""

import numpy as np
import pytest
import xarray as xr

from eqrlab.analyses import wording
from eqrlab.analyses.late import late_drop, late_sentence
from tests import planted as plan


def alignment_of(one):
    """Return what `late_drop` reads of an alignment: accuracy of one restart (puzzle, depth)."""
    depths = 2 ** np.arange(one.shape[1])
    accuracy = (("puzzle", "selector", "depth"), one[:, None])
    return xr.Dataset(
        {"accuracy_puzzle": accuracy}, {"selector": ["mean"], "depth": depths}, {"confidence": 0.95}
    )


def test_runs_that_leave_right_answers_are_told():
    one = np.array([[0.0, 1.0, 0.5, 0.25]] * 16 + [[0.0, 0.5, 1.0, 1.0]] * 4)
    depth, earlier, last, low, high = late_drop(alignment_of(one))
    assert (depth, earlier, last) == (2, pytest.approx(0.9), pytest.approx(0.4))
    assert 0.15 < low < 0.25 and high == pytest.approx(1 - low)
    text = late_sentence(alignment_of(one))
    assert text.startswith(
        "For accuracy, too much depth does harm: one restart is right on 90 % at depth 2 and on 40 %"
    )
    assert "at depth 8, 50.0 points [" in text


@pytest.mark.parametrize(
    "one", [np.ones((6, 4)), np.ones((1, 4)), np.ones((6, 1)), np.array([[1.0, 0.0], [0.9, 0.0]])]
)
def test_nothing_is_said_where_nothing_is_lost_or_too_little_is_seen(one):
    assert late_drop(alignment_of(one)) is None and late_sentence(alignment_of(one)) is None


@pytest.mark.parametrize("puzzles", [3, 4, 12, 40])
def test_chance_is_hardly_ever_taken_for_harm(puzzles):
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        talent = rng.beta(2, 1, (puzzles, 1))
        alarms += late_drop(alignment_of(rng.binomial(4, talent, (puzzles, 6)) / 4)) is not None
    assert alarms <= 20, "at most 5 % of 400"


def test_the_advice_tells_it():
    groups = plan.mode_d()
    alignment = groups["alignment"].isel(puzzle=np.zeros(30, int)).copy(deep=True)
    assert "does harm" not in wording.buy_sentence(groups["modes"], alignment)
    i = list(alignment.selector.values).index("mean")
    alignment.accuracy_puzzle[:, i, -1] = 0.1
    assert "too much depth does harm" in wording.landscape_sentence(groups["modes"], alignment)
