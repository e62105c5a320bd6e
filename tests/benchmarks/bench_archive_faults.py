"""Bits flipped and ends cut off at random, of a diagnosis and of an export, through verify, report and export --like.

Every file is tried in a process forked for it, so that a crash or a hang is counted and harms no other.  The process in
which `archive.look` looks at a file is forked here too, from one that has imported everything, with the bounds of the
real one; a tenth of the files goes through the real one.  EQRLAB_FAULTS is the number of faults of each archive.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.analyses.commands.common.settings_of_archive import like_archive
from eqrlab.analyses.report.page import render
from eqrlab.attractors.results import archive, archive_child, archive_rules, archive_structure
from eqrlab.attractors.results.validate import validate

pytestmark = pytest.mark.benchmark
FAULTS = int(os.environ.get("EQRLAB_FAULTS", "2000"))
SECONDS, REPORTS = (
    60,
    20,
)  # of clock time for one file; sound files whose report is drawn, since that takes seconds
assert archive_rules and archive_structure  # imported before the forks


def forked(function: Any) -> tuple[int, bytes]:
    """Run a function in a process of its own; return how that ended, and what the function returned."""
    out, into = os.pipe()
    number = os.fork()
    if not number:
        code = 70
        try:
            os.close(out)
            os.write(into, function())
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with open(out, "rb") as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), said


def look_forked(command: list[str], **_: Any) -> subprocess.CompletedProcess:
    """What `subprocess.run` does in `archive.look`, without importing anything anew."""
    path, options = command[-2], json.loads(command[-1])
    code, said = forked(lambda: json.dumps(archive_child.answer(path, **options)).encode())
    return subprocess.CompletedProcess(command, code, said)


def plain(value: Any) -> Any:
    """Return what can be compared."""
    if isinstance(value, np.ndarray):
        return [
            str(value.dtype),
            value.shape,
            value.tobytes().hex() if value.dtype.kind != "O" else value.tolist(),
        ]
    return repr(value)


def contents(path: Path) -> Any:
    """Everything that a reader gets from an archive."""
    tree = archive.read(path, complete=True)
    return {
        node.path: [
            {k: plain(v) for k, v in node.attrs.items()},
            {str(n): [v.dims, plain(v.values), {k: plain(a) for k, a in v.attrs.items()}]
             for n, v in node.to_dataset().variables.items()},
        ]
        for node in tree.subtree
    }  # fmt: skip


def settings(path: Path) -> Any:
    """Everything that --like takes from an archive."""
    with archive.open(path, values=("inputs", "labels")) as tree:
        job, about = like_archive(tree, path)
    return {k: plain(v) for k, v in {**about, **job}.items() if k != "plan"}


def verdicts(path: Path, real: bool, drawn: bool, whole: Any, like: Any) -> dict[str, str]:
    """What each verb makes of a file: "refused", "sound", "differs", or the exception that it must not raise."""
    if not real:
        subprocess.run = look_forked

    def said(function: Any) -> str:
        try:
            return "sound" if function() else "differs"
        except ValueError as error:
            return "refused" if str(error).isprintable() and len(str(error)) <= 1000 else f"{error!r}"
        except BaseException as error:  # noqa: BLE001 - counted
            return f"{type(error).__name__}: {error}"

    found = {
        "verify": said(lambda: validate(path) and contents(path) == whole),
        "report": said(lambda: contents(path) == whole),
        "--like": said(lambda: settings(path) == like),
    }
    if drawn and found["report"] == "sound":
        found["report drawn"] = said(lambda: "<html" in render(archive.read(path, complete=True)))
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A diagnosis and an export, small enough to be read in milliseconds."""
    folder = tmp_path_factory.mktemp("faults")
    size = ["eqr-sudoku6", "--limit", "2", "--restarts", "6", "--depth", "12", "--quiet"]
    for line in (
        ["diagnose", *size, "--out", str(folder)],
        ["export", *size, "--out", str(folder / "export.nc")],
    ):
        done = CliRunner().invoke(cli, line, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return {name: folder / f"{name}.nc" for name in ("diagnosis", "export")}


@pytest.mark.parametrize("name", ["diagnosis", "export"])
def test_flipped_bits_and_cut_ends(name, archives, tmp_path):
    content, chance = archives[name].read_bytes(), random.Random(name)
    whole, like = contents(archives[name]), settings(archives[name])
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    slowest, began, drawn, bad = 0.0, time.monotonic(), 0, []
    for i in range(FAULTS):
        data = bytearray(content)
        if chance.random() < 0.1:
            fault = f"cut at {(end := chance.randrange(len(data)))}"
            del data[end:]
        else:
            place, bit = chance.randrange(len(data)), chance.randrange(8)
            data[place] ^= 1 << bit
            fault = f"bit {bit} of byte {place}"
        path = tmp_path / f"{name}.nc"
        path.write_bytes(data)
        start = time.monotonic()

        def one(path: Path = path, i: int = i, drawn: int = drawn) -> bytes:
            signal.alarm(SECONDS)
            return json.dumps(verdicts(path, i % 10 == 0, drawn < REPORTS, whole, like)).encode()

        code, said = forked(one)
        slowest = max(slowest, time.monotonic() - start)
        if code == -signal.SIGALRM:
            found = dict.fromkeys(("verify", "report", "--like"), "hang")
        else:
            found = (
                json.loads(said) if said else dict.fromkeys(("verify", "report", "--like"), f"crash {code}")
            )
        drawn += "report drawn" in found
        for verb, answer in found.items():
            counts[verb][answer] += 1
            if answer not in ("refused", "sound"):
                bad.append(f"{fault}: {verb}: {answer}")
        path.unlink()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    print(f"\n{name}: {len(content):,} bytes, {FAULTS} faults, {time.monotonic() - began:.0f} s ({cpu:.0f} s of "
          f"processor), slowest file {slowest:.1f} s, largest process {used[1].ru_maxrss / 1024:.0f} MB")  # fmt: skip
    print("| verb | refused | sound | anything else |\n|---|---|---|---|")
    for verb, seen in counts.items():
        others = sum(n for a, n in seen.items() if a not in ("refused", "sound"))
        print(f"| {verb} | {seen['refused']} | {seen['sound']} | {others} |")
    print(*bad[:40], sep="\n")
    assert not bad
