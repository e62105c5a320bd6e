"""Shares, numbers and counts as text, with their intervals, and rows of texts as lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH = 110  # of printed sentences, in characters
_FIXED = "\N{NO-BREAK SPACE}"
_NUMBER = re.compile(r"\d %| \[[^][]*\d\]")  # a number and its unit, or its interval


def wrapped(text: str) -> list[str]:
    """Return sentences as lines that never part a number from its unit or its interval.

    Examples
    --------
    >>> wrapped("x" * 100 + " 58 % [31, 84] of the runs")[1]
    '58 % [31, 84] of the runs'
    """
    text = _NUMBER.sub(lambda found: found[0].replace(" ", _FIXED), text)
    return [line.replace(_FIXED, " ") for line in textwrap.wrap(text, WIDTH)]


def percent(share: float) -> str:
    """Return a share as text: whole percents, one decimal within 1 % of either end.

    Examples
    --------
    >>> percent(0.5833), percent(0.004), percent(1.0), percent(float("nan"))
    ('58 %', '0.4 %', '100 %', 'undefined')
    """
    return "undefined" if not np.isfinite(share) else f"{_percent(share)} %"


def percent_interval(share: float, low: float, high: float) -> str:
    """Return a share with its interval, as in "58 % [31, 84]"; without interval where the bounds are NaN."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return percent(share)
    return f"{percent(share)} [{_percent(low)}, {_percent(high)}]"


def stated_share(found: Mapping[str, float]) -> str:
    """Return a share {"value", "low", "high"} with its interval, to a tenth of a percent: "61.7 % [55.6, 67.5]"."""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _percent(share: float) -> str:
    value = 100 * float(share)
    near_end = 0.05 <= value < 1 or 99 < value < 99.95
    return f"{value:.1f}" if near_end else f"{value:.0f}"


def number(value: float) -> str:
    """Return a number in [0, 1] with two decimals, three above 0.98."""
    return "undefined" if not np.isfinite(value) else f"{value:.3f}" if 0.98 < value < 1 else f"{value:.2f}"


def number_interval(value: float, low: float, high: float) -> str:
    """Return a number with its interval, as in "0.97 [0.95, 0.99]"; without interval where the bounds are NaN."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def signed_interval(value: float, low: float, high: float, digits: int) -> str:
    """Return a number with its sign and interval, as in "+0.12 [+0.08, +0.15]"; without bounds that are not finite.

    Examples
    --------
    >>> nan = float("nan")
    >>> signed_interval(0.12, 0.08, 0.15, 2), signed_interval(-0.5, nan, nan, 1), signed_interval(nan, nan, nan, 2)
    ('+0.12 [+0.08, +0.15]', '-0.5', '')
    """
    if np.isnan(value):
        return ""
    bounds = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite([low, high]).all() else ""
    return f"{value:+.{digits}f}{bounds}"


def at_most(value: float) -> str:
    """Return a positive number with one digit, rounded up, so that it stays a bound.

    Examples
    --------
    >>> at_most(0.0012), at_most(3e-7), at_most(0.97)
    ('0.002', '3e-07', '1')
    """
    unit = 10.0 ** np.floor(np.log10(value))
    return f"{unit * np.ceil(value / unit - 1e-9):.0g}"


def span(values: np.ndarray, sign: str = "") -> str:
    """Return the least and the greatest finite number, as in "0.46 to 0.79"; one if they are equal; "" without any."""
    values = values[np.isfinite(values)]
    return (
        " to ".join(dict.fromkeys(f"{v:{sign}.2f}" for v in (values.min(), values.max())))
        if values.size
        else ""
    )


def plural(count: int, noun: str) -> str:
    """Return "1 puzzle", "2 puzzles", "1,000 puzzles"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return rows of text as aligned lines, with the headings first."""
    if not rows:
        return []
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in width}, *rows]
    return ["  ".join(line[name].ljust(size) for name, size in width.items()).rstrip() for line in lines]


def markdown_table(rows: Sequence[Mapping[str, str]], more: int = 0) -> str:
    r"""Return rows of texts as a table of Markdown; `more` rows that are not in it are counted below.

    Examples
    --------
    >>> print(markdown_table([{"rung": "tied *"}], more=2))
    | rung |
    | --- |
    | tied \* |
    <BLANKLINE>
    ... and 2 more
    """
    if not rows:
        return ""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    cells = ([re.sub(r"[|*]", r"\\\g<0>", cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + (
        f"\n\n... and {more} more" if more > 0 else ""
    )
