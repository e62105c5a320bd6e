"""Decoded answers as HTML: Sudoku boards as tables, mazes as pictures, everything else as lists of tokens."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup, escape

from eqrlab.datasets import task as task_named
from eqrlab.datasets.sudoku import BLANK, FIRST_DIGIT, geometry

LISTED = 81  # tokens of an answer to an unknown task
MAZE_CELLS = {1: "wall", 3: "start", 4: "goal", 5: "path"}


def board_kind(task: str, tokens: int) -> str:
    """Return how answers of `tokens` tokens to a task are shown: "sudoku", "maze" or "tokens"."""
    try:
        known = task_named(task)
    except ValueError:
        return "tokens"
    return known.kind if known.seq_len == tokens and known.kind in ("sudoku", "maze") else "tokens"


def wrong_cells(
    kind: str, answer: np.ndarray, inputs: np.ndarray | None, labels: np.ndarray | None, correct: bool
) -> np.ndarray:
    """Return which cells (L,) of an answer are wrong.

    Parameters
    ----------
    kind
        From `board_kind`.
    answer, inputs, labels
        Tokens (L,); inputs and labels None where there are none.
    correct
        The answer is known to be right, be it another solution than the label: then no cell is wrong.

    Notes
    -----
    Against the label where there is one (its cells of token 0 do not count).  Else, in Sudoku, cells that differ from
    their given, are blank, or repeat a digit of their row, column or box.
    """
    if correct:
        return np.zeros(len(answer), bool)
    if labels is not None:
        return (answer != labels) & (labels != 0)
    if kind != "sudoku":
        return np.zeros(len(answer), bool)
    shape = geometry(int(len(answer) ** 0.5))
    row, column = np.divmod(np.arange(shape.cells), shape.side)
    wrong = answer < FIRST_DIGIT
    for unit in (row, column, shape.box_of):
        same = (unit[:, None] == unit) & (answer[:, None] == answer) & ~np.eye(shape.cells, dtype=bool)
        wrong |= same.any(1)
    if inputs is not None:
        wrong |= (inputs > BLANK) & (inputs != answer)
    return wrong


def board(
    task: str, answer: np.ndarray, inputs: np.ndarray | None, labels: np.ndarray | None, correct: bool
) -> Markup:
    """Return an answer as HTML, with givens set apart and wrong cells marked in colour and by a cross.

    Parameters
    ----------
    task
        Of the archive, e.g. "sudoku6"; an unknown one gives a list of tokens.
    answer, inputs, labels, correct
        See `wrong_cells`.
    """
    kind = board_kind(task, len(answer))
    if inputs is not None and len(inputs) != len(answer):
        inputs = None
    wrong = wrong_cells(kind, answer, inputs, labels, correct)
    if kind == "sudoku":
        return _sudoku(answer, inputs, labels, wrong)
    if kind == "maze":
        return _maze(answer, wrong)
    return _tokens(answer, labels, wrong)


def _digit(token: int) -> str:
    return "·" if token == BLANK else "?" if token < BLANK else str(token - FIRST_DIGIT + 1)


def _sudoku(
    answer: np.ndarray, inputs: np.ndarray | None, labels: np.ndarray | None, wrong: np.ndarray
) -> Markup:
    shape = geometry(int(len(answer) ** 0.5))
    rows = []
    for r in range(shape.side):
        cells = []
        for c in range(shape.side):
            k = r * shape.side + c
            classes = [
                name
                for name, holds in (
                    ("given", inputs is not None and inputs[k] > BLANK),
                    ("bad", wrong[k]),
                    ("bt", r % shape.box_rows == 0),
                    ("bl", c % shape.box_columns == 0),
                )
                if holds
            ]
            note = f' title="should be {_digit(int(labels[k]))}"' if wrong[k] and labels is not None else ""
            name = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{name}{note}>{_digit(int(answer[k]))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    text = f"decoded board, {_count(wrong)}"
    return Markup(f'<table class="sudoku n{shape.side}" aria-label="{text}">{"".join(rows)}</table>')


def _count(wrong: np.ndarray) -> str:
    return f"{int(wrong.sum())} of {len(wrong)} cells wrong"


def _maze(answer: np.ndarray, wrong: np.ndarray) -> Markup:
    side = int(len(answer) ** 0.5)
    grid, bad = answer.reshape(side, side), wrong.reshape(side, side)
    shapes = [
        f'<path class="{name}" d="{_cells(grid == token)}"/>'
        for token, name in MAZE_CELLS.items()
        if (grid == token).any()
    ]
    crosses = "".join(
        f"M{c + 0.2} {r + 0.2}l.6 .6m0-.6l-.6 .6" for r, c in zip(*np.nonzero(bad), strict=True)
    )
    if crosses:
        shapes.append(f'<path class="bad" d="{crosses}"/>')
    text = f"decoded maze, {_count(wrong)}"
    return Markup(
        f'<svg class="maze" viewBox="0 0 {side} {side}" role="img" aria-label="{text}">{"".join(shapes)}</svg>'
    )


def _cells(mask: np.ndarray) -> str:
    """Return an SVG path of the cells of a mask, runs of a row joined."""
    parts = []
    for r, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        parts += [f"M{a} {r}h{b - a}v1H{a}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(parts)


def _tokens(answer: np.ndarray, labels: np.ndarray | None, wrong: np.ndarray) -> Markup:
    items = []
    for k, token in enumerate(answer[:LISTED]):
        note = f' title="should be {escape(labels[k])}"' if wrong[k] and labels is not None else ""
        items.append(f'<span class="bad"{note}>{token}</span>' if wrong[k] else f"<span>{token}</span>")
    more = f"<i>and {len(answer) - LISTED:,} more</i>" if len(answer) > LISTED else ""
    return Markup(f'<p class="tokens" aria-label="decoded tokens">{" ".join(items)} {more}</p>')
