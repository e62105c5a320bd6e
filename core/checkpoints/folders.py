"""Folders of checkpoints: which files are checkpoints, their training steps, and which one is the newest."""

from __future__ import annotations

import re
from pathlib import Path

from eqrlab.core.checkpoints.shards import INDEX, index_of, lacks_index
from eqrlab.core.errors import CheckpointError
from eqrlab.core.kinds import LOOKED_AT, is_safetensors
from eqrlab.core.messages import brief

_SUFFIXES = ("", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_STATES = (
    "state.safetensors",
    "optimizer",
    "scheduler",
    "rng_state",
    "training_args",
    "scaler",
)  # no weights
_PREDICTIONS = "_all_preds."  # in the names of what the official evaluators save beside the weights
_STEP = re.compile(
    r"(?:^|[-_.=])(?:global_?step|steps?|iter|model|checkpoint|ckpt|epoch)[-_=]?(\d{1,9})(?!\d)"
)
_UNNUMBERED = (
    "model",
    "last",
    "latest",
    "final",
    "checkpoint",
)  # stems of the newest where none has a number
_BELOW = "checkpoints"
_MOST = 10_000  # files that are looked at


def step_of(path: Path) -> int | None:
    """Return the training step in the name of a file, or else in the name of its folder.

    Examples
    --------
    >>> [step_of(Path(p)) for p in ("step_500_ab.pth", "epoch=3-step=936.ckpt", "checkpoint-7/model.safetensors", "x")]
    [500, 936, 7, None]
    """
    for name in (path.name, path.parent.name if path.stem in _UNNUMBERED else ""):
        found = [m for m in _STEP.finditer(name) if "-of-" not in name]
        steps = [m for m in found if "step" in m[0]] or found
        if steps:
            return int(steps[-1][1])
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, by rising step, those without one last.

    Notes
    -----
    The search covers its files, those of `checkpoints` below it, and those of folders `checkpoint-N`.  A file counts
    as a checkpoint if it begins like one, whatever it contains; for a model in several files it is the index.
    """
    places = [folder, folder / _BELOW]
    files = [p for place in places if place.is_dir() for p in sorted(place.iterdir())[:_MOST]]
    files += [
        p
        for f in files
        if f.is_dir() and f.name.startswith("checkpoint-")
        for p in sorted(f.iterdir())[:_MOST]
    ]
    found = [p for p in dict.fromkeys(files) if _is_one(p)]
    return sorted(found, key=lambda p: (step_of(p) is None, step_of(p) or 0, str(p)))


def _is_one(path: Path) -> bool:
    if not path.is_file() or path.name.startswith((".", *_STATES)) or _PREDICTIONS in path.name:
        return False
    if path.name.endswith(INDEX):
        return True
    if path.suffix not in _SUFFIXES and not _STEP.search(path.name):
        return False
    if index_of(path) is not None:
        return False
    with open(path, "rb") as file:
        head = file.read(LOOKED_AT)
    return head.startswith(b"PK") or is_safetensors(head)


def newest(folder: Path, step: int | None = None) -> Path:
    """Return the newest checkpoint of a folder, or the one at a training step.

    Notes
    -----
    The newest is the one with the highest step; in a folder of `eqrlab train` it is model.safetensors, which every save
    replaces.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, none at that step, or the newest is not clear; the message lists what there is.
    """
    found = checkpoints_in(folder)
    if not found:
        raise CheckpointError(f"{folder}: a folder without a checkpoint (files of torch.save or safetensors)")
    steps: dict[int, list[Path]] = {}
    for path in found:
        if (number := step_of(path)) is not None:
            steps.setdefault(number, []).append(path)
    if step is not None:
        if step not in steps:
            there = ", ".join(map(str, steps)) if steps else "names without steps"
            raise CheckpointError(f"{folder}: no checkpoint of step {step} ({brief_list(there)} there)")
        return _only(steps[step], f"is that of step {step}", folder)
    own = folder / "model.safetensors"
    if own in found and ((folder / "state.safetensors").is_file() or not steps):
        return own
    if steps:
        return _only(steps[max(steps)], "is the newest", folder)
    for stem in _UNNUMBERED if len(found) > 1 else (found[0].stem,):
        known = [p for p in found if p.stem == stem]
        if len(known) == 1:
            return known[0]
    return _only(found, "is the newest", folder)


def _only(paths: list[Path], what: str, folder: Path) -> Path:
    """Return the only path, or name all of them."""
    if len(paths) == 1:
        return paths[0]
    if (lack := lacks_index(paths[0])) is not None:
        raise CheckpointError(f"{folder}: {lack}")
    names = brief_list(", ".join(brief(str(p.relative_to(folder))) for p in paths))
    raise CheckpointError(f"{folder}: it cannot be told which of {names} {what}; give one of them")


def brief_list(text: str) -> str:
    """Cut a list of names to what a message can show."""
    return text if len(text) <= 200 else f"{text[:200]} ..."
