"""Files written whole or not at all, and their checksum."""

from __future__ import annotations

import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success the file is synced and renamed to `path`, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    created = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    mode = stat.S_IMODE(os.fstat(created).st_mode)
    os.close(created)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fchmod(file.fileno(), mode)  # a library may have put a private file of its own in its place
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def what_is_wrong(path: Path) -> str | None:
    """Return why a path cannot be read as a file.  It is not opened, since pipes and devices may have no end."""
    try:
        if path.is_dir():
            return "is a folder"
        if path.is_file():
            return None
        return "is no regular file" if path.exists() else "no such file"
    except (OSError, ValueError) as error:  # a name that is too long, or that no file can have
        return str(getattr(error, "strerror", None) or error)
