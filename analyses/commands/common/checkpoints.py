"""How a CKPT of the command line becomes a model, with the options that supply what the file lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from eqrlab.analyses.commands.common.own_system import is_own, load_system
from eqrlab.analyses.options import asked_task
from eqrlab.analyses.text.names import shown_name
from eqrlab.core import Reasoner, load
from eqrlab.core.checkpoints import folders
from eqrlab.datasets import read_puzzles

_KEY = "eqrlab.checkpoint."  # of what `options.checkpoint` leaves in the context


def given() -> dict[str, Any]:
    """Return the arguments of `core.load` that were given to the running command besides its CKPT."""
    context = click.get_current_context(silent=True)
    if context is None:
        return {}
    options = {k.removeprefix(_KEY): v for k, v in context.meta.items() if k.startswith(_KEY)}
    options["settings"] = dict(options.pop("set", ()))
    puzzles, split = context.params.get("puzzles"), context.params.get("split") or "test"
    if puzzles:
        options["puzzle_cells"] = lambda: read_puzzles(
            puzzles, asked_task(), split=split, limit=1
        ).inputs.shape[1]
    return {name: value for name, value in options.items() if value not in (None, {})}


def as_attribute(model: Reasoner) -> dict[str, str]:
    """Return the attribute in which an archive records these options, so that its model can be loaded again."""
    options = {k: str(v) if isinstance(v, Path) else v for k, v in given().items()}
    if options.pop("puzzle_cells", None) and model.config is not None:
        options["seq_len"] = model.config.seq_len
    return {"checkpoint_options": json.dumps(options)} if options else {}


def load_checkpoint(name: str) -> Reasoner:
    """Load the model that a CKPT of the running command names, as its options say, its weights without gradients.

    Raises
    ------
    CheckpointError
        See `core.load`.
    ValueError
        Of FILE.py:NAME, see `own_system.load_system`.
    """
    model = load_system(name) if is_own(name) else load(name, **given())
    if isinstance(model, torch.nn.Module):
        model.requires_grad_(False)  # so that derivatives by the state need not load torch's compiler
    if isinstance(model, Reasoner):
        model.multiply("fastest")
    return model  # type: ignore[return-value]


def load_file(name: str) -> Reasoner:
    """Load the model of a CKPT that has to be a checkpoint.

    Raises
    ------
    ValueError
        For a system in a Python file; see also `load_checkpoint`.
    """
    model = load_checkpoint(name)
    if model.config is None:
        verb = click.get_current_context().info_name
        raise ValueError(f"{name}: is a system in a Python file; {verb} is for checkpoints")
    return model


def compile_blocks(model: Reasoner) -> None:
    """Let torch.compile fuse the blocks of a model.

    Raises
    ------
    ValueError
        For a system in a Python file.
    """
    if not isinstance(model, Reasoner):
        raise ValueError("--compile is for checkpoints: a system in a Python file compiles its own step")
    model.compile()


def all_in(name: str) -> list[str]:
    """Return the checkpoints of a folder that have a training step, by step, or the CKPT itself if it is not a folder.

    Raises
    ------
    ValueError
        When there are none.
    """
    folder = Path(name)
    if not folder.is_dir():
        return [name]
    found = [str(p) for p in folders.checkpoints_in(folder) if folders.step_of(p) is not None]
    if not found:
        raise ValueError(
            f"{name}: no checkpoint in it has a step in its name (step_500, model-000500.safetensors); "
            "train with --keep-every N"
        )
    return found


def named(checkpoints: Sequence[str], compiled: bool = False) -> dict[str, Reasoner]:
    """Load checkpoints under distinct names: the bundled name or the file's stem, numbered if two are equal."""
    models: dict[str, Reasoner] = {}
    for checkpoint in checkpoints:
        models[shown_name(checkpoint, models)] = load_checkpoint(checkpoint)
    if compiled:
        for model in models.values():
            compile_blocks(model)
    return models
