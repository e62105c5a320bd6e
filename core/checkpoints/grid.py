"""The number of grid cells of a model, from its weights, training state, options, puzzles, or vocabulary."""

from __future__ import annotations

import math
from typing import Any

from eqrlab.core.checkpoints.official_file import OfficialFile
from eqrlab.core.checkpoints.torchfile import Opaque, StoredTensor
from eqrlab.core.errors import CheckpointError

SUDOKU_CELLS = {8: 36, 11: 81}  # vocabularies that no other task of these files has
_USUAL_CELLS = {
    6: (900, "that of the public mazes of 30 x 30"),
    12: (900, "that of ARC on boards of 30 x 30"),
}  # where nothing else tells: smaller boards have these vocabularies too


def positions_told(file: OfficialFile, mixing: str | None) -> tuple[int | None, str]:
    """Return the number of positions (prefix and grid) given by the weights or the training state, and by which."""
    if mixing:
        return file.shape(mixing)[1], "the token mixer"
    for table in ("embed_pos.embedding_weight", "absolute_pos_embedding"):
        if table in file.tensors:
            return file.shape(table)[0], "the position embedding"
    z_H = _attribute(_attribute(file.content.get("carry"), "inner_carry"), "z_H")
    if isinstance(z_H, StoredTensor) and len(z_H.shape) == 3:
        return z_H.shape[1], "the training state"
    return None, ""


def cells_told(file: OfficialFile, seq_len: int | None) -> tuple[int | None, str]:
    """Return the number of grid cells that the caller or else the configuration tells, and "the configuration"."""
    file.asked |= {"seq_len", "max_seq_len"}
    if seq_len is not None or "seq_len" not in file.arch:
        return seq_len, ""
    return file.value("seq_len", int), "the configuration"


def grid_cells(
    file: OfficialFile,
    known: tuple[int | None, str],
    prefix_len: int,
    vocab: int,
    told: tuple[int | None, str],
) -> int:
    """Return the grid cells, from the weights, the training state, what is told, the puzzles or the vocabulary.

    Raises
    ------
    CheckpointError
        When the known positions leave another number of cells than is told, or none.
    """
    total, source = known
    cells, by = told
    if total is None:
        if cells is None:
            cells, by = _assumed_cells(file, vocab)
        if by:
            file.inferred.append(f"seq_len from {by}")
        return cells
    if total <= prefix_len:
        raise CheckpointError(f"{prefix_len} prefix positions leave no grid cell of the {total} of {source}")
    if cells not in (None, total - prefix_len):
        said = f"{by} says seq_len {cells}" if by else f"seq_len {cells} was asked for"
        raise CheckpointError(f"{said}, {source} has {total - prefix_len} grid cells")
    file.inferred.append(f"seq_len from {source}")
    return total - prefix_len


def _assumed_cells(file: OfficialFile, vocab: int) -> tuple[int, str]:
    """Return the grid cells of the longest sequence allowed, of the given puzzles, or of the boards of a vocabulary."""
    # Where the weights tell the size, the longest length need not be the number of cells, and is not asked.
    if "max_seq_len" in file.arch:
        return file.value("max_seq_len", int), "the configuration"
    if file.puzzle_cells is not None:
        return file.puzzle_cells(), "the puzzles"
    if vocab in SUDOKU_CELLS:
        return SUDOKU_CELLS[vocab], f"the vocabulary of {vocab} tokens, that of a Sudoku"
    if vocab in _USUAL_CELLS:
        cells, board = _USUAL_CELLS[vocab]
        return cells, f"the vocabulary of {vocab} tokens, {board}: an assumption"
    raise CheckpointError(
        "this attention checkpoint does not tell its grid size; pass seq_len (--seq-len, or --puzzles of its size)"
    )


def _attribute(value: Any, name: str) -> Any:
    """Return what an object of a foreign class kept under a name, or None."""
    return value.state.get(name) if isinstance(value, Opaque) and isinstance(value.state, dict) else None


def board_of(file: OfficialFile, seq_len: int) -> tuple[int, int]:
    """Return rows and columns of the board; a side that the configuration lacks is the root of the number of cells."""
    side = math.isqrt(seq_len)
    given = {name: file.arch.get(name) for name in ("board_height", "board_width")}
    file.asked |= set(given)
    if all(found is None for found in given.values()):
        file.inferred.append("square board by default")
    rows, columns = (side if found is None else file.value(name, int) for name, found in given.items())
    return rows, columns
