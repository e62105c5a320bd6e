"""Tasks of any board and vocabulary: found by name and sizes, read from any file, judged, solved and drawn."""

import gzip
import io
import json
import re
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from eqrlab import datasets
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.core.training.losses import exact, stablemax_cross_entropy
from eqrlab.datasets import PuzzleSet, batch_solver, read_puzzles, sudoku
from eqrlab.datasets.checks import faults, uniqueness
from eqrlab.datasets.faults import PuzzleFileError
from eqrlab.datasets.files import scan
from eqrlab.datasets.formats import tables
from eqrlab.datasets.sudoku import geometry, legal_clues

# --- names and sizes

GUIDE = Path(__file__).parent.parent / "docs/tasks.md"


def test_every_listed_task_is_one():
    names = datasets.tasks()
    assert "generic" in names and "sudoku9" in names and len(set(names)) == len(names)
    assert all(datasets.task(name).name == name for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"board": 4}, r"board must be \(rows, columns\), got 4"),
        ({"board": (1,)}, r"board must be \(rows, columns\), got \(1,\)"),
        ({"alphabet": "AAB"}, "each character stands for one token, got 'AAB'"),
        ({"alphabet": "ABC", "spelt": {"A": 2}}, "each character stands for one token"),
        ({"alphabet": "ABC", "spelt": {"D": 9}}, r"spelt must have tokens 0 to 3, got \{'D': 9\}"),
    ],
)
def test_a_task_whose_files_would_not_read_back_is_refused(change, message):
    with pytest.raises(ValueError, match=f"task 'own': {message}"):
        datasets.Task(**{"name": "own", "vocab_size": 4, "board": (1, 4), **change})


@pytest.mark.parametrize(
    ("name", "board", "vocab"),
    [
        ("sudoku6", (6, 6), 8), ("sudoku6-3x2", (6, 6), 8), ("sudoku8-4x2", (8, 8), 10), ("sudoku12", (12, 12), 14),
        ("sudoku16", (16, 16), 18), ("sudoku25", (25, 25), 27), ("maze7x12", (7, 12), 6), ("maze9", (9, 9), 6),
        ("arc", (30, 30), 12), ("generic-7x8-v8", (7, 8), 8), ("generic-3-v114", (1, 3), 114),
    ],
)  # fmt: skip
def test_names_tell_boards_and_vocabularies(name, board, vocab):
    known = datasets.task(name)
    assert (known.name, known.board, known.vocab_size) == (name, board, vocab)


def test_usual_boxes_are_not_named():
    assert datasets.task("sudoku6-2x3") is datasets.task("sudoku6")
    assert datasets.task("sudoku12").boxes == (3, 4)


@pytest.mark.parametrize(
    "name", ["sudoku6-6x1", "sudoku7", "sudoku27", "maze4x9", "generic-0", "generic-v0", "chess"]
)
def test_names_of_no_task_are_answered_with_the_list(name):
    with pytest.raises(ValueError, match=r"unknown; choose from sudoku4, .*, arc, generic \("):
        datasets.task(name)


# --- Sudoku of any boxes


