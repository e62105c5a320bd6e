"""Commands on models of many puzzles: identifiers fitted to the table or refused, votes, and blank runs labelled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.report import page
from eqrlab.analyses.report.puzzle_boards import puzzle_boards
from eqrlab.analyses.studies import accuracy
from eqrlab.analyses.studies import arc as study
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.core import MapSystem, save
from eqrlab.datasets import PuzzleSet, arc, write_npy_folder
from eqrlab.datasets.registry.arc import MARK, PALETTE
from tests import command_line
from tests.family_models import many_puzzles

NAMES = ("<blank>", "a", "a|||t1|||0213456789", "a|||t4|||0123456789", "b")


def run(*arguments):
    found = command_line.inside(*arguments)
    assert found.exit_code == 0, found.exception
    return found


def refused(*arguments):
    """Return the sentence with which a command refuses its arguments."""
    return command_line.refused(command_line.inside(*arguments))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a model of five puzzles and an official folder of four."""
    folder = tmp_path_factory.mktemp("arc")
    save(many_puzzles("arc", 5, 12, 900, 4), folder / "model.safetensors")
    shown = lambda grid, name: arc.board_of(arc.disguise_of(name).apply(np.array(grid)))
    inputs = np.stack([*(shown([[1, 2, 3]], name) for name in NAMES[1:4]), shown([[4]], "b")])
    labels = np.stack([*(shown([[3], [1]], name) for name in NAMES[1:4]), shown([[5]], "b")])
    puzzles = PuzzleSet(
        inputs, labels, "arc", {"group": tuple("0001")}, identifiers=np.arange(1, 5), identifier_names=NAMES
    )
    write_npy_folder(folder / "data", puzzles)
    return folder


@pytest.fixture
def job(files):
    return files / "model.safetensors", "--puzzles", files / "data"


def test_evaluation_votes_and_writes_the_submission(job, tmp_path):
    found = run("evaluate", *job, "--depth", 2, "--json", "--submission", tmp_path / "s.json")
    result = json.loads(found.stdout)
    assert {"exact", "cell", "pass@1", "pass@2", "pass@5", "pass@10", "pass@100", "all_tests"} <= set(result)
    assert (result["tasks"], result["tests"], result["puzzles"]) == (2, 2, 4) and "submission" not in result
    submitted = json.loads((tmp_path / "s.json").read_text())
    assert set(submitted) == {"a", "b"} and set(submitted["a"][0]) == {"attempt_1", "attempt_2"}
    printed = run("evaluate", *job, "--depth", 2).output
    assert "pass@1000" in printed and "2 tasks, 2 tests" in printed and "note" not in printed
    assert "1 task, 1 test\n" in run("evaluate", *job, "--depth", 1, "--limit", 1).output


def test_training_says_that_it_uses_no_identifiers(files, tmp_path):
    size = "--hidden 4 --heads 1 --h-cycles 1 --l-cycles 1 --halt-max-steps 1 --batch-size 1 --steps 1 --minutes 0"
    said = run("train", "arc", "--puzzles", files / "data" / "test", "--out", tmp_path, *size.split())
    assert "note: the identifiers of the puzzles are not used" in said.stderr


def test_a_submission_of_other_puzzles_is_refused(tmp_path):
    said = refused("evaluate", "eqr-sudoku6", "--limit", 2, "--depth", 1, "--submission", tmp_path / "s.json")
    assert said.startswith("--submission requires ARC puzzles")


def test_a_submission_that_cannot_be_written_is_refused_before_any_run(job, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy, "measure", lambda *a, **k: pytest.fail("something was run"))
    (tmp_path / "file").write_text("")
    said = command_line.inside("evaluate", *job, "--submission", tmp_path / "file" / "s.json").exception
    assert isinstance(said, OSError) and "cannot write there" in str(said)
    own = "evaluate", *job, "--submission", job[0]
    before = job[0].read_bytes()
    assert "is an input of this command" in refused(*own) and job[0].read_bytes() == before


def test_identifiers_of_another_build_are_refused_or_run_blank(job, files, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps([*NAMES, "c"]))
    said = refused("evaluate", *job, "--depth", 1, "--identifiers", tmp_path / "other.json")
    assert "identifiers.json names 6 identifiers, the model has 5: they come from different builds" in said
    blank = run("evaluate", *job, "--depth", 1, "--json", "--blank-identifiers")
    assert "the blank one of the model's 5 puzzle embeddings, as asked for by" in blank.stderr
    assert json.loads(blank.stdout)["tests"] == 2  # disguises are undone all the same


def test_a_folder_without_names_is_refused_unless_they_are_given(files, tmp_path):
    bare = tmp_path / "bare"
    (bare / "test").mkdir(parents=True)
    for file in (files / "data" / "test").iterdir():
        (bare / "test" / file.name).write_bytes(file.read_bytes())
    said = refused("evaluate", files / "model.safetensors", "--puzzles", bare, "--depth", 1)
    assert said.startswith(str(bare)) and "no identifiers.json is there" in said
    given = ("--identifiers", files / "data" / "identifiers.json")
    assert (
        run("evaluate", files / "model.safetensors", "--puzzles", bare, "--depth", 1, *given).exit_code == 0
    )


