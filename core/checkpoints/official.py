"""Official checkpoints of recursive reasoners, translated to this package's models."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from eqrlab.core.checkpoints.load import CheckpointError, assemble, plain_values
from eqrlab.core.checkpoints.official_configs import (
    NAMES,
    TRANSLATIONS,
    OfficialFile,
    check_family,
    detect_family,
    listed,
)
from eqrlab.core.checkpoints.torchfile import Opaque, StoredTensor, read_stored, read_torch_file
from eqrlab.core.messages import brief
from eqrlab.core.models.reasoner import Reasoner

_RENAMED = {
    "puzzle_emb.weights": "embed_tokens.prefix",
    "embed_pos.embedding_weight": "embed_tokens.position_weight",
    "absolute_pos_embedding": "embed_tokens.position_weight",
}
_STARTS = ("H_init", "L_init")  # buffers that the official EqR registers and never reads
_BUFFERS = {"puzzle_emb.weights", "absolute_pos_embedding", *_STARTS}  # never part of averaged weights
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
_KEPT = ("model", "model_state_dict", "ema", "config", "step")


def strip_names(tensors: dict[Any, Any]) -> dict[str, Any]:
    """Drop the `_orig_mod` segments that torch.compile adds, and the leading `model.` and `inner.`."""
    plain = {}
    for name, tensor in tensors.items():
        parts = [p for p in str(name).split(".") if p != "_orig_mod"]
        for wrapper in ("model", "inner"):
            if parts and parts[0] == wrapper:
                parts = parts[1:]
        short = ".".join(parts)
        if short in plain:
            raise CheckpointError(f"tensor {short} is there twice, with and without the wrappers of its name")
        plain[short] = tensor
    return plain


def task_name(vocab: int, seq_len: int) -> str:
    """Name the task that a vocabulary and a grid size stand for: sudoku4/6/9, maze<side>, or unknown."""
    side = math.isqrt(seq_len)
    if side * side == seq_len and side in (4, 6, 9) and vocab == side + 2:
        return f"sudoku{side}"
    if side * side == seq_len and vocab == 6:
        return f"maze{side}"
    return "unknown"


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


def load_official(path: Path, *, weights: str = "auto", seq_len: int | None = None) -> Reasoner:
    """Load an official checkpoint (FORMATS, sections 1 to 3 and 7).

    Parameters
    ----------
    weights
        "ema", "raw", or "auto": the EMA weights when the configuration says `ema` and the file has them.
    seq_len
        Grid cells, when neither the weights nor the training state tell.

    Raises
    ------
    CheckpointError
        See `eqrlab.core.load`.
    """
    content = read_torch_file(path)
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
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    tensors = _renamed(read_stored(file.tensors, path))
    task = task_name(values["vocab_size"], values["seq_len"])
    return assemble(path, family, values, task, provenance, tensors)


def _open(path: Path, content: Any, weights: str) -> tuple[OfficialFile, str]:
    """Sort out what a file holds: family, weights and configuration."""
    if not isinstance(content, dict):
        what = (
            "an object of a foreign class" if isinstance(content, Opaque) else f"a {type(content).__name__}"
        )
        raise CheckpointError(f"holds {what}, a dictionary of weights or training state is required")
    key = next((k for k in ("model", "model_state_dict") if k in content), None)
    state = content if key else {}
    raw = _tensors(content[key], f"{key!r}") if key else _tensors(content, "the file")
    config = state.get("config")
    if not isinstance(config, dict):
        config = read_config(path)
    file = OfficialFile(state, raw, config, "raw")
    family = detect_family(set(raw))
    if family == "trm" and "lambda_" in file.arch:
        family = "eqr"
    check_family(file, family)
    average = state.get("ema")
    if (
        key != "model" and family != "eqr" and config.get("ema") is True
    ):  # these trainers save the averages alone
        if weights == "raw":
            raise CheckpointError("holds no raw weights, only their averages")
        file.weights = "ema"
        return file, family
    if weights == "raw" or (weights == "auto" and (average is None or not config.get("ema"))):
        return file, family
    if average is None:
        raise CheckpointError("holds no EMA weights")
    if isinstance(average, dict) and "shadow" in average:
        average = average["shadow"]
    shadow = _tensors(average, "'ema'")
    unknown, lacking = sorted(set(shadow) - set(raw)), sorted(set(raw) - set(shadow) - _BUFFERS)
    if unknown:
        raise CheckpointError(f"EMA tensor {unknown[0]} has no counterpart among the weights")
    if lacking:
        raise CheckpointError(f"EMA weights lack tensor {lacking[0]}")
    return OfficialFile(state, {**raw, **shadow}, config, "ema"), family


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
    if family in ("trm", "hrm") and file.content:
        parts.append("written by EqR's trainer")
    return ", ".join(parts)


def _tensors(value: Any, what: str) -> dict[str, StoredTensor]:
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{what} is no dictionary of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, StoredTensor):
            raise CheckpointError(f"{what} is no dictionary of tensors: {brief(name)} is none")
        if not isinstance(name, str) or len(name) > 500:
            raise CheckpointError(
                f"{what} names a tensor by {brief(name)}, text of 500 characters at most is required"
            )
    return strip_names(value)


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors this package's names, and floating ones the float32 in which the official code keeps weights."""
    plain = {}
    for name, tensor in tensors.items():
        if name == "puzzle_emb.weights":
            tensor = tensor[0]
        if name.startswith("layers."):  # URM's only stack stands outside of any level
            name = f"level.{name}"
        plain[_RENAMED.get(name, name)] = tensor.float() if tensor.is_floating_point() else tensor
    return plain
