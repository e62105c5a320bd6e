"""How models, maps and puzzles are displayed: a few lines of text, and a table in notebooks that show HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from eqrlab.core.messages import one_line

LONGEST = 100  # characters of a value
_MOST = 200  # values under one heading

_STYLE = """<style>
.eqrlab { font-size: 13px; line-height: 1.5; margin: 4px 0; }
.eqrlab table.facts { border-collapse: collapse; margin: 4px 0; font-size: inherit; }
.eqrlab table.facts th, .eqrlab table.facts td { text-align: left; vertical-align: top; padding: 1px 18px 1px 0;
  border: 0; background: none; overflow-wrap: anywhere; }
.eqrlab table.facts th { font-weight: 400; opacity: .7; white-space: nowrap; }
.eqrlab summary { cursor: pointer; }
</style>"""


class Facts:
    """A title, the lines below it, and the details that a notebook shows when they are opened.

    Attributes
    ----------
    title
        What the object is, in a few words.
    lines
        Name -> value; the values are text, numbers, or lists of such.
    more
        Heading -> name -> value, nested values included.
    """

    def __init__(
        self,
        title: str,
        lines: Mapping[str, Any],
        more: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.title, self.lines, self.more = title, lines, more or {}

    def text(self) -> str:
        """Return lines of text, the first the title."""
        told = aligned({f"  {_short(name)}": _short(plain(value)) for name, value in self.lines.items()})
        return "\n".join([_short(self.title), *told])

    def html(self, inner: str = "") -> str:
        """Return a table with the title above it, every text escaped; `inner` is HTML to put below it."""
        parts = [_STYLE, '<div class="eqrlab">', f"<strong>{escape(_short(self.title))}</strong>"]
        parts.append(_table(self.lines))
        for heading, values in self.more.items():
            if values:
                parts.append(
                    f"<details><summary>{escape(_short(heading))}</summary>{_table(flat(values))}</details>"
                )
        return "".join([*parts, inner, "</div>"])


class Shown:
    """Base class of objects displayed through `_facts`, as text and in notebooks; displaying never raises."""

    def _facts(self) -> Facts:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._told(lambda: self._facts().text()) or object.__repr__(self)

    def _repr_html_(self) -> str | None:
        return self._told(lambda: self._facts().html(self._drawn()))

    def _drawn(self) -> str:
        """Return HTML to show below the facts."""
        return ""

    def _told(self, tell: Callable[[], str]) -> str | None:
        try:
            return tell()
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None  # half built, as a debugger or a traceback finds it


def _table(values: Mapping[str, Any]) -> str:
    kept = list(values.items())[:_MOST]
    rows = [
        f"<tr><th>{escape(_short(name))}</th><td>{escape(_short(plain(v)))}</td></tr>" for name, v in kept
    ]
    if len(values) > _MOST:
        rows.append(f"<tr><th></th><td>and {len(values) - _MOST:,} more</td></tr>")
    return f'<table class="facts">{"".join(rows)}</table>'


def _short(text: Any) -> str:
    return one_line(str(text), LONGEST)


def aligned(lines: Mapping[str, str]) -> list[str]:
    """Return names and texts as lines in two columns."""
    width = max(map(len, lines), default=0)
    return [f"{name.ljust(width)}  {text}".rstrip() for name, text in lines.items()]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def plain(value: Any) -> str:
    """Return a value of a configuration as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "nothing"
    return "not given" if value is None else str(value)
