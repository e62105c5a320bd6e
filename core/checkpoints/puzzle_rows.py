"""Puzzle embeddings in files: the table of a checkpoint stays in its file; a saved model contains some rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.core.checkpoints.tensors import WEIGHTS
from eqrlab.core.checkpoints.torchfile import StoredTensor
from eqrlab.core.checkpoints.zipfile import record_offset
from eqrlab.core.errors import CheckpointError
from eqrlab.core.models.puzzle_table import MappedRows, PuzzleTable

TABLE = "puzzle_emb.weights"  # of official checkpoints
_KEPT, _IDENTIFIERS = "puzzle_emb.rows", "puzzle_emb.identifiers"  # of saved models


def table_of(tensors: dict[str, Any], path: Path) -> PuzzleTable | None:
    """Remove the puzzle embeddings from the tensors of a checkpoint and return them; None if there is at most one.

    Raises
    ------
    CheckpointError
        If they are not rows of floating-point numbers, or end beyond the file.

    Notes
    -----
    Rows stored one after the other stay in the file, whatever its size, and are checked when they are read: neither the
    checksum of the record nor the other rows are read.
    """
    found = tensors.get(TABLE)
    if found is None or len(found.shape) != 2 or found.shape[0] < 2:
        return None
    count, width = found.shape
    if found.dtype not in WEIGHTS:
        raise CheckpointError(f"{TABLE} holds {found.dtype}, floating values are required (16 to 64 bits)")
    del tensors[TABLE]
    rows: Tensor | MappedRows
    if isinstance(found, Tensor):
        rows = found
    elif tuple(found.stride) == (width, 1):
        offset = record_offset(found.archive, found.record) + found.offset * found.dtype.itemsize
        rows = MappedRows.of(path, offset, count, width, found.dtype)
    else:
        rows = _read(found)
    return PuzzleTable(count, width, rows)


def _read(stored: StoredTensor) -> Tensor:
    return stored.of(bytearray(stored.archive.read(stored.record)))


def kept_tensors(table: PuzzleTable | None) -> dict[str, Tensor]:
    """Return the tensors that a saved model keeps of its puzzle embeddings."""
    if table is None:
        return {}
    identifiers, rows = table.to_keep()
    return {_IDENTIFIERS: torch.from_numpy(identifiers), _KEPT: rows}


def kept_table(tensors: dict[str, Tensor], count: Any, width: int) -> PuzzleTable | None:
    """Remove the puzzle embeddings from the tensors of a saved model with this many identifiers, and return them.

    Raises
    ------
    CheckpointError
        If tensors and count do not agree.
    """
    if count is None and not {_KEPT, _IDENTIFIERS} & set(tensors):
        return None
    identifiers, rows = tensors.pop(_IDENTIFIERS, torch.empty(0)), tensors.pop(_KEPT, torch.empty(0))
    if type(count) is not int or not 2 <= count < 1 << 40:
        raise CheckpointError("the header does not give the number of puzzle identifiers")
    if identifiers.dtype != torch.int64 or identifiers.ndim != 1 or not len(identifiers):
        raise CheckpointError(f"tensor {_IDENTIFIERS} must hold the identifiers of {_KEPT}")
    if rows.dtype not in WEIGHTS or rows.shape != (len(identifiers), width):
        raise CheckpointError(f"tensor {_KEPT} must hold {len(identifiers)} rows of {width} floating values")
    kept = identifiers.numpy()
    if (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= count:
        raise CheckpointError(f"tensor {_IDENTIFIERS} must be increasing numbers from 0 to {count - 1}")
    return PuzzleTable(count, width, rows, None if len(kept) == count else kept)
