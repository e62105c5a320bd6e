"""`eqrlab data`: build, convert, info, check."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab import datasets
from eqrlab.analyses.commands.data import data
from eqrlab.datasets import bundled


def run(*arguments: object, code: int = 0) -> str:
    """Run a command; a ValueError or OSError is what `eqrlab` turns into exit 1 with one line."""
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    if code == 0 and result.exception is not None:
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def refused(*arguments: object) -> str:
    """Return the one-line reason of a failing command."""
    result = CliRunner().invoke(data, [str(argument) for argument in arguments])
    assert isinstance(result.exception, ValueError | OSError), result.output
    return str(result.exception)


def test_help_of_data_cuts_no_sentence_off():
    assert "..." not in run("--help").partition("Commands:")[2]


@pytest.mark.parametrize("verb", ["build", "convert", "info", "check"])
def test_every_verb_has_help_with_an_example(verb):
    assert f"Example: eqrlab data {verb} " in run(verb, "--help")


def test_build_writes_the_same_csv_as_the_library(tmp_path):
    path = tmp_path / "a.csv.gz"
    assert "6 sudoku4 puzzles" in run(
        "build", "sudoku4", "--out", path, "--count", 6, "--seed", 3, "--difficulty", "easy"
    )
    made = datasets.build("sudoku4", 6, "easy", seed=3)
    np.testing.assert_array_equal(datasets.read_puzzles(path, unique=True).inputs, made.inputs)


def test_build_writes_a_folder_where_the_name_is_no_csv(tmp_path):
    run("build", "maze9", "--out", tmp_path / "m", "--count", 4, "--split", "train", "--steps", 12, 14)
    puzzles = datasets.read_puzzles(tmp_path / "m", split="train")
    assert puzzles.task == "maze9" and len(puzzles) == 4


def test_build_leaves_out_disguises_of_other_files(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    options = ("--count", 10, "--difficulty", "medium")
    run("build", "sudoku4", "--out", first, *options)
    run("build", "sudoku4", "--out", second, *options, "--exclude", first)
    assert "10 sound, 0 wrong" in run("check", second, "--against", first)


def test_build_refuses_what_cannot_be_had(tmp_path):
    out = ("--out", tmp_path / "a.csv")
    assert "no new hard 4x4 puzzle" in refused("build", "sudoku4", *out, "--difficulty", "hard")
    assert "difficulty 'simple' unknown" in refused("build", "sudoku6", *out, "--difficulty", "simple")
    assert "task 'sudoku5' unknown" in refused("build", "sudoku5", *out)
    assert "sudoku6 puzzles are generated without steps" in refused("build", "sudoku6", *out, "--steps", 1, 2)
    assert not (tmp_path / "a.csv").exists()
    run("build", "sudoku6", code=2)


def test_convert_adds_solutions_and_keeps_puzzles(tmp_path):
    made = datasets.bundled("sudoku6").take(slice(0, 12))
    text = tmp_path / "a.txt"
    text.write_text("\n".join(datasets.task("sudoku6").decode(row) for row in made.inputs))
    run("convert", text, "--out", tmp_path / "a.csv", "--solve")
    solved = datasets.read_puzzles(tmp_path / "a.csv")
    np.testing.assert_array_equal(solved.labels, made.labels)
    run("convert", tmp_path / "a.csv", "--out", tmp_path / "folder", "--limit", 5)
    np.testing.assert_array_equal(datasets.read_puzzles(tmp_path / "folder").labels, made.labels[:5])


def test_convert_does_not_solve_what_has_several_solutions(tmp_path):
    (tmp_path / "a.txt").write_text("." * 16)
    reason = refused("convert", tmp_path / "a.txt", "--out", tmp_path / "b.csv", "--solve")
    assert reason == "a.txt:1: the puzzle has more than one solution"
    assert "only Sudoku" in refused("convert", "maze9-test", "--out", tmp_path / "b.csv", "--solve")


def test_info_describes_a_bundled_set():
    table = dict(line.split(maxsplit=1) for line in run("info", "sudoku6-test").splitlines() if "  " in line)
    assert table["puzzles"] == "500" and table["task"] == "sudoku6" and table["board"] == "6 x 6"
    assert table["labels"] == "yes" and table["clues"].startswith("8 to 18")
    assert table["difficulty"] == "easy 125, medium 125, hard 125, extreme 125"
    assert "symmetry classes   500 or more" in run("info", "sudoku6-test")


def test_info_measures_difficulty_where_no_column_says_it(tmp_path):
    (tmp_path / "a.txt").write_text(datasets.task("sudoku9").decode(datasets.bundled("sudoku9").inputs[3]))
    output = run("info", tmp_path / "a.txt")
    assert "labels             none" in output and "(first 1)" in output
    assert "guess nodes" not in run("info", tmp_path / "a.txt", "--measure", 0)


def test_info_describes_mazes():
    output = run("info", "maze9-test")
    assert "unique path        200 of 200" in output and "steps from S to G  12 to 22" in output


def test_info_refuses_a_name_that_is_nothing():
    assert "no file, folder or bundled set 'none'; bundled are maze9-test" in refused("info", "none")


@pytest.mark.parametrize("task", ["sudoku6", "maze9"])
def test_bundled_sets_pass_their_own_check(task):
    assert "0 wrong" in run("check", f"{task}-test", "--against", f"{task}-train")


def test_check_lists_every_fault_with_file_and_line(tmp_path):
    made = datasets.build("sudoku4", 4, "easy", seed=1)
    rows = [
        f"{datasets.task('sudoku4').decode(p)},{datasets.task('sudoku4').decode(s)}"
        for p, s in zip(made.inputs, made.labels, strict=True)
    ]
    disguise, solution = datasets.augment(made.inputs[1:2], made.labels[1:2], np.random.default_rng(0))
    empty = "." * 16 + "," + rows[0].split(",")[1]
    bad = "x" + rows[3][1:]
    hidden = f"{datasets.task('sudoku4').decode(disguise[0])},{datasets.task('sudoku4').decode(solution[0])}"
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["puzzle,solution", *rows[:2], rows[0], hidden, empty, bad, rows[2]]))
    lines = run("check", path, code=1).splitlines()
    assert sorted(lines[:-1]) == [
        f"{path}:4: repeats a.csv:2",
        f"{path}:5: has the symmetry fingerprint of a.csv:3: a disguise of it",
        f"{path}:6: the puzzle has more than one solution",
        f"{path}:7: puzzle: illegal character 'x' in row 1, column 1 (sudoku4 knows '.12340')",
    ]
    assert lines[-1] == "3 sound, 4 wrong"
    assert "4 sound, 3 wrong" in run("check", path, "--allow-several", code=1)


def test_check_finds_disguises_in_another_file(tmp_path):
    train = datasets.bundled("sudoku6", "train").take([3, 5])
    inputs, labels = datasets.augment(train.inputs, train.labels, np.random.default_rng(1))
    test = datasets.bundled("sudoku6").take([0])
    mixed = datasets.PuzzleSet(
        np.concatenate([test.inputs, inputs]), np.concatenate([test.labels, labels]), "sudoku6"
    )
    path = tmp_path / "a.csv"
    datasets.write_csv(path, mixed)
    lines = run("check", path, "--against", "sudoku6-train", code=1).splitlines()
    assert lines == [
        f"{path}:3: leaks: a disguise of sudoku6-train.csv.gz:5",
        f"{path}:4: leaks: a disguise of sudoku6-train.csv.gz:7",
        "1 sound, 2 wrong",
    ]


def test_check_accepts_disguises_within_one_group(tmp_path):
    one = datasets.bundled("sudoku6").take([0])
    inputs, labels = datasets.augment(one.inputs, one.labels, np.random.default_rng(1))
    pair = datasets.PuzzleSet(
        np.concatenate([one.inputs, inputs]), np.concatenate([one.labels, labels]), "sudoku6"
    )
    datasets.write_npy_folder(tmp_path, pair)
    run("check", tmp_path, code=1)
    np.save(tmp_path / "test/all__group_indices.npy", np.array([0, 2]))
    header = (tmp_path / "test/dataset.json").read_text()
    (tmp_path / "test/dataset.json").write_text(header.replace('"total_groups": 2', '"total_groups": 1'))
    assert "2 sound, 0 wrong" in run("check", tmp_path)


def test_equal_puzzles_under_two_identifiers_are_two_puzzles(tmp_path):
    tokens, names = np.array([[1, 2], [1, 2], [1, 2]]), ("<blank>", "a", "b")
    for ids, told, copies in (((1, 2, 0), "3 sound, 0 wrong", 0), ((1, 2, 1), "2 sound, 1 wrong", 1)):
        puzzles = datasets.PuzzleSet(
            tokens, tokens, "generic-2-v3", identifiers=np.array(ids), identifier_names=names
        )
        datasets.write_npy_folder(tmp_path / "two", puzzles)
        done = CliRunner().invoke(data, ["check", str(tmp_path / "two")])
        assert told in done.output
        assert f"repeated puzzles   {copies}" in run("info", tmp_path / "two")


def test_many_difficulties_are_a_range_or_the_commonest(tmp_path):
    puzzles = bundled("sudoku6", "test").take(slice(20))
    rated = {"numbers": [f"{k / 4}" for k in range(20)], "words": ["easy", "easy", *"abcdefghijklmnopqr"]}
    for name, values in rated.items():
        given = dataclasses.replace(puzzles, columns={"difficulty": tuple(values)})
        datasets.write_csv(tmp_path / f"{name}.csv", given)
    assert "difficulty         0 to 4.75, median 2.375\n" in run("info", tmp_path / "numbers.csv")
    assert "difficulty         easy 2, a 1, b 1, c 1, d 1, e 1, f 1, g 1, and 11 others\n" in run(
        "info", tmp_path / "words.csv"
    )


def test_what_a_format_has_no_place_for_is_said(tmp_path):
    said = run("convert", "sudoku6-test", "--limit", 2, "--out", tmp_path / "a")
    assert said.endswith("test, without difficulty, guesses, clues, for which this format has no place\n")
    assert "without" not in run("convert", tmp_path / "a", "--out", tmp_path / "b.csv")
    tokens = np.array([[1, 2]])
    puzzles = datasets.PuzzleSet(
        tokens, tokens, "generic-2-v3", identifiers=np.array([1]), identifier_names=("<blank>", "a")
    )
    datasets.write_npy_folder(tmp_path / "c", puzzles)
    assert "without identifiers, for" in run("convert", tmp_path / "c", "--out", tmp_path / "d.csv")


def test_check_finds_puzzles_without_a_solution(tmp_path):
    (tmp_path / "a.txt").write_text("123....4........")
    assert "a.txt:1: the puzzle has no solution" in run("check", tmp_path / "a.txt", code=1)


def test_check_of_an_unreadable_file_is_one_reason(tmp_path):
    (tmp_path / "a.csv").write_text("no header\n")
    assert "column 'puzzle' is missing" in refused("check", tmp_path / "a.csv")
