"""Which puzzles a command works on: a file's, some of them drawn at random, or a bundled set's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eqrlab.analyses.text.names import typed
from eqrlab.core import Reasoner
from eqrlab.core.progress import shown, tqdm
from eqrlab.datasets import Draw, PuzzleSet, read_puzzles
from eqrlab.datasets import bundled as bundled_puzzles
from eqrlab.datasets.checks import unsolvable

SAMPLE = 12  # puzzles of a bundled set that are diagnosed unless --limit says otherwise; their difficulties alternate
DRAWN = 64  # puzzles of a file, drawn at random unless --limit says otherwise


def puzzles_for(
    reasoner: Reasoner,
    path: str | None,
    split: str,
    limit: int | None,
    several: bool,
    *,
    seed: int = 0,
    quiet: bool = True,
) -> PuzzleSet:
    """Return the puzzles to work on.

    Parameters
    ----------
    reasoner
        Whose task they must be of.
    path, split
        A file or folder, None for the bundled set of the task; which part of a set.
    limit
        The first so many; None is some of a file drawn at random, the first few of a bundled set.
    several
        Whether puzzles of a file may have several solutions; one they must have.  The solver runs on each that is
        taken, with `several` only on those that come without a solution.
    seed
        Of the draw.
    quiet
        Whether the solver's progress bar is left out.

    Raises
    ------
    ValueError
        When the model's task has no bundled set, the puzzles are of another task than the model, or one has
        no solution, or more than one and `several` does not allow that.
    """
    if path is None:
        puzzles = bundled_puzzles(reasoner.task, split).take(slice(SAMPLE if limit is None else limit))
    else:
        draw = Draw(DRAWN, seed) if limit is None else None
        with tqdm(unit="puzzle", desc="solving", **shown(not quiet)) as bar:
            puzzles = read_puzzles(path, split=split, limit=limit, unique=not several, draw=draw,
                                   tick=lambda done, all_: _advance(bar, done, all_))  # fmt: skip
            if several:  # else that is known already
                _require_solvable(puzzles, lambda done: _advance(bar, done, len(puzzles)))
    shape = (reasoner.config.seq_len, reasoner.config.vocab_size)
    if puzzles.inputs.shape[1] != shape[0] or puzzles.inputs.max() >= shape[1]:
        raise ValueError(
            f"{puzzles.source}: {puzzles.task} puzzles of {puzzles.inputs.shape[1]} cells, "
            f"the model reads {reasoner.task} of {shape[0]} cells and {shape[1]} tokens"
        )
    return puzzles


def _require_solvable(puzzles: PuzzleSet, tick: Callable[[int], object]) -> None:
    """Refuse puzzles without any solution: every answer to them is wrong, whatever the model does."""
    for row in unsolvable(puzzles.task, puzzles.inputs, puzzles.labels, tick)[:1]:
        folder = Path(puzzles.source).parent
        raise ValueError(
            f"{folder / puzzles.names[row]}: the puzzle has no solution, no answer to it can be right"
        )


def _advance(bar: tqdm, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def short_source(puzzles: PuzzleSet) -> str:
    """Return the file name of a puzzle set, or the last two names of a split's folder."""
    path = Path(puzzles.source)
    return "/".join(path.parts[-2:]) if path.is_dir() else path.name


def how_chosen(puzzles: PuzzleSet) -> str:
    """Return what is said of a draw behind the name of its source; nothing where there was none.

    Examples
    --------
    " (drawn at random from its 44,635 with seed 0; --limit all takes all)"
    """
    draw = puzzles.draw
    if draw is None:
        return ""
    return f" (drawn at random from its {draw.available:,} with seed {draw.seed}; --limit all takes all)"


def puzzle_attributes(puzzles: PuzzleSet) -> dict[str, Any]:
    """Return what an archive records of its puzzles: where they are from and how they were drawn."""
    found: dict[str, Any] = {"puzzles": typed(short_source(puzzles))}
    if puzzles.draw is not None:
        found |= {"puzzles_drawn_from": puzzles.draw.available, "puzzles_drawn_by_seed": puzzles.draw.seed}
    return found
