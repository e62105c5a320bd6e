"""Parquet and feather files, read through pyarrow a batch of rows at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.formats.columns import Line, find_columns, line_of

_BATCH = 1 << 10  # rows of parquet that are decoded together
_LEAST_ROWS = 1 << 16  # rows that any file may have; one of more has a byte or more for each
_INDEX = re.compile(r"__index_level_\d+__")  # the numbers of rows, as pandas keeps them


def frame_rows(path: Path) -> tuple[list[str], Iterator[Line | Fault]]:
    """Split a parquet or feather file: names of the further columns, then puzzles; rows count from 1.

    Raises
    ------
    ValueError
        If pyarrow is not installed, the file is broken (also while rows are taken), or it names no puzzle.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise PuzzleFileError(
            f"{path}: {path.suffix} files are read through pyarrow; pip install 'eqrlab[tables]' ({error})"
        ) from None
    batches = _batches(
        path, (pyarrow.ArrowException, ArithmeticError, LookupError, OSError, TypeError, ValueError)
    )
    header: list[str] = next(batches)
    if not header:
        raise PuzzleFileError(f"{path}: a table without columns")
    puzzle, solution = find_columns(f"{path}", header)
    extra = [k for k, name in enumerate(header) if k not in (puzzle, solution) and not _INDEX.fullmatch(name)]
    most = _LEAST_ROWS + path.stat().st_size

    def rows() -> Iterator[Line | Fault]:
        for number, row in enumerate(itertools.chain.from_iterable(batches), start=1):
            if number > most:
                raise PuzzleFileError(
                    f"{path}: more than {most} rows in a file of so few bytes, which no puzzles have"
                )
            known = None if solution is None else row[solution]
            yield line_of(path, number, row[puzzle], known, [row[k] for k in extra])

    return [header[k] for k in extra], rows()


def _batches(path: Path, broken: tuple[type[Exception], ...]) -> Iterator[Any]:
    """Give the names of all columns, then rows in batches; pyarrow raises anything where a file is broken."""
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        with open(path, "rb") as file:
            if path.suffix.lower() == ".parquet":
                table = pyarrow.parquet.ParquetFile(file)
                yield list(table.schema_arrow.names)
                found = table.iter_batches(_BATCH)
            else:
                table = pyarrow.ipc.open_file(file)
                yield list(table.schema.names)
                found = map(table.get_batch, range(table.num_record_batches))
            for batch in found:
                batch.validate(full=True)  # before offsets are followed out of the memory
                for start in range(0, batch.num_rows, _BATCH):
                    columns = [column.to_pylist() for column in batch.slice(start, _BATCH).columns]
                    yield zip(*columns, strict=True)
    except broken as error:
        raise PuzzleFileError(f"{path}: not a sound {path.suffix} file ({str(error)[:200]})") from error
