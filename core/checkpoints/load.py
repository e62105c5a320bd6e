"""Loading and saving: eqrlab's own .safetensors files, bundled models by name, official files through `official`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from eqrlab.core.checkpoints import folders, hub, shards
from eqrlab.core.checkpoints.build import assemble, plain_values
from eqrlab.core.checkpoints.official import Asked, load_official
from eqrlab.core.checkpoints.puzzle_rows import kept_table, kept_tensors
from eqrlab.core.checkpoints.tensors import FORMAT, own_header, read_safetensors, write_tensors
from eqrlab.core.errors import CheckpointError
from eqrlab.core.files import what_is_wrong
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
    A table of puzzle embeddings is saved whole up to 64 MiB.  Of a larger table, only the rows of the blank
    identifier and of the identifiers used since loading are saved.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a saved model must end in .safetensors")
    header = {
        "format": FORMAT,
        "family": reasoner.family,
        "task": reasoner.task,
        "config": reasoner.config.to_dict(),
        "provenance": reasoner.provenance,
    }
    if reasoner.table is not None:
        header["puzzle_identifiers"] = reasoner.table.count
    write_tensors(path, reasoner.state_dict() | kept_tensors(reasoner.table), header)


def bundled() -> dict[str, Path]:
    """Return the models shipped with the package, name to path."""
    folder = Path(str(files("eqrlab.core"))) / "pretrained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def load(
    source: str | Path,
    *,
    weights: str = "auto",
    seq_len: int | None = None,
    config: str | Path | dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    puzzle_cells: Callable[[], int] | None = None,
    step: int | None = None,
) -> Reasoner:
    """Load a model: a bundled name, an eqrlab .safetensors file, or an official checkpoint, here or on the hub.

    Parameters
    ----------
    source
        A file; a folder of checkpoints, of which the newest is loaded; the name of a bundled model; or
        hf://owner/repository/path, for which `eqrlab[hub]` must be installed.
    weights
        For official files with both kinds of weights: "ema", "raw", or "auto" (what the official evaluator uses).  Of
        a file with one kind, the other is refused.
    seq_len
        Grid cells, for official attention checkpoints that do not record them.
    config
        Configuration of official weights that come without one: a YAML or JSON file, or a dictionary.
    settings
        Single options, under the names of the file's own configuration, that replace the stored values.
    puzzle_cells
        Returns the number of grid cells of the puzzles; called if neither weights nor configuration determine it.
    step
        Training step of the checkpoint to load from a folder.

    Returns
    -------
    Reasoner
        In evaluation mode, on the CPU, with `family`, `task`, `config` and `provenance` (file name, SHA-256, what was
        inferred and what was left out).

    Raises
    ------
    CheckpointError
        If the file is missing, unreadable, truncated, of another kind, or matches only in part; nothing in a file is
        executed, and nothing is loaded in part.
    ValueError
        For `weights` or `seq_len` of another kind.

    Examples
    --------
    >>> from eqrlab.core import load
    >>> load("eqr-sudoku6").family
    'eqr'
    """
    if weights not in ("auto", "ema", "raw"):
        raise ValueError(f"weights must be auto, ema or raw, got {weights!r}")
    if seq_len is not None and (type(seq_len) is not int or seq_len < 1):
        raise ValueError(f"seq_len must be an integer >= 1, got {brief(seq_len)}")
    names = bundled()
    name = str(source)
    path = hub.fetch(name) if name.startswith(hub.SCHEME) else names.get(name, Path(source))
    try:
        if name and path.is_dir():  # an empty name would be the folder one stands in
            path = folders.newest(path, step)
        elif step is not None:
            raise CheckpointError(f"{source}: is not a folder, so that step {step} cannot be chosen in it")
        problem = what_is_wrong(path)
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise CheckpointError(
            f"{source}: {problem}, and no bundled model of that name; bundled are {', '.join(names) or 'none'}"
            f"{did_you_mean(name, names)}"
        )
    asked = Asked(weights=weights, seq_len=seq_len, config=Path(config) if isinstance(config, str) else config,
                  settings=dict(settings or {}), puzzle_cells=puzzle_cells)  # fmt: skip
    reasoner = _read(path, asked)
    origin = name if name.startswith(hub.SCHEME) else path.name
    reasoner.provenance = {
        **reasoner.provenance,
        "checkpoint": origin,
        "checkpoint_sha256": shards.sha256_of(path),
    }
    return reasoner.eval()


def _read(path: Path, asked: Asked) -> Reasoner:
    """Read a file according to its content, whatever its name: eqrlab's own, plain safetensors, or torch.save."""
    try:
        with open(path, "rb") as file:
            head = file.read(LOOKED_AT)
    except OSError:  # said below, with the kind of file that was expected
        head = b""
    index = shards.index_of(path)
    plain = path.suffix == ".safetensors" or is_safetensors(head)
    if index is None and (head.startswith(b"PK") or not plain):
        return load_official(path, asked)
    tensors, metadata = read_safetensors(path) if index is None else (shards.read(index), {})
    if "eqrlab" in metadata:
        return _load_own(path, tensors, own_header(path, tensors, metadata), asked)
    if (lack := shards.lacks_index(path)) is not None:
        raise CheckpointError(f"{path}: {lack}")
    try:
        return load_official(path, asked, tensors)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(
            f"{path}: the safetensors metadata has no eqrlab header, and read as official weights: {reason}"
        ) from None


def _load_own(path: Path, tensors: dict[str, Tensor], header: dict[str, Any], asked: Asked) -> Reasoner:
    if asked.config is not None:
        raise CheckpointError(
            f"{path}: holds its own configuration; change single options by settings (--set)"
        )
    for key, kind in {"format": int, "family": str, "task": str, "config": dict, "provenance": dict}.items():
        if not isinstance(header.get(key), kind):
            raise CheckpointError(f"{path}: the eqrlab header has no valid {key!r}; is this a saved model?")
    if isinstance(header["format"], bool) or header["format"] < 1:
        raise CheckpointError(f"{path}: format {brief(header['format'])} is not one that eqrlab writes")
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {brief(header['format'])} is newer than this eqrlab, which reads up to {FORMAT}"
        )
    task = one_line(header["task"], 40)
    config = {**header["config"], **asked.settings}
    try:
        provenance = plain_values(header["provenance"], "the provenance in the header")
        table = kept_table(tensors, header.get("puzzle_identifiers"), config.get("prefix_dim", 0))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    trained = provenance.get("train")
    averaged = isinstance(trained, dict) and trained.get("ema")
    held = provenance.get("weights", "ema" if averaged else "raw")
    if asked.weights not in ("auto", held):
        lack = "EMA weights" if asked.weights == "ema" else "raw weights, only their averages"
        raise CheckpointError(f"{path}: holds no {lack}")
    if asked.settings:
        provenance["set"] = asked.settings
    reasoner = assemble(path, header["family"], config, task, provenance, tensors)
    reasoner.table = table
    if asked.seq_len not in (None, reasoner.config.seq_len):
        raise CheckpointError(
            f"{path}: seq_len {asked.seq_len} was asked for, the model has {reasoner.config.seq_len}"
        )
    return reasoner
