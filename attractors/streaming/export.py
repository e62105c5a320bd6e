"""Ensembles written while they are sampled: in bounded memory, resumable, and shared by several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.batches import Batches, RowSteps, batch_of, one_thread_a_batch
from eqrlab.attractors.ensemble.options import RunOptions
from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.fates.records import digest
from eqrlab.attractors.results import archive, schema
from eqrlab.attractors.streaming import batch_store as parts
from eqrlab.attractors.streaming.batch_store import Parts, Shard, folder_of
from eqrlab.attractors.streaming.write_archive import Job, merge
from eqrlab.core import System
from eqrlab.core.models.system import dtype_name
from eqrlab.core.regular import parse_json

FLUSH_BYTES = 2**25  # records in memory before they are written ...
FLUSH_SECONDS = 10.0  # ... and how long they may wait for that
SNAPSHOT_SECONDS = 60.0  # between archives of what there is so far ...
SNAPSHOT_SHARE = 0.05  # ... which take at most this share of the time


class Progress(NamedTuple):
    """Progress of an export: batches completed, total number, and whether the archive is complete."""

    done: int
    total: int
    complete: bool


def export(
    system: System,
    inputs: Tensor | np.ndarray,
    path: str | Path,
    *,
    resume: bool = False,
    shard: tuple[int, int] = (0, 1),
    attributes: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    flush_seconds: float = FLUSH_SECONDS,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    **options: Unpack[RunOptions],
) -> Progress:
    """Sample an ensemble into the archive `path`, so that completed batches survive an interruption.

    Parameters
    ----------
    system, inputs, batch_size, progress
        As in `sample`.
    path
        The archive, FILE.nc; completed batches are stored in FILE.nc.parts until it is complete.
    resume
        Continue an unfinished export with the same arguments; start one if there is none.
    shard
        (i, n): compute every n-th batch, from number i on, beside n - 1 other processes.  The last one to finish writes
        the archive.
    attributes
        Written into the archive in addition to those of `sample`.
    flush_seconds
        Longest time that a completed batch waits to be written.
    snapshot_seconds
        Shortest time between two archives of what is completed so far.
    **options
        The others of `sample`, see `RunOptions`.

    Returns
    -------
    Progress
        Batches completed by all processes; `complete` when the archive is whole.

    Raises
    ------
    ValueError
        For arguments that `sample` refuses, an archive that exists, or an unfinished export of other arguments.
    BlockingIOError
        When another process is writing this archive.
    OSError
        When nothing can be written: no space, no permission.

    Notes
    -----
    The variables of the archive equal those of `sample` with the same arguments, bit for bit, also after
    interruptions; batches that had to be made smaller for lack of memory differ by rounding.  A batch size
    chosen automatically depends on the number of threads: give it to compare processes that have different
    numbers.

    FILE.nc is never half-written.  It exists from the first flush on, and contains the batches completed at the
    last snapshot (attribute `complete` = 0; `sampled` marks the runs); the parts contain everything written
    since.  A part is synced before it gets its name, which contains its checksum.  After an exception or
    KeyboardInterrupt, all completed batches are written.

    Memory: the batches under way, 32 MB of records, up to 128 MB of parts while they are merged, and 16 bytes for each
    different answer of one puzzle.  Space beside
    the archive: 30 bytes for each (puzzle, restart, step) and about 1 kB for each restart, and what is kept of states.

    Examples
    --------
    >>> import tempfile, torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(system, torch.zeros(1, 1, dtype=torch.long), f"{folder}/a.nc", restarts=4, depth=60)
    Progress(done=1, total=1, complete=True)
    """
    path, share = Path(path), Shard(*shard)
    if not 0 <= share.number < share.of:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {tuple(shard)}")
    if options.get("residuals", "all") != "all":
        raise ValueError("an export has residuals at every step: leave residuals at 'all'")
    if options.get("retire", False):
        raise ValueError("an export follows every run to its depth: leave retire at False")
    recipe = Run.of(system, inputs, **options)
    joining, folder = resume or share.of > 1, folder_of(path)
    if _completed(path) and not joining:
        raise ValueError(f"{path}: exists and is complete; remove it or choose another name")
    plan = plan_of(recipe, batch_size)
    done = _completed(path)
    if done is not None:
        _require_same(path, plan)
        if (left := parts.read_plan(folder)) and _difference(left[0], plan) is None:
            parts.remove(folder)  # its process was killed before it could do so
        return done
    with parts.claimed(path, share):
        done = _completed(path)  # other processes may have ended it meanwhile
        if done is not None:
            _require_same(path, plan)
            parts.remove(folder)
            return done
        _clean(path, share)
        batch = _agree(path, plan | {"attributes": dict(attributes or {})}, recipe, joining)
        about = {"batch_size": batch, **dict(attributes or {}), "plan": json.dumps(plan)}
        job = Job(recipe, batch, Parts(folder), about)
        job.parts.clean(share)
        job.parts.refresh()
        try:
            _run(job, path, share, progress, flush_seconds, snapshot_seconds)
            return _finish(job, path, share)
        finally:
            job.parts.close()


def status(path: str | Path) -> Progress | None:
    """Return the progress of the export into an archive; None if there is none.

    Raises
    ------
    ValueError
        For an unfinished archive whose parts are missing, or damaged parts.
    """
    path = Path(path)
    done = _completed(path)
    if done is not None:
        return done
    found = parts.read_plan(folder_of(path))
    if found is None and path.exists():
        raise ValueError(f"{path}: unfinished, and {folder_of(path).name} is missing: it cannot be resumed")
    if found is None:
        return None
    plan = found[0]
    store = Parts(folder_of(path))
    store.refresh(repair=False)
    return Progress(len(store.place), -(-plan["puzzles"] * plan["restarts"] // plan["batch_size"]), False)


def _completed(path: Path) -> Progress | None:
    """Return the number of batches of a complete archive, None if there is none."""
    if not path.exists():
        return None
    with archive.open(path, values=False, complete=False) as tree, archive.refused(path):
        complete, batches = int(tree.attrs.get("complete", 1)), int(tree.attrs.get("batches", 1))
    return Progress(batches, batches, True) if complete else None


def plan_of(recipe: Recipe, batch_size: int | None) -> dict[str, Any]:
    """Return everything on which the values of an ensemble depend, as plain values that can be compared."""
    origin = schema.provenance(recipe.system)
    given = recipe.initial if isinstance(recipe.initial, Tensor) else None
    law = "own" if recipe.initial is None else getattr(recipe.initial, "__name__", "callable")
    labels, judge, known = recipe.judge.labels, recipe.judge, recipe.identifiers
    keep = [k for k in ("final_state", "trajectory", "logit_delta", "path") if k in recipe.keep]
    return {
        **schema.identity(recipe.system),
        "config": json.loads(json.dumps(origin["config"], default=str)),
        "inputs": _sha256(recipe.inputs.numpy()),
        **({} if known is None else {"identifiers": _sha256(known.numpy())}),
        "labels": "none" if labels is None else _sha256(labels),
        "puzzles": len(recipe.inputs),
        "restarts": recipe.restarts,
        "first_restart": recipe.first_restart,
        "depth": recipe.depth,
        "seed": recipe.seed,
        "noise": recipe.noise,
        "starts": law
        if given is None
        else _sha256((given if given.dtype == torch.float64 else given.float()).cpu().numpy()),
        "keep": keep,
        "oracle": "none" if judge.oracle is None else judge.name,
        "dtype": dtype_name(recipe.place.dtype or "own"),
        "device": str(recipe.place.device),
        "tolerances": dataclasses.asdict(recipe.tolerances),
        "batch_size": batch_of(recipe, recipe.rows, batch_size),
        "automatic": batch_size is None,
    }


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def _agree(path: Path, plan: dict[str, Any], recipe: Recipe, joining: bool) -> int:
    """Write the plan, or check that it agrees with the one that was begun; return its batch size."""
    folder, sources = folder_of(path), schema.provenance(recipe.system)["source"]
    found = parts.read_plan(folder)
    if found is None:
        tokens = {"inputs": recipe.inputs.numpy()}
        if recipe.judge.labels is not None:
            tokens["labels"] = recipe.judge.labels
        if recipe.identifiers is not None:
            tokens["identifiers"] = recipe.identifiers.numpy()
        parts.write_plan(folder, {**plan, "source": sources}, tokens)
        return plan["batch_size"]
    begun = found[0]
    if not joining:
        raise ValueError(
            f"{path}: an unfinished export is in {folder.name}; resume it, or remove that folder"
        )
    differs = _difference(begun, plan)
    if differs:
        raise ValueError(f"{path}: was begun with {differs}")
    if begun["source"] != sources:
        warnings.warn(
            f"{path}: was begun with {begun['source']} and continues with {sources}: "
            "results are equal up to rounding only",
            stacklevel=3,
        )
    return begun["batch_size"]


def _difference(begun: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """Return the difference between a plan and the one that was begun; None if they lead to the same values."""
    free = {"automatic", "attributes"} | ({"batch_size"} if plan["automatic"] else set())
    names = [*plan, *({"identifiers", "weights"} & set(begun) - set(plan))]  # need not be there
    for name in sorted(names, key=lambda n: n == "config"):  # which the model's own options are part of, too
        old, new = begun.get(name, "none"), plan.get(name, "none")
        if name not in free and old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                key = min(k for k in {*old, *new} if old.get(k) != new.get(k))
                name, old, new = f"{name} {key}", old.get(key), new.get(key)
            return f"{name} {str(old)[:200]}, got {str(new)[:200]}"
    return None


def _require_same(path: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a complete archive that belongs to another plan."""
    with archive.open(path, values=False, complete=False) as tree:
        made = tree.attrs.get("plan")
    if made is None:
        raise ValueError(
            f"{path}: exists and does not say which export made it; remove it or choose another name"
        )
    differs = _difference(parse_json(str(made), f"{path}: attribute plan"), plan)
    if differs:
        raise ValueError(f"{path}: is the complete archive of an export with {differs}; choose another name")


