"""Loading and saving: eqrlab's own .safetensors files, bundled models by name, official files through `official`.

One subject: what is written is what is read, so the two stand together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eqrlab.core.kinds import LOOKED_AT, is_safetensors
from eqrlab.core.messages import brief, one_line
from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.eqr import EqR, EqRConfig
from eqrlab.core.models.feedforward import Feedforward, FeedforwardConfig
from eqrlab.core.models.hrm import HRM, HRMConfig
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.models.tied import Tied, TiedConfig
from eqrlab.core.models.trm import TRM, TRMConfig
from eqrlab.core.models.urm import URM, URMConfig

FORMAT = 1
_MOST_HEADER = 1 << 22  # bytes of a safetensors header: some 50,000 tensors
_WEIGHTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FAMILIES: dict[str, tuple[type[Reasoner], type[ReasonerConfig]]] = {
    "eqr": (EqR, EqRConfig),
    "trm": (TRM, TRMConfig),
    "hrm": (HRM, HRMConfig),
    "urm": (URM, URMConfig),
    "feedforward": (Feedforward, FeedforwardConfig),
    "tied": (Tied, TiedConfig),
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: one line that names the file, what is wrong and what was expected."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


def plain_values(value: Any, what: str, depth: int = 8) -> Any:
    """Return values of a file that are safe to store and to print: JSON kinds, printable, nested `depth` deep at most.

    Raises
    ------
    CheckpointError
        For anything else.
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return value
    if isinstance(value, str):
        return one_line(value, 10_000)
    if depth and isinstance(value, dict):
        return {one_line(str(k), 200): plain_values(v, what, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list | tuple):
        return [plain_values(v, what, depth - 1) for v in value]
    raise CheckpointError(
        f"{what} holds {brief(value)} where plain values, nested at most 8 deep, are required"
    )


def configure(family: str, values: dict[str, Any]) -> ReasonerConfig:
    """Return the configuration of a family with these values.

    Raises
    ------
    ValueError
        For an unknown family or configuration key, naming the known ones, and for values that no model can have.
    """
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} unknown; choose from {', '.join(FAMILIES)}")
    return FAMILIES[family][1].from_dict(values)


def build(
    family: str, config: dict[str, Any], task: str = "unknown", provenance: dict | None = None
) -> Reasoner:
    """Build a freshly initialised model of a family from plain configuration values.

    Raises
    ------
    ValueError
        See `configure`.
    """
    configuration = configure(family, config)
    return FAMILIES[family][0](configuration, task, provenance)


@contextmanager
def replaced_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced and takes its place, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    created = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
    mode = stat.S_IMODE(os.fstat(created).st_mode)
    os.close(created)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fchmod(file.fileno(), mode)  # a library may have put a private file of its own in its place
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write named tensors and a JSON header to one .safetensors file, whole or not at all, with a checksum.

    Raises
    ------
    OSError
        When it cannot be written: a full disk, a folder without permission.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    header = {**header, "tensors_sha256": _checksum(plain)}
    with replaced_whole(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"eqrlab": json.dumps(header)})
        except SafetensorError as error:  # what the library makes of a full disk
            raise OSError(f"{path}: cannot be written ({error})") from None


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}|{tensors[name].dtype}|{tuple(tensors[name].shape)}|".encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    CheckpointError
        For a file that is truncated, damaged, no safetensors file, or without an eqrlab header.
    """
    tensors, metadata = _read_safetensors(path)
    return tensors, _own_header(path, tensors, metadata)


def _own_header(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """Return eqrlab's header of a safetensors file, checked against the tensors."""
    try:
        header = json.loads(metadata.get("eqrlab", "null"))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path}: the safetensors metadata has no eqrlab header; was it saved by eqrlab.core.save?"
        )
    if header.setdefault("tensors_sha256", "") not in ("", _checksum(tensors)):
        raise CheckpointError(
            f"{path}: the tensors do not have the checksum in the header: the file is damaged"
        )
    return header


def _read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read any safetensors file: tensors and metadata."""
    if Path(path).exists() and (problem := _problem(Path(path))):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with open(path, "rb") as start:
            header_bytes = int.from_bytes(start.read(8), "little")
        if header_bytes > _MOST_HEADER:
            raise CheckpointError(
                f"{path}: not a readable safetensors file (a header of {header_bytes} bytes is announced, "
                f"at most {_MOST_HEADER} are read)"
            )
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({str(error) or 'out of memory'})"
        ) from None
    return tensors, metadata


_UNREADABLE = (
    SafetensorError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def save(reasoner: Reasoner, path: str | Path) -> None:
    """Save a model as .safetensors, with family, task, configuration and provenance in its metadata, atomically.

    Raises
    ------
    ValueError
        When the path does not end in .safetensors.
    OSError
        When it cannot be written; an older file of that name is then left as it was.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a saved model must end in .safetensors")
    header = {
        "format": FORMAT,
        "family": reasoner.family,
        "task": reasoner.task,
        "config": dataclasses.asdict(reasoner.config),
        "provenance": reasoner.provenance,
    }
    write_tensors(path, reasoner.state_dict(), header)


