"""The validator: what eqrlab writes passes, and each violation is named."""

import json
import os
import shutil
import subprocess

import netCDF4
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.results import archive, archive_rules, schema, schema_page, variables
from eqrlab.attractors.results.validate import unlisted, validate
from tests.zoo import puzzles, selector


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An archive of every group that a diagnosis has, and a spectrum."""
    system = selector([[0.0], [1.0]])
    labels = torch.full((2, 1), 2)
    ensemble = at.sample(
        system, puzzles(2), labels=labels, restarts=12, depth=16, keep=("path", "final_state", "trajectory")
    )
    spectrum = at.spectrum(system, puzzles(2), torch.tensor(ensemble.final_state.values[:, :1]), k=1)
    groups = {
        "ensemble": ensemble,
        "basins": at.basins(ensemble),
        "alignment": at.alignment(ensemble),
        "modes": at.modes(ensemble),
        "spectrum": spectrum,
    }
    path = tmp_path_factory.mktemp("archive") / "a.nc"
    archive.write(path, {**groups, "other/ensemble": ensemble})
    return path


def test_what_is_written_is_sound_and_listed(written):
    found = validate(written)
    assert found.groups == 6 and found.variables == found.checksums > 100
    assert unlisted(written) == []


def test_the_schema_page_has_the_tables_of_the_registry():
    text = schema_page.PAGE.read_text(encoding="utf-8")
    assert schema_page.page(text) == text, "run make schema"
    assert "| `residual` | puzzle restart step | float | noise-free residual \\|\\|f(z; x) - z\\|\\|" in text


def test_a_row_of_the_registry_is_on_the_page_and_in_force(monkeypatch):
    added = variables.Variable("mood?", "puzzle", ("calm", "wild"), "how it felt", least=0, most="attractor")
    group = variables.Group("feelings", "What was felt.", (added,))
    for module in (schema_page, archive_rules):
        monkeypatch.setattr(module, "GROUPS", (group,))
    page, tables = schema_page.page("# title\n"), archive_rules.read_schema.__wrapped__()
    assert "## Group feelings\n\nWhat was felt. `?`: not in every archive." in page
    assert "| `mood`? | puzzle | flag: calm wild | how it felt |" in page
    assert "| `feelings/mood` | 0 | attractor |" in page
    assert tables.groups["feelings"]["mood"] == archive_rules.Rule(("puzzle",), "flag", "calm wild", False)
    assert tables.ranges["feelings/mood"] == (0, "attractor")


def test_no_variable_of_the_registry_is_listed_twice():
    for group in variables.GROUPS:
        names = [v.name.rstrip("?") for v in group.variables]
        assert len(names) == len(set(names)), group.name
    assert len({g.name for g in variables.GROUPS}) == len(variables.GROUPS)


def test_the_schema_is_what_rules_check():
    tables = archive_rules.read_schema()
    attributes, groups = tables.attributes, tables.groups
    assert {"ensemble", "basins", "alignment", "modes", "spectrum", "compare"} <= set(groups)
    assert groups["ensemble"]["residual"].dims == ("puzzle restart step",)
    assert groups["ensemble"]["fate"].flags == " ".join(schema.FATES) and groups["ensemble"]["fate"].required
    assert not groups["ensemble"]["labels"].required and groups["spectrum"]["eigenvalue"].kind == "complex"
    assert attributes["tolerances"] == (("ensemble", "basins", "alignment", "modes"), "json")


def rename(file):
    file["ensemble"].renameVariable("residual", "residuum")


def transpose(file):
    group = file["ensemble"]
    group.renameVariable("update", "old")
    made = group.createVariable("update", "f8", ("restart", "puzzle", "step"))
    made.setncatts({"long_name": "update", "units": "1"})


def as_text(file):
    group = file["basins"]
    group.renameVariable("count", "old")
    made = group.createVariable("count", "f4", ("puzzle", "attractor"))
    made.setncatts({"long_name": "count", "units": "1"})


def without(where, name, variable=None):
    return lambda file: (file[where] if variable is None else file[where][variable]).delncattr(name)


def having(where, name, value, variable=None):
    return lambda file: (file[where] if variable is None else file[where][variable]).setncattr(name, value)


def change_a_value(file):
    file["ensemble"]["residual"][0, 0, 0] += 1


def change_a_flag(file):
    file["modes"]["advice"][0] = 77


def bare_dimension(file):
    file["modes"].createDimension("stray", 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename, "group /ensemble, variable 'residual' is missing"),
        (transpose, r"'update' has dimensions \(restart, puzzle, step\), \(puzzle restart step\) is required"),
        (as_text, "group /basins, variable 'count' is of type float32, int is required"),
        (without("ensemble", "units", "update"), "group /ensemble, variable 'update' has no units"),
        (having("ensemble", "long_name", " ", "restart"), "variable 'restart' has no long_name"),
        (without("ensemble", "seed"), "group /ensemble, attribute 'seed' is missing"),
        (having("basins", "depth", "deep"), "group /basins, attribute 'depth' is 'deep', int is required"),
        (having("ensemble", "tolerances", "{"), "attribute 'tolerances' is not a JSON object"),
        (having("ensemble", "restarts", 13), "attribute 'restarts' is 13, dimension 'restart' has 12"),
        (having("ensemble", "complete", 0), "attribute 'complete' is 0 and 'sampled' says otherwise"),
        (having("modes", "schema_version", 9), "group /modes, attribute 'schema_version' is 9, this eqrlab knows 1"),
        (having("modes", "Conventions", "CF-1.6"), "attribute 'Conventions' is 'CF-1.6', 'CF-1.11' is required"),
        (without("ensemble", "flag_values", "fate"), "has only one of flag_values and flag_meanings"),
        (having("modes", "flag_meanings", "a b c d e", "mode"), "has flag_meanings 'a b c d e', 'a b c d undecided'"),
        (having("modes", "flag_meanings", "a b", "mode"), "has 5 flag_values for 2 flag_meanings"),
        (without("ensemble", "dtype", "correct"), 'has no attribute dtype = "bool"'),
        (change_a_value, "'residual' does not have the values of its checksum: it was changed or damaged"),
        (change_a_flag, "'advice' holds 77, one of"),
        (without("ensemble", "sha256", "residual"), "variable 'residual' has no sha256"),
        (bare_dimension, "group /modes, dimension 'stray' has no coordinate"),
        (having("other/ensemble", "seed", "x"), "group /other/ensemble, attribute 'seed' is 'x'"),
    ],
)  # fmt: skip
def test_the_first_violation_is_named(damage, message, written, tmp_path):
    path = tmp_path / "damaged.nc"
    shutil.copy(written, path)
    with netCDF4.Dataset(path, "a") as file:
        file.set_auto_maskandscale(False)
        damage(file)
    with pytest.raises(ValueError, match=message) as found:
        validate(path)
    assert str(found.value).startswith(f"{path}: ") and "\n" not in str(found.value)


def test_a_file_that_lost_bytes_is_no_sound_archive(written, tmp_path):
    content = written.read_bytes()
    for keep in (0, 100, len(content) // 2):
        (tmp_path / "cut.nc").write_bytes(content[:keep])
        with pytest.raises(ValueError, match=r"cut\.nc: "):
            validate(tmp_path / "cut.nc")


def test_further_variables_and_groups_are_allowed(written, tmp_path):
    path = tmp_path / "more.nc"
    tree = archive.read(written)
    mine = tree["ensemble"].to_dataset()
    mine["mine"] = mine.fate.copy().assign_attrs(long_name="my own", units="1")
    archive.write(path, {"ensemble": mine, "my_group": tree["modes"].to_dataset()})
    validate(path)
    assert unlisted(path) == ["/ensemble/mine"]


def test_an_archive_rewritten_with_unlimited_dimensions_is_sound(written, tmp_path):
    with xr.open_datatree(written, engine="netcdf4", decode_times=False) as tree:
        growing = {
            f"/{name}": sorted({"puzzle", "variation"} & set(tree[name].dims)) for name in tree.children
        }
        tree.load().to_netcdf(tmp_path / "u.nc", unlimited_dims=growing)
    assert validate(tmp_path / "u.nc") == validate(written)


def test_big_variables_are_checked_in_pieces(written, monkeypatch):
    whole = archive_rules.check(written)
    monkeypatch.setattr(archive_rules, "SLAB", 100)
    assert archive_rules.check(written) == whole


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_r_reads_it(written):
    script = """
    f <- ncdf4::nc_open(commandArgs(TRUE)[1])
    x <- ncdf4::ncvar_get(f, "ensemble/residual")
    cat(dim(x), ncdf4::ncatt_get(f, "ensemble/fate", "flag_meanings")$value, sprintf("%.17g", x[3, 2, 1]))
    """
    done = subprocess.run(["Rscript", "-e", script, written], capture_output=True, text=True, check=False)
    if "no package called" in done.stderr:
        pytest.skip("R has no package ncdf4")
    assert done.returncode == 0, done.stderr
    value = archive.read(written)["ensemble"].residual.values[0, 1, 2]
    assert done.stdout.split() == ["16", "12", "2", *schema.FATES, f"{value:.17g}"], (
        "R's dimensions are reversed"
    )


@pytest.mark.skipif(shutil.which("compliance-checker") is None, reason="needs pip install compliance-checker")
def test_the_cf_checker_finds_nothing(written, tmp_path):
    with xr.open_datatree(written, engine="netcdf4", decode_cf=False) as tree:
        for name in ("ensemble", "basins", "modes", "spectrum"):  # it checks files without groups
            tree[name].to_dataset().to_netcdf(tmp_path / f"{name}.nc")
            done = subprocess.run(
                ["compliance-checker", "--test=cf:1.11", tmp_path / f"{name}.nc"],
                capture_output=True, text=True, check=False,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )  # fmt: skip
            assert "All tests passed!" in done.stdout, done.stdout


def test_every_attribute_that_a_run_needs_to_be_repeated_is_there(written):
    about = archive.read(written)["ensemble"].attrs
    assert json.loads(about["tolerances"])["floor"] == at.Tolerances().floor
    assert {"seed", "noise", "dtype", "initial_law", "checkpoint_sha256"} <= set(about)
