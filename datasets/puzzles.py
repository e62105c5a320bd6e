"""The value that every reader returns and every writer takes: a set of puzzles of one task."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np

from eqrlab.core.labels import ZERO
from eqrlab.core.seeds import nonnegative
from eqrlab.core.shown import Facts, Shown
from eqrlab.datasets import boards
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.task import Oracle, Task

_DRAWN = 4  # puzzles that a notebook shows
_KINDS = ("difficulty", "kind")  # columns whose values are counted when a set is shown


@dataclasses.dataclass(frozen=True)
class Draw:
    """A random choice of puzzles.

    Attributes
    ----------
    count, seed
        How many are drawn at most, and by which seed.
    available
        How many they were drawn from; None before they are.
    """

    count: int
    seed: int
    available: int | None = None


def rows_drawn(available: int, draw: Draw | None) -> np.ndarray | None:
    """Return the rows (k,) that a draw takes from so many, ascending; None: all, there are no more than it asks for."""
    if draw is None or available <= draw.count:
        return None
    return np.sort(np.random.default_rng(nonnegative(draw.seed)).choice(available, draw.count, replace=False))


def sized(task: Task, inputs: np.ndarray, labels: np.ndarray | None) -> Task:
    """Return the task of open sizes that has those of some puzzles: their length, and tokens up to the largest.

    Raises
    ------
    ValueError
        If the puzzles are no rows of tokens, or have another length than the board that the task names.
    """
    if inputs.ndim != 2 or not inputs.shape[1]:
        raise ValueError(f"puzzles are rows of tokens (n, L), got {inputs.shape}")
    most = max(int(tokens.max(initial=0)) for tokens in (inputs, labels) if tokens is not None)
    board = task.board if all(task.board) else (1, inputs.shape[1])
    assert task.sized is not None
    return task.sized(task.vocab_size or most + 1, board)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PuzzleSet(Shown):
    """Puzzles of one task.

    Attributes
    ----------
    inputs
        Puzzles, tokens (P, L) int64.
    labels
        Solutions (P, L) int64, 0 = ignore, -1 = token 0; None where the source has none.
    task
        Task name such as "sudoku6" or "maze9".
    columns
        Further columns as read: name -> P strings.
    source
        Where the puzzles come from: a path or a command.
    names
        Where each puzzle stands, e.g. "hard.csv:12"; made from `source` when left empty.
    draw
        How they were drawn from the source; None where they are all of it, or the first.
    unproved
        Puzzles that were to have one solution each, and of which that could not be proved in time.
    identifiers
        Their identifiers (P,) int64, which name the embeddings of models that were trained with such; None where they
        have none, or only the blank one.
    identifier_names
        Names of all identifiers of the source, the first that of the blank one; () where they are not known.

    Raises
    ------
    ValueError
        If shapes, tokens or numbers of entries do not fit.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    task: str
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    source: str = ""
    names: tuple[str, ...] = ()
    draw: Draw | None = None
    unproved: int = 0
    identifiers: np.ndarray | None = None
    identifier_names: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        for field in ("inputs", "labels"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, np.asarray(getattr(self, field)))
        known = task_named(self.task)
        if known.sized is not None:  # of open sizes: these puzzles have some
            known = sized(known, self.inputs, self.labels)
            object.__setattr__(self, "task", known.name)
        length, limit = known.seq_len, known.vocab_size
        for field in ("inputs", "labels"):
            tokens = getattr(self, field)
            if tokens is None and field == "labels":
                continue
            shape = (len(self.inputs), length)
            if tokens.shape != shape or not np.issubdtype(tokens.dtype, np.integer):
                raise ValueError(
                    f"{self.task} takes integer {field} {shape}, got {tokens.dtype} {tokens.shape}"
                )
            least = ZERO if field == "labels" else 0
            if tokens.size and (tokens.min() < least or tokens.max() >= limit):
                raise ValueError(
                    f"{self.task} has tokens 0 to {limit - 1}, {field} have {tokens.min()} to {tokens.max()}"
                )
            object.__setattr__(self, field, tokens.astype(np.int64))
        if self.identifiers is not None:
            known_ids = np.asarray(self.identifiers)
            if known_ids.shape != (len(self.inputs),) or not np.issubdtype(known_ids.dtype, np.integer):
                raise ValueError(
                    f"identifiers must be {len(self.inputs)} integers, got {known_ids.dtype} {known_ids.shape}"
                )
            least, most = (int(known_ids.min()), int(known_ids.max())) if known_ids.size else (0, 0)
            if least < 0 or (self.identifier_names and most >= len(self.identifier_names)):
                there = f"0 to {len(self.identifier_names) - 1}" if self.identifier_names else "0 or more"
                raise ValueError(f"identifiers must be {there}, got {least} to {most}")
            object.__setattr__(self, "identifiers", known_ids.astype(np.int64))
        columns = {name: tuple(values) for name, values in self.columns.items()}
        names = tuple(self.names) or tuple(f"{self.source or self.task}[{k}]" for k in range(len(self)))
        for name, values in [*columns.items(), ("names", names)]:
            if len(values) != len(self):
                raise ValueError(f"column {name!r} has {len(values)} entries for {len(self)} puzzles")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "names", names)

    def __len__(self) -> int:
        return len(self.inputs)

    def _facts(self) -> Facts:
        solved = "without solutions" if self.labels is None else "with solutions"
        lines = {"from": "/".join(PurePath(self.source).parts[-2:]) or "made here"}
        if self.draw is not None:
            among = "" if self.draw.available is None else f" of {self.draw.available:,}"
            lines["drawn"] = f"{self.draw.count:,}{among}, seed {self.draw.seed}"
        for name in _KINDS:
            if name in self.columns:
                found = Counter(self.columns[name]).most_common(8)
                lines[name] = ", ".join(f"{kind} {many:,}" for kind, many in found)
        others = [name for name in self.columns if name not in _KINDS]
        if others:
            lines["columns"] = ", ".join(others)
        if self.identifiers is not None:
            lines["identifiers"] = f"{len(np.unique(self.identifiers)):,} different ones"
        title = f"PuzzleSet of {self.task}: {len(self):,} puzzle{'s' * (len(self) != 1)} {solved}"
        return Facts(title, lines)

    def _drawn(self) -> str:
        return boards.row_of_boards(task_named(self.task), self.inputs[:_DRAWN])

    @property
    def oracle(self) -> Oracle | None:
        """Return the oracle that judges answers to these puzzles; None: their labels do."""
        return task_named(self.task).oracle

    @property
    def clues(self) -> np.ndarray:
        """Return the givens of every puzzle, (P,): cells beyond pad and blank, in mazes those that are not wall."""
        blank = task_named(self.task).blank
        return (self.inputs > (1 if blank is None else blank)).sum(axis=1)

    @property
    def copies(self) -> int:
        """Number of puzzles that repeat an earlier one, in tokens and identifier: their runs are the same runs."""
        told = [self.inputs] if self.identifiers is None else [self.inputs, self.identifiers[:, None]]
        return len(self) - len(np.unique(np.hstack(told), axis=0))

    @property
    def disguises(self) -> tuple[str, ...]:
        """Return the name of each puzzle's identifier, (P,); () where identifiers or their names are not known."""
        if self.identifiers is None or not self.identifier_names:
            return ()
        return tuple(self.identifier_names[k] for k in self.identifiers)

    def take(self, rows: int | Sequence[int] | np.ndarray | slice) -> PuzzleSet:
        """Return the puzzles in some rows, in that order; of one row, a set of one puzzle."""
        index = np.atleast_1d(np.arange(len(self))[list(rows) if isinstance(rows, tuple) else rows])
        return dataclasses.replace(
            self,
            inputs=self.inputs[index],
            labels=None if self.labels is None else self.labels[index],
            columns={name: tuple(values[k] for k in index) for name, values in self.columns.items()},
            names=tuple(self.names[k] for k in index),
            identifiers=None if self.identifiers is None else self.identifiers[index],
        )
