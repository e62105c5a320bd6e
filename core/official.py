"""Official checkpoints of recursive reasoners, translated to this package's models."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from eqrlab.core.checkpoint import CheckpointError, assemble
from eqrlab.core.reasoner import Reasoner
from eqrlab.core.torchfile import Opaque, StoredTensor, read_stored, read_torch_file

_RENAMED = {
    "puzzle_emb.weights": "embed_tokens.prefix",
    "embed_pos.embedding_weight": "embed_tokens.position_weight",
}
_UNUSED = ("H_init", "L_init")  # buffers that the official EqR registers and never reads
_BUFFERS = {"puzzle_emb.weights", *_UNUSED}  # never part of averaged weights


@dataclass
class OfficialFile:
    """What an official checkpoint holds, before translation.

    Attributes
    ----------
    content
        The top-level dictionary; empty for a file that is a plain dictionary of weights.
    tensors
        The chosen weights under stripped names, still in the file.
    config
        The official configuration, from the file or from the YAML beside it.
    weights
        "ema" or "raw".
    inferred
        What the translation read off the weights or assumed by default, in words.
    """

    content: dict[str, Any]
    tensors: dict[str, StoredTensor]
    config: dict[str, Any]
    weights: str
    inferred: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    @property
    def arch(self) -> dict[str, Any]:
        """The section of the configuration that describes the network."""
        arch = self.config.get("arch")
        if not isinstance(arch, dict):
            raise CheckpointError("the configuration has no 'arch' section")
        return arch

    def value(self, name: str, kind: type, default: Any = None) -> Any:
        """Return `arch.<name>`, or the default of the official code; a value that is needed has none."""
        self.asked.add(name)
        if name not in self.arch:
            if default is None:
                raise CheckpointError(f"the configuration lacks arch.{name}, which the weights do not tell")
            self.inferred.append(f"{name} {default} by default")
            return default
        value = self.arch[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise CheckpointError(f"arch.{name} must be {kind.__name__}, got {str(value)[:40]!r}")
        return value

    def shape(self, name: str, dims: int = 2) -> tuple[int, ...]:
        """Return the shape of a tensor that must be there."""
        if name not in self.tensors or len(self.tensors[name].shape) != dims:
            raise CheckpointError(f"tensor {name} with {dims} axes is missing")
        return self.tensors[name].shape

    def ignored(self) -> list[str]:
        """Names in the configuration's network section that no translation asked for."""
        return sorted(str(name) for name in self.arch if name not in self.asked)


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


