"""Official checkpoints of recursive reasoners, read as data: nothing in them is imported or executed."""

from __future__ import annotations

import collections
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from eqrlab.core.checkpoint import CheckpointError, build, fill, on_error
from eqrlab.core.reasoner import Reasoner

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Opaque:
    """Stand-in for any object of a foreign class in a pickle: it keeps its data and does nothing."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(k): v for k, v in state.items()})


class _Storage:
    """Bytes of one stored tensor storage, read when a tensor asks for them."""

    def __init__(self, archive: zipfile.ZipFile, name: str, dtype: torch.dtype, count: int):
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"record {name} is compressed, which torch.save never does")
        if count < 0 or info.file_size != count * dtype.itemsize:
            raise CheckpointError(
                f"record {name} has {info.file_size} bytes, {count} values of {dtype} were declared"
            )
        self.archive, self.name, self.dtype, self.count = archive, name, dtype, count

    def tensor(self, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        numbers = (offset, *size, *stride)
        if any(not isinstance(v, int) or v < 0 for v in numbers) or len(size) != len(stride):
            raise CheckpointError(
                f"record {self.name} declares an impossible shape {size} with strides {stride}"
            )
        reach = (
            offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
            if math.prod(size)
            else offset
        )
        if reach > self.count or math.prod(size) > self.count:
            raise CheckpointError(f"record {self.name} holds {self.count} values, shape {size} asks for more")
        if not math.prod(size):
            return torch.empty(size, dtype=self.dtype)
        flat = torch.frombuffer(bytearray(self.archive.read(self.name)), dtype=self.dtype)
        return flat.as_strided(size, stride, offset).clone()


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage):
        raise CheckpointError("a tensor refers to something that is no storage")
    return storage.tensor(offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _InertUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; every other class or function becomes `Opaque`."""

    _known = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(archive.open(f"{prefix}/data.pkl"))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return self._known.get((module, name), Opaque)

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), str(), int(count)):
                return _Storage(self._archive, f"{self._prefix}/data/{key}", dtype, count)
        raise CheckpointError(f"unknown kind of stored object {str(pid)[:80]}")


def read_torch_archive(path: str | Path) -> Any:
    """Read a file written by torch.save without executing anything in it.

    Parameters
    ----------
    path
        A zip archive as torch.save has written since version 1.6.

    Returns
    -------
    object
        Plain containers and CPU tensors; objects of other classes become inert `Opaque` stand-ins with their data.

    Raises
    ------
    CheckpointError
        For files that are no such archive, are truncated, or whose records and declared shapes disagree.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
            if len(pickles) != 1:
                raise CheckpointError("the zip archive has no data.pkl, so torch.save did not write it")
            prefix = pickles[0].split("/")[0]
            order = f"{prefix}/byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise CheckpointError("the tensors are big-endian, little-endian is required")
            return _InertUnpickler(archive, prefix).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path}: not a checkpoint (no zip archive of torch.save, or truncated); expected a file written by torch.save "
            "(1.6 or later) or an eqrlab .safetensors file"
        ) from None
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: the pickled structure is damaged ({reason})") from None
    except (OSError, RuntimeError, MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({str(error)[:120] or type(error).__name__})"
        ) from None


def strip_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the `_orig_mod` segments that torch.compile adds, and the leading `model.` and `inner.`."""
    plain = {}
    for name, tensor in tensors.items():
        parts = [p for p in str(name).split(".") if p != "_orig_mod"]
        for wrapper in ("model", "inner"):
            if parts and parts[0] == wrapper:
                parts = parts[1:]
        plain[".".join(parts)] = tensor
    return plain


def detect_family(names: set[str]) -> str:
    """Name the family of a stripped state dict by the tensors only that family has (FORMATS, section 1)."""
    if "init_hidden" in names:
        return "urm"
    if any(n.startswith("H_level.") for n in names):
        return "hrm"
    if "H_init" in names:
        return "trm"
    return "eqr"


