"""Running many rows in batches: side by side on a CPU, with progress, stopped together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eqrlab.attractors.trajectory import Recipe, run_rows


def automatic_batch(recipe: Recipe, rows: int) -> int:
    """Return a batch size whose working set stays moderate: a million state numbers on a CPU thread, 32 on a GPU."""
    if isinstance(recipe.initial, Tensor):
        size = recipe.initial[0, 0].numel()
    else:
        x = recipe.system.encode(recipe.inputs[:1].to(recipe.device))
        size = (recipe.initial or recipe.system.initial)(x, torch.Generator().manual_seed(0))[0].numel()
    cpu = recipe.device.type == "cpu"
    share = -(-rows // torch.get_num_threads()) if cpu else rows  # every thread shall have a batch
    return int(np.clip((2**20 if cpu else 2**25) // max(size, 1), 1, min(8192, max(share, 1))))


def run_in_batches(
    recipe: Recipe, rows: np.ndarray, batch: int | None, progress: bool | Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """Run rows (n,), flat indices puzzle * restarts + restart, and return the records, row axis first.

    Parameters
    ----------
    batch
        Rows at once; None chooses.
    progress
        True shows a bar on a terminal; a callable gets (row-steps done, all).
    """
    total, seen, lock, stopped = len(rows) * recipe.depth, 0, threading.Lock(), threading.Event()
    batch = batch or automatic_batch(recipe, len(rows))
    bar = tqdm(
        total=total,
        unit="step",
        unit_scale=True,
        desc="sampling",
        disable=None if progress is True else True,
        leave=False,
    )

    def tick(count: int) -> None:
        nonlocal seen
        if stopped.is_set():
            raise InterruptedError("sampling was stopped")
        with lock:
            seen += count
            bar.update(count)
            if callable(progress):
                progress(seen, total)

    pieces = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    with bar, one_thread_a_batch(recipe.device, len(pieces)) as run:
        try:
            parts = list(run(lambda piece: run_rows(recipe, piece, tick), pieces))
        except BaseException:
            stopped.set()  # batches under way end at their next step
            raise
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@contextmanager
def one_thread_a_batch(device: torch.device, batches: int) -> Iterator[Callable]:
    """Give a `map` that runs batches side by side on a CPU, each on one thread.

    Notes
    -----
    The matrices of a small model are too small to be split over threads: waiting for one another costs more than it
    saves, and far more on a busy machine.  On a GPU, or with a single batch or thread, it is the ordinary `map`.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or min(threads, batches) < 2:
        yield map
        return
    pool = ThreadPoolExecutor(min(threads, batches), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
