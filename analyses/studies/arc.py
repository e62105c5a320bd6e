"""What users of ARC models ask: pass rates by the official vote, and whether all disguises of a test agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.analyses.studies.shares import clustered
from eqrlab.attractors.answers.outcomes import share_of_runs
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import RESAMPLES, share_over_puzzles
from eqrlab.attractors.statistics.intervals import proportion_interval, stated_level
from eqrlab.core.labels import counts
from eqrlab.datasets import PuzzleSet, arc
from eqrlab.datasets.arc.files import known_tests
from eqrlab.datasets.arc.vote import undone

PASS = (1, 2, 5, 10, 100, 1000)
Voted = tuple[list[arc.Case], list[list[arc.Candidate]]]


def shown_names(puzzles: PuzzleSet) -> tuple[str, ...]:
    """Return under which name each ARC puzzle is shown, (P,): that of its identifier, or its task; () unknown."""
    if puzzles.task != "arc":
        return ()
    return puzzles.columns.get("disguise", ()) or puzzles.disguises or puzzles.columns.get("task", ())


def with_names(ensemble: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return an ensemble that says under which name each of its ARC puzzles was shown."""
    text = "name of the ARC task, or of the disguise, in which it was shown"
    return ensemble.assign(shown_as=("puzzle", np.array(names, object), {"long_name": text}))


def voted(ensemble: xr.Dataset, puzzles: PuzzleSet) -> Voted:
    """Return the tests that puzzles show, and the ranked answers to each after the last step, all runs voting.

    Raises
    ------
    ValueError
        For puzzles of another task, or whose names are not known; see `arc.cases_of`.
    """
    names = shown_names(puzzles)
    if not names:
        raise ValueError(
            f"{puzzles.source}: no ARC puzzles whose tasks are known, there is nothing to vote on"
        )
    cases = arc.cases_of(puzzles.inputs, puzzles.labels, names, known_tests(puzzles))
    answers = ensemble.answer.values
    halt = np.full(answers.shape[:2], 0.5)  # without a halting head the order of arrival decides
    if "vote_logit" in ensemble or "halt_logit" in ensemble:
        logit = ensemble["vote_logit"] if "vote_logit" in ensemble else ensemble["halt_logit"][:, :, -1]
        halt = 1 / (1 + np.exp(-logit.values.astype(np.float64)))
    return cases, [arc.vote(case, answers, halt, names) for case in cases]


def pass_rates(cases: Sequence[arc.Case], ranked: Sequence[Sequence[arc.Candidate]]) -> dict[str, Any]:
    """Return pass@K with 95 % intervals whose units are tasks, and the same where all tests of a task must be right."""

    def rates(all_tests: bool) -> dict[str, Any]:
        found = {k: arc.pass_at(cases, ranked, k, all_tests=all_tests) for k in PASS}
        return {
            f"pass@{k}": clustered(np.array(list(each.values()))[:, None], 1) for k, each in found.items()
        }

    return {
        **rates(False), "all_tests": rates(True), "tasks": len({case.task for case in cases}), "tests": len(cases),
        "tests_without_puzzle": sum(not len(case.rows) for case in cases),
    }  # fmt: skip


def vote_results(ensemble: xr.Dataset, puzzles: PuzzleSet) -> dict[str, Any]:
    """Return what is asked of ARC models: `cell` and pass rates where all answers are known, and the `submission`.

    `cell` is the share of right ones among all graded cells of all puzzles, large grids counting for more; its interval
    is a bootstrap over puzzles.  See also `pass_rates` and `arc.submission`.
    """
    cases, ranked = voted(ensemble, puzzles)
    found: dict[str, Any] = {}
    if all(case.target is not None for case in cases) and puzzles.labels is not None:
        graded = counts(puzzles.labels).sum(axis=1)
        right = ensemble.token_accuracy.values[:, :, -1].mean(axis=1) * graded
        value, low, high = map(float, share_of_runs(right, graded))
        single = len(graded) < 2  # which has no bounds: all there is
        cell = {"value": value, "low": 0.0 if single else low, "high": 1.0 if single else high}
        found = {"cell": cell, **pass_rates(cases, ranked)}
    return {**found, "submission": arc.submission(cases, ranked)}


