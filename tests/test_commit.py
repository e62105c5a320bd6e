"""Commit and restart: what is written, who judges, and what it costs, on a puzzle whose landscape is known."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.studies import commit as study
from eqrlab.analyses.studies.checks import check_sentences
from eqrlab.analyses.studies.commit import commit_where_none_is_right
from eqrlab.analyses.text.vocabulary import mode_meaning
from eqrlab.attractors.answers.commit import committed_inputs
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.results.validate import validate
from eqrlab.core import MapSystem, load
from eqrlab.datasets import build, read_puzzles, task, write_csv
from tests.core_models import tiny_file
from tests.family_models import many_puzzles

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


def test_a_head_that_says_the_same_of_all_leaves_the_choice_to_the_entropy():
    system = Three()
    system.halt_logit = lambda z, x: torch.full((len(z),), -5.0, dtype=z.dtype)
    found = run(system)
    assert found["committed"].all() and found["correct"].mean() > found["correct_restarts"].mean()


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


def test_a_policy_restarts_failed_runs_on_the_puzzle_with_their_clues():
    system, inputs, labels = Three(), torch.full((1, 3), BLANK), torch.full((1, 3), UP)
    plain = at.Policy(
        restarts=2, depth=20, stop="halt", schedule=((0, 1),), agree=1, select="halting", min_steps=20
    )
    answered = []
    for seed in range(20):
        results = [at.adaptive(system, inputs, p, clues=clues, labels=labels, seed=seed)
                   for p in (plain, dataclasses.replace(plain, commit=1 / 3))]  # fmt: skip
        answered.append([bool(r.correct[0]) for r in results])
        same = at.commit(system, inputs, clues, share=1 / 3, labels=labels, restarts=1, depth=20, seed=seed)
        assert answered[-1] == [bool(same.correct_restarts[0]), bool(same.correct[0])]
        assert int(results[1].nfe[0]) == int(same.nfe[0])
    assert not all(row[0] for row in answered) and all(row[1] for row in answered)


def test_a_policy_that_cannot_commit_says_why():
    with pytest.raises(ValueError, match=r"such as \(\(0, 2\),\)"):
        at.Policy(restarts=4, commit=0.2)
    with pytest.raises(ValueError, match="commit must be from 0 to 1"):
        at.Policy(restarts=4, commit=2, schedule=((0, 2),))
    policy = at.Policy(restarts=4, depth=3, commit=0.2, schedule=((0, 2),))
    inputs, labels = torch.full((1, 3), BLANK), torch.full((1, 3), UP)
    with pytest.raises(ValueError, match="needs `clues`"):
        at.adaptive(Three(), inputs, policy)
    with pytest.raises(ValueError, match="a replay has only recorded ones"):
        at.replay(at.sample(Three(), inputs, labels=labels, restarts=4, depth=3), policy)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small model of 4x4 Sudoku that never halts, and two puzzles."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_file(folder / "model.safetensors")
    puzzles = build("sudoku4", 2, seed=1)
    write_csv(folder / "two.csv", puzzles)
    return folder


def command(verb, *arguments):
    return CliRunner().invoke(cli, [verb, *map(str, arguments), "--quiet"])


def test_a_trial_runs_puzzles_with_their_identifiers(monkeypatch):
    monkeypatch.setattr(study, "commit_run", lambda run, *a, **k: run)
    puzzles = dataclasses.replace(build("sudoku4", 2, seed=1), identifiers=np.array([1, 2]))
    run = study.commit_trial(many_puzzles("sudoku4", 3, 6, 16, 8), puzzles, 0.2, depth=2)
    assert run.identifiers.tolist() == [1, 2]


def test_scale_prints_and_keeps_what_committing_gave_from_the_runs_it_has(tiny, tmp_path):
    done = command("scale", tiny / "model.safetensors", "--puzzles", tiny / "two.csv", "--depths", "3", "--breadths",
                   "4", "--commit", "0.25", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (
        "2 runs; if none halted (2 of 2 puzzles), the 25 % of the open cells of which each run is surest"
        in " ".join(done.output.split())
    )
    tree = archive.read(tmp_path / "scaling.nc")
    kept, puzzles = tree["commit"].to_dataset(), read_puzzles(tiny / "two.csv")
    assert "final_state" not in tree["ensemble"]
    alone = at.commit(load(tiny / "model.safetensors"), puzzles.inputs, task("sudoku4").clues, share=0.25, restarts=2,
                      labels=puzzles.labels, oracle=puzzles.oracle, depth=3)  # fmt: skip
    np.testing.assert_array_equal(kept.answer, alone.answer)
    np.testing.assert_array_equal(kept.written, alone.written)
    assert validate(tmp_path / "scaling.nc").groups >= 4


def test_evaluate_gives_the_same_figures_as_json(tiny):
    done = command("evaluate", tiny / "model.safetensors", "--puzzles", tiny / "two.csv", "--depth", "3", "--commit",
                   "0.25", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["commit"]
    assert found["committed"] == 2 and found["restarts"] == 4 and found["outer_steps"] == 2 * 8 * 3
    assert set(found["gain"]) == {"value", "low", "high"}
    one = command("evaluate", tiny / "model.safetensors", "--puzzles", tiny / "two.csv", "--limit", "1", "--depth", "3",
                  "--commit", "0.25", "--json")  # fmt: skip
    assert "NaN" not in one.stdout and json.loads(one.stdout)["commit"]["gain"]["low"] is None


def test_tasks_whose_answers_are_no_clues_are_refused_before_anything_runs():
    for verb in (("evaluate",), ("scale", "--breadths", "2")):
        done = command(*verb, "eqr-maze9", "--limit", "2", "--commit", "0.2")
        assert done.exit_code == 1 and isinstance(done.exception, ValueError)
        assert "clues, and maze9 has no such clues" in str(done.exception)


def test_a_verdict_of_mode_a_is_relative_to_the_puzzle_and_says_what_committing_reaches(tiny):
    puzzles = read_puzzles(tiny / "two.csv")
    run = at.Run.of(
        load(tiny / "model.safetensors"), puzzles.inputs, labels=puzzles.labels, restarts=6, depth=8
    )
    modes = at.modes(run.sample())
    modes["mode"][:] = [MODES.index("c"), MODES.index("a")]
    groups = commit_where_none_is_right(run, modes)
    assert groups["commit"].puzzle.values.tolist() == [1] and int(groups["commit"].attrs["restarts"]) == 4
    told = dict(check_sentences(groups))["Commit and restart"]
    assert told.startswith("Mode (a) refers to the puzzle as given. If the 20 % of the open cells")
    assert "answer 0 of 1 puzzle in that mode right" in told and told.endswith(
        "8 plain restarts answer 0 right."
    )
    assert "of the puzzle as given" in mode_meaning("a")
    modes["mode"][:] = MODES.index("c")
    assert commit_where_none_is_right(run, modes) == {}


def test_nothing_is_committed_where_no_puzzle_is_in_mode_a_or_none_takes_clues():
    inputs, labels = torch.full((1, 3), BLANK), torch.full((1, 3), UP)
    assert "commit" not in diagnose(Three(), inputs, labels=labels, restarts=8, depth=32, checks=True), (
        "a map"
    )
