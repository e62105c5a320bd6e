"""A system of one's own on puzzles without solutions: verbs that need none work, the others refuse before any run."""

import pytest

from eqrlab import attractors as at
from eqrlab.attractors.ensemble import run as runs
from eqrlab.attractors.results.validate import validate
from tests.command_line import inside, refused

OWN = """
import torch
from eqrlab.core import MapSystem

system = MapSystem(
    lambda z, x: torch.tanh(2 * z),
    lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64),
    decode=lambda z, x: (z > 0).long(),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    (folder / "puzzles.txt").write_text("1 2\n2 3\n")
    return folder


def given(folder, verb, *more):
    return verb, f"{folder / 'own.py'}:system", "--puzzles", folder / "puzzles.txt", *more


@pytest.mark.parametrize("verb", ["diagnose", "compare", "fates", "scale", "dynamics"])
def test_verbs_that_judge_refuse_before_they_run(verb, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.Run, "of", lambda *a, **k: pytest.fail("something was run"))
    second = [f"{folder / 'own.py'}:system"] if verb == "compare" else []
    text = refused(inside(*given(folder, verb, *second, "--out", tmp_path / "out")), "has no solutions")
    assert f"`eqrlab {verb}`" in text and "`eqrlab basins`" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("plane", ["--resolution", 8, "--depth", 16]),
        ("spectrum", ["--limit", 1]),
        ("lyapunov", ["-k", 4, "--limit", 1, "--steps", 20]),
        ("fixed-points", ["--limit", 1]),
    ],
)
def test_the_others_write_sound_archives(verb, options, folder, tmp_path):
    done = inside(*given(folder, verb, *options, "--quiet", "--out", tmp_path))
    assert done.exit_code == 0, (done.output, done.exception)
    (file,) = tmp_path.glob("*.nc")
    validate(file)
    assert "wrong" not in done.output and "right" not in done.output


def test_an_archive_does_not_make_a_python_file_run(folder, tmp_path):
    old, new = tmp_path / "old.nc", tmp_path / "new.nc"
    small = ("--restarts", 4, "--depth", 8, "--quiet")
    assert inside(*given(folder, "export", "--out", old, *small)).exit_code == 0
    refused(inside("export", "--like", old, "--out", new), "own.py:system", "Python file", "give it as CKPT")
    again = inside("export", f"{folder / 'own.py'}:system", "--like", old, "--out", new, "--quiet")
    assert again.exit_code == 0, again.output
    one, two = (at.read(path)["ensemble"] for path in (old, new))
    assert one.residual.equals(two.residual)


def test_what_only_checkpoints_have_is_refused_in_a_sentence(folder, tmp_path):
    own = f"{folder / 'own.py'}:system"
    for verb, *more in (("info",), ("push", "--out", tmp_path / "card")):
        refused(inside(verb, own, *more), f"{verb} is for checkpoints")
    for option in ("--compile", "--starts=random"):
        run = inside(*given(folder, "export", option, "--out", tmp_path / "runs.nc"))
        refused(run, f"{option.replace('=', ' ')} is for checkpoints")
    assert not list(tmp_path.iterdir())


def test_systems_of_ones_own_are_followed(folder, tmp_path):
    own = f"{folder / 'own.py'}:system"
    few = ("--limit", 1, "--restarts", 4, "--depth", 32, "--quiet", "--out", tmp_path)
    done = inside("continuation", own, own, "--puzzles", folder / "puzzles.txt", *few)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "2 values of the checkpoint, 1 puzzle" in done.output and "not known" in done.output
