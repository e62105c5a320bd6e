"""Commit and restart on a model's puzzles, and its results in sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.text.format import percent, percent_interval, plural, wrapped
from eqrlab.analyses.text.signals import points
from eqrlab.attractors.answers.commit import Clues, commit_run
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import MODES
from eqrlab.core import Reasoner
from eqrlab.core.models.reasoner import restart_law
from eqrlab.datasets import PuzzleSet, task
from eqrlab.datasets.registry.lookup import known_task

STAGE = 4  # restarts of either stage


def clues_of(name: str) -> Clues:
    """Return what may be written into puzzles of a task as clues.

    Raises
    ------
    ValueError
        For a task whose answers cannot be written into its puzzles.
    """
    found = task(name).clues
    if found is None:
        raise ValueError(
            f"committing writes cells of an answer into the puzzle as clues, and {name} has no such clues: the task "
            "does not say which tokens may be written where"
        )
    return found


def commit_trial(
    model: Reasoner,
    puzzles: PuzzleSet,
    share: float,
    *,
    restarts: int = STAGE,
    drawn: xr.Dataset | None = None,
    **options: Any,
) -> xr.Dataset:
    """Commit and restart on puzzles; families with a stored start begin at random states.

    Parameters
    ----------
    share, restarts, drawn
        See `attractors.answers.commit.commit_run`; `restarts` is that of either stage.
    options
        `depth`, `seed`, `noise`, `device`, `dtype`, `batch_size`, `progress` of `attractors.sample`.

    Raises
    ------
    ValueError
        For a task without clues.
    """
    clues = clues_of(puzzles.task)
    work = {name: options.pop(name) for name in ("batch_size", "progress") if name in options}
    own: dict[str, Any] = {
        "labels": puzzles.labels,
        "oracle": puzzles.oracle,
        "identifiers": puzzles.identifiers,
    }
    own |= {"initial": restart_law(model), "restarts": restarts}
    run = at.Run.of(model, puzzles.inputs, **{**options, **own})
    return commit_run(run, clues, share=share, drawn=drawn, **work)


def clues_to_commit(run: at.Run) -> Clues | None:
    """Return what can be committed to the puzzles of a run as clues, None where its task or runs do not allow it."""
    known = known_task(run.system)
    able = run.judge.known and not isinstance(run.initial, torch.Tensor) and hasattr(run.system, "logits")
    return known.clues if able and known is not None else None


def commit_where_none_is_right(
    run: at.Run, modes: xr.Dataset, batch_size: int | None = None
) -> dict[str, xr.Dataset]:
    """Commit and restart on the puzzles in mode (a); without any, or where their task takes no clues, nothing.

    Returns
    -------
    dict
        The group `commit`, over these puzzles.
    """
    chosen, clues = np.flatnonzero(modes["mode"].values == MODES.index("a")), clues_to_commit(run)
    if not len(chosen) or clues is None:
        return {}
    found = commit_run(run.puzzles(chosen).with_(restarts=STAGE), clues, batch_size=batch_size)
    return {
        "commit": schema.relabelled(found, puzzle=modes["puzzle"].values[chosen]).assign_attrs(of="mode (a)")
    }


def commit_sentence(found: xr.Dataset) -> str:
    """Return what committing gave as a sentence; of puzzles in mode (a), that this mode is relative to their clues."""
    if found.attrs.get("of") != "mode (a)":
        return " ".join(commit_lines(found))
    right, stage = int(found["correct"].values.sum()), int(found.attrs["restarts"])
    share = percent_interval(*Interval.of(found, "accuracy"))
    return (
        f"Mode (a) refers to the puzzle as given. If the {percent(found.attrs['share'])} of the open cells of which "
        f"each run is surest are written in as clues, {stage} + {stage} runs answer {right} of "
        f"{plural(found.sizes['puzzle'], 'puzzle')} in that mode right ({share}); {2 * stage} plain restarts answer "
        f"{int(found['correct_restarts'].values.sum())} right."
    )


def commit_lines(found: xr.Dataset) -> list[str]:
    """Return the results of committing, compared with plain restarts of equal cost, as lines."""
    stage, puzzles = int(found.attrs["restarts"]), found.sizes["puzzle"]
    tried = int(found["committed"].values.sum())
    rule = "halted" if found.attrs["accept"] == "halt" else "settled"
    shares = {
        end: percent_interval(*Interval.of(found, f"accuracy{end}")) for end in ("_first", "", "_restarts")
    }
    lost = int((~found["any_correct_restarts"].values).sum())
    text = (
        f"Commit and restart: {plural(stage, 'run')}; if none {rule} ({tried} of {plural(puzzles, 'puzzle')}), the "
        f"{percent(found.attrs['share'])} of the open cells of which each run is surest are written in, and "
        f"{stage} more runs are made. Right: {shares['_first']} before, {shares['']} with committing, "
        f"{shares['_restarts']} with {stage} plain restarts instead, at equal cost: "
        f"{points(*Interval.of(found, 'gain'))}."
    )
    if lost:
        text += (
            f" Of the {plural(lost, 'puzzle')} that all {2 * stage} plain restarts get wrong it answers "
            f"{percent_interval(*Interval.of(found, 'rescued'))} right."
        )
    return wrapped(text)


def commit_figures(found: xr.Dataset) -> dict[str, Any]:
    """Return the results of committing as plain numbers, with their intervals."""
    names = {
        "exact": "accuracy",
        "exact_first": "accuracy_first",
        "exact_restarts": "accuracy_restarts",
        "gain": "gain",
    }
    figures: dict[str, Any] = {name: Interval.of(found, stored).plain() for name, stored in names.items()}
    return figures | {
        "share": float(found.attrs["share"]), "restarts": int(found.attrs["restarts"]),
        "committed": int(found["committed"].values.sum()), "outer_steps": int(found["nfe"].values.sum()),
    }  # fmt: skip