def _tensors(value: Any, what: str) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not value or not all(isinstance(t, Tensor) for t in value.values()):
        raise CheckpointError(f"{what} is no dictionary of tensors")
    return strip_names(value)


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
                config = yaml.safe_load(candidate.read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"{candidate}: not readable as YAML ({str(error).splitlines()[0]})"
                ) from None
            if not isinstance(config, dict):
                raise CheckpointError(f"{candidate}: the configuration must be a mapping")
            return config
    raise CheckpointError(f"{path}: no configuration inside, and no all_config.yaml or config.yaml beside it")


def task_name(vocab: int, seq_len: int) -> str:
    """Name the task that a vocabulary and a grid size stand for: sudoku4/6/9, maze<side>, or unknown."""
    side = math.isqrt(seq_len)
    if side * side == seq_len and side in (4, 6, 9) and vocab == side + 2:
        return f"sudoku{side}"
    if side * side == seq_len and vocab == 6:
        return f"maze{side}"
    return "unknown"


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
    content = read_torch_archive(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}, expected a dictionary of weights or training state"
        )
    try:
        raw = _tensors(content["model"], "'model'") if "model" in content else _tensors(content, "the file")
        config = content.get("config") if "model" in content else None
        config = config if isinstance(config, dict) else read_config(path)
        family = detect_family(set(raw))
        if family != "eqr":
            raise CheckpointError(f"an official {family.upper()} checkpoint; this version reads EqR")
        chosen, tensors = _choose_weights(content, raw, config, weights)
        values, inferred = _eqr_config(tensors, config, content, seq_len)
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(
            message if message.startswith(str(path.parent)) else f"{path}: {message}"
        ) from None
    if "puzzle_emb.weights" in tensors:
        tensors["embed_tokens.prefix"] = tensors.pop("puzzle_emb.weights")[0]
    if "embed_pos.embedding_weight" in tensors:
        tensors["embed_tokens.position_weight"] = tensors.pop("embed_pos.embedding_weight")
    dropped = [n for n in ("H_init", "L_init") if tensors.pop(n, None) is not None]
    provenance = {
        "format": "official EqR",
        "variant": f"{values['prefix_len']} prefix positions"
        if values["prefix_len"]
        else "no prefix positions",
        "weights": chosen,
        "step": content.get("step") if isinstance(content.get("step"), int) else None,
        "inferred": inferred,
        "dropped": dropped + sorted(k for k in content if k not in ("model", "ema", "config", "step")),
        "forward_dtype": str(config.get("arch", {}).get("forward_dtype", "bfloat16")),
    }
    task = task_name(values["vocab_size"], values["seq_len"])
    reasoner = on_error(path, lambda: build(family, values, task, provenance))
    fill(reasoner, {name: t.float() for name, t in tensors.items()}, path)
    return reasoner


def _choose_weights(
    content: dict[str, Any], raw: dict[str, Tensor], config: dict[str, Any], weights: str
) -> tuple[str, dict[str, Tensor]]:
    """Return which weights were taken and all tensors: EMA parameters over the raw file's buffers."""
    average = content.get("ema")
    if average is None or weights == "raw" or (weights == "auto" and not config.get("ema")):
        if weights == "ema":
            raise CheckpointError("holds no EMA weights")
        return "raw", dict(raw)
    if isinstance(average, dict) and "shadow" in average:
        average = average["shadow"]
    shadow = _tensors(average, "'ema'")
    unknown = sorted(set(shadow) - set(raw))
    if unknown:
        raise CheckpointError(f"EMA tensor {unknown[0]} has no counterpart among the weights")
    buffers = {"puzzle_emb.weights", "H_init", "L_init"}
    lacking = sorted(set(raw) - set(shadow) - buffers)
    if lacking:
        raise CheckpointError(f"EMA weights lack tensor {lacking[0]}")
    return "ema", {**raw, **shadow}


