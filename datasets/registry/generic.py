"""The task `generic`: tokens of any vocabulary on any board, judged by labels on the cells that count."""

from __future__ import annotations

import re

from eqrlab.datasets.registry.family import Board, Family
from eqrlab.datasets.registry.task import Task

NAME = "generic"
MOST_CELLS = 1 << 20  # of a board; models read less
MOST_TOKENS = 1 << 24
_NAMED = re.compile(
    r"generic(?:-(?:(?P<rows>[1-9]\d{0,6})x(?P<columns>[1-9]\d{0,6})|(?P<cells>[1-9]\d{0,6})))?(?:-v(?P<vocab>[1-9]\d{0,7}))?"
)


def sizes(name: str) -> tuple[Board | None, int | None] | None:
    """Read a name: its board and its vocabulary, None where it does not tell; None for another task's name.

    Examples
    --------
    >>> sizes("generic-7x8-v8"), sizes("generic-3"), sizes("generic"), sizes("maze9")
    (((7, 8), 8), ((1, 3), None), (None, None), None)
    """
    match = _NAMED.fullmatch(name)
    if match is None:
        return None
    board = None
    if match["rows"]:
        board = (int(match["rows"]), int(match["columns"]))
    elif match["cells"]:
        board = (1, int(match["cells"]))
    if board is not None and board[0] * board[1] > MOST_CELLS:
        return None
    vocab = int(match["vocab"]) if match["vocab"] else None
    return None if vocab is not None and vocab > MOST_TOKENS else (board, vocab)


def generic(vocab: int, board: Board) -> Task:
    """Return the generic task of a vocabulary and a board; one row is a sequence."""
    rows, columns = board
    shape = f"{rows}x{columns}" if rows > 1 else str(columns)
    return Task(name=f"{NAME}-{shape}-v{vocab}", kind=NAME, vocab_size=vocab, board=board)


def _find(name: str) -> Task | None:
    told = sizes(name)
    if told is None:
        return None
    board, vocab = told
    if board is not None and vocab is not None:
        return generic(vocab, board)

    def sized(tokens: int, shape: Board) -> Task:
        return generic(vocab or tokens, board or shape)

    return Task(name=name, kind=NAME, vocab_size=vocab or 0, board=board or (0, 0), sized=sized)


def _of_shape(vocab: int, length: int, board: Board | None) -> Task | None:
    fits = 0 < vocab <= MOST_TOKENS and 0 < length <= MOST_CELLS
    return generic(vocab, board or (1, length)) if fits else None


FAMILY = Family(
    name=NAME,
    names=(NAME,),
    more="generic-7x8-v8 tells rows, columns and tokens, generic-3-v114 the length of a sequence",
    find=_find,
    of_shape=_of_shape,
)
