"""Configurations of official checkpoints, translated to this package's; sizes are read off the tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from eqrlab.core.checkpoints.torchfile import Opaque, StoredTensor
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief, one_line

NAMES = {"eqr": "EqR", "trm": "TRM", "hrm": "HRM", "urm": "URM"}
# Parts of `arch.name` that tell the family, tried in this order.
_DECLARED = {
    "urm": "urm",
    "hrm": "hrm",
    "hierarchical": "hrm",
    "trm": "trm",
    "tinyrecursive": "trm",
    "eqr": "eqr",
}
_MARKS = {
    "urm": "init_hidden",
    "hrm": "H_level",
    "trm": "H_init and no H_level",
}  # tensors that tell the family
_SUDOKU_CELLS = {8: 36, 11: 81}  # vocabularies that no other task of these files has
_NORM_EPS = 1e-5
_TRM_PREFIX = 16  # what TRM's own code takes for a missing puzzle_emb_len


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
    origin
        "eqr" for files of EqR's trainer, which also trains TRM and HRM, "own" for those of the family's own, "unknown".
    inferred
        What the translation read off the weights or assumed by default, in words.
    """

    content: dict[str, Any]
    tensors: dict[str, StoredTensor]
    config: dict[str, Any]
    weights: str
    origin: str = "own"
    inferred: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    @property
    def arch(self) -> dict[str, Any]:
        """The section of the configuration that describes the network."""
        arch = self.config.get("arch")
        if not isinstance(arch, dict):
            raise CheckpointError("the configuration has no 'arch' section")
        return arch

    def value(self, name: str, kind: type, default: Any = None, source: str = "by default") -> Any:
        """Return `arch.<name>`, or the default that a source gives; a value that is needed has none."""
        self.asked.add(name)
        if name not in self.arch:
            if default is None:
                raise CheckpointError(f"the configuration lacks arch.{name}, which the weights do not tell")
            self.inferred.append(f"{name} {default} {source}")
            return default
        value: Any = self.arch[name]
        if kind is float and type(value) is int and abs(value) < 1 << 63:
            value = float(value)
        large = isinstance(value, int) and abs(value) >= 1 << 63
        if type(value) is not kind or large:
            raise CheckpointError(f"arch.{name} must be {kind.__name__}, got {brief(value)}")
        return value

    def shape(self, name: str, dims: int = 2) -> tuple[int, ...]:
        """Return the shape of a tensor that must be there."""
        if name not in self.tensors or len(self.tensors[name].shape) != dims:
            raise CheckpointError(f"tensor {name} with {dims} axes is missing")
        return self.tensors[name].shape

    def ignored(self) -> list[str]:
        """Names in the configuration's network section that no translation asked for."""
        return listed(name for name in self.arch if name not in self.asked)


def listed(names: Iterable[Any]) -> list[str]:
    """Return names of a file in order, as text that can be stored: the first hundred of them."""
    known = sorted(one_line(name, 80) if isinstance(name, str) else brief(name) for name in names)
    return known[:100] + [f"and {len(known) - 100} more"] * (len(known) > 100)


def detect_family(names: set[str]) -> str:
    """Name the family of a stripped state dict by the tensors that only this family has (FORMATS, section 1)."""
    if "init_hidden" in names:
        return "urm"
    if any(n.startswith("H_level.") for n in names):
        return "hrm"
    if "H_init" in names:
        return "trm"
    return "eqr"


def check_family(file: OfficialFile, family: str) -> None:
    """Raise CheckpointError when the configuration's `arch.name` names another family than the weights are of."""
    name = file.arch.get("name", "")
    if not isinstance(name, str):
        raise CheckpointError(f"arch.name must be str, got {brief(name)}")
    declared = name[:80]
    said = next((f for part, f in _DECLARED.items() if part in declared.lower()), family)
    if said != family:
        marks = f"have {_MARKS[family]}" if family in _MARKS else f"have no {_MARKS[said].split()[0]}"
        raise CheckpointError(
            f"the configuration is one of {NAMES[said]} ({declared!r}), "
            f"the weights look like {NAMES[family]}: they {marks}"
        )


