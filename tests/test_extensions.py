"""One file adds a family, a task, an analysis or a verb: in the folder for it, or in another package by an entry point.

The files are the examples of CONTRIBUTING.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses import commands
from eqrlab.analyses import verbs as verbs_module
from eqrlab.analyses.cli import cli
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.core import build, families, load, models, plugins, save
from eqrlab.core.models.families import built_in, family_named
from eqrlab.datasets import bundled, oracle, read_puzzles, registry, tasks
from eqrlab.datasets.registry import lookup

GUIDE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
if not GUIDE.exists():
    pytest.skip("CONTRIBUTING.md is not part of this installation", allow_module_level=True)
FILES = {
    Path(path): text
    for path, text in re.findall(
        r"^```python\n# (\S+)\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
    )
}
FAMILY, TASK, ANALYSIS, VERB = (Path(p) for p in (
    "core/models/leaky.py", "datasets/registry/latin.py", "attractors/answers/flips.py", "analyses/commands/flips.py",
))  # fmt: skip
SIZES = {"vocab_size": 8, "seq_len": 36, "hidden_size": 16}


def forget():
    for cached in (built_in, verbs_module.verbs, lookup.families, lookup.task):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def forgotten():
    """Let no test see what another one added."""
    yield
    forget()
    for name in [
        name
        for name in sys.modules
        if name.endswith((".leaky", ".latin", ".flips", "commands.train")) or "eqrlab_more" in name
    ]:
        del sys.modules[name]


def add_file(package, path, tmp_path, monkeypatch):
    """Have one file of the guide in the folder of a package, without writing into it."""
    folder = tmp_path / package.__name__
    folder.mkdir()
    (folder / path.name).write_text(FILES[path])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    forget()


def add_package(tmp_path, monkeypatch, **entries):
    """Have an installed package `eqrlab_more` of these entry points, with the files of the guide as its modules."""
    package = tmp_path / "eqrlab_more"
    package.mkdir()
    (package / "__init__.py").touch()
    for path, text in FILES.items():
        (package / f"{path.parent.name}_{path.name}").write_text(text)
    about = tmp_path / "eqrlab_more-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: eqrlab-more\nVersion: 1.2\n")
    groups = (f"[eqrlab.{group}]\n" + "\n".join(lines) for group, lines in entries.items())
    (about / "entry_points.txt").write_text("\n".join(groups) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    return package


def leaky_is_a_family_like_any_other(tmp_path):
    model = build("leaky", {**SIZES, "rate": 0.25}, "sudoku6")
    inputs = bundled("sudoku6").take(slice(2)).inputs
    x = model.encode(torch.tensor(inputs))
    z = model.random_initial(x, torch.Generator().manual_seed(0))
    whole = build("leaky", {**SIZES, "rate": 1.0})
    whole.load_state_dict(model.state_dict())
    one = {"H_cycles": 1, "L_cycles": 1}  # one level update an outer step
    moved = [m.replace(**one).step(z, x) for m in (model, whole)]
    assert torch.allclose(moved[0], 0.75 * z + 0.25 * moved[1], atol=1e-6), "not the map of the example"
    save(model, tmp_path / "leaky.safetensors")
    again = load(tmp_path / "leaky.safetensors")
    assert (again.family, again.config.rate) == ("leaky", 0.25)
    ensemble = at.sample(again, inputs, restarts=2, depth=3)
    assert ensemble.attrs["family"] == "leaky"


def test_the_examples_of_the_guide_have_at_most_ten_lines_of_code():
    for path in (FAMILY, TASK, ANALYSIS, VERB):
        lines = [line for line in FILES[path].splitlines() if line.strip()]
        code = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(code) <= 12 and len(lines) - len(code) <= 5, path


def test_a_family_is_one_file_in_core_models(tmp_path, monkeypatch):
    add_file(models, FAMILY, tmp_path, monkeypatch)
    assert "leaky" in built_in() and "leaky" in families()
    leaky_is_a_family_like_any_other(tmp_path)


def test_a_family_may_come_from_another_package(tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, families=["leaky = eqrlab_more.models_leaky:Leaky"])
    assert families()[-1] == "leaky" and "leaky" not in built_in()
    assert not [name for name in sys.modules if "eqrlab_more" in name], (
        "listing the names imported the package"
    )
    leaky_is_a_family_like_any_other(tmp_path)


def test_a_family_of_another_package_is_trained_by_the_command(tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, families=["leaky = eqrlab_more.models_leaky:Leaky"])
    sys.modules.pop("eqrlab.analyses.commands.train", None)  # which asks for the families when it is imported
    options = (
        "--family leaky --hidden 16 --steps 2 --batch-size 4 --quiet --device cpu --evaluate-every 9 --out"
    )
    done = CliRunner().invoke(cli, ["train", "sudoku6", *options.split(), str(tmp_path / "run")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert load(tmp_path / "run" / "model.safetensors").family == "leaky"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            "lost = eqrlab_more.gone:Leaky",
            "family 'lost' of eqrlab-more 1.2 cannot be imported from eqrlab_more.gone",
        ),
        ("lost = eqrlab_more.models_leaky:Gone", "cannot be imported from eqrlab_more.models_leaky:Gone"),
        (
            "lost = eqrlab_more.broken:Leaky",
            "cannot be imported from eqrlab_more.broken:Leaky: name 'gone' is not",
        ),
        (
            "lost = eqrlab_more.models_leaky:Leaky",
            "must be a subclass of eqrlab.core.Reasoner with family = 'lost'",
        ),
        ("lost = eqrlab_more.answers_flips:flips", "must be a subclass of eqrlab.core.Reasoner"),
    ],
)
def test_what_is_no_family_is_refused_in_a_sentence(entry, reason, tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, families=[entry])
    (tmp_path / "eqrlab_more" / "broken.py").write_text("gone\n")
    with pytest.raises(ValueError, match=re.escape(reason)):
        family_named("lost")


def test_another_package_cannot_replace_a_family_a_verb_or_an_analysis(tmp_path, monkeypatch):
    add_package(
        tmp_path, monkeypatch, families=["eqr = eqrlab_more.models_leaky:Leaky"],
        commands=["info = eqrlab_more.commands_flips:flips_command"],
        analyses=["basins = eqrlab_more.answers_flips:flips", "lost = eqrlab_more.gone:flips"],
    )  # fmt: skip
    assert at.basins.__module__ == "eqrlab.attractors.landscape.basins"
    with pytest.raises(ValueError, match=r"analysis 'lost' of eqrlab-more 1\.2 cannot be imported from"):
        at.lost  # noqa: B018
    assert family_named("eqr").__name__ == "EqR" and families().count("eqr") == 1
    assert verbs_module.command_of("info").name == "info" and verbs_module.installed() == {}


def latin_is_a_task_like_any_other(tmp_path):
    square = ["".join(str((row + column) % 5 + 1) for column in range(5)) for row in range(5)]
    swapped = [square[1], square[0], *square[2:]]
    lines = [f"{'.....' + ''.join(s[1:])},{''.join(s)}" for s in (square, swapped)]
    (tmp_path / "latin.csv").write_text("\n".join(["puzzle,solution", *lines]) + "\n")
    puzzles = read_puzzles(tmp_path / "latin.csv")
    assert puzzles.task == "latin5" and "latin5" in tasks()
    judge = oracle("latin5")
    assert judge(puzzles.inputs, puzzles.labels).all()
    wrong = puzzles.labels.copy()
    wrong[:, :5] = 2
    assert not judge(puzzles.inputs, wrong).any() and not judge(puzzles.labels, puzzles.labels[::-1]).any()
    options = "--hidden 16 --steps 2 --batch-size 4 --quiet --device cpu --no-symmetries --puzzles"
    done = CliRunner().invoke(
        cli,
        ["train", "latin5", *options.split(), str(tmp_path / "latin.csv"), "--out", str(tmp_path / "run")],
    )
    assert done.exit_code == 0, (done.output, done.exception)
    model = load(tmp_path / "run" / "model.safetensors")
    assert model.task == "latin5"
    found = at.sample(model, puzzles.inputs, oracle=judge, restarts=1, depth=2)
    assert found.attrs["oracle"] == "Latin square"


def test_a_task_is_one_file_in_datasets(tmp_path, monkeypatch):
    add_file(registry, TASK, tmp_path, monkeypatch)
    latin_is_a_task_like_any_other(tmp_path)


def test_a_task_may_come_from_another_package(tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, tasks=["latin5 = eqrlab_more.registry_latin:TASK"])
    latin_is_a_task_like_any_other(tmp_path)


def test_an_analysis_is_one_file_whose_result_is_archived_and_verified(tmp_path, monkeypatch):
    assert not hasattr(at, "flips")
    add_package(tmp_path, monkeypatch, analyses=["flips = eqrlab_more.answers_flips:flips"])
    assert not [name for name in sys.modules if "eqrlab_more" in name], "imported before it is asked for"
    flips = at.flips
    right = xr.DataArray([[[1, 0, 0, 1], [0, 0, 0, 1]]], dims=("puzzle", "restart", "step")).astype(bool)
    assert flips(xr.Dataset({"correct": right}))["flips"].values.tolist() == [[2, 1]]
    few = bundled("sudoku6").take(slice(2))
    run = at.Run.of(load("eqr-sudoku6"), few.inputs, labels=few.labels, restarts=3, depth=4)
    ensemble = run.sample()
    archive.write(tmp_path / "flips.nc", {"ensemble": ensemble, "flips": flips(ensemble)})
    assert validate(tmp_path / "flips.nc").groups == 2
    with xr.open_datatree(tmp_path / "flips.nc") as tree:
        assert tree["flips"]["flips"].dims == ("puzzle", "restart")
        assert tree["flips"].attrs["checkpoint"] == ensemble.attrs["checkpoint"]


def test_a_verb_is_one_file_in_analyses_commands(tmp_path, monkeypatch):
    add_file(commands, VERB, tmp_path, monkeypatch)
    told = CliRunner().invoke(cli, ["--help"])
    assert re.search(r"^  flips +Count how often answers turn\b", told.output, re.MULTILINE), told.output
    the_verb_counts(tmp_path, monkeypatch)


def test_a_verb_may_come_from_another_package(tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, commands=["flips = eqrlab_more.commands_flips:flips_command"])
    told = CliRunner().invoke(cli, ["--help"])
    assert "Verbs of other packages" in told.output and "flips  From eqrlab-more 1.2." in told.output
    assert not [name for name in sys.modules if "eqrlab_more" in name], "help imported the package"
    the_verb_counts(tmp_path, monkeypatch)


def the_verb_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["flips", "eqr-sudoku6", "--limit", "2", "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert re.fullmatch(r"\d+\.\d+ turns a run\n", done.output)


def test_a_verb_that_cannot_be_imported_is_a_reason(tmp_path, monkeypatch):
    add_package(
        tmp_path,
        monkeypatch,
        commands=["lost = eqrlab_more.gone:it", "odd = eqrlab_more.answers_flips:flips"],
    )
    with pytest.raises(
        ValueError, match=r"verb 'lost' of eqrlab-more 1\.2 cannot be imported from eqrlab_more\.gone"
    ):
        verbs_module.command_of("lost")
    with pytest.raises(ValueError, match=r"verb 'odd' of eqrlab-more 1\.2: .* must be a command of click"):
        verbs_module.command_of("odd")


def test_every_verb_is_found_under_its_name_with_the_first_sentence_of_its_help():
    for name, verb in verbs_module.verbs().items():
        command = verbs_module.command_of(name)
        assert command.name == name
        assert " ".join(command.help.split()).startswith(verb.summary)
        assert len(verb.summary) <= 64, "does not fit beside the name"


def test_entry_points_are_listed_by_name(tmp_path, monkeypatch):
    add_package(tmp_path, monkeypatch, families=["b = x:y", "a = x:y"])
    assert list(plugins.installed("eqrlab.families")) == ["a", "b"]
    assert plugins.installed("eqrlab.nothing") == {}