def solution(side, box=None):
    """A board whose rows are shifts of each other, valid for its boxes."""
    shape = geometry(side, box)
    row, column = np.divmod(np.arange(shape.cells), side)
    return (row % shape.box_rows * shape.box_columns + row // shape.box_rows + column) % side + 2


@pytest.mark.parametrize(("side", "box"), [(6, (3, 2)), (8, (4, 2)), (12, (2, 6)), (16, None), (25, None)])
def test_the_oracle_knows_the_boxes(side, box):
    shape = geometry(side, box)
    known = datasets.task(f"sudoku{side}" + (f"-{shape.box_rows}x{shape.box_columns}" if box else ""))
    right = solution(side, box)[None]
    puzzle = np.where(np.arange(shape.cells) % 2, right, 1)
    assert known.oracle(puzzle, right).all()
    spoilt = right.copy()
    spoilt[0, [0, 2]] = spoilt[0, [2, 0]]
    assert not known.oracle(puzzle, spoilt).any()
    assert not known.oracle(right, np.roll(right, 1, axis=1)).any()


def test_boxes_of_three_rows_are_not_boxes_of_two():
    right = solution(6, (3, 2))[None]
    assert (
        datasets.oracle("sudoku6-3x2")(right, right).all()
        and not datasets.oracle("sudoku6")(right, right).any()
    )
    assert "box" in faults("sudoku6", right, None)[0] and faults("sudoku6-3x2", right, None) == {}


def test_boxes_are_told_by_the_solutions(tmp_path):
    made = datasets.build("sudoku6-3x2", 4, "medium", seed=3)
    datasets.write_csv(tmp_path / "a.csv", made)
    datasets.write_npy_folder(tmp_path / "b", made)
    for path in (tmp_path / "a.csv", tmp_path / "b"):
        assert read_puzzles(path).task == "sudoku6-3x2"
        with pytest.raises(ValueError, match="stands twice in box"):
            read_puzzles(path, "sudoku6")


@pytest.mark.parametrize("name", ["sudoku6-3x2", "sudoku12", "sudoku16", "maze7x12"])
def test_disguises_keep_solutions_right_and_fingerprints_equal(name):
    known = datasets.task(name)
    if name.startswith("maze"):
        made = datasets.build(name, 2, seed=1)
        inputs, labels = made.inputs, made.labels
    else:
        labels = solution(known.board[0], known.boxes)[None]
        inputs = np.where(np.random.default_rng(0).random(labels.shape) < 0.4, labels, 1)
    many = np.repeat(inputs, 6, axis=0), np.repeat(labels, 6, axis=0)
    puzzles, answers = known.augment(*many, np.random.default_rng(3))
    assert known.oracle(puzzles, answers).all()
    assert len(np.unique(puzzles, axis=0)) > len(inputs)
    assert (known.fingerprint(puzzles) == known.fingerprint(many[0])).all()


def test_letters_stand_for_digits_beyond_nine():
    known = datasets.task("sudoku16")
    text = known.decode(solution(16))
    assert set(text) == set("123456789ABCDEFG")
    np.testing.assert_array_equal(known.encode(text.lower()), solution(16))
    numbers = " ".join(str(token - 1) for token in solution(16))
    np.testing.assert_array_equal(known.encode(numbers), solution(16))


@pytest.mark.parametrize("name", ["sudoku6-3x2", "sudoku8", "sudoku12", "sudoku16", "sudoku25"])
def test_generated_puzzles_of_other_boards_have_one_solution(name):
    made = datasets.build(name, 2, "easy", seed=4)
    assert faults(name, made.inputs, made.labels) == {}
    assert uniqueness(name, made.inputs)[0] == {} and not len(uniqueness(name, made.inputs)[1])


def test_a_search_that_takes_too_long_says_so_instead_of_hanging():
    board = geometry(25)
    open_board = np.ones((1, board.cells), int)
    began = time.monotonic()
    found = batch_solver.count_solutions(open_board, 1 << 60, board=board, seconds=1.0)
    assert time.monotonic() - began < 20 and not found.proved.any()


def test_what_is_not_proved_is_not_called_wrong(monkeypatch):
    known = datasets.task("sudoku16")
    monkeypatch.setattr(batch_solver.time, "monotonic", iter(range(0, 10**9, 10**6)).__next__)
    puzzle = np.where(np.arange(256) == 0, solution(16), 1)[None]
    reasons, unproved = uniqueness("sudoku16", puzzle)
    assert reasons == {} and unproved.tolist() == [0] and known.oracle(puzzle, solution(16)[None]).all()


def test_legal_clues_are_those_without_conflict():
    inputs = np.where(np.arange(36) % 5 == 0, solution(6), 1)[None]
    legal = legal_clues(inputs)
    for cell in range(36):
        for token in range(8):
            tried = inputs.copy()
            tried[0, cell] = token
            fits = inputs[0, cell] == 1 and token >= 2 and not sudoku.conflicts(tried)[0]
            assert legal[0, cell, token] == fits


def test_mazes_and_generic_tasks_have_no_clues():
    assert all(datasets.task(name).clues is None for name in ("maze9", "arc", "generic-3-v9"))


# --- mazes of any rectangle


def test_rectangular_mazes_are_made_and_judged(tmp_path):
    made = datasets.build("maze7x12", 3, "several", seed=2)
    assert made.inputs.shape == (3, 84) and made.oracle(made.inputs, made.labels).all()
    datasets.write_csv(tmp_path / "a.csv", made)
    again = read_puzzles(tmp_path / "a.csv", "maze7x12")
    np.testing.assert_array_equal(again.labels, made.labels)
    assert len(datasets.render("maze7x12", made.inputs[0])) == 7
    datasets.write_npy_folder(tmp_path / "folder", made)  # which says its sides
    assert read_puzzles(tmp_path / "folder").task == "maze7x12"


# --- generic puzzles


def addition(n=40, modulus=113):
    rng = np.random.default_rng(0)
    pair = rng.integers(0, modulus, (n, 2)) + 1
    return np.column_stack([pair, np.full(n, 114)]), np.column_stack(
        [np.zeros((n, 2), int), (pair.sum(1) - 2) % modulus + 1]
    )


def test_any_official_folder_is_read(tmp_path):
    inputs, labels = addition()
    datasets.write_npy_folder(tmp_path, PuzzleSet(inputs, labels, "generic-3-v115"))
    found = read_puzzles(tmp_path)
    assert found.task == "generic-3-v115" and found.oracle is None
    np.testing.assert_array_equal(found.labels, labels)


def test_a_folder_may_tell_the_sides_of_its_board(tmp_path):
    tokens = np.random.default_rng(0).integers(1, 8, (5, 56))
    datasets.write_npy_folder(tmp_path, PuzzleSet(tokens, tokens, "generic-7x8-v8"))
    assert read_puzzles(tmp_path).task == "generic-7x8-v8"
    header = json.loads((tmp_path / "test/dataset.json").read_text())
    del header["board"]
    (tmp_path / "test/dataset.json").write_text(json.dumps(header))
    assert read_puzzles(tmp_path).task == "generic-56-v8"
    assert read_puzzles(tmp_path, "generic-7x8").task == "generic-7x8-v8"
    with pytest.raises(ValueError, match=r"dataset.json:1: has 8 tokens on 56 cells, sudoku9 has 11 on 81"):
        read_puzzles(tmp_path, "sudoku9")
    with pytest.raises(ValueError, match="has 8 tokens on 56 cells, generic-7x9-v8 has 8 on 63"):
        read_puzzles(tmp_path, "generic-7x9")


def written(tmp_path, kind):
    """The same 40 puzzles in a file of some kind."""
    inputs, labels = addition()
    rows = [(" ".join(map(str, a)), " ".join(map(str, b))) for a, b in zip(inputs, labels, strict=True)]
    path = tmp_path / f"a{kind}"
    if kind in (".csv", ".csv.gz", ".tsv"):
        gap = "\t" if kind == ".tsv" else ","
        text = "\n".join(gap.join(row) for row in [("Quizzes", "Solutions"), *rows]).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    elif kind == ".jsonl":
        lines = ({"input": a, "output": b} for a, b in zip(inputs.tolist(), labels.tolist(), strict=True))
        path.write_text("\n".join(map(json.dumps, lines)))
    elif kind == ".npz":
        np.savez(path, inputs=inputs, labels=np.where(labels == 0, -100, labels))
    else:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        frame = pandas.DataFrame({"puzzle": list(inputs), "solution": list(labels), "source": "made"})
        (frame.to_parquet if kind == ".parquet" else frame.to_feather)(path)
    return path


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".jsonl", ".npz", ".parquet", ".feather"])
def test_every_kind_of_file_gives_the_same_puzzles(tmp_path, kind):
    inputs, labels = addition()
    found = read_puzzles(written(tmp_path, kind), unique=True)
    assert found.task == "generic-3-v115" and found.unproved == 0
    np.testing.assert_array_equal(found.inputs, inputs)
    np.testing.assert_array_equal(found.labels, labels)
    few = read_puzzles(written(tmp_path, kind), draw=datasets.Draw(7, 1))
    assert len(few) == 7 and few.draw.available == 40
    assert len(read_puzzles(written(tmp_path, kind), "generic-3-v200", limit=3)) == 3