def detect_family(names: set[str]) -> str:
    """Name the family of a stripped state dict by the tensors that only this family has (FORMATS, section 1)."""
    if "init_hidden" in names:
        return "urm"
    if any(n.startswith("H_level.") for n in names):
        return "hrm"
    if "H_init" in names:
        return "trm"
    return "eqr"


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
            try:
                config = yaml.safe_load(candidate.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
                reason = str(error).splitlines()[0]
                raise CheckpointError(
                    f"{candidate.name} beside it is not readable as YAML ({reason})"
                ) from None
            if not isinstance(config, dict):
                raise CheckpointError(f"{candidate.name} beside it must be a mapping of options")
            return config
    raise CheckpointError("no configuration inside, and no all_config.yaml or config.yaml beside it")


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
        dropped = [n for n in _UNUSED if file.tensors.pop(n, None) is not None]
        forward_dtype = str(file.arch.get("forward_dtype", "bfloat16"))
        file.asked.add("forward_dtype")
        provenance = {
            "format": f"official {family.upper().replace('EQR', 'EqR')}",
            "variant": f"{values['prefix_len'] or 'no'} prefix positions",
            "weights": file.weights,
            "step": file.content.get("step") if type(file.content.get("step")) is int else None,
            "forward_dtype": forward_dtype,
            "inferred": file.inferred,
            "dropped": dropped
            + sorted(str(k) for k in file.content if k not in ("model", "ema", "config", "step")),
            "ignored_config": file.ignored(),
        }
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
    state = content if "model" in content else {}
    raw = _tensors(state["model"], "'model'") if state else _tensors(content, "the file")
    family = detect_family(set(raw))
    if family not in TRANSLATIONS:
        known = ", ".join(name.upper().replace("EQR", "EqR") for name in TRANSLATIONS)
        raise CheckpointError(f"an official {family.upper()} checkpoint; this version reads {known}")
    config = state.get("config")
    if not isinstance(config, dict):
        config = read_config(path)
    average = state.get("ema")
    if weights == "raw" or (weights == "auto" and (average is None or not config.get("ema"))):
        return OfficialFile(state, raw, config, "raw"), family
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


def _tensors(value: Any, what: str) -> dict[str, StoredTensor]:
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{what} is no dictionary of tensors")
    for name, tensor in value.items():
        if not isinstance(tensor, StoredTensor):
            raise CheckpointError(f"{what} is no dictionary of tensors: {str(name)[:80]!r} is none")
    return strip_names(value)


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors this package's names, and floating ones the float32 in which the official code keeps weights."""
    plain = {}
    for name, tensor in tensors.items():
        if name == "puzzle_emb.weights":
            tensor = tensor[0]
        plain[_RENAMED.get(name, name)] = tensor.float() if tensor.is_floating_point() else tensor
    return plain


def _eqr(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    """Translate the configuration of an official EqR, reading sizes off the tensors."""
    vocab, hidden = file.shape("lm_head.weight")
    if hidden != file.value("hidden_size", int):
        raise CheckpointError(
            f"lm_head.weight has width {hidden}, the configuration says {file.arch['hidden_size']}"
        )
    layers = len({n.split(".")[2] for n in file.tensors if n.startswith("L_level.layers.")})
    if layers != file.value("L_layers", int, layers):
        raise CheckpointError(
            f"the weights have {layers} L_level layers, the configuration says {file.arch['L_layers']}"
        )
    file.inferred.append("vocab_size from lm_head")
    mixer = "mlp" if "L_level.layers.0.mlp_t.gate_up_proj.weight" in file.tensors else "attention"
    if file.value("mlp_t", bool, mixer == "mlp") != (mixer == "mlp"):
        raise CheckpointError(
            f"the weights have the {mixer} mixer, the configuration says mlp_t={file.arch['mlp_t']}"
        )
    prefix_len, prefix_dim = _prefix(file, hidden)
    seq_len = _grid(file, mixer, prefix_len, seq_len)
    learned = "embed_pos.embedding_weight" in file.tensors
    positions = file.value("pos_encodings", str, "rope")
    if positions not in ("none", "rope", "rope2d", "learned") or (learned and positions != "learned"):
        raise CheckpointError(f"arch.pos_encodings {positions!r} does not go with the weights")
    if mixer == "mlp" and not learned:
        positions = "none"  # the token mixer knows its tokens: rotary settings are not used
    return {
        "vocab_size": vocab,
        "seq_len": seq_len,
        "hidden_size": hidden,
        "num_heads": file.value("num_heads", int),
        "expansion": file.value("expansion", float, 4.0),
        "layers": layers,
        "H_cycles": file.value("H_cycles", int),
        "L_cycles": file.value("L_cycles", int),
        "mixer": mixer,
        "positions": positions,
        "rope_theta": file.value("rope_theta", float, 10000.0) if positions.startswith("rope") else 10000.0,
        "board": _board(file, seq_len) if positions == "rope2d" else None,
        "prefix_len": prefix_len,
        "prefix_dim": prefix_dim,
        "damping": round(1.0 - file.value("lambda_", float), 12),
        "noise_scale": file.value("noise_scale", float),
        "H_init_std": file.value("H_init_std", float, 1.0),
        "L_init_std": file.value("L_init_std", float, 1.0),
        "halt_max_steps": file.value("halt_max_steps", int, 16),
        "halt_exploration": file.value("halt_exploration_prob", float, 0.1),
    }


def _prefix(file: OfficialFile, hidden: int) -> tuple[int, int]:
    """Return prefix positions and the length of their stored vector."""
    if "puzzle_emb.weights" not in file.tensors:
        return 0, 0
    identifiers, width = file.shape("puzzle_emb.weights")
    if not identifiers:
        raise CheckpointError("puzzle_emb.weights has no row")
    if identifiers > 1:
        raise CheckpointError(
            f"puzzle_emb.weights has {identifiers} rows; one puzzle identifier is supported"
        )
    file.inferred.append("prefix positions from puzzle_emb")
    file.asked.add("puzzle_emb_ndim")
    return file.value("puzzle_emb_len", int, -(-width // hidden)) or -(-width // hidden), width


def _grid(file: OfficialFile, mixer: str, prefix_len: int, seq_len: int | None) -> int:
    """Return the grid cells, from the weights, the training state or the caller."""
    total, source = None, ""
    if mixer == "mlp":
        total, source = file.shape("L_level.layers.0.mlp_t.gate_up_proj.weight")[1], "the token mixer"
    elif "embed_pos.embedding_weight" in file.tensors:
        total, source = file.shape("embed_pos.embedding_weight")[0], "the position embedding"
    else:
        z_H = _attribute(_attribute(file.content.get("carry"), "inner_carry"), "z_H")
        if isinstance(z_H, StoredTensor) and len(z_H.shape) == 3:
            total, source = z_H.shape[1], "the training state"
    if total is None and seq_len is None:
        raise CheckpointError("an attention checkpoint that does not tell its grid size; pass seq_len")
    if total is None:
        return int(seq_len or 0)
    if seq_len not in (None, total - prefix_len):
        raise CheckpointError(
            f"seq_len {seq_len} was asked for, {source} has {total - prefix_len} grid cells"
        )
    file.inferred.append(f"seq_len from {source}")
    return total - prefix_len


def _attribute(value: Any, name: str) -> Any:
    """Return what an object of a foreign class kept under a name, or None."""
    return value.state.get(name) if isinstance(value, Opaque) and isinstance(value.state, dict) else None


def _board(file: OfficialFile, seq_len: int) -> tuple[int, int]:
    side = math.isqrt(seq_len)
    board = tuple(file.arch.get(name) for name in ("board_height", "board_width"))
    file.asked |= {"board_height", "board_width"}
    if all(type(v) is int for v in board):
        return board  # type: ignore[return-value]
    file.inferred.append("square board by default")
    return side, seq_len // max(1, side)


TRANSLATIONS: dict[str, Callable[[OfficialFile, int | None], dict[str, Any]]] = {"eqr": _eqr}
