"""Landscapes side by side: paired differences between checkpoints on the same puzzles, and between training recipes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.analyses.text.names import common_name, distinct
from eqrlab.attractors.answers.scaling import path_independence_gap
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap, mean_where_defined, widened
from eqrlab.attractors.statistics.intervals import stated_level
from eqrlab.attractors.statistics.seeds import mean_over_seeds

Groups = Mapping[str, xr.Dataset]
COMPARISONS = ("compare", "recipes")  # groups of an archive that belong to no single checkpoint
GAP = "path-independence gap"
MISLED = "accuracy, least residual minus majority"  # from -1 to 1
STEPS, RADIUS = "settling step of right runs", "spectral radius at right attractors"
UNBOUNDED = {STEPS: 1.0, RADIUS: 0.0}  # without an upper end, each with its lower one; all others are shares
MASSES = {"correct mass": "correct_mass", "spurious mass": "spurious_mass"}  # with intervals of their own
FEWEST = 5  # puzzles from which an interval of an unbounded quantity is given


def puzzle_quantities(groups: Groups) -> dict[str, np.ndarray]:
    """Return what is compared, quantity to its value for each puzzle (P,), NaN where a puzzle does not define it.

    Accuracies are those at the last depth; the path-independence gap is the chance that two restarts disagree in being
    right; the AUC is that of the residual within the puzzle; the settling step is the median over settled right runs.
    """
    ensemble, basins, alignment, modes = (groups[g] for g in ("ensemble", "basins", "alignment", "modes"))
    last = alignment.accuracy_puzzle.isel(depth=-1)
    selectors = [str(s) for s in alignment.selector.values]
    right = ensemble.correct.values[:, :, -1] & (ensemble.settling_step.values > 0)
    steps = np.where(right, ensemble.settling_step.values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no settled right run: NaN
        settling = np.nanmedian(steps, axis=1)
    chosen = {f"accuracy, {name}": last.values[:, i] for i, name in enumerate(selectors)}
    if {"top1_converged", "majority"} <= set(selectors):
        chosen[MISLED] = chosen["accuracy, top1_converged"] - chosen["accuracy, majority"]
    ends = common_restarts(ensemble).correct.values[:, :, -1]
    gap = {GAP: path_independence_gap(ends)} if ends.shape[1] > 1 else {}
    shares = {f"mode {m}": modes.mode_probability.values[:, i] for i, m in enumerate(schema.MODES)}
    return {
        **chosen,
        **gap,
        **{name: basins[variable].values for name, variable in MASSES.items()},
        **shares,
        "residual AUC within puzzle": alignment.auc_puzzle.values[:, -1],
        **_signal_aucs(groups),
        STEPS: settling,
        **_radius_when_right(groups),
    }


def _radius_when_right(groups: Groups) -> dict[str, np.ndarray]:
    """Return the spectral radius (P,) at right attractors where these were examined; a spectrum of runs has none."""
    if "spectrum" not in groups or "verdict" not in groups["spectrum"]:
        return {}
    radius = groups["spectrum"]["spectral_radius"].transpose("point", "puzzle").sel(point="right")
    return {RADIUS: radius.values.astype(float)}


def _signal_aucs(groups: Groups) -> dict[str, np.ndarray]:
    """Return the AUC within each puzzle (P,) of the signals beside the residual, where they were measured."""
    if "signals" not in groups or "auc_puzzle" not in groups["signals"]:
        return {}
    names = [str(name) for name in groups["signals"].signal.values]
    values = groups["signals"].auc_puzzle.transpose("puzzle", "signal").values
    shown = ("answer_entropy", "halting", "settle_time")
    return {f"{n} AUC within puzzle": values[:, i] for i, n in enumerate(names) if n in shown}


def require_same_puzzles(inputs: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless all checkpoints, name to puzzles (puzzle, token), have the same puzzles in one order."""
    names = list(inputs)
    for name in names[1:]:
        if not np.array_equal(inputs[names[0]], inputs[name]):
            raise ValueError(f"{name} has other puzzles than {names[0]}: a comparison needs the same ones")


