"""Commit and restart: what is written, who judges, and what it costs, on a puzzle whose landscape is known."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.answers.commit import committed_inputs
from eqrlab.core import MapSystem

BLANK, DOWN, UP = 1, 2, 3


class Three(MapSystem):
    """Three cells, tokens 2 (z < 0) and 3 (z > 0); right is 3 everywhere.

    Blank cells fall to either side by their start, but the first always to `first`, and is surest of it.  A given holds
    its cell; with the first cell given as 3 the others rise from any start.  The head halts where all three are up.
    """

    def __init__(self, first=UP, head=True):
        def step(z, x):
            given = (x == UP).double() - (x == DOWN).double()
            pull = torch.zeros_like(z)
            pull[:, 0] = 9.0 if first == UP else -9.0
            pull[:, 1:] = 9.0 * (x[:, :1] == UP).double()
            return torch.where(given != 0, given, torch.tanh(2 * z + pull))

        start = lambda x, g: torch.randn(x.shape, generator=g, dtype=torch.float64).clamp(-1, 1)
        super().__init__(step, start, lambda z, x: (z > 0).long() + DOWN, lambda inputs: inputs.double())
        if head:
            self.halt_logit = lambda z, x: torch.where((z > 0).all(1), 1.0, -1.0)

    def logits(self, z, x):
        nothing = torch.full_like(z, -50.0)
        return torch.stack((nothing, nothing, -3 * z, 3 * z), -1)


def clues(inputs):
    return np.repeat((np.asarray(inputs) == BLANK)[:, :, None], 4, 2) & (np.arange(4) >= DOWN)


def run(system, count=40, **options):
    inputs = torch.full((count, 3), BLANK)
    # rows are told apart by their seed only: equal puzzles would draw equal restarts
    parts = [
        at.commit(
            system,
            inputs[:1],
            clues,
            share=1 / 3,
            labels=torch.full((1, 3), UP),
            depth=30,
            seed=s,
            restarts=1,
            **options,
        )
        for s in range(count)
    ]
    values = lambda name: np.array([part[name].values.ravel()[0] for part in parts])
    return {
        n: values(n) for n in ("committed", "correct", "correct_first", "correct_restarts", "nfe", "written")
    }


def test_a_right_clue_opens_the_basin_where_plain_restarts_stay_at_their_mass():
    found = run(Three())
    assert (found["correct_first"] == ~found["committed"]).all()
    assert 0.05 < found["correct_first"].mean() < 0.5, "one in four starts is right"
    assert found["correct"].all(), "with its first cell given every start is"
    assert 0.2 < found["correct_restarts"].mean() < 0.7, "two draws of one in four: 7 / 16"
    np.testing.assert_array_equal(found["nfe"], 30 * (1 + found["committed"]))
    assert (found["written"][found["committed"]] == 1).all() and np.isnan(
        found["written"][~found["committed"]]
    ).all()


def test_a_wrong_clue_is_judged_by_the_puzzle_as_it_was_given():
    found = run(Three(first=DOWN), count=6)
    assert not found["correct"].any() and found["committed"].all()
    labels = torch.full((1, 3), UP)
    one = at.commit(Three(first=DOWN), torch.full((1, 3), BLANK), clues, share=1 / 3, labels=labels, depth=30)
    assert (
        float(one.written_right[0]) == 0 and float(one.rescued) == 0 and not bool(one.any_correct_restarts[0])
    )


def test_without_a_head_runs_are_accepted_by_their_fate():
    found = run(Three(head=False), count=4)
    assert not found["committed"].any(), "every run settles here, right or wrong"
    with pytest.raises(ValueError, match="needs a halting head, this system has none"):
        run(Three(head=False), count=1, accept="halt")


def test_plain_restarts_are_the_next_restarts_of_the_puzzle():
    inputs, labels = torch.full((1, 3), BLANK), torch.full((1, 3), UP)
    drawn = at.sample(Three(), inputs, labels=labels, restarts=6, depth=20, seed=2)
    found = at.commit(Three(), inputs, clues, labels=labels, restarts=3, depth=20, seed=2)
    right = drawn.correct.values[0, :, -1]
    assert bool(found.committed[0]) == (not right[:3].any())
    assert bool(found.any_correct_restarts[0]) == (right.any() if found.committed[0] else right[:3].any())


def test_the_surest_legal_cells_are_written_and_no_other():
    logits = torch.zeros(2, 4, 4)
    logits[0, :, 3] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    logits[1, :, 0] = 9.0  # its tokens may stand nowhere
    inputs = np.array([[BLANK, BLANK, BLANK, DOWN], [BLANK, BLANK, BLANK, DOWN]])
    written = committed_inputs(inputs, logits, clues, 2 / 3)
    assert written.tolist() == [[UP, BLANK, UP, DOWN], [BLANK, BLANK, BLANK, DOWN]]
    assert committed_inputs(inputs, logits, clues, 0.01)[0].tolist() == [UP, BLANK, BLANK, DOWN]
    drawn = {tuple(committed_inputs(inputs[:1], logits[:1], clues, 1 / 3, seed=s)[0]) for s in range(20)}
    assert len(drawn) == 3, "at random: any of the three blank cells"
    with pytest.raises(ValueError, match="clues must be"):
        committed_inputs(inputs, logits[:, :3], clues, 0.5)


def test_misuse_is_answered_in_a_sentence():
    inputs, labels = torch.full((1, 3), BLANK), torch.full((1, 3), UP)
    for options, text in (
        ({"share": 0}, "share must be above 0"),
        ({"accept": "hope"}, "accept 'hope' unknown; choose from halt, settled"),
        ({"cells": "all"}, "cells 'all' unknown"),
        ({"initial": torch.zeros(1, 4, 3, dtype=torch.float64)}, "not given starts"),
        ({"labels": None}, "labels or an oracle"),
    ):
        with pytest.raises(ValueError, match=text):
            at.commit(Three(), inputs, clues, **{"labels": labels, "depth": 2, **options})
    with pytest.raises(ValueError, match="method logits"):
        bare = MapSystem(lambda z, x: z, lambda x, g: torch.randn(x.shape, generator=g), encode=lambda i: i)
        at.commit(bare, inputs, clues, labels=labels[:, :1], depth=2)
    with pytest.raises(TypeError, match="commit"):
        at.commit(Three(), inputs, clues, labels=labels, dpeth=2)
