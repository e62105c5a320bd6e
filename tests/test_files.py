"""Puzzle files: every format round-trips, and whatever is wrong is named with its place."""

import dataclasses
import gzip
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eqrlab import datasets
from eqrlab.datasets import files
from eqrlab.datasets.files import scan
from eqrlab.datasets.puzzles import PuzzleSet


@pytest.fixture(scope="module")
def small() -> PuzzleSet:
    return datasets.build("sudoku4", 6, "easy,medium", seed=2)


@pytest.fixture
def rows(small) -> list[str]:
    """Lines of a sound CSV file: a header and six puzzles with solutions."""
    return ["puzzle,solution"] + [
        f"{datasets.task('sudoku4').decode(p)},{datasets.task('sudoku4').decode(s)}"
        for p, s in zip(small.inputs, small.labels, strict=True)
    ]


def write(path: Path, lines: list[str] | str) -> Path:
    text = lines if isinstance(lines, str) else "\n".join(lines) + "\n"
    path.write_text(text, newline="")
    return path


def same(one: PuzzleSet, other: PuzzleSet) -> None:
    assert one.task == other.task
    np.testing.assert_array_equal(one.inputs, other.inputs)
    assert (one.labels is None) == (other.labels is None)
    if one.labels is not None:
        np.testing.assert_array_equal(one.labels, other.labels)


# --- what is read


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_round_trips_with_its_columns(tmp_path, small, name):
    files.write_csv(tmp_path / name, small)
    back = datasets.read_puzzles(tmp_path / name)
    same(back, small)
    assert back.columns == small.columns
    assert back.names[0] == f"{name}:2" and back.source == str(tmp_path / name)


def test_npy_folder_round_trips(tmp_path, small):
    files.write_npy_folder(tmp_path / "d", small, "train")
    for path in (tmp_path / "d", tmp_path / "d" / "train"):
        back = datasets.read_puzzles(path, split="train")
        same(back, small)
        assert back.names[1] == "train/all__inputs.npy:1"
        assert back.columns["group"] == ("0", "1", "2", "3", "4", "5")
    header = json.loads((tmp_path / "d/train/dataset.json").read_text())
    assert header["total_puzzles"] == header["total_samples"] == header["total_groups"] == 6
    assert header["vocab_size"] == 6 and header["seq_len"] == 16 and header["sets"] == ["all"]
    assert json.loads((tmp_path / "d/identifiers.json").read_text()) == ["<blank>"]


def test_the_official_keys_are_those_of_the_reference_files(tmp_path, small, shared):
    files.write_npy_folder(tmp_path, small)
    reference = shared / "conformance/data/sudoku6/test"
    assert set(json.loads((tmp_path / "test/dataset.json").read_text())) == set(
        json.loads((reference / "dataset.json").read_text())
    )
    assert {p.name for p in (tmp_path / "test").iterdir()} == {p.name for p in reference.iterdir()}


@pytest.mark.parametrize(("task", "train", "test"), [("sudoku6", 1000, 500), ("maze9", 500, 200)])
def test_reference_folders_are_read(shared, task, train, test):
    for split, count in (("train", train), ("test", test)):
        puzzles = datasets.read_puzzles(shared / "conformance/data" / task, split=split)
        assert (puzzles.task, len(puzzles)) == (task, count)
        assert puzzles.oracle(puzzles.inputs, puzzles.labels).all()


def test_real_lists_are_read(shared):
    folder = shared / "data/sudoku"
    hard = datasets.read_puzzles(folder / "forum-hardest-11plus.csv.gz", limit=500)
    assert hard.task == "sudoku9" and len(hard) == 500 and "guesses" in hard.columns
    several = datasets.read_puzzles(folder / "multi-solution.txt.gz")
    assert several.labels is None and len(several) == 1998
    with pytest.raises(ValueError, match=r"multi-solution.txt.gz:3: the puzzle has more than one solution"):
        datasets.read_puzzles(folder / "multi-solution.txt.gz", unique=True, limit=5)


def test_plain_text_with_comments_and_empty_lines_has_no_labels(tmp_path, rows):
    puzzles = [row.split(",")[0] for row in rows[1:]]
    text = "# a list\r\n\r\n" + "\r\n".join(puzzles).replace(".", "0") + "\r\n#end"
    path = write(tmp_path / "a.txt", text)
    back = datasets.read_puzzles(path)
    assert back.labels is None and len(back) == 6 and back.names[0] == "a.txt:3"
    (tmp_path / "b.gz").write_bytes(gzip.compress(path.read_bytes()))
    same(back, datasets.read_puzzles(tmp_path / "b.gz"))


def test_csv_without_any_solution_has_no_labels(tmp_path, rows):
    path = write(tmp_path / "a.csv", [rows[0]] + [row.split(",")[0] + "," for row in rows[1:]])
    assert datasets.read_puzzles(path).labels is None


