"""The folder of a training run, checked before the run is begun or continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from eqrlab.analyses.studies.training_recipes import configurations
from eqrlab.core.messages import brief
from eqrlab.core.regular import read_json, read_log, require_regular
from eqrlab.datasets import read_puzzles
from eqrlab.datasets import task as task_named

FILES = ("options.json", "log.jsonl", "slots.jsonl", "state.safetensors", "model.safetensors")
NOT_KEPT = (
    "out",
    "resume",
    "threads",
    "device",
    "quiet",
    "save_every",
    "minutes",
    "compile",
    "log",
)  # may differ


def own_task(task: str, puzzles: str | None) -> str:
    """Return the name of a task; of one of open sizes, that with the sizes of the training puzzles.

    Raises
    ------
    click.UsageError
        If there is no such task, or it has no sizes and there are no puzzles to take them from.
    ValueError, OSError
        If the puzzles cannot be read.
    """
    try:
        known = task_named(task)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if known.sized is None:
        return task
    if puzzles is None:
        raise click.UsageError(f"{task} has no puzzles of its own: --puzzles FILE|DIR gives them")
    return read_puzzles(puzzles, task, "train").task


def recall(context: click.Context, task: str, options: dict[str, Any], out: Path) -> None:
    """Refuse to overwrite a run; to continue one, take from it all options that were not given.

    Raises
    ------
    click.UsageError
        When there is a run and it is not to be continued.
    ValueError
        If a file of the run is not a regular file, or its options belong to another task or to no run.
    """
    require_regular(*(out / name for name in FILES))
    stored = out / "options.json"
    if not options["resume"]:
        names = ("state.safetensors", "model.safetensors")
        found = [p for p in (stored, *(out / name for name in names)) if p.exists()]
        if found:
            raise click.UsageError(f"{found[0]} exists: continue with --resume, or choose another --out")
        return
    read_log(out / "log.jsonl")
    if not stored.exists():
        return
    kept = read_json(stored)
    if kept.get("task") != task:
        raise ValueError(f"{stored}: belongs to a run on another task than {task}")
    known = {p.name: p for p in context.command.params if p.name in options and p.name not in NOT_KEPT}
    kept = {
        name: _checked(known[name], value, context, stored) for name, value in kept.items() if name in known
    }
    try:
        merged = {**options, **kept}
        configurations(own_task(task, merged["puzzles"]), merged, options["device"])
    except ValueError as error:
        raise ValueError(f"{stored}: {error}") from None
    for name, value in kept.items():
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            options[name] = value


def _checked(option: click.Parameter, value: Any, context: click.Context, stored: Path) -> Any:
    """Return the stored value of an option, after checking that the option can have it."""
    items = value if option.nargs == 2 and isinstance(value, list) else [value]
    kind = option.type
    kinds, what = next((k, w) for of, k, w in _KINDS if isinstance(kind, of))
    if value is None and not isinstance(option.get_default(context), (int, float, str)):
        return None  # "not given", of options without a default
    try:
        if len(items) != option.nargs or any(type(v) not in kinds for v in items):
            raise click.BadParameter(f"{what if option.nargs == 1 else f'{option.nargs} values'} required")
        if any(type(v) is not str and not abs(v) < 2**63 for v in items):
            raise click.BadParameter("too large, or no number")
        for item in items:
            kind.convert(item, option, context)
    except click.BadParameter as error:
        raise ValueError(f"{stored}: {option.name} is {brief(value)}: {error.message}") from None
    return value


_KINDS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (click.types.IntParamType, (int,), "a whole number is"),
    (click.types.FloatParamType, (int, float), "a number is"),
    (click.types.BoolParamType, (bool,), "true or false is"),
    (click.ParamType, (str,), "text is"),
)


def state_of(out: Path) -> Path | None:
    """Return the state from which a run in this folder continues, None where it has saved nothing yet.

    Raises
    ------
    ValueError
        When a model is there and the state is gone: beginning anew would overwrite what was trained.
    """
    state, model = out / "state.safetensors", out / "model.safetensors"
    if state.exists():
        return state
    if model.exists():
        raise ValueError(
            f"{out}: has {model.name} but not the training state {state.name}: choose another --out"
        )
    return None
