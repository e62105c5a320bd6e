"""From completed batches to one archive, streamed: first quantities of the whole ensemble, then its rows in order."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.attractors.fates.fate import band_limit, solved_residuals
from eqrlab.attractors.fates.records import noise_ratios
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.archive import netcdf_errors, stored
from eqrlab.attractors.streaming.batch_store import Parts
from eqrlab.core.files import replaced_whole

CHUNK = 2**18  # bytes of a chunk before compression
FEW = 2**20  # numbers that are sorted in memory


@dataclasses.dataclass(frozen=True)
class Job:
    """An ensemble that is computed in batches: rows (puzzle * restarts + restart) number * batch, ... each.

    Attributes
    ----------
    attributes
        What the archive says beyond `sample`.
    """

    recipe: Recipe
    batch: int
    parts: Parts
    attributes: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self.recipe.rows

    @property
    def batches(self) -> int:
        """Number of all batches."""
        return -(-self.rows // self.batch)

    def span(self, number: int) -> tuple[int, int]:
        """Return the first row of a batch, and the one after its last."""
        return number * self.batch, min((number + 1) * self.batch, self.rows)

    def read(self, number: int, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """Return the records of a completed batch."""
        first, end = self.span(number)
        return self.parts.read(number, end - first, names)

    def completed(self) -> list[int]:
        """Return the numbers of completed batches, in order."""
        return sorted(self.parts.place)


def order_statistics(
    values: Callable[[], Iterable[np.ndarray]], ranks: Callable[[int], Sequence[int]]
) -> tuple[int, list[float]]:
    """Return how many numbers there are, and the numbers with given ranks (from 0), exactly and in little memory.

    Parameters
    ----------
    values
        Gives the numbers in pieces, float64 and >= 0, the same at every call.
    ranks
        Number of values -> ranks wanted.

    Notes
    -----
    The bit patterns of numbers >= 0 are ordered as they are: counted by their first 16 bits, then among those that
    share the bits found, until few enough are left to be sorted.  At most 5 passes.

    Examples
    --------
    >>> order_statistics(lambda: [np.array([3.0, 1.0]), np.array([2.0])], lambda n: [n // 2])
    (3, [2.0])
    """

    def within(prefix: int, bits: int) -> Iterator[np.ndarray]:
        for piece in values():
            keys = (np.asarray(piece, np.float64) + 0.0).view(np.uint64)
            yield keys if not bits else keys[keys >> np.uint64(64 - bits) == prefix]

    def histogram(prefix: int, bits: int) -> np.ndarray:
        counts = np.zeros(2**16, np.int64)
        for keys in within(prefix, bits):
            digits = (keys >> np.uint64(48 - bits)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.int64), minlength=2**16)
        return counts

    first = histogram(0, 0)
    total = int(first.sum())
    found = []
    for rank in ranks(total):
        prefix, bits, counts, left = 0, 0, first, rank
        while True:
            below = np.cumsum(counts)
            digit = int(np.searchsorted(below, left, side="right"))
            left -= int(below[digit] - counts[digit])
            prefix, bits = (prefix << 16) | digit, bits + 16
            if bits == 64:
                found.append(float(np.array([prefix], np.uint64).view(np.float64)[0]))
                break
            if counts[digit] <= FEW:
                keys = np.sort(np.concatenate(list(within(prefix, bits))))
                found.append(float(keys[left : left + 1].view(np.float64)[0]))
                break
            counts = histogram(prefix, bits)
    return total, found


def quantile(values: Callable[[], Iterable[np.ndarray]], q: float, least: int = 1) -> float | None:
    """Return the quantile of numbers in pieces as `numpy.quantile` has it, None with fewer than `least` of them."""

    def neighbours(count: int) -> list[int]:
        if count < max(least, 1):
            return []
        low = math.floor((count - 1) * q)
        return [low, min(low + 1, count - 1)]

    count, found = order_statistics(values, neighbours)
    if not found:
        return None
    place = (count - 1) * q
    return float(np.quantile(np.array(found), place - math.floor(place)))


def whole_quantities(job: Job) -> tuple[float, float]:
    """Return the quantities of all runs on which the fate of one depends: relative noise size and solved band."""
    recipe, judged = job.recipe, job.recipe.judge.known

    def noises() -> Iterator[np.ndarray]:
        for number in job.completed():
            r = job.read(number, ("residual", "update", "norm"))
            yield noise_ratios(r["residual"], r["update"], r["norm"])

    def solved() -> Iterator[np.ndarray]:
        for number in job.completed():
            r = job.read(number, ("residual", "norm", "code", "correct", "run_finite"))
            right = r["correct"][:, -1] & judged
            residual, size = r["residual"].astype(float), r["norm"].astype(float)
            yield solved_residuals(residual, size, r["code"], right, r["run_finite"])

    noise = 0.0
    if recipe.noise:
        count, middle = order_statistics(noises, lambda n: [(n - 1) // 2, n // 2] if n else [])
        noise = float(np.median(middle)) if count else 0.0
    limits = recipe.tolerances
    band = quantile(solved, limits.band_quantile, limits.band_runs)
    return noise, band_limit(band, limits, limits.numerical_floor(torch.finfo(recipe.dtype).eps), noise)


class AnswerNumbers:
    """Numbers of the answers of one puzzle at a time, in one pass over its batches; the puzzles come in order."""

    def __init__(self, job: Job):
        self.job, self.puzzle = job, -1
        self.known, self.rank = np.zeros(0, np.uint64), np.zeros(0, np.int32)

    def __call__(self, puzzle: int, code: np.ndarray) -> np.ndarray:
        if puzzle != self.puzzle:
            self._count(puzzle)
        return self.rank[np.searchsorted(self.known, code)]

    def _count(self, puzzle: int) -> None:
        """Rank the answers as `records.answer_ids` does: the most frequent first, ties by their hash."""
        job, begin = self.job, puzzle * self.job.recipe.restarts
        end = begin + job.recipe.restarts
        known, often = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for number in range(begin // job.batch, -(-end // job.batch)):
            if number not in job.parts.place:
                continue
            first, _ = job.span(number)
            codes = job.read(number, ("code",))["code"][max(begin - first, 0) : end - first]
            new, counts = np.unique(codes, return_counts=True)
            known, inverse = np.unique(np.concatenate([known, new]), return_inverse=True)
            total = np.zeros(len(known), np.int64)
            np.add.at(total, inverse.reshape(-1), np.concatenate([often, counts]))
            often = total
        self.puzzle, self.known = puzzle, known
        self.rank = np.empty(len(known), np.int32)
        self.rank[np.argsort(-often, kind="stable")] = np.arange(len(known))


def rectangles(first: int, end: int, restarts: int) -> Iterator[tuple[slice, slice, slice]]:
    """Split rows first, ..., end - 1 into rectangles: puzzles, restarts, and the rows of each counted from `first`."""
    row = first
    while row < end:
        puzzle, restart = divmod(row, restarts)
        whole = (end - row) // restarts if restart == 0 else 0
        stop = row + whole * restarts if whole else min(end, (puzzle + 1) * restarts)
        puzzles = slice(puzzle, puzzle + max(whole, 1))
        yield (
            puzzles,
            slice(restart, restarts if whole else restart + stop - row),
            slice(row - first, stop - first),
        )
        row = stop


def merge(job: Job, path: Path) -> None:
    """Write the archive of all completed batches, whole or not at all; of a part of them, marked as unfinished.

    Notes
    -----
    Runs not yet computed are NaN, -1 or False, and False in `sampled`; the attribute `complete` is 0.
    """
    complete = len(job.parts.place) == job.batches
    quantities = whole_quantities(job)
    numbers = AnswerNumbers(job)
    template = _rows(job, job.completed()[0], numbers, quantities, complete)
    sizes = {str(k): v for k, v in template.sizes.items()}
    sizes |= {"puzzle": len(job.recipe.inputs), "restart": job.recipe.restarts}
    attributes = {**template.attrs, **job.attributes, "restarts": sizes["restart"], "complete": int(complete)}
    attributes = {k: schema.plain(v) for k, v in attributes.items()}
    fixed = {
        "puzzle": np.arange(sizes["puzzle"]),
        "restart": job.recipe.first_restart + np.arange(sizes["restart"]),
        "inputs": job.recipe.inputs.numpy().astype(np.int32),
    }
    if job.recipe.identifiers is not None:
        fixed["identifier"] = job.recipe.identifiers.numpy()
    if job.recipe.judge.labels is not None:
        fixed["labels"] = job.recipe.judge.labels.astype(np.int32)
    with replaced_whole(path) as temporary, netcdf_errors(path), netCDF4.Dataset(temporary, "w") as file:
        # Every value is written below, so that filling variables first would write the file twice.
        file.set_fill_off()
        file.setncatts(attributes)
        group = file.createGroup("ensemble")
        group.setncatts(attributes)
        for name, size in sizes.items():
            group.createDimension(name, size)
        running = {}
        for key, variable in template.variables.items():
            name = str(key)
            made = _define(group, name, variable, sizes)
            if {"puzzle", "restart"} <= set(variable.dims):
                running[name] = (made, hashlib.sha256())
            else:
                values = stored(np.asarray(fixed.get(name, variable.values)))
                made[...] = values
                made.sha256 = hashlib.sha256(values.tobytes()).hexdigest()
        # In C order of (puzzle, restart), as checksums need it; a batch that is not done leaves missing values.
        for number in range(job.batches):
            first, end = job.span(number)
            there = number in job.parts.place
            batch = _rows(job, number, numbers, quantities, complete) if there else template
            for name, (made, digest) in running.items():
                values = stored(batch[name].values[0] if there else _missing(batch[name], end - first))
                digest.update(values.tobytes())
                for puzzles, restarts, rows in rectangles(first, end, sizes["restart"]):
                    shape = (puzzles.stop - puzzles.start, restarts.stop - restarts.start, *values.shape[1:])
                    made[puzzles, restarts] = values[rows].reshape(shape)
        for made, digest in running.values():
            made.sha256 = digest.hexdigest()
    job.parts.close()


def _rows(
    job: Job, number: int, numbers: AnswerNumbers, quantities: tuple[float, float], complete: bool
) -> xr.Dataset:
    """Return the rows of a completed batch as one puzzle's ensemble (1, rows, ...)."""
    records = job.read(number)
    first, end = job.span(number)
    ids = np.empty(records["code"].shape, np.int32)
    for puzzles, _, rows in rectangles(first, end, job.recipe.restarts):
        for i, puzzle in enumerate(range(puzzles.start, puzzles.stop)):
            span = job.recipe.restarts if puzzles.stop - puzzles.start > 1 else rows.stop - rows.start
            mine = slice(rows.start + i * span, rows.start + (i + 1) * span)
            ids[mine] = numbers(puzzle, records["code"][mine])
    recipe = job.recipe.puzzles(slice(1)).with_(restarts=end - first)
    noise, threshold = quantities
    part = assemble(recipe, {**records, "answer_id": ids}, noise, threshold)
    if not complete:
        text = {"long_name": "this run is computed", "units": "1"}
        part["sampled"] = (("puzzle", "restart"), np.ones((1, end - first), bool), text)
    return part


def _missing(variable: xr.DataArray, rows: int) -> np.ndarray:
    """Return what stands for runs that are not computed."""
    filler = {"f": np.nan, "b": False}.get(variable.dtype.kind, -1)
    return np.full((rows, *variable.shape[2:]), filler, variable.dtype)


def _define(
    group: netCDF4.Group, name: str, variable: xr.Variable, sizes: Mapping[str, int]
) -> netCDF4.Variable:
    """Define a variable as `archive.write` does: shuffled, compressed, in chunks along the last dimensions."""
    kind = stored(variable.values[:0]).dtype
    shape = [sizes[str(d)] for d in variable.dims]
    chunk, room = [1] * len(shape), max(CHUNK // kind.itemsize, 1)
    for axis in reversed(range(len(shape))):
        chunk[axis] = min(shape[axis], room)
        room = max(room // max(shape[axis], 1), 1)
    made = group.createVariable(
        name, kind, [str(d) for d in variable.dims], compression="zlib", complevel=4, shuffle=True,
        chunksizes=[max(c, 1) for c in chunk], endian="little", fill_value=np.nan if kind.kind == "f" else None,
    )  # fmt: skip
    made.set_var_chunk_cache(4 * CHUNK)
    made.set_auto_maskandscale(False)
    made.setncatts(variable.attrs | ({"dtype": "bool"} if variable.dtype == bool else {}))
    return made
