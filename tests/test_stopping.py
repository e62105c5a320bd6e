"""Signals that ask a command to stop, and imports, which they must not interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

CODE = """
import signal, sys
from eqrlab.analyses.commands.common.stopping import exit_code, raise_on_signals
raise_on_signals()
try:
    try:
        import asked_while_imported
    except BaseException as error:
        sys.exit(f"interrupted: {type(error).__name__}")
    print("imported", asked_while_imported.name, flush=True)
    while True:
        signal.pause()
except KeyboardInterrupt as stop:
    print("stopped", exit_code(stop), flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_waits_for_the_import_that_it_meets(how, tmp_path):
    (tmp_path / "asked_while_imported.py").write_text(
        f"import signal, time\nsignal.raise_signal({int(how)})\ntime.sleep(0.1)\nname = 'whole'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CODE}"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.stdout.split("\n")[-2] == f"stopped {128 + how}", done.stdout + done.stderr
    assert done.stdout.startswith("imported whole\n") or done.stdout.startswith("stopped")
    assert "interrupted" not in done.stderr
