"""The last filter before a terminal: text from files and names is printed without anything that controls one."""

from __future__ import annotations

import re
import sys
from typing import Any, TextIO

from eqrlab.core.messages import printable

_BAR = re.compile(r"(?:\x1b\[A|[\r\n])*")  # how a progress bar goes back to its place before it writes


class PrintableStream:
    """A stream of text that writes line ends and tabs as they are and all other unprintable characters as escapes.

    Parameters
    ----------
    stream
        Where the text goes; everything but writing is left to it.
    bars
        Let a text begin with the moves of a progress bar (carriage return, cursor up).
    """

    def __init__(self, stream: TextIO, *, bars: bool = False):
        self._stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write text; return the number of characters of it, as streams do."""
        moves = _BAR.match(text).group() if self._bars else ""  # type: ignore[union-attr]
        plain = re.sub(r"[^\n\t]+", lambda part: printable(part.group()), text[len(moves) :])
        self._stream.write(moves + plain)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Put the guard before standard output and standard error."""
    if not isinstance(sys.stdout, PrintableStream):
        sys.stdout = PrintableStream(sys.stdout)
        sys.stderr = PrintableStream(sys.stderr, bars=True)
