"""Official checkpoints of recursive reasoners, translated to this package's models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.checkpoints import foreign_configs
from eqrlab.core.checkpoints.build import assemble, plain_values
from eqrlab.core.checkpoints.foreign_configs import official_names, require_used
from eqrlab.core.checkpoints.foreign_kinds import seems_to_be
from eqrlab.core.checkpoints.names import read_named, spelled
from eqrlab.core.checkpoints.official_configs import (
    LOOKED_FOR,
    NAMES,
    TRANSLATIONS,
    check_family,
    detect_family,
)
from eqrlab.core.checkpoints.official_file import OfficialFile, listed
from eqrlab.core.checkpoints.puzzle_rows import TABLE, table_of
from eqrlab.core.checkpoints.rotary_tables import require_same_rotary
from eqrlab.core.checkpoints.tensors import WEIGHTS
from eqrlab.core.checkpoints.torchfile import Opaque, read_torch_file
from eqrlab.core.checkpoints.weights import CONTAINERS, ROOTS, NoTensorsError, Weights, find_weights
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief, one_line
from eqrlab.core.models.puzzle_table import BLANK
from eqrlab.core.models.reasoner import Reasoner

_RENAMED = {
    TABLE: "embed_tokens.prefix",
    "embed_pos.embedding_weight": "embed_tokens.position_weight",
    "absolute_pos_embedding": "embed_tokens.position_weight",
}
_STARTS = ("H_init", "L_init")  # buffers that the official EqR registers and never reads
_BUFFERS = {TABLE, "absolute_pos_embedding", *_STARTS}  # never part of averaged weights
_EQR_STATE = {"carry", "iteration", "optimizer_lrs", "optimizers", "total_steps", "train_dataset"}
_KEPT = (*CONTAINERS, *foreign_configs.INSIDE, "ema", "step")


def task_name(vocab: int, seq_len: int) -> str:
    """Name the task that a vocabulary and a grid size stand for: sudoku<side>, maze<side>, arc, or unknown.

    Notes
    -----
    This is all that a checkpoint alone determines; the puzzles on which it is run name their task themselves.
    """
    side = math.isqrt(seq_len)
    if side * side != seq_len:
        return "unknown"
    composite = any(side % k == 0 for k in range(2, math.isqrt(side) + 1))
    if composite and side <= 25 and vocab == side + 2:
        return f"sudoku{side}"
    if vocab == 6:
        return f"maze{side}"
    return "arc" if (vocab, seq_len) == (12, 900) else "unknown"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `load` besides the file; see there."""

    weights: str = "auto"
    seq_len: int | None = None
    config: Path | dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    puzzle_cells: Callable[[], int] | None = None


def load_official(path: Path, asked: Asked, tensors: dict[str, Tensor] | None = None) -> Reasoner:
    """Load an official checkpoint of EqR, TRM, HRM or URM, or one in a layout that is known.

    Parameters
    ----------
    asked
        What to load from the file, and options that it lacks.
    tensors
        Content of the file, if it is a safetensors file and was read already.

    Raises
    ------
    CheckpointError
        See `eqrlab.core.load`.
    """
    content = read_torch_file(path) if tensors is None else tensors
    try:
        file, family, rotary = _open(path, content, asked)
        values = TRANSLATIONS[family](file, asked.seq_len)
        unused = [n for n in _STARTS if family == "eqr" and file.tensors.pop(n, None) is not None]
        provenance = {
            "format": f"official {NAMES[family]}",
            "variant": _variant(file, family, values),
            "weights": file.weights,
            "step": _step(file, path),
            "forward_dtype": file.value("forward_dtype", str, "bfloat16"),
            "inferred": file.inferred,
            "dropped": unused + listed(rotary) + listed(k for k in file.content if k not in _KEPT),
            "ignored_config": file.ignored(),
        }
        if asked.settings:
            settings, _ = official_names(asked.settings, family)
            require_used(settings, file.asked | {"ema"}, f"this {NAMES[family]}")
            provenance["set"] = settings
        provenance = plain_values(provenance, "the file")
        table = table_of(file.tensors, path)
        blank = {} if table is None else {_RENAMED[TABLE]: table([BLANK])[0]}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    require_same_rotary(read_named(rotary, path), values, path)
    named = blank | _renamed(read_named(file.tensors, path), path)
    task = task_name(values["vocab_size"], values["seq_len"])
    reasoner = assemble(path, family, values, task, provenance, named)
    reasoner.table = table
    return reasoner


