"""`eqrlab basins`: masses as precise as asked, what they cost, and misuse in one line."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.analyses.commands.basins import basin_rows, cost_lines, puzzle_rows
from eqrlab.attractors.results import archive
from tests.core_models import tiny_file
from tests.zoo import puzzles, selector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_file(path / "tiny.safetensors", hidden_size=8)
    (path / "four.txt").write_text("1234341223414.23\n12343412.3414123\n")
    return path


def run(folder, *arguments):
    common = [folder / "tiny.safetensors", "--puzzles", folder / "four.txt", "--depth", 6, "--quiet"]
    return CliRunner().invoke(cli, ["basins", *map(str, [*common, *arguments])])


@pytest.fixture(scope="module")
def found():
    labels = torch.full((2, 1), 2)
    return at.estimate_basins(selector([[0.0], [-2.5]]), puzzles(2), labels=labels, half_width=0.1, depth=40)


def test_masses_are_written_and_printed_to_the_precision_asked_for(folder, tmp_path):
    printed = run(folder, "--half-width", 0.15, "--out", tmp_path)
    assert printed.exit_code == 0, printed.output
    assert "tiny.safetensors: 2 puzzles of four.txt, depth 6" in printed.output
    assert (
        "a fixed number for a half-width of 0.15 at any mass is" in printed.output
        and "of that was used" in printed.output
    )
    tree = archive.read(tmp_path / "basins.nc")
    assert (tree["basins"].half_width <= 0.15).all() and tree["basins"].attrs["puzzles"] == "four.txt"


def test_rows_say_what_is_known_of_each_puzzle(found):
    rows = puzzle_rows(found)
    assert [r["puzzle"] for r in rows] == ["0", "1"] and rows[0]["attractors"] == "2"
    assert all(r["stopped"] == "precise" and "[" in r["right"] for r in rows)
    assert int(rows[0]["restarts"]) > int(rows[1]["restarts"])  # a half takes more than a hundredth
    basins = basin_rows(found)
    assert {r["answer"] for r in basins if r["puzzle"] == "0"} == {"right", "wrong"}
    assert all(r["fate"] == "settled" for r in basins)


def test_the_cost_is_set_against_a_fixed_number_of_restarts(found):
    text = "\n".join(cost_lines(found))
    used, fixed = int(found.restarts_used.sum()), 2 * int(found.attrs["fixed_restarts"])
    assert (
        f"{used:,} restarts in all" in text
        and f"{fixed:,} in all: {used / fixed:.2f} of that was used" in text
    )
    assert "; 99.9 % clopper-pearson intervals," in "\n".join(
        cost_lines(found.assign_attrs(confidence=0.999))
    )
    short = at.estimate_basins(selector([[0.0]]), puzzles(), half_width=0.02, depth=40, max_restarts=64)
    assert "1 puzzle did not reach that half-width: allow more with --max-restarts" in "\n".join(
        cost_lines(short)
    )


def test_a_threshold_is_decided_in_words(found):
    labels = torch.full((2, 1), 2)
    above = at.estimate_basins(selector([[3.0], [-3.0]]), puzzles(2), labels=labels, above=0.5, depth=40)
    assert [r["above 0.5"] for r in puzzle_rows(above)] == ["below", "above"]
    assert "half-width" not in "\n".join(cost_lines(above))
    assert np.isfinite(above.mass_high.values[above["count"].values > 0]).all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--half-width", "0"], 2, "--half-width"),
        (["--half-width", "0.6"], 2, "--half-width"),
        (["--max-restarts", "0"], 2, "--max-restarts"),
        (["--above", "1"], 2, "--above"),
        (["--limit", "0"], 2, "--limit"),
    ],
)
def test_misuse_is_named_and_nothing_is_written(arguments, code, message, folder, tmp_path):
    printed = run(folder, *arguments, "--out", tmp_path / "out")
    assert printed.exit_code == code and message in printed.output
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_read_is_named_before_anything_is_run(folder, tmp_path):
    (tmp_path / "bad.txt").write_text("12343412\n")
    for arguments in (["missing.pth"], [folder / "tiny.safetensors", "--puzzles", tmp_path / "bad.txt"]):
        printed = CliRunner().invoke(cli, ["basins", *map(str, arguments), "--out", str(tmp_path / "out")])
        assert isinstance(printed.exception, ValueError) and len(str(printed.exception).splitlines()) == 1
        assert str(arguments[-1]) in str(printed.exception) and not (tmp_path / "out").exists()
