"""Text of puzzle files: UTF-8, plain or gzip; any other kind of file is named in the error."""

from __future__ import annotations

import collections
import gzip
import io
import json
import re
import stat
import zlib
from pathlib import Path
from typing import Any

from eqrlab.core.kinds import LOOKED_AT, kind_of
from eqrlab.core.messages import brief
from eqrlab.datasets.faults import PuzzleFileError

READ = "a CSV or text file in UTF-8, plain or gzip, or an official folder of .npy files is required"
_JSON = re.compile(r"\s*(\{|\[\s*[\[{\"\d-])")  # "[Puzzle]" is none
_LEAST_TEXT = 1 << 24  # bytes of text that any gzip file may have,
_MOST_RATIO = 100  # and more in proportion to its size


def read_text(path: Path, *, expect_json: bool = False) -> str:
    """Read a text file, decompressed if necessary; a byte order mark is left out.  JSON must be expected.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is a broken gzip file or not UTF-8, with file and line, or of a kind that is not read, naming it.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise PuzzleFileError(
            f"{path}: is no regular file; a file, a pipe or a folder of puzzles is required"
        )
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = _decompressed(path, data)
    elif path.suffix == ".gz":
        raise PuzzleFileError(f"{path}:1: not a gzip file, although its name ends in .gz")
    kind = kind_of(data[:LOOKED_AT])
    if kind is not None:
        raise PuzzleFileError(f"{path}:1: this is {kind}; {READ}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PuzzleFileError(
            f"{path}:{line}: not a text file (byte {data[error.start]:#04x}); {READ}"
        ) from error
    if not expect_json and _JSON.match(text):
        raise PuzzleFileError(
            f"{path}:1: this is JSON; {READ}; JSON lines need a name in .jsonl, ARC tasks one in .json"
        )
    return text


def _decompressed(path: Path, data: bytes) -> bytes:
    """Decompress a gzip file up to the ratio that puzzles can have, so that a small file cannot fill the memory."""
    most, parts, size = _LEAST_TEXT + _MOST_RATIO * len(data), list[bytes](), 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read1(1 << 20):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise PuzzleFileError(
                        f"{path}: {len(data)} bytes of gzip give more than {most} bytes of text, which no puzzles do; "
                        "decompress the file if it is sound"
                    )
    except (EOFError, OSError, zlib.error) as error:
        line = sum(part.count(b"\n") for part in parts) + 1
        raise PuzzleFileError(f"{path}:{line}: broken or truncated gzip file ({error})") from error
    return b"".join(parts)


def parsed(text: str | bytes, what: str = "a JSON file") -> Any:
    """Parse JSON, of which no object may have a key twice: it would mean something else to other readers.

    Raises
    ------
    ValueError
        In a sentence without the place.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except PuzzleFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise PuzzleFileError(f"not {what} ({str(error)[:200]})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, count)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise PuzzleFileError(f"the key {brief(twice)} stands {count} times in one object")
    return found