def test_a_parquet_file_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"read through .* pip install 'eqrlab\[tables\]'"):
        read_puzzles(tmp_path / "a.parquet")


def test_a_broken_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 90 + b"PAR1")
    with pytest.raises(ValueError, match=r"a.parquet: not a sound .parquet file"):
        read_puzzles(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_few_bytes_of_many_equal_rows_are_read_up_to_the_limit_and_refused_beyond_their_bytes(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    feather, parquet = pytest.importorskip("pyarrow.feather"), pytest.importorskip("pyarrow.parquet")
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(150_000, np.int32)), ["1 2 3"])
    path = tmp_path / f"a.{kind}"
    (parquet.write_table if kind == "parquet" else feather.write_feather)(
        pyarrow.table({"puzzle": same}), path, compression="zstd"
    )
    assert read_puzzles(path, limit=3).inputs.tolist() == [[1, 2, 3]] * 3
    with pytest.raises(
        PuzzleFileError, match=rf"a.{kind}: more than [67]\d{{4}} rows in a file of so few bytes"
    ):
        read_puzzles(path, draw=datasets.Draw(3, 0))


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_damaged_table_is_read_or_refused_by_name(tmp_path, kind):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    puzzles = [".".join("12341") + str(k % 5) + "." * 6 for k in range(60)]
    path = tmp_path / f"a.{kind}"
    getattr(pandas.DataFrame({"puzzle": puzzles}), f"to_{kind}")(path)
    sound, refused = path.read_bytes(), 0
    for place in range(0, len(sound), max(1, len(sound) // 300)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x94]) + sound[place + 1 :])
        try:
            scan(path, "sudoku4")
        except PuzzleFileError as error:
            assert str(error).startswith(str(path)) and len(str(error)) < 600
            refused += 1
    assert refused > 20


def test_the_index_of_a_frame_is_no_column_unless_it_has_a_name(tmp_path):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"puzzle": ["1 2", "3 4", "5 6"], "rating": [1, None, 3]}).astype(
        {"rating": "Int64"}
    )
    frame[1:].to_parquet(tmp_path / "a.parquet")
    found = read_puzzles(tmp_path / "a.parquet")
    assert found.inputs.tolist() == [[3, 4], [5, 6]] and found.columns == {"rating": ("", "3")}
    frame.set_index("puzzle").to_parquet(tmp_path / "b.parquet")
    assert read_puzzles(tmp_path / "b.parquet").inputs.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_sudoku_in_json_lines_and_numbers(tmp_path):
    made = datasets.build("sudoku4", 3, "easy", seed=1)
    lines = [
        json.dumps({"Puzzle": (a - 1).reshape(4, 4).tolist(), "Solution": (b - 1).tolist(), "note": k})
        for k, (a, b) in enumerate(zip(made.inputs, made.labels, strict=True))
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read_puzzles(tmp_path / "a.jsonl", "sudoku4")
    np.testing.assert_array_equal(found.inputs, made.inputs)
    np.testing.assert_array_equal(found.labels, made.labels)
    assert found.columns["note"] == ("0", "1", "2")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_have_the_columns_of_all_objects_and_any_line_end(tmp_path, end):
    lines = [
        {"input": "1 2", "output": "2 1"},
        {"output": "4 3", "rating": 5, "input": "3 4", "by": "\U0001f600"},
    ]
    (tmp_path / "a.jsonl").write_bytes(end.join(["", *map(json.dumps, lines)]).encode())
    found = read_puzzles(tmp_path / "a.jsonl")
    assert found.labels.tolist() == [[2, 1], [4, 3]] and found.names == ("a.jsonl:2", "a.jsonl:3")
    assert found.columns == {"rating": ("", "5"), "by": ("", "\U0001f600")}


def test_an_array_with_three_axes_is_a_board(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(1, 8, (5, 7, 8)))
    found = read_puzzles(tmp_path / "a.npy")
    assert datasets.task(found.task).board == (7, 8) and found.labels is None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "puzzle,solution\n1 2 3,1 2 3\n1 2,1 2\n", "a.csv:3: wrong length: the puzzle has 2 tokens"),
        ("a.csv", "puzzle,solution\n1 2 3,1 2\n", "a.csv:2: wrong length: the solution has 2 tokens"),
        ("a.csv", "puzzle,solution\n1 2 3,1 2 x\n", "a.csv:2: solution: illegal token 'x' in place 3"),
        ("a.csv", "puzzle,solution\n1 2 3,1 2 -5\n", "a.csv:2: solution: token -5 in place 3 is below 0"),
        ("a.jsonl", '{"puzzle": [1, 2]}\n{"puzzle": [1, 2.5]}\n', "a.jsonl:2: a text or a list of integers is req"),
        ("a.jsonl", '{"puzzle": [1, 2]}\n{"solution": [1, 2]}\n', "a.jsonl:2: key 'puzzle' is missing"),
        ("a.jsonl", '{"puzzle": [1, 2]}\n{"puzz\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"tokens": [1, 2]}\n', "a.jsonl:1: column 'puzzle' is missing"),
        ("a.txt", "1 2 -3\n", "a.txt:1: puzzle: token -3 in place 3 is below 0"),
        ("a.csv", "puzzle\n1 2 3\n-7 2 3\n", "a.csv:3: puzzle: token -7 in place 1 is below 0"),
        ("a.jsonl", '{"puzzle": [-1, 1]}\n', "a.jsonl:1: puzzle: token -1 in place 1 is below 0"),
        ("a.txt", "1 " * (1 << 20) + "1\n", "a.txt:1: a puzzle of 1048577 cells, of which 1048576 are allowed"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: a JSON object is required, got a list"),
        ("a.jsonl", '{"puzzle": [1, 2]}\r{"puzz\r', "a.jsonl:2: not JSON"),
        ("a.jsonl", '{"puzzle": [1, 2]}\n{"puzzle": [3], "puzzle": [4]}\n', "a.jsonl:2: the key 'puzzle' stands"),
        ("a.jsonl", '{"puzzle": [1, 2], "x": "\\ud800"}\n', r"a.jsonl:1: half a character ('\ud800')"),
        ("a.jsonl", '{"puzzle": [1, 2], "\\uDFFF": 1}\n', r"a.jsonl:1: half a character ('\udfff')"),
        ("a.jsonl", '{"puzzle": [1, 2]}\n{"puzzle": [1, 2], "solution": [3, 4]}\n', "a.jsonl:1: no solution"),
        ("a.jsonl", '{"puzzle": [1, 2], "solution": [3, 4]}\n{"puzzle": [1, 2]}\n', "a.jsonl:2: no solution"),
        ("a.jsonl", "".join(f'{{"puzzle": [1, 2], "{k}": 1}}\n' for k in range(2000)), "a.jsonl:1024: more than 1024"),
        ("a.npy", b"\x93NUMPY", "a.npy: broken .npy file"),
        ("a.npz", b"PK", "a.npz: not a sound .npz file"),
        ("a.npy.gz", b"\x1f\x8b", "a.npy.gz: only text (CSV, lines, JSON lines) is read from gzip; decompress"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        read_puzzles(path)
    assert reason in str(error.value)


def packed(array, method=zipfile.ZIP_DEFLATED, names=("inputs",)):
    """A .npz file with an array under one or more names."""
    plain, whole = io.BytesIO(), io.BytesIO()
    np.save(plain, array)
    with warnings.catch_warnings(), zipfile.ZipFile(whole, "w", method) as archive:
        warnings.simplefilter("ignore")  # names that stand twice
        for name in names:
            archive.writestr(f"{name}.npy", plain.getvalue())
    return whole.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (packed(np.ones((90_000, 81), np.uint8)), "a.npz: 7[0-9]+ compressed bytes give more than 4[0-9]+ integers"),
        (packed(np.ones((2, 81), np.uint8), zipfile.ZIP_LZMA), "a.npz: inputs.npy is not compressed as numpy"),
        (packed(np.ones((2, 81), int), names=("inputs", "inputs")), "a.npz: column 'inputs' stands 2 times"),
        (packed(np.array([[1, 2], [3, 1 << 40]])), "a.npz:1: token 1099511627776, of which 0 to 16777215 are"),
        (packed(np.array([[1 << 63]], np.uint64)), "a.npz:0: token 9223372036854775808, of which 0 to 16777215 are"),
        (packed(np.ones((1, (1 << 20) + 1), int)), "a.npz: puzzles of 1048577 cells, of which 1048576 are allowed"),
        (packed(np.ones((2, 3), int), names=("é",)).replace("é".encode(), b"\xff\xff"), "a.npz: not a sound .npz file"),
    ],
    ids=["bomb", "lzma", "twice", "token", "unsigned", "cells", "name"],
)  # fmt: skip
def test_an_archive_of_arrays_that_no_puzzles_have_is_refused(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(PuzzleFileError, match=reason):
        read_puzzles(tmp_path / "a.npz", limit=3)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_archive_of_arrays_is_refused(tmp_path, compressed):
    """Any byte of the array may be wrong: the checksum finds what decompression does not."""
    tokens = np.random.default_rng(0).integers(1, 11, (300, 81))
    path = tmp_path / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, inputs=tokens)
    sound = path.read_bytes()
    for place in range(60, len(sound) - 200, 397):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x5A]) + sound[place + 1 :])
        with pytest.raises(PuzzleFileError, match=r"a\.npz: "):
            read_puzzles(path)
    path.write_bytes(sound)
    np.testing.assert_array_equal(read_puzzles(path).inputs, tokens)


