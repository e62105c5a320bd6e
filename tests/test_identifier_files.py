"""Identifiers in official folders: read for every puzzle, written back, and refused where files are of two builds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from eqrlab import datasets
from eqrlab.datasets import Draw, PuzzleSet, arc, read_puzzles, write_npy_folder
from eqrlab.datasets.arc.files import known_tests

NAMES = ("<blank>", "a", "a|||t1|||0213456789", "b", "b|||t4|||0123456789")


def puzzles():
    """Return five puzzles of two tasks in disguises, the first with two examples."""
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 10, (2, 3)) for _ in range(5)]
    boards = np.stack([arc.board_of(g) for g in grids])
    return PuzzleSet(
        boards,
        boards,
        "arc",
        {"group": tuple("00011")},
        identifiers=np.array([1, 1, 2, 3, 4]),
        identifier_names=NAMES,
    )


@pytest.fixture
def folder(tmp_path):
    write_npy_folder(tmp_path / "data", puzzles())
    return tmp_path / "data"


def test_identifiers_are_written_and_read_back(folder):
    found = read_puzzles(folder)
    assert found.identifiers.tolist() == [1, 1, 2, 3, 4] and found.identifier_names == NAMES
    assert found.disguises == (NAMES[1], *NAMES[1:]) and found.columns["group"] == tuple("00011")
    assert np.array_equal(found.inputs, puzzles().inputs)
    arrays = {k: np.load(folder / "test" / f"all__{k}.npy").tolist() for k in (
        "puzzle_identifiers", "puzzle_indices", "group_indices")}  # fmt: skip
    assert arrays == {
        "puzzle_identifiers": [1, 2, 3, 4], "puzzle_indices": [0, 2, 3, 4, 5], "group_indices": [0, 2, 4],
    }  # fmt: skip
    header = json.loads((folder / "test" / "dataset.json").read_text())
    counts = ("num_puzzle_identifiers", "total_groups", "total_puzzles", "mean_puzzle_examples")
    assert [header[k] for k in counts] == [5, 2, 4, 1.25]


@pytest.mark.parametrize(
    ("inside", "path"), [("test", "."), (".", "."), ("test", "../test"), ("train", "../test/.")]
)
def test_a_folder_is_the_same_from_within(shared, monkeypatch, inside, path):
    whole = shared / "conformance/data/arc_small"
    outside = read_puzzles(whole)
    monkeypatch.chdir(whole / inside)
    found = read_puzzles(path)
    assert found.identifier_names == outside.identifier_names and found.names == outside.names
    assert known_tests(found) == known_tests(outside) is not None


def test_rows_taken_keep_their_identifiers(folder):
    some = read_puzzles(folder).take([4, 0])
    assert some.identifiers.tolist() == [4, 1] and some.disguises == (NAMES[4], NAMES[1])
    assert read_puzzles(folder, limit=3).identifiers.tolist() == [1, 1, 2]
    drawn = read_puzzles(folder, draw=Draw(2, 1))
    whole = {tuple(row): k for row, k in zip(puzzles().inputs, puzzles().identifiers, strict=True)}
    assert [whole[tuple(row)] for row in drawn.inputs] == drawn.identifiers.tolist()


def test_a_folder_of_blank_puzzles_has_no_identifiers(tmp_path):
    plain = datasets.bundled("sudoku6").take(slice(3))
    write_npy_folder(tmp_path, plain)
    assert read_puzzles(tmp_path).identifiers is None
    assert json.loads((tmp_path / "identifiers.json").read_text()) == ["<blank>"]


def test_without_names_identifiers_are_read_and_not_written(folder, tmp_path):
    (folder / "identifiers.json").unlink()
    found = read_puzzles(folder)
    assert (
        found.identifiers.tolist() == [1, 1, 2, 3, 4]
        and found.identifier_names == ()
        and found.disguises == ()
    )
    with pytest.raises(
        ValueError, match=r"the names of the identifiers are not known, and identifiers.json must"
    ):
        write_npy_folder(tmp_path / "again", found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            '["<blank>", "a"]',
            "has 2 names, num_puzzle_identifiers in test/dataset.json is 5: they are of two builds",
        ),
        ("{}", "a list of names is required, got"),
        ("[1, 2, 3, 4, 5]", "a list of names is required, got"),
        ("[", "not a JSON file"),
    ],
)
def test_another_identifiers_json_is_refused(folder, content, reason):
    (folder / "identifiers.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        read_puzzles(folder)
    assert reason in str(caught.value) and "identifiers.json:1: " in str(caught.value)


def test_identifiers_beyond_the_names_are_refused(folder):
    header = json.loads((folder / "test" / "dataset.json").read_text())
    del header["num_puzzle_identifiers"]
    (folder / "test" / "dataset.json").write_text(json.dumps(header))
    (folder / "identifiers.json").write_text(json.dumps(NAMES[:4]))
    with pytest.raises(
        ValueError, match=r"has 4 names, a puzzle of test has identifier 4: they are of two builds"
    ):
        read_puzzles(folder)
    np.save(folder / "test" / "all__puzzle_identifiers.npy", np.array([1, -2, 3, 4], np.int32))
    with pytest.raises(ValueError, match=r"all__puzzle_identifiers.npy:1: identifiers are 0 or more, got -2"):
        read_puzzles(folder)


@pytest.mark.parametrize(
    ("identifiers", "reason"),
    [
        ([1, 1, 2, 3, 5], "identifiers must be 0 to 4, got 1 to 5"),
        ([1, 1, 2, 3, -1], "identifiers must be 0 to 4, got -1 to 3"),
        ([1, 2], "identifiers must be 5 integers, got int64 (2,)"),
        ([0.5] * 5, "identifiers must be 5 integers, got float64 (5,)"),
    ],
)
def test_a_set_with_impossible_identifiers_is_refused(identifiers, reason):
    with pytest.raises(ValueError) as caught:
        PuzzleSet(puzzles().inputs, None, "arc", identifiers=np.array(identifiers), identifier_names=NAMES)
    assert reason in str(caught.value)


def test_the_official_folder_is_read_and_written_as_it_was(shared, tmp_path):
    source = shared / "conformance" / "data" / "arc_small"
    found = read_puzzles(source)
    assert found.task == "arc" and len(found) == 63 and len(found.identifier_names) == 109
    starts = np.load(source / "test" / "all__puzzle_indices.npy")
    each = np.repeat(np.load(source / "test" / "all__puzzle_identifiers.npy"), np.diff(starts))
    assert np.array_equal(found.identifiers, each)
    tasks = {arc.disguise_of(name).task for name in found.disguises}
    assert tasks == set(json.loads((source / "test_puzzles.json").read_text()))
    write_npy_folder(tmp_path, found)
    for key in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices"):
        assert np.array_equal(*(np.load(f / "test" / f"all__{key}.npy") for f in (source, tmp_path))), key
    assert (tmp_path / "identifiers.json").read_text() == (source / "identifiers.json").read_text()
    shutil.copytree(source / "train", tmp_path / "train")
    assert read_puzzles(tmp_path, split="train").identifiers.max() > 50