def _shared(
    file: OfficialFile, seq_len: int | None, blocks: tuple[str, str], prefix: str = "least"
) -> dict[str, Any]:
    """Translate what all families have; `blocks` are the option that counts the blocks and where they are.

    `prefix` is what a missing puzzle_emb_len stands for: "least", "trm" (16), or "unknown"; see `_prefix`.
    """
    vocab, hidden = file.shape("lm_head.weight")
    if hidden != file.value("hidden_size", int, hidden, "from lm_head"):
        raise CheckpointError(
            f"lm_head.weight has width {hidden}, the configuration says {file.arch['hidden_size']}"
        )
    layers = _layers(file, *blocks)
    file.inferred.append("vocab_size from lm_head")
    mixing = f"{blocks[1]}layers.0.mlp_t.gate_up_proj.weight"
    mixer = "mlp" if mixing in file.tensors else "attention"
    if "mlp_t" in file.arch and file.value("mlp_t", bool) != (mixer == "mlp"):
        raise CheckpointError(
            f"the weights have the {mixer} mixer, the configuration says mlp_t={file.arch['mlp_t']}"
        )
    if "rms_norm_eps" in file.arch and file.value("rms_norm_eps", float) != _NORM_EPS:
        raise CheckpointError(f"arch.rms_norm_eps must be {_NORM_EPS}, got {file.arch['rms_norm_eps']}")
    total = _positions_total(file, mixing if mixer == "mlp" else None)
    cells = _SUDOKU_CELLS.get(vocab) if seq_len is None else seq_len
    prefix_len, prefix_dim = _prefix(file, hidden, prefix, total[0] - cells if total[0] and cells else None)
    seq_len = _grid(file, total, prefix_len, vocab, seq_len)
    positions = _positions(file, mixer)
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
        "halt_max_steps": file.value("loops" if "loops" in file.arch else "halt_max_steps", int, 16),
        "halt_exploration": file.value("halt_exploration_prob", float, 0.1),
    }


def _layers(file: OfficialFile, option: str, prefix: str) -> int:
    """Count the blocks of a stack, which must be as many as the configuration says."""
    start = f"{prefix}layers."
    layers = len({n.removeprefix(start).split(".")[0] for n in file.tensors if n.startswith(start)})
    if layers != file.value(option, int, layers, "from the weights"):
        what = f"{prefix}layers".replace(".", " ")
        raise CheckpointError(f"the weights have {layers} {what}, the configuration says {file.arch[option]}")
    return layers


def _positions(file: OfficialFile, mixer: str) -> str:
    """Return how positions are encoded; a fixed table among the tensors is read as a learned one."""
    table = {"embed_pos.embedding_weight": "learned", "absolute_pos_embedding": "absolute"}
    stored = next((kind for name, kind in table.items() if name in file.tensors), None)
    positions = file.value("pos_encodings", str, "rope")
    known = positions in ("none", "rope", "rope2d")
    if (positions != stored) if stored else not known:
        raise CheckpointError(f"arch.pos_encodings {positions!r} does not go with the weights")
    if stored:
        return "learned"
    return (
        "none" if mixer == "mlp" else positions
    )  # the token mixer knows its tokens: rotary settings are not used