def test_a_table_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((2, 3), int))
    monkeypatch.setattr(tables, "read_array", lambda *_: np.empty((1 << 56, 81), np.uint8))
    with pytest.raises(PuzzleFileError, match=r"a\.npy: the puzzles do not fit into the memory"):
        read_puzzles(tmp_path / "a.npy")


SPACED = "5   1 2   6  2153 45 1   6 2 1   6  "


@pytest.mark.parametrize(
    "text", [SPACED, f"puzzle\n{SPACED}", f"puzzle,solution\n{SPACED},\n", f"1 2 3\n{SPACED}\n"]
)
def test_spaces_for_the_blanks_of_a_sudoku_are_refused(tmp_path, text):
    path = tmp_path / ("a.csv" if text.startswith("p") else "a.txt")
    path.write_text(text)
    with pytest.raises(
        PuzzleFileError, match="this looks like a Sudoku with spaces for its blanks, which are written"
    ):
        read_puzzles(path)


@pytest.mark.parametrize(
    "rows",
    [
        [" 1 12  3  1", "11  1  2 32"],
        ["1  12 3  1", "11 1  2  32"],
        ["1 2  3 4  1 2"],
        ["10  2 30   4", "11 5  6 6"],
    ],
)
def test_numbers_may_be_set_apart_by_several_spaces(tmp_path, rows):
    (tmp_path / "a.txt").write_text("\n".join(rows))
    assert read_puzzles(tmp_path / "a.txt").inputs.tolist() == [
        [int(word) for word in row.split()] for row in rows
    ]


