"""The table of hostile checkpoints in docs/checkpoints.md: what was tried, what the refusal says, memory and time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "checkpoints.md"
START, END = "<!-- hostile files: start -->", "<!-- hostile files: end -->"


def cell(value: str) -> str:
    return value.replace("|", "/").replace("<", "&lt;").replace("*", "\\*")


def said(record: dict) -> str:
    """Return the refusal without the name of the file in front of it."""
    message = record["message"].removeprefix(record["source"]).lstrip(": ")
    message = re.sub(r"/\S*/", "", message)
    return cell(message if len(message) <= 110 else message[:107] + "...")


def table(results: list[dict]) -> list[str]:
    lines = []
    groups = dict.fromkeys(r["group"] for r in results if r["group"] != "good")
    for group in groups:
        lines += ["", f"**{group}**", "", "| file | refused with | MB | s |", "|---|---|---|---|"]
        for name in dict.fromkeys(r["name"] for r in results if r["group"] == group):
            records = [r for r in results if r["group"] == group and r["name"] == name]
            assert {r["error"] for r in records} == {"CheckpointError"}
            more = f" ({len(records)} files)" if len(records) > 1 else ""
            memory, seconds = (max(r[k] for r in records) for k in ("memory", "seconds"))
            lines.append(
                f"| {name.replace('|', '/')} | {said(records[0])}{more} | {memory / 2**20:.0f} | {seconds:.2f} |"
            )
    return [*lines, ""]


@pytest.mark.benchmark
def test_table_of_hostile_files(tmp_path):
    command = [sys.executable, "-m", "tests.hostile_run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    bad = [r for r in results if r["group"] != "good"]
    lines = table(results)
    kinds, events = {(r["group"], r["name"]) for r in bad}, sum(len(r["events"]) for r in results)
    memory, seconds = (max(r[k] for r in bad) for k in ("memory", "seconds"))
    count = (
        f"{len(kinds)} kinds, {len(bad)} files: every one refused with CheckpointError; {events} calls, processes, "
        f"sockets or files opened for writing; at most {memory / 2**20:.0f} MB and {seconds:.1f} s of "
        "processor time a file."
    )
    print("\n".join([count, *lines]))
    if PAGE.exists():
        before, _, rest = PAGE.read_text().partition(START)
        _, _, after = rest.partition(END)
        PAGE.write_text("\n".join([before + START, "", count, *lines, END]) + after)
