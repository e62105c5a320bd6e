"""Basins of attraction: the attractors of each puzzle and their probability under the restart law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.attractors.ensemble.runs import Runs, runs_of
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.landscape.identify import Clusters, identify, in_order
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import interval_of
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval, stated_level, unseen_mass

NOT_DRAWN = -2  # attractor_id of a restart that a puzzle did not need


def basins(ensemble: xr.Dataset, *, confidence: float = 0.95, method: str | None = None) -> xr.Dataset:
    """Find the attractors of each puzzle and estimate the mass of their basins.

    Parameters
    ----------
    ensemble
        From `sample`; with `final_state` kept, borderline pairs of large states are compared in full.
    confidence, method
        Of the intervals; see `intervals.proportion_interval`.  None: mid-p; for an ensemble sampled in waves
        "sequence", which is valid for any stopping rule.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, attractor), the largest first, NaN beyond a puzzle's last: `mass`, `mass_low`, `mass_high`,
        `count`, `count_low`, `count_high`, `correct`, `fate`, `period`, `residual` (median, relative),
        `settling_step` (median), `answer` (token), and two labels: `dynamical` (equal where states agree within their
        errors, whatever the answers) and `semantic` (equal where answers agree), and `changing` (the answer does not
        stay the same on a recurrent set, or is right in a part of a cycle only).  Over puzzle: `attractors` (how many),
        `mass_none` with bounds (runs that reached none; all masses sum to 1), `correct_mass`, `spurious_mass`,
        `changing_mass` (at attractors whose answer changes so: neither) with bounds, `unseen_mass`, `unseen_mass_high`,
        `ambiguous`, `restarts_used`.
        `attractor_id(puzzle, restart)`, -1: none, -2: not drawn.

    Raises
    ------
    ValueError
        For an unknown method or a confidence outside (0, 1).

    Notes
    -----
    A mass is the probability of reaching the attractor under the restart law, not a volume.  Each interval is
    for one mass alone; `method="simultaneous"` covers all masses of a puzzle at once.  If it is in doubt which
    runs belong to an attractor, the interval reaches from the lower bound of `count_low` (runs that certainly
    belong) to the upper bound of `count_high` (runs that possibly belong).  A run whose states show that it
    keeps coming back to a bounded set is at an attractor of fate recurrent, chaotic or quasi-periodic;
    exponents decide which (`lyapunov`).  This takes 128 steps or more.  Unfinished runs count as ending at no
    attractor: raise the depth before reading masses as final.
    """
    method = method or interval_of(ensemble)
    runs = runs_of(ensemble)
    attributes = {**schema.carried(ensemble), "confidence": confidence, "interval_method": method}
    variables = tabulate(runs, [identify(r) for r in runs], confidence, method)
    coordinates = {"puzzle": ensemble.puzzle.values, "restart": ensemble.restart.values}
    return schema.dataset(variables, attributes, coordinates, {"fate": schema.FATES})


def tabulate(
    runs: Sequence[Runs], found: Sequence[Clusters], confidence: float, method: str
) -> dict[str, schema.Variable]:
    """Return the variables of `basins` for puzzles whose numbers of runs may differ."""
    pair, each = ("puzzle", "attractor"), ("puzzle",)
    puzzles, most = len(runs), max(1, *(len(c.fewest) for c in found))
    total = np.array([len(r) for r in runs])
    labels = np.full((puzzles, total.max()), NOT_DRAWN, np.int32)
    transient = np.zeros(labels.shape, bool)
    columns = _columns((puzzles, most), runs[0].answer.shape[1])
    for p, (one, clusters) in enumerate(zip(runs, found, strict=True)):
        labels[p, : len(one)] = clusters.label
        transient[p, : len(one)] = clusters.transient
        number = len(clusters.fewest)
        for name, values in _facts(one, clusters).items():
            columns[name][p, :number] = values
    count, present = columns["count"], columns["count"] > 0
    # Where it is in doubt which attractor some runs reached, the bounds are those of the fewest and of the most
    # runs that it may have.
    low = proportion_interval(columns["count_low"], total[:, None], confidence, method)[0]
    high = proportion_interval(columns["count_high"], total[:, None], confidence, method)[1]
    single, double = (count == 1).sum(1), (count == 2).sum(1)
    unseen, unseen_high = unseen_mass(single, double, total, confidence)
    # Runs that may be attractors of their own count as seen once for the upper bound, which must not be too small.
    alone = np.array([c.alone.sum() for c in found])
    unseen_high = np.maximum(
        unseen_high, unseen_mass(np.minimum(single + alone, total), double, total, confidence)[1]
    )

    def masked(values: np.ndarray) -> np.ndarray:
        return np.where(present, values, np.nan)

    variables: dict[str, schema.Variable] = {
        **Interval(count / total[:, None], low, high)
        .each(masked)
        .variables(
            "mass",
            pair,
            "share of restarts that reach the attractor",
            f"the mass, {stated_level(confidence)} interval",
        ),
        **{name: (pair, columns[name], text) for name, text in _TEXTS.items()},
        "answer": (
            (*pair, "token"),
            columns["answer"],
            "answer the attractor decodes to, -1 where there is none",
        ),
        "attractor_id": (
            ("puzzle", "restart"),
            labels,
            "attractor a run ended at, -1 none, -2 restart not drawn",
        ),
        "transient": (
            ("puzzle", "restart"),
            transient,
            "on a recurrent set that other runs were seen to leave: at no attractor as far as one can tell",
        ),
        "attractors": (each, present.sum(1).astype(np.int32), "number of attractors found"),
        "unseen_mass": (each, unseen, "Good-Turing estimate of the mass of attractors not found"),
        "unseen_mass_high": (each, unseen_high, f"upper {stated_level(confidence)} bound of that mass"),
        "ambiguous": (
            each,
            np.array([c.ambiguous for c in found], np.int32),
            "runs whose attractor is in doubt",
        ),
        "restarts_used": (each, total.astype(np.int32), "restarts drawn"),
    }
    for name, (value, text) in sums(columns, total).items():
        bounds = proportion_interval(value, total, confidence, method)
        variables |= Interval(value / total, *bounds).variables(name, each, text)
    return variables


def sums(columns: Mapping[str, np.ndarray], total: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Return the counts (puzzle,) reported besides those of attractors, and their descriptions."""
    numbers = columns["count"].sum(1)
    right, changing = (
        np.where(columns[name], columns["count"], 0).sum(1) for name in ("correct", "changing")
    )
    return {
        "mass_none": (total - numbers, "share of restarts that reach no attractor"),
        "correct_mass": (right, "share of restarts at correct attractors"),
        "spurious_mass": (
            numbers - right - changing,
            "share of restarts at attractors that decode to a wrong answer",
        ),
        "changing_mass": (
            changing,
            "share of restarts at attractors whose answer changes: neither correct nor spurious",
        ),
    }


