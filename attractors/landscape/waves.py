"""Restarts in waves: puzzles whose verdict stands are not drawn from any more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.batches import run_in_batches
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.to_dataset import assemble, solved_band_of
from eqrlab.attractors.fates.records import answer_ids, digest, noise_size
from eqrlab.attractors.landscape.mode_rule import ModeRule
from eqrlab.attractors.landscape.modes import UNDECIDED, decided, evidence_of, verdict

FIRST = 8  # restarts of every puzzle in the first wave; each further one doubles them


def wave_ends(first: int, most: int) -> list[int]:
    """Return the restarts a puzzle has after each wave.

    Examples
    --------
    >>> wave_ends(8, 40)
    [8, 16, 32, 40]
    """
    ends = [min(first, most)]
    while ends[-1] < most:
        ends.append(min(2 * ends[-1], most))
    return ends


def sample_until_decided(
    run: Run,
    *,
    first: int = FIRST,
    rule: ModeRule | None = None,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
) -> xr.Dataset:
    """Sample restarts in waves; a puzzle whose mode is decided is left alone.

    Parameters
    ----------
    run
        With as many restarts as a puzzle may have at most, and correctness known.
    first
        Restarts of every puzzle in the first wave.
    rule
        Of the modes.
    batch_size, progress
        As for `sample`; each wave has a bar of its own, a callable gets (row-steps done, those of all restarts).

    Returns
    -------
    xarray.Dataset
        As `sample` gives it, restart r of a puzzle being the same run; where puzzles have unequal numbers, `drawn`
        (puzzle, restart) tells which there are: others are NaN, -1 or False.  The attribute `waves` holds the restarts
        after each wave.  `basins` and `modes` take confidence sequences for such an ensemble, which hold however one
        stops; what pools runs over puzzles takes the first wave alone (`common_restarts`).

    Raises
    ------
    ValueError
        When nothing is known of correctness, or `first` is below 1.

    Notes
    -----
    The probabilities of modes are posterior ones: by the likelihood principle they mean the same however one stops, if
    masses follow the rule's prior.  What counts as settled is judged of all runs so far, hence a verdict that was
    decided may be a little off its threshold in the end.

    References
    ----------
    Berger & Wolpert 1988, "The likelihood principle"; Howard et al. 2021 (confidence sequences).
    """
    if not run.judge.known:
        raise ValueError("a mode is decided where correctness is known: give labels or an oracle")
    require_integers(first=first)
    rule = rule or ModeRule()
    open_, drawn = np.arange(len(run.inputs)), 0
    rows, ends = np.zeros(0, int), []
    records: dict[str, np.ndarray] = {}
    for end in wave_ends(int(first), run.restarts):
        new = (open_[:, None] * run.restarts + np.arange(drawn, end)).reshape(-1)
        part = run_in_batches(
            run, new, batch_size, _counted(progress, len(rows), run),
            lambda found: digest(found, run.depth, run.tolerances),
        )  # fmt: skip
        records = {name: np.concatenate([records[name], part[name]]) for name in part} if len(rows) else part
        rows, drawn = np.concatenate([rows, new]), end
        ends.append(end)
        ensemble = _assembled(run, rows, records)
        if end < run.restarts:
            open_ = np.flatnonzero(decided(verdict(evidence_of(ensemble), rule), rule) == UNDECIDED)
        if not len(open_):
            break
    if callable(progress):
        progress(run.rows * run.depth, run.rows * run.depth)
    return ensemble.assign_attrs(waves=" ".join(map(str, ends)))


def _counted(
    progress: bool | Callable[[int, int], None], before: int, run: Run
) -> bool | Callable[[int, int], None]:
    """Return what counts the row-steps of one wave among those of all restarts."""
    if not callable(progress):
        return progress
    told = progress
    return lambda done, _: told(before * run.depth + done, run.rows * run.depth)


def _assembled(run: Run, rows: np.ndarray, records: dict[str, np.ndarray]) -> xr.Dataset:
    """Return the ensemble of some rows of a run; what was not drawn is NaN, -1 or False."""
    puzzles, restart = np.divmod(rows, run.restarts)
    most, total = int(restart.max()) + 1, len(run.inputs)
    given = run.initial[:, :most] if isinstance(run.initial, torch.Tensor) else run.initial
    recipe = run.with_(restarts=most, initial=given)
    place, number = puzzles * most + restart, np.arange(len(rows))
    drawn = np.zeros(total * most, bool)
    drawn[place] = True
    source = np.empty(total * most, int)
    source[place] = number
    source[~drawn] = np.repeat(source[::most], most)[~drawn]  # restart 0 stands in, and is taken out again
    noise = noise_size(records["residual"], records["update"], records["norm"]) if run.noise else 0.0
    band = solved_band_of(recipe, records, noise)
    identity = np.full((total * most, run.depth), -1, np.int32)
    for p in range(total):
        mine = np.flatnonzero(puzzles == p)
        identity[place[mine]] = answer_ids(records["code"][mine][None])[0]
    full = {name: values[source] for name, values in records.items()} | {"answer_id": identity}
    ensemble = assemble(recipe, full, noise, band)
    if drawn.all():
        return ensemble
    mask = drawn.reshape(total, most)
    for variable in ensemble.data_vars.values():
        if variable.dims[:2] == ("puzzle", "restart"):
            kind = variable.dtype.kind
            nothing = np.nan if kind in "fc" else (False if kind == "b" else -1)
            variable.values[~mask] = nothing
    text = "the restart was drawn: the verdict on its puzzle did not stand yet"
    ensemble["drawn"] = (("puzzle", "restart"), mask, {"long_name": text, "units": "1"})
    return ensemble
