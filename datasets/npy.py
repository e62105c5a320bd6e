"""The official folder layout of `.npy` arrays: read with every index checked, write with every key."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eqrlab.datasets import checks, tasks
from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.text import Fault

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)  # what Python's own parser may say of a header
_TOKENS = ("inputs", "labels")
_ARRAYS = (*_TOKENS, "puzzle_identifiers", "puzzle_indices", "group_indices")


def split_folder(path: Path, split: str) -> Path:
    """Return the folder that holds dataset.json: the one given, or its sub-folder of the split.

    Raises
    ------
    ValueError
        If neither has a dataset.json.
    """
    for folder in (path, path / split):
        if (folder / "dataset.json").is_file():
            return folder
    found = sorted(entry.parent.name for entry in path.glob("*/dataset.json"))
    there = f"; it has the splits {', '.join(found)}" if found else ""
    raise ValueError(f"{path}: no dataset.json here and none in {split}/{there}")


def read_header(path: Path) -> dict[str, Any]:
    """Read dataset.json and check the keys that the arrays depend on.

    Raises
    ------
    ValueError
        If it is no JSON object, or a key is missing or has the wrong type.
    """
    try:
        header = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}:1: not a JSON file ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}:1: a JSON object is required, got {type(header).__name__}")
    for key in ("vocab_size", "seq_len", "pad_id"):
        if type(header.get(key)) is not int:
            raise ValueError(f"{path}:1: key {key!r} must be an integer, got {header.get(key)!r}")
    ignore, sets = header.get("ignore_label_id"), header.get("sets")
    if ignore is not None and type(ignore) is not int:
        raise ValueError(f"{path}:1: key 'ignore_label_id' must be an integer or null, got {ignore!r}")
    if header["pad_id"] != 0:
        raise ValueError(f"{path}:1: pad_id must be 0, got {header['pad_id']}")
    plain = isinstance(sets, list) and all(
        type(name) is str and re.fullmatch(r"[\w-]+", name) for name in sets
    )
    if not plain or not sets:
        raise ValueError(f"{path}:1: key 'sets' must be a list of names, got {sets!r}")
    return header


def _load(path: Path, ndim: int) -> np.ndarray:
    """Load an integer array of some rank; its bytes are checked against its header before anything is allocated."""
    if not path.exists():
        raise ValueError(f"{path}: file is missing")
    if not path.is_file():
        raise ValueError(f"{path}: is no regular file")
    data = path.read_bytes()
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format version {version} is not supported")
        shape, fortran, dtype = _HEADERS[version](file)
    except _BROKEN as error:
        raise ValueError(f"{path}: broken .npy file ({' '.join(str(error).split())})") from error
    if dtype.kind not in "iu" or len(shape) != ndim or min(shape) < 0:
        raise ValueError(f"{path}: integers with {ndim} axes are required, got {dtype} with shape {shape}")
    expected, there = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if expected != there:
        raise ValueError(f"{path}: broken .npy file ({expected} bytes of data announced, {there} there)")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def _offsets(path: Path, array: np.ndarray, last: int, what: str) -> None:
    """Check offsets: from 0 to the number of things they divide, never falling."""
    if not len(array) or array[0] != 0 or array[-1] != last or (array[1:] < array[:-1]).any():
        raise ValueError(f"{path}: offsets must rise from 0 to the {last} {what}")


class _Part(NamedTuple):
    """One set of a folder: the first `limit` examples, their groups, and how many groups and puzzles it has."""

    inputs: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    names: list[str]
    groups: int
    puzzles: int


def _read_part(folder: Path, name: str, header: dict[str, Any], limit: int | None) -> _Part:
    """Read the arrays of one set and check them against each other."""
    files = {key: folder / f"{name}__{key}.npy" for key in _ARRAYS}
    arrays = {key: _load(file, 2 if key in _TOKENS else 1) for key, file in files.items()}
    examples, puzzles = len(arrays["inputs"]), len(arrays["puzzle_identifiers"])
    if len(arrays["puzzle_indices"]) != puzzles + 1:
        raise ValueError(
            f"{files['puzzle_indices']}: {puzzles} puzzle identifiers need {puzzles + 1} offsets, "
            f"got {len(arrays['puzzle_indices'])}"
        )
    _offsets(files["puzzle_indices"], arrays["puzzle_indices"], examples, "examples")
    _offsets(files["group_indices"], arrays["group_indices"], puzzles, "puzzles")
    bounds = arrays["puzzle_indices"][arrays["group_indices"]].astype(
        np.int64
    )  # first example of every group
    group = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[:limit]
    ignored, vocab = header.get("ignore_label_id"), header["vocab_size"]
    tokens = {}
    for key in _TOKENS:
        shape = (examples, header["seq_len"])
        if arrays[key].shape != shape:
            raise ValueError(f"{files[key]}: shape {shape} is required, got {arrays[key].shape}")
        tokens[key] = arrays[key][:limit].astype(np.int64)
        if key == "labels" and ignored is not None:
            tokens[key][tokens[key] == ignored] = 0
        alien = ((tokens[key] < 0) | (tokens[key] >= vocab)).any(axis=1)
        if alien.any():
            row = int(alien.argmax())
            low, high = tokens[key][row].min(), tokens[key][row].max()
            raise ValueError(f"{files[key]}:{row}: tokens 0 to {vocab - 1} are allowed, got {low} to {high}")
    names = [f"{folder.name}/{files['inputs'].name}:{row}" for row in range(len(group))]
    return _Part(tokens["inputs"], tokens["labels"], group, names, len(bounds) - 1, puzzles)


def scan_folder(
    path: Path, task: str | None, split: str, limit: int | None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read an official folder as far as it is sound; see `files.scan`."""
    folder = split_folder(path, split)
    header_path = folder / "dataset.json"
    header = read_header(header_path)
    try:
        found = tasks.task_of(header["vocab_size"], header["seq_len"])
    except ValueError as error:
        raise ValueError(f"{header_path}:1: {error}") from error
    if task not in (None, found):
        raise ValueError(f"{header_path}:1: this is {found}, not {task}")
    parts = [_read_part(folder, name, header, limit) for name in header["sets"]]
    for key, total in (
        ("total_groups", sum(part.groups for part in parts)),
        ("total_puzzles", sum(part.puzzles for part in parts)),
    ):
        if header.get(key, total) != total:
            raise ValueError(f"{header_path}:1: {key} is {header[key]}, the arrays have {total}")
    inputs = np.concatenate([part.inputs for part in parts])[:limit]
    labels = np.concatenate([part.labels for part in parts])[:limit]
    names = [name for part in parts for name in part.names][:limit]
    before = itertools.accumulate((part.groups for part in parts), initial=0)
    groups = [
        first + group for first, part in zip(before, parts, strict=False) for group in part.group.tolist()
    ]
    if not len(inputs):
        raise ValueError(f"{header_path}:1: no puzzles in this folder")
    reasons = checks.faults(found, inputs, labels)
    wrong = [Fault(str(folder.parent / names[row]), reason) for row, reason in reasons.items()]
    keep = [row for row in range(len(inputs)) if row not in reasons]
    if not keep:
        return None, wrong
    known = labels[keep] if labels.any() else None
    columns = {"group": tuple(str(groups[row]) for row in keep)}
    return PuzzleSet(inputs[keep], known, found, columns, str(folder), tuple(names[k] for k in keep)), wrong


def arrays_of(puzzles: PuzzleSet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the dataset.json of a set, every puzzle a group of its own.

    Notes
    -----
    Tokens are uint8, offsets int32; missing solutions are written as 0, which is the ignored label.
    """
    count = len(puzzles)
    labels = np.zeros_like(puzzles.inputs) if puzzles.labels is None else puzzles.labels
    arrays: dict[str, np.ndarray] = {
        "inputs": puzzles.inputs.astype(np.uint8),
        "labels": labels.astype(np.uint8),
        "puzzle_identifiers": np.zeros(count, dtype=np.int32),
        "puzzle_indices": np.arange(count + 1, dtype=np.int32),
        "group_indices": np.arange(count + 1, dtype=np.int32),
    }
    header: dict[str, Any] = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": tasks.vocab_size(puzzles.task),
        "seq_len": tasks.seq_len(puzzles.task),
        "num_puzzle_identifiers": 1,
        "total_groups": count,
        "mean_puzzle_examples": 1.0,
        "sets": ["all"],
        "total_samples": count,
        "total_puzzles": count,
    }
    return arrays, header
