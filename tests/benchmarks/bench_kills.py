"""Every long verb killed at random moments: SIGKILL, SIGTERM, SIGHUP and SIGINT, one after the other.

Each run is a process of its own, forked from this one after everything is imported, so that its life is nearly all
work.  After every kill what is there is read and checked; then the same command goes on, with --resume where there is
one, until it ends, and its results are compared with those of a run that nothing happened to.  EQRLAB_KILLS sets the
number of kills of each verb.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.core.checkpoints.tensors import read_tensors
from tests.benchmarks.bench_train_faults import equal
from tests.benchmarks.forked import ended, row, start
from tests.benchmarks.ledger import record
from tests.core_models import tiny_file

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
KILLS = int(os.environ.get("EQRLAB_KILLS", "50"))
HOW = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PUZZLES = "puzzle,solution\n1234341223414.23,1234341223414123\n12343412.3414123,1234341223414123\n"
SAMPLED = ["--restarts", "16", "--depth", "24", "--no-local", "--quiet"]
TINY = (
    "--hidden 16 --heads 2 --layers 1 --batch-size 4 --halt-max-steps 2 --depth 2 --threads 1 --quiet".split()
)
VERBS = {  # name, arguments before --out, arguments that go on, result
    "diagnose": (["diagnose", "{one}", "{two}", "{three}", *SAMPLED], ["--resume"], "diagnosis.nc"),
    "compare": (["compare", "{one}", "{two}", "{three}", *SAMPLED], ["--resume"], "compare.nc"),
    "basins": (["basins", "{one}", "--depth", "24", "--max-restarts", "256", "--quiet"], [], "basins.nc"),
    "export": (["export", "{one}", "--restarts", "300", "--depth", "32", "--batch-size", "16", "--quiet"],
               ["--resume"], "a.nc"),
    "train": (["train", "sudoku4", "--test-puzzles", "{puzzles}", "--steps", "40", "--save-every", "1",
               "--evaluate-every", "10", *TINY], ["--resume"], "model.safetensors"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Three models and two puzzles."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "four.csv").write_text(PUZZLES)
    found = {"puzzles": str(folder / "four.csv")}
    for seed, name in enumerate(("one", "two", "three")):
        found[name] = str(tiny_file(folder / f"{name}.safetensors", seed=seed))
    return found


def values(path: Path) -> dict:
    """Return the values of an archive; texts, which may be stored in two ways, as they read."""
    found = {}
    for node in archive.read(path).subtree:
        for name, variable in node.to_dataset().variables.items():
            read = variable.values
            found[node.path, str(name)] = (
                [str(v) for v in read.ravel()] if read.dtype.kind in "OU" else read.tobytes()
            )
    return found


def there(out: Path) -> dict[str, int]:
    """Check every file that is there under its name, and count what was completed: nothing of it may be torn."""
    found: Counter[str] = Counter()
    for file in out.rglob("*"):
        if file.name.startswith(".") or not file.is_file():
            continue
        if file.suffix == ".nc":
            validate(file)
            found["archives"] += 1
            found["parts"] += file.parent != out
        elif file.suffix == ".safetensors" and not file.name.startswith("part-"):
            _, header = read_tensors(file)
            found["steps"] = max(found["steps"], header.get("step", 0))
        elif file.name.startswith("part-"):
            found["parts"] += 1
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_random_moments(verb, files, tmp_path):
    arguments, resume, name = VERBS[verb]
    line = [a.format(**files) for a in (*arguments, "--puzzles", "{puzzles}")]

    def given(out: Path) -> list[str]:
        return [*line, "--out", str(out / name if verb == "export" else out)]

    whole, log = tmp_path / "whole", tmp_path / "log"
    assert ended(start(given(tmp_path / "warm"), log)) == 0, log.read_text()
    began = time.monotonic()
    assert ended(start(given(whole), log)) == 0, log.read_text()
    seconds = time.monotonic() - began
    chance, kills, codes, runs, lost, kept = random.Random(0), 0, Counter(), 0, 0, 0
    while kills < KILLS or (tmp_path / "out").exists():
        out, before = tmp_path / "out", there(tmp_path / "out")
        begun = verb != "train" or (out / "options.json").exists()
        child = start([*given(out), *(resume if begun and out.exists() else [])], log)
        done = False
        if kills < KILLS:
            stop = time.monotonic() + chance.uniform(0, 0.8 * seconds)
            while time.monotonic() < stop and not done:
                done = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
                time.sleep(0.002)
            if not done:
                os.kill(child, HOW[kills % len(HOW)])
        code = ended(child)
        if code:
            kills += 1
            codes[code] += 1
            assert code in (-9, 129, 130, 143, -1, -2, -15), (code, log.read_text()[-2000:])
            now = there(out) if out.exists() else Counter()
            for what in ("parts", "steps"):
                complete = (out / name).exists() and not now["parts"]
                lost += max(before[what] - now[what], 0) if not (what == "parts" and complete) else 0
                kept = max(kept, now[what])
        else:
            runs += 1
            assert equal(out, whole) if verb == "train" else values(out / name) == values(whole / name)
            left = {p.name for p in out.iterdir()} - {p.name for p in whole.iterdir()}
            assert all(p.startswith(".") for p in left), left
            shutil.rmtree(out)
    said = log.read_text()
    assert "Traceback" not in said
    row(verb, kills, dict(codes), f"{runs} ends, all equal", f"lost {lost}")
    record("kills", f"`eqrlab {verb}`", kills=kills, how="SIGKILL, SIGTERM, SIGHUP, SIGINT in turn",
           lost=f"{lost} completed parts or steps",
           outcome=f"{runs} runs ended, all equal to the uninterrupted one")  # fmt: skip
    assert runs and not lost
