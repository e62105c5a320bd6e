"""Commit and restart: if no run is accepted, write the surest cells of each run into the puzzle and start again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.answers.selectors import HALT
from eqrlab.attractors.ensemble.judge import Judge, require_judged
from eqrlab.attractors.ensemble.options import RunOptions, WorkOptions, check_options, part_of
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.core import System
from eqrlab.core.labels import wanted
from eqrlab.core.seeds import nonnegative

Clues = Callable[[np.ndarray], np.ndarray]
ACCEPTS = ("halt", "settled")
CELLS = ("confident", "random")


class StageOptions(WorkOptions, total=False):
    """Options of committing a run, besides those of `WorkOptions`.

    confidence, resamples
        Of the intervals, which resample whole puzzles; 0.95 and 1000 unless given.
    """

    confidence: float
    resamples: int


class CommitOptions(RunOptions, StageOptions, total=False):
    """Options of `commit`: those of `sample`, and of `StageOptions`."""


def commit(
    system: System,
    inputs: Tensor | np.ndarray,
    clues: Clues,
    *,
    share: float = 0.2,
    accept: str | None = None,
    cells: str = "confident",
    **options: Unpack[CommitOptions],
) -> xr.Dataset:
    """Answer each puzzle by restarts; if none is accepted, restart with the surest cells of each run as clues.

    For comparison, the same number of further restarts of the unchanged puzzle is made, at equal cost.

    Parameters
    ----------
    system
        Any `eqrlab.core.System` with `logits`.
    inputs
        Puzzles (P, L), integer tokens.
    clues
        `(inputs (n, L)) -> bool (n, L, V)`: which tokens may be written into which cells, as `Task.clues` of the
        registry of tasks.
    share
        Share of the open cells that each run fills in: the cells of which it is surest, by the probability of its
        token.
    accept
        Condition on which a run is accepted at the last step: "halt", its halting logit is above 0; "settled", its
        fate.  None: "halt" if the system has a halting head.
    cells
        "confident", or "random" to measure the value of choosing the cells.
    **options
        As for `sample`, see `CommitOptions`; `restarts`, default 4, is the number of runs in each stage.

    Returns
    -------
    xarray.Dataset
        Over puzzle: `committed` (no run of the first stage was accepted), `answer` (token) of the run with the highest
        halting logit of both stages (among equals and without a head, of least answer entropy), `correct`;
        `correct_first`, of the first stage alone; `correct_restarts`, with plain restarts in the second stage;
        `any_correct_restarts`, whether any of these runs is right; `nfe`, outer steps spent, the same for both;
        `written`, mean number of clues a run wrote; `written_right`, share of them that agree with the labels, NaN
        without.  With `_low` and `_high`: `accuracy`, `accuracy_first`, `accuracy_restarts`, `gain` = accuracy minus
        accuracy_restarts, paired by puzzle; `rescued` = share answered right of the puzzles that all plain restarts get
        wrong.

    Raises
    ------
    ValueError
        For a system without logits or, with accept "halt", without halting head; without labels or oracle; for given
        starts; and for arguments outside their range.
    TypeError
        For an unknown option.

    Notes
    -----
    A wrong clue makes the right answer unreachable, unless the map overrules the clue; answers are judged
    against the puzzle as it was given.  The runs of the second stage are restarts of the puzzle with its clues.
    Cost: `restarts` * depth outer steps per puzzle, twice that where committed, and as many for the comparison.
    Fixing the surest variables and solving again is the old idea of decimation; its use for recursive reasoners
    was not found elsewhere.

    References
    ----------
    Mezard, Parisi & Zecchina 2002, "Analytic and algorithmic solution of random satisfiability problems" (decimation).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import load
    >>> from eqrlab.datasets import bundled, task
    >>> puzzles = bundled("sudoku6").take(slice(3))
    >>> found = commit(load("eqr-sudoku6"), puzzles.inputs, task("sudoku6").clues, labels=puzzles.labels, depth=8)
    >>> bool((found.nfe == 4 * 8 * (1 + found.committed)).all())
    True
    """
    check_options(options, CommitOptions, commit)
    run = Run.of(system, inputs, **{"restarts": 4, **part_of(options, RunOptions)})  # type: ignore[arg-type]
    rest = {name: value for name, value in options.items() if name not in RunOptions.__annotations__}
    return commit_run(run, clues, share=share, accept=accept, cells=cells, **rest)  # type: ignore[arg-type]


def commit_run(
    run: Run,
    clues: Clues,
    *,
    share: float = 0.2,
    accept: str | None = None,
    cells: str = "confident",
    drawn: xr.Dataset | None = None,
    **options: Unpack[StageOptions],
) -> xr.Dataset:
    """Do the same as `commit` for a `Run`.

    Parameters
    ----------
    run, clues, share, accept, cells
        As for `commit`.
    drawn
        An ensemble of this run with twice its restarts or more, and their final states: the first stage and the plain
        restarts are taken from it, which saves drawing them again.
    **options
        See `StageOptions`.

    Raises
    ------
    ValueError
        As `commit`, and for an ensemble of too few restarts or without final states.
    """
    draw = {"confidence": options.pop("confidence", 0.95), "resamples": options.pop("resamples", 1000)}
    work: WorkOptions = options
    accept = _checked(run, share, accept, cells)
    run = run.with_(keep=("summary", "final_state"))
    if drawn is not None:
        _require_drawn(run, drawn)
    ensemble = run.sample(**work) if drawn is None else drawn.isel(restart=slice(0, run.restarts))
    first = _Stage.of(ensemble, accept)
    failed = np.flatnonzero(~first.accepted.any(1))
    plain = second = first.take(failed[:0])
    written, right = np.full(len(run.inputs), np.nan), np.full(len(run.inputs), np.nan)
    if len(failed):
        plain = _Stage.of(_plain(run, failed, drawn, work), accept)
        given = np.repeat(run.inputs[failed].numpy(), run.restarts, 0)
        filled = committed_inputs(
            given, _logits(run, ensemble, failed), clues, share, seed=run.seed if cells == "random" else None
        )
        second = _committed_stage(run, filled, failed, accept, work)
        new = (filled != given).reshape(len(failed), run.restarts, -1)
        written[failed] = new.sum(2).mean(1)
        if run.judge.labels is not None:
            agree = new & (filled.reshape(new.shape) == wanted(run.judge.labels[failed])[:, None])
            with np.errstate(invalid="ignore"):
                right[failed] = agree.sum((1, 2)) / new.sum((1, 2))
    attributes = {
        **schema.carried(ensemble), "title": "eqrlab: commit and restart", "share": share, "accept": accept,
        "cells": cells, "restarts": run.restarts, "confidence": draw["confidence"],
        "bootstrap": f"{draw['resamples']} resamples of puzzles",
    }  # fmt: skip
    variables = _answers(run, (first, second, plain), failed) | {
        "written": (("puzzle",), written, "mean number of clues a run wrote"),
        "written_right": (("puzzle",), right, "share of the clues written that agree with the labels"),
    }
    return schema.dataset(variables | _totals(variables, draw), attributes)


def _checked(run: Run, share: float, accept: str | None, cells: str) -> str:
    """Refuse runs that cannot be committed; return the condition on which a run is accepted."""
    head = getattr(run.system, "halt_logit", None) is not None
    accept = accept or ("halt" if head else "settled")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    for name, given, known in (("accept", accept, ACCEPTS), ("cells", cells, CELLS)):
        if given not in known:
            raise ValueError(f"{name} {given!r} unknown; choose from {', '.join(known)}")
    if getattr(run.system, "logits", None) is None:
        raise ValueError("commit needs a system with a method logits(z, x), to know what a run is sure of")
    if accept == "halt" and not head:
        raise ValueError("accept 'halt' needs a halting head, this system has none; choose accept='settled'")
    if isinstance(run.initial, Tensor):
        raise ValueError("commit draws fresh restarts: initial must be a law, not given starts")
    require_judged("commit", run.judge.labels, run.judge.oracle)
    return accept


def _plain(run: Run, failed: np.ndarray, drawn: xr.Dataset | None, work: WorkOptions) -> xr.Dataset:
    """Return the same number of further restarts of the puzzles in which none was accepted."""
    if drawn is not None:
        return drawn.isel(puzzle=failed, restart=slice(run.restarts, 2 * run.restarts))
    again = run.puzzles(failed).with_(keep=("summary",), first_restart=run.first_restart + run.restarts)
    return again.sample(**work)


def committed_inputs(
    inputs: np.ndarray, logits: Tensor, clues: Clues, share: float, seed: int | None = None
) -> np.ndarray:
    """Return puzzles (n, L) with each row's surest cells written in.

    Parameters
    ----------
    inputs
        (n, L) tokens.
    logits
        (n, L, V) of the row's answer.
    clues
        See `commit`.
    share
        Of the open cells, rounded, at least one; cells in which the row's token is not a legal clue are left.
    seed
        Fill cells at random instead of the surest.

    Raises
    ------
    ValueError
        Where the clues and the logits do not fit the puzzles.

    Examples
    --------
    >>> logits = torch.tensor([[[0.0, 0.0, 3.0], [0.0, 0.0, 1.0], [0.0, 9.0, 0.0]]])
    >>> both = lambda inputs: np.broadcast_to((inputs == 0)[:, :, None], (*inputs.shape, 3))
    >>> committed_inputs(np.array([[0, 0, 1]]), logits, both, 0.5).tolist()
    [[2, 0, 1]]
    """
    chance, token = (part.cpu().numpy() for part in torch.softmax(logits.float(), -1).max(-1))
    legal = np.asarray(clues(inputs), bool)
    if legal.shape[:2] != inputs.shape or token.shape != inputs.shape or legal.shape[2] < logits.shape[2]:
        raise ValueError(
            f"clues must be (n, L, V) for puzzles (n, L) and logits (n, L, V), got {legal.shape} for {inputs.shape} "
            f"and {tuple(logits.shape)}"
        )
    fits = np.take_along_axis(legal, token[:, :, None], 2)[:, :, 0]
    if seed is not None:
        chance = np.random.default_rng(nonnegative(seed)).random(chance.shape)
    order = np.argsort(np.where(fits, -chance, np.inf), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    count = np.maximum(np.round(share * legal.any(2).sum(1)), 1)
    return np.where(fits & (rank < count[:, None]), token, inputs)


def _require_drawn(run: Run, drawn: xr.Dataset) -> None:
    """Refuse an ensemble that does not hold both stages of a run."""
    if drawn.sizes["restart"] < 2 * run.restarts or "final_state" not in drawn:
        raise ValueError(
            f"drawn must hold {2 * run.restarts} restarts or more and their final states, "
            f"got {drawn.sizes['restart']}{'' if 'final_state' in drawn else ' without final states'}"
        )
    if not np.array_equal(drawn.inputs.values, run.inputs.numpy()):
        raise ValueError("drawn must be an ensemble of the puzzles of the run")


@dataclass(frozen=True)
class _Stage:
    """Runs (puzzle, restart) of one stage: accepted, score, entropy where scores are equal, right, answer (token)."""

    accepted: np.ndarray
    score: np.ndarray
    entropy: np.ndarray
    right: np.ndarray
    answer: np.ndarray

    @classmethod
    def of(cls, ensemble: xr.Dataset, accept: str) -> _Stage:
        """Return the quantities of an ensemble that the policy uses."""
        last = "halt_logit" if "halt_logit" in ensemble else "answer_entropy"
        score = ensemble[last].values[:, :, -1].astype(float)
        score = -score if last == "halt_logit" else score
        accepted = -score > HALT if accept == "halt" else ensemble.fate.values == CODE["settled"]
        right = ensemble.correct.values[:, :, -1] if "correct" in ensemble else np.zeros(score.shape, bool)
        known = np.where(np.isnan(score), np.inf, score)
        return cls(accepted, known, ensemble.answer_entropy.values[:, :, -1], right, ensemble.answer.values)

    def take(self, puzzles: np.ndarray) -> _Stage:
        """Return the runs of some puzzles."""
        return _Stage(*(getattr(self, f.name)[puzzles] for f in fields(self)))

    def joined(self, other: _Stage) -> _Stage:
        """Return the runs of both stages of the same puzzles."""
        return _Stage(
            *(np.concatenate([getattr(s, f.name) for s in (self, other)], axis=1) for f in fields(self))
        )

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return whether the best run is right (puzzle,), and its answer (puzzle, token)."""
        best = np.lexsort((self.entropy, self.score), axis=1)[:, 0]
        rows = np.arange(len(best))
        return self.right[rows, best], self.answer[rows, best]


