"""`eqrlab export` and `eqrlab verify` as their user meets them."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.commands.basins import basins_command
from eqrlab.analyses.commands.compare import compare_command
from eqrlab.analyses.commands.diagnose import diagnose_command
from eqrlab.analyses.commands.export import export_command, verify_command
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import unlisted, validate
from eqrlab.attractors.streaming.export import status
from eqrlab.core import load
from eqrlab.datasets import bundled

SMALL = ["--limit", "2", "--restarts", "6", "--depth", "8", "--quiet"]


def run(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def checksums(path):
    import netCDF4

    with netCDF4.Dataset(path) as file:
        return {name: variable.sha256 for name, variable in file["ensemble"].variables.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "a.nc"
    done = run(
        export_command, "eqr-sudoku6", "--out", path, *SMALL, "--batch-size", 5, "--keep", "final_state"
    )
    assert done.exit_code == 0, done.output
    assert f"archive {path}: 2 puzzles, 6 restarts, depth 8" in done.output
    return path


def test_the_archive_is_that_of_sample_and_passes_the_validator(exported):
    found = archive.read(exported)["ensemble"].to_dataset()
    model, some = load("eqr-sudoku6"), bundled("sudoku6").take(slice(2))
    model.multiply("fastest")  # as the command does
    expected = at.sample(
        model, some.inputs, labels=some.labels, oracle=some.oracle, restarts=6, depth=8, batch_size=5,
        keep=("final_state",),
    )  # fmt: skip
    for name, variable in expected.variables.items():
        assert found[name].values.tobytes() == variable.values.tobytes(), name
    assert unlisted(exported) == []
    assert "sound, 1 group" in run(verify_command, exported).output


def test_a_run_is_repeated_from_its_archive_alone(exported, tmp_path):
    done = run(export_command, "--like", exported, "--out", tmp_path / "b.nc", "--quiet")
    assert done.exit_code == 0, done.output
    assert checksums(tmp_path / "b.nc") == checksums(exported)
    done = run(
        export_command, "--like", exported, "--out", tmp_path / "c.nc", "--depth", 3, "--limit", 1, "--quiet"
    )
    deeper = archive.read(tmp_path / "c.nc")["ensemble"]
    assert dict(deeper.sizes)["step"] == 3 and dict(deeper.sizes)["puzzle"] == 1 and done.exit_code == 0
    wrong = run(
        export_command, "trm-sudoku6", "--like", exported, "--out", tmp_path / "d.nc", "--depth", 2, "--quiet"
    )
    assert wrong.exit_code == 0, "another model on the same puzzles and seeds is what --like is for, too"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    for command, models, more in (
        (diagnose_command, ["eqr-sudoku6"], ["--limit", "1", *SMALL[2:], "--fixed"]),
        (compare_command, ["eqr-sudoku6", "trm-sudoku6"], [*SMALL, "--no-local"]),
        (basins_command, ["eqr-sudoku6"], ["--limit", "2", "--depth", "8", "--half-width", "0.4", "--quiet"]),
    ):
        done = run(command, *models, *more, "--out", folder)
        assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("name", ["diagnosis.nc", "compare.nc", "basins.nc"])
def test_every_archive_of_the_main_verbs_is_sound_and_listed(name, others):
    assert validate(others / name).checksums > 30
    assert unlisted(others / name) == []


def test_a_diagnosis_is_repeated_too(others, tmp_path):
    done = run(export_command, "--like", others / "diagnosis.nc", "--out", tmp_path / "e.nc", "--quiet")
    assert done.exit_code == 0, done.output
    old = archive.read(others / "diagnosis.nc")["ensemble"]
    new = archive.read(tmp_path / "e.nc")["ensemble"]
    for name in old.data_vars:
        np.testing.assert_array_equal(old[name].values, new[name].values, err_msg=name)


def test_a_diagnosis_of_sparse_residuals_is_repeated_with_all_of_them(tmp_path):
    done = run(diagnose_command, "eqr-sudoku6", *SMALL, "--no-local", "--no-checks", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    done = run(export_command, "--like", tmp_path / "diagnosis.nc", "--out", tmp_path / "e.nc", "--quiet")
    assert done.exit_code == 0, done.output
    old, new = (archive.read(tmp_path / name)["ensemble"] for name in ("diagnosis.nc", "e.nc"))
    measured = np.isfinite(old.residual.values)
    assert not measured.all() and np.isfinite(new.residual.values).all()
    np.testing.assert_array_equal(old.residual.values[measured], new.residual.values[measured])
    for name in ("update", "answer", "correct", "answer_entropy", "halt_logit"):
        np.testing.assert_array_equal(old[name].values, new[name].values, err_msg=name)


def test_the_estimate_is_exact_before_compression(exported, tmp_path):
    done = run(
        export_command,
        "eqr-sudoku6",
        "--out",
        tmp_path / "x.nc",
        *SMALL,
        "--keep",
        "final_state",
        "--estimate",
    )
    ensemble = archive.read(exported)["ensemble"].to_dataset()
    assert f"({sum(v.nbytes for v in ensemble.variables.values())} bytes)" in done.output.splitlines()[0]
    assert re.search(r"^time +about \d+ \w+ on this machine, one process$", done.output, re.MULTILINE)
    assert not (tmp_path / "x.nc").exists() and not (tmp_path / "x.nc.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "x.nc"], 2, "CKPT is required unless --like or --resume names it"),
        (["eqr-sudoku6", "--out", "x.nc", "--shard", "2/2"], 2, "'2/2' is not I/N with 0 <= I < N"),
        (["eqr-sudoku6", "--out", "x.nc", "--keep", "all"], 2, "'all' is not one of"),
        (["eqr-sudoku6"], 2, "Missing option '--out'"),
    ],
)
def test_wrong_usage_is_named(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(export_command, *arguments)
    assert done.exit_code == code and message in done.output
    assert list(tmp_path.iterdir()) == []


def command(*arguments):
    return [sys.executable, "-m", "eqrlab.analyses", "export", *map(str, arguments)]


LONG = ["--limit", 4, "--restarts", 400, "--depth", 8, "--batch-size", 16, "--quiet"]


@pytest.mark.slow
# of schedulers, of terminals that close, and Ctrl-C
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_export_says_how_to_go_on(how, tmp_path):
    path = tmp_path / "a.nc"
    with subprocess.Popen(
        command("eqr-sudoku6", "--out", path, *LONG),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        while not list(tmp_path.glob("a.nc.parts/part-*")):
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.05)
        child.send_signal(how)
        said = child.stderr.read()
    assert child.returncode == 128 + how
    done = status(path)
    assert (
        f"batches are kept; go on with eqrlab export --out {path} --resume" in said and said.count("\n") == 1
    )
    assert f"{done.done} of 100" in said and 0 < done.done < 100
    assert "unfinished" in run(verify_command, path).output
    left = run(export_command, "--out", path, "--resume", "--estimate")
    assert left.exit_code == 0 and "archive" in left.output, "the settings are known without CKPT"


def torchrun(path, *arguments, processes=2):
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            "-m", "eqrlab.analyses", "export", "eqr-sudoku6", "--out", str(path), *map(str, arguments),
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_write_the_archive_of_one(exported, tmp_path):
    done = torchrun(tmp_path / "a.nc", *SMALL, "--batch-size", 5, "--keep", "final_state")
    assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "a.nc") == checksums(exported)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
