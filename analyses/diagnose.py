"""The main job: sample a checkpoint's trajectories, find its attractors, and say which landscape each puzzle is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.studies.borders import borders
from eqrlab.analyses.studies.checks import run_checks, states_fit
from eqrlab.analyses.studies.commit import commit_where_none_is_right
from eqrlab.analyses.text.names import group_names
from eqrlab.attractors.ensemble.judge import require_judged
from eqrlab.attractors.results.archive_rules import read_schema
from eqrlab.attractors.streaming.row_store import RowStore, sample_stored
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

TOLERANCE = 1e-2  # of eigenvalues: stability needs the side of 1, a picture two digits


def diagnose(
    system: System,
    inputs: np.ndarray,
    *,
    local: bool = False,
    checks: bool = False,
    fixed: bool = False,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    **options: Unpack[at.RunOptions],
) -> dict[str, xr.Dataset]:
    """Diagnose the landscape of a system on some puzzles.

    Parameters
    ----------
    system
        What to diagnose, usually a loaded `Reasoner`.
    inputs
        Puzzles (P, L), integer tokens.
    local
        Also examine the map at the largest right and wrong attractor of each puzzle, see `attractors.local_dynamics`;
        the map must be differentiable.
    checks
        Also follow some runs to twice the depth, test whether the map acts, and move the thresholds of the modes, see
        `analyses.studies.checks`.
    fixed
        Draw all restarts of every puzzle, measure every residual and follow every run to its depth.  Otherwise restarts
        come in waves until the mode of their puzzle is decided, see `attractors.sample_until_decided`, residuals are
        sparse where each costs an evaluation, and runs that come to rest are retired (`retire` of `attractors.sample`,
        True unless given).
    batch_size, **options
        As for `attractors.sample`.
    progress
        True shows a bar for every part of the work; a callable gets (row-steps done, all) of the sampling.

    Returns
    -------
    dict
        The groups of the archive: `ensemble`, `basins`, `alignment`, `modes`, `signals`; `spectrum` with `local`;
        `outcomes`, `noop`, `sensitivity`, `radius` and `duels` with `checks`, `clues` with both; and with `checks`
        `commit`, where puzzles in mode (a) take clues.
    """
    if not fixed:
        options.setdefault("residuals", "sparse")
        options.setdefault("retire", True)
    run = at.Run.of(system, torch.as_tensor(inputs), **options)
    return diagnose_run(
        run, local=local, checks=checks, fixed=fixed, batch_size=batch_size, progress=progress
    )


def diagnose_run(
    run: at.Run,
    *,
    local: bool = False,
    checks: bool = False,
    fixed: bool = False,
    batch_size: int | None = None,
    progress: bool | Callable[[int, int], None] = False,
    store: RowStore | None = None,
) -> dict[str, xr.Dataset]:
    """Diagnose a system by a run that is described already: arguments and results are those of `diagnose`.

    Parameters
    ----------
    store
        Where the records of runs are kept while they are sampled, so that a diagnosis that was stopped goes on.

    Raises
    ------
    ValueError
        If the run has neither labels nor an oracle.
    """
    require_judged("a diagnosis", run.judge.labels, run.judge.oracle)
    kept = ("final_state",) if (checks or local) and states_fit(run.system, run.rows) else ()
    wanted = run.with_(keep=("summary", "path", *kept))
    if fixed:
        ensemble = sample_stored(wanted, batch_size=batch_size, progress=progress, store=store)
    else:
        ensemble = at.sample_until_decided(wanted, batch_size=batch_size, progress=progress, store=store)
    groups = {"ensemble": ensemble.drop_vars("final_state", errors="ignore")}
    parts: dict[str, Callable[..., xr.Dataset]] = {
        "basins": at.basins,
        "alignment": at.alignment,
        "modes": at.modes,
        "signals": at.signals,
    }
    with tqdm(parts.items(), desc="verdict", unit="part", **shown(progress)) as bar:
        groups |= {name: part(ensemble) for name, part in bar}
    if local:
        groups["spectrum"] = at.local_dynamics(
            run, ensemble, groups["basins"], tol=TOLERANCE, progress=progress is True
        )
    if checks:
        groups |= run_checks(run, ensemble, batch_size=batch_size, progress=progress is True)
        groups |= borders(run, ensemble, groups, derivatives=local)
        groups |= commit_where_none_is_right(run, groups["modes"], batch_size=batch_size)
    return groups


def archive_groups(results: dict[str, dict[str, Any]]) -> dict[str, xr.Dataset]:
    """Lay out the archive of one or several diagnoses, name to groups.

    The first checkpoint's groups stand at the root (`/ensemble`, ...), each further one's below its name
    (`/<name>/ensemble`, ...), changed where a group cannot have that name.
    """
    first, *others = results
    reserved = {*read_schema().groups, *(group for found in results.values() for group in found)}
    where = group_names(others, reserved)
    groups = dict(results[first])
    for name in others:
        groups |= {f"{where[name]}/{group}": dataset for group, dataset in results[name].items()}
    return groups