def disguises(
    ensemble: xr.Dataset,
    puzzles: PuzzleSet,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Ask of each test whether every disguise of it is answered alike, beside whether the restarts of one are.

    Parameters
    ----------
    ensemble
        Runs of the puzzles.
    puzzles
        Of ARC, several of them disguises of one test.
    confidence, resamples, seed
        Of the intervals.

    Returns
    -------
    xarray.Dataset
        Over case, the tests shown in at least one disguise: `disguises`, their number; `mass_disguises`, the share of
        them whose most frequent answer, undone, is that of the test; `mass_restarts`, the share of restarts that give
        the most frequent answer of their own disguise, mean over disguises; `mass_right`, the share of disguises whose
        most frequent answer is right (NaN where that is not known); `answers`, different answers of disguises;
        `attracted`, the share of runs that ended at an attractor; the first three with `_low` and `_high`.

    Raises
    ------
    ValueError
        See `voted`.

    Notes
    -----
    An answer stands for its attractor: runs of one puzzle with one answer at rest have one attractor as a rule, and
    states of two disguises cannot be compared, answers undone can.  The answer of a test is that of most disguises;
    between equal numbers that of more runs.  Units are disguises: `mass_disguises` and `mass_right` have mid-p
    intervals, `mass_restarts` a bootstrap over disguises; there is none with one disguise (NaN).  The most frequent of
    few answers is chosen after seeing them: with few disguises its mass is biased upwards.
    """
    cases, _ = voted(ensemble, puzzles)
    cases = [case for case in cases if len(case.rows)]
    names, answers = shown_names(puzzles), ensemble.answer.values
    ended = np.isin(
        ensemble.fate.values, [schema.FATES.index(f) for f in ("settled", "periodic", "recurrent")]
    )
    shape = (3, len(cases))
    among, within, right = (np.full(shape, np.nan) for _ in range(3))
    counts = {name: np.zeros(len(cases), np.int32) for name in ("disguises", "answers")}
    attracted = np.zeros(len(cases))
    for c, case in enumerate(cases):
        codes = _codes(answers[case.rows], [names[row] for row in case.rows])
        own, share = _favourites(codes)
        votes = np.bincount(own)
        runs = np.bincount(codes.ravel(), minlength=len(votes))
        best = int(np.lexsort((-runs[: len(votes)], -votes))[0])
        n = len(own)
        among[:, c] = votes[best] / n, *proportion_interval(np.array(votes[best]), n, confidence)
        within[:, c] = share_over_puzzles(share, confidence=confidence, resamples=resamples, seed=seed)
        if case.target is not None:
            hit = _right(answers[case.rows], [names[row] for row in case.rows], own, codes, case.target)
            right[:, c] = hit / n, *proportion_interval(np.array(hit), n, confidence)
        counts["disguises"][c], counts["answers"][c] = n, (votes > 0).sum()
        attracted[c] = ended[case.rows].mean()
    each = ("case",)
    percent = f"{stated_level(confidence)} interval"
    variables: dict[str, schema.Variable] = {
        "disguises": (each, counts["disguises"], "disguises of the test that were run"),
        **Interval(*among).variables(
            "mass_disguises", each, "share of disguises with the answer of the test", percent
        ),
        **Interval(*within).variables(
            "mass_restarts", each, "share of restarts with the answer of their disguise", percent
        ),
        **Interval(*right).variables("mass_right", each, "share of disguises whose answer is right", percent),
        "answers": (each, counts["answers"], "different answers of disguises, undone"),
        "attracted": (each, attracted, "share of runs that ended at an attractor"),
        "test": (each, np.array([case.number for case in cases], np.int32), "number of the test in its task"),
    }
    attributes = {**schema.carried(ensemble), "confidence": confidence}
    labels = np.array([f"{case.task}:{case.number}" for case in cases])
    return schema.dataset(variables, attributes, {"case": labels})


def _codes(answers: np.ndarray, names: list[str]) -> np.ndarray:
    """Number the undone answers (disguise, restart) of a test."""
    grids = undone(answers.reshape(-1, answers.shape[-1]), np.repeat(names, answers.shape[1]).tolist())
    seen: dict[Any, int] = {}
    codes = [seen.setdefault((grid.shape, grid.tobytes()), len(seen)) for grid in grids]
    return np.array(codes).reshape(answers.shape[:2])


def _favourites(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most frequent answer of each disguise and the share of its restarts that give it."""
    counts = np.stack([np.bincount(row, minlength=codes.max() + 1) for row in codes])
    return counts.argmax(axis=1), counts.max(axis=1) / codes.shape[1]


def _right(
    answers: np.ndarray, names: list[str], own: np.ndarray, codes: np.ndarray, target: np.ndarray
) -> int:
    """Return how many disguises have the right answer as their most frequent one."""
    hits = 0
    for row, name in enumerate(names):
        restart = int((codes[row] == own[row]).argmax())
        hits += np.array_equal(undone(answers[row, restart][None], [name])[0], target)
    return hits
