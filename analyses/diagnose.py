"""The main job: sample a checkpoint's trajectories, find its attractors, and say which landscape each puzzle is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.studies.checks import run_checks, states_fit
from eqrlab.analyses.text.names import group_names
from eqrlab.attractors.dynamics.at_attractors import local_dynamics
from eqrlab.attractors.results.validate import schema_tables
from eqrlab.core import System


def diagnose(
    system: System,
    inputs: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    restarts: int = 64,
    depth: int = 64,
    seed: int = 0,
    noise: float | None = None,
    initial: Callable[[Any, torch.Generator], torch.Tensor] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    local: bool = False,
    checks: bool = False,
    progress: bool | Callable[[int, int], None] = False,
) -> dict[str, xr.Dataset]:
    """Diagnose the landscape of a system on some puzzles.

    Parameters
    ----------
    system
        What to diagnose, usually a loaded `Reasoner`.
    inputs, labels
        Puzzles and solutions (P, L), integer tokens.
    oracle
        Decides correctness, see `attractors.sample`.
    restarts, depth, seed, noise, initial, device, dtype, batch_size, progress
        See `attractors.sample`.

    local
        Also examine the map at the largest right and wrong attractor of each puzzle, see
        `attractors.local.local_dynamics`; the map must be differentiable.
    checks
        Also follow some runs to twice the depth, test whether the map acts, and move the thresholds of the modes, see
        `analyses.checks`.

    Returns
    -------
    dict
        The groups of the archive: `ensemble`, `basins`, `alignment`, `modes`; `spectrum` with `local`;
        `outcomes`, `noop` and `sensitivity` with `checks`.
    """
    kept = (checks or local) and states_fit(system, len(inputs) * restarts)
    ensemble = at.sample(
        system,
        torch.as_tensor(inputs),
        labels=labels,
        oracle=oracle,
        restarts=restarts,
        depth=depth,
        seed=seed,
        noise=noise,
        initial=initial,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        keep=("summary", "path", *(["final_state"] if kept else [])),
        progress=progress,
    )
    groups = {
        "ensemble": ensemble.drop_vars("final_state", errors="ignore"),
        "basins": at.basins(ensemble),
        "alignment": at.alignment(ensemble),
        "modes": at.modes(ensemble),
    }
    if local:
        tokens = torch.as_tensor(inputs)
        groups["spectrum"] = local_dynamics(
            system, tokens, ensemble, groups["basins"], initial=initial, device=device
        )
    if checks:
        groups |= run_checks(
            system, inputs, ensemble, oracle=oracle, initial=initial, device=device, batch_size=batch_size
        )
    return groups


def archive_groups(results: dict[str, dict[str, Any]]) -> dict[str, xr.Dataset]:
    """Lay out the archive of one or several diagnoses, name to groups.

    The first checkpoint's groups stand at the root (`/ensemble`, ...), each further one's below its name
    (`/<name>/ensemble`, ...), changed where a group cannot have that name.
    """
    first, *others = results
    reserved = {*schema_tables()[1], *(group for found in results.values() for group in found)}
    where = group_names(others, reserved)
    groups = dict(results[first])
    for name in others:
        groups |= {f"{where[name]}/{group}": dataset for group, dataset in results[name].items()}
    return groups
