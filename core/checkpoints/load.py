"""Loading and saving: eqrlab's own .safetensors files, bundled models by name, official files through `official`."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from eqrlab.core.checkpoints import hub
from eqrlab.core.checkpoints.build import assemble, plain_values
from eqrlab.core.checkpoints.official import load_official
from eqrlab.core.checkpoints.puzzle_rows import kept_table, kept_tensors
from eqrlab.core.checkpoints.tensors import FORMAT, own_header, read_safetensors, write_tensors
from eqrlab.core.errors import CheckpointError
from eqrlab.core.files import sha256, what_is_wrong
from eqrlab.core.kinds import LOOKED_AT, is_safetensors
from eqrlab.core.messages import brief, did_you_mean, one_line
from eqrlab.core.models.reasoner import Reasoner


def save(reasoner: Reasoner, path: str | Path) -> None:
    """Save a model as .safetensors, with family, task, configuration and provenance in its metadata, atomically.

    Raises
    ------
    ValueError
        When the path does not end in .safetensors.
    OSError
        When it cannot be written; an older file of that name is then left as it was.

    Notes
    -----
    Puzzle embeddings are kept whole up to 64 MiB; of larger tables the rows of the blank identifier and of those that
    the model was given since it was loaded.
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
    if reasoner.table is not None:
        header["puzzle_identifiers"] = reasoner.table.count
    write_tensors(path, reasoner.state_dict() | kept_tensors(reasoner.table), header)


def bundled() -> dict[str, Path]:
    """Return the models shipped with the package, name to path."""
    folder = Path(str(files("eqrlab.core"))) / "pretrained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


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

    if weights not in ("auto", "ema", "raw"):
        raise ValueError(f"weights must be auto, ema or raw, got {weights!r}")
    names = bundled()
    name = str(source)
    path = hub.fetch(name) if name.startswith(hub.SCHEME) else names.get(name, Path(source))
    try:
        problem = what_is_wrong(path)
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise CheckpointError(
            f"{source}: {problem}, and no bundled model of that name; bundled are {', '.join(names) or 'none'}"
            f"{did_you_mean(name, names)}"
        )
    reasoner = _read(path, weights, seq_len)
    origin = name if name.startswith(hub.SCHEME) else path.name
    reasoner.provenance = {**reasoner.provenance, "checkpoint": origin, "checkpoint_sha256": sha256(path)}
    return reasoner.eval()


def _read(path: Path, weights: str, seq_len: int | None) -> Reasoner:
    """Read a file by what it is, whatever its name: eqrlab's own, plain safetensors, or one of torch.save."""

    try:
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
    except OSError:  # said below, with the kind of file that was expected
        head = b""
    if head.startswith(b"PK") or not (path.suffix == ".safetensors" or is_safetensors(head)):
        return load_official(path, weights=weights, seq_len=seq_len)
    tensors, metadata = read_safetensors(path)
    if "eqrlab" in metadata:
        return _load_own(path, tensors, own_header(path, tensors, metadata))
    try:
        return load_official(path, weights=weights, seq_len=seq_len, tensors=tensors)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(
            f"{path}: the safetensors metadata has no eqrlab header, and read as official weights: {reason}"
        ) from None


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
    try:
        width = header["config"].get("prefix_dim")
        table = kept_table(tensors, header.get("puzzle_identifiers"), width)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    reasoner = assemble(path, header["family"], header["config"], task, provenance, tensors)
    reasoner.table = table
    return reasoner
