"""The boards of a puzzle: what the model is given, its solution, and what attractors or runs decode to.

ARC puzzles that were shown in a disguise are drawn as their task has them: colours and board as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import percent_interval, plural
from eqrlab.analyses.text.tables import answer_word
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import FATES
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core.labels import counts, wanted
from eqrlab.datasets import arc, boards
from eqrlab.datasets.registry.task import Task

Groups = Mapping[str, xr.Dataset]
BOARDS = 4  # attractors, or answers, of a puzzle that are shown


class Frame(NamedTuple):
    """How the boards of a puzzle are drawn.

    Attributes
    ----------
    task
        Of the puzzle.
    inputs, labels
        Tokens (L,) as they are drawn, None where they are not stored.
    disguise
        In which an ARC puzzle was shown, and which is undone; None: it was shown as it is.
    judged
        It is known which answers are right.
    """

    task: Task
    inputs: np.ndarray | None
    labels: np.ndarray | None
    disguise: arc.Disguise | None
    judged: bool

    @classmethod
    def of(cls, ensemble: xr.Dataset, puzzle: int) -> Frame:
        """Return that of a puzzle of an ensemble."""
        task = boards.task_of(str(ensemble.attrs.get("task", "")), ensemble.sizes["token"])
        name = str(ensemble.shown_as.values[puzzle]) if "shown_as" in ensemble else ""
        known = arc.disguise_of(name) if name and task.name == "arc" else None
        disguise = known if known is not None and known != arc.Disguise(known.task) else None
        frame = cls(task, None, None, disguise, "correct" in ensemble)
        given, solved = (
            ensemble[field].values[puzzle] if field in ensemble else None for field in ("inputs", "labels")
        )
        return frame._replace(
            inputs=None if given is None else frame.undone(given),
            labels=None if solved is None else frame.undone(solved),
        )

    def undone(self, tokens: np.ndarray) -> np.ndarray:
        """Return a board (L,) without the disguise: the grid that it shows, with end marks around it."""
        if self.disguise is None:
            return tokens
        grid = self.disguise.undo(arc.crop(tokens))
        return arc.board_of(grid) if grid.size else np.zeros_like(tokens)

    def given(self) -> list[dict[str, Any]]:
        """Return the puzzle itself and its solution as boards, as far as they are stored."""
        views = []
        if self.inputs is not None:
            board = boards.board(self.task, self.inputs, self.inputs, what="puzzle")
            views.append({"title": "Puzzle", "note": "what the model is given", "board": board})
        if self.labels is not None:
            board = boards.board(self.task, boards.solution(self.labels), self.inputs, what="solution")
            views.append({"title": "Solution", "note": "as stored with it", "board": board})
        return views

    def answer(self, tokens: np.ndarray, correct: bool) -> dict[str, Any]:
        """Return an answer as a board, and what colour it has: right, wrong or none."""
        own = self.undone(tokens)
        right, note = correct and self.judged, ""
        if self.disguise is not None and self.labels is not None and self.judged and not correct:
            # The marks around an undone grid are where they belong: what was wrong about them alone is said.
            graded = counts(self.labels)
            if graded.any() and (own == wanted(self.labels))[graded].all():
                note = "the grid is right, the marks around it are not"
        return {
            "kind": ("right" if correct else "wrong") if self.judged else "none",
            "note": note,
            "board": boards.board(self.task, own, self.inputs, self.labels, right, what="decoded answer"),
        }

    @property
    def caption(self) -> str:
        """What explains the boards."""
        if self.disguise is None:
            return boards.caption(self.task)
        ways = ["turned or mirrored"] * (self.disguise.symmetry > 0)
        ways += ["in other colours"] * (self.disguise.colours != arc.Disguise("").colours)
        return (
            f"{boards.caption(self.task)} The model was shown task {self.disguise.task} {' and '.join(ways)}; "
            "here that is undone, and of answers the grid is drawn."
        )


def puzzle_boards(groups: Groups, puzzle: int) -> dict[str, Any]:
    """Return what is drawn of a puzzle: itself, its solution, and its largest attractors or else commonest answers."""
    ensemble, basins = groups["ensemble"], groups["basins"]
    frame, found = Frame.of(ensemble, puzzle), int(basins["attractors"].values[puzzle])
    if found:
        ends, total = [attractor_view(frame, basins, puzzle, a) for a in range(min(found, BOARDS))], found
    else:
        confidence = float(basins.attrs.get("confidence", 0.95))
        ends, total = answer_views(frame, ensemble, puzzle, confidence)
    return {
        "given": frame.given(),
        "boards": ends,
        "attractors": found > 0,
        "more": total - len(ends),
        "caption": frame.caption,
        "width": boards.width(frame.task),
    }


def attractor_view(frame: Frame, basins: xr.Dataset, puzzle: int, a: int) -> dict[str, Any]:
    """Return what is shown of one attractor: its answer as a board, mass, fate, period and residual."""
    one = basins.isel(puzzle=puzzle, attractor=a)
    fate, period = FATES[int(one["fate"])], int(one["period"])
    ends = f"period {period}" if fate == "periodic" else fate
    drawn = frame.answer(one["answer"].values, bool(one["correct"]))
    if answer_word(basins, puzzle, a) == "changing":  # one of its answers is drawn
        drawn["kind"], ends = "none", f"{ends}, its answer changes"
    return {
        **drawn,
        "title": f"Attractor {a + 1}",
        "mass": f"mass {percent_interval(*Interval.of(one, 'mass'))}",
        "ends": f"{ends}, residual {float(one['residual']):.2g} of the norm",
    }


def answer_views(
    frame: Frame, ensemble: xr.Dataset, puzzle: int, confidence: float
) -> tuple[list[dict[str, Any]], int]:
    """Return what is shown of the commonest answers after the last step, and how many different ones there are."""
    drawn = np.flatnonzero(drawn_of(ensemble)[puzzle])
    number = ensemble["answer_id"].values[puzzle, drawn, -1]
    values, first, often = np.unique(number, return_index=True, return_counts=True)
    views = []
    for rank, k in enumerate(np.argsort(-often, kind="stable")[:BOARDS], start=1):
        run, share = drawn[first[k]], often[k] / len(drawn)
        correct = frame.judged and bool(ensemble["correct"].values[puzzle, run, -1])
        bounds = proportion_interval(np.array(often[k]), len(drawn), confidence)
        views.append({
            **frame.answer(ensemble["answer"].values[puzzle, run], correct),
            "title": f"Answer {rank}",
            "mass": percent_interval(share, *map(float, bounds)),
            "ends": f"{often[k]:,} of {plural(len(drawn), 'run')} at the last step",
        })  # fmt: skip
    return views, len(values)
