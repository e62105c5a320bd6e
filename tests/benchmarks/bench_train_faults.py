"""Faults injected into `eqrlab train`: kills at random moments, SIGINT, a full disk, a folder that cannot be written.

Each run is a process of its own, forked from this one after everything is imported, so that its life is nearly all
training and saving.  Prints a table: what was done to the run, what was lost, whether continuing equals the
uninterrupted run bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from eqrlab.analyses.cli import cli
from eqrlab.core import CheckpointError
from eqrlab.core.checkpoints.tensors import read_tensors
from eqrlab.datasets import bundled, write_csv
from tests.benchmarks.forked import ended, row, start

pytestmark = pytest.mark.benchmark
STEPS, SAVE_EVERY, KILLS = 20, 1, int(os.environ.get("EQRLAB_KILLS", "40"))
TIMING = "steps_per_second"


def options(data: Path, out: Path) -> list[str]:
    tiny = "--hidden 16 --heads 2 --layers 1 --batch-size 4 --halt-max-steps 2 --depth 2 --threads 1 --quiet"
    files = f"--puzzles {data} --test-puzzles {data} --evaluate-every 10 --save-every {SAVE_EVERY} --steps {STEPS}"
    return ["train", "sudoku6", "--out", str(out), *tiny.split(), *files.split()]


def step_on_disk(out: Path) -> int:
    state = out / "state.safetensors"
    return read_tensors(state)[1]["step"] if state.exists() else 0


def log_of(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != TIMING} for line in lines]


def equal(one: Path, other: Path) -> bool:
    for name in ("state.safetensors", "model.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        if set(a) != set(b) or not all(torch.equal(a[k], b[k]) for k in a):
            return False
    return log_of(one) == log_of(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Training data, and the run that nothing happens to, with how long it took."""
    folder = tmp_path_factory.mktemp("faults")
    data = folder / "puzzles.csv"
    write_csv(data, bundled("sudoku6", "train").take(slice(12)))
    CliRunner().invoke(
        cli, [*options(data, folder / "warm"), "--steps", "2"]
    )  # everything is imported before the forks
    began = time.monotonic()
    assert ended(start(options(data, folder / "whole"), folder / "log")) == 0
    return data, folder / "whole", time.monotonic() - began


def test_kills_at_random_moments(whole, tmp_path):
    data, reference, seconds = whole
    moments = random.Random(0)
    row(
        "run",
        "killed after (s)",
        "steps on disk then",
        "torn or left behind",
        "end equals the uninterrupted run",
    )
    row("---", "---", "---", "---", "---")
    kills, runs = 0, 0
    while kills < KILLS:
        runs += 1
        out, done = tmp_path / f"run{runs}", False
        while not done:
            resume = ["--resume"] if out.exists() else []
            wait = moments.random() * seconds / 3 if kills < KILLS else 1e9
            number = start([*options(data, out), *resume], tmp_path / f"log{runs}")
            stop = time.monotonic() + wait
            while time.monotonic() < stop and not (done := os.waitpid(number, os.WNOHANG) != (0, 0)):
                time.sleep(0.002)
            if done:
                break
            os.kill(number, signal.SIGKILL)
            code = ended(number)
            if code == 0:  # it was done a moment before
                break
            assert code == -signal.SIGKILL
            kills += 1
            torn = []
            for name in ("state.safetensors", "model.safetensors"):
                try:
                    if (out / name).exists():
                        read_tensors(out / name)
                except CheckpointError:
                    torn.append(name)
            left = len(list(out.glob(".*.tmp"))) if out.exists() else 0
            assert not torn
            row(
                runs,
                f"{wait:.2f}",
                f"{step_on_disk(out)} of {STEPS}",
                f"nothing torn, {left} temporary",
                "...",
            )
        same = equal(out, reference)
        assert not list(out.glob(".*.tmp")), "a continued run clears what killed ones left behind"
        row(runs, "to the end", f"{step_on_disk(out)} of {STEPS}", "nothing", "yes" if same else "NO")
        assert same
    print(f"{kills} kills in {runs} runs")


def test_sigint_stops_cleanly_and_continues(whole, tmp_path):
    data, reference, seconds = whole
    moments = random.Random(1)
    for i in range(3):
        out, log = tmp_path / f"int{i}", tmp_path / f"log{i}"
        number = start(options(data, out), log)
        while not (out / "log.jsonl").exists():  # signals are caught once training has begun
            time.sleep(0.002)
        time.sleep(moments.random() * seconds / 2)
        os.kill(number, signal.SIGINT)
        code = ended(number)
        said = log.read_text().splitlines()[-1]
        if code and step_on_disk(out) < STEPS:
            assert code == 130 and "with all saved; continue with: eqrlab train sudoku6" in said
        assert ended(start([*options(data, out), "--resume"], log)) == 0
        row(
            f"SIGINT {i + 1}",
            f"exit {code}",
            said[:60],
            "nothing lost",
            "yes" if equal(out, reference) else "NO",
        )
        assert equal(out, reference)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB, mounted for the test."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_run_continues_when_there_is_room(whole, small_disk, tmp_path):
    data, reference, _ = whole
    out, log = small_disk / "run", tmp_path / "log"
    full = small_disk / "ballast"
    number = start(options(data, out), log)
    while step_on_disk(out) < 6:
        time.sleep(0.005)
    with contextlib.suppress(OSError), open(full, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    code = ended(number)
    said = log.read_text().splitlines()[-1]
    assert code == 1 and said.startswith("eqrlab: ") and "No space left" in said, said
    reached = step_on_disk(out)
    assert reached >= 6 and reached % SAVE_EVERY == 0
    full.unlink()
    assert ended(start([*options(data, out), "--resume"], log)) == 0
    row(
        "full disk",
        f"exit {code}",
        said[:60],
        f"state of step {reached} kept",
        "yes" if equal(out, reference) else "NO",
    )
    assert equal(out, reference)


def test_a_folder_that_cannot_be_written_is_one_line(whole, tmp_path):
    data, _, _ = whole
    place, log = tmp_path / "readonly", tmp_path / "log"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        code = ended(start(options(data, place / "run"), log))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    said = log.read_text().splitlines()[-1]
    row("read-only folder", f"exit {code}", said[:80], "nothing begun", "")
    assert code == 1 and said.startswith("eqrlab: ") and "Read-only file system" in said
