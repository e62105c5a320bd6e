"""ARC in JSON: task files, folders of them, and challenges with their solutions, as the benchmark is published."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eqrlab.core.messages import brief
from eqrlab.datasets import checks
from eqrlab.datasets.arc.grids import board_of
from eqrlab.datasets.decode import parsed
from eqrlab.datasets.faults import PuzzleFileError
from eqrlab.datasets.puzzles import Draw, PuzzleSet, rows_drawn

TESTS = "test_puzzles.json"  # beside the splits of an official folder: all tests, as they are
_MOST = 1 << 28  # bytes of a file; all tasks of a year's benchmark have some 6 million
Pair = Mapping[str, Any]


def is_arc(path: Path) -> bool:
    """Say whether a path is one that `read_arc` reads: a .json file, or a folder of such that is no official one."""
    if path.is_dir():
        official = any(path.glob("dataset.json")) or any(path.glob("*/dataset.json"))
        return not official and bool(_files(path))
    return path.suffix.lower() == ".json"


def _files(folder: Path) -> list[Path]:
    """Return the .json files of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".json")


def _load(path: Path) -> Any:
    with open(path, "rb") as file:
        text = file.read(_MOST + 1)
    if len(text) > _MOST:
        raise PuzzleFileError(f"{path}: more than {_MOST} bytes")
    try:
        return parsed(text)
    except PuzzleFileError as error:
        raise PuzzleFileError(f"{path}:1: {error}") from error


def _is_task(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("test"), list)


def _grid(value: Any, where: str) -> np.ndarray:
    """Return a grid (r, c) of a file."""
    if not isinstance(value, list) or not value:
        raise PuzzleFileError(f"{where}: rows of equal length are required, got {brief(value)}")
    for row in value:
        if not isinstance(row, list) or not row:
            found = "an empty row" if row == [] else f"the row {brief(row)}"
            raise PuzzleFileError(
                f"{where}: rows of equal length, lists of colours, are required, got {found}"
            )
    other = next((row for row in value if len(row) != len(value[0])), None)
    if other is not None:
        raise PuzzleFileError(
            f"{where}: rows of equal length are required, got rows of {len(value[0])} and of {len(other)} cells"
        )
    for cell in (cell for row in value for cell in row):
        if type(cell) is not int or abs(cell) > 99:
            raise PuzzleFileError(f"{where}: colours 0 to 9 are required, got {brief(cell)}")
    grid = np.array(value)
    try:
        board_of(grid)
    except ValueError as error:
        raise PuzzleFileError(f"{where}: {error}") from None
    return grid


def _solutions(path: Path) -> dict[str, Any]:
    """Return the solutions beside a file of challenges: task to the outputs of its tests."""
    if "challenges" not in path.name.lower():
        return {}
    name = path.name.lower().replace("challenges", "solutions")
    beside = next(
        (file for file in _files(path.parent) if file.name.lower() == name and file.is_file()), None
    )
    if beside is None:
        return {}
    found = _load(beside)
    if not isinstance(found, dict) or not all(isinstance(grids, list) for grids in found.values()):
        raise PuzzleFileError(f"{beside}:1: task names with lists of grids are required, got {brief(found)}")
    return found


def tasks_of(path: Path) -> Iterator[tuple[str, dict[str, Any], Path]]:
    """Give the tasks of a file or folder: name, {"train": pairs, "test": pairs}, and the file it is in.

    Raises
    ------
    ValueError
        For a file that holds something else.
    """
    for file in _files(path) if path.is_dir() else [path]:
        name = file.name.lower()
        if path.is_dir() and (name.endswith("solutions.json") or name == "identifiers.json"):
            continue
        content, solutions = _load(file), _solutions(file)
        tasks = {file.stem: content} if _is_task(content) else content
        if not isinstance(tasks, dict) or not tasks or not all(map(_is_task, tasks.values())):
            raise PuzzleFileError(
                f'{file}:1: an ARC task {{"train": [...], "test": [...]}}, or several by name, is required, '
                f"got {brief(content)}"
            )
        for name, task in tasks.items():
            for number, pair in enumerate(task["test"]):
                if not isinstance(pair, dict):
                    raise PuzzleFileError(
                        f'{file}: task {name!r}, test {number}: {{"input": grid}} is required, got {brief(pair)}'
                    )
            pairs = [dict(pair) for pair in task["test"]]
            outputs = solutions.get(name, [])
            if name in solutions and len(outputs) != len(pairs):
                raise PuzzleFileError(
                    f"{file}: task {name!r} has {len(pairs)} tests, the file of solutions beside it {len(outputs)}"
                )
            for number, (pair, output) in enumerate(zip(pairs, outputs, strict=False)):
                if None not in (pair.get("output"), output) and pair["output"] != output:
                    raise PuzzleFileError(
                        f"{file}: task {name!r}, test {number}: the output is another than in the file of solutions "
                        "beside it"
                    )
                pair["output"] = pair.get("output") if output is None else output
            yield name, {**task, "test": pairs}, file