def test_labels_beyond_the_vocabulary_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=np.ones((4, 3), int), labels=np.array([[1, 1, 1]] * 3 + [[1, 9, 1]]))
    with pytest.raises(ValueError, match=r"a.npz:3: the solution has token 9, generic-3-v8 has 0 to 7"):
        read_puzzles(tmp_path / "a.npz", "generic-3-v8")


def test_numbers_are_written_as_they_are_read():
    """Where the number 0 stands for token 1, token 0 has none: -100 in labels, where it does not count."""
    one = datasets.Task(name="ones", vocab_size=5, board=(1, 3), numbers_from=1)
    assert one.decode(one.encode("0 1 3")) == "0 1 3"
    assert one.decode(np.array([1, 0, -1])) == "0 -100 -1"


def test_groups_are_written_back(tmp_path):
    tokens = np.arange(1, 13).reshape(6, 2)
    one = PuzzleSet(tokens, tokens, "generic-2-v20", {"group": ("0", "0", "1", "2", "2", "2")})
    datasets.write_npy_folder(tmp_path, one)
    assert np.load(tmp_path / "test/all__group_indices.npy").tolist() == [0, 2, 3, 6]
    assert read_puzzles(tmp_path).columns["group"] == one.columns["group"]


@pytest.mark.skipif(not GUIDE.exists(), reason="reads the guide of a checkout")
def test_the_task_of_the_guide_works(tmp_path):
    """The guide's own code, as a package would add it."""
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)[1]
    assert code.count("\n") < 40
    names: dict = {}
    exec(code, names)
    known = names["TASK"]
    inputs = np.array([known.encode("01100101?"), known.encode("11100101?")])
    assert known.oracle(inputs, np.where(inputs == 3, 1, inputs)).tolist() == [True, False]
    assert known.render(inputs[0]) == ["0 1 1 0 0 1 0 1 ?"]