def compare(results: Mapping[str, Groups], *, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Compare checkpoints with the first one, paired by puzzle.

    Parameters
    ----------
    results
        Checkpoint name to the groups of its diagnosis, all on the same puzzles in the same order.
    confidence, seed
        Of the bootstrap, which draws whole puzzles.

    Returns
    -------
    xarray.Dataset
        Over (checkpoint, quantity): `value`, the mean over puzzles that define it, and `difference` to the first
        checkpoint, the mean over puzzles where both do, with `_low` and `_high`; `puzzles_compared`.  Where too few
        puzzles are compared for an interval (one, or below 5 for a quantity that is no share) it is NaN.  Over
        (checkpoint, quantity, puzzle): `puzzle_value`, what is averaged, with `_low` and `_high` where it is a mass.

    Raises
    ------
    ValueError
        With fewer than two checkpoints, or on different puzzles.
    """
    names = list(results)
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two checkpoints, got {len(names)}")
    first = results[names[0]]["ensemble"]
    require_same_puzzles({name: groups["ensemble"].inputs.values for name, groups in results.items()})
    tables = [puzzle_quantities(results[name]) for name in names]
    quantities = [q for q in tables[0] if all(q in t for t in tables)]
    values = np.stack([[t[q] for q in quantities] for t in tables])  # (checkpoint, quantity, puzzle)
    difference = values - values[:1]
    both = np.isfinite(difference)
    mean, gap = _mean(values, np.isfinite(values)), _mean(difference, both)
    low, high = cluster_bootstrap(
        mean_where_defined(np.sort(difference)), values.shape[-1], confidence=confidence, seed=seed
    )
    compared = both.sum(-1)
    least, most = np.array([differences_of(*range_of(q)) for q in quantities]).T
    share = np.isfinite(least)
    shares = (..., share)
    low[shares], high[shares] = widened(
        gap[shares], low[shares], high[shares], compared[shares], confidence, least[share], most[share]
    )
    enough = compared >= np.where(share, 2, FEWEST)
    low, high = np.where(enough, (low, high), np.nan)
    pair = ("checkpoint", "quantity")
    bounds = np.full((2, *values.shape), np.nan)
    for c, name in enumerate(names):
        for quantity, mass in MASSES.items():
            bounds[:, c, quantities.index(quantity)] = Interval.of(results[name]["basins"], mass)[1:]
    variables: dict[str, schema.Variable] = {
        "value": (pair, mean, "mean over puzzles"),
        **Interval(gap, low, high).variables(
            "difference",
            pair,
            "mean difference to the first checkpoint, paired by puzzle",
            f"the difference, {stated_level(confidence)}",
        ),
        "puzzles_compared": (pair, compared.astype(np.int32), "puzzles where both define the quantity"),
        **Interval(values, *bounds).variables("puzzle_value", (*pair, "puzzle"), "quantity of a puzzle"),
    }
    attributes = schema.carried_together({name: groups["ensemble"] for name, groups in results.items()})
    coordinates = {"checkpoint": names, "quantity": quantities, "puzzle": first.puzzle.values}
    return schema.dataset(variables, {**attributes, "confidence": confidence}, coordinates)


def _mean(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    count = defined.sum(-1)
    return np.where(count > 0, np.where(defined, values, 0).sum(-1) / np.maximum(count, 1), np.nan)


def range_of(quantity: str) -> tuple[float, float]:
    """Return between which values a quantity of a puzzle lies."""
    return (
        (UNBOUNDED[quantity], np.inf) if quantity in UNBOUNDED else (-1.0 if quantity == MISLED else 0.0, 1.0)
    )


def differences_of(least: float, most: float) -> tuple[float, float]:
    """Return between which values the difference of two numbers from `least` to `most` lies."""
    return least - most, most - least


def require_recipes(checkpoints: int, seeds: int) -> int:
    """Return how many training recipes some checkpoints are, or raise ValueError where they are no two or more."""
    recipes, left = divmod(checkpoints, seeds)
    if seeds < 2 or left or recipes < 2:
        raise ValueError(
            f"{checkpoints} checkpoints are not two or more recipes of {seeds} seeds each (at least 2)"
        )
    return recipes


def over_seeds(comparison: xr.Dataset, seeds: int) -> xr.Dataset:
    """Compare training recipes, each of which was run with several seeds.

    Parameters
    ----------
    comparison
        From `compare`: the runs of the first recipe, then those of the second, and so on.
    seeds
        Number of runs of each recipe.

    Returns
    -------
    xarray.Dataset
        Over (recipe, quantity): `value`, the mean over seeds and puzzles, and `difference` to the first recipe, paired
        by puzzle and by position among the runs, each with `_low` and `_high`, NaN where there are too few seeds or
        puzzles for an interval; `seed_value` and `seed_difference` over (recipe, seed, quantity).  A recipe has the
        name with which the names of all its runs begin.

    Raises
    ------
    ValueError
        With fewer than two seeds or recipes, or when the checkpoints are no multiple of the seeds.

    Notes
    -----
    Intervals hold for new seeds and new puzzles, see `attractors.statistics.seeds.mean_over_seeds`.
    """
    names = [str(name) for name in comparison["checkpoint"].values]
    recipes = require_recipes(len(names), seeds)
    called: list[str] = []
    for r in range(recipes):
        called.append(distinct(common_name(names[r * seeds : (r + 1) * seeds]), called))
    quantities = [str(q) for q in comparison["quantity"].values]
    values = comparison["puzzle_value"].transpose("checkpoint", "quantity", "puzzle").values
    values = values.reshape(recipes, seeds, *values.shape[1:])
    confidence = float(comparison.attrs["confidence"])
    found = np.full((2, 3, recipes, len(quantities)), np.nan)  # value or difference; mean, low, high
    single = np.full((2, recipes, seeds, len(quantities)), np.nan)
    for q, quantity in enumerate(quantities):
        ends = range_of(quantity)
        fewest = FEWEST if quantity in UNBOUNDED else 2
        for r in range(recipes):
            mine = values[r, :, q]
            for kind, numbers, bounds in (
                (0, mine, ends),
                (1, mine - values[0, :, q], differences_of(*ends)),
            ):
                mean = mean_over_seeds(
                    mean_where_defined(numbers), numbers.shape[-1], bounds=bounds, confidence=confidence
                )
                single[kind, r, :, q], found[kind, 0, r, q] = mean.seeds, mean.mean
                if np.isfinite(numbers).sum(-1).min() >= fewest and np.isfinite([mean.low, mean.high]).all():
                    found[kind, 1:, r, q] = mean.low, mean.high
    pair, triple = ("recipe", "quantity"), ("recipe", "seed", "quantity")
    variables: dict[str, schema.Variable] = {
        **Interval(*found[0]).variables("value", pair, "mean over seeds and puzzles"),
        **Interval(*found[1]).variables(
            "difference", pair, "mean difference to the first recipe, paired by seed and puzzle"
        ),
        "seed_value": (triple, single[0], "mean over puzzles"),
        "seed_difference": (triple, single[1], "mean difference to the first recipe, paired by puzzle"),
        "runs": (("recipe", "seed"), np.array(names).reshape(recipes, seeds), "checkpoint"),
    }
    coordinates = {"recipe": called, "quantity": quantities, "seed": np.arange(seeds)}
    return schema.dataset(variables, dict(comparison.attrs), coordinates)
