"""ARC tasks in JSON: task files, folders, challenges with solutions; faults are told with file and task."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eqrlab.datasets import Draw, arc, read_puzzles
from eqrlab.datasets.arc.files import identified, known_tests

TASK = {
    "train": [{"input": [[1, 2]], "output": [[2], [1]]}],
    "test": [{"input": [[3, 4, 5]], "output": [[0]]}, {"input": [[6]], "output": [[7, 8]]}],
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def grids(puzzles, boards):
    return [arc.crop(board).tolist() for board in boards]


def test_a_task_file_gives_its_tests_and_its_demonstrations(tmp_path):
    found = read_puzzles(write(tmp_path / "0d3d703e.json", TASK))
    assert found.task == "arc" and found.columns == {"task": ("0d3d703e",) * 2, "test": ("0", "1")}
    assert grids(found, found.inputs) == [[[3, 4, 5]], [[6]]] and grids(found, found.labels) == [
        [[0]],
        [[7, 8]],
    ]
    shown = read_puzzles(tmp_path / "0d3d703e.json", split="train")
    assert grids(shown, shown.inputs) == [[[1, 2]]] and grids(shown, shown.labels) == [[[2], [1]]]


def test_a_folder_of_task_files_and_a_file_of_tasks_are_the_same(tmp_path):
    (tmp_path / "tasks").mkdir()
    for name in "ab":
        write(tmp_path / "tasks" / f"{name}.json", TASK)
    one = read_puzzles(tmp_path / "tasks")
    other = read_puzzles(write(tmp_path / "all.json", {"a": TASK, "b": TASK}), task="arc")
    assert np.array_equal(one.inputs, other.inputs) and one.columns == other.columns
    assert len(one) == 4 and len(read_puzzles(tmp_path / "tasks", limit=3)) == 3
    assert read_puzzles(tmp_path / "tasks", draw=Draw(2, 0)).draw.available == 4


@pytest.mark.parametrize("name", ["arc-agi_evaluation_{}.json", "arc-agi_evaluation-{}.json", "ARC_{}.JSON"])
def test_solutions_are_taken_from_the_file_beside_challenges(name, tmp_path):
    both = [name.format("challenges"), name.format("solutions")]
    challenges, solutions = map(str.upper, both) if name.isupper() else both
    bare = {"a": {"train": [], "test": [{"input": t["input"]} for t in TASK["test"]]}}
    path = write(tmp_path / challenges, bare)
    assert read_puzzles(path).labels is None
    write(tmp_path / solutions, {"a": [t["output"] for t in TASK["test"]]})
    found = read_puzzles(path)
    assert grids(found, found.labels) == [[[0]], [[7, 8]]]
    assert len(read_puzzles(tmp_path)) == 2  # the folder of both


@pytest.mark.parametrize("inline", [None, [[0]], [[5]]])
def test_an_output_that_the_challenges_have_must_be_that_of_the_solutions(tmp_path, inline):
    one = {"a": {"train": [], "test": [{"input": [[3]], "output": inline}]}}
    path = write(tmp_path / "x_challenges.json", one)
    write(tmp_path / "x_solutions.json", {"a": [[[0]]]})
    if inline == [[5]]:
        with pytest.raises(
            ValueError, match=r"task 'a', test 0: the output is another than in the file of solutions"
        ):
            read_puzzles(path)
    else:
        found = read_puzzles(path)
        assert grids(found, found.labels) == [[[0]]]


@pytest.mark.parametrize("text", ['{"a": %s, "a": %s}', '{"a": {"test": [], "x": %s, "x": %s}}'])
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text % (json.dumps(TASK), json.dumps(TASK)))
    with pytest.raises(ValueError, match=r"x.json:1: the key '[ax]' stands 2 times in one object"):
        read_puzzles(tmp_path / "x.json")


def test_names_of_files_may_end_in_capitals(tmp_path):
    write(tmp_path / "b.JSON", TASK)
    write(tmp_path / "a.json", TASK)
    assert read_puzzles(tmp_path).columns["task"] == ("a", "a", "b", "b")


def test_solutions_of_other_tests_are_refused(tmp_path):
    bare = {name: {"train": [], "test": [{"input": t["input"]} for t in TASK["test"]]} for name in "ab"}
    path = write(tmp_path / "challenges.json", bare)
    outputs = [t["output"] for t in TASK["test"]]
    write(tmp_path / "solutions.json", {"a": outputs, "b": [*outputs, [[1]]]})
    with pytest.raises(ValueError, match=r"task 'b' has 2 tests, the file of solutions beside it 3$"):
        read_puzzles(path)
    write(tmp_path / "solutions.json", {"a": outputs})
    with pytest.raises(ValueError, match=r"task 'b', test 0: no solution here, but other puzzles have one$"):
        read_puzzles(path)
    assert read_puzzles(path, limit=2).labels is not None


def test_puzzles_find_their_identifiers_by_the_names_of_their_tasks(tmp_path):
    found = read_puzzles(write(tmp_path / "all.json", {"a": TASK, "b": TASK}))
    known = identified(found, ("<blank>", "b", "b|||t1|||0123456789", "a"))
    assert known.identifiers.tolist() == [3, 3, 1, 1] and known.disguises == ("a", "a", "b", "b")
    with pytest.raises(ValueError, match=r"the task 'b' is not among the 2 names of identifiers"):
        identified(found, ("<blank>", "a"))


def test_the_tests_of_an_official_folder_are_read(shared):
    folder = shared / "conformance" / "data" / "arc_small"
    tests = known_tests(read_puzzles(folder))
    assert len(tests) == 6 and sum(len(task["test"]) for task in tests.values()) == 7
    assert known_tests(read_puzzles(folder, split="train")) is None


def bad(**changes):
    return {"train": [], "test": [{"input": [[1]], "output": [[1]]} | changes]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bad(input=[[1] * 31]), "task 'x', test 0, input: a grid has at most 30 x 30 cells, got 1 x 31"),
        (bad(output=[[1, 2], [3]]), "task 'x', test 0, output: rows of equal length are required"),
        (bad(input=[[10]]), "task 'x', test 0, input: colours are 0 to 9, got 10 to 10"),
        (bad(input=[["a"]]), "task 'x', test 0, input: colours 0 to 9 are required"),
        (bad(input=[]), "task 'x', test 0, input: rows of equal length are required"),
        (bad(input=[[1, 2.0]]), "task 'x', test 0, input: colours 0 to 9 are required, got 2.0"),
        (
            bad(input=["12", "34"]),
            "task 'x', test 0, input: rows of equal length, lists of colours, are required, got the row '12'",
        ),
        (
            bad(input=[[]]),
            "task 'x', test 0, input: rows of equal length, lists of colours, are required, got an empty row",
        ),
        ({"train": [], "test": [5]}, "task 'x', test 0: {\"input\": grid} is required, got 5"),
        (bad(input=[[10**30]]), "task 'x', test 0, input: colours 0 to 9 are required"),
        ({"train": [], "test": [[1]]}, "task 'x', test 0: {\"input\": grid} is required"),
        ({"train": [], "test": []}, "no test pairs"),
        ({"a": 3}, ':1: an ARC task {"train": [...], "test": [...]}, or several by name, is required'),
        ([], ':1: an ARC task {"train": [...], "test": [...]}, or several by name, is required'),
    ],
)
def test_what_is_no_task_is_refused_in_one_sentence(tmp_path, content, reason):
    path = write(tmp_path / "x.json", content)
    with pytest.raises(ValueError) as caught:
        read_puzzles(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message and "\n" not in message and len(message) < 600


def test_a_broken_file_and_another_task_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x.json:1: not a JSON file"):
        read_puzzles(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"JSON of ARC tasks is read, not sudoku6"):
        read_puzzles(tmp_path / "x.json", task="sudoku6")
