"""ARC evaluated: accuracies and pass rates of the official evaluator, and the mass over disguises."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.report.disguises import disguise_sentence
from eqrlab.analyses.studies import accuracy
from eqrlab.analyses.studies import arc as study
from eqrlab.analyses.studies.accuracy import measure
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import unlisted, validate
from eqrlab.core import MapSystem, load
from eqrlab.datasets import PuzzleSet, arc, read_puzzles


@pytest.mark.parametrize("model", ["trm_arc/checkpoint/step_700", "hrm_arc/checkpoint/step_400"])
def test_evaluation_gives_the_figures_of_the_official_evaluator(shared, model):
    folder = shared / "conformance"
    want = json.loads((folder / model).parents[1].joinpath("votes.json").read_text())["steps"]["2"]
    found = measure(
        load(folder / model, seq_len=900), read_puzzles(folder / "data" / "arc_small"), depth=2, restarts=1
    )
    assert found["exact"]["value"] == pytest.approx(want["exact_accuracy_rows"], abs=1e-7)
    assert found["cell"]["value"] == pytest.approx(want["cell_accuracy_rows"], abs=1e-6)
    for k in (1, 2, 5, 10, 100, 1000):
        assert found[f"pass@{k}"]["value"] == want["evaluator"][f"ARC/pass@{k}"]
        assert found[f"pass@{k}"]["low"] < found[f"pass@{k}"]["high"]
    assert found["all_tests"]["pass@1"]["value"] == want["all_tests_pass1"]
    assert found["all_tests"]["pass@2"]["value"] == want["all_tests_pass2"]
    assert (found["tasks"], found["tests"], found["tests_without_puzzle"]) == (6, 7, 0)
    assert {k: len(v) for k, v in found["submission"].items()}["44f52bb0"] == 2
    if "submission" in want:
        assert found["submission"] == want["submission"]
    assert found["halting"]["steps"]["value"] <= 2 and found["halting"]["exact"]["value"] <= 1


def test_votes_and_halting_of_a_family_that_learns_to_continue_come_from_its_two_logits(shared, monkeypatch):
    folder = shared / "conformance"
    model = load(folder / "hrm_arc/checkpoint/step_400", seq_len=900)
    puzzles = read_puzzles(folder / "data" / "arc_small").take([0, 5, 50])
    whole = measure(model, puzzles, depth=3, restarts=1)
    monkeypatch.setattr(accuracy, "KEPT", 1)  # one puzzle at a time
    assert measure(model, puzzles, depth=3, restarts=1) == whole
    runs = at.sample(
        model, puzzles.inputs, labels=puzzles.labels, identifiers=puzzles.identifiers, restarts=1, depth=3
    )
    _, plain = study.voted(runs, puzzles)
    kept = accuracy._with_votes(model, puzzles, {"restarts": 1, "depth": 3})
    _, ranked = study.voted(kept, puzzles)
    for mine, other in zip(ranked, plain, strict=True):
        assert [c.halt for c in mine] == pytest.approx([c.halt for c in other], abs=1e-6)
    assert not np.allclose(kept.halt_logit, runs.halt_logit)  # q_halt - q_continue, and q_halt


DISGUISES = ("a", "a|||t1|||0213456789", "a|||t4|||0123456789", "a|||t6|||0987654321")
GRID, RIGHT, WRONG = np.array([[1, 2], [3, 4]]), np.array([[5, 6, 7]]), np.array([[8]])


def shown(grid, name):
    return arc.board_of(arc.disguise_of(name).apply(grid))


def some_disguises():
    inputs = np.stack([shown(GRID, name) for name in DISGUISES])
    labels = np.stack([shown(RIGHT, name) for name in DISGUISES])
    return PuzzleSet(
        inputs, labels, "arc", identifiers=np.arange(1, 5), identifier_names=("<blank>", *DISGUISES)
    )


def made(answers):
    """Return an ensemble that answers as told, (disguise, restart) of grids in the frame of the task."""
    boards = [[shown(grid, name) for grid in row] for row, name in zip(answers, DISGUISES, strict=True)]
    law = lambda x, g: torch.zeros(len(x), 1, dtype=torch.float64)
    still = MapSystem(lambda z, x: z, law, lambda z, x: torch.zeros(len(x), 900, dtype=torch.long))
    puzzles = chosen()
    ensemble = at.sample(still, puzzles.inputs, restarts=len(answers[0]), depth=4)
    return ensemble.assign(answer=(ensemble.answer.dims, np.array(boards)))


chosen = some_disguises


def test_all_disguises_with_one_answer_have_mass_one_and_mixed_restarts_show():
    ensemble = made([[RIGHT, RIGHT, WRONG]] * 4)
    found = study.disguises(ensemble, chosen())
    assert found.case.values.tolist() == ["a:0"] and found.disguises.values.tolist() == [4]
    assert float(found.mass_disguises[0]) == 1 and float(found.mass_right[0]) == 1
    assert float(found.mass_restarts[0]) == pytest.approx(2 / 3)
    assert 0.4 < float(found.mass_disguises_low[0]) < 1 == float(found.mass_disguises_high[0])
    low, high = (float(found[f"mass_restarts_{end}"][0]) for end in ("low", "high"))
    assert low == pytest.approx(2 / 3 * 0.05**0.25) and high == pytest.approx(1 - 0.05**0.25 / 3)  # all alike
    assert int(found.answers[0]) == 1


def test_disguises_that_disagree_are_seen_though_every_restart_agrees():
    ensemble = made([[RIGHT] * 3, [RIGHT] * 3, [WRONG] * 3, [GRID] * 3])
    found = study.disguises(ensemble, chosen())
    assert float(found.mass_disguises[0]) == 0.5 and float(found.mass_restarts[0]) == 1
    assert float(found.mass_right[0]) == 0.5 and int(found.answers[0]) == 3
    wrong = study.disguises(made([[WRONG] * 3] * 3 + [[RIGHT] * 3]), chosen())
    assert float(wrong.mass_disguises[0]) == 0.75 and float(wrong.mass_right[0]) == 0.25


def test_shares_on_which_all_agree_are_known_as_far_as_so_few_can_tell():
    found = study.disguises(made([[RIGHT]] * 4), chosen())
    twice = xr.concat([found, found], "case")
    assert "100 % [22, 100] of the disguises of a test give" in disguise_sentence(twice)
    ensemble = made([[RIGHT]] * 4)
    ensemble["token_accuracy"] = (("puzzle", "restart", "step"), np.zeros((4, 1, 4)))
    cell = study.vote_results(ensemble, chosen())["cell"]
    assert cell["value"] == cell["low"] == 0 and cell["high"] == pytest.approx(1 - 0.05**0.25)


def test_the_group_is_as_the_schema_says(tmp_path):
    archive.write(tmp_path / "a.nc", {"disguises": study.disguises(made([[RIGHT]] * 4), chosen())})
    assert validate(tmp_path / "a.nc").groups and not unlisted(tmp_path / "a.nc")


def test_a_single_disguise_has_no_interval_over_disguises():
    one = chosen().take([0])
    ensemble = made([[RIGHT, WRONG, WRONG]] * 4).isel(puzzle=[0])
    found = study.disguises(ensemble, one)
    assert np.isnan(found.mass_restarts_low[0]) and float(found.mass_disguises_low[0]) < 0.1


def test_puzzles_of_other_tasks_are_not_voted_on():
    assert study.shown_names(SimpleNamespace(task="sudoku6", disguises=(), columns={"task": ("a",)})) == ()
    with pytest.raises(ValueError, match="there is nothing to vote on"):
        study.voted(xr.Dataset(), PuzzleSet(chosen().inputs, None, "arc", source="x"))
