"""Borders of basins at the most telling puzzles: basin radius, duels, and the clues that hold the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.text.telling import telling_puzzles
from eqrlab.attractors.dynamics.at_attractors import POINTS, representatives
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.results import schema
from eqrlab.datasets.registry.lookup import known_task

MOST = 3  # puzzles
DIRECTIONS, ANSWERS, PAIRS, DEPTH = 8, 3, 8, 64
GROUPS = ("radius", "duels", "clues")


def borders(
    run: at.Run, ensemble: xr.Dataset, groups: dict[str, xr.Dataset], *, derivatives: bool
) -> dict[str, xr.Dataset]:
    """Measure radius and duels at the most telling puzzles, and which clues hold the answers.

    Parameters
    ----------
    run, ensemble
        With `final_state` kept; without it nothing is measured.
    groups
        `basins` and `modes` of the ensemble.
    derivatives
        Whether the map is differentiable, so that clues can be examined.

    Returns
    -------
    dict
        Groups `radius`, `duels` and, for tasks whose blank cells are known, `clues`; over these puzzles, at the
        largest right and wrong attractor of each.
    """
    if "final_state" not in ensemble:
        return {}
    chosen = np.array([p for p, _ in telling_puzzles(groups)][:MOST])
    few, basins = ensemble.isel(puzzle=chosen), groups["basins"].isel(puzzle=chosen)
    attractor, restart = representatives(few, basins)
    states = few.final_state.values[np.arange(len(chosen))[:, None], np.maximum(restart, 0)]
    states[attractor < 0] = np.nan
    tokens, z = run.inputs[torch.as_tensor(chosen)], torch.as_tensor(states)
    known = None if run.identifiers is None else run.identifiers[torch.as_tensor(chosen)]
    common: dict[str, Any] = {"seed": run.seed, "device": run.place.device, "identifiers": known}
    depth = min(DEPTH, ensemble.sizes["step"])
    found: dict[str, xr.Dataset] = {
        "duels": at.duels(
            run.system, tokens, at.common_restarts(few), answers=ANSWERS, pairs=PAIRS, depth=depth, **common
        )
    }
    if (attractor >= 0).any():
        found["radius"] = at.basin_radius(
            run.system,
            tokens,
            z,
            directions=DIRECTIONS,
            depth=depth,
            tol=0.05,
            labels=Judge.of_ensemble(few).labels,
            **common,
        )
        task = known_task(run.system)
        if derivatives and task is not None and task.blank is not None:
            smooth = getattr(run.system, "smooth", lambda: run.system)()
            found["clues"] = at.input_sensitivity(smooth, tokens, z, blank=task.blank, **common)
    labels = {"puzzle": ensemble.puzzle.values[chosen], "point": list(POINTS)}
    return {name: schema.relabelled(one, **labels) for name, one in found.items()}
