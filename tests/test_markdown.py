"""Reports as Markdown: verdict and numbers of the datasets, tables that are tables, a command that runs again."""

import pytest
import xarray as xr
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.analyses.compare import compare
from eqrlab.analyses.diagnose import archive_groups
from eqrlab.analyses.report import page
from eqrlab.analyses.report.markdown import command
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.format import markdown_table
from eqrlab.attractors.results import archive
from tests import planted as plan


def tables(text):
    """Return the tables of a page, each as its lines."""
    blocks = [b.split("\n") for b in text.split("\n\n")]
    return [block for block in blocks if block[0].startswith("|")]


def test_the_verdict_and_every_interval_are_written():
    groups = plan.mixed()
    text = page.render_markdown(xr.DataTree.from_dict(archive_groups({"mixed": groups})))
    assert wording.mode_sentence(groups["modes"]) in text and text.startswith(
        "# Attractor landscape of mixed\n"
    )
    for letter in ("a", "b", "c", "d"):
        assert f"| {wording.share_of(groups['modes'], letter)} |" in text
    assert wording.accuracy_text(groups["alignment"], "mean") in text
    for row in wording.verdict_rows(groups):
        assert f"| {row['puzzle']} | {row['mode']} | {row['probability']} | {row['correct mass']} |" in text


def test_tables_have_as_many_cells_in_every_row_and_escape_bars():
    groups = {k: v.copy() for k, v in plan.mode_b().items()}
    groups["ensemble"].attrs["checkpoint"] = "a|b"
    text = page.render_markdown(xr.DataTree.from_dict(groups))
    found = tables(text)
    assert len(found) == 3 and "a\\|b" in text
    for lines in found:
        cells = [line.replace("\\|", "").count("|") for line in lines if not line.startswith("...")]
        assert len(set(cells)) == 1
    assert markdown_table([]) == "" and markdown_table([{"a": "1"}], more=2).endswith("... and 2 more")


def test_a_comparison_has_its_differences_before_the_diagnoses():
    results = {"one": plan.mode_b(), "two": plan.mode_b()}
    tree = xr.DataTree.from_dict({**archive_groups(results), "compare": compare(results)})
    text = page.render_markdown(tree)
    first, diagnoses = (text.index(part) for part in ("| quantity | one | two | difference", "### Landscape"))
    assert text.index("## Paired differences") < first < diagnoses
    assert text.count("### Landscape") == 2 and "eqrlab compare" in text


def test_without_labels_there_is_no_verdict_and_it_says_so():
    text = page.render_markdown(xr.DataTree.from_dict(plan.DEGENERATE["no labels"]()))
    assert "No verdict: right and wrong are unknown" in text and "mode" not in tables(text)[1][0]


def test_the_command_of_a_diagnosis_makes_it_again(tmp_path):
    run = CliRunner()
    asked = [
        "diagnose",
        "eqr-sudoku6",
        "--limit",
        "2",
        "--restarts",
        "4",
        "--depth",
        "8",
        "--noise",
        "0.02",
        "--seed",
        "3",
    ]
    quiet = ["--quiet", "--out"]
    done = run.invoke(cli, [*asked, "--no-local", "--no-checks", *quiet, str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = archive.read(tmp_path / "diagnosis.nc")["ensemble"]
    words = command("diagnose", [found.attrs], 2).split()
    assert words[0] == "eqrlab" and words[1:3] == asked[:2]
    again = run.invoke(cli, [*words[1:], *quiet, str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    other = archive.read(tmp_path / "again" / "diagnosis.nc")["ensemble"]
    xr.testing.assert_equal(found.to_dataset(), other.to_dataset())
    done = run.invoke(cli, ["report", str(tmp_path / "diagnosis.nc"), "--format", "md"])
    assert done.exit_code == 0 and " ".join(words) in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"puzzles": "sudoku6-test.csv.gz"}, "model --limit 2"),
        ({"puzzles": "sudoku6-train.csv.gz"}, "--puzzles sudoku6-train --limit 2"),
        ({"puzzles": "mine.csv", "puzzles_drawn_from": 9}, "--puzzles mine.csv --restarts"),
        ({"puzzles": "sudoku6-test.csv.gz", "dtype": "float64"}, "--dtype float64"),
    ],
)
def test_the_command_names_what_is_no_default(attributes, part):
    about = {"name": "model", "task": "sudoku6", "restarts": 4, "depth": 8, "seed": 0, "dtype": "float32"}
    assert part in command("diagnose", [about | attributes], 2)