def read_arc(
    path: Path, split: str = "test", limit: int | None = None, draw: Draw | None = None
) -> PuzzleSet:
    """Read the tests of ARC tasks (or their demonstrations, of the split "train") as puzzles.

    Parameters
    ----------
    path
        A task file, a folder of such, or a file of tasks by name; solutions are taken from the file beside it whose
        name has "solutions" for "challenges".  All tests need an output, or none.
    limit, draw
        As in `read_puzzles`.

    Returns
    -------
    PuzzleSet
        With the columns `task` and `test` (number of the pair); without outputs there are no labels.  Such files tell
        no identifiers: see `identified`.

    Raises
    ------
    ValueError
        With file and task: what is no task, no grid, or a grid of more than 30 x 30, or lacks an output that others
        have.
    """
    boards: list[tuple[np.ndarray, np.ndarray]] = []
    columns: dict[str, list[str]] = {"task": [], "test": []}
    names: list[str] = []
    for name, task, file in tasks_of(path):
        pairs = task.get("test" if split == "test" else "train", [])
        if not isinstance(pairs, list):
            raise PuzzleFileError(f"{file}: task {name!r}: a list of pairs is required, got {brief(pairs)}")
        for number, pair in enumerate(pairs):
            where = f"{file}: task {name!r}, {split} {number}"
            if not isinstance(pair, dict) or "input" not in pair:
                raise PuzzleFileError(f'{where}: {{"input": grid}} is required, got {brief(pair)}')
            given = board_of(_grid(pair["input"], f"{where}, input"))
            wanted = pair.get("output")
            label = np.zeros_like(given) if wanted is None else board_of(_grid(wanted, f"{where}, output"))
            boards.append((given, label))
            columns["task"].append(name)
            columns["test"].append(str(number))
            names.append(f"{file.name}:{name}:{number}")
            if draw is None and len(boards) == limit:
                break
        if draw is None and len(boards) == limit:
            break
    if not boards:
        raise PuzzleFileError(f"{path}: no {split} pairs")
    inputs, labels = (np.stack(each) for each in zip(*boards, strict=True))
    for row, reason in checks.without_solution(labels).items():
        raise PuzzleFileError(
            f"{path}: task {columns['task'][row]!r}, {split} {columns['test'][row]}: {reason}"
        )
    found = PuzzleSet(
        inputs, labels if labels.any() else None, "arc", {k: tuple(v) for k, v in columns.items()}, str(path),
        tuple(names),
    )  # fmt: skip
    rows = rows_drawn(len(found), draw)
    return found if rows is None or draw is None else dataclasses.replace(
        found.take(rows), draw=dataclasses.replace(draw, available=len(found))
    )  # fmt: skip


def identified(puzzles: PuzzleSet, names: tuple[str, ...]) -> PuzzleSet:
    """Return puzzles with the identifiers of their tasks, by the names of identifiers.json.

    Raises
    ------
    ValueError
        For puzzles that do not name a task, or a task that is not among the names.
    """
    place = {name: k for k, name in enumerate(names)}
    tasks = puzzles.columns.get("task")
    if tasks is None:
        raise ValueError(
            f"{puzzles.source}: the puzzles do not name their tasks, identifiers cannot be found by them"
        )
    missing = next((task for task in tasks if task not in place), None)
    if missing is not None:
        raise ValueError(
            f"{puzzles.source}: the task {missing!r} is not among the {len(names)} names of identifiers"
        )
    found = np.array([place[task] for task in tasks])
    return dataclasses.replace(puzzles, identifiers=found, identifier_names=names)


def known_tests(puzzles: PuzzleSet) -> dict[str, dict[str, Any]] | None:
    """Return all tests of the tasks of an official folder's test split, from its test_puzzles.json; None without it.

    Raises
    ------
    ValueError
        See `tasks_of`.
    """
    folder = Path(puzzles.source)
    file = next((p for p in (folder / TESTS, folder.parent / TESTS) if folder.is_dir() and p.is_file()), None)
    if file is None or folder.name != "test":
        return None
    return {
        name: {"test": [_pair(pair, file, name) for pair in task["test"]]} for name, task, _ in tasks_of(file)
    }


def _pair(pair: Pair, file: Path, name: str) -> dict[str, Any]:
    if not {"input", "output"} <= set(pair):
        raise PuzzleFileError(f"{file}: task {name!r}: a test without input or output")
    return {key: _grid(pair[key], f"{file}: task {name!r}, {key}").tolist() for key in ("input", "output")}
