"""Named tensors in eqrlab's own .safetensors files: written with a checksum, which is verified when they are read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eqrlab.core.errors import DAMAGE, CheckpointError
from eqrlab.core.files import replaced_whole, what_is_wrong

FORMAT = 1
_MOST_HEADER = 1 << 22  # bytes of a safetensors header: some 50,000 tensors
WEIGHTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_UNREADABLE = (SafetensorError, *DAMAGE)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write named tensors and a JSON header to one .safetensors file, whole or not at all, with a checksum.

    Raises
    ------
    OSError
        When it cannot be written: a full disk, a folder without permission.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    header = {**header, "tensors_sha256": _checksum(plain)}
    with replaced_whole(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"eqrlab": json.dumps(header)})
        except SafetensorError as error:  # what the library makes of a full disk
            raise OSError(f"{path}: cannot be written ({error})") from None


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}|{tensors[name].dtype}|{tuple(tensors[name].shape)}|".encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    CheckpointError
        For a file that is truncated, damaged, no safetensors file, or without an eqrlab header.
    """
    tensors, metadata = read_safetensors(path)
    return tensors, own_header(path, tensors, metadata)


def own_header(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Return eqrlab's header of a safetensors file, checked against the tensors."""
    try:
        header = json.loads(metadata.get("eqrlab", "null"))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: the safetensors metadata has no eqrlab header; was it saved by eqrlab.core.save?"
        )
    if header.setdefault("tensors_sha256", "") not in ("", _checksum(tensors)):
        raise CheckpointError(
            f"{path}: the tensors do not have the checksum in the header: the file is damaged"
        )
    return header


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read any safetensors file: tensors and metadata."""
    if Path(path).exists() and (problem := what_is_wrong(Path(path))):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with open(path, "rb") as start:
            header_bytes = int.from_bytes(start.read(8), "little")
        if header_bytes > _MOST_HEADER:
            raise CheckpointError(
                f"{path}: not a readable safetensors file (a header of {header_bytes} bytes is announced, "
                f"at most {_MOST_HEADER} are read)"
            )
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({str(error) or 'out of memory'})"
        ) from None
    return tensors, metadata
