"""Arrays of integers in `.npy` files: sizes are checked against the header before anything is allocated."""

from __future__ import annotations

import io
import math
import os
import tokenize
from pathlib import Path
from typing import IO

import numpy as np

from eqrlab.core.messages import brief
from eqrlab.datasets.faults import PuzzleFileError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # in UTF-8, which for integers is the same
}
_BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)  # what Python's own parser may say of a header
_LEAST_TOKENS = 1 << 22  # integers that any compressed array may have,
_MOST_RATIO = 100  # and more in proportion to its compressed size
_MOST_ARRAY_HEADER = 1 << 16  # bytes, of which NumPy reads 10,000


def load_array(path: Path, ndim: int) -> np.ndarray:
    """Load an integer array of some rank; its size is checked against its header before anything is allocated."""
    if not path.exists():
        raise PuzzleFileError(f"{path}: file is missing")
    if not path.is_file():
        raise PuzzleFileError(f"{path}: is no regular file")
    with open(path, "rb") as file:
        return read_array(file, os.fstat(file.fileno()).st_size, path, ndim)


def read_array(
    file: IO[bytes], size: int, path: Path, ndim: int | None = None, packed: int | None = None
) -> np.ndarray:
    """Read an integer array of some rank from a stream of so many bytes, which its header must announce.

    One that is decompressed from `packed` bytes may have as many integers as puzzles can have in them.

    Raises
    ------
    ValueError
        For anything else.
    """
    start = io.BytesIO(file.read(_MOST_ARRAY_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        if version not in _HEADERS:
            raise ValueError(f"format version {version} is not supported")
        shape, fortran, dtype = _HEADERS[version](start)
    except _BROKEN as error:
        raise PuzzleFileError(f"{path}: broken .npy file ({error})") from error
    if dtype.kind not in "iu" or ndim not in (None, len(shape)):
        kind = "structured values" if dtype.names or dtype.subdtype else dtype
        axes = "" if ndim is None else f" with {ndim} axes"
        raise PuzzleFileError(f"{path}: integers{axes} are required, got {kind} with {len(shape)} axes")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise PuzzleFileError(f"{path}: broken .npy file (a shape of {', '.join(map(brief, shape))})")
    expected = math.prod(shape) * dtype.itemsize
    there = size - start.tell()
    if expected != there:
        raise PuzzleFileError(f"{path}: broken .npy file ({expected} bytes of data announced, {there} there)")
    most = math.inf if packed is None else _LEAST_TOKENS + _MOST_RATIO * packed
    if math.prod(shape) > most:
        raise PuzzleFileError(
            f"{path}: {packed} compressed bytes give more than {most} integers, which no puzzles do; "
            "save the arrays uncompressed if they are sound"
        )
    data = bytearray(expected)
    begun = start.read(expected)
    data[: len(begun)] = begun
    with memoryview(data)[len(begun) :] as rest:
        missing = len(rest) - file.readinto(rest)  # type: ignore[attr-defined]
    if missing:
        raise PuzzleFileError(f"{path}: broken .npy file (it became shorter while it was read)")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