@pytest.mark.parametrize("ignored", [None, -100])
def test_a_token_0_counts_where_the_folder_says_that_it_is_not_the_ignored_one(tmp_path, ignored):
    """(a + b) mod 3 with the numbers as tokens 0 to 2: the label of the last cell alone counts, or all do."""
    inputs = np.array([[a, b, 3] for a in range(3) for b in range(3)])
    labels = np.full((9, 3), -100 if ignored else 0)
    labels[:, 2] = inputs[:, :2].sum(1) % 3
    datasets.write_npy_folder(tmp_path, PuzzleSet(inputs, inputs, "generic-3-v4"))
    header = json.loads((tmp_path / "test/dataset.json").read_text())
    (tmp_path / "test/dataset.json").write_text(json.dumps(header | {"ignore_label_id": ignored}))
    np.save(tmp_path / "test/all__labels.npy", labels)
    found = read_puzzles(tmp_path)
    assert found.labels[0].tolist() == ([0, 0, -1] if ignored else [-1, -1, -1])
    judge = Judge(found.labels)
    answers = np.where(labels < 0, 2, labels)
    assert judge(found.inputs, answers)[0].all()
    answers[:, 2] = (answers[:, 2] + 1) % 3
    assert not judge(found.inputs, answers)[0].any()
    datasets.write_npy_folder(tmp_path / "again", found)
    assert json.loads((tmp_path / "again/test/dataset.json").read_text())["ignore_label_id"] == -100
    np.testing.assert_array_equal(np.load(tmp_path / "again/test/all__labels.npy"), labels)
    np.testing.assert_array_equal(read_puzzles(tmp_path / "again").labels, found.labels)
    datasets.write_csv(tmp_path / "sums.csv", found)
    np.testing.assert_array_equal(read_puzzles(tmp_path / "sums.csv").labels, found.labels)


