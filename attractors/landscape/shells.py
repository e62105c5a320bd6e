"""Shells of starts: does the attractor of a run depend on the distance of its start from the origin?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils import _pytree as pytree

from eqrlab.attractors.ensemble.contract import law_of
from eqrlab.attractors.ensemble.options import (
    AnalysisOptions,
    RunOptions,
    WorkOptions,
    check_options,
    part_of,
)
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of
from eqrlab.attractors.landscape.basins import sums, tabulate
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import DEFAULT_INTERVAL, proportion_interval, stated_level
from eqrlab.core import System
from eqrlab.core.models.system import take_rows
from eqrlab.core.seeds import nonnegative

TYPICAL = 64  # starts whose median norm is the unit of radii
SHUFFLES = 999


def on_shell(law: Law, factor: float) -> Law:
    """Return the law that draws a direction from `law` and scales it to this radius, in median norms of `law`.

    Notes
    -----
    The median is that of 64 starts of the row's context, drawn alike for all rows.

    Examples
    --------
    >>> law = lambda x, g: torch.randn((len(x), 100), generator=g, dtype=torch.float64)
    >>> z = on_shell(law, 2.0)(torch.zeros(3, 1), torch.Generator().manual_seed(1))
    >>> [round(float(v), 3) for v in z.norm(dim=1) / z[0].norm()], bool(z[0].norm() > 15)
    ([1.0, 1.0, 1.0], True)
    """

    known: dict[bytes, float] = {}

    def unit(x: Any) -> float:
        """Return the median norm for the context of one row."""
        leaves = [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]
        key = b"".join(leaf.detach().cpu().float().numpy().tobytes() for leaf in leaves)
        if key not in known:
            fixed = torch.Generator().manual_seed(0)
            norms = torch.stack([law(x, fixed).flatten().norm() for _ in range(TYPICAL)])
            known[key] = float(norms.median())
        return known[key]

    def start(x: Any, generator: torch.Generator) -> Tensor:
        z = law(x, generator)
        flat = z.flatten(1)
        sizes = flat.new_tensor([unit(take_rows(x, slice(i, i + 1))) for i in range(len(z))])
        return (flat * (factor * sizes / flat.norm(dim=1).clamp(min=1e-30))[:, None]).reshape(z.shape)

    start.__name__ = f"shell {factor:g}"
    return start


def shells(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    radii: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    restarts: int = 64,
    initial: Law | None = None,
    confidence: float = 0.95,
    **options: Unpack[AnalysisOptions],
) -> xr.Dataset:
    """Estimate basin masses on shells of starts: directions of the restart law at fixed radii.

    Parameters
    ----------
    system, inputs, labels, identifiers, oracle, depth, seed, noise, batch_size, device, dtype, progress
        As in `sample`.
    radii
        Radii of the shells, in median norms of a start under the law.
    restarts
        Restarts of every puzzle on every shell, with different directions on each.
    initial
        Law from which directions are drawn; None: the system's own.
    confidence
        Of the intervals.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, radius, attractor): `shell_mass` with bounds, `shell_count`; over (puzzle, radius):
        `correct_mass`, `spurious_mass`, `changing_mass`, `mass_none` with bounds.  Over (puzzle, attractor):
        `correct`, `fate`, `answer`.  Over puzzle: `attractors`, `dependence_p` = p-value of the permutation test that
        masses do not depend on the radius.

    Raises
    ------
    ValueError
        For radii that are not positive and increasing, or what `sample` refuses.

    Notes
    -----
    `dependence_p` comes from a permutation test (999 shuffles) on Pearson's statistic of the table of shell by
    outcome (an attractor, or none).  It is small if the basin of a run depends on the radius of its start, and
    1 if all runs end in the same way.  It is exact for any counts; with many puzzles some values are small by
    chance.  Starts at a radius that a trained model did not see are outside its training law.

    Examples
    --------
    >>> from eqrlab.core import MapSystem
    >>> law = lambda x, g: torch.randn((len(x), 8), generator=g, dtype=torch.float64)
    >>> system = MapSystem(lambda z, x: 0.5 + torch.tanh(2 * (z - 0.5)), law)
    >>> found = shells(system, torch.zeros(1, 1, dtype=torch.long), radii=(0.1, 2.0), restarts=30, depth=40)
    >>> float(found.shell_mass[0, 0, 0]), float(found.dependence_p[0])  # within the border every start goes down
    (1.0, 0.001)
    """
    check_options(options, AnalysisOptions, shells)
    if not len(radii) or min(radii) <= 0 or any(b <= a for a, b in pairwise(radii)):
        raise ValueError(f"radii must be positive and increasing, got {tuple(radii)}")
    common: RunOptions = {
        **part_of(options, RunOptions), "restarts": restarts, "initial": initial, "keep": ("summary", "final_state"),
    }  # fmt: skip
    run = Run.of(system, inputs, **common)
    law = law_of(initial, run.system)
    shell = lambda i: run.with_(initial=on_shell(law, radii[i]), first_restart=i * restarts)
    ensembles = [shell(i).sample(**part_of(options, WorkOptions)) for i in range(len(radii))]
    runs = runs_of(ensembles[0])
    for ensemble in ensembles[1:]:
        runs = [join(a, b) for a, b in zip(runs, runs_of(ensemble), strict=True)]
    return _table(ensembles[0], runs, list(map(float, radii)), restarts, confidence, run.seed)


def _table(
    first: xr.Dataset, runs: list[Runs], radii: list[float], restarts: int, confidence: float, seed: int
) -> xr.Dataset:
    found = [identify(r) for r in runs]
    whole = tabulate(runs, found, confidence, DEFAULT_INTERVAL)
    most = whole["mass"][1].shape[1]
    shape = (len(runs), len(radii), most)
    count, certain = np.zeros(shape, np.int32), np.zeros(len(runs))
    for p, clusters in enumerate(found):
        label = clusters.label.reshape(len(radii), restarts)
        for s in range(len(radii)):
            count[p, s] = np.bincount(label[s][label[s] >= 0], minlength=most)
        certain[p] = dependence(label, seed)
    present = (np.arange(most) < np.asarray(whole["attractors"][1])[:, None])[:, None]
    three, two = ("puzzle", "radius", "attractor"), ("puzzle", "radius")
    text = "share of the shell's starts that reach the attractor"
    variables: dict[str, schema.Variable] = {
        **Interval(count / restarts, *proportion_interval(count, restarts, confidence))
        .each(lambda values: np.where(present, values, np.nan))
        .variables("shell_mass", three, text, f"it, {stated_level(confidence)} interval"),
        "shell_count": (three, count, "starts of the shell that reach the attractor"),
        "dependence_p": (
            ("puzzle",),
            certain,
            "p-value of differences between shells, if all have equal masses",
        ),
        **{name: whole[name] for name in ("attractors", "correct", "fate", "answer", "mass", "ambiguous")},
    }
    flat = {name: np.repeat(whole[name][1], len(radii), 0) for name in ("correct", "changing")}
    flat["count"] = count.reshape(-1, most)
    for name, (value, meaning) in sums(flat, np.full(len(flat["count"]), restarts)).items():
        share = Interval(value / restarts, *proportion_interval(value, restarts, confidence))
        variables |= share.each(lambda values: values.reshape(shape[:2])).variables(name, two, meaning)
    attributes = {**schema.carried(first), "initial_law": "shells of the restart law", "confidence": confidence,
                  "interval_method": DEFAULT_INTERVAL, "radius_unit": f"median norm of {TYPICAL} starts"}  # fmt: skip
    coordinates = {"puzzle": first.puzzle.values, "radius": radii}
    return schema.dataset(variables, attributes, coordinates, {"fate": schema.FATES})


def dependence(label: np.ndarray, seed: int = 0, shuffles: int = SHUFFLES) -> float:
    """Return the p-value of a permutation test that labels (groups, n) do not depend on the group.

    Examples
    --------
    >>> dependence(np.array([[0] * 20, [1] * 20])), dependence(np.array([[0, 1] * 10, [0, 1] * 10]))
    (0.001, 1.0)
    """
    codes = np.unique(label, return_inverse=True)[1].reshape(label.shape)
    kinds = int(codes.max()) + 1
    expected = np.bincount(codes.ravel(), minlength=kinds) / len(label)
    group = np.arange(len(label))[:, None] * kinds

    def statistic(values: np.ndarray) -> float:
        table = np.bincount((values + group).ravel(), minlength=len(label) * kinds).reshape(-1, kinds)
        return float(((table - expected) ** 2 / expected).sum())

    rng, seen = np.random.default_rng(nonnegative(seed)), statistic(codes)
    flat = codes.ravel().copy()
    beyond = 0
    for _ in range(shuffles):
        rng.shuffle(flat)
        beyond += statistic(flat.reshape(label.shape)) >= seen - 1e-9
    return (1 + beyond) / (1 + shuffles)
