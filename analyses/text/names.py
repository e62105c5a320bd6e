"""What checkpoints are called: as typed where people read it, safe and distinct where files and groups are named."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
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
    """Return what a checkpoint is called, numbered where that is taken.

    It is its bundled name, the name of a folder, or a file's stem; of `model.safetensors`, as every training run calls
    its model, it is the name of the folder in which it lies.
    """
    path = Path(checkpoint)
    if not path.exists():
        return distinct(typed(checkpoint), taken)
    if path.is_dir():
        name = path.resolve().name
    elif path.name == "model.safetensors":
        name = path.resolve().parent.name
    else:
        name = path.stem
    return distinct(typed(name or path.stem), taken)


def common_name(names: Sequence[str]) -> str:
    """Return the words with which all names begin, without a number or "seed" at their end; else the first name.

    Examples
    --------
    >>> common_name(["eqr-seed0", "eqr-seed1"]), common_name(["trm9-10", "trm9-11"]), common_name(["tied", "trm"])
    ('eqr', 'trm9', 'tied')
    """
    words = [re.findall(r"[^\W\d_]+|\d+|[\W_]", name) for name in names]
    same = takewhile(lambda word: len(set(word)) == 1, zip(*words, strict=False))
    shared = "".join(word[0] for word in same).rstrip("-_. ").removesuffix("seed").rstrip("-_. ")
    return shared or names[0]


def group_names(names: Iterable[str], reserved: Collection[str]) -> dict[str, str]:
    """Return the archive group for each name; groups are distinct, and none has a reserved name."""
    groups: dict[str, str] = {}
    for name in names:
        groups[name] = distinct(safe(name), {*reserved, *groups.values()})
    return groups