@torch.no_grad()
def _logits(run: Run, ensemble: xr.Dataset, puzzles: np.ndarray) -> Tensor:
    """Return the logits (n, S, V) at the last states of all runs of some puzzles, row after row."""
    states = torch.as_tensor(ensemble.final_state.values[puzzles])
    parts = []
    for i, puzzle in enumerate(puzzles):
        z = states[i].to(run.place.device)
        x = run.context(np.full(len(z), puzzle))
        parts.append(run.system.logits(z, x).cpu())  # type: ignore[attr-defined]
    return torch.cat(parts)


def _committed_stage(
    run: Run, filled: np.ndarray, failed: np.ndarray, accept: str, work: WorkOptions
) -> _Stage:
    """Run each filled puzzle (n * restarts, L) once, and judge it by the puzzle as it was given."""
    alone = run.puzzles(np.repeat(failed, run.restarts)).with_(
        inputs=torch.as_tensor(filled), judge=Judge(), restarts=1, keep=("summary",),
        first_restart=run.first_restart + run.restarts,
    )  # fmt: skip
    stage = _Stage.of(alone.sample(**work), accept)
    shape = (len(failed), run.restarts)
    rows = np.repeat(failed, run.restarts)
    right, _ = run.judge.of(rows)(run.inputs.numpy()[rows], stage.answer[:, 0])
    return _Stage(
        stage.accepted.reshape(shape), stage.score.reshape(shape), stage.entropy.reshape(shape),
        right.reshape(shape), stage.answer.reshape(*shape, -1),
    )  # fmt: skip


