"""Depth that does harm is told where it is sure, and hardly ever where it is chance."""

import numpy as np
import pytest
import xarray as xr

from eqrlab.analyses.commands.scale import late_lines
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.harmful_depth import late_drop
from tests import planted as plan

LOST = np.array([[0.0, 1.0, 0.5, 0.25]] * 16 + [[0.0, 0.5, 1.0, 1.0]] * 4)
DEPTHS = np.array([1, 2, 4, 8])


def test_runs_that_leave_right_answers_are_told():
    drop = late_drop(LOST, DEPTHS)
    assert (drop.depth, drop.last_depth) == (2, 8)
    assert (drop.earlier, drop.last) == (pytest.approx(0.9), pytest.approx(0.4))
    assert 0.15 < drop.low < 0.25 and drop.high == pytest.approx(1 - drop.low)
    assert drop.text.startswith(
        "For accuracy, too much depth does harm: one restart is right on 90 % at depth 2 and"
    )
    assert "at depth 8, 50.0 points [" in drop.text


@pytest.mark.parametrize(
    "one", [np.ones((6, 4)), np.ones((1, 4)), np.ones((6, 1)), np.array([[1.0, 0.0], [0.9, 0.0]])]
)
def test_nothing_is_said_where_nothing_is_lost_or_too_little_is_seen(one):
    assert late_drop(one, DEPTHS[: one.shape[1]]) is None


@pytest.mark.parametrize("puzzles", [3, 4, 12, 40])
def test_chance_is_hardly_ever_taken_for_harm(puzzles):
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        talent = rng.beta(2, 1, (puzzles, 1))
        alarms += late_drop(rng.binomial(4, talent, (puzzles, 6)) / 4, np.arange(6)) is not None
    assert alarms <= 20, "at most 5 % of 400"


def test_a_grid_warns_for_random_starts_and_for_the_own_one():
    correct = xr.Dataset({"correct": (("puzzle", "restart", "step"), LOST[:, None] > 0.4)})
    steady = xr.zeros_like(correct)
    scaling = xr.Dataset(coords={"depth": [1, 2, 3, 4]})
    text = " ".join(late_lines({"scaling": scaling, "ensemble": steady, "own_start": correct}))
    assert "Warning, from the own start: For accuracy, too much depth" in text and text.count("Warning") == 1
    assert late_lines({"scaling": scaling, "ensemble": steady}) == []


def test_the_advice_tells_it():
    groups = plan.mode_d()
    alignment = groups["alignment"].isel(puzzle=np.zeros(30, int)).copy(deep=True)
    assert "does harm" not in wording.advice_sentence(groups["modes"], alignment)
    i = list(alignment.selector.values).index("mean")
    alignment.accuracy_puzzle[:, i, -1] = 0.1
    assert "too much depth does harm" in wording.landscape_sentence(groups["modes"], alignment)
