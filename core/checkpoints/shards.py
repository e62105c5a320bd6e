"""Safetensors in several files: an index names the file of every tensor."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from torch import Tensor

from eqrlab.core.checkpoints.tensors import read_safetensors
from eqrlab.core.errors import CheckpointError
from eqrlab.core.files import sha256, what_is_wrong
from eqrlab.core.messages import brief
from eqrlab.core.regular import parse_json, read_text

INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)\.safetensors")
_MOST_INDEX = 1 << 22  # bytes
_MOST_SHARDS = 1000


def index_of(path: Path) -> Path | None:
    """Return the index that a path is, or that lies beside a shard; None for other files."""
    if path.name.endswith(INDEX):
        return path
    shard = _SHARD.fullmatch(path.name)
    beside = path.with_name(f"{shard[1]}{INDEX}") if shard else path
    return beside if shard and beside.is_file() else None


def lacks_index(path: Path) -> str | None:
    """Return, for one of several files of a model, what is wrong if the index that lists them is not beside it."""
    shard = _SHARD.fullmatch(path.name)
    if shard is None or int(shard[2]) == 1 or index_of(path) is not None:
        return None
    return f"{brief(path.name)} is one of several files of a model, and {shard[1]}{INDEX}, which lists them, is missing"


def read(index: Path) -> dict[str, Tensor]:
    """Read the tensors of all files that an index names.

    Raises
    ------
    CheckpointError
        When the index is none, names a file elsewhere, or a file is missing or has not the tensors it is to have.
    """
    where = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        path = index.with_name(name)
        if problem := what_is_wrong(path):
            raise CheckpointError(f"{index}: the file {brief(name)} that it names: {problem}")
        found, _ = read_safetensors(path)
        tensors |= {n: t for n, t in found.items() if where.get(n) == name}
    lacking = sorted(set(where) - set(tensors))
    if lacking:
        raise CheckpointError(f"{index}: tensor {brief(lacking[0])} is not in {brief(where[lacking[0]])}")
    return tensors


def files_of(path: Path) -> list[str]:
    """Return the names of the files that an index names; of other files none.

    Raises
    ------
    CheckpointError
        See `read`.
    """
    return sorted(set(_weight_map(path).values())) if path.name.endswith(INDEX) else []


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a checkpoint: of the file, or of the digests of the index and its shards by name."""
    index = index_of(path)
    if index is None:
        return sha256(path)
    names = sorted({index.name, *_weight_map(index).values()})
    return hashlib.sha256("".join(f"{sha256(index.with_name(n))}  {n}\n" for n in names).encode()).hexdigest()


def _weight_map(index: Path) -> dict[str, str]:
    try:
        where = parse_json(read_text(index, _MOST_INDEX), str(index)).get("weight_map")
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(where, dict) or not where or not all(isinstance(v, str) for v in where.values()):
        raise CheckpointError(f"{index}: has no 'weight_map' from tensors to files")
    files = set(where.values())
    odd = next((f for f in sorted(files) if Path(f).name != f or not f.endswith(".safetensors")), None)
    if odd is not None or len(files) > _MOST_SHARDS:
        raise CheckpointError(
            f"{index}: names {brief(odd) if odd else f'{len(files)} files'}; .safetensors files beside it, at most "
            f"{_MOST_SHARDS}, are read"
        )
    return where
