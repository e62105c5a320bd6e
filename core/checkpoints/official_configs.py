"""Configurations of official checkpoints, translated to this package's; sizes are read off the tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eqrlab.core.checkpoints.grid import SUDOKU_CELLS, board_of, cells_told, grid_cells, positions_told
from eqrlab.core.checkpoints.official_file import OfficialFile
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief
from eqrlab.core.models.config import inner_width

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
    "eqr": "L_level and no H_init",
}  # tensors that tell the family
LOOKED_FOR = (
    "L_level.layers (EqR, TRM, HRM), H_init and L_init (TRM, HRM), H_level.layers (HRM), init_hidden (URM)"
)
_TRM_PREFIX = 16  # what TRM's own code takes for a missing puzzle_emb_len


def detect_family(names: set[str]) -> str | None:
    """Return the family of a state dict from tensors that only this family has, or None."""
    if "init_hidden" in names:
        return "urm"
    if any(n.startswith("H_level.") for n in names):
        return "hrm"
    if "H_init" in names:
        return "trm"
    return "eqr" if any(n.startswith("L_level.") for n in names) else None


def check_family(file: OfficialFile, family: str) -> None:
    """Raise CheckpointError if the configuration belongs to another family than the weights.

    Its family is known from `arch.name`, or from `lambda_`, which only EqR has.
    """
    name = file.arch.get("name", "")
    if not isinstance(name, str):
        raise CheckpointError(f"arch.name must be str, got {brief(name)}")
    declared = name[:80]
    said = next((f for part, f in _DECLARED.items() if part in declared.lower()), None)
    if family == "eqr" and said not in (None, "eqr"):  # nothing tells an EqR but what is not there
        if "H_init" in file.tensors:
            raise CheckpointError(
                f"lambda_ is an option of EqR, the configuration is one of {NAMES[said]} ({declared!r})"
            )
        raise CheckpointError(
            f"the configuration is one of {NAMES[said]} ({declared!r}), whose weights have "
            f"{_MARKS[said].split()[0]}, and there is no such tensor"
        )
    if said not in (None, family):
        raise CheckpointError(
            f"the configuration is one of {NAMES[said]} ({declared!r}), "
            f"the weights look like {NAMES[family]}: they have {_MARKS[family]}"
        )
    if family == "eqr" and said is None and "lambda_" not in file.arch:
        raise CheckpointError(
            "it cannot be told whose these weights are: there is no H_init, as a TRM has, and no arch.lambda_ in the "
            "configuration, as an EqR has; add what is missing"
        )


def _shared(
    file: OfficialFile, seq_len: int | None, blocks: tuple[str, str], prefix: str = "least"
) -> dict[str, Any]:
    """Translate the options that all families have; `blocks` names the option that counts blocks, and their place.

    `prefix` is the meaning of a missing puzzle_emb_len: "least", "trm" (16), or "unknown"; see `_prefix`.
    """
    vocab, hidden = file.shape("lm_head.weight")
    _needs_prefix(file)
    for name, size, said in (("hidden_size", hidden, "width"), ("vocab_size", vocab, "a vocabulary of")):
        if size != file.value(name, int, size, "from lm_head"):
            raise CheckpointError(
                f"lm_head.weight has {said} {size}, the configuration says {file.arch[name]}"
            )
    layers = _layers(file, *blocks)
    mixing = f"{blocks[1]}layers.0.mlp_t.gate_up_proj.weight"
    mixer = "mlp" if mixing in file.tensors else "attention"
    if "mlp_t" in file.arch and file.value("mlp_t", bool) != (mixer == "mlp"):
        raise CheckpointError(
            f"the weights have the {mixer} mixer, the configuration says mlp_t={file.arch['mlp_t']}"
        )
    total = positions_told(file, mixing if mixer == "mlp" else None)
    told = cells_told(file, seq_len)
    cells = SUDOKU_CELLS.get(vocab) if told[0] is None else told[0]
    prefix_len, prefix_dim = _prefix(file, hidden, prefix, total[0] - cells if total[0] and cells else None)
    cells = grid_cells(file, total, prefix_len, vocab, told)
    positions = _positions(file, mixer)
    steps = (
        "loops" if blocks[0] == "num_layers" and "loops" in file.arch else "halt_max_steps"
    )  # loops: of URM
    return {
        "vocab_size": vocab,
        "seq_len": cells,
        "hidden_size": hidden,
        "num_heads": file.value("num_heads", int),
        **_widths(file, hidden, blocks[1], total[0] if mixer == "mlp" else None),
        **_norms(file, blocks[1]),
        "layers": layers,
        "H_cycles": file.value("H_cycles", int),
        "L_cycles": file.value("L_cycles", int),
        "mixer": mixer,
        "positions": positions,
        "rope_theta": file.value("rope_theta", float, 10000.0) if positions.startswith("rope") else 10000.0,
        "board": board_of(file, cells) if positions == "rope2d" else None,
        "prefix_len": prefix_len,
        "prefix_dim": prefix_dim,
        "halt_max_steps": file.value(steps, int, 16),
        "halt_exploration": file.value("halt_exploration_prob", float, 0.1),
    }


def _widths(file: OfficialFile, hidden: int, stack: str, tokens: int | None) -> dict[str, Any]:
    """Return the expansion of the SwiGLUs, and their inner widths if the expansion does not determine them."""
    if "expansion" in file.arch:
        return {"expansion": file.value("expansion", float)}
    widths = {}
    for name, part, size in (("mlp_width", "mlp", hidden), ("mixer_width", "mlp_t", tokens)):
        down = file.tensors.get(f"{stack}layers.0.{part}.down_proj.weight")
        if size and down is not None and len(down.shape) == 2 and down.shape[1] != inner_width(size, 4.0):
            widths[name] = down.shape[1]
            file.inferred.append(f"{name} {down.shape[1]} from the weights")
    return {"expansion": 4.0 if widths else file.value("expansion", float, 4.0), **widths}


def _norms(file: OfficialFile, stack: str) -> dict[str, Any]:
    """Return how blocks normalise; deviations from the official code are seen from tensors, their names, or options."""
    norms: dict[str, Any] = {}
    if f"{stack}layers.0.norm1.weight" in file.tensors:
        norms["norm_weights"] = True
        file.inferred.append("learned norm weights from the weights")
    if f"{stack}norm.weight" in file.tensors:
        norms["final_norm"] = True
    pre, source = file.pre_norm, "from the names of the norms"
    if pre is None and "final_norm" in norms:  # nothing would be left to normalise behind a post-norm block
        pre, source = True, "from the norm at the end of the stack"
    if "pre_norm" in file.arch:
        norms["pre_norm"] = file.value("pre_norm", bool)
    elif pre:
        norms["pre_norm"] = True
        file.inferred.append(f"norms before the mixing {source}")
    elif norms:
        file.inferred.append("norms behind the mixing, as in the official code; pre_norm=true says otherwise")
    if "rms_norm_eps" in file.arch:
        norms["norm_eps"] = file.value("rms_norm_eps", float)
    return norms


def _layers(file: OfficialFile, option: str, prefix: str) -> int:
    """Count the blocks of a stack, and check that their number agrees with the configuration."""
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
    if mixer == "mlp" and not stored and file.arch.get("pos_encodings", "") is None:
        return "none"
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

    HRM and URM have as many positions as the vector needs.  Others without puzzle_emb_len have as many, or TRM's 16: if
    the numbers of positions and of grid cells are known, their difference decides, otherwise the code that wrote the
    file does.
    """
    if "puzzle_emb.weights" not in file.tensors:
        return 0, 0
    identifiers, width = file.shape("puzzle_emb.weights")
    if not identifiers:
        raise CheckpointError("puzzle_emb.weights has no row")
    told = "num_puzzle_identifiers"
    if told in file.arch and file.value(told, int) != identifiers:
        raise CheckpointError(
            f"puzzle_emb.weights has {identifiers} rows, the configuration says {told}={file.arch[told]}"
        )
    file.inferred.append("prefix positions from puzzle_emb")
    file.asked.add("puzzle_emb_ndim")
    least = -(-width // hidden)
    if missing == "least" and file.origin == "own":
        return least, width  # HRM and URM have no such option, and their code does not look at one
    if "puzzle_emb_len" in file.arch:
        return file.value("puzzle_emb_len", int, 0) or least, width
    if left in (least, _TRM_PREFIX):
        file.inferred.append(f"puzzle_emb_len {left} from the positions beside the grid")
        return left, width
    if missing == "unknown" and least != _TRM_PREFIX:
        raise CheckpointError(
            f"the configuration lacks arch.puzzle_emb_len, and it cannot be told whether there are {least} or "
            f"{_TRM_PREFIX} prefix positions: add it"
        )
    return file.value("puzzle_emb_len", int, _TRM_PREFIX if missing == "trm" else least), width


def _eqr(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    shared, factor = _shared(file, seq_len, ("L_layers", "L_level."), "unknown"), file.value("lambda_", float)
    if not 0 < factor <= 1:
        raise CheckpointError(f"arch.lambda_ must be in (0, 1], got {factor}")
    return {
        **shared,
        "damping": round(1.0 - factor, 12),
        "noise_scale": file.value("noise_scale", float),
        "H_init_std": file.value("H_init_std", float, 1.0),
        "L_init_std": file.value("L_init_std", float, 1.0),
    }


def _trm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    missing = {"own": "trm", "eqr": "least", "unknown": "unknown"}[file.origin]
    return _shared(file, seq_len, ("L_layers", "L_level."), missing)


def _hrm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    values = _shared(file, seq_len, ("L_layers", "L_level."))
    return {**values, "H_layers": _layers(file, "H_layers", "H_level.")}


def _urm(file: OfficialFile, seq_len: int | None) -> dict[str, Any]:
    return {**_shared(file, seq_len, ("num_layers", "")), "conv_dtype": "bfloat16"}


def _needs_prefix(file: OfficialFile) -> None:
    """Raise CheckpointError if the prefix vector disagrees with the configuration."""
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
