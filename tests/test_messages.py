"""What reaches a terminal: printable, in one line, of bounded length."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqrlab.analyses.terminal import PrintableStream
from eqrlab.core.messages import one_line, printable

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = {
    "title of the window": "\x1b]0;pwned\x07",
    "colours": "\x1b[31mred",
    "direction of writing": "\u202egnp.exe",
    "isolates": "\u2066abc\u2069",
    "one byte escapes": "\x9b31m",
    "carriage return": "good\rbad",
    "backspace": "bad\x08\x08\x08",
    "bytes that are no text": "\udcff\udc80",
    "line separator": "a\u2028b",
    "nothing wide": "a\u200bb\ufeff",
}


@given(st.text())
def test_any_text_becomes_printable(text):
    assert printable(text).isprintable()
    line = one_line(text * 50, 100)
    assert line.isprintable() and len(line) <= 100
    assert printable(printable(text)) == printable(text)


def test_eight_million_characters_are_cut_at_once():
    began = time.process_time()
    assert len(one_line("\x1b" * 8_000_000)) <= 1000
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stream_lets_nothing_through_that_steers_a_terminal(name):
    stream = io.StringIO()
    PrintableStream(stream).write(f"a line\t{HOSTILE[name]}\nanother\n")
    assert all(part.isprintable() for line in stream.getvalue().split("\n") for part in line.split("\t"))
    assert stream.getvalue().count("\n") == 2


def test_progress_bars_still_move():
    stream = io.StringIO()
    guard = PrintableStream(stream, bars=True)
    for text in ("\r 10%|#| name", "\n\x1b[A", "\r\x1b[2J"):
        guard.write(text)
    assert stream.getvalue() == "\r 10%|#| name\n\x1b[A\r\\x1b[2J"


def told(*arguments):
    """Run the command line; return its exit code and its output as bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "eqrlab.analyses", *arguments], capture_output=True, timeout=120
    )
    return done.returncode, readable((done.stdout + done.stderr).decode())


def readable(text):
    """Return what a command said, which must be printable."""
    assert "Traceback" not in text
    assert all(part.isprintable() for line in text.split("\n") for part in line.split("\t")), ascii(text)
    return text


MANY = """
import json, sys
from pathlib import Path
import eqrlab.analyses.commands.data
from tests.benchmarks.forked import ended, start
log, said = Path(sys.argv[1]), []
for line in json.load(sys.stdin):
    log.write_bytes(b"")
    said.append((ended(start(line, log)), log.read_text()))
json.dump(said, sys.stdout)
"""


def all_told(lines, log):
    """Run many command lines in forks of one process; return the exit code and the output of each."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, log], input=json.dumps(lines).encode(), capture_output=True, cwd=ROOT,
        timeout=300, check=True,
    )  # fmt: skip
    return [(code, readable(text)) for code, text in json.loads(done.stdout)]


def test_headers_cells_and_names_of_files_are_shown_printable(tmp_path):
    lines, puzzle = [], "." * 36
    for name, mark in HOSTILE.items():
        whole = mark.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        contents = {
            "extra.csv": f'puzzle,"{whole}"\n{puzzle},"{whole}"\n',
            "header.csv": f'"puz{whole}zle",solution\n{puzzle},\n',
            "cell.csv": f'puzzle,difficulty\n"{whole}{puzzle[len(whole) :]}",x\n',
            "difficulty.csv": f'puzzle,difficulty\n{puzzle},"{whole}"\n',
            "text.txt": f"{whole}\n",
            f"x{mark}.csv": f'"puz{whole}zle",solution\n{puzzle},\n',
        }
        (tmp_path / name).mkdir()
        for file, text in contents.items():
            (tmp_path / name / file).write_text(text, newline="")
            lines.append(["data", "info", os.fspath(tmp_path / name / file), "--measure", "0"])
    for line, (code, said) in zip(lines, all_told(lines, tmp_path / "log"), strict=True):
        assert len(said) < 5000 and (code == 0 or said.count("\n") == 1), line
        assert code in (0, 1) and (code == 1 or not os.path.basename(line[2]).startswith("x")), line


@pytest.mark.parametrize("separator", [",", "\n", "x"])
def test_an_error_about_a_huge_header_is_one_short_line(separator, tmp_path):
    (tmp_path / "a.csv").write_text(f"a,{('b' + separator) * 2_000_000}\n1\n")
    code, said = told("data", "info", str(tmp_path / "a.csv"))
    assert code == 1 and said.count("\n") == 1 and len(said) < 1100


def test_json_stays_json(tmp_path):
    path = tmp_path / "a\x1b\u202e.csv"
    path.write_text("puzzle\n" + "." * 36 + "\n")
    code, said = told("data", "check", str(path), "--allow-several")
    assert code == 0 and "1 sound, 0 wrong" in said
    code, said = told("info", "eqr-sudoku6", "--json")
    assert code == 0 and json.loads(said)["family"] == "eqr"
