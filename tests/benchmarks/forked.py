"""Commands in processes forked from this one after everything is imported, so that their life is nearly all work."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path

from eqrlab.analyses import cli as command_line


def start(arguments: list[str], log: Path) -> int:
    """Run a command in a forked process as the shell does; return its number."""
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        with open(log, "a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False, buffering=1) for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["eqrlab", *arguments]
        try:
            command_line.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except KeyboardInterrupt:  # it came before the first line of main
            code = 128 + signal.SIGINT
        except BaseException:  # noqa: BLE001, of a process that would end without a word
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(number: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