def test_the_published_column_names_work_too(tmp_path, rows):
    path = write(tmp_path / "a.csv", ["source,question,answer"] + [f"x,{row}" for row in rows[1:]])
    puzzles = datasets.read_puzzles(path)
    assert puzzles.labels is not None and puzzles.columns == {"source": ("x",) * 6}


def test_a_csv_file_is_known_by_its_commas_or_its_name(tmp_path, rows, small):
    same(datasets.read_puzzles(write(tmp_path / "a.txt", rows)), small)
    same(datasets.read_puzzles(write(tmp_path / "A.CSV", "\ufeff" + "\n".join(rows))), small)


def test_limit_looks_at_the_first_puzzles_only(tmp_path, rows):
    for broken in ("x,y", "x,y,z"):  # a wrong puzzle, a wrong number of fields
        rows[4] = broken
        path = write(tmp_path / "a.csv", rows)
        assert len(datasets.read_puzzles(path, limit=3)) == 3
    with pytest.raises(ValueError, match=r"a\.csv:5"):
        datasets.read_puzzles(path)


def test_mazes_are_read_as_text_and_as_csv(tmp_path):
    mazes = datasets.build("maze9", 5, seed=1)
    files.write_csv(tmp_path / "m.csv", mazes)
    same(datasets.read_puzzles(tmp_path / "m.csv"), mazes)
    lines = [datasets.task("maze9").decode(row) for row in mazes.inputs]
    text = datasets.read_puzzles(write(tmp_path / "m.txt", ["# five mazes", "", *lines]))
    np.testing.assert_array_equal(text.inputs, mazes.inputs)
    assert text.task == "maze9" and text.names[0] == "m.txt:3"
    files.write_npy_folder(tmp_path / "m", mazes)
    same(datasets.read_puzzles(tmp_path / "m"), mazes)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "int64", "uint64"])
def test_any_integer_dtype_and_memory_order_is_read(tmp_path, small, dtype):
    files.write_npy_folder(tmp_path, small)
    np.save(tmp_path / "test/all__inputs.npy", np.asfortranarray(small.inputs.astype(dtype)))
    same(datasets.read_puzzles(tmp_path), small)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_any_version_of_the_npy_format_is_read(tmp_path, small, version):
    files.write_npy_folder(tmp_path, small)
    with open(tmp_path / "test/all__inputs.npy", "wb") as file:
        np.lib.format.write_array(file, small.inputs, version=version)
    same(datasets.read_puzzles(tmp_path), small)


def test_examples_of_one_group_share_their_group_number(tmp_path, small):
    files.write_npy_folder(tmp_path, small)
    np.save(tmp_path / "test/all__group_indices.npy", np.array([0, 2, 3]))
    np.save(tmp_path / "test/all__puzzle_indices.npy", np.array([0, 1, 4, 6]))
    np.save(tmp_path / "test/all__puzzle_identifiers.npy", np.array([0, 0, 0]))
    edit_json(tmp_path / "test/dataset.json", total_groups=2, total_puzzles=3)
    assert datasets.read_puzzles(tmp_path).columns["group"] == ("0", "0", "0", "0", "1", "1")


def test_ignored_labels_become_token_0(tmp_path, small):
    labels = small.labels.copy()
    labels[:, 3] = 0
    files.write_npy_folder(tmp_path, dataclasses.replace(small, labels=labels))
    np.testing.assert_array_equal(datasets.read_puzzles(tmp_path).labels, labels)
    files.write_npy_folder(tmp_path, dataclasses.replace(small, labels=None))
    assert datasets.read_puzzles(tmp_path).labels is None


@pytest.mark.parametrize("kind", [list, torch.tensor, np.array])
def test_a_set_is_made_of_whatever_holds_integers(kind):
    tokens = kind([[1, 2], [3, 4], [5, 6]])
    puzzles = datasets.PuzzleSet(tokens, tokens, "generic")
    assert puzzles.task == "generic-2-v7" and puzzles.labels.dtype == np.int64
    for rows in ((2, 0), [2, 0], np.array([2, 0]), slice(None, None, -2)):
        assert puzzles.take(rows).inputs.tolist() == [[5, 6], [1, 2]]


# --- what is refused


@pytest.mark.parametrize("field", ["inputs", "labels"])
def test_cells_that_no_character_stands_for_are_not_written_as_text(tmp_path, small, field):
    tokens = getattr(small, field).copy()
    tokens[:, -1] = 0
    with pytest.raises(
        ValueError, match=r"(puzzles with pad|solutions with ignored) cells cannot be written as CSV"
    ):
        datasets.write_csv(tmp_path / "a.csv", dataclasses.replace(small, **{field: tokens}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "array", "text"])
