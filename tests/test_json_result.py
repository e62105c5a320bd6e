"""--json: every verb that prints a table prints its numbers as one JSON object instead."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.analyses.verbs import verbs
from tests.core_models import tiny_file

NO_TABLE = {"push", "report", "train"}  # they print where things are, and how training goes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", 6)


def test_every_verb_that_prints_a_table_has_json():
    context = click.Context(cli)
    for name in verbs():
        command = cli.get_command(context, name)
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in commands:
            if one.name not in NO_TABLE | {"build", "convert"}:
                assert "as_json" in {p.name for p in one.params}, (name, one.name)


SHORT = {
    "diagnose": ["--limit", "1", "--restarts", "2", "--depth", "4", "--no-local", "--no-checks"],
    "compare": ["--limit", "1", "--restarts", "2", "--depth", "4", "--no-local", "--no-checks"],
    "basins": ["--limit", "1", "--half-width", "0.4", "--depth", "4"],
    "scale": ["--limit", "2", "--depths", "1,2", "--breadths", "1,2"],
    "continuation": ["--limit", "1", "--over", "noise=0,0.1", "--restarts", "2", "--depth", "4"],
    "fates": ["--limit", "1", "--restarts", "2", "--depths", "8,16"],
    "dynamics": ["--limit", "1", "--restarts", "1", "--depth", "8", "--steps", "20"],
    "spectrum": ["--limit", "1", "--restarts", "1", "--depth", "4", "-k", "1"],
    "fixed-points": ["--limit", "1", "--restarts", "1", "--depth", "8"],
    "lyapunov": ["--limit", "1", "--restarts", "1", "--depth", "4", "--steps", "20", "-k", "1"],
    "plane": ["--resolution", "8", "--depth", "8"],
}


@pytest.mark.parametrize("verb", SHORT)
def test_json_is_the_archive_in_rows_with_intervals_and_nothing_else(verb, tiny, tmp_path):
    models = [str(tiny)] * (2 if verb == "compare" else 1)
    done = CliRunner().invoke(
        cli, [verb, *models, *SHORT[verb], "--quiet", "--json", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    groups = at.read(found["archive"])
    assert set(found["results"]) == set(groups)
    for name, group in groups.items():
        told = found["results"][name]
        assert told["attributes"]["schema_version"] == group.attrs["schema_version"]
        columns = {*"quantity value low high word why parameter measure".split(), *map(str, group.sizes)}
        assert all({"quantity"} < set(row) <= columns for row in told["rows"])
    rows = [row for told in found["results"].values() for row in told["rows"]]
    assert rows and all("value" in row or "word" in row or "low" in row or "high" in row for row in rows)


def test_a_mass_in_json_is_that_of_the_archive(tiny, tmp_path):
    done = CliRunner().invoke(
        cli, ["basins", str(tiny), *SHORT["basins"], "--quiet", "--json", "--out", str(tmp_path)]
    )
    found = json.loads(done.stdout)
    basins = at.read(found["archive"])["basins"]
    (row,) = [r for r in found["results"]["basins"]["rows"] if r["quantity"] == "mass_none"]
    assert row["value"] == basins.mass_none.values[0]
    assert (row["low"], row["high"]) == (basins.mass_none_low.values[0], basins.mass_none_high.values[0])


def test_a_failing_verb_prints_its_reason_and_no_json(tmp_path):
    done = CliRunner().invoke(cli, ["basins", "nowhere.pth", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 1 and isinstance(done.exception, ValueError) and done.stdout == ""


def test_exports_checks_and_descriptions_have_json_too(tiny, tmp_path):
    def told(*arguments, code=0):
        done = CliRunner().invoke(cli, [str(a) for a in arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout)

    few = "--limit 1 --restarts 2 --depth 3 --quiet --json".split()
    small = [tiny, "--out", tmp_path / "x.nc", *few]
    size = told("export", *small, "--estimate")
    assert size["evaluations"] > 0 and size["seconds"] > 0 and size["archive"] > 0
    assert told("export", *small) == {
        "archive": str(tmp_path / "x.nc"),
        "complete": True,
        "batches_done": 1,
        "batches": 1,
    }
    sound = told("verify", tmp_path / "x.nc", "--json")[str(tmp_path / "x.nc")]
    assert sound["complete"] is True and sound["groups"] == 1 and sound["checksums"] > 0
    assert told("data", "info", "sudoku6-test", "--limit", 5, "--json")["puzzles"] == 5
    (tmp_path / "p.txt").write_text("11" + "." * 34 + "\n")
    wrong = told("data", "check", tmp_path / "p.txt", "--json", code=1)
    assert wrong["sound"] == 0 and "contradictory givens" in wrong["wrong"][0]
