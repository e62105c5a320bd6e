"""Official checkpoints of recursive reasoners, translated to this package's models."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from eqrlab.core.checkpoints.build import assemble, plain_values
from eqrlab.core.checkpoints.official_configs import (
    NAMES,
    TRANSLATIONS,
    OfficialFile,
    check_family,
    detect_family,
    listed,
)
from eqrlab.core.checkpoints.puzzle_rows import TABLE, table_of
from eqrlab.core.checkpoints.torchfile import Opaque, read_stored, read_torch_file
from eqrlab.core.checkpoints.weights import CONTAINERS, ROOTS, find_weights
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
_MOST_YAML = 1 << 17  # bytes; official configurations have some 3,000
_YAML_FAULTS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
_EQR_STATE = {"carry", "iteration", "optimizer_lrs", "optimizers", "total_steps", "train_dataset"}
_KEPT = (*CONTAINERS, "ema", "config", "step")


def task_name(vocab: int, seq_len: int) -> str:
    """Name the task that a vocabulary and a grid size stand for: sudoku<side>, maze<side>, arc, or unknown.

    Notes
    -----
    What a checkpoint alone tells; the puzzles that it is run on name their task themselves.
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


def read_config(path: Path) -> dict[str, Any]:
    """Read the YAML configuration that lies beside a checkpoint, or in the folder above.

    Raises
    ------
    CheckpointError
        When there is none, or it is no mapping.
    """
    for candidate in (
        path.parent / "all_config.yaml",
        path.parent / "config.yaml",
        path.parent.parent / "all_config.yaml",
    ):
        if candidate.is_file():
            config = _read_yaml(candidate)
            if not isinstance(config, dict):
                raise CheckpointError(f"{candidate.name} beside it must be a mapping of options")
            return config
    raise CheckpointError("no configuration inside, and no all_config.yaml or config.yaml beside it")