def _eqr_config(
    tensors: dict[str, Tensor], config: dict[str, Any], content: dict[str, Any], seq_len: int | None
) -> tuple[dict[str, Any], list[str]]:
    """Translate an official configuration, reading sizes off the tensors; return it and what was inferred."""
    arch = config.get("arch")
    if not isinstance(arch, dict):
        raise CheckpointError("the configuration has no 'arch' section")
    needed = ("H_cycles", "L_cycles", "hidden_size", "num_heads", "lambda_", "noise_scale")
    lacking = [k for k in needed if k not in arch]
    if lacking:
        raise CheckpointError(f"the configuration lacks arch.{lacking[0]}, which the weights do not tell")
    for name in ("lm_head.weight", "embed_tokens.embedding_weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise CheckpointError(f"tensor {name} (vocabulary x hidden) is missing")
    vocab, hidden = tensors["lm_head.weight"].shape
    if hidden != arch["hidden_size"]:
        raise CheckpointError(
            f"lm_head.weight has width {hidden}, the configuration says {arch['hidden_size']}"
        )
    layers = len({n.split(".")[2] for n in tensors if n.startswith("L_level.layers.")})
    if not layers or layers != arch.get("L_layers", layers):
        raise CheckpointError(
            f"the weights have {layers} L_level layers, the configuration says {arch.get('L_layers')}"
        )
    inferred = ["vocab_size from lm_head"]
    prefix_len = prefix_dim = 0
    if "puzzle_emb.weights" in tensors:
        table = tensors["puzzle_emb.weights"]
        if table.ndim != 2 or not len(table):
            raise CheckpointError(
                f"puzzle_emb.weights must be (identifiers, width), got {tuple(table.shape)}"
            )
        prefix_dim = table.shape[1]
        prefix_len = arch.get("puzzle_emb_len") or -(-prefix_dim // hidden)
        inferred.append("prefix positions from puzzle_emb")
    mixer = "mlp" if "L_level.layers.0.mlp_t.gate_up_proj.weight" in tensors else "attention"
    if bool(arch.get("mlp_t", mixer == "mlp")) != (mixer == "mlp"):
        raise CheckpointError(
            f"the weights have the {mixer} mixer, the configuration says mlp_t={arch['mlp_t']}"
        )
    total = None
    if mixer == "mlp":
        total, source = tensors["L_level.layers.0.mlp_t.gate_up_proj.weight"].shape[-1], "the token mixer"
    elif "embed_pos.embedding_weight" in tensors:
        total, source = tensors["embed_pos.embedding_weight"].shape[0], "the position embedding"
    else:
        inner = getattr(content.get("carry"), "inner_carry", None)
        z_H = getattr(inner, "z_H", None)
        if isinstance(z_H, Tensor) and z_H.ndim == 3:
            total, source = z_H.shape[1], "the training state"
    if total is not None:
        if seq_len not in (None, total - prefix_len):
            raise CheckpointError(
                f"seq_len {seq_len} was asked for, {source} has {total - prefix_len} grid cells"
            )
        seq_len = total - prefix_len
        inferred.append(f"seq_len from {source}")
    if seq_len is None:
        raise CheckpointError("an attention checkpoint that does not tell its grid size; pass seq_len")
    positions = "none" if mixer == "mlp" else str(arch.get("pos_encodings", "rope"))
    board = None
    if positions == "rope2d":
        board = (arch.get("board_height"), arch.get("board_width"))
        side = math.isqrt(seq_len)
        if not all(isinstance(v, int) for v in board) or board[0] * board[1] != seq_len:
            board = (side, seq_len // side)
    values = {
        "vocab_size": vocab,
        "seq_len": seq_len,
        "hidden_size": hidden,
        "num_heads": arch["num_heads"],
        "expansion": float(arch.get("expansion", 4)),
        "layers": layers,
        "H_cycles": arch["H_cycles"],
        "L_cycles": arch["L_cycles"],
        "mixer": mixer,
        "positions": positions,
        "rope_theta": float(arch.get("rope_theta", 10000.0)),
        "board": board,
        "prefix_len": prefix_len,
        "prefix_dim": prefix_dim,
        "damping": 1.0 - float(arch["lambda_"]),
        "noise_scale": float(arch["noise_scale"]),
        "H_init_std": float(arch.get("H_init_std", 1.0)),
        "L_init_std": float(arch.get("L_init_std", 1.0)),
        "halt_max_steps": arch.get("halt_max_steps", 16),
        "halt_exploration": float(arch.get("halt_exploration_prob", 0.1)),
    }
    return values, inferred
