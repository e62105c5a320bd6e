"""Records of runs kept in a folder while an ensemble is sampled, so that one that was stopped goes on where it was."""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eqrlab.attractors.ensemble.batches import Records, run_in_batches
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.fates.records import digest
from eqrlab.core.files import replaced_whole

EVERY = 30.0  # seconds between two files: so much is lost at most, and short runs leave none


class RowStore:
    """Keeps the records of rows in files FOLDER/ROW-COUNT.npz, each whole or not there.

    Parameters
    ----------
    folder
        Of one run alone: whose records they are is not looked at.
    every
        Seconds between two files.
    """

    def __init__(self, folder: Path, every: float = EVERY):
        self.folder, self.every = folder, every
        self._lock, self._written = threading.Lock(), time.monotonic()
        self._new: list[tuple[np.ndarray, Records]] = []

    def load(self) -> tuple[np.ndarray, Records]:
        """Return the rows (n,) that are kept, and their records; a damaged file is left out."""
        parts: list[tuple[np.ndarray, Records]] = []
        for file in sorted(self.folder.glob("*.npz")):
            try:
                with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as stored:
                    part = {name: stored[name] for name in stored.files}
            except (OSError, ValueError, zipfile.BadZipFile):
                continue
            parts.append((part.pop("row"), part))
        return _joined(parts)

    def put(self, rows: np.ndarray, records: Records) -> None:
        """Take in the records of rows (n,); they are written when it is time."""
        with self._lock:
            self._new.append((rows, dict(records)))  # the caller takes its own apart
            if time.monotonic() - self._written >= self.every:
                rows, records = _joined(self._new)
                with (
                    replaced_whole(self.folder / f"{rows[0]}-{len(rows)}.npz") as file,
                    open(file, "wb") as out,
                ):
                    np.savez(out, row=rows, **records)  # type: ignore[arg-type]
                self._new, self._written = [], time.monotonic()

    def remove(self) -> None:
        """Remove the files, now that they are not needed any more."""
        if self.folder.is_dir():
            for file in (*self.folder.glob("*.npz"), *self.folder.glob(".*.npz.*.tmp")):
                file.unlink(missing_ok=True)
            self.folder.rmdir()


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
    known, kept = (np.zeros(0, int), {}) if store is None else store.load()
    missing = rows[~np.isin(rows, known)]

    def shorten(piece: np.ndarray, records: Records) -> Records:
        short = digest(records, run.depth, run.tolerances)
        if store is not None:
            store.put(piece, short)
        return short

    found = [(known, kept)] if len(known) else []
    if len(missing):
        found.append((missing, run_in_batches(run, missing, batch_size, progress, shorten, doing)))
    have, records = _joined(found)
    order = np.argsort(have, kind="stable")
    place = order[np.searchsorted(have, rows, sorter=order)]
    return {name: values[place] for name, values in records.items()}