_TEXTS = {
    "count": "restarts that reach the attractor",
    "count_low": "restarts that surely reach the attractor, if doubtful merges are undone",
    "count_high": "restarts that may reach the attractor, if doubtful merges are made",
    "correct": "the attractor decodes to a right answer",
    "changing": "the answer changes on this set, or is right in a part of this cycle only: neither right nor wrong",
    "fate": "kind of attractor, -1 where there is none",
    "period": "period in outer steps, 1 for fixed points",
    "residual": "median final relative residual",
    "settling_step": "median step since which runs count as settled",
    "dynamical": "attractors with equal numbers agree in state within errors, -1 where there is none",
    "semantic": "attractors with equal numbers agree in answer, -1 where there is none",
}


def _columns(shape: tuple[int, int], tokens: int) -> dict[str, np.ndarray]:
    """Return empty columns (puzzle, attractor)."""
    return {
        **{name: np.zeros(shape, np.int32) for name in ("count", "count_low", "count_high", "period")},
        **{name: np.full(shape, -1, np.int32) for name in ("dynamical", "semantic")},
        **{name: np.full(shape, np.nan) for name in ("residual", "settling_step")},
        "correct": np.zeros(shape, bool),
        "changing": np.zeros(shape, bool),
        "fate": np.full(shape, -1, np.int8),
        "answer": np.full((*shape, tokens), -1, np.int32),
    }


def _facts(runs: Runs, clusters: Clusters) -> dict[str, np.ndarray]:
    """Return the properties of the attractors of one puzzle, (A,) or (A, L)."""
    number = len(clusters.fewest)
    facts: dict[str, Any] = _columns((1, number), runs.answer.shape[1])
    facts = {name: values[0] for name, values in facts.items()}
    code = np.zeros(number, np.uint64)
    for a in range(number):
        rows = np.flatnonzero(clusters.label == a)
        facts["count"][a] = len(rows)
        common_fate = _most_common(runs.fate[rows])
        facts["fate"][a] = CODE["recurrent"] if clusters.recurrent[a] else common_fate
        facts["period"][a] = np.median(runs.period[rows][runs.fate[rows] == common_fate])
        facts["residual"][a] = np.median(runs.residual[rows])
        steps = runs.settling_step[rows]
        facts["settling_step"][a] = np.median(steps[steps > 0]) if (steps > 0).any() else np.nan
        answers, which = np.unique(runs.answer[rows], axis=0, return_inverse=True)
        which = _least_alike(which.reshape(-1), runs.code[rows])
        common = _most_common(which)
        facts["answer"][a] = answers[common]
        chosen = rows[which == common]
        code[a] = runs.code[chosen[0]]
        facts["correct"][a] = runs.correct[chosen].all() & ~clusters.changing[a]
    facts |= {"count_low": clusters.fewest, "count_high": clusters.most, "dynamical": clusters.dynamical}
    facts["changing"] = clusters.changing
    if number:
        facts["semantic"] = in_order(code).astype(np.int32)
    return facts


def _least_alike(number: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Return numbers (n,) of answers in which equal meanings have the same number, the smallest."""
    _, group = np.unique(code, return_inverse=True)
    least = np.full(group.max(initial=-1) + 1, len(number))
    np.minimum.at(least, group, number)
    return least[group]


def _most_common(values: np.ndarray) -> Any:
    """Return the most frequent value, the smallest of several."""
    found, often = np.unique(values, return_counts=True)
    return found[often.argmax()]
