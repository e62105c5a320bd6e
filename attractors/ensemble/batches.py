"""Running many rows in batches: in parallel on a CPU, with a progress bar, and stopped together."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.iterate import run_rows
from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.core.progress import shown, tqdm

Records = dict[str, np.ndarray]


def batch_of(recipe: Recipe, rows: int, asked: int | None) -> int:
    """Return the number of rows to run at once: as requested, or chosen from the size of a state.

    Raises
    ------
    ValueError
        For a batch size below 1.
    """
    if asked is None:
        return automatic_batch(recipe, rows)
    require_integers(batch_size=asked)
    return int(asked)


def automatic_batch(recipe: Recipe, rows: int) -> int:
    """Return a batch size whose working set stays moderate: a million state numbers on a CPU thread, 32 on a GPU."""
    size = recipe.start[0].numel()
    cpu = recipe.place.device.type == "cpu"
    share = -(-rows // torch.get_num_threads()) if cpu else rows  # every thread shall have a batch
    most = (2**20 if cpu else 2**25) // max(size, 1)
    if "trajectory" in recipe.keep:
        most = min(
            most, 2**25 // max(size * recipe.depth, 1)
        )  # all states of a batch are held until it is done
    return int(np.clip(most, 1, min(8192, max(share, 1))))


class RowSteps:
    """Count and show the row-steps of batches that run in parallel, and stop those batches together.

    Parameters
    ----------
    total, seen
        All row-steps, and those made before.
    progress
        True shows a bar on a terminal; a callable gets (row-steps done, all).
    doing
        Name of the bar.
    """

    def __init__(
        self, total: int, progress: bool | Callable[[int, int], None], doing: str = "sampling", seen: int = 0
    ):
        self.total, self.seen, self.progress = total, seen, progress
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._bar = tqdm(
            total=total, initial=seen, unit="step", unit_scale=True, desc=doing, **shown(progress),
        )  # fmt: skip

    def __call__(self, count: int) -> None:
        if self._stopped.is_set():
            raise InterruptedError("sampling was stopped")
        with self._lock:
            self.seen += count
            self._bar.update(count)
            if callable(self.progress):
                self.progress(self.seen, self.total)

    def __enter__(self) -> RowSteps:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def stop(self) -> None:
        """Make running batches end at their next step."""
        self._stopped.set()


def run_in_batches(
    recipe: Recipe,
    rows: np.ndarray,
    batch: int | None,
    progress: bool | Callable[[int, int], None],
    shorten: Callable[[np.ndarray, Records], Records] = lambda rows, records: records,
    doing: str = "sampling",
) -> Records:
    """Run rows (n,), flat indices puzzle * restarts + restart, and return the records, row axis first.

    Parameters
    ----------
    batch
        Rows at once; None chooses.
    progress
        True shows a bar on a terminal; a callable gets (row-steps done, all).
    shorten
        What is kept of the rows of a batch and their records.
    doing
        Name of the bar.
    """
    batch = batch_of(recipe, len(rows), batch)
    pieces = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    with (
        RowSteps(len(rows) * recipe.depth, progress, doing) as steps,
        one_thread_a_batch(recipe.place.device, len(pieces)) as run,
    ):
        batches = Batches(recipe, steps)
        try:
            parts = list(run(lambda piece: shorten(piece, batches(piece)), pieces))
        except BaseException:
            steps.stop()
            raise
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


class Batches:
    """Run batches of rows of a recipe; a batch that does not fit in memory is halved, and so are all later ones.

    Attributes
    ----------
    most
        Largest number of rows that memory has allowed so far, None: no limit seen.

    Raises
    ------
    MemoryError, RuntimeError
        The original error, if not even a single row fits.

    Notes
    -----
    Halving changes results only by rounding, since rows are computed independently.
    """

    def __init__(self, recipe: Recipe, tick: Callable[[int], None]):
        self.recipe, self.tick = recipe, tick
        self.most: int | None = None

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        size = min(len(rows), self.most or len(rows))
        if size < len(rows):
            parts = [self(rows[start : start + size]) for start in range(0, len(rows), size)]
            return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            self.tick(count)
            done += count

        try:
            return run_rows(self.recipe, rows, tick)
        except (MemoryError, RuntimeError) as error:
            if len(rows) < 2 or not is_out_of_memory(error):
                raise
        self.tick(-done)
        self.most = min(self.most or len(rows), (len(rows) + 1) // 2)
        kind = self.recipe.place.device.type
        if kind in ("cuda", "mps"):
            getattr(torch, kind).empty_cache()
        warnings.warn(
            f"{len(rows)} rows at once do not fit in memory: continuing with {self.most}, "
            "with results equal up to rounding",
            stacklevel=2,
        )
        return self(rows)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory; except on CUDA, PyTorch says so only in a RuntimeError's text."""
    if type(error) is RuntimeError:
        return any(said in str(error) for said in ("DefaultCPUAllocator", "MPS backend out of memory"))
    return isinstance(error, (MemoryError, torch.OutOfMemoryError))


def bounded_map(
    pool: ThreadPoolExecutor, ahead: int, function: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """Yield the results in order, like `pool.map`, but start at most `ahead` items in advance."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def one_thread_a_batch(device: torch.device, batches: int) -> Iterator[Callable]:
    """Yield a `map` that runs batches in parallel on a CPU, each on one thread.

    Notes
    -----
    The matrices of a small model are too small to be split over threads: synchronising the threads costs more than it
    saves, and far more on a busy machine.  On a GPU, or with a single batch or thread, it is the ordinary `map`.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or min(threads, batches) < 2:
        yield map
        return
    pool = ThreadPoolExecutor(min(threads, batches), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield partial(bounded_map, pool, 2 * threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
