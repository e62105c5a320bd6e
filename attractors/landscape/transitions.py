"""Noise: the basins in which runs end after noise has driven them from an attractor, and how fast they escape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    identifiers_of,
    require_integers,
    require_same_puzzles,
    tokens_of,
)
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.options import StateOptions, check_options, part_of
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of, settled_band, tolerances_of
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.landscape.identify import Clusters, identify, representatives
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval, stated_level
from eqrlab.core import System


class TransitionOptions(StateOptions, total=False):
    """Options of `transitions`, besides those of the computation."""

    most: int
    depth: int


@dataclass(frozen=True)
class Trials:
    """The number of trials and of noisy steps at each noise level, and the intervals of their counts."""

    levels: list[float]
    steps: int
    number: int
    confidence: float
    method: str

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 0:
            raise ValueError(f"noises must be amplitudes >= 0, got {tuple(self.levels)}")
        require_integers(steps=self.steps, trials=self.number)

    def share(self, count: np.ndarray, where: np.ndarray) -> Interval:
        """Return a count as a share of the trials, with its bounds; NaN elsewhere."""
        bounds = proportion_interval(count, self.number, self.confidence, self.method)
        return Interval(count / self.number, *bounds).each(lambda values: np.where(where, values, np.nan))


def transitions(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    noises: Sequence[float],
    steps: int = 16,
    trials: int = 64,
    confidence: float = 0.95,
    method: str = "mid-p",
    **options: Unpack[TransitionOptions],
) -> xr.Dataset:
    """Measure how noise moves runs between basins: transition probabilities and escape rates.

    Parameters
    ----------
    system, inputs
        The system, which must take noise, and its puzzles.
    ensemble
        From `sample` without noise and with `final_state` kept: trials start at its attractors.
    noises
        Amplitudes beta.
    steps, trials
        Every trial starts at an attractor and takes `steps` outer steps with noise, then `depth` steps without noise;
        the attractor where it ends shows into which basin the noise has moved it.
    most
        Largest number of attractors of a puzzle from which trials start, the largest first; default 6.
    depth
        Outer steps without noise, after the noisy ones; default 64.
    confidence, method
        Of the intervals, see `intervals.proportion_interval`.
    **options
        `identifiers`, `seed`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (noise, puzzle, source, target): `probability` with bounds of ending in the basin of `target` after `steps`
        noisy steps from the attractor `source`, `count`; targets are the attractors of the puzzle, then "elsewhere"
        (other attractors) and "none" (no attractor).  Over (noise, puzzle, source): `escape` = probability to end
        outside the own basin, `escape_rate` = -ln(1 - escape) / steps, per outer step, both with bounds.  Over
        (puzzle, source): `correct`, `mass` (share of the ensemble's restarts), `present`.

    Raises
    ------
    ValueError
        For an ensemble with noise or without final states, amplitudes that are negative, or a system without noise.

    Notes
    -----
    The rate is that of a memoryless escape with the same probability.  If escapes happen only in the first
    steps, or the state needs time to reach a border, the rate changes with `steps`: compare two values of
    `steps`.  Basins are those of the noise-free map.  Cost: amplitudes * attractors * trials * (2 steps +
    depth) outer steps per puzzle.

    References
    ----------
    Freidlin & Wentzell 1984 (exits from basins under small noise); Menck et al. 2013.

    Examples
    --------
    >>> from eqrlab.core import MapSystem
    >>> step = lambda z, x, e=None: torch.tanh(2 * z) + (0 if e is None else e(z))
    >>> law = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    >>> inputs, system = torch.zeros(1, 1, dtype=torch.long), MapSystem(step, law)
    >>> ensemble = sample(system, inputs, restarts=16, depth=64, keep=("summary", "final_state"))
    >>> found = transitions(system, inputs, ensemble, noises=(0.1, 0.6), trials=200)
    >>> (found.escape.values[:, 0] > 0.3).tolist()
    [[False, False], [True, True]]
    """
    check_options(options, TransitionOptions, transitions)
    plan = Trials([float(v) for v in noises], steps, trials, confidence, method)
    most, depth = options.get("most", 6), options.get("depth", 64)
    require_integers(most=most)
    if "final_state" not in ensemble or float(ensemble.attrs.get("noise", 0)) > 0:
        raise ValueError("ensemble must be sampled without noise and with final_state kept")
    tokens = tokens_of(inputs, "inputs")
    known = require_same_puzzles(ensemble, tokens, identifiers_of(options.get("identifiers"), len(tokens)))
    runs = runs_of(ensemble)
    found = [identify(r) for r in runs]
    sources = [representatives(r, c.label, most) for r, c in zip(runs, found, strict=True)]
    widest = max(1, *(len(s) for s in sources))
    count = np.zeros((len(plan.levels), len(tokens), widest, widest + 2), np.int32)
    common: dict[str, Any] = {
        **part_of(options, StateOptions), "tolerances": tolerances_of(ensemble).pinned(settled_band(ensemble)),
        "restarts": widest * trials, "keep": ("summary", "final_state"), "identifiers": known,
        "labels": Judge.of_ensemble(ensemble).labels,
    }  # fmt: skip
    states = ensemble.final_state.values
    starts = np.stack([
        states[p, np.resize(rows if len(rows) else [0], widest)].repeat(trials, 0) for p, rows in enumerate(sources)
    ])  # fmt: skip
    for i, level in enumerate(plan.levels):
        loud = sample(system, tokens, initial=torch.as_tensor(starts), depth=steps, noise=level, **common)
        moved = torch.as_tensor(loud.final_state.values)
        quiet = sample(system, tokens, initial=moved, depth=depth, noise=0.0, **common)
        for p, ended in enumerate(runs_of(quiet)):
            count[i, p] = _count(runs[p], sources[p], ended, widest, trials)
    table = _table(ensemble, runs, found, sources, count, plan)
    return table.assign_attrs(seed=options.get("seed", 0), depth=depth)


def _count(runs: Runs, sources: np.ndarray, ended: Runs, widest: int, trials: int) -> np.ndarray:
    """Return the numbers of trials (widest, widest + 2) from each source by the place where they ended."""
    count = np.zeros((widest, widest + 2), np.int32)
    label = identify(join(runs, ended)).label
    homes, ends = label[sources], label[len(runs) :].reshape(widest, trials)
    for a in range(len(sources)):
        for b, home in enumerate(homes):
            count[a, b] = (ends[a] == home).sum()
        count[a, -2] = ((ends[a] >= 0) & ~np.isin(ends[a], homes)).sum()
        count[a, -1] = (ends[a] < 0).sum()
    return count


def _table(
    ensemble: xr.Dataset, runs: list[Runs], found: list[Clusters], sources: list[np.ndarray], count: np.ndarray,
    plan: Trials,
) -> xr.Dataset:  # fmt: skip
    widest = count.shape[2]
    present = np.arange(widest) < np.array([len(s) for s in sources])[:, None]
    stay = count[..., np.arange(widest), np.arange(widest)]
    escape = plan.share(np.where(present, plan.number - stay, 0), present)
    with np.errstate(divide="ignore"):
        rates = escape.each(lambda values: -np.log1p(-values) / plan.steps)
    mass, correct = np.full(present.shape, np.nan), np.zeros(present.shape, bool)
    for p, rows in enumerate(sources):
        label = found[p].label
        mass[p, : len(rows)] = [(label == label[r]).mean() for r in rows]
        correct[p, : len(rows)] = runs[p].correct[rows] & ~found[p].changing[label[rows]]
    four, three, two = (
        ("noise", "puzzle", "source", "target"),
        ("noise", "puzzle", "source"),
        ("puzzle", "source"),
    )
    percent, steps = f"{stated_level(plan.confidence)} interval", plan.steps
    variables: dict[str, schema.Variable] = {
        **plan.share(count, present[None, :, :, None]).variables(
            "probability", four, f"probability to end in the basin of the target after {steps} noisy steps",
            f"it, {percent}",
        ),
        "count": (four, count, "trials that end in the basin of the target"),
        **escape.variables(
            "escape", three, f"probability to end outside the own basin after {steps} noisy steps", f"it, {percent}"
        ),
        **rates.variables(
            "escape_rate", three, "rate of escape per outer step, if it is memoryless", f"it, {percent}"
        ),
        "mass": (two, mass, "share of the ensemble's restarts at the attractor"),
        "correct": (two, correct, "the attractor decodes to a right answer"),
        "present": (two, present, "the puzzle has that attractor"),
    }  # fmt: skip
    attributes = {**schema.carried(ensemble), "noise": "over noise", "trials": plan.number, "noisy_steps": steps,
                  "confidence": plan.confidence, "interval_method": plan.method}  # fmt: skip
    names = [f"attractor {a + 1}" for a in range(widest)]
    coordinates = {
        "noise": plan.levels,
        "puzzle": ensemble.puzzle.values,
        "source": names,
        "target": [*names, "elsewhere", "none"],
    }
    return schema.dataset(variables, attributes, coordinates)