def test_one_puzzle_without_solution_among_others_is_refused(tmp_path, small, kind):
    labels = small.labels.copy()
    labels[2] = 0
    path = tmp_path / {"folder": ".", "array": "x.npz", "text": "x.csv"}[kind]
    if kind == "folder":
        files.write_npy_folder(path, dataclasses.replace(small, labels=labels))
    elif kind == "array":
        np.savez(path, inputs=small.inputs, labels=labels)
    else:
        fields = [" ".join(map(str, row)) for row in (*small.inputs, *labels)]
        write(
            path,
            ["puzzle,solution", *map(",".join, zip(fields[: len(small)], fields[len(small) :], strict=True))],
        )
    with pytest.raises(ValueError, match=r":[24]: no solution here, but other puzzles have one$"):
        datasets.read_puzzles(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p, s: (p[:-1], s), "wrong length: the puzzle has 15 characters, sudoku4 has 16"),
        (
            lambda p, s: ("." * 36, s),
            "wrong length: the puzzle has 36 characters, sudoku4 has 16; one file holds one",
        ),
        (lambda p, s: ("x" + p[1:], s), "illegal character 'x' in row 1, column 1"),
        (lambda p, s: ("5" + p[1:], s), "illegal character '5'"),
        (lambda p, s: ("²" + p[1:], s), "illegal character '²'"),
        (lambda p, s: ("33" + p[2:], s), "contradictory givens: digit 3 stands twice in"),
        (lambda p, s: (p, s[:-1]), "wrong length: the solution has 15 characters"),
        (lambda p, s: (p, ""), "no solution here, but other puzzles have one"),
        (lambda p, s: (p, s[1] + s[0] + s[2:]), "the solution "),
        (lambda p, s: ("." * 16, s[4:] + s[4:8]), "the solution is not valid: digit"),
        (lambda p, s: (p, p), "the solution leaves row"),
        (lambda p, s: (p, "".join(str(int(c) % 4 + 1) for c in s)), "the solution changes the given in row"),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_reason(tmp_path, rows, change, reason):
    rows[3] = ",".join(change(*rows[3].split(",")))
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(write(tmp_path / "a.csv", rows))
    assert str(caught.value).startswith(f"{tmp_path / 'a.csv'}:4: ")
    assert reason in str(caught.value)


def test_every_fault_is_listed_and_the_sound_rows_are_kept(tmp_path, rows):
    rows[2], rows[4], rows[6] = "abc,", rows[4] + ",1", rows[6].replace(".", "7", 1)
    puzzles, faults = scan(write(tmp_path / "a.csv", rows))
    assert [fault.place.rpartition(":")[2] for fault in faults] == ["3", "5", "7"]
    assert puzzles is not None and puzzles.names == ("a.csv:2", "a.csv:4", "a.csv:6")
    with pytest.raises(ValueError, match="and 2 more faults"):
        datasets.read_puzzles(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a.csv:1: empty file"),
        ("puzzle,solution\n", "a.csv:1: no puzzles"),
        ("puzzle,answer\n1,2\n", "a.csv:1: column 'solution' is missing"),
        ("a,solution\n1,2\n", "a.csv:1: column 'puzzle' is missing"),
        ("puzzle,puzzle,solution\n", "column 'puzzle' stands 2 times"),
        ('puzzle,solution\n"a"b,c\n', "a.csv:2: broken CSV"),
        ('puzzle,solution\n"abc', "a.csv:2: broken CSV"),
        ("puzzle,solution\n....,....\n", "a.csv:2: wrong length"),
        ("puzzle,solution\n1\n", "a.csv:2: 1 fields, the header has 2"),
    ],
)
def test_a_file_that_is_no_puzzle_csv_is_refused(tmp_path, text, reason):
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(write(tmp_path / "a.csv", text))
    assert reason in str(caught.value)


def test_an_empty_text_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt:1: no puzzles"):
        datasets.read_puzzles(write(tmp_path / "a.txt", "# nothing\n\n"))


def test_a_file_of_another_task_is_refused(tmp_path, rows):
    with pytest.raises(
        ValueError, match=r"a\.csv:2: wrong length: the puzzle has 16 characters, sudoku9 has 81"
    ):
        datasets.read_puzzles(write(tmp_path / "a.csv", rows), task="sudoku9")
    with pytest.raises(ValueError, match="task 'sudoku5' unknown"):
        datasets.read_puzzles(tmp_path / "a.csv", task="sudoku5")


@pytest.mark.parametrize("cut", [1, 9, 15, 40, -1, -9])
def test_a_truncated_gzip_file_is_refused(tmp_path, small, cut):
    files.write_csv(tmp_path / "a.csv.gz", small)
    data = (tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"a\.csv\.gz:\d+: (broken or truncated|not a) gzip"):
        datasets.read_puzzles(tmp_path / "a.csv.gz")


