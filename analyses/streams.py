"""Standard output that may fail (`eqrlab ... | head -1`, a full disk): text is then lost, but the run goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class Lossy(io.FileIO):
    """A stream whose writing never fails; what could not be written is dropped, and the first reason kept.

    Attributes
    ----------
    broken
        The first error, None as long as all was written.
    """

    def __init__(self, number: int):
        super().__init__(number, "w", closefd=False)
        self.broken: OSError | None = None

    def write(self, data: Any) -> Any:
        """Write, or drop."""
        try:
            return super().write(data)
        except OSError as error:
            self.broken = self.broken or error
            return memoryview(data).nbytes


def tolerate_broken_streams() -> Lossy | None:
    """Put streams that drop what they cannot write in place of standard output and error; return that of the output.

    Characters that the terminal's encoding lacks are escaped.  Streams that are closed are opened onto nothing, so that
    no file of the run gets their numbers; None where standard output is no file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, output = _lossy(sys.stdout or open(1, "w", closefd=False))
    sys.stderr, _ = _lossy(sys.stderr or open(2, "w", closefd=False))
    return output


def _lossy(stream: Any) -> tuple[Any, Lossy | None]:
    """Return a stream onto the same file that never fails."""
    try:
        raw = Lossy(stream.fileno())
    except (AttributeError, OSError):  # closed, or no file
        return stream, None
    at_once = stream.line_buffering or stream.write_through
    text = io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=at_once
    )
    return text, raw


def lost_output(output: Lossy | None) -> str | None:
    """Say why text of standard output was lost, "" for a reader that went away; None where all was written."""
    if output is None:
        return None
    sys.stdout.flush()
    if output.broken is None:
        return None
    return "" if output.broken.errno == errno.EPIPE else f"standard output: {output.broken.strerror}"