def _open(path: Path, content: Any, asked: Asked) -> tuple[OfficialFile, str, dict[str, Any]]:
    """Separate the content of a file into family, weights, configuration, and tables that are not weights."""
    if not isinstance(content, dict):
        what = (
            "an object of a foreign class" if isinstance(content, Opaque) else f"a {type(content).__name__}"
        )
        raise CheckpointError(f"holds {what}, a dictionary of weights or training state is required")
    try:
        found = find_weights(content)
    except NoTensorsError as error:
        raise CheckpointError(f"{error}{seems_to_be(content, path)}") from None
    state = content if found.key or not found.raw else {}
    raw, average = spelled(found.raw), spelled(found.average)
    spelling = raw if raw.tensors else average
    found.raw, found.average = raw.tensors, average.tensors
    tensors = found.raw or found.average
    _require_known_names(set(tensors), content, path)
    family = detect_family(set(tensors))
    if family is None:
        raise CheckpointError(
            f"its tensors are those of no known family: {_looked_for(set(tensors), content, path)}"
        )
    inside = foreign_configs.inside(state) if asked.config is None else None
    config = foreign_configs.sectioned(_given(path, asked, inside))
    # null: not given
    options = {k: v for k, v in config["arch"].items() if v is not None or k == "pos_encodings"}
    arch, renamed = official_names(options, family)
    settings, _ = official_names(asked.settings, family)
    top = {name: settings.pop(name) for name in ("ema",) if name in settings}
    config = {**config, **top, "arch": {**arch, **settings}}
    if family == "trm" and "lambda_" in config["arch"]:
        family = "eqr"
    file = OfficialFile(state, tensors, config, "raw", _origin(state, inside, config), renamed)
    file.pre_norm, file.puzzle_cells = spelling.pre_norm, asked.puzzle_cells
    if spelling.renamed:
        file.inferred.append(f"{spelling.renamed} tensors by other names than the official ones")
    check_family(file, family)
    _choose_weights(file, family, found, asked.weights)
    return file, family, spelling.rotary


def _given(path: Path, asked: Asked, inside: dict[str, Any] | None) -> dict[str, Any]:
    """Return the configuration given by the caller, stored in the file, or stored beside it."""
    if isinstance(asked.config, dict):
        return asked.config
    if asked.config is not None:
        return foreign_configs.read_config(asked.config, f"{asked.config}, the configuration given,")
    if inside is not None and foreign_configs.has_network(inside):
        return inside
    try:
        return foreign_configs.beside(path)
    except FileNotFoundError as error:
        if inside is not None:
            return inside
        if asked.settings:
            return {"arch": {}}  # all there is are settings
        raise CheckpointError(str(error)) from None


def _choose_weights(file: OfficialFile, family: str, found: Weights, weights: str) -> None:
    """Choose raw or averaged weights, as requested or as the configuration says."""
    ema = _says_ema(file.config)
    averages_alone = not (found.average_keys or found.unread) and file.origin != "eqr" and family != "eqr"
    if averages_alone and ema:  # as the trainers of TRM and URM save them
        if weights == "raw":
            raise CheckpointError("holds no raw weights, only their averages")
        if found.key not in (None, "model_state_dict"):
            file.inferred.append("weights are averages by the configuration: the file has no others")
        file.weights = "ema"
        return
    average = found.chosen(weights, ema)
    if average is None:
        if found.average_keys:
            file.inferred.append("averages left alone: raw weights were asked for, or ema is not configured")
        return
    file.weights = "ema"
    if found.raw:
        unknown = sorted(set(average) - set(found.raw))
        lacking = sorted(set(found.raw) - set(average) - _BUFFERS)
        if unknown:
            raise CheckpointError(f"EMA tensor {unknown[0]} has no counterpart among the weights")
        if lacking:
            raise CheckpointError(f"EMA weights lack tensor {lacking[0]}")
        file.tensors = {**found.raw, **average}
    if found.average_keys[0] != "ema":
        file.inferred.append(f"averages from {one_line(found.average_keys[0], 80)}")