def test_binary_files_are_refused_with_the_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"# fine\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: not a text file"):
        datasets.read_puzzles(tmp_path / "a.txt")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        datasets.read_puzzles(tmp_path / "none.csv")


def test_puzzles_with_several_solutions_are_read_unless_unique_is_asked(tmp_path, rows, small):
    path = write(tmp_path / "a.csv", [*rows, f"{'.' * 16},{rows[1].split(',')[1]}"])
    assert len(datasets.read_puzzles(path)) == 7
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(path, unique=True)
    assert str(caught.value) == f"{path}:8: the puzzle has more than one solution"
    same(datasets.read_puzzles(write(tmp_path / "b.csv", rows), unique=True), small)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("#########" * 9, "a maze has one S, this one has 0"),
        ("#S#G#####" + "#########" * 8, "there is no way from S to G"),
        ("#SoG#####" + "#########" * 8, "path mark in row 1, column 3"),
        ("#S G#####" + "###x#####" * 8, "illegal character 'x'"),
        ("#S G#####", "wrong length"),
    ],
)
def test_a_wrong_maze_is_named(tmp_path, line, reason):
    mazes = datasets.build("maze9", 2, seed=1)
    good = [datasets.task("maze9").decode(row) for row in mazes.inputs]
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(write(tmp_path / "m.txt", ["# mazes, 9x9", *good, line]))
    assert str(caught.value).startswith(f"{tmp_path / 'm.txt'}:4: ") and reason in str(caught.value)


def test_a_maze_solution_that_is_longer_than_need_be_is_refused(tmp_path):
    maze = "S    " + "     " * 3 + "    G"
    detour = "So   " + "ooooo" * 3 + "   oG"
    with pytest.raises(
        ValueError, match=r"m\.csv:2: the solution is no shortest path .* marks 17 .* marks 7"
    ):
        datasets.read_puzzles(write(tmp_path / "m.csv", f"puzzle,solution\n{maze},{detour}\n"), task="maze5")


# --- broken folders


def edit_json(path: Path, **changes: object) -> None:
    header = json.loads(path.read_text())
    header.update(changes)
    path.write_text(json.dumps({k: v for k, v in header.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": "gone"}, "'vocab_size' must be an integer, got None"),
        ({"vocab_size": 0}, "no task has 0 tokens on 16 cells"),
        ({"board": [3, 5]}, "'board' must be rows and columns of 16 cells"),
        ({"board": 4}, "'board' must be rows and columns of 16 cells"),
        ({"vocab_size": 8, "seq_len": 36}, "shape"),
        ({"seq_len": True}, "'seq_len' must be an integer"),
        ({"pad_id": 3}, "pad_id must be 0, got 3"),
        ({"blank_identifier_id": 1}, "blank_identifier_id must be 0, got 1"),
        ({"ignore_label_id": "x"}, "must be an integer or null"),
        ({"sets": []}, "'sets' must be a list of names"),
        ({"sets": ["../all"]}, "'sets' must be a list of names"),
        ({"sets": ["some"]}, "some__inputs.npy: file is missing"),
        ({"total_groups": "6"}, "key 'total_groups' must be an integer, got '6'"),
        ({"num_puzzle_identifiers": None}, "key 'num_puzzle_identifiers' must be an integer, got None"),
        ({"total_groups": 7}, "total_groups is 7, the arrays have 6"),
        ({"total_puzzles": 5}, "total_puzzles is 5, the arrays have 6"),
    ],
)
def test_a_wrong_dataset_json_is_refused(tmp_path, small, changes, reason):
    files.write_npy_folder(tmp_path, small)
    edit_json(tmp_path / "test/dataset.json", **changes)
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(tmp_path)
    assert reason in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("inputs", np.ones((6, 16)), "integers with 2 axes are required, got float64"),
        ("inputs", np.ones(16, int), "integers with 2 axes"),
        ("inputs", np.ones((5, 16), int), "offsets must rise from 0 to the 5 examples"),
        ("labels", np.ones((5, 16), int), "shape (6, 16) is required"),
        ("inputs", np.full((6, 16), 6), "inputs.npy:0: tokens 0 to 5 are allowed, got 6 to 6"),
        ("labels", np.full((6, 16), -1), "labels.npy:0: tokens 0 to 5"),
        ("inputs", np.full((6, 16), 2), "inputs.npy:0: contradictory givens"),
        ("inputs", np.zeros((6, 16), int), "inputs.npy:0: the puzzle has a pad token in row 1, column 1"),
        ("labels", np.full((6, 16), 1), "inputs.npy:0: the solution changes the given"),
        ("puzzle_indices", np.array([0, 1, 2]), "need 7 offsets, got 3"),
        ("puzzle_indices", np.array([0, 2, 1, 3, 4, 5, 6]), "offsets must rise"),
        ("group_indices", np.array([0, 1]), "offsets must rise from 0 to the 6 puzzles"),
        ("group_indices", np.zeros(0, int), "offsets must rise"),
        ("puzzle_identifiers", np.array([object()] * 6), "integers with 1 axes"),
    ],
)
def test_a_wrong_array_is_refused(tmp_path, small, name, array, reason):
    files.write_npy_folder(tmp_path, small)
    np.save(tmp_path / f"test/all__{name}.npy", array, allow_pickle=True)
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(tmp_path)
    assert reason in str(caught.value) and str(tmp_path / "test") in str(caught.value)


