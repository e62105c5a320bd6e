"""The official folder layout of `.npy` arrays: read with every index checked, write with every key."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eqrlab.core.labels import ELSEWHERE, IGNORED, ZERO, labels_of, wanted
from eqrlab.core.messages import brief
from eqrlab.datasets import checks
from eqrlab.datasets.decode import parsed
from eqrlab.datasets.faults import Fault, PuzzleFileError
from eqrlab.datasets.formats.array_files import load_array
from eqrlab.datasets.puzzles import Draw, PuzzleSet, rows_drawn
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.lookup import task_of_shape
from eqrlab.datasets.registry.task import Task

IDENTIFIERS = "identifiers.json"
_MOST_NAMES = (
    1 << 28
)  # bytes of identifiers.json; some 40 a name, and the largest public build has 1.2 million
_MOST_JSON = 1 << 20  # bytes; an official dataset.json has some 300
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
            # With a name, and with what is above it.
            return folder.resolve() if folder.name in ("", "..") else folder
    found = sorted(entry.parent.name for entry in path.glob("*/dataset.json"))
    there = f"; it has the splits {', '.join(found)}" if found else ""
    raise PuzzleFileError(f"{path}: no dataset.json here and none in {split}/{there}")


def read_header(path: Path) -> dict[str, Any]:
    """Read dataset.json and check the keys that the arrays depend on.

    Raises
    ------
    ValueError
        If it is no JSON object, or a key is missing or has the wrong type.
    """
    with open(path, "rb") as file:
        text = file.read(_MOST_JSON + 1)
    if len(text) > _MOST_JSON:
        raise PuzzleFileError(f"{path}: more than {_MOST_JSON} bytes, which no dataset.json has")
    try:
        header = parsed(text)  # bytes: with or without a byte order mark
    except PuzzleFileError as error:
        raise PuzzleFileError(f"{path}:1: {error}") from error
    if not isinstance(header, dict):
        raise PuzzleFileError(f"{path}:1: a JSON object is required, got {brief(header)}")
    counts = {"num_puzzle_identifiers", "total_groups", "total_puzzles"} & set(
        header
    )  # which some builders leave out
    for key in ("vocab_size", "seq_len", "pad_id", *sorted(counts)):
        if type(header.get(key)) is not int:
            raise PuzzleFileError(f"{path}:1: key {key!r} must be an integer, got {brief(header.get(key))}")
    ignore, sets = header.get("ignore_label_id"), header.get("sets")
    if ignore is not None and type(ignore) is not int:
        raise PuzzleFileError(
            f"{path}:1: key 'ignore_label_id' must be an integer or null, got {brief(ignore)}"
        )
    for key in ("pad_id", "blank_identifier_id"):
        if header.get(key, 0) != 0:
            raise PuzzleFileError(f"{path}:1: {key} must be 0, got {brief(header[key])}")
    plain = isinstance(sets, list) and all(
        type(name) is str and re.fullmatch(r"[\w-]{1,100}", name) for name in sets
    )
    if not plain or not sets:
        raise PuzzleFileError(f"{path}:1: key 'sets' must be a list of names, got {brief(sets)}")
    if len(set(sets)) < len(sets):
        raise PuzzleFileError(f"{path}:1: key 'sets' names a set twice")
    return header


def _offsets(path: Path, array: np.ndarray, last: int, what: str) -> None:
    """Check offsets: from 0 to the number of things they divide, never falling."""
    if not len(array) or array[0] != 0 or array[-1] != last or (array[1:] < array[:-1]).any():
        raise PuzzleFileError(f"{path}: offsets must rise from 0 to the {last} {what}")


class _Part(NamedTuple):
    """One set of a folder: the first `limit` examples, with groups and identifiers; numbers of groups and puzzles."""

    inputs: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    identifiers: np.ndarray
    names: list[str]
    groups: int
    puzzles: int


def _read_part(folder: Path, name: str, header: dict[str, Any], limit: int | None) -> _Part:
    """Read the arrays of one set and check them against each other."""
    files = {key: folder / f"{name}__{key}.npy" for key in _ARRAYS}
    arrays = {key: load_array(file, 2 if key in _TOKENS else 1) for key, file in files.items()}
    examples, puzzles = len(arrays["inputs"]), len(arrays["puzzle_identifiers"])
    if len(arrays["puzzle_indices"]) != puzzles + 1:
        raise PuzzleFileError(
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
            raise PuzzleFileError(f"{files[key]}: shape {shape} is required, got {arrays[key].shape}")
        tokens[key] = arrays[key][:limit]
        held = tokens[key]
        known = (held >= 0) & (held < vocab)
        if key == "labels" and ignored is not None:
            known |= held == ignored
        if not known.all():
            row = int((~known).any(axis=1).argmax())
            low, high = held[row].min(), held[row].max()
            raise PuzzleFileError(
                f"{files[key]}:{row}: tokens 0 to {vocab - 1} are allowed, got {low} to {high}"
            )
    tokens["labels"] = labels_of(tokens["labels"], ignored)
    names = [f"{folder.name}/{files['inputs'].name}:{row}" for row in range(len(group))]
    examples_of = arrays["puzzle_indices"].astype(np.int64)
    known = np.repeat(arrays["puzzle_identifiers"].astype(np.int64), examples_of[1:] - examples_of[:-1])
    if known.size and known.min() < 0:
        place = int((arrays["puzzle_identifiers"] < 0).argmax())
        raise PuzzleFileError(
            f"{files['puzzle_identifiers']}:{place}: identifiers are 0 or more, got {known.min()}"
        )
    return _Part(tokens["inputs"], tokens["labels"], group, known[:limit], names, len(bounds) - 1, puzzles)


def _require_own_files(folder: Path, sets: list[str]) -> None:
    """Refuse sets whose puzzles are one file under several names (links): reading takes time by the bytes there are."""
    owners: dict[tuple[int, int], str] = {}
    for name in sets:
        path = folder / f"{name}__inputs.npy"
        if path.exists():
            where = path.stat()
            owner = owners.setdefault((where.st_dev, where.st_ino), name)
            if owner != name:
                raise PuzzleFileError(f"{path}: is the same file as that of the set {owner!r}")


def _task_of_folder(path: Path, header: dict[str, Any], name: str | None) -> Task:
    """Return the task asked for, which must fit the folder, or the one that its sizes stand for."""
    vocab, length = header["vocab_size"], header["seq_len"]
    board = header.get("board")
    sizes = isinstance(board, list) and len(board) == 2 and all(type(n) is int and n > 0 for n in board)
    if board is not None and not (sizes and board[0] * board[1] == length):
        raise PuzzleFileError(
            f"{path}:1: key 'board' must be rows and columns of {length} cells together, got {brief(board)}"
        )
    try:
        if name is None:
            return task_of_shape(vocab, length, (board[0], board[1]) if board else None)
        known = task_named(name)
        if known.sized is not None:
            shape = known.board if all(known.board) else (board[0], board[1]) if board else (1, length)
            known = known.sized(vocab, shape)
    except ValueError as error:
        raise PuzzleFileError(f"{path}:1: {error}") from error
    if (known.vocab_size, known.seq_len) != (vocab, length):
        raise PuzzleFileError(
            f"{path}:1: has {vocab} tokens on {length} cells, {known.name} has {known.vocab_size} on {known.seq_len}"
        )
    return known


def identifier_names(folder: Path, header: dict[str, Any], most: int) -> tuple[str, ...] | None:
    """Return the names of identifiers.json of a folder, () where it has none; None where all puzzles are blank.

    Parameters
    ----------
    folder
        The one that holds dataset.json; the file is in it, or above it.
    most
        The largest identifier of the folder's puzzles.

    Raises
    ------
    ValueError
        For a file that is no list of names, or has not as many as the identifiers and dataset.json require.
    """
    if most == 0:
        return None
    path = next((p for p in (folder / IDENTIFIERS, folder.parent / IDENTIFIERS) if p.is_file()), None)
    if path is None:
        return ()
    names = read_identifiers(path)
    said = header.get("num_puzzle_identifiers", len(names))
    if said != len(names):
        raise PuzzleFileError(
            f"{path}:1: has {len(names)} names, num_puzzle_identifiers in {folder.name}/dataset.json is {brief(said)}: "
            "they are of two builds"
        )
    if most >= len(names):
        raise PuzzleFileError(
            f"{path}:1: has {len(names)} names, a puzzle of {folder.name} has identifier {most}: they are of two builds"
        )
    return names


def read_identifiers(path: Path) -> tuple[str, ...]:
    """Read identifiers.json: a list of names, by identifier.

    Raises
    ------
    ValueError
        When it is something else.
    """
    with open(path, "rb") as file:
        text = file.read(_MOST_NAMES + 1)
    if len(text) > _MOST_NAMES:
        raise PuzzleFileError(f"{path}: more than {_MOST_NAMES} bytes")
    try:
        names = parsed(text)
    except PuzzleFileError as error:
        raise PuzzleFileError(f"{path}:1: {error}") from error
    if not isinstance(names, list) or not names or any(type(name) is not str for name in names):
        raise PuzzleFileError(f"{path}:1: a list of names is required, got {brief(names)}")
    return tuple(names)


def scan_folder(
    path: Path, task: str | None, split: str, limit: int | None, draw: Draw | None = None
) -> tuple[PuzzleSet | None, list[Fault]]:
    """Read an official folder as far as it is sound; see `files.scan`."""
    folder = split_folder(path, split)
    header_path = folder / "dataset.json"
    header = read_header(header_path)
    found = _task_of_folder(header_path, header, task).name
    _require_own_files(folder, header["sets"])
    parts = [_read_part(folder, name, header, limit) for name in header["sets"]]
    for key, total in (
        ("total_groups", sum(part.groups for part in parts)),
        ("total_puzzles", sum(part.puzzles for part in parts)),
    ):
        if header.get(key, total) != total:
            raise PuzzleFileError(f"{header_path}:1: {key} is {brief(header[key])}, the arrays have {total}")
    total = len(range(sum(len(part.group) for part in parts))[:limit])
    if not total:
        raise PuzzleFileError(f"{header_path}:1: no puzzles in this folder")
    taken = rows_drawn(total, draw)
    rows = np.arange(total) if taken is None else taken
    inputs = np.concatenate([part.inputs for part in parts])[rows].astype(np.int64)
    labels = np.concatenate([part.labels for part in parts])[rows].astype(np.int64)
    names = [name for part in parts for name in part.names]
    names = [names[row] for row in rows]
    before = itertools.accumulate((part.groups for part in parts), initial=0)
    groups = [
        first + group for first, part in zip(before, parts, strict=False) for group in part.group.tolist()
    ]
    identifiers = np.concatenate([part.identifiers for part in parts])[rows]
    known_names = identifier_names(
        folder, header, max(int(part.identifiers.max(initial=0)) for part in parts)
    )
    found, reasons = checks.best_fit(found, inputs, labels, task is not None)
    wrong = [Fault(str(folder.parent / names[row]), reason) for row, reason in reasons.items()]
    keep = [row for row in range(len(inputs)) if row not in reasons]
    if not keep:
        return None, wrong
    known = labels[keep] if labels.any() else None
    columns = {"group": tuple(str(groups[rows[row]]) for row in keep)}
    puzzles = PuzzleSet(
        inputs[keep], known, found, columns, str(folder), tuple(names[k] for k in keep),
        None if draw is None or taken is None else dataclasses.replace(draw, available=total),
        identifiers=None if known_names is None else identifiers[keep], identifier_names=known_names or (),
    )  # fmt: skip
    return puzzles, wrong


def arrays_of(puzzles: PuzzleSet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the dataset.json of a set.

    Raises
    ------
    ValueError
        For identifiers whose names are not known.

    Notes
    -----
    Rows that follow one another with one identifier and one entry in the column `group` are the examples of a puzzle,
    puzzles that follow one another with one such entry a group; without identifiers every row is a puzzle, without
    that column a group too.
    Tokens are of the smallest unsigned type that holds the vocabulary, offsets int32; missing solutions are written as
    0, which is the ignored label.  Where a token 0 counts, the ignored label is -100, and labels are int32.
    """
    count, known = len(puzzles), task_named(puzzles.task)
    labels = np.zeros_like(puzzles.inputs) if puzzles.labels is None else puzzles.labels
    kind = np.min_scalar_type(known.vocab_size - 1)
    zeros = bool((labels == ZERO).any())
    if zeros:
        labels = np.where(labels == IGNORED, ELSEWHERE, wanted(labels))
    group = np.arange(count)
    if "group" in puzzles.columns:
        group = np.unique(puzzles.columns["group"], return_inverse=True)[1].reshape(-1)
    new = np.ones(count, bool)  # rows at which a puzzle begins
    if puzzles.identifiers is not None:
        if not puzzles.identifier_names:
            raise ValueError(
                f"{puzzles.source or puzzles.task}: the names of the identifiers are not known, and identifiers.json "
                "must have them"
            )
        new[1:] = (np.diff(puzzles.identifiers) != 0) | (np.diff(group) != 0)
    first = np.flatnonzero(new)
    many = len(first)
    # puzzles at which a group begins
    groups = np.flatnonzero(np.append(True, np.diff(group[first]) != 0)[:many])
    identifiers = np.zeros(count, int) if puzzles.identifiers is None else puzzles.identifiers
    arrays: dict[str, np.ndarray] = {
        "inputs": puzzles.inputs.astype(kind),
        "labels": labels.astype(np.int32 if zeros else kind),
        "puzzle_identifiers": identifiers[first].astype(np.int32),
        "puzzle_indices": np.append(first, count).astype(np.int32),
        "group_indices": np.append(groups, many).astype(np.int32),
    }
    header: dict[str, Any] = {
        "pad_id": 0,
        "ignore_label_id": ELSEWHERE if zeros else 0,
        "blank_identifier_id": 0,
        "vocab_size": known.vocab_size,
        "seq_len": known.seq_len,
        "num_puzzle_identifiers": max(1, len(puzzles.identifier_names)),
        "total_groups": len(groups),
        "mean_puzzle_examples": count / max(1, many),
        "sets": ["all"],
        "total_samples": count,
        "total_puzzles": many,
    }
    if (
        task_of_shape(known.vocab_size, known.seq_len).board != known.board
    ):  # the sizes do not tell, so it is said
        header["board"] = list(known.board)
    return arrays, header