def bundled() -> dict[str, Path]:
    """Return the models shipped with the package, name to path."""
    folder = Path(str(files("eqrlab.core"))) / "pretrained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fill(reasoner: Reasoner, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Put tensors into a model: all of them, no others, of the right shapes, finite floating values.

    Raises
    ------
    CheckpointError
        Naming the first disagreement; the model is then as it was.
    """
    expected = reasoner.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing:
        raise CheckpointError(
            f"{path}: tensor {missing[0]} is missing ({len(missing)} of {len(expected)} are)"
        )
    if extra:
        raise CheckpointError(
            f"{path}: tensor {extra[0]} is not part of this {reasoner.family} model ({len(extra)} unknown)"
        )
    for name, target in expected.items():
        tensor = tensors[name]
        if tensor.shape != target.shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"the configuration requires {tuple(target.shape)}"
            )
        if tensor.dtype not in _WEIGHTS:
            raise CheckpointError(
                f"{path}: tensor {name} holds {tensor.dtype}, floating values are required (16 to 64 bits)"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} has NaN or infinite values")
        if not torch.isfinite(tensor.to(target.dtype)).all():
            raise CheckpointError(f"{path}: tensor {name} has values that are infinite in {target.dtype}")
    reasoner.load_state_dict(tensors)


def load(source: str | Path, *, weights: str = "auto", seq_len: int | None = None) -> Reasoner:
    """Load a model: a bundled name, an eqrlab .safetensors file, or an official checkpoint, here or on the hub.

    Parameters
    ----------
    source
        A path, the name of a bundled model, or hf://owner/repository/path, for which `eqrlab[hub]` must be installed.
    weights
        For official files that hold both: "ema", "raw", or "auto" (what the official evaluator uses).
    seq_len
        Grid cells, for official attention checkpoints that do not record them.

    Returns
    -------
    Reasoner
        In evaluation, on the CPU, with `family`, `task`, `config` and `provenance` (file name, SHA-256, what was
        inferred and what was dropped).

    Raises
    ------
    CheckpointError
        For a file that is missing, unreadable, truncated, foreign or only half matches; nothing in a file is
        executed and nothing is loaded in part.

    Examples
    --------
    >>> from eqrlab.core import load
    >>> load("eqr-sudoku6").family
    'eqr'
    """
    from eqrlab.core.checkpoints import hub  # it builds on this module

    if weights not in ("auto", "ema", "raw"):
        raise ValueError(f"weights must be auto, ema or raw, got {weights!r}")
    names = bundled()
    name = str(source)
    path = hub.fetch(name) if name.startswith(hub.SCHEME) else names.get(name, Path(source))
    try:
        problem = _problem(path)
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise CheckpointError(
            f"{source}: {problem}, and no bundled model of that name; bundled are {', '.join(names) or 'none'}"
        )
    reasoner = _read(path, weights, seq_len)
    origin = name if name.startswith(hub.SCHEME) else path.name
    reasoner.provenance = {**reasoner.provenance, "checkpoint": origin, "checkpoint_sha256": sha256(path)}
    return reasoner.eval()


def _read(path: Path, weights: str, seq_len: int | None) -> Reasoner:
    """Read a file by what it is, whatever its name: eqrlab's own, plain safetensors, or one of torch.save."""
    from eqrlab.core.checkpoints.official import load_official  # it builds on this module

    try:
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
    except OSError:  # said below, with the kind of file that was expected
        head = b""
    if head.startswith(b"PK") or not (path.suffix == ".safetensors" or is_safetensors(head)):
        return load_official(path, weights=weights, seq_len=seq_len)
    tensors, metadata = _read_safetensors(path)
    if "eqrlab" in metadata:
        return _load_own(path, tensors, _own_header(path, tensors, metadata))
    try:
        return load_official(path, weights=weights, seq_len=seq_len, tensors=tensors)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(
            f"{path}: the safetensors metadata has no eqrlab header, and read as official weights: {reason}"
        ) from None


def _problem(path: Path) -> str | None:
    """Say why a path cannot be a checkpoint, before it is opened: pipes and devices may have no end."""
    if path.is_dir():
        return "is a directory"
    if path.is_file():
        return None
    return "is no regular file" if path.exists() else "no such file"


def _load_own(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Reasoner:
    for key, kind in {"format": int, "family": str, "task": str, "config": dict, "provenance": dict}.items():
        if not isinstance(header.get(key), kind):
            raise CheckpointError(f"{path}: the eqrlab header has no valid {key!r}; is this a saved model?")
    try:
        provenance = plain_values(header["provenance"], "the provenance in the header")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if isinstance(header["format"], bool) or header["format"] < 1:
        raise CheckpointError(f"{path}: format {brief(header['format'])} is none that eqrlab writes")
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {brief(header['format'])} is newer than this eqrlab, which reads up to {FORMAT}"
        )
    task = one_line(header["task"], 40)
    return assemble(path, header["family"], header["config"], task, provenance, tensors)


def assemble(
    path: Path,
    family: str,
    config: dict[str, Any],
    task: str,
    provenance: dict[str, Any],
    tensors: dict[str, Tensor],
) -> Reasoner:
    """Build the model that a file describes and fill it; it has the widest dtype among the tensors.

    Raises
    ------
    CheckpointError
        When the configuration is invalid, or tensors and configuration disagree.

    Notes
    -----
    A configuration that declares more than twice as many weights as the file has values is refused before anything is
    allocated, and the global random state is left as it was.
    """
    try:
        values = sum(t.numel() for t in tensors.values())
        if configure(family, config).least_weights > 2 * values:  # with less, `fill` names what is missing
            raise CheckpointError(
                f"the configuration declares a model larger than the {values} values in the file"
            )
        with torch.random.fork_rng(devices=[]):
            reasoner = build(family, config, task, provenance)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: {str(error) or type(error).__name__}") from None
    if any(t.dtype == torch.float64 for t in tensors.values()):
        reasoner.double()
    elif all(t.dtype == torch.bfloat16 for t in tensors.values()):
        reasoner.bfloat16()
    fill(reasoner, tensors, path)
    return reasoner
