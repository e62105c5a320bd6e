"""Landscapes side by side: paired differences between checkpoints on the same puzzles and seeds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap, mean_where_defined, widened

Groups = Mapping[str, xr.Dataset]
UNBOUNDED = ("settling step of right runs", "spectral radius at right attractors")  # all others are shares
MASSES = {"correct mass": "correct_mass", "spurious mass": "spurious_mass"}  # with intervals of their own
FEWEST = 5  # puzzles from which an interval of an unbounded quantity is given


def puzzle_quantities(groups: Groups) -> dict[str, np.ndarray]:
    """Return what is compared, quantity to its value for each puzzle (P,), NaN where a puzzle does not define it.

    Accuracies are those at the last depth; the AUC is that of the residual within the puzzle; the settling step is the
    median over settled right runs.
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
    shares = {f"mode {m}": modes.mode_probability.values[:, i] for i, m in enumerate(schema.MODES)}
    return {
        **chosen,
        **{name: basins[variable].values for name, variable in MASSES.items()},
        **shares,
        "residual AUC within puzzle": alignment.auc_puzzle.values[:, -1],
        **_signal_aucs(groups),
        UNBOUNDED[0]: settling,
        **(
            {UNBOUNDED[1]: groups["spectrum"].spectral_radius.values[:, 0].astype(float)}
            if "spectrum" in groups
            else {}
        ),
    }


def _signal_aucs(groups: Groups) -> dict[str, np.ndarray]:
    """Return the AUC within each puzzle (P,) of the signals beside the residual, where they were measured."""
    if "signals" not in groups or "auc_puzzle" not in groups["signals"]:
        return {}
    names = [str(name) for name in groups["signals"].signal.values]
    values = groups["signals"].auc_puzzle.transpose("puzzle", "signal").values
    shown = ("answer_entropy", "halting", "settle_time")
    return {f"{n} AUC within puzzle": values[:, i] for i, n in enumerate(names) if n in shown}


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
    for name in names[1:]:
        if not np.array_equal(first.inputs.values, results[name]["ensemble"].inputs.values):
            raise ValueError(f"{name} was not run on the same puzzles as {names[0]}")
    tables = [puzzle_quantities(results[name]) for name in names]
    quantities = [q for q in tables[0] if all(q in t for t in tables)]
    values = np.stack([[t[q] for q in quantities] for t in tables])  # (checkpoint, quantity, puzzle)
    difference = values - values[:1]
    both = np.isfinite(difference)
    mean, gap = _mean(values, np.isfinite(values)), _mean(difference, both)
    low, high = cluster_bootstrap(
        mean_where_defined(difference), values.shape[-1], confidence=confidence, seed=seed
    )
    compared = both.sum(-1)
    share = ~np.isin(quantities, UNBOUNDED)
    low, high = np.where(share, widened(gap, low, high, compared, confidence, least=-1.0), (low, high))
    enough = compared >= np.where(share, 2, FEWEST)
    low, high = np.where(enough, (low, high), np.nan)
    pair = ("checkpoint", "quantity")
    ends = np.full((2, *values.shape), np.nan)
    for c, name in enumerate(names):
        for quantity, mass in MASSES.items():
            ends[:, c, quantities.index(quantity)] = Interval.of(results[name]["basins"], mass)[1:]
    variables: dict[str, schema.Variable] = {
        "value": (pair, mean, "mean over puzzles"),
        **Interval(gap, low, high).variables(
            "difference",
            pair,
            "mean difference to the first checkpoint, paired by puzzle",
            f"the difference, {confidence:.0%}",
        ),
        "puzzles_compared": (pair, compared.astype(np.int32), "puzzles where both define the quantity"),
        **Interval(values, *ends).variables("puzzle_value", (*pair, "puzzle"), "quantity of a puzzle"),
    }
    attributes = {
        k: v for k, v in schema.carried(first).items() if k not in ("checkpoint", "checkpoint_sha256")
    }
    coordinates = {"checkpoint": names, "quantity": quantities, "puzzle": first.puzzle.values}
    return schema.dataset(variables, {**attributes, "confidence": confidence}, coordinates)


def _mean(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    count = defined.sum(-1)
    return np.where(count > 0, np.where(defined, values, 0).sum(-1) / np.maximum(count, 1), np.nan)
