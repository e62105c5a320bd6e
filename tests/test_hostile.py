"""Checkpoints from strangers: every file of the catalogue is refused in one sentence, cheaply, and runs nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_more import CASES

MEMORY = 256 << 20  # bytes of resident memory, a file
SECONDS = 20.0  # of processor time, a file
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits and audit are read from Linux's /proc"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What came of every file, loaded in a program of its own with a limit on its address space."""
    command = [sys.executable, "-m", "tests.hostile_run", str(tmp_path_factory.mktemp("hostile"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def bad(results):
    return [r for r in results if r["group"] != "good"]


def test_the_whole_catalogue_was_tried_and_good_files_load(results):
    tried = {(r["group"], r["name"]) for r in results if r["group"] != "good"}
    assert tried == {(group, name) for group, cases in CASES.items() for name in cases}
    good = [r for r in results if r["group"] == "good"]
    assert len(good) == 3 and {r["error"] for r in good} == {"loaded"}


def test_every_hostile_file_is_refused_in_one_sentence(results):
    wrong = [(r["name"], r["error"], r["message"]) for r in bad(results) if r["error"] != "CheckpointError"]
    assert not wrong
    for r in bad(results):
        assert len(r["message"]) <= 1000 and r["message"].isprintable(), r["name"]
        assert "Traceback" not in r["message"]


def test_nothing_in_a_hostile_file_runs_or_writes(results):
    assert not [(r["name"], r["events"]) for r in results if r["events"]]
    assert not [r["name"] for r in bad(results) if r["executed"]]


def test_memory_and_time_of_every_hostile_file_are_bounded(results):
    assert not [(r["name"], r["memory"]) for r in results if r["memory"] > MEMORY]
    assert not [(r["name"], r["seconds"]) for r in results if r["seconds"] > SECONDS]


def test_the_watch_sees_what_it_must_see(tmp_path):
    """The audit that finds nothing in the catalogue finds a pickle that is really executed."""
    code = (
        "import pickle, os, sys; from tests import hostile_run as h, hostile; sys.addaudithook(h.watch);"
        f"bomb = pickle.dumps(hostile.Call(os.system, 'touch {tmp_path}/executed')); h.watching = True;"
        "pickle.loads(bomb); h.watching = False; print(h.seen)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert "pickle.find_class" in done.stdout and "os.system" in done.stdout, done.stderr
    assert (tmp_path / "executed").exists()


def test_the_page_on_checkpoints_lists_the_whole_catalogue():
    page = ROOT / "docs" / "checkpoints.md"
    if not page.exists():
        pytest.skip("the guide is not part of this installation")
    listed = re.findall(r"^\| ([^|]+) \|", page.read_text(), re.MULTILINE)
    names = [name.replace("|", "/") for cases in CASES.values() for name in cases]
    assert [name for name in names if name not in listed] == []