def _answers(
    run: Run, stages: tuple[_Stage, _Stage, _Stage], failed: np.ndarray
) -> dict[str, schema.Variable]:
    """Return the answers of each puzzle: of the first stage, and with the committed and the plain second one."""
    first, second, plain = stages
    once, answer = first.chosen()
    correct, restarts, some = once.copy(), once.copy(), np.asarray(first.right.any(1))
    if len(failed):
        before = first.take(failed)
        correct[failed], answer[failed] = before.joined(second).chosen()
        restarts[failed], _ = before.joined(plain).chosen()
        some[failed] |= plain.right.any(1)
    committed = np.zeros(len(once), bool)
    committed[failed] = True
    each = ("puzzle",)
    return {
        "committed": (each, committed, "no run of the first stage was accepted"),
        "answer": (("puzzle", "token"), answer.astype(np.int32), "answer chosen"),
        "correct": (each, correct, "the answer is right"),
        "correct_first": (each, once, "the answer of the first stage alone is right"),
        "correct_restarts": (each, restarts, "the answer is right with plain restarts in the second stage"),
        "any_correct_restarts": (each, some, "some run is right, with plain restarts"),
        "nfe": (each, run.restarts * run.depth * (1 + committed), "outer steps of all runs of the puzzle"),
    }


def _totals(found: dict[str, schema.Variable], draw: dict[str, Any]) -> dict[str, schema.Variable]:
    """Return accuracies, gain and rescued puzzles, with bounds from resampling puzzles."""
    right = {name: np.asarray(found[name][1]) for name in found}
    variables: dict[str, schema.Variable] = {}
    for end in ("", "_first", "_restarts"):
        share = Interval(*share_over_puzzles(right[f"correct{end}"].astype(float), **draw)).each(np.float64)
        variables |= share.variables(f"accuracy{end}", (), "share of puzzles answered right")
    difference = right["correct"].astype(float) - right["correct_restarts"]
    gain = Interval(*share_over_puzzles(difference, least=-1.0, **draw))
    variables |= gain.each(np.float64).variables("gain", (), "accuracy above that with plain restarts")
    lost = ~right["any_correct_restarts"]
    rescued = (
        share_over_puzzles(right["correct"][lost].astype(float), **draw) if lost.any() else (np.nan,) * 3
    )
    text = "share answered right of the puzzles that all plain restarts get wrong"
    return variables | Interval(*rescued).each(np.float64).variables("rescued", (), text)
