"""Kinds of files recognised by their first bytes, so that a message can name the kind instead of "damaged"."""

from __future__ import annotations

LOOKED_AT = 64  # bytes that `kind_of` needs
HDF5 = "an HDF5 file"
_KINDS = (
    (b"\x1f\x8b", "a gzip file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n", HDF5),
    *((b"CDF" + version, "a NetCDF-3 file") for version in (b"\x01", b"\x02", b"\x05")),
    (b"SQLite format 3\x00", "an SQLite file"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file, which `git lfs pull` gets"),
    (b"\xff\xfe\x00\x00", "text in UTF-32"),
    (b"\x00\x00\xfe\xff", "text in UTF-32"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)


def kind_of(head: bytes) -> str | None:
    """Return the kind of a file from its first `LOOKED_AT` bytes, or None if it is not recognised.

    Examples
    --------
    >>> kind_of(b"PAR1\\x15\\x04")
    'a parquet file'
    """
    known = next((kind for start, kind in _KINDS if head.startswith(start)), None)
    if known is None and is_safetensors(head):
        return "a safetensors file"
    if known is None and head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    if known is None and len(head) > 3 and head[0] == 0x80 and head[1] <= 5:
        return "a Python pickle"
    if known is None and len(head) > 3 and any(_is_ascii(head[k::2], head[1 - k :: 2]) for k in (0, 1)):
        return "text in UTF-16"
    return known


def _is_ascii(letters: bytes, others: bytes) -> bool:
    """Say whether bytes are ASCII text and those between them nothing, as in UTF-16 without a byte order mark."""
    return not any(others) and letters.isascii() and 0 not in letters


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins like safetensors: eight bytes with the size of the JSON header that follows."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") < 1 << 40 and head[8:9] == b"{"
