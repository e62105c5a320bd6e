"""Reading the files of a run folder: only regular files of bounded size, since pipes and devices have no end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eqrlab.core.files import what_is_wrong

MOST = 1 << 20  # bytes of a file of options ...
MOST_LOG = 1 << 26  # ... and of a log


def require_regular(*paths: Path) -> None:
    """Check that these paths are regular files (no folder, pipe, socket or device) or do not exist.

    Raises
    ------
    ValueError
        Naming the first that is something else.
    """
    for path in paths:
        if path.exists() and (problem := what_is_wrong(path)):
            raise ValueError(f"{path}: {problem}, a file is expected")


def read_text(path: Path, most: int = MOST) -> str:
    """Return the text of a file of at most `most` bytes, without a byte order mark.

    Raises
    ------
    ValueError
        If it is not a regular file, larger than `most`, or not UTF-8 text.
    OSError
        When it cannot be read.
    """
    require_regular(path)
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path}: has more than {most:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from None


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parse a text that is a JSON object; `where` names it in errors.

    Raises
    ------
    ValueError
        If it is not a JSON object, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{where}: not readable as JSON ({reason})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: holds no JSON object")
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a training log, each a JSON object of numbers; an incomplete last line is left out.

    Raises
    ------
    ValueError
        Naming the file and the first line that is not such an object, or has no step.
    """
    if not path.exists():
        return []
    lines, records = read_text(path, MOST_LOG).split("\n"), []
    for number, line in enumerate(lines, 1):
        if not line or (number == len(lines) and not line.endswith("}")):
            continue
        where = f"{path}:{number}"
        record = parse_json(line, where)
        for name, value in {"step": None, **record}.items():
            right = type(value) is int and value >= 0 if name == "step" else type(value) in (int, float)
            if not right:
                what = "a whole number of at least 0" if name == "step" else "a number"
                raise ValueError(f"{where}: {name[:40]!r} is {str(value)[:40]!r}, {what} is required")
        records.append(record)
    return records


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, see `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))
