"""Named tensors in a folder of files of bounded size, replaced as a whole: states that travel in small pieces."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.checkpoints.load import CheckpointError, read_tensors, replaced_whole, write_tensors

MANIFEST = "state.json"
SHARD_BYTES = 16_600_000  # of tensors in a file, a little under 16 MiB
_DTYPES = {
    str(d): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
}


def write_shards(
    folder: str | Path, tensors: dict[str, Tensor], header: dict[str, Any], limit: int = SHARD_BYTES
) -> None:
    """Write named tensors and a JSON header to a folder, in files that hold at most `limit` bytes of tensors.

    Notes
    -----
    The new files get new names; `state.json`, which lists them, is replaced last, and only then the old files go.
    Whenever writing is cut off, the folder holds one whole state.  Tensors are cut where a file is full.
    """
    folder, mark = Path(folder), uuid.uuid4().hex[:8]
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    room, layout = limit, {}
    for name, tensor in tensors.items():
        flat, pieces = tensor.detach().cpu().contiguous().view(-1), []
        while True:
            if room < flat.element_size():
                shards.append({})
                room = limit
            piece, flat = flat[: room // flat.element_size()], flat[room // flat.element_size() :]
            shards[-1][name] = piece
            pieces.append(len(shards) - 1)
            room -= piece.numel() * piece.element_size()
            if not flat.numel():
                break
        layout[name] = {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "shards": pieces}
    names = [f"state-{mark}-{k}.safetensors" for k in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, {"shard_of": mark})
    with replaced_whole(folder / MANIFEST) as temporary:
        temporary.write_text(
            json.dumps({"mark": mark, "files": names, "tensors": layout, "header": header}) + "\n"
        )
    for old in folder.glob("state-*.safetensors"):
        if old.name not in names:
            old.unlink()


def read_shards(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_shards` wrote.

    Raises
    ------
    CheckpointError
        For a folder without a readable `state.json`, and files that are missing, damaged, of another state or do not
        hold what it lists.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        mark, files, layout, header = (manifest[k] for k in ("mark", "files", "tensors", "header"))
        wanted = {n: (_DTYPES[t["dtype"]], tuple(t["shape"]), list(t["shards"])) for n, t in layout.items()}
        plain = all(type(name) is str and Path(name).name == name for name in files) and type(header) is dict
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable list of a training state ({error!r})") from None
    if not plain:
        raise CheckpointError(f"{path}: lists files outside of its folder, or has no header")
    shards = []
    for name in files:
        tensors, own = read_tensors(path.parent / name)
        if own.get("shard_of") != mark:
            raise CheckpointError(f"{path.parent / name}: belongs to another state than {path}")
        shards.append(tensors)
    whole = {}
    for name, (dtype, shape, pieces) in wanted.items():
        try:
            flat = torch.cat([shards[k][name] for k in pieces])
        except (IndexError, KeyError, TypeError, RuntimeError):
            raise CheckpointError(f"{path}: tensor {name} is not in the files it lists") from None
        if flat.dtype != dtype or flat.numel() != math.prod(shape):
            raise CheckpointError(
                f"{path}: tensor {name} has not the {math.prod(shape)} values it should have"
            )
        whole[name] = flat.view(shape)
    return whole, header
