"""Basins of attraction: the attractors of each puzzle and their probability under the restart law."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eqrlab.attractors import schema
from eqrlab.attractors.identify import identify
from eqrlab.attractors.statistics import proportion_interval, unseen_mass


def basins(ensemble: xr.Dataset, *, confidence: float = 0.95, method: str = "wilson") -> xr.Dataset:
    """Find the attractors of each puzzle and estimate the mass of their basins.

    Parameters
    ----------
    ensemble
        From `sample`.
    confidence, method
        Of the intervals; see `statistics.proportion_interval`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, attractor), the largest first, NaN beyond a puzzle's last: `mass`, `mass_low`, `mass_high`,
        `count`, `correct`, `fate`, `period`, `residual` (median, relative), `settling_step` (median), `answer`
        (token).  Over puzzle: `attractors` (how many), `mass_none` with bounds (runs that reached none; all masses sum
        to 1), `correct_mass`, `spurious_mass` with bounds, `unseen_mass`, `unseen_mass_high`, `ambiguous`.
        `attractor_id(puzzle, restart)`, -1: none.

    Notes
    -----
    A mass is the probability of reaching the attractor under the restart law, not a volume.  Each interval is for one
    mass alone.  Runs that are unfinished count as none: buy depth before reading such masses as final.
    """
    found = identify(ensemble)
    labels = np.stack([c.label for c in found])
    puzzles, restarts = labels.shape
    most = max(1, int(labels.max()) + 1)
    count = np.stack([np.bincount(row[row >= 0], minlength=most) for row in labels])
    numbers = count.sum(1)
    present = count > 0
    last_correct = (
        ensemble.correct.values[:, :, -1] if "correct" in ensemble else np.zeros((puzzles, restarts), bool)
    )
    relative = ensemble.relative_residual.values[:, :, -1]
    shape = (puzzles, most)
    correct, fate = np.zeros(shape, bool), np.full(shape, -1, np.int8)
    period, residual, settling = np.zeros(shape, np.int32), np.full(shape, np.nan), np.full(shape, np.nan)
    answer = np.full((*shape, ensemble.sizes["token"]), -1, np.int32)
    for p, a in zip(*np.nonzero(present), strict=True):
        rows = np.flatnonzero(labels[p] == a)
        fates, times = np.unique(ensemble.fate.values[p, rows], return_counts=True)
        fate[p, a] = fates[times.argmax()]
        same = rows[ensemble.fate.values[p, rows] == fate[p, a]]
        period[p, a] = np.median(ensemble.period.values[p, same])
        residual[p, a] = np.median(relative[p, rows])
        steps = ensemble.settling_step.values[p, rows]
        settling[p, a] = np.median(steps[steps > 0]) if (steps > 0).any() else np.nan
        codes, often = np.unique(ensemble.answer_id.values[p, rows, -1], return_counts=True)
        member = rows[ensemble.answer_id.values[p, rows, -1] == codes[often.argmax()]][0]
        answer[p, a] = ensemble.answer.values[p, member]
        correct[p, a] = last_correct[p, member]
    low, high = proportion_interval(count, restarts, confidence, method)
    right = np.where(correct, count, 0).sum(1)
    wrong = numbers - right
    unseen, unseen_high = unseen_mass((count == 1).sum(1), (count == 2).sum(1), restarts, confidence)
    pair, each = ("puzzle", "attractor"), ("puzzle",)

    def masked(values: np.ndarray) -> np.ndarray:
        return np.where(present, values, np.nan)

    variables: dict[str, schema.Variable] = {
        "mass": (pair, masked(count / restarts), "share of restarts that reach the attractor"),
        "mass_low": (pair, masked(low), f"lower bound of the mass, {confidence:.0%} interval"),
        "mass_high": (pair, masked(high), f"upper bound of the mass, {confidence:.0%} interval"),
        "count": (pair, count.astype(np.int32), "restarts that reach the attractor"),
        "correct": (pair, correct, "the attractor decodes to a right answer"),
        "fate": (pair, fate, "kind of attractor, -1 where there is none"),
        "period": (pair, period, "period in outer steps, 1 for fixed points"),
        "residual": (pair, residual, "median final relative residual"),
        "settling_step": (pair, settling, "median step since which runs count as settled"),
        "answer": ((*pair, "token"), answer, "answer the attractor decodes to, -1 where there is none"),
        "attractor_id": (("puzzle", "restart"), labels.astype(np.int32), "attractor a run ended at, -1 none"),
        "attractors": (each, present.sum(1).astype(np.int32), "number of attractors found"),
        "unseen_mass": (each, unseen, "Good-Turing estimate of the mass of attractors not found"),
        "unseen_mass_high": (each, unseen_high, f"upper {confidence:.0%} bound of that mass"),
        "ambiguous": (
            each,
            np.array([c.ambiguous for c in found], np.int32),
            "runs near the edge of a merge",
        ),
    }
    for name, value, text in (
        ("mass_none", restarts - numbers, "share of restarts that reach no attractor"),
        ("correct_mass", right, "share of restarts at correct attractors"),
        ("spurious_mass", wrong, "share of restarts at attractors that decode to a wrong answer"),
    ):
        bounds = proportion_interval(value, restarts, confidence, method)
        variables[name] = (each, value / restarts, text)
        variables[f"{name}_low"] = (each, bounds[0], f"lower bound: {text}")
        variables[f"{name}_high"] = (each, bounds[1], f"upper bound: {text}")
    attributes = {**schema.carried(ensemble), "confidence": confidence, "interval_method": method}
    result = schema.dataset(variables, attributes, {"puzzle": ensemble.puzzle.values}, {"fate": schema.FATES})
    return result
