"""Puzzle embeddings of a model that was trained with identifiers; rows are read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.core.errors import CheckpointError

BLANK = 0  # the identifier of no puzzle: its row is that of a model asked without one
WHOLE = (
    1 << 26
)  # bytes of a table that is kept whole in a saved model; of a larger one the rows that were used


@dataclass(frozen=True)
class MappedRows:
    """Rows (count, width) of one dtype that are stored one after the other in a file, from an offset on.

    The file is memory-mapped for each read: only the pages with the requested rows are read, and nothing stays open.
    """

    path: Path
    offset: int
    count: int
    width: int
    dtype: torch.dtype
    stamp: tuple[int, int]  # size and time of change of the file when it was checked

    @classmethod
    def of(cls, path: Path, offset: int, count: int, width: int, dtype: torch.dtype) -> MappedRows:
        """Return the rows at an offset of a file as it is now.

        Raises
        ------
        CheckpointError
            When the file ends before them.
        """
        path = path.absolute()  # the working folder may be another one later
        rows = cls(path, offset, count, width, dtype, _stamp(path))
        if offset + count * rows.bytes_each > rows.stamp[0]:
            raise CheckpointError(
                f"the {count} rows of puzzle_emb.weights end beyond the end of the file: it is truncated"
            )
        return rows

    @property
    def bytes_each(self) -> int:
        return self.width * self.dtype.itemsize

    def __getitem__(self, index: Tensor) -> Tensor:
        if _stamp(self.path) != self.stamp:
            raise CheckpointError(
                f"{self.path}: the file has changed since the model was loaded; load it again"
            )
        mapped = np.memmap(self.path, np.uint8, "r", self.offset, (self.count, self.bytes_each))
        return torch.from_numpy(np.array(mapped[index.numpy()])).view(self.dtype)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path}: the puzzle embeddings cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, eq=False)
class PuzzleTable:
    """Puzzle embeddings by identifier.

    Attributes
    ----------
    count, width
        Identifiers 0 to count - 1, and numbers in a row.
    rows
        What holds them, (k, width): a tensor, or rows of a file.
    kept
        The identifiers (k,) that `rows` has, ascending, where a saved model keeps only some; None: all.
    used
        Identifiers that were asked for, which a saved model keeps.
    """

    count: int
    width: int
    rows: Tensor | MappedRows = field(repr=False)
    kept: np.ndarray | None = field(default=None, repr=False)
    used: set[int] = field(default_factory=set, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> PuzzleTable:
        return self  # copies of a model share its table, as it never changes

    def __call__(self, identifiers: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Return the rows (n, width) of identifiers (n,), float32 on the CPU.

        Raises
        ------
        ValueError
            For an identifier that the table does not have.
        CheckpointError
            For a row with NaN or infinite values, or a file that has changed.
        """
        asked = torch.as_tensor(identifiers).cpu().long()
        require_identifiers(asked, self.count)
        place = asked
        if self.kept is not None:
            where = np.searchsorted(self.kept, asked.numpy()).clip(max=len(self.kept) - 1)
            lost = asked.numpy()[self.kept[where] != asked.numpy()]
            if len(lost):
                raise ValueError(
                    f"this file keeps {len(self.kept)} of {self.count} puzzle embeddings, and not that of identifier "
                    f"{lost[0]}: load the checkpoint it was saved from"
                )
            place = torch.from_numpy(where)
        distinct, again = place.unique(return_inverse=True)
        found = self.rows[distinct].float()
        bad = (~torch.isfinite(found)).any(1)
        if bad.any():
            row = int(asked[again == int(bad.nonzero()[0])][0])
            raise CheckpointError(f"row {row} of puzzle_emb.weights has NaN or infinite values")
        self.used.update(asked.tolist())
        return found[again]

    def to_keep(self) -> tuple[np.ndarray, Tensor]:
        """Return the identifiers (k,) and rows (k, width) that a saved model keeps."""
        if self.kept is not None:
            identifiers = self.kept
        elif self.count * self.width * 4 <= WHOLE:
            identifiers = np.arange(self.count)
        else:
            identifiers = np.array(sorted({BLANK, *self.used}))
        return identifiers, self(identifiers)


def require_identifiers(identifiers: Tensor, count: int) -> None:
    """Raise ValueError for the first identifier (n,) that a model of so many does not have."""
    outside = identifiers[(identifiers < 0) | (identifiers >= count)]
    if len(outside):
        there = f"{count} puzzle identifiers, 0 to {count - 1}" if count > 1 else "one puzzle identifier, 0"
        raise ValueError(f"this model has {there}, got identifier {int(outside[0])}")
