"""What checkpoints are called: as typed where people read it, safe and distinct where files and groups are named."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from eqrlab.core.messages import printable

SHOWN = 120  # characters of a name where it is read
BYTES = 120  # of a name in a file or an archive, which take 255 and more is added to it


def typed(text: str) -> str:
    r"""Return a name as it was typed, on one line; characters that cannot be printed are escaped.

    Examples
    --------
    >>> typed("model "), typed("a\nb"), typed("a\u202eb")
    ('model ', 'a\\nb', 'a\\u202eb')
    """
    shown = printable(text)
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."


def safe(text: str) -> str:
    r"""Return a name that a file, and a group of a NetCDF file, can have.

    Examples
    --------
    >>> safe("model "), safe("#x"), safe(".."), safe("a/b"), safe("-x"), safe("tiny-2")
    ('model', '_#x', '_..', 'a_b', '_-x', 'tiny-2')
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in text).strip()
    text = text.encode()[:BYTES].decode(errors="ignore").strip()
    return text if text[:1].isalnum() or text[:1] == "_" else f"_{text}"


def distinct(name: str, taken: Collection[str]) -> str:
    """Return the name, numbered from 2 on where it is taken.

    Examples
    --------
    >>> distinct("a", {"a", "a-2"})
    'a-3'
    """
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def shown_name(checkpoint: str, taken: Collection[str]) -> str:
    """Return what a checkpoint is called: its bundled name or its file's stem, numbered where that is taken."""
    return distinct(typed(Path(checkpoint).stem if Path(checkpoint).exists() else checkpoint), taken)


def group_names(names: Iterable[str], reserved: Collection[str]) -> dict[str, str]:
    """Return the archive group for each name; groups are distinct, and none has a reserved name."""
    groups: dict[str, str] = {}
    for name in names:
        groups[name] = distinct(safe(name), {*reserved, *groups.values()})
    return groups
