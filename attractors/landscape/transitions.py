"""Noise: the basins that runs end in when noise drives them from an attractor, and how fast they escape."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import tokens_of
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.landscape.estimate import settled_below
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import System


def transitions(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    noises: Sequence[float],
    steps: int = 16,
    trials: int = 64,
    most: int = 6,
    depth: int = 64,
    seed: int = 0,
    confidence: float = 0.95,
    method: str = "mid-p",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> xr.Dataset:
    """Measure how noise carries runs from basin to basin: probabilities of transition and rates of escape.

    Parameters
    ----------
    system, inputs
        The system, which must take noise, and its puzzles.
    ensemble
        From `sample` without noise and with `final_state` kept: its attractors are the places to leave.
    noises
        Amplitudes beta.
    steps, trials
        Every trial starts at an attractor, takes so many outer steps with noise, and then `depth` without: where it
        then ends is the basin the noise has carried it to.
    most
        Most attractors of a puzzle that are left, the largest first.
    depth
        Outer steps without noise, after the noisy ones.
    confidence, method
        Of the intervals, see `statistics.proportion_interval`.
    seed, batch_size, device, progress
        As in `sample`.

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
    The rate is that of a memoryless escape with the same probability; where escapes come in the first steps only, or
    the state needs time to reach a border, the rate changes with `steps`: compare two values of it.  Basins are those
    of the noise-free map.  Cost: amplitudes * attractors * trials * (2 steps + depth) outer steps a puzzle.

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
    levels = [float(v) for v in noises]
    if not levels or min(levels) < 0:
        raise ValueError(f"noises must be amplitudes >= 0, got {tuple(noises)}")
    for name, value in (("steps", steps), ("trials", trials), ("most", most)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value}")
    if "final_state" not in ensemble or float(ensemble.attrs.get("noise", 0)) > 0:
        raise ValueError("ensemble must be sampled without noise and with final_state kept")
    tokens = tokens_of(inputs, "inputs")
    runs = runs_of(ensemble)
    sources = [_sources(r, most) for r in runs]
    widest = max(1, *(len(s) for s in sources))
    shape = (len(levels), len(tokens), widest)
    count = np.zeros((*shape, widest + 2), np.int32)
    band = json.loads(ensemble.attrs["tolerances"])["settled_below"]
    common: dict[str, Any] = {
        "tolerances": settled_below(Tolerances(), band), "seed": seed, "batch_size": batch_size, "device": device,
        "progress": progress, "restarts": widest * trials, "keep": ("summary", "final_state"),
    }  # fmt: skip
    states = ensemble.final_state.values
    starts = np.stack([
        states[p, np.resize(rows if len(rows) else [0], widest)].repeat(trials, 0) for p, rows in enumerate(sources)
    ])  # fmt: skip
    for i, level in enumerate(levels):
        loud = sample(system, tokens, initial=torch.as_tensor(starts), depth=steps, noise=level, **common)
        moved = torch.as_tensor(loud.final_state.values)
        quiet = sample(system, tokens, initial=moved, depth=depth, noise=0.0, **common)
        for p, ended in enumerate(runs_of(quiet)):
            count[i, p] = _count(runs[p], sources[p], ended, widest, trials)
    present = np.arange(widest) < np.array([len(s) for s in sources])[:, None]
    return _table(ensemble, runs, sources, count, present, levels, trials, steps, confidence, method)


def _sources(runs: Runs, most: int) -> np.ndarray:
    """Return a row of the ensemble at each of the largest attractors of a puzzle, the best converged one."""
    label = identify(runs).label
    rows = []
    for a in range(min(most, int(label.max()) + 1)):
        members = np.flatnonzero(label == a)
        rows.append(members[np.lexsort((runs.restart[members], runs.error[members]))[0]])
    return np.array(rows, int)


def _count(runs: Runs, sources: np.ndarray, ended: Runs, widest: int, trials: int) -> np.ndarray:
    """Return (widest, widest + 2) numbers of trials from each source by where they ended."""
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
    ensemble: xr.Dataset, runs: list[Runs], sources: list[np.ndarray], count: np.ndarray, present: np.ndarray,
    levels: list[float], trials: int, steps: int, confidence: float, method: str,
) -> xr.Dataset:  # fmt: skip
    widest = present.shape[1]
    share = np.where(present[None, :, :, None], count / trials, np.nan)
    low, high = (
        np.where(present[None, :, :, None], b, np.nan)
        for b in proportion_interval(count, trials, confidence, method)
    )
    stay = count[..., np.arange(widest), np.arange(widest)]
    gone = np.where(present, trials - stay, 0)
    escape = np.where(present, gone / trials, np.nan)
    bounds = [np.where(present, b, np.nan) for b in proportion_interval(gone, trials, confidence, method)]
    with np.errstate(divide="ignore"):
        rates = [-np.log1p(-v) / steps for v in (escape, *bounds)]
    mass, correct = np.full(present.shape, np.nan), np.zeros(present.shape, bool)
    for p, rows in enumerate(sources):
        label = identify(runs[p]).label
        mass[p, : len(rows)] = [(label == label[r]).mean() for r in rows]
        correct[p, : len(rows)] = runs[p].correct[rows]
    four, three, two = (
        ("noise", "puzzle", "source", "target"),
        ("noise", "puzzle", "source"),
        ("puzzle", "source"),
    )
    percent = f"{confidence:.0%} interval"
    variables: dict[str, schema.Variable] = {
        **Interval(share, low, high).variables(
            "probability", four, f"probability to end in the basin of the target after {steps} noisy steps",
            f"it, {percent}",
        ),
        "count": (four, count, "trials that did"),
        **Interval(escape, *bounds).variables(
            "escape", three, f"probability to end outside the own basin after {steps} noisy steps", f"it, {percent}"
        ),
        **Interval(*rates).variables(
            "escape_rate", three, "rate of escape per outer step, were it memoryless", f"it, {percent}"
        ),
        "mass": (two, mass, "share of the ensemble's restarts at the attractor"),
        "correct": (two, correct, "the attractor decodes to a right answer"),
        "present": (two, present, "the puzzle has that attractor"),
    }  # fmt: skip
    attributes = {**schema.carried(ensemble), "noise": "over noise", "trials": trials, "noisy_steps": steps,
                  "confidence": confidence, "interval_method": method}  # fmt: skip
    names = [f"attractor {a + 1}" for a in range(widest)]
    coordinates = {
        "noise": levels,
        "puzzle": ensemble.puzzle.values,
        "source": names,
        "target": [*names, "elsewhere", "none"],
    }
    return schema.dataset(variables, attributes, coordinates)
