"""`eqrlab export`: a trajectory archive, streamed and resumable; `eqrlab verify`: whether one is sound."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from eqrlab import datasets
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import as_attribute, compile_blocks, load_checkpoint
from eqrlab.analyses.commands.common.cost import duration, seconds_an_evaluation
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.own_system import is_own
from eqrlab.analyses.commands.common.puzzle_choice import (
    SAMPLE,
    how_chosen,
    puzzle_attributes,
    puzzles_for,
    short_source,
)
from eqrlab.analyses.commands.common.run_options import asked_law
from eqrlab.analyses.commands.common.settings_of_archive import like_archive, like_plan, same_model
from eqrlab.analyses.commands.common.stopping import exit_code
from eqrlab.analyses.text.format import plural
from eqrlab.attractors import Run, export
from eqrlab.attractors.ensemble.place import dtype_of
from eqrlab.attractors.ensemble.recipe import KEEP
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.attractors.streaming.batch_store import folder_of, read_plan
from eqrlab.attractors.streaming.export import Progress, status
from eqrlab.attractors.streaming.export_size import export_size
from eqrlab.core import Reasoner

DEFAULTS: dict[str, Any] = {"restarts": 64, "depth": 64, "seed": 0, "keep": ("summary",), "device": "auto"}


def _shard(text: str | None) -> tuple[int, int]:
    """Return the index of this process and the number of processes, from --shard or from torchrun.

    Raises
    ------
    click.BadParameter
        When the text is not I/N with 0 <= I < N.
    """
    if text is None:
        ranks = os.environ if "TORCHELASTIC_RUN_ID" in os.environ else {}
        return int(ranks.get("RANK", 0)), int(ranks.get("WORLD_SIZE", 1))
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise click.BadParameter(f"{text!r} is not I/N with 0 <= I < N", param_hint="--shard")
    return int(found[1]), int(found[2])


def _job(
    checkpoint: str | None, out: Path, like: Path | None, resume: bool, given: dict[str, Any]
) -> tuple[Reasoner, dict[str, Any], dict[str, Any]]:
    """Return the model, the arguments of `export` from `inputs` on, and the attributes that record their origin."""
    begun = read_plan(folder_of(out)) if resume else None
    if begun:
        old, source = like_plan(*begun)
    elif like:
        with archive.open(like, values=("inputs", "labels", "identifier")) as tree:
            old, source = like_archive(tree, like)
    elif resume and out.exists() and checkpoint is None:
        raise ValueError(f"{out}: there is nothing to resume: the folder {folder_of(out).name} is missing")
    elif checkpoint is None:
        raise click.UsageError("CKPT is required unless --like or --resume names it")
    else:
        old, source = {}, {"checkpoint_source": checkpoint}
    model, name = (load_checkpoint(checkpoint), checkpoint) if checkpoint else same_model(source)
    options = as_attribute(model) or {k: v for k, v in source.items() if k == "checkpoint_options"}
    origin = {"checkpoint_source": str(Path(name).resolve()) if Path(name).exists() else name, **options}
    chosen = {k: given.pop(k) for k in ("puzzles", "split", "limit", "allow_several")}
    starts = given.pop("starts")
    # What was typed counts before what an archive records, and that before the defaults.
    job = {**DEFAULTS, **old, **{k: v for k, v in given.items() if v is not None}}
    job["device"] = opt.device_named(
        job["device"]
    )  # settings of an archive are looked at like those that are typed
    dtype_of(job.get("dtype"))
    judged = job.pop("judged", False)
    if "inputs" not in job or chosen["puzzles"]:
        puzzles = puzzles_for(
            model,
            chosen["puzzles"],
            *[chosen[k] for k in ("split", "limit", "allow_several")],
            seed=job["seed"],
        )
        if puzzles.draw is not None:
            click.echo(
                f"{plural(len(puzzles), 'puzzle')} of {short_source(puzzles)}{how_chosen(puzzles)}", err=True
            )
        job |= {"inputs": puzzles.inputs, "labels": puzzles.labels, "oracle": puzzles.oracle}
        job["identifiers"] = puzzles.identifiers
        origin |= puzzle_attributes(puzzles)
    else:
        origin["puzzles"] = source.get("puzzles", "unknown")
        if chosen["limit"]:
            job |= {
                k: job[k] if job[k] is None else job[k][: chosen["limit"]]
                for k in ("inputs", "labels", "identifiers")
            }
        _require_sizes(model, job["inputs"], like or folder_of(out))
        model.task = str(source.get("task", model.task))
        job["oracle"] = datasets.oracle(model.task) if judged else None
    recorded = job.pop("starts", None)
    job["initial"] = asked_law(model, starts or recorded)
    noise = model.noise_scale if job.get("noise") is None else job["noise"]
    if not (job["initial"] or model.random_starts or noise):
        job["restarts"] = 1  # one stored start and no noise: every restart would be the same run
    return model, job, origin


@contextmanager
def _noting() -> Iterator[None]:
    """Print warnings as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"note: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _bytes(count: int) -> str:
    """Return a number of bytes as text.

    Examples
    --------
    >>> _bytes(999), _bytes(1_500_000)
    ('999 bytes', '1.5 MB')
    """
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _require_sizes(model: Reasoner, inputs: np.ndarray, source: Path) -> None:
    """Refuse puzzles of an archive that the model does not read."""
    if model.config is None:  # a system of the user's own says so itself
        return
    cells, tokens = model.config.seq_len, model.config.vocab_size
    if inputs.shape[1:] != (cells,) or inputs.min() < 0 or inputs.max() >= tokens:
        raise ValueError(
            f"{source}: puzzles of {inputs[0].size} cells and tokens up to {inputs.max()}, "
            f"the model reads {cells} cells and {tokens} tokens"
        )