def _says_ema(config: dict[str, Any]) -> bool:
    """Return whether the averages count by a configuration, which may give their rate instead of yes or no."""
    ema = config.get("ema")
    if ema is not None and not isinstance(ema, bool | int | float):
        raise CheckpointError(f"ema of the configuration must be true, false, or a rate, got {brief(ema)}")
    return bool(ema)


def _origin(state: dict[Any, Any], inside: Any, config: dict[str, Any]) -> str:
    """Return which trainer wrote a file: "eqr", "own" (the family's trainer, or a copy of its files), or "unknown".

    EqR's trainer stores the configuration and its own state beside the weights; those of the other families never do.
    """
    if "wandb_meta" in config or (isinstance(inside, dict) and _EQR_STATE & set(map(str, state))):
        return "eqr"
    return "unknown" if isinstance(inside, dict) else "own"


def _require_known_names(names: set[str], content: dict[Any, Any], path: Path) -> None:
    """Refuse weights that belong to none of these families, naming the tensors that were looked for."""
    if any(name.split(".")[0] in ROOTS for name in names):
        return
    hidden = next((name for name in sorted(names) if ROOTS & set(name.split("."))), None)
    if hidden is not None:
        parts = hidden.split(".")
        prefix = ".".join(parts[: next(k for k, part in enumerate(parts) if part in ROOTS)])
        raise CheckpointError(
            f"the names of the tensors begin with {brief(prefix + '.')}, a wrapper that is not known; "
            "save the state_dict of the model inside"
        )
    raise CheckpointError(
        f"lm_head.weight with 2 axes is missing, and no tensor has a name of these families "
        f"(embed_tokens, L_level, layers, ...): {_looked_for(names, content, path)}"
    )


def _looked_for(names: set[str], content: dict[Any, Any], path: Path) -> str:
    """Return which names were looked for, which were found instead, and what the file seems to be."""
    example = min(names, key=lambda name: (len(name), name))
    return f"looked for {LOOKED_FOR}; there is {brief(example)} ({len(names)} tensors){seems_to_be(content, path)}"


def _step(file: OfficialFile, path: Path) -> int | None:
    """Return the optimiser step at which a file was written, by its content or else its name."""
    step = file.content.get("step")
    if type(step) is int and not 0 <= step < 1 << 63:
        raise CheckpointError(f"step must be a count of optimiser steps, got {brief(step)}")
    named = re.search(r"(?:^|[-_.])step[_=](\d{1,9})(?!\d)", path.name)
    if type(step) is int or not named:
        return step if type(step) is int else None
    file.inferred.append("step from the name of the file")
    return int(named[1])


def _variant(file: OfficialFile, family: str, values: dict[str, Any]) -> str:
    """Return in words which variant of a family a file contains."""
    prefix = values["prefix_len"]
    parts = [
        f"{prefix or 'no'} prefix position{'' if prefix == 1 else 's'}",
        "token-mixing MLP" if values["mixer"] == "mlp" else f"attention, positions {values['positions']}",
    ]
    if family == "urm":
        parts.append("bfloat16 convolution")
    if family in ("trm", "hrm") and file.origin == "eqr":
        parts.append("written by EqR's trainer")
    return ", ".join(parts)


def _in_shape(name: str, tensor: Tensor) -> Tensor:
    """Remove axes of length 1 from starts, and add a second, unused output to a halting head with one output."""
    if name in (*_STARTS, "init_hidden") and tensor.ndim > 1 and tensor.numel() == tensor.shape[-1]:
        return tensor.reshape(-1)
    if name in ("q_head.weight", "q_head.bias") and tensor.shape[:1] == (1,):
        return torch.cat([tensor, torch.zeros_like(tensor)])
    return tensor


def _renamed(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give tensors this package's names, and floating ones the float32 in which the official code keeps weights."""
    plain = {}
    for name, tensor in tensors.items():
        if name == TABLE:  # of one puzzle
            tensor = tensor[0]
        tensor = _in_shape(name, tensor)
        if name.startswith("layers."):  # URM's only stack stands outside of any level
            name = f"level.{name}"
        plain[_RENAMED.get(name, name)] = single = tensor.float() if tensor.dtype in WEIGHTS else tensor
        if tensor.dtype == torch.float64 and not torch.equal(tensor.isfinite(), single.isfinite()):
            raise CheckpointError(f"{path}: tensor {name} has values that are infinite in {single.dtype}")
    return plain