def test_a_token_0_counts_in_rows_of_tables_that_mark_other_cells(tmp_path):
    (tmp_path / "sums.csv").write_text("inputs,labels\n1 2 3,-100 -100 0\n0 1 3,-100 -100 1\n2 2 3,0 0 1\n")
    assert read_puzzles(tmp_path / "sums.csv").labels.tolist() == [[0, 0, -1], [0, 0, 1], [0, 0, 1]]
    np.savez(tmp_path / "sums.npz", inputs=np.ones((1, 3), int), labels=np.array([[-100, -100, 0]]))
    assert read_puzzles(tmp_path / "sums.npz").labels.tolist() == [[0, 0, -1]]


def test_a_pad_is_no_answer(tmp_path):
    puzzles = datasets.bundled("sudoku6").take([0])
    datasets.write_npy_folder(tmp_path, puzzles)
    header = json.loads((tmp_path / "test/dataset.json").read_text())
    (tmp_path / "test/dataset.json").write_text(json.dumps(header | {"ignore_label_id": None}))
    labels = puzzles.labels.astype(np.uint8)
    labels[0, 3] = 0
    np.save(tmp_path / "test/all__labels.npy", labels)
    with pytest.raises(ValueError, match=r"all__inputs.npy:0: the solution has token 0, the pad"):
        read_puzzles(tmp_path)


def test_losses_train_a_token_0_that_counts():
    logits, labels = torch.zeros(2, 3, 4), torch.tensor([[0, 0, -1], [0, 0, 2]])
    logits[0, 2, 0] = logits[1, 2, 2] = 5.0
    assert exact(logits, labels).all()
    loss = stablemax_cross_entropy(logits, labels)
    assert loss[0] == loss[1] == pytest.approx(-np.log(6 / 9))