def _estimate(model: Reasoner, out: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Print what the export would write, and how long it would take; return the numbers."""
    size = export_size(model, **job)
    run = Run.of(model, job["inputs"], **{k: v for k, v in job.items() if k not in ("inputs", "batch_size")})
    seconds = size.evaluations * seconds_an_evaluation(run, job.get("batch_size"))
    folder = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    click.echo(f"archive         at most {_bytes(size.archive)}, before compression ({size.archive} bytes)")
    click.echo(f"parts           {_bytes(size.parts)} beside it until it is whole ({size.parts} bytes)")
    click.echo(f"free            {_bytes(free)} in {folder}")
    click.echo(f"map evaluations {size.evaluations:,}")
    click.echo(f"time            about {duration(max(1.0, seconds))} on this machine, one process")
    return {**size._asdict(), "free": free, "seconds": seconds}


@click.command(
    "export", epilog="Example:  eqrlab export eqr-sudoku6 --out runs.nc --limit 2 --restarts 8 --depth 16"
)
@click.argument("checkpoint", required=False, metavar="[CKPT]")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.nc")
@click.option("--resume", is_flag=True, help="Continue an unfinished export; start one if there is none.")
@click.option(
    "--like",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="OLD.nc",
    help="Repeat the run of an archive: its model, puzzles and settings; other options change them.  An export "
    "measures every residual, a diagnosis only with --fixed.",
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Only predict how much is written and how long it takes, from a few steps.",
)
@click.option(
    "--keep",
    multiple=True,
    type=click.Choice(KEEP),
    help="What to store in addition to the summary; may be repeated.",
)
@opt.puzzles
@opt.limit(bundled=SAMPLE)
@opt.allow_several
@opt.restarts(None, "Restarts B of each puzzle (default: 64).")
@opt.depth(None, "Outer steps D of every run (default: 64).")
@opt.seed(None, "Seed of all random numbers (default: 0).")
@opt.noise()
@opt.starts
@opt.device(None, "auto: CUDA where there is one (default: auto).")
@opt.dtype("float32", "float64", "bfloat16")
@opt.batch_size
@opt.compiled
@click.option("--shard", metavar="I/N", help="Compute the I-th of N shares, from 0; torchrun sets it.")
@prints_json
@opt.quiet
@opt.checkpoint
def export_command(
    checkpoint: str | None, out: Path, resume: bool, like: Path | None, estimate: bool, shard: str | None,
    keep: tuple[str, ...], compiled: bool, quiet: bool, **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write trajectories to an archive: streamed and resumable.

    Memory stays bounded, however long the archive is.  FILE.nc is never half-written: it is missing, or
    contains what was completed up to its last update, or is complete; batches completed since then are in
    FILE.nc.parts.  Ctrl-C, SIGKILL, a full disk or a power cut lose at most the batches in progress and 10
    seconds of completed ones: the same command with --resume continues, and ends with the same variables, bit
    for bit (with --compile: up to rounding).

    Several processes can share the work under torchrun, or with --shard I/N; the last one writes the archive.
    """
    began, share = time.monotonic(), _shard(shard)
    model, job, origin = _job(checkpoint, out, like, resume, {**given, "keep": keep or None})
    if compiled:
        compile_blocks(model)
    if estimate:
        return _estimate(model, out, job)
    require_writable(out.absolute().parent, out.name)
    show = not quiet and share[0] == 0
    try:
        with _noting():
            done = export(
                model, path=out, **job, resume=resume, shard=share, attributes=origin, progress=show
            )
    except KeyboardInterrupt as stop:
        kept = " ".join(getattr(stop, "__notes__", ())[:1]) or f"{out}: stopped before the first batch"
        again = f"{checkpoint} " if checkpoint and is_own(checkpoint) else ""  # else the parts name the model
        again += f"--out {shlex.quote(str(out))} --resume{' --compile' if compiled else ''}"
        click.echo(f"eqrlab: stopped. {kept.removesuffix('; resume to go on')}; go on with "
                   f"eqrlab export {again}", err=True)  # fmt: skip
        sys.exit(exit_code(stop))
    return _say(done, out, job, time.monotonic() - began)


def _say(done: Progress, out: Path, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Print the outcome of the export, and return it."""
    if done.complete:
        size = f"{plural(len(job['inputs']), 'puzzle')}, {plural(job['restarts'], 'restart')}, depth {job['depth']}"
        click.echo(f"archive {out}: {size}, {_bytes(out.stat().st_size)}, {seconds:.0f} s")
    else:
        click.echo(f"{out}: {done.done} of {done.total} batches are done; other processes compute the rest")
    return {"archive": str(out), "complete": done.complete, "batches_done": done.done, "batches": done.total}


@click.command("verify", epilog="Example:  eqrlab verify out/diagnosis.nc")
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.nc...")
@click.option(
    "--checksums/--no-checksums", default=True, show_default=True, help="Also read and compare all values."
)
@prints_json
def verify_command(archives: tuple[Path, ...], checksums: bool) -> dict[str, Any]:
    """Check archives against the schema and their checksums.

    Names, dimensions, units, flags and attributes are checked, and all values unless --no-checksums is given.  The
    first violation ends the command with exit code 1.  The schema is described in SCHEMA.md of eqrlab.attractors.
    """
    sound = {}
    for file in archives:
        found = validate(file, checksums=checksums)
        state = status(file)
        unfinished = (
            f", unfinished: {state.done} of {state.total} batches" if state and not state.complete else ""
        )
        click.echo(f"{file}: sound, {plural(found.groups, 'group')}, {plural(found.variables, 'variable')}, "
                   f"{plural(found.checksums, 'checksum')} right{unfinished}")  # fmt: skip
        sound[str(file)] = {**found._asdict(), "complete": not unfinished}
    return sound
