"""The size of an export, predicted before it runs."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.batches import batch_of
from eqrlab.attractors.ensemble.iterate import run_rows
from eqrlab.attractors.ensemble.options import RunOptions
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.attractors.fates.orbits import outline_length
from eqrlab.attractors.fates.records import digest
from eqrlab.core import System

TRIAL = 2  # steps of the one run that is tried
EACH_STEP = (
    "residual", "update", "norm", "code", "correct", "token_accuracy", "halt", "entropy", "margin", "path",
    "logit_delta",
)  # fmt: skip


class Size(NamedTuple):
    """The cost of an export: bytes of the archive before compression, bytes of its parts, and map evaluations."""

    archive: int
    parts: int
    evaluations: int


def export_size(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    batch_size: int | None = None,
    **options: Unpack[RunOptions],
) -> Size:
    """Return how much `export` with these arguments will write and compute; runs two steps of one run.

    Parameters
    ----------
    system, inputs
        As in `sample`.
    batch_size
        Checked only: the size does not depend on it.
    **options
        The others of `sample`, see `RunOptions`.

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
    recipe = Run.of(system, inputs, **options)
    batch_of(recipe, recipe.rows, batch_size)
    puzzles, restarts, depth = len(recipe.inputs), recipe.restarts, recipe.depth
    trial = recipe.puzzles(slice(1)).with_(restarts=1, depth=TRIAL)
    if isinstance(trial.initial, Tensor):
        trial = trial.with_(initial=trial.initial[:, :1])
    records = digest(run_rows(trial, np.zeros(1, int), lambda count: None), TRIAL, trial.tolerances)
    ensemble = assemble(trial, records)
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
        * (depth if name in EACH_STEP or (name == "states" and "trajectory" in recipe.keep) else TRIAL)
        // TRIAL
        for name, values in records.items()
    )
    half = recipe.dtype in (torch.float16, torch.bfloat16)
    steps = 2 * depth if recipe.noise or half else depth + 1
    return Size(archive, row * puzzles * restarts, steps * puzzles * restarts)
