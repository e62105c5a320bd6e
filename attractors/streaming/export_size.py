"""How much an export will write, told before it runs."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.fate import Tolerances
from eqrlab.attractors.ensemble.iterate import run_rows
from eqrlab.attractors.ensemble.orbits import outline_length
from eqrlab.attractors.ensemble.records import digest
from eqrlab.attractors.ensemble.sample import prepare
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.core import System

TRIAL = 2  # steps of the one run that is tried
EACH_STEP = (
    "residual", "update", "norm", "code", "correct", "token_accuracy", "halt", "path", "logit_delta",
)  # fmt: skip


class Size(NamedTuple):
    """What an export takes: bytes of the archive before compression, bytes of its parts, and map evaluations."""

    archive: int
    parts: int
    evaluations: int


def export_size(system: System, inputs: Tensor | np.ndarray, **options: Any) -> Size:
    """Return how much `export` with these arguments will write and compute; runs two steps of one run.

    Parameters
    ----------
    system, inputs
        As in `sample`.
    options
        The others of `sample` but `progress`.

    Returns
    -------
    Size
        `archive` is exact before compression, `parts` up to headers.

    Raises
    ------
    ValueError
        For arguments that `sample` refuses.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g))
    >>> size = export_size(half, torch.zeros(1, 1, dtype=torch.long), restarts=1000, depth=64)
    >>> size.archive > 1000 * 64 * 4, size.evaluations
    (True, 65000)
    """
    recipe, beta, limits = prepare(system, inputs, **options)
    puzzles, restarts, depth = len(recipe.inputs), recipe.restarts, recipe.depth
    first = recipe.initial[:1, :1] if isinstance(recipe.initial, Tensor) else recipe.initial
    trial = dataclasses.replace(
        recipe, inputs=recipe.inputs[:1], restarts=1, depth=TRIAL, window=1, initial=first,
        labels=None if recipe.labels is None else recipe.labels[:1],
    )  # fmt: skip
    records = digest(run_rows(trial, np.zeros(1, int), lambda count: None), TRIAL, limits or Tolerances())
    ensemble = assemble(trial, records, beta, limits)
    sizes = {**ensemble.sizes, "puzzle": puzzles, "restart": restarts, "step": depth}
    shorter, sizes["phase"] = sizes["phase"], outline_length(sizes["coordinate"], depth)
    archive = sum(
        int(np.prod([sizes[d] for d in v.dims], dtype=object)) * v.dtype.itemsize
        for v in ensemble.variables.values()
    )
    row = sum(
        values.nbytes * sizes["phase"] // shorter
        if name == "orbit"
        else values.nbytes
        * (depth if name in EACH_STEP or (name == "states" and recipe.trajectory) else TRIAL)
        // TRIAL
        for name, values in records.items()
    )
    half = recipe.dtype in (torch.float16, torch.bfloat16)
    steps = 2 * depth if recipe.noisy or half else depth + 1
    return Size(archive, row * puzzles * restarts, steps * puzzles * restarts)
