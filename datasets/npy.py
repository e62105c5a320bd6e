"""The official folder layout of `.npy` arrays: read with every index checked, write with every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eqrlab.datasets import checks, tasks
from eqrlab.datasets.puzzles import PuzzleSet
from eqrlab.datasets.text import Fault

_ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")


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
        raise ValueError(f"{path}:1: not a JSON file ({error})") from error
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
    if not isinstance(sets, list) or not sets or not all(type(name) is str for name in sets):
        raise ValueError(f"{path}:1: key 'sets' must be a list of names, got {sets!r}")
    return header


def _load(path: Path, ndim: int) -> np.ndarray:
    """Load an integer array of some rank as int64."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: file is missing") from error
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError, MemoryError) as error:
        raise ValueError(f"{path}: broken .npy file ({error})") from error
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise ValueError(f"{path}: integers with {ndim} axes are required, got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _offsets(path: Path, array: np.ndarray, last: int, what: str) -> None:
    """Check offsets: from 0 to the number of things they divide, never falling."""
    if not len(array) or array[0] != 0 or array[-1] != last or (np.diff(array) < 0).any():
        raise ValueError(f"{path}: offsets must rise from 0 to the {last} {what}")


def scan_folder(
    path: Path, task: str | None, split: str, limit: int | None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read an official folder as far as it is sound; see `files.scan`."""
    folder = split_folder(path, split)
    header_path = folder / "dataset.json"
    header = read_header(header_path)
    vocab, length = header["vocab_size"], header["seq_len"]
    try:
        found = tasks.task_of(vocab, length)
    except ValueError as error:
        raise ValueError(f"{header_path}:1: {error}") from error
    if task not in (None, found):
        raise ValueError(f"{header_path}:1: this is {found}, not {task}")
    inputs, labels, names, groups, count = [], [], [], 0, 0
    for name in header["sets"]:
        files = {key: folder / f"{name}__{key}.npy" for key in _ARRAYS}
        arrays = {key: _load(file, 2 if key in _ARRAYS[:2] else 1) for key, file in files.items()}
        examples = len(arrays["inputs"])
        for key in _ARRAYS[:2]:
            array = arrays[key]
            if key == "labels" and header.get("ignore_label_id") is not None:
                array[array == header["ignore_label_id"]] = 0
            if array.shape != (examples, length):
                raise ValueError(f"{files[key]}: shape ({examples}, {length}) is required, got {array.shape}")
            alien = ((array < 0) | (array >= vocab)).any(axis=1)
            if alien.any():
                row = int(alien.argmax())
                raise ValueError(
                    f"{files[key]}:{row}: tokens 0 to {vocab - 1} are allowed, row {row} has "
                    f"{array[row].min()} to {array[row].max()}"
                )
        puzzles = len(arrays["puzzle_identifiers"])
        if len(arrays["puzzle_indices"]) != puzzles + 1:
            raise ValueError(
                f"{files['puzzle_indices']}: {puzzles} puzzle identifiers need {puzzles + 1} offsets, "
                f"got {len(arrays['puzzle_indices'])}"
            )
        _offsets(files["puzzle_indices"], arrays["puzzle_indices"], examples, "examples")
        _offsets(files["group_indices"], arrays["group_indices"], puzzles, "puzzles")
        groups, count = groups + len(arrays["group_indices"]) - 1, count + puzzles
        inputs.append(arrays["inputs"])
        labels.append(arrays["labels"])
        names += [f"{folder.name}/{files['inputs'].name}:{row}" for row in range(examples)]
    for key, value in (("total_groups", groups), ("total_puzzles", count)):
        if header.get(key, value) != value:
            raise ValueError(f"{header_path}:1: {key} is {header[key]}, the arrays have {value}")
    tokens, solutions = np.concatenate(inputs)[:limit], np.concatenate(labels)[:limit]
    if not len(tokens):
        raise ValueError(f"{header_path}:1: no puzzles in this folder")
    reasons = checks.faults(found, tokens, solutions)
    wrong = [Fault(str(folder.parent / names[row]), reason) for row, reason in reasons.items()]
    keep = [row for row in range(len(tokens)) if row not in reasons]
    if not keep:
        return None, wrong
    known = solutions if solutions.any() else None
    kept = None if known is None else known[keep]
    return PuzzleSet(tokens[keep], kept, found, {}, str(folder), tuple(names[k] for k in keep)), wrong


def arrays_of(puzzles: PuzzleSet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the dataset.json of a set, every puzzle a group of its own.

    Notes
    -----
    Tokens are uint8, offsets int32; missing solutions are written as 0, which is the ignored label.
    """
    count = len(puzzles)
    labels = np.zeros_like(puzzles.inputs) if puzzles.labels is None else puzzles.labels
    arrays = {
        "inputs": puzzles.inputs.astype(np.uint8),
        "labels": labels.astype(np.uint8),
        "puzzle_identifiers": np.zeros(count, dtype=np.int32),
        "puzzle_indices": np.arange(count + 1, dtype=np.int32),
        "group_indices": np.arange(count + 1, dtype=np.int32),
    }
    header = {
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