def test_a_folder_without_dataset_json_says_which_splits_there_are(tmp_path, small):
    files.write_npy_folder(tmp_path, small, "train")
    with pytest.raises(ValueError, match=r"no dataset\.json here and none in test/; it has the splits train"):
        datasets.read_puzzles(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    name=st.sampled_from(["inputs", "puzzle_indices"]), place=st.integers(0, 200), byte=st.binary(max_size=2)
)
def test_a_damaged_npy_file_is_read_or_refused_by_name(small, name, place, byte):
    with tempfile.TemporaryDirectory() as folder:
        files.write_npy_folder(folder, small)
        path = Path(folder) / f"test/all__{name}.npy"
        data = path.read_bytes()
        path.write_bytes(data[:place] + byte + data[place + len(byte) :] if byte else data[:place])
        try:
            datasets.read_puzzles(folder)
        except ValueError as error:
            assert folder in str(error)


# --- properties

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name == name.strip() and name not in ("puzzle", "solution")
)
FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(NAMES, unique=True, max_size=3), st.data())
def test_any_columns_survive_csv(small, names, data):
    columns = {name: data.draw(st.lists(FIELD, min_size=6, max_size=6)) for name in names}
    puzzles = dataclasses.replace(small, columns=columns)
    with tempfile.TemporaryDirectory() as folder:
        files.write_csv(Path(folder) / "a.csv", puzzles)
        back = datasets.read_puzzles(Path(folder) / "a.csv")
    same(back, puzzles)
    assert back.columns == puzzles.columns


