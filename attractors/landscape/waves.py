"""Restarts in waves: no more restarts are drawn for puzzles whose mode is decided."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.judge import require_judged
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.to_dataset import assemble, solved_band_of
from eqrlab.attractors.fates.records import answer_ids, noise_size
from eqrlab.attractors.landscape.mode_rule import ModeRule
from eqrlab.attractors.landscape.modes import UNDECIDED, decided, evidence_of, verdict
from eqrlab.attractors.streaming.row_store import RowStore, records_of

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
    store: RowStore | None = None,
) -> xr.Dataset:
    """Sample restarts in waves, until the mode of each puzzle is decided.

    Parameters
    ----------
    run
        Its restarts are the largest number that a puzzle may have; correctness must be known.
    first
        Restarts of every puzzle in the first wave.
    rule
        Of the modes.
    batch_size, progress
        As for `sample`; each wave has its own bar, and a callable receives (row-steps done, those of all restarts).
    store
        Where records are kept meanwhile, so that a run that was stopped can be continued; None: nowhere.

    Returns
    -------
    xarray.Dataset
        As `sample` returns it, with the same run for restart r of a puzzle.  If puzzles have unequal numbers, `drawn`
        (puzzle, restart) marks the restarts that exist; the others are NaN, -1 or False.  The attribute `waves` has the
        restarts after each wave.  For such an ensemble, `basins` and `modes` use confidence sequences, which are valid
        for any stopping rule; statistics that pool runs over puzzles use only the first wave (`common_restarts`).

    Raises
    ------
    ValueError
        If correctness is unknown, or `first` is below 1.

    Notes
    -----
    The probabilities of modes are posterior probabilities: by the likelihood principle their meaning does not depend on
    the stopping rule, if masses follow the rule's prior.  What counts as settled is judged from all runs so far, so the
    probability of a decided mode may end slightly below its threshold.

    References
    ----------
    Berger & Wolpert 1988, "The likelihood principle"; Howard et al. 2021 (confidence sequences).
    """
    require_judged("deciding a mode", run.judge.labels, run.judge.oracle)
    require_integers(first=first)
    rule = rule or ModeRule()
    open_, drawn = np.arange(len(run.inputs)), 0
    rows, ends = np.zeros(0, int), []
    records: dict[str, np.ndarray] = {}
    waves = wave_ends(int(first), run.restarts)
    for number, end in enumerate(waves):
        new = (open_[:, None] * run.restarts + np.arange(drawn, end)).reshape(-1)
        part = records_of(
            run, new, batch_size=batch_size, progress=_counted(progress, len(rows), run), store=store,
            doing=f"wave {number + 1} of at most {len(waves)}" if len(waves) > 1 else "sampling",
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
    """Return the progress callback of one wave, which counts row-steps among those of all restarts."""
    if not callable(progress):
        return progress
    told = progress
    return lambda done, _: told(before * run.depth + done, run.rows * run.depth)


def _assembled(run: Run, rows: np.ndarray, records: dict[str, np.ndarray]) -> xr.Dataset:
    """Return the ensemble of some rows of a run; restarts that were not drawn are NaN, -1 or False."""
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
    text = "the restart was drawn: the mode of its puzzle was not decided before"
    ensemble["drawn"] = (("puzzle", "restart"), mask, {"long_name": text, "units": "1"})
    return ensemble
