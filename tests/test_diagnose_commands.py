"""`eqrlab diagnose`: what it writes, and that misuse ends in one line with nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eqrlab.analyses.commands import diagnose as diagnose_commands
from eqrlab.attractors.results import archive, schema
from eqrlab.core import build, save
from tests.command_line import inside, refused
from tests.core_models import tiny_file

PUZZLES = [  # 4x4, one solution each
    ("1234341223414.23", "1234341223414123"),
    ("12343412.3414123", "1234341223414123"),
    ("123434122341.123", "1234341223414123"),
]


def eqrlab(*arguments, **options):
    command = [sys.executable, "-m", "eqrlab.analyses", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory):
    path = tmp_path_factory.mktemp("puzzles") / "four.csv"
    path.write_text("puzzle,solution\n" + "".join(f"{p},{s}\n" for p, s in PUZZLES))
    return path


def test_a_diagnosis_prints_a_verdict_and_writes_archive_and_report(checkpoint, puzzles, tmp_path):
    out = tmp_path / "out"
    run = eqrlab(
        "diagnose", checkpoint, "--puzzles", puzzles, "--restarts", 6, "--depth", 9, "--out", out, "--quiet"
    )
    assert run.returncode == 0, run.stderr
    assert "tiny: 3 puzzles of four.csv, 6 restarts, depth 9" in run.stdout and "correct mass" in run.stdout
    assert sorted(p.name for p in out.iterdir()) == ["diagnosis.nc", "report.html"]
    tree = archive.read(out / "diagnosis.nc")
    assert {"ensemble", "basins", "alignment", "modes"} <= set(tree.children)
    assert dict(tree["ensemble"].sizes)["restart"] == 6
    attributes = tree["ensemble"].attrs
    assert attributes["oracle"] == "sudoku validity" and len(attributes["checkpoint_sha256"]) == 64
    again = eqrlab("report", out / "diagnosis.nc", "--out", tmp_path / "again.html")
    assert (
        again.returncode == 0 and (tmp_path / "again.html").read_text() == (out / "report.html").read_text()
    )


def test_two_checkpoints_of_one_name_are_kept_apart(checkpoint, puzzles, tmp_path):
    run = inside("diagnose", checkpoint, checkpoint, "--puzzles", puzzles, "--restarts", 3, "--depth", 4,
                 "--out", tmp_path, "--quiet")  # fmt: skip
    assert run.exit_code == 0, run.output
    tree = archive.read(tmp_path / "diagnosis.nc")
    np.testing.assert_array_equal(tree["ensemble"].residual, tree["tiny-2/ensemble"].residual)


def test_a_family_with_one_stored_start_says_how_it_was_started(puzzles, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "stored.safetensors"
    save(build("trm", {"vocab_size": 6, "seq_len": 16, "hidden_size": 16, "num_heads": 2}, "sudoku4"), path)
    common = ("diagnose", path, "--puzzles", puzzles, "--restarts", 5, "--depth", 3, "--quiet")
    free, own = (inside(*common, "--out", tmp_path / s, "--starts", s) for s in ("random", "own"))
    assert "5 restarts, depth 3, from random states outside its training law" in free.output
    assert "1 restart, depth 3: it starts at one stored state" in own.output
    ensemble = archive.read(tmp_path / "random" / "diagnosis.nc")["ensemble"]
    assert ensemble.attrs["initial_law"] == "random_initial"


def bad_inputs():
    header = "puzzle,solution\n"
    first = f"{PUZZLES[0][0]},{PUZZLES[0][1]}\n"
    yield "wrong length", header + first + "1234,1234\n", "bad.csv:3"
    yield "illegal character", header + "123x341223414.23,1234341223414123\n", "bad.csv:2"
    yield "contradictory givens", header + "11..............,1234341223414123\n", "bad.csv:2"
    yield "solution disagrees", header + "2...............,1234341223414123\n", "bad.csv:2"
    yield "several solutions", header + first + "1...............,1234341223414123\n", "bad.csv:3"
    yield "missing column", "a,b\n1,2\n", "bad.csv"
    yield "empty", "", "bad.csv"
    yield "another task", header + "." * 81 + "," + "\n", "bad.csv"


@pytest.mark.parametrize(("kind", "text", "place"), list(bad_inputs()), ids=lambda v: str(v)[:18])
def test_bad_puzzles_end_in_one_line_that_names_the_place(kind, text, place, checkpoint, tmp_path):
    (tmp_path / "bad.csv").write_text(text)
    out = tmp_path / "out"
    refused(inside("diagnose", checkpoint, "--puzzles", tmp_path / "bad.csv", "--out", out, "--quiet"), place)
    assert not out.exists()


def test_bad_checkpoints_end_in_one_line(checkpoint, puzzles, tmp_path):
    whole = checkpoint.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("# not a model\n")
    for name in ("cut.safetensors", "text.pth", "missing.pth"):
        arguments = ["diagnose", tmp_path / name, "--puzzles", puzzles, "--out", tmp_path / "out", "--quiet"]
        refused(inside(*arguments), name)
        assert not (tmp_path / "out").exists()
    run = eqrlab(*arguments)
    assert run.returncode == 1 and len(run.stderr.strip().splitlines()) == 1 and name in run.stderr, (
        run.stderr
    )


@pytest.mark.parametrize(
    "option",
    [
        ("--depth", 0),
        ("--restarts", 0),
        ("--noise", -1),
        ("--dtype", "float8"),
        ("--nonsense",),
        ("--seed", 2**63),
        ("--restarts", 10**20),
        ("--depth", 10**20),
    ],
)
def test_wrong_usage_exits_with_2(option, checkpoint, tmp_path):
    run = inside("diagnose", checkpoint, *option, "--out", tmp_path / "out")
    assert run.exit_code == 2 and isinstance(run.exception, SystemExit) and not (tmp_path / "out").exists()


def test_an_unwritable_output_is_found_before_the_run(checkpoint, puzzles, tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = eqrlab("diagnose", checkpoint, "--puzzles", puzzles, "--out", tmp_path / "file", "--quiet")
    assert run.returncode == 1 and len(run.stderr.strip().splitlines()) == 1
    assert f"{tmp_path / 'file'}: cannot write there" in run.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_name_that_is_no_text_is_refused_before_the_run(checkpoint, puzzles, tmp_path):
    out = tmp_path / "bad\udcff"
    refused(inside("diagnose", checkpoint, "--puzzles", puzzles, "--out", out, "--quiet"), "not UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_runs_that_leave_the_finite_numbers_do_not_end_a_diagnosis(puzzles, tmp_path, monkeypatch):
    """From half of the starts z -> z / 2 + z^3 leads to infinity, from the others to 0, a wrong answer."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom eqrlab.core import MapSystem\n"
        "law = lambda x, g: torch.where(torch.rand((len(x), 1), generator=g) < 0.5, 2.0, 0.2)\n"
        "half = MapSystem(lambda z, x: z / 2 + z**3, law, lambda z, x: x.long())\n"
    )
    monkeypatch.chdir(tmp_path)
    run = inside(
        "diagnose", "mine.py:half", "--puzzles", puzzles, "--depth", 32, "--out", tmp_path / "out", "--quiet"
    )
    assert run.exit_code == 0, run.output
    tree = archive.read(tmp_path / "out" / "diagnosis.nc")
    lost = int((tree["ensemble"].fate == schema.FATES.index("nonfinite")).sum())
    told = " ".join(run.output.split())
    assert (
        0 < lost
        and f"{lost} runs of " in told
        and f"ended at no state: {lost} with values that are not finite" in told
    )


