"""The process in which an archive is looked at before anything else opens it: `python -P archive_child.py FILE ...`.

The C libraries that read HDF5 can crash, hang, or eat memory on a damaged or hostile file, and then take their process
with them.  This one is made for it: it may use little memory and time, writes nothing, and answers with one line of
JSON.  Only what it found sound is opened again, by `archive.open`.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

MEMORY = 2**30  # bytes of data that this process may have
FAULT = 2_000  # characters of an answer
SECONDS, WALL = 2, 60  # of processor and of clock time, until the next sign of progress


def bounded_memory() -> None:
    """Let this process have no more memory than it needs, and no other file written."""
    try:
        import resource
    except ImportError:  # not on this system: time and memory are then unbounded, a crash still harms no one
        return
    for kind, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def progress(seconds: int = SECONDS) -> None:
    """Allow some more seconds; the kernel ends the process after them, wherever it is."""
    try:
        import resource
        import signal
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL)


def answer(path: str, values: Any, complete: bool, most: int | None) -> dict[str, Any]:
    """Return {"found": ...} for a sound archive, {"fault": what is wrong} for another."""
    from eqrlab.attractors.results.archive_rules import check
    from eqrlab.attractors.results.archive_structure import look

    bounded_memory()
    progress()
    try:
        size = look(path, progress)
        if most is not None and size > most:
            return {
                "fault": f"holds {size:,} bytes of values, {most:,} fit into memory: open it with open_ensemble"
            }
        return {"found": check(path, values=values, complete=complete, step=progress)._asdict()}
    except MemoryError:
        return {"fault": f"needs more than {MEMORY:,} bytes to be looked at: the file is damaged or forged"}
    except ValueError as error:
        return {"fault": str(error)[:FAULT]}
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError) as error:
        reason = str(error)[:FAULT] or type(error).__name__  # the library's own: a damaged chunk, for example
        return {"fault": f"not a readable NetCDF-4 archive ({reason})"}


def main() -> None:
    """Look at one file, and print the answer."""
    folder = Path(__file__).parent
    for name in (
        "eqrlab",
        "eqrlab.attractors",
        "eqrlab.attractors.results",
    ):  # without what their __init__ loads
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    path, options = sys.argv[1], json.loads(sys.argv[2])
    try:
        reply = answer(path, **options)
    except ImportError as error:
        reply = {"broken": str(error)}
    sys.stdout.write(json.dumps(reply))


if __name__ == "__main__":
    main()
