"""The ladder in numbers: means over seeds, intervals that respect seeds and puzzles, steps from rung to rung."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.analyses.studies.ladder.climb import Groups
from eqrlab.analyses.studies.ladder.rungs import REFERENCE_DEPTH, Ladder, rung_before
from eqrlab.analyses.text.describe import blocks_per_step
from eqrlab.attractors.answers.scaling import path_independence_gap
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import mean_where_defined
from eqrlab.attractors.statistics.intervals import stated_level
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.attractors.statistics.seeds import Statistic, mean_over_seeds

STARTS = ("training_law", "outside_training_law", "start_has_no_effect")
ACCURACY = "accuracy at the training depth"
GAP = "path-independence gap"
CORRECT = "correct mass"
POOLED = {
    "residual AUC, pooled": "residual",
    "entropy AUC, pooled": "answer_entropy",
}  # quantity to its score
WITHIN = "residual AUC within puzzle"
# Right answers where one of all restarts is chosen, and how much better the answer entropy chooses.
SELECTED = {"chosen by residual": "top1_converged", "chosen by entropy": "answer_entropy"}
ADVANTAGE = "entropy minus residual"

# Weights of the four models of a 2 x 2 design: main effects are means of two differences, the interaction is the
# difference of these two.
EFFECTS = {
    "random starts": {"act": -0.5, "ri": 0.5, "noise": -0.5, "ni": 0.5},
    "noise and damping": {"act": -0.5, "noise": 0.5, "ri": -0.5, "ni": 0.5},
    "interaction": {"act": 1.0, "noise": -1.0, "ri": -1.0, "ni": 1.0},
}


def run_quantities(groups: Groups, depth: int) -> dict[str, np.ndarray]:
    """Return what is measured of one run, quantity to its value for each puzzle, NaN where undefined.

    The accuracies are over the whole test set, the others over the puzzles of the landscape.
    """
    ensemble, basins, alignment, modes = (groups[g] for g in ("ensemble", "basins", "alignment", "modes"))
    solved, steps = groups["own_start"].correct.values, int(groups["own_start"].attrs["training_depth"])
    right = ensemble.correct.values[:, :, -1]
    probability = modes.mode_probability.values
    chosen = alignment.accuracy_puzzle.isel(depth=-1)
    selected = {q: chosen.sel(selector=name).values for q, name in SELECTED.items()}
    by_residual, by_entropy = selected.values()
    return {
        ACCURACY: solved[:, steps - 1].astype(float),
        f"accuracy at depth {REFERENCE_DEPTH}": solved[:, REFERENCE_DEPTH - 1].astype(float),
        f"accuracy at depth {depth}": solved[:, depth - 1].astype(float),
        "accuracy from the landscape's starts": right.mean(1),
        CORRECT: basins.correct_mass.values,
        "spurious mass": basins.spurious_mass.values,
        GAP: path_independence_gap(right),
        "settled": (ensemble.fate.values == CODE["settled"]).mean(1),
        WITHIN: alignment.auc_puzzle.values[:, -1],
        **{f"mode {m}": probability[:, i] for i, m in enumerate(schema.MODES)},
        **selected,
        ADVANTAGE: by_entropy - by_residual,
    }


def pooled_auc(groups: Groups, score: str) -> PooledAuc:
    """Return the AUC of a final score for a wrong answer, pooled over puzzles, as a function of their weights."""
    ensemble = groups["ensemble"]
    return PooledAuc(ensemble[score].values[:, :, -1].astype(float), ~ensemble.correct.values[:, :, -1])


def summarise(
    ladder: Ladder, results: Mapping[tuple[str, int], Groups], *, confidence: float = 0.95
) -> xr.Dataset:
    """Summarise a ladder.

    Parameters
    ----------
    ladder, results
        From `analyses.studies.ladder.climb.climb`.
    confidence
        Of all intervals.

    Returns
    -------
    xarray.Dataset
        Over (rung, quantity): `mean` over seeds with `low`, `high`; `step`, the difference to the rung before, paired
        by seed and puzzle, with `step_low`, `step_high` (NaN for the first rung); `seed_mean(rung, seed, quantity)`,
        `seed_step`.  Where act, noise, ri and ni were climbed: `effect(ingredient, quantity)` with bounds, see
        EFFECTS.  What they are made of: `solved(rung, seed, test_puzzle, quantity_accuracy)`,
        `measured(rung, seed, puzzle, quantity_landscape)`.  Over rung: `starts` (of the landscape, flags),
        `equivalent_layers`, `parameters`, `training_depth`.  `checkpoint_sha256(rung, seed)`, `inputs(puzzle, token)`.
    """
    rungs, seeds, depth = ladder.rungs, ladder.seeds, ladder.sampling.depth
    table = {run: run_quantities(groups, depth) for run, groups in results.items()}
    # An AUC over all runs is no mean over puzzles: it is computed anew for every resample of them.
    pools = {
        (q, *run): pooled_auc(groups, score) for run, groups in results.items() for q, score in POOLED.items()
    }
    names = list(table[rungs[0], seeds[0]])
    values = {q: np.array([[table[r, s][q] for s in seeds] for r in rungs]) for q in names}
    quantities = [*names[: names.index(WITHIN) + 1], *POOLED, *names[names.index(WITHIN) + 1 :]]

    def contrast(weights: Mapping[str, float], q: str) -> Statistic:
        """Return the weighted sum of a quantity over rungs, paired by seed and puzzle."""
        if q not in POOLED:
            return mean_where_defined(sum(share * values[q][rungs.index(r)] for r, share in weights.items()))
        return lambda weight: np.array(
            [sum(share * pools[q, r, s](weight) for r, share in weights.items()) for s in seeds]
        )

    # Three kinds of numbers: the level of a rung, its step from the rung before, effects in the 2 x 2 design.
    level = np.full((3, len(rungs), len(quantities)), np.nan)  # mean, low, high
    step = level.copy()
    crossed = {"act", "noise", "ri", "ni"} <= {*rungs}
    effect = np.full((3, len(EFFECTS), len(quantities)), np.nan)
    seed_mean, seed_step = (np.full((len(rungs), len(seeds), len(quantities)), np.nan) for _ in range(2))
    for j, q in enumerate(quantities):
        size = values[CORRECT if q in POOLED else q].shape[-1]
        least = -1.0 if q == ADVANTAGE else 0.0
        for i, rung in enumerate(rungs):
            found = mean_over_seeds(
                contrast({rung: 1.0}, q), size, bounds=(least, 1.0), confidence=confidence
            )
            seed_mean[i, :, j], level[:, i, j] = found.seeds, (found.mean, found.low, found.high)
            if (before := rung_before(rung, rungs)) is not None:
                change = contrast({before: -1.0, rung: 1.0}, q)
                found = mean_over_seeds(change, size, bounds=(least - 1, 1 - least), confidence=confidence)
                seed_step[i, :, j], step[:, i, j] = found.seeds, (found.mean, found.low, found.high)
        for i, weights in enumerate(EFFECTS.values() if crossed else ()):
            # An effect is a sum of weighted rungs of numbers from `least` to 1: its bounds follow from the weights.
            most = (1 - least) * sum(abs(share) for share in weights.values()) / 2
            found = mean_over_seeds(contrast(weights, q), size, bounds=(-most, most), confidence=confidence)
            effect[:, i, j] = found.mean, found.low, found.high
    # Values of single seeds and puzzles are kept beside the means, so that others can compute other contrasts.
    accuracies = [q for q in names if q.startswith("accuracy at")]
    landscape = [q for q in names if q not in accuracies]
    first = {r: results[r, seeds[0]] for r in rungs}
    models = {r: ladder.trainer(r, seeds[0]).model for r in rungs}
    pair, triple = ("rung", "quantity"), ("rung", "seed", "quantity")
    variables: dict[str, schema.Variable] = {
        "mean": (pair, level[0], "mean over seeds and puzzles"),
        "low": (
            pair,
            level[1],
            f"lower bound of the mean, {stated_level(confidence)}, over seeds and puzzles",
        ),
        "high": (
            pair,
            level[2],
            f"upper bound of the mean, {stated_level(confidence)}, over seeds and puzzles",
        ),
        **Interval(*step).variables(
            "step",
            pair,
            "difference to the rung before, paired by seed and puzzle",
            f"that difference, {stated_level(confidence)}",
        ),
        "seed_mean": (triple, seed_mean, "mean over puzzles"),
        "seed_step": (triple, seed_step, "difference to the rung before"),
        "solved": (
            ("rung", "seed", "test_puzzle", "quantity_accuracy"),
            np.stack([values[q] for q in accuracies], -1).astype(bool),
            "one restart from the model's own law ends right",
        ),
        "measured": (
            ("rung", "seed", "puzzle", "quantity_landscape"),
            np.stack([values[q] for q in landscape], -1),
            "value of the puzzle",
        ),
        "starts": (
            ("rung",),
            np.array([STARTS.index(first[r]["ensemble"].attrs["starts"]) for r in rungs], np.int8),
            "where the restarts of the landscape are in relation to the rung's training",
        ),
        "equivalent_layers": (
            ("rung",),
            np.array([blocks_per_step(models[r]) for r in rungs]),
            "blocks that one outer step applies",
        ),
        "parameters": (
            ("rung",),
            np.array([sum(p.numel() for p in models[r].parameters()) for r in rungs]),
            "trained numbers",
        ),
        "training_depth": (
            ("rung",),
            np.array([models[r].config.halt_max_steps for r in rungs]),
            "most outer steps in training",
        ),
        "checkpoint_sha256": (
            ("rung", "seed"),
            np.array([[results[r, s]["ensemble"].attrs["checkpoint_sha256"] for s in seeds] for r in rungs]),
            "SHA-256 of the model",
        ),
        "inputs": (("puzzle", "token"), first[rungs[0]]["ensemble"].inputs.values, "puzzle of the landscape"),
    }
    if crossed:
        variables |= Interval(*effect).variables(
            "effect",
            ("ingredient", "quantity"),
            "effect of an ingredient in a 2 x 2 design, paired by seed and puzzle",
            f"that effect, {stated_level(confidence)}",
        )
    one = schema.carried(first[rungs[0]]["ensemble"])
    taken = ("Conventions", "schema_version", "source", "created", "family", "task", "seed", "restarts", "depth",
             "dtype", "oracle")  # fmt: skip
    attributes = {
        **{k: one[k] for k in taken},
        "config": {rung: json.loads(first[rung]["ensemble"].attrs["config"]) for rung in rungs},
        "title": "eqrlab: the construction path",
        "confidence": confidence,
        "intervals": "Student's t, variance over seeds plus jackknife variance over puzzles",
        "steps": ladder.trainer(rungs[0], seeds[0]).config.steps,
        "training_puzzles": len(ladder.training_set),
        "test_puzzles": len(ladder.test_set),
    }
    coordinates = {
        "rung": list(rungs), "seed": list(seeds), "quantity": quantities, "quantity_accuracy": accuracies,
        "quantity_landscape": landscape, **({"ingredient": list(EFFECTS)} if crossed else {}),
    }  # fmt: skip
    return schema.dataset(variables, attributes, coordinates, {"starts": STARTS})
