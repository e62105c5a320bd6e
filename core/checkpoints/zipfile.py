"""Zip archives of torch.save: opened only if their directory is consistent; records are read within bounds."""

from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

from eqrlab.core.errors import CheckpointError

_END, _END64 = b"PK\x05\x06", b"PK\x06\x06"
_MOST_DIRECTORY = 1 << 24  # bytes: some 200,000 records, of which an official file has a few hundred
_ENCRYPTED = 0x1
_LOCAL = 30  # bytes of the header in front of a record, without its name


def open_records(path: Path) -> zipfile.ZipFile:
    """Open an archive whose directory has a plausible size and whose records are inside the file and do not overlap.

    Raises
    ------
    CheckpointError
        For a directory that is too large, records twice, encrypted, outside of the file or on top of each other.
    zipfile.BadZipFile
        If it is not a zip archive.
    OSError
        When it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError("is no regular file")
    size, directory = path.stat().st_size, _directory_bytes(path)
    if directory > min(size, _MOST_DIRECTORY):
        raise CheckpointError(
            f"the directory of the archive is said to have {directory} bytes of a file of {size}; "
            f"at most {_MOST_DIRECTORY} are read"
        )
    archive = zipfile.ZipFile(path)
    end = 0
    names: set[str] = set()
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.filename
        if name in names:
            raise CheckpointError(f"record {name} is there twice")
        names.add(name)
        if info.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"record {name} is encrypted, which torch.save never does")
        if info.header_offset < end:
            raise CheckpointError(f"record {name} overlaps another one")
        end = info.header_offset + _LOCAL + len(name) + info.compress_size
        if end > size:
            raise CheckpointError(
                f"record {name} is said to end at byte {end} of a file of {size}: the file is truncated"
            )
    return archive


def _directory_bytes(path: Path) -> int:
    """Return the size of the directory that the end of a zip archive states; 0 if there is no such end."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 22 - (1 << 16) - 1000))
        tail = file.read()
    bare = len(tail) - 22
    place = bare if bare >= 0 and tail[bare:].startswith(_END) else tail.rfind(_END)
    if place < 0 or len(tail) < place + 22:
        return 0
    (directory,) = struct.unpack_from("<L", tail, place + 12)
    large = (
        place - 20 - 56
    )  # the end of large archives stands before the usual one, with a pointer between them
    if large >= 0 and tail.startswith(_END64, large):
        (directory,) = struct.unpack_from("<Q", tail, large + 40)
    return directory


def record_offset(archive: zipfile.ZipFile, name: str) -> int:
    """Return where the bytes of a stored record begin in the file.

    Raises
    ------
    CheckpointError
        If the bytes before it are not the header of this record, or it ends beyond the file.
    """
    info, path = archive.NameToInfo[name], Path(str(archive.filename))
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL)
        size = file.seek(0, 2)
    if len(head) < _LOCAL or not head.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"record {name} has no header: the file is damaged")
    offset = info.header_offset + _LOCAL + sum(struct.unpack_from("<HH", head, 26))  # name and extra field
    if offset + info.file_size > size:
        raise CheckpointError(
            f"record {name} is said to end beyond the end of the file: the file is truncated"
        )
    return offset


def record_bytes(archive: zipfile.ZipFile, name: str) -> int:
    """Return the size of a record, which must exist and be stored uncompressed.

    Raises
    ------
    CheckpointError
        When it is missing, compressed, or has two different sizes.
    """
    info = archive.NameToInfo.get(name)
    if info is None:
        raise CheckpointError(f"record {name} is missing")
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"record {name} is compressed, which torch.save never does")
    if info.file_size != info.compress_size:
        raise CheckpointError(
            f"record {name} has {info.compress_size} bytes in the file and is said to have {info.file_size}"
        )
    return info.file_size
