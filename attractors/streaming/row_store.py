"""Records of runs kept in a folder while an ensemble is sampled, so that one that was stopped goes on where it was."""

from __future__ import annotations

import stat
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import xarray as xr

from eqrlab.attractors.ensemble.batches import Records, run_in_batches
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.attractors.fates.records import digest
from eqrlab.core.files import replaced_whole

REQUEST = "request.json"
EVERY = 30.0  # seconds between two files: so much is lost at most, and short runs leave none


class RowStore:
    """Keeps the records of rows in files FOLDER/ROW-COUNT.npz, each whole or not there.

    Parameters
    ----------
    folder
        Of one run alone: whose records they are is not looked at.
    every
        Seconds between two files.
    request
        What describes the run; it is kept in FOLDER/request.json, for those who look whose records they are.
    """

    def __init__(self, folder: Path, every: float = EVERY, request: str = ""):
        self.folder, self.every, self.request = folder, every, request
        self.like: Records | None = None  # of a row: says what records of the run look like, once it is asked
        self._lock, self._written = threading.Lock(), time.monotonic()
        self._new: list[tuple[np.ndarray, Records]] = []

    def files(self) -> list[Path]:
        """Return the files that may hold records: regular ones of the right name, links and pipes are none."""
        return [f for f in sorted(self.folder.glob("*.npz")) if stat.S_ISREG(f.lstat().st_mode)]

    def load(self, like: Records, count: int) -> tuple[np.ndarray, Records]:
        """Return the rows (n,) that are kept, and their records; a file that is damaged or of another run is left out.

        Parameters
        ----------
        like
            Records of any row of the run: others have their names, dtypes and shapes.
        count
            Number of rows of the run.
        """
        parts = [part for file in self.files() if (part := _read(file, like, count)) is not None]
        rows, records = _joined(parts)
        first = np.unique(rows, return_index=True)[1]
        return rows[first], {name: values[first] for name, values in records.items()}

    def put(self, rows: np.ndarray, records: Records) -> None:
        """Take in the records of rows (n,); they are written when it is time."""
        with self._lock:
            self._new.append((rows, dict(records)))  # the caller takes its own apart
            if time.monotonic() - self._written >= self.every:
                rows, records = _joined(self._new)
                if self.request and not (about := self.folder / REQUEST).exists():
                    with replaced_whole(about) as file:
                        file.write_text(self.request, encoding="utf-8")
                with (
                    replaced_whole(self.folder / f"{rows[0]}-{len(rows)}.npz") as file,
                    open(file, "wb") as out,
                ):
                    np.savez(out, row=rows, **records)  # type: ignore[arg-type]
                self._new, self._written = [], time.monotonic()

    def remove(self) -> None:
        """Remove the files, now that they are not needed any more."""
        if self.folder.is_dir():
            rests = (rest for name in ("*.npz", REQUEST) for rest in self.folder.glob(f".{name}.*.tmp"))
            for file in (*self.files(), *rests, self.folder / REQUEST):
                file.unlink(missing_ok=True)
            with suppress(OSError):  # what else is in there is not ours
                self.folder.rmdir()


def _read(path: Path, like: Records, count: int) -> tuple[np.ndarray, Records] | None:
    """Return the rows and records of a file; None unless it is whole and its records are like those."""
    try:
        with zipfile.ZipFile(path) as held:
            sizes = [(info.compress_type, info.file_size) for info in held.infolist()]
        if (
            any(kind != zipfile.ZIP_STORED for kind, _ in sizes)
            or sum(n for _, n in sizes) > path.stat().st_size
        ):
            return None  # it would unpack to more than it is
        with np.load(path, allow_pickle=False) as stored:
            part = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, MemoryError, zipfile.BadZipFile):
        return None
    rows = part.pop("row", None)
    if rows is None or rows.ndim != 1 or rows.dtype.kind != "i" or ((rows < 0) | (rows >= count)).any():
        return None
    wanted = {name: (len(rows), *values.shape[1:], values.dtype) for name, values in like.items()}
    found = {name: (*values.shape, values.dtype) for name, values in part.items()}
    return (rows, part) if found == wanted else None


def _joined(parts: list[tuple[np.ndarray, Records]]) -> tuple[np.ndarray, Records]:
    if not parts:
        return np.zeros(0, int), {}
    rows = np.concatenate([rows for rows, _ in parts])
    return rows, {name: np.concatenate([records[name] for _, records in parts]) for name in parts[0][1]}


def records_of(
    run: Run,
    rows: np.ndarray,
    *,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    store: RowStore | None = None,
    doing: str = "sampling",
) -> Records:
    """Return the digested records of rows (n,) of a run: those kept in the store, the others run and put there.

    Parameters
    ----------
    doing
        Name of the bar.
    """

    def shorten(piece: np.ndarray, records: Records) -> Records:
        short = digest(records, run.depth, run.tolerances)
        if store is not None:
            store.put(piece, short)
        return short

    known, kept = _joined([])
    if store is not None and len(rows) and store.files():
        if store.like is None:
            one = run_in_batches(run, rows[:1], 1, False)
            store.like = digest(one, run.depth, run.tolerances)
        known, kept = store.load(store.like, run.rows)
    missing = rows[~np.isin(rows, known)]
    found = [(known, kept)] if len(known) else []
    if len(missing):
        found.append((missing, run_in_batches(run, missing, batch_size, progress, shorten, doing)))
    have, records = _joined(found)
    order = np.argsort(have, kind="stable")
    place = order[np.searchsorted(have, rows, sorter=order)]
    return {name: values[place] for name, values in records.items()}


def sample_stored(
    run: Run,
    *,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    store: RowStore | None = None,
) -> xr.Dataset:
    """Return the ensemble of a run, as `Run.sample` does; rows that the store has are not run again."""
    rows = np.arange(run.rows)
    return assemble(run, records_of(run, rows, batch_size=batch_size, progress=progress, store=store))
