"""Text for messages: text from files, names and libraries is made printable, short, and one line long."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

_GAP = " ... "


def printable(text: str) -> str:
    r"""Return text with every character that is not printable written as its escape, such as ``\x1b`` or ``\u202e``.

    Notes
    -----
    Printable is defined by `str.isprintable`.  Control characters, marks that change the direction of writing,
    unusual spaces, line ends and bytes of file names that are not text are not printable.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, most: int = 1000) -> str:
    """Return text as one printable line of limited length; a longer text loses a part near its end.

    Examples
    --------
    >>> one_line("line 1\\nline 2")
    'line 1 line 2'
    >>> one_line("a" * 50 + "z", 24)
    'aaaaaaaaaaaaaaaaa ... az'
    """
    text = _shortened(text, 4 * most)  # what follows takes time in proportion
    return _shortened(printable(re.sub(r"[ \t\r\n\f\v]+", " ", text)), most)


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = most // 12  # a message begins with the name of its file
    return text[: most - len(_GAP) - end] + _GAP + text[-end:]


def brief(value: Any) -> str:
    """Return a few characters that describe a value of a file; of containers, which may be endless, only the kind."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    if isinstance(value, int):
        return "an integer of more than 64 bits"
    return f"a {type(value).__name__}" if isinstance(value, dict | list | tuple) else "an object"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if an unknown name resembles a known one, else an empty string.

    Examples
    --------
    >>> "no verb 'diagnos'" + did_you_mean("diagnos", ["compare", "diagnose"])
    "no verb 'diagnos'; did you mean diagnose?"
    """
    near = difflib.get_close_matches(word, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""
