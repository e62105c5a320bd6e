"""Load every file of the catalogue under limits of memory and time, and print what came of it as JSON lines.

Run as a program: `python -m tests.hostile_run FOLDER`.  An audit hook records whatever would mean that a file got
something executed; it cannot be taken out again by what it watches.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eqrlab.core import load
from tests import hostile
from tests.hostile_more import CASES

MEMORY = 768 << 20  # bytes of address space beyond what Python and torch take
SECONDS = 30.0  # of processor time, a file
FORBIDDEN = "pickle. os.system os.exec os.posix_spawn os.fork subprocess. socket. shutil. ctypes.".split()
STANDARD = sysconfig.get_paths()["stdlib"] + os.sep

seen: list[str] = []
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event == "open" and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(f"open {arguments[0]!r} for writing")
    elif event == "exec":  # the standard library may import parts of itself, encodings for example
        if not arguments[0].co_filename.startswith(("<frozen", STANDARD)):
            seen.append(f"exec of {arguments[0].co_filename}")
    elif event.startswith(tuple(FORBIDDEN)):
        seen.append(event)


def peak() -> int:
    """Return the largest resident memory since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmHWM in /proc/self/status")


def expired(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS:g} seconds of processor time")


def attempt(source: Path | str) -> dict[str, Any]:
    """Load one file; return class and text of the refusal, memory and time."""
    global watching
    Path("/proc/self/clear_refs").write_text("5")
    before, began = peak(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    watching = True
    kind, message = "loaded", ""
    try:
        load(source)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
        kind, message = type(error).__name__, str(error)
    finally:
        watching = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    events, seen[:] = list(seen), []
    return {
        "error": kind,
        "message": message,
        "seconds": time.process_time() - began,
        "memory": max(0, peak() - before),
        "events": events,
    }


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a record a file: first the good ones, then the catalogue."""
    for path in hostile.good_files(folder):
        yield {"group": "good", "name": path.name, "source": str(path), **attempt(path)}
    for group, cases in CASES.items():
        for name, make in cases.items():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                made = make(Path(place))
                sources = made if isinstance(made, list) else [made]
                for source in sources:
                    record = {"group": group, "name": name, "source": str(source), **attempt(source)}
                    yield {
                        **record,
                        "executed": hostile.marker(Path(place)).exists() or Path("executed").exists(),
                    }


if __name__ == "__main__":
    sys.addaudithook(watch)
    signal.signal(signal.SIGPROF, expired)
    work = Path(sys.argv[1])
    os.chdir(work)
    for path in hostile.good_files(work):  # everything is imported and warm before the limit is set
        load(path)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for result in results(work):
        print(json.dumps(result), flush=True)