def _prefix(file: OfficialFile, hidden: int, missing: str, left: int | None) -> tuple[int, int]:
    """Return prefix positions and the length of their stored vector.

    Without puzzle_emb_len there are as many positions as the vector needs, or TRM's 16.  Which, is told by the
    positions left beside the cells of the grid where both are known, or else by whose code wrote the file.
    """
    if "puzzle_emb.weights" not in file.tensors:
        return 0, 0
    identifiers, width = file.shape("puzzle_emb.weights")
    if not identifiers:
        raise CheckpointError("puzzle_emb.weights has no row")
    file.inferred.append("prefix positions from puzzle_emb")
    file.asked.add("puzzle_emb_ndim")
    least = -(-width // hidden)
    if "puzzle_emb_len" in file.arch:
        return file.value("puzzle_emb_len", int, 0) or least, width
    if missing == "least" and file.origin == "own":
        return least, width  # HRM and URM have no such option
    if left in (least, _TRM_PREFIX):
        file.inferred.append(f"puzzle_emb_len {left} from the positions beside the grid")
        return left, width
    if missing == "unknown" and least != _TRM_PREFIX:
        raise CheckpointError(
            f"the configuration lacks arch.puzzle_emb_len, and it cannot be told whether there are {least} or "
            f"{_TRM_PREFIX} prefix positions: add it"
        )
    return file.value("puzzle_emb_len", int, _TRM_PREFIX if missing == "trm" else least), width


def _positions_total(file: OfficialFile, mixing: str | None) -> tuple[int | None, str]:
    """Return the positions, prefix and grid, that the weights or the training state tell, and what told them."""
    if mixing:
        return file.shape(mixing)[1], "the token mixer"
    for table in ("embed_pos.embedding_weight", "absolute_pos_embedding"):
        if table in file.tensors:
            return file.shape(table)[0], "the position embedding"
    z_H = _attribute(_attribute(file.content.get("carry"), "inner_carry"), "z_H")
    if isinstance(z_H, StoredTensor) and len(z_H.shape) == 3:
        return z_H.shape[1], "the training state"
    return None, ""


def _grid(
    file: OfficialFile, known: tuple[int | None, str], prefix_len: int, vocab: int, seq_len: int | None
) -> int:
    """Return the grid cells, from the weights, the training state, the caller or the vocabulary."""
    total, source = known
    if total is None and seq_len is None and vocab in _SUDOKU_CELLS:
        total, source = (
            prefix_len + _SUDOKU_CELLS[vocab],
            f"the vocabulary of {vocab} tokens, that of a Sudoku",
        )
    if total is None and seq_len is None:
        raise CheckpointError("an attention checkpoint that does not tell its grid size; pass seq_len")
    if total is None:
        return int(seq_len or 0)
    if total <= prefix_len:
        raise CheckpointError(f"{prefix_len} prefix positions leave no grid cell of the {total} of {source}")
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


def _eqr(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    return {
        **_shared(file, seq_len, ("L_layers", "L_level."), "unknown"),
        "damping": round(1.0 - file.value("lambda_", float), 12),
        "noise_scale": file.value("noise_scale", float),
        "H_init_std": file.value("H_init_std", float, 1.0),
        "L_init_std": file.value("L_init_std", float, 1.0),
    }


def _trm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    _needs_prefix(file)
    missing = {"own": "trm", "eqr": "least", "unknown": "unknown"}[file.origin]
    return _shared(file, seq_len, ("L_layers", "L_level."), missing)


def _hrm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    _needs_prefix(file)
    values = _shared(file, seq_len, ("L_layers", "L_level."))
    return {**values, "H_layers": _layers(file, "H_layers", "H_level.")}


def _urm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    _needs_prefix(file)
    return {**_shared(file, seq_len, ("num_layers", "")), "conv_dtype": "bfloat16"}


def _needs_prefix(file: OfficialFile) -> None:
    """Raise CheckpointError when the prefix vector is not what the configuration says."""
    width = file.value("puzzle_emb_ndim", int, 0) if "puzzle_emb_ndim" in file.arch else None
    found = file.shape("puzzle_emb.weights")[1] if width or "puzzle_emb.weights" in file.tensors else 0
    if width not in (None, found):
        raise CheckpointError(
            f"puzzle_emb.weights has width {found}, the configuration says puzzle_emb_ndim={width}"
        )


TRANSLATIONS: dict[str, Callable[[OfficialFile, int | None], dict[str, Any]]] = {
    "eqr": _eqr,
    "trm": _trm,
    "hrm": _hrm,
    "urm": _urm,
}