@pytest.mark.slow
def test_a_killed_diagnosis_leaves_no_archive_and_the_next_run_succeeds(checkpoint, puzzles, tmp_path):
    out = tmp_path / "out"
    arguments = ["diagnose", checkpoint, "--puzzles", puzzles, "--out", out, "--quiet", "--restarts", 64]
    command = [sys.executable, "-m", "eqrlab.analyses", *map(str, arguments), "--depth", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    while not out.exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(out.iterdir()) == []
    assert eqrlab(*arguments, "--depth", 4).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["diagnosis.nc", "report.html"]


def test_local_dynamics_of_many_puzzles_are_examined_only_when_asked_for(
    checkpoint, puzzles, tmp_path, monkeypatch
):
    monkeypatch.setattr(diagnose_commands, "LOCAL", 2)
    few = "--restarts 2 --depth 8 --quiet --no-checks".split()
    common = [str(checkpoint), "--puzzles", str(puzzles), *few]
    for asked, examined in (([], False), (["--local"], True)):
        out = tmp_path / str(examined)
        run = CliRunner().invoke(diagnose_commands.diagnose_command, [*common, *asked, "--out", str(out)])
        assert run.exit_code == 0, run.output
        assert ("Local dynamics left out with more than 2 puzzles" in run.output) != examined
        assert ("spectrum" in archive.read(out / "diagnosis.nc").children) == examined
