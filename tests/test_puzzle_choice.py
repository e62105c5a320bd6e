"""Which puzzles a command works on: draws from large files, all of them, the first, bundled sets."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab.analyses.commands.basins import basins_command
from eqrlab.analyses.commands.common import puzzle_choice
from eqrlab.analyses.commands.common.puzzle_choice import DRAWN, how_chosen, puzzle_attributes, puzzles_for
from eqrlab.analyses.commands.diagnose import diagnose_command
from eqrlab.analyses.commands.dynamics import spectrum_command
from eqrlab.attractors.results import archive
from eqrlab.core import EqR, EqRConfig, save
from eqrlab.datasets import Draw, build, bundled, read_puzzles, write_csv, write_npy_folder
from eqrlab.datasets.files import scan

MANY = 150
TINY = EqRConfig(vocab_size=8, seq_len=36, hidden_size=16, num_heads=2, H_cycles=1, L_cycles=1)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "many.csv"
    write_csv(path, bundled("sudoku6").take(slice(MANY)))
    return path


@pytest.fixture(scope="module")
def model():
    return EqR(TINY, "sudoku6")


def rows_of(drawn, every):
    return [int(np.flatnonzero((every.inputs == row).all(1))[0]) for row in drawn.inputs]


def test_a_large_file_is_drawn_from_by_seed_and_says_so(many, model):
    every = read_puzzles(many)
    drawn = puzzles_for(model, str(many), "test", None, False, seed=3)
    rows = rows_of(drawn, every)
    assert len(set(rows)) == DRAWN and rows == sorted(rows) and rows != list(range(DRAWN))
    assert drawn.names == tuple(every.names[row] for row in rows)
    np.testing.assert_array_equal(drawn.labels, every.labels[rows])
    assert rows == rows_of(puzzles_for(model, str(many), "test", None, False, seed=3), every)
    assert rows != rows_of(puzzles_for(model, str(many), "test", None, False, seed=4), every)
    assert how_chosen(drawn) == " (drawn at random from its 150 with seed 3; --limit all takes all)"
    assert puzzle_attributes(drawn) == {
        "puzzles": "many.csv", "puzzles_drawn_from": MANY, "puzzles_drawn_by_seed": 3
    }  # fmt: skip


def test_a_limit_takes_the_first_and_all_takes_all(many, model):
    every = read_puzzles(many)
    for limit, expected in ((5, 5), (2**62, MANY)):
        taken = puzzles_for(model, str(many), "test", limit, False)
        np.testing.assert_array_equal(taken.inputs, every.inputs[:expected])
        assert how_chosen(taken) == "" and set(puzzle_attributes(taken)) == {"puzzles"}


def test_repeated_puzzles_are_told(tmp_path, model, capsys):
    path, some = tmp_path / "again.csv", bundled("sudoku6")
    write_csv(path, some.take([0, 1, 0, 0]))
    assert puzzles_for(model, str(path), "test", 9, False).copies == 2
    assert "puzzles that repeat an earlier one: 2 of 4; their runs are the same" in capsys.readouterr().err
    puzzles_for(model, str(path), "test", 2, False)
    assert "repeat" not in capsys.readouterr().err
    assert replace(some.take([0, 0, 0]), identifiers=np.array([1, 2, 1])).copies == 1, "other disguises"


def test_a_small_file_and_a_bundled_set_are_not_drawn_from(tmp_path, model):
    write_csv(tmp_path / "few.csv", bundled("sudoku6").take(slice(DRAWN)))
    assert len(puzzles_for(model, str(tmp_path / "few.csv"), "test", None, False)) == DRAWN
    first = puzzles_for(model, None, "test", None, False)
    np.testing.assert_array_equal(first.inputs, bundled("sudoku6").inputs[: puzzle_choice.SAMPLE])
    assert how_chosen(first) == ""


@pytest.mark.parametrize("kind", ["csv", "text", "npy"])
def test_every_draw_is_as_likely_whatever_the_format(tmp_path, kind):
    puzzles = build("sudoku4", 20, "easy", seed=2)
    path = tmp_path / f"p.{kind}"
    if kind == "npy":
        write_npy_folder(path, puzzles)
    elif kind == "csv":
        write_csv(path, puzzles)
    else:
        path.write_text("".join("".join(".1234"[t - 1] for t in row) + "\n" for row in puzzles.inputs))
    counts = np.zeros(20)
    for seed in range(400):
        drawn = read_puzzles(path, draw=Draw(5, seed))
        assert drawn.draw == Draw(5, seed, available=20)
        counts[rows_of(drawn, puzzles)] += 1
    assert counts.sum() == 2000 and np.abs(counts - 100).max() < 4.5 * np.sqrt(75)


def test_only_puzzles_drawn_are_checked_but_every_malformed_line_is_named(many, tmp_path):
    lines = many.read_text().splitlines()
    taken = {int(name.rpartition(":")[2]) for name in read_puzzles(many, draw=Draw(8, 0)).names}
    other, chosen = (
        next(n for n in range(2, MANY + 2) if (n in taken) is wanted) for wanted in (False, True)
    )
    wrong = tmp_path / "wrong.csv"

    def with_line(number, text):
        wrong.write_text("\n".join([*lines[: number - 1], text, *lines[number:]]) + "\n")
        return read_puzzles(wrong, draw=Draw(8, 0), unique=True)

    columns = "," * (lines[0].count(",") - 1)
    several = "." * 36 + "," + lines[1].split(",")[1] + columns
    assert len(with_line(other, "11" + several[2:])) == 8
    assert len(with_line(other, several)) == 8
    for number, text, reason in (
        (chosen, several, "the puzzle"),
        (chosen, "11" + several[2:], "contradictory givens"),
        (other, "x" + several[1:], "illegal character 'x'"),
        (other, several[1:], "wrong length"),
        (other, several.replace(",", "z,", 1)[:36] + "z" + several[36:], "wrong length"),
    ):
        with pytest.raises(ValueError, match=rf"wrong\.csv:{number}: .*{reason}"):
            with_line(number, text)
    assert len(scan(wrong, draw=Draw(8, 0))[1]) == 1


@pytest.mark.parametrize("command", [diagnose_command, basins_command, spectrum_command])
def test_a_puzzle_without_solution_is_refused_even_where_several_are_allowed(command, tmp_path, model):
    save(model, tmp_path / "tiny.safetensors")
    no_digit_left = "12345." + "......" + ".....6" + "......" * 3  # in the last cell of the first row
    (tmp_path / "p.txt").write_text("." * 36 + "\n" + no_digit_left + "\n")
    several = [] if command is spectrum_command else ["--allow-several"]
    arguments = [str(tmp_path / "tiny.safetensors"), "--puzzles", str(tmp_path / "p.txt"), *several, "--quiet",
                 "--out", str(tmp_path / "out")]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"p\.txt:2: the puzzle has no solution, no answer to it can be right"
    ):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "file", "options"),
    [
        (diagnose_command, "diagnosis.nc", ["--no-local", "--no-checks", "--restarts", "2"]),
        (basins_command, "basins.nc", ["--half-width", "0.45", "--max-restarts", "4"]),
    ],
)
def test_commands_say_and_record_the_draw(many, tmp_path, model, monkeypatch, command, file, options):
    monkeypatch.setattr(puzzle_choice, "DRAWN", 3)
    save(model, tmp_path / "tiny.safetensors")
    arguments = [str(tmp_path / "tiny.safetensors"), "--puzzles", str(many), "--depth", "2", "--quiet",
                 "--seed", "5", "--out", str(tmp_path), *options]  # fmt: skip
    run = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    assert (
        "3 puzzles of many.csv (drawn at random from its 150 with seed 5; --limit all takes all)"
        in run.output
    )
    for group in archive.read(tmp_path / file).children.values():
        about = group.attrs
        assert (about["puzzles"], int(about["puzzles_drawn_from"])) == ("many.csv", MANY)
        assert int(about["puzzles_drawn_by_seed"]) == 5


@pytest.mark.parametrize("wrong", ["0", "-1", "some", "1.5", "ALL "])
def test_a_limit_that_is_no_number_is_wrong_usage(wrong):
    run = CliRunner().invoke(diagnose_command, ["eqr-sudoku6", "--limit", wrong])
    assert run.exit_code == 2 and "--limit" in run.output


def test_a_bundled_set_is_read_by_its_name_where_there_is_no_such_path(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = read_puzzles("sudoku6", limit=3)
    assert named.task == "sudoku6" and (named.inputs == bundled("sudoku6").inputs[:3]).all()
    assert (read_puzzles("sudoku6-train", limit=3).inputs == bundled("sudoku6", "train").inputs[:3]).all()
    write_csv(tmp_path / "sudoku6", bundled("sudoku6").take(slice(7, 9)))
    assert len(read_puzzles("sudoku6")) == 2, "a file comes first"
    assert len(puzzles_for(model, "sudoku6-test", "test", 4, False)) == 4