def check_text(name: str, data: bytes) -> None:
    """Whatever the bytes, the file parses or a ValueError names it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            puzzles = datasets.read_puzzles(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}:")
            assert str(error)[len(f"{path}:") :].partition(":")[0].isdigit()
        else:
            assert len(puzzles) and len(puzzles.names) == len(puzzles)


LINE = st.one_of(
    st.text("1234.0", min_size=15, max_size=17),
    st.text("# SGo", min_size=24, max_size=26),
    st.text(max_size=12),
    st.just("1..43...4..2...3"),
)


@settings(max_examples=200)
@given(
    st.sampled_from(["a.txt", "a.csv"]),
    st.lists(LINE, max_size=6),
    st.sampled_from(["\n", "\r\n", ",", "\r"]),
)
@example("a.csv", ["puzzle,solution", '"'], "\n")
@example("a.csv", ["\x00"], "\n")
@example("a.txt", ["#####S G#################"], "\n")
def test_any_text_parses_or_is_refused_with_file_and_line(name, lines, end):
    text = end.join(lines)
    check_text(name, text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100)
@given(st.lists(st.tuples(LINE, LINE), max_size=5))
def test_any_rows_under_a_sound_header_parse_or_are_refused(pairs):
    check_text(
        "a.csv", "\n".join(["puzzle,solution", *(f"{a},{b}" for a, b in pairs)]).encode("utf-8", "replace")
    )


@settings(max_examples=100)
@given(st.sampled_from(["a.txt", "a.csv", "a.csv.gz"]), st.binary(max_size=60), st.booleans())
def test_any_bytes_parse_or_are_refused(name, data, packed):
    check_text(name, gzip.compress(data) if packed else data)


# --- what is written


def test_writing_is_deterministic_and_leaves_no_temporary_file(tmp_path, small):
    files.write_csv(tmp_path / "a.csv.gz", small)
    files.write_csv(tmp_path / "b.csv.gz", small)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv.gz", "b.csv.gz"]


def test_a_failed_write_leaves_the_old_file(tmp_path, small, monkeypatch):
    files.write_csv(tmp_path / "a.csv", small)
    before = (tmp_path / "a.csv").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_csv(tmp_path / "a.csv", small.take([0]))
    assert (tmp_path / "a.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_columns_named_like_the_puzzle_are_refused(tmp_path, small):
    with pytest.raises(ValueError, match="cannot be named 'puzzle'"):
        files.write_csv(tmp_path / "a.csv", dataclasses.replace(small, columns={"puzzle": ("",) * 6}))
    with pytest.raises(ValueError, match="ignored cells"):
        files.write_csv(tmp_path / "a.csv", dataclasses.replace(small, labels=small.labels * 0))


# --- the value, the tasks, the shipped sets


def test_a_puzzle_set_refuses_what_does_not_fit(small):
    for changes in (
        {"task": "sudoku6"},
        {"inputs": small.inputs + 9},
        {"inputs": small.inputs.astype(float)},
        {"labels": small.labels[:2]},
        {"columns": {"x": ("1",)}},
        {"names": ("a",)},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(small, **changes)


def test_taking_rows_keeps_everything_together(small):
    few = small.take([4, 1])
    np.testing.assert_array_equal(few.labels, small.labels[[4, 1]])
    assert few.names == (small.names[4], small.names[1])
    assert few.columns["clues"] == tuple(str(c) for c in few.clues)
    assert len(small.take(slice(0, 0))) == 0


@pytest.mark.parametrize("task", ["sudoku4", "sudoku6", "sudoku9", "maze9", "maze30"])
def test_vocabulary_and_length_name_the_task(task):
    known = datasets.task(task)
    assert datasets.task_of(datasets.vocab_size(task), datasets.seq_len(task)) == task == known.name
    assert datasets.board(task) == (math.isqrt(known.seq_len),) * 2
    assert len(known.alphabet) == known.vocab_size - 1


@pytest.mark.parametrize("task", ["", "sudoku", "sudoku5", "maze", "maze3", "maze100", "Sudoku9", "maze09"])
def test_unknown_tasks_are_refused(task):
    with pytest.raises(ValueError, match="unknown; choose from"):
        datasets.seq_len(task)


@pytest.mark.parametrize(("vocab", "length"), [(0, 0), (6, -4), (0, 5), (1 << 30, 4)])
def test_sizes_that_no_task_can_have_are_refused(vocab, length):
    with pytest.raises(ValueError, match="no task has"):
        datasets.task_of(vocab, length)


@pytest.mark.parametrize(("vocab", "length"), [(11, 80), (7, 16), (6, 9), (7, 25)])
def test_sizes_of_no_named_task_are_those_of_a_generic_one(vocab, length):
    assert datasets.task_of(vocab, length) == f"generic-{length}-v{vocab}"


@given(st.sampled_from(["sudoku4", "sudoku6", "sudoku9", "maze9"]), st.data())
def test_characters_and_tokens_round_trip(task, data):
    known = datasets.task(task)
    text = data.draw(st.text(known.alphabet, min_size=known.seq_len, max_size=known.seq_len))
    assert known.decode(known.encode(text)) == text
    drawn = "".join("".join(known.render(known.encode(text))).split())
    assert drawn.translate(str.maketrans("", "", "|-+")) == "".join(text.split())


def test_boards_are_drawn_with_their_boxes():
    lines = datasets.render("sudoku6", datasets.bundled("sudoku6").labels[0])
    assert len(lines) == 8 and set(lines[2]) == set("-+") and lines[0].index("|") == lines[2].index("+")
    nine = datasets.render("sudoku9", datasets.bundled("sudoku9").labels[0])
    assert len(nine) == 11 and len(nine[0]) == len(nine[3])


@pytest.mark.parametrize(
    ("task", "train", "test"), [("sudoku6", 1000, 500), ("sudoku9", 1000, 256), ("maze9", 500, 200)]
)
def test_shipped_sets_are_right_and_share_no_symmetry_class(task, train, test):
    sets = [datasets.bundled(task, split) for split in ("train", "test")]
    assert [len(puzzles) for puzzles in sets] == [train, test]
    marks = [datasets.fingerprint(task, puzzles.inputs) for puzzles in sets]
    assert len(np.unique(np.concatenate(marks))) == train + test
    for puzzles in sets:
        assert puzzles.oracle(puzzles.inputs, puzzles.labels).all()


def test_shipped_test_sets_range_from_easy_to_extreme():
    for task in ("sudoku6", "sudoku9"):
        puzzles = datasets.bundled(task)
        assert {
            puzzles.columns["difficulty"].count(word) for word in ("easy", "medium", "hard", "extreme")
        } == {len(puzzles) // 4}
        assert (np.array(puzzles.columns["clues"], dtype=int) == puzzles.clues).all()


def test_shipped_sets_are_what_the_readme_commands_give():
    for task, mix in (("sudoku6", "mixed"), ("sudoku9", "easy:9,medium:9,hard:1,extreme:1"), ("maze9", None)):
        shipped = datasets.bundled(task, "train").take(slice(0, 8))
        made = datasets.build(task, 8, mix, seed=1)
        same(shipped, made)
        assert shipped.columns == made.columns


def test_every_shipped_test_puzzle_has_one_solution():
    for task in ("sudoku6", "sudoku9", "maze9"):
        puzzles = datasets.bundled(task).take(slice(0, 60))
        assert datasets.checks.uniqueness(task, puzzles.inputs)[0] == {}


def test_unknown_sets_are_refused_with_the_list():
    with pytest.raises(
        ValueError, match=r"no bundled set sudoku5-test; choose from maze9-test, maze9-train, sudoku6"
    ):
        datasets.bundled("sudoku5")
    with pytest.raises(ValueError, match="sudoku6-valid"):
        datasets.bundled("sudoku6", "valid")


def test_augmentation_of_every_task_keeps_solutions_right():
    for task in ("sudoku6", "sudoku9", "maze9"):
        puzzles = datasets.bundled(task, "train").take(slice(0, 64))
        inputs, labels = datasets.augmentation(task)(puzzles.inputs, puzzles.labels, np.random.default_rng(0))
        assert puzzles.oracle(inputs, labels).all()
        assert not (inputs == puzzles.inputs).all()


# --- files as other programs write them


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_any_line_end_and_a_byte_order_mark_are_read_the_same(tmp_path, rows, small, end, mark, packed, kind):
    lines = rows if kind == "csv" else [row.split(",")[0] for row in rows[1:]]
    data = (mark + end.join(lines) + end).encode()
    path = tmp_path / f"a.{kind}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data) if packed else data)
    back = datasets.read_puzzles(path)
    np.testing.assert_array_equal(back.inputs, small.inputs)
    assert back.names[1] == f"{path.name}:{3 if kind == 'csv' else 2}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dataset_json_may_have_a_byte_order_mark(tmp_path, small, encoding):
    files.write_npy_folder(tmp_path, small)
    path = tmp_path / "test/dataset.json"
    path.write_bytes(path.read_text().encode(encoding))
    same(datasets.read_puzzles(tmp_path), small)


@pytest.mark.parametrize("value", ['"a"', "{}", '[{"vocab_size": 1, "vocab_size": 2}]'])
def test_a_key_that_stands_twice_in_dataset_json_is_refused(tmp_path, small, value):
    files.write_npy_folder(tmp_path, small)
    path = tmp_path / "test/dataset.json"
    path.write_text(path.read_text().replace("{", f'{{"x": 1, "vocab_size": {value}, ', 1))
    with pytest.raises(
        ValueError, match=r"dataset.json:1: the key 'vocab_size' stands 2 times in one object"
    ):
        datasets.read_puzzles(tmp_path)


HEADERS = [
    "puzzle,solution",
    "Puzzle,Solution",
    "QUIZZES,SOLUTIONS",
    "quizzes,solutions",
    "question,answer",
    "quiz,solution",
]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.tsv"])
def test_usual_headers_and_separators_are_read(tmp_path, rows, small, separator, header, name):
    lines = [line.replace(",", separator) for line in (header, *rows[1:])]
    same(datasets.read_puzzles(write(tmp_path / name, lines)), small)
    alone = [line.split(separator)[0] for line in lines]
    same(datasets.read_puzzles(write(tmp_path / "alone.csv", alone)), dataclasses.replace(small, labels=None))


@pytest.mark.parametrize("separator", [",", ";", "|"])
@pytest.mark.parametrize("gap", [" ", "  "])
def test_spaces_before_quotes_belong_to_no_field(tmp_path, rows, small, separator, gap):
    lines = [(separator + gap).join(f'"{field}"' for field in row.split(",")) for row in rows]
    same(datasets.read_puzzles(write(tmp_path / "a.csv", lines)), small)
    plain = [(separator + gap).join(row.split(",")) for row in rows]
    same(datasets.read_puzzles(write(tmp_path / "b.csv", plain)), small)


@pytest.mark.parametrize("note", ["x", 'a, "b" c', "ends, ", 'the, "" empty', "two\n lines"])
def test_a_maze_that_begins_with_blanks_keeps_them(tmp_path, note):
    maze = "    #" + " S G " + "#####" + "     " + "#   #"
    tokens = datasets.task("maze5").encode(maze)[None]
    files.write_csv(tmp_path / "a.csv", PuzzleSet(tokens, None, "maze5", {"note": (note,)}))
    found = datasets.read_puzzles(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.inputs, tokens)
    assert found.columns["note"] == (note,)
    with pytest.raises(
        ValueError, match=r"a\.csv:2: wrong length: the puzzle has 21 characters, maze5 has 25"
    ):
        datasets.read_puzzles(write(tmp_path / "a.csv", f'puzzle, "note"\n{maze}, "x"\n'), "maze5")


def test_further_columns_stay_in_a_file_without_solutions(tmp_path, rows):
    lines = ["source;Question;rating"] + [f"x;{row.split(',')[0]};{k}" for k, row in enumerate(rows[1:])]
    puzzles = datasets.read_puzzles(write(tmp_path / "a.csv", lines))
    assert puzzles.labels is None and puzzles.columns["rating"] == ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("question,solution", "answer"),
        ("answer,x", "question"),
        ("quizzes,answer", "solutions"),
        ("a,b", "puzzle"),
    ],
)
def test_the_missing_column_is_the_one_of_the_pair_that_is_begun(tmp_path, header, missing):
    with pytest.raises(ValueError, match=f"column '{missing}' is missing"):
        datasets.read_puzzles(write(tmp_path / "a.csv", f"{header}\n1,2\n"))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("puzzle\n1".encode("utf-16"), "text in UTF-16"),
        ("puzzle\n1".encode("utf-16-le"), "text in UTF-16"),
        ("puzzle\n1".encode("utf-16-be"), "text in UTF-16"),
        (b"\xfd7zXZ\x00\x00", "an xz file"),
        (b"PK\x03\x04\x14", "a zip archive"),
        (b"PAR1\x96\x97", "a parquet file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"BZh91AY", "a bzip2 file"),
        (b'{"question": "1.."}\n{"question": "2.."}\n', "JSON"),
        (b'[{"question": "1.."}]', "JSON"),
        (b"[\n [1, 2]]", "JSON"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_another_kind_is_named_with_the_kinds_that_are_read(tmp_path, data, kind, packed):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match=f"a.csv:1: this is {kind}; a CSV or text file in UTF-8"):
        datasets.read_puzzles(path)


def test_a_line_in_brackets_is_no_json(tmp_path, rows):
    lines = ["[Puzzle]", *(row.split(",")[0] for row in rows[1:])]
    with pytest.raises(
        ValueError, match=r"a.sdk:1: wrong length: the puzzle has 8 characters, sudoku4 has 16"
    ):
        datasets.read_puzzles(write(tmp_path / "a.sdk", lines))


@pytest.mark.parametrize("side", [5, 7, 13, 26])
def test_sudoku_without_boxes_is_refused_by_its_size(tmp_path, side):
    row = ("1G." * side * side)[: side * side]
    for name, text in (("a.csv", f"puzzle,solution\n{row},\n"), ("a.txt", row)):
        with pytest.raises(
            ValueError, match=rf"the boxes of a {side}x{side} Sudoku are not known \(4x4, 6x6, 8x8, "
        ):
            datasets.read_puzzles(write(tmp_path / name, text))


# --- cost


@pytest.mark.parametrize("sets", [["all"] * 60_000, ["all", "all"], ["all", "b", "b"]])
def test_a_set_named_twice_is_refused_before_it_is_read(tmp_path, small, sets):
    files.write_npy_folder(tmp_path, small)
    edit_json(tmp_path / "test/dataset.json", sets=sets)
    with pytest.raises(ValueError, match="names a set twice"):
        datasets.read_puzzles(tmp_path)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_sets_that_are_one_file_are_refused(tmp_path, small, link):
    files.write_npy_folder(tmp_path, small)
    for array in list((tmp_path / "test").glob("all__*")):
        getattr(array.with_name(array.name.replace("all", "copy")), link)(array)
    edit_json(tmp_path / "test/dataset.json", sets=["all", "copy"])
    with pytest.raises(ValueError, match="is the same file as that of the set 'all'"):
        datasets.read_puzzles(tmp_path)


SHAPES = [
    *(
        "(True, 16)",
        "(6, True)",
        "(6.0, 16)",
        "(-6, 16)",
        "(6, -16)",
        "((6,), 16)",
        "('6', 16)",
        "(None, 16)",
    ),
    *(
        "(0x" + "f" * 5000 + ", 16)",
        "(1099511627776, 16)",
        "(4611686018427387904, 4)",
        "(6, 16, 1)",
        "()",
        "6",
    ),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["inputs", "puzzle_indices"])
def test_a_shape_that_no_array_has_is_refused(tmp_path, small, shape, name):
    files.write_npy_folder(tmp_path, small)
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path = tmp_path / f"test/all__{name}.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(6 * 16 * 8))
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(tmp_path)
    assert (
        str(path) in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) <= 1000
    )


@pytest.mark.parametrize(
    "text", ["\n" * 4_000_000, "1,2\n" * 1_000_000, ",\n" * 2_000_000, "puzzle\n" + "1\n" * 2_000_000]
)
def test_many_empty_or_wrong_lines_cost_little(tmp_path, text):
    """Refused in seconds and memory in proportion to the file, the first faults listed."""
    import tracemalloc

    path = write(tmp_path / "a.csv", text)
    tracemalloc.start()
    with pytest.raises(ValueError) as caught:
        datasets.read_puzzles(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) <= 1000 and peak < 12 * len(text) + 2_000_000
