"""Basin stability: how often a perturbed state comes back, against the size of the perturbation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.options import computing
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import States
from eqrlab.attractors.perturbation.directions import random_unit_vectors
from eqrlab.attractors.perturbation.returns import RETURNED, UNDECIDED, Homes, ReturnOptions, follower_of
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

SIZES = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


def basin_stability(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    sizes: Sequence[float] = SIZES,
    trials: int = 64,
    confidence: float = 0.95,
    **options: Unpack[ReturnOptions],
) -> xr.Dataset:
    """Estimate the probability that a state returns from a random perturbation of each size.

    Parameters
    ----------
    system, inputs, states
        As for `critical_shock`.
    sizes
        Lengths of the perturbations, relative to the norm of the state, or to the size of its run for a state next to
        the origin, see `critical_shock`.
    trials
        Random directions at every size: fresh ones at each, isotropic, keyed by (seed, input tokens, point).
    confidence
        Of the intervals, see `intervals.proportion_interval` (mid-p).
    **options
        `depth`, `escape`, `tolerances`, see `ReturnOptions`, and those of `AnswerOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, size): `returned` and `undecided` (trials), `stability` = returned / trials with
        `stability_low`, `stability_high`, and `answer_stability` (the answer at the end is that of the unperturbed
        state) with bounds.  `settled(puzzle, point)`: the unperturbed state ends at an attractor; others are NaN.

    Raises
    ------
    ValueError
        For sizes that are not positive, no trials, states that are all NaN, and a state at zero where starts are zero,
        too.

    Notes
    -----
    Each interval is for one state and one size, over isotropic perturbations; it says nothing about other states or
    puzzles.  A trial that is unfinished at four times the depth has not returned; `undecided` counts these.
    Cost: points * sizes * trials orbits.

    References
    ----------
    Menck, Heitzig, Marwan & Kurths 2013, Nature Physics 9, 89.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn(len(x), 1, generator=g))
    >>> state = torch.tensor([[[0.95750402]]], dtype=torch.float64)  # one of two ways crosses the border at 0
    >>> result = basin_stability(system, torch.zeros(1, 1, dtype=torch.long), state, sizes=(0.5, 2.0), trials=100)
    >>> result.stability.values.round(1)
    array([[[1. , 0.5]]])
    """
    own = computing(options, basin_stability, ReturnOptions)
    lengths = np.ravel(sizes).astype(float)
    if not len(lengths) or not np.isfinite(lengths).all() or (lengths <= 0).any():
        raise ValueError(f"sizes must be finite numbers > 0, got {sizes}")
    require_integers(trials=trials)
    points = own.points(system, inputs, states)
    follower = follower_of(points, options, float(lengths.max()))
    flat = points.z.flatten(1)
    norms = torch.as_tensor(own_lengths(points)).to(flat)
    homes = Homes(follower, points)
    rows = np.flatnonzero(homes.settled)
    back, unsure, same = (np.zeros((len(flat), len(lengths)), np.int32) for _ in range(3))
    with tqdm(total=len(rows) * len(lengths), unit="size", **shown(own.progress)) as bar:
        for i, length in enumerate(lengths):
            way = random_unit_vectors(points, trials, own.seed, first=2**21 + i * points.shape[1])
            for row in rows:  # one state at a time: memory stays at `trials` states
                z = flat[row] + float(length) * norms[row] * way[row]
                fate, answer = homes.returns(z.view(-1, *points.z.shape[1:]), np.full(trials, row))
                back[row, i], unsure[row, i] = (fate == RETURNED).sum(), (fate == UNDECIDED).sum()
                same[row, i] = answer.sum()
                bar.update(1)
    each = ("puzzle", "point", "size")
    hidden = np.where(homes.settled, 1.0, np.nan)[:, None]
    variables: dict[str, schema.Variable] = {
        "returned": (each, points.fold(back), "trials that return to the attractor of the state"),
        "undecided": (each, points.fold(unsure), "trials that are unfinished at four times the depth"),
        "settled": (
            ("puzzle", "point"),
            points.fold(homes.settled),
            "the unperturbed state ends at an attractor",
        ),
    }
    for name, count, text in (
        ("stability", back, "share of perturbed states that return"),
        (
            "answer_stability",
            same,
            "share of perturbed states that end with the answer of the unperturbed one",
        ),
    ):
        share = Interval(count / trials, *proportion_interval(count, trials, confidence))
        variables |= share.each(lambda value: points.fold(value * hidden)).variables(name, each, text)
    attributes = points.attributes(
        seed=own.seed, depth=follower.depth, trials=trials, confidence=confidence,
        evaluations=follower.evaluations, interval="mid-p, for one state and one size over isotropic perturbations",
        tolerances=dataclasses.asdict(follower.tolerances),
    )  # fmt: skip
    result = schema.dataset(variables, attributes, {"size": lengths})
    result["size"].attrs |= {
        "long_name": "length of the perturbation over the norm of the state",
        "units": "1",
    }
    return result
