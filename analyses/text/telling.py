"""Which puzzles of a diagnosis are worth a closer look."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.attractors.results.schema import MODES


def telling_puzzles(groups: Mapping[str, xr.Dataset]) -> list[tuple[int, str]]:
    """Choose puzzles to show, with the reason: the likeliest example of each mode, and the most uncertain one.

    If modes are unknown: the puzzles with the most attractors, with the largest basin, and with the most runs
    that reach no attractor.  Ties go to the first.
    """
    chosen: dict[int, str] = {}
    basins = groups["basins"]
    if "modes" not in groups:
        largest = np.nan_to_num(basins["mass"].values).max(1)
        for score, reason in (
            (basins["attractors"].values, "most attractors"),
            (largest, "largest basin"),
            (basins["mass_none"].values, "most runs at no attractor"),
        ):
            chosen.setdefault(int(np.argmax(score)), reason)
        return list(chosen.items())
    modes = groups["modes"]
    code, chance = modes["mode"].values, modes["mode_probability"].values
    for m, letter in enumerate(MODES[:-1]):
        members = np.flatnonzero(code == m)
        if len(members):
            chosen[int(members[chance[members, m].argmax()])] = f"clearest example of mode ({letter})"
    surest = chance[:, :-1].max(1)
    if (code == MODES.index("undecided")).any() or not chosen:
        chosen.setdefault(int(surest.argmin()), "most uncertain verdict")
    if len(chosen) == 1 and len(code) > 1:  # one mode everywhere: show its least sure case too
        chosen.setdefault(int(surest.argmin()), "least sure verdict")
    return list(chosen.items())
