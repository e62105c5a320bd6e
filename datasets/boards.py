"""Puzzles and decoded answers as HTML: boards as tables or coloured pictures, sequences as a row of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from eqrlab.core.labels import counts, wanted
from eqrlab.datasets.registry.lookup import task as task_named
from eqrlab.datasets.registry.task import Task

LISTED = 512  # tokens of a sequence
CELL = {6: 32, 9: 23, 16: 20}  # columns up to which a cell of a table is so many pixels wide,
SMALL_CELL = 16  # and of wider boards
DRAWN = 8  # pixels of a cell of a picture, at least
LOOKS = Path(__file__).with_name("boards.css")  # style sheet that goes with the HTML
_AROUND = """--ink: currentColor; --card: transparent;
--muted: currentColor; --rule: color-mix(in srgb, currentColor 28%, transparent);
--soft: color-mix(in srgb, currentColor 9%, transparent);
--right: #009e73; --wrong: #d55e00; --mode-c: #e69f00; --mode-d: #009e73;
.row { display: flex; flex-wrap: wrap; gap: 16px; } .row * { box-sizing: border-box; }
"""  # colours that suit any page, dark ones included


def task_of(name: str, tokens: int) -> Task:
    """Return the task of an archive whose answers have so many tokens; a sequence where it is not known here."""
    try:
        known = task_named(name)
    except ValueError:
        known = None
    if known is not None and known.seq_len == tokens:
        return known
    return Task(name="unknown", vocab_size=1, board=(1, tokens))


def wrong_cells(
    task: Task, answer: np.ndarray, inputs: np.ndarray | None, labels: np.ndarray | None, correct: bool
) -> np.ndarray:
    """Return which cells (L,) of an answer are wrong.

    Parameters
    ----------
    task
        What the board is.
    answer, inputs, labels
        Tokens (L,); inputs and labels None where there are none.
    correct
        The answer is known to be right, be it another solution than the label: then no cell is wrong.

    Notes
    -----
    Against the label where there is one (its cells of token 0 do not count).  Else, on boards with boxes, cells that
    differ from their given, are blank, or repeat a token of their row, column or box.
    """
    if correct:
        return np.zeros(len(answer), bool)
    if labels is not None:
        return (answer != wanted(labels)) & counts(labels)
    if task.boxes is None or task.blank is None:
        return np.zeros(len(answer), bool)
    row, column = np.divmod(np.arange(task.seq_len), task.board[1])
    height, width = task.boxes
    box = row // height * (task.board[1] // width) + column // width
    wrong = answer <= task.blank
    for unit in (row, column, box):
        same = (unit[:, None] == unit) & (answer[:, None] == answer) & ~np.eye(task.seq_len, dtype=bool)
        wrong |= same.any(1)
    if inputs is not None:
        wrong |= (inputs > task.blank) & (inputs != answer)
    return wrong


def board(
    task: Task,
    answer: np.ndarray,
    inputs: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    correct: bool = True,
    *,
    what: str = "decoded",
) -> Markup:
    """Return an answer as HTML, with givens set apart and wrong cells marked in colour and by a cross.

    Parameters
    ----------
    task
        From `task_of`.
    answer, inputs, labels, correct
        See `wrong_cells`.
    what
        What is shown, for those who cannot see it.
    """
    if inputs is not None and len(inputs) != len(answer):
        inputs = None
    wrong = wrong_cells(task, answer, inputs, labels, correct)
    said = f"{what}, {int(wrong.sum())} of {len(wrong)} cells wrong" if wrong.any() or not correct else what
    if task.colours is not None:
        return _picture(task, answer, labels, wrong, said)
    if task.is_grid:
        return _table(task, answer, inputs, labels, wrong, said)
    return _sequence(task, answer, labels, wrong, said)


def solution(labels: np.ndarray) -> np.ndarray:
    """Return labels as tokens to be drawn: nothing (-1) stands in cells that do not count."""
    return np.where(counts(labels), wanted(labels), -1)


def row_of_boards(task: Task, puzzles: np.ndarray) -> Markup:
    """Return puzzles (k, L) side by side, with a style sheet for what stands in an element of class `eqrlab`."""
    style = f"<style>.eqrlab {{ {_AROUND}{LOOKS.read_text(encoding='utf-8')} }}</style>"
    drawn = [f'<div style="width:{width(task)}px">{board(task, p, p, what="puzzle")}</div>' for p in puzzles]
    return Markup(f'{style}<div class="row">{"".join(drawn)}</div>')


def width(task: Task) -> int:
    """Return the pixels across that a board needs."""
    columns = task.board[1]
    if not task.is_grid:
        return 320 if columns > 20 else 212
    return max(212, min(columns * DRAWN, 320) if task.colours is not None else columns * _pixels(task) + 6)


def caption(task: Task) -> str:
    """Return what explains the boards."""
    wrong = "Crosses mark wrong cells." if task.is_grid else "Wrong tokens are struck through."
    given = (
        "Bold cells are givens." if task.is_grid and task.blank is not None and task.colours is None else ""
    )
    return " ".join(part for part in (task.legend or given, wrong) if part)


def _pixels(task: Task) -> int:
    """Return the pixels across a cell of a table."""
    usual = next((size for most, size in CELL.items() if task.board[1] <= most), SMALL_CELL)
    longest = max(map(len, task.symbols), default=len(str(task.vocab_size - 1)))
    return max(usual, 8 * longest + 4 if longest > 1 else 0)


def _table(
    task: Task,
    answer: np.ndarray,
    inputs: np.ndarray | None,
    labels: np.ndarray | None,
    wrong: np.ndarray,
    said: str,
) -> Markup:
    (height, across), (box_rows, box_columns) = task.board, task.boxes or (0, 0)
    rows = []
    for r in range(height):
        cells = []
        for c in range(across):
            k = r * across + c
            classes = [
                name
                for name, holds in (
                    ("given", inputs is not None and task.blank is not None and inputs[k] > task.blank),
                    ("bad", wrong[k]),
                    ("bt", box_rows and r % box_rows == 0),
                    ("bl", box_columns and c % box_columns == 0),
                )
                if holds
            ]
            name = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{name}{_note(task, labels, wrong, k)}>{_symbol(task, answer[k])}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    size = next((most for most in CELL if across <= most), max(CELL) + 1)
    style = f"--cell:{_pixels(task)}px"
    table = f'<table class="board n{size}" style="{style}" aria-label="{said}">{"".join(rows)}</table>'
    return Markup(f'<div class="wide">{table}</div>')


def _symbol(task: Task, token: int) -> Markup:
    """Return how a token is shown in a table; a blank as a dot in the middle, nothing below 0."""
    if token < 0:
        return Markup("")
    return Markup("·") if token == task.blank else escape(task.symbol(int(token)))


def _note(task: Task, labels: np.ndarray | None, wrong: np.ndarray, k: int) -> str:
    return f' title="should be {_symbol(task, wanted(labels)[k])}"' if wrong[k] and labels is not None else ""


def _picture(
    task: Task, answer: np.ndarray, labels: np.ndarray | None, wrong: np.ndarray, said: str
) -> Markup:
    rows, columns = _shown(task, answer, labels)
    grid, bad = (cells.reshape(task.board)[:rows, :columns] for cells in (answer, wrong))
    shapes = [
        f'<path style="fill:{escape(colour)}" d="{_cells(grid == token)}"/>'
        for token, colour in (task.colours or {}).items()
        if (grid == token).any()
    ]
    crosses = "".join(
        f"M{c + 0.2:g} {r + 0.2:g}l.6 .6m0-.6l-.6 .6" for r, c in zip(*np.nonzero(bad), strict=True)
    )
    if crosses:
        shapes += [f'<path class="bad {k}" d="{crosses}"/>' for k in ("under", "over")]
    size = f'viewBox="0 0 {columns} {rows}" style="aspect-ratio:{columns}/{rows}"'
    return Markup(f'<svg class="picture" {size} role="img" aria-label="{said}">{"".join(shapes)}</svg>')


def _shown(task: Task, answer: np.ndarray, labels: np.ndarray | None) -> tuple[int, int]:
    """Return how many rows and columns of a picture are shown: all that are used, where boards are larger than needed.

    A task with a canonical form says what of an answer is used; where there is a label its cells are shown as well.
    """
    if task.canonical is None:
        return task.board
    used = task.canonical(answer[None])[0] != 0
    if labels is not None:
        used |= counts(labels)
    row, column = (np.flatnonzero(used.reshape(task.board).any(axis=axis)) for axis in (1, 0))
    sizes = zip((row, column), task.board, strict=True)
    beyond = 1 if labels is None else 0  # what ends the part in use
    height, across = (min(int(k.max(initial=1)) + 1 + beyond, most) for k, most in sizes)
    return height, across


def _cells(mask: np.ndarray) -> str:
    """Return an SVG path of the cells of a mask, runs of a row joined."""
    parts = []
    for r, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        parts += [f"M{a} {r}h{b - a}v1H{a}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(parts)


def _sequence(
    task: Task, answer: np.ndarray, labels: np.ndarray | None, wrong: np.ndarray, said: str
) -> Markup:
    items = []
    for k, token in enumerate(answer[:LISTED].tolist()):
        name = ' class="bad"' if wrong[k] else ""
        items.append(f"<span{name}{_note(task, labels, wrong, k)}>{_symbol(task, token)}</span>")
    more = f"<i>and {len(answer) - LISTED:,} more</i>" if len(answer) > LISTED else ""
    return Markup(f'<p class="tokens" aria-label="{said}">{" ".join(items)} {more}</p>')
