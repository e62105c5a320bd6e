"""A family of tasks: how its members are named, and which puzzles look like one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from eqrlab.datasets.registry.task import Task

Board = tuple[int, int]


def _nothing(*_: object) -> None:
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Tasks that share a file of code.

    Attributes
    ----------
    name
        Such as "maze".
    names
        Names that are listed, all of them valid.
    more
        How other members are named, in words; "" where there are none.
    find
        `(name) -> Task`, or None where the name is none of this family.
    of_shape
        `(tokens V, cells L, board or None) -> Task`, or None: what an official folder or a model holds, by its sizes.
    of_text
        `(puzzle) -> Task`, or None: what a row of characters looks like.
    """

    name: str
    names: tuple[str, ...]
    find: Callable[[str], Task | None]
    more: str = ""
    of_shape: Callable[[int, int, Board | None], Task | None] = _nothing
    of_text: Callable[[str], Task | None] = _nothing


def family_of(task: Task) -> Family:
    """Return the family that has one member."""

    def shaped(vocab: int, length: int, board: Board | None) -> Task | None:
        fits = (vocab, length) == (task.vocab_size, task.seq_len) and board in (None, task.board)
        return task if fits else None

    def written(text: str) -> Task | None:
        fits = task.alphabet and len(text) == task.seq_len and set(text) <= task.codes.keys()
        return task if fits else None

    return Family(
        name=task.name,
        names=(task.name,),
        find=lambda name: task if name == task.name else None,
        of_shape=shaped,
        of_text=written,
    )