class _Yaml(yaml.SafeLoader):
    """YAML of plain values without merge keys, which let a few lines stand for more entries than memory holds."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "merge keys (<<) are not read", node.start_mark
            )


def _read_yaml(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_YAML + 1)
        if len(text) > _MOST_YAML:
            raise ValueError(f"more than {_MOST_YAML} bytes")
        return yaml.load(text, _Yaml)  # a safe loader: no tags of Python
    except _YAML_FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path.name} beside it is not readable as YAML ({reason})") from None


def load_official(
    path: Path,
    *,
    weights: str = "auto",
    seq_len: int | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Reasoner:
    """Load an official checkpoint (FORMATS, sections 1 to 3 and 7).

    Parameters
    ----------
    weights
        "ema", "raw", or "auto": the EMA weights when the configuration says `ema` and the file has them.
    seq_len
        Grid cells, when neither the weights nor the training state tell.
    tensors
        What the file holds, where it is a safetensors file and was read already.

    Raises
    ------
    CheckpointError
        See `eqrlab.core.load`.
    """
    content = read_torch_file(path) if tensors is None else tensors
    try:
        file, family = _open(path, content, weights)
        values = TRANSLATIONS[family](file, seq_len)
        unused = [n for n in _STARTS if family == "eqr" and file.tensors.pop(n, None) is not None]
        provenance = {
            "format": f"official {NAMES[family]}",
            "variant": _variant(file, family, values),
            "weights": file.weights,
            "step": _step(file, path),
            "forward_dtype": file.value("forward_dtype", str, "bfloat16"),
            "inferred": file.inferred,
            "dropped": unused + listed(k for k in file.content if k not in _KEPT),
            "ignored_config": file.ignored(),
        }
        provenance = plain_values(provenance, "the file")
        table = table_of(file.tensors, path)
        blank = {} if table is None else {_RENAMED[TABLE]: table([BLANK])[0]}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    named = blank | _renamed(read_stored(file.tensors, path))
    task = task_name(values["vocab_size"], values["seq_len"])
    reasoner = assemble(path, family, values, task, provenance, named)
    reasoner.table = table
    return reasoner


def _open(path: Path, content: Any, weights: str) -> tuple[OfficialFile, str]:
    """Sort out what a file holds: family, weights and configuration."""
    if not isinstance(content, dict):
        what = (
            "an object of a foreign class" if isinstance(content, Opaque) else f"a {type(content).__name__}"
        )
        raise CheckpointError(f"holds {what}, a dictionary of weights or training state is required")
    found = find_weights(content)
    state = content if found.key or not found.raw else {}
    tensors = found.raw or found.average
    _require_known_names(set(tensors))
    inside = state.get("config")
    config = inside if isinstance(inside, dict) else read_config(path)
    file = OfficialFile(state, tensors, config, "raw", _origin(state, inside, config))
    family = detect_family(set(tensors))
    if family == "trm" and "lambda_" in file.arch:
        family = "eqr"
    check_family(file, family)
    averages_alone = not (found.average_keys or found.unread) and file.origin != "eqr" and family != "eqr"
    if averages_alone and config.get("ema") is True:  # as the trainers of TRM and URM save them
        if weights == "raw":
            raise CheckpointError("holds no raw weights, only their averages")
        if found.key not in (None, "model_state_dict"):
            file.inferred.append("weights are averages by the configuration: the file has no others")
        file.weights = "ema"
        return file, family
    average = found.chosen(weights, bool(config.get("ema")))
    if average is None:
        if found.average_keys:
            file.inferred.append("averages left alone: raw weights were asked for, or ema is not configured")
        return file, family
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
    return file, family


def _origin(state: dict[Any, Any], inside: Any, config: dict[str, Any]) -> str:
    """Tell whose trainer wrote a file: "eqr", "own" (that of the family, or a copy of its files), or "unknown".

    EqR's stores the configuration and its own state beside the weights; those of the other families never store one.
    """
    if "wandb_meta" in config or (isinstance(inside, dict) and _EQR_STATE & set(map(str, state))):
        return "eqr"
    return "unknown" if isinstance(inside, dict) else "own"


def _require_known_names(names: set[str]) -> None:
    """Refuse weights that are none of these families, saying which names were looked for."""
    if any(name.split(".")[0] in ROOTS for name in names):
        return
    example = min(names, key=lambda name: (len(name), name))
    hidden = next((name for name in sorted(names) if ROOTS & set(name.split("."))), None)
    if hidden is not None:
        parts = hidden.split(".")
        prefix = ".".join(parts[: next(k for k, part in enumerate(parts) if part in ROOTS)])
        raise CheckpointError(
            f"the names of the tensors begin with {brief(prefix + '.')}, which is no wrapper that is known; "
            "save the state_dict of the model inside"
        )
    raise CheckpointError(
        f"lm_head.weight with 2 axes is missing, and no tensor has a name of these families "
        f"(embed_tokens, L_level, layers, ...): there is {brief(example)}"
    )


def _step(file: OfficialFile, path: Path) -> int | None:
    """Return the optimiser step at which a file was written, by its content or else its name."""
    step = file.content.get("step")
    if type(step) is int and not 0 <= step < 1 << 63:
        raise CheckpointError(f"step must be a count of optimiser steps, got {brief(step)}")
    named = re.match(r"step_(\d{1,9})(?!\d)", path.name)
    if type(step) is int or not named:
        return step if type(step) is int else None
    file.inferred.append("step from the name of the file")
    return int(named[1])


def _variant(file: OfficialFile, family: str, values: dict[str, Any]) -> str:
    """Say in words which of a family's variants a file holds."""
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


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors this package's names, and floating ones the float32 in which the official code keeps weights."""
    plain = {}
    for name, tensor in tensors.items():
        if name == TABLE:  # of one puzzle
            tensor = tensor[0]
        if name.startswith("layers."):  # URM's only stack stands outside of any level
            name = f"level.{name}"
        plain[_RENAMED.get(name, name)] = tensor.float() if tensor.is_floating_point() else tensor
    return plain
