"""`info` and a two-run diagnosis on files of exactly the shapes of the public checkpoints, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eqrlab.datasets import build, write_csv
from tests.benchmarks.ledger import record
from tests.public_files import PUBLIC, write

pytestmark = pytest.mark.benchmark
DEPTH = 3
_ROOT = Path(__file__).resolve().parents[2]


def measured(*arguments):
    """Run the command line; return its output, seconds of processor and wall time, and peak memory in MB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT / "src")}
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "eqrlab.analyses", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors
    return (
        output,
        errors,
        usage.ru_utime + usage.ru_stime,
        time.perf_counter() - began,
        usage.ru_maxrss / 1024,
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_public_shapes(name, tmp_path, shared):
    public = PUBLIC[name]
    path = write(tmp_path, name)
    if public.bytes:
        assert abs(path.stat().st_size - public.bytes) < 5000, "the file is of the published size"
    given = [] if public.yaml else ["--config", path.parent / "given.yaml"]
    told, _, cpu, _, memory = measured("info", path, *given, "--json")
    told = json.loads(told)
    assert told["family"] == public.family and told["config"]["seq_len"] == public.cells
    puzzles, more = tmp_path / "puzzles.csv", []
    if public.tokens == 12:
        puzzles, more = shared / "conformance/data/arc_small", ["--blank-identifiers"]
    else:
        write_csv(puzzles, build({11: "sudoku9", 6: "maze30"}[public.tokens], 1, seed=0))
    run = [
        "diagnose",
        path,
        *given,
        "--puzzles",
        puzzles,
        *more,
        "--limit",
        1,
        "--restarts",
        2,
        "--depth",
        DEPTH,
    ]
    run += ["--no-local", "--no-checks", "--out", tmp_path / "out"]
    output, said, seconds, _, peak = measured(*run)
    assert "2 restarts" in output and (tmp_path / "out" / "report.html").exists()
    estimate = next(line for line in said.replace("\r", "\n").splitlines() if line.startswith("about "))
    record(
        "public files",
        f"{name} ({public.repository})",
        file_MB=f"{path.stat().st_size / 1e6:,.0f}",
        parameters=f"{told['parameters']:,}",
        state=f"{told['state_dimension']:,}",
        info=f"{cpu:.1f} s, {memory:.0f} MB",
        diagnosis=f"{seconds:.0f} s, {peak:.0f} MB",
        said_before=estimate.split(" for ")[0],
    )