def test_tasks_in_json_run_blank_or_with_the_names_given(files, tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps({"train": [], "test": [{"input": [[1, 2]], "output": [[3]]}]})
    )
    job = (files / "model.safetensors", "--puzzles", tmp_path / "a.json", "--depth", 1, "--json")
    found = run("evaluate", *job)
    assert found.exit_code == 0 and "5 puzzle embeddings, the puzzles have no identifiers" in found.stderr
    known = run("evaluate", *job, "--identifiers", files / "data" / "identifiers.json")
    assert "blank" not in known.stderr
    assert json.loads(known.stdout)["tests"] == json.loads(found.stdout)["tests"] == 1


def test_a_diagnosis_keeps_identifiers_and_asks_whether_disguises_agree(job, tmp_path):
    options = ("--restarts", 3, "--depth", 8, "--no-local", "--no-checks", "--quiet")
    found = run("diagnose", *job, *options, "--out", tmp_path)
    assert "Of 1 test in several disguises" in " ".join(found.output.split())
    with archive.open(tmp_path / "diagnosis.nc") as tree:
        assert tree["ensemble"].identifier.values.tolist() == [1, 2, 3, 4]
        assert tree["disguises"].disguises.values.tolist() == [3, 1]
        assert tree["ensemble"].shown_as.values.tolist() == list(NAMES[1:])
    validate(tmp_path / "diagnosis.nc")
    html = (tmp_path / "report.html").read_text()
    assert "One answer in every disguise?" in html and "under the blank identifier" not in html
    again = run("diagnose", *job, *options, "--blank-identifiers", "--out", tmp_path / "blank")
    assert "under the blank identifier" in again.output
    assert "all under the blank identifier" in (tmp_path / "blank" / "report.html").read_text()


def report_of(answers, depth, fate_of=lambda z: z, names=NAMES[1:4]):
    """Diagnose runs of one test in three disguises whose answers are given, as grids in the task's own frame."""
    given, target = np.array([[1, 2, 3]]), np.array([[3], [1]])
    shown = lambda grid, name: arc.board_of(arc.disguise_of(name).apply(np.array(grid)))
    inputs, labels = (np.stack([shown(grid, name) for name in names]) for grid in (given, target))
    boards = torch.tensor(np.stack([shown(grid, name) for grid, name in zip(answers, names, strict=True)]))
    system = MapSystem(
        fate_of, lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64),
        lambda z, x: boards[x[:, 0].long()], lambda inputs, identifiers=None: identifiers[:, None].double() - 1,
    )  # fmt: skip
    ensemble = at.sample(system, inputs, labels=labels, identifiers=np.arange(1, 4), restarts=4, depth=depth)
    ensemble.attrs |= {"name": "arc", "task": "arc"}
    ensemble = study.with_names(ensemble, names)
    groups = {"ensemble": ensemble, "basins": at.basins(ensemble), "alignment": at.alignment(ensemble),
              "modes": at.modes(ensemble), "signals": at.signals(ensemble)}  # fmt: skip
    return groups, page.render(xr.DataTree.from_dict(groups))


@pytest.mark.parametrize("settles", [True, False])
def test_the_report_draws_attractors_and_else_the_commonest_answers_with_disguises_undone(settles):
    wrong = [[7, 7], [7, 8]]
    fate = (lambda z, x: 0 * z) if settles else lambda z, x: 1 + z  # one runs away
    groups, html = report_of([wrong, wrong, wrong], 24, fate)
    assert (groups["basins"].attractors.values > 0).all() == settles
    for puzzle in range(
        3
    ):  # all disguises of a test have one puzzle, solution and answer where they are undone
        drawn = puzzle_boards(groups, puzzle)
        (answer,) = drawn["boards"]
        assert answer["title"] == ("Attractor 1" if settles else "Answer 1") and answer["kind"] == "wrong"
        assert str(answer["board"]) == str(puzzle_boards(groups, 0)["boards"][0]["board"])
        for k in range(2):
            assert str(drawn["given"][k]["board"]) == str(puzzle_boards(groups, 0)["given"][k]["board"])
        assert ("here that is undone" in drawn["caption"]) == (puzzle > 0)
        assert PALETTE[7] in answer["board"] and PALETTE[8] in answer["board"] and MARK in answer["board"]
    assert ("No run of this puzzle reached an attractor. What most runs had come to" in html) != settles
    if not settles:
        assert drawn["boards"][0]["ends"] == "4 of 4 runs at the last step"


def test_an_export_is_repeated_with_its_identifiers(job, files, tmp_path):
    options = ("--restarts", 2, "--depth", 4, "--limit", 3)
    run("export", *job, *options, "--out", tmp_path / "a.nc")
    run("export", "--like", tmp_path / "a.nc", job[0], "--out", tmp_path / "b.nc")
    with archive.open(tmp_path / "a.nc") as one, archive.open(tmp_path / "b.nc") as other:
        assert (
            one["ensemble"].identifier.values.tolist()
            == other["ensemble"].identifier.values.tolist()
            == [1, 2, 3]
        )
        assert np.array_equal(one["ensemble"].residual.values, other["ensemble"].residual.values)