def _clean(path: Path, share: Shard) -> None:
    """Remove archives that a killed process left half written."""
    if share.of == 1:
        for rest in path.parent.glob(f".{path.name}.*.tmp"):
            rest.unlink(missing_ok=True)


def _run(
    job: Job,
    path: Path,
    share: Shard,
    progress: bool | Callable[[int, int], None],
    flush_seconds: float,
    snapshot_seconds: float,
) -> None:
    """Compute the missing batches of this process, and store them."""
    wanted = range(share.number, job.batches, share.of)
    missing = [number for number in wanted if number not in job.parts.place]
    depth = job.recipe.depth
    size = {number: depth * (job.span(number)[1] - job.span(number)[0]) for number in wanted}
    made = sum(size[number] for number in wanted if number in job.parts.place)
    steps = RowSteps(sum(size.values()), progress, "exporting", made)
    batches = Batches(job.recipe, steps)

    def compute(number: int) -> tuple[int, dict[str, np.ndarray]]:
        records = batches(np.arange(*job.span(number)))
        return number, digest(records, depth, job.recipe.tolerances)

    waiting: dict[int, dict[str, np.ndarray]] = {}
    flushed, shown, cost = time.monotonic(), -np.inf, 0.0

    def flush() -> None:
        nonlocal flushed
        if waiting:
            job.parts.write(share, waiting, batches.most)
            waiting.clear()
        flushed = time.monotonic()

    with steps, one_thread_a_batch(job.recipe.place.device, job.batches) as run:
        try:
            for number, records in run(compute, missing):
                waiting[number] = records
                held = sum(v.nbytes for r in waiting.values() for v in r.values())
                if held >= FLUSH_BYTES or time.monotonic() - flushed >= flush_seconds:
                    flush()
                    began = time.monotonic()
                    if share.number == 0 and began - shown >= max(snapshot_seconds, cost / SNAPSHOT_SHARE):
                        _snapshot(job, path, share)
                        shown = time.monotonic()
                        cost = shown - began
            flush()
        except BaseException as error:
            steps.stop()
            with contextlib.suppress(OSError):  # a full disk, for example: then these few are computed again
                flush()
                if not isinstance(error, OSError) and job.parts.place:
                    _snapshot(job, path, share)
            error.add_note(
                f"{path}: {len(job.parts.place)} of {job.batches} batches are kept; resume to go on"
            )
            raise


def _snapshot(job: Job, path: Path, share: Shard) -> None:
    """Write the batches completed so far as an archive, unless all are complete."""
    with parts.merging(path, share):
        job.parts.refresh()
        if len(job.parts.place) < job.batches:
            merge(job, path)


def _finish(job: Job, path: Path, share: Shard) -> Progress:
    """Write the archive once all batches of all processes are there, and remove the parts."""
    try:
        with parts.merging(path, share):
            job.parts.refresh()
            if parts.read_plan(job.parts.folder) is None:
                pass  # another process wrote the archive and removed the parts
            elif len(job.parts.place) == job.batches:
                done = dataclasses.replace(
                    job,
                    attributes={
                        **job.attributes,
                        "batches": job.batches,
                        "batch_size_least": job.parts.least,
                    },
                )
                merge(done, path)
                parts.remove(job.parts.folder)
            elif share.number == 0 and job.parts.place:
                merge(job, path)
    except FileNotFoundError:  # another process wrote the archive and removed the parts
        pass
    return status(path) or Progress(len(job.parts.place), job.batches, False)
