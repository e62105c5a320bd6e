"""The law that runs start by, and the look at a system's promises on a few of the rows that are about to be run."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import tensor_of
from eqrlab.attractors.ensemble.place import Place
from eqrlab.core import System
from eqrlab.core.models.contract import Law, check_rows, check_step, encoded, is_known, require_state, started
from eqrlab.core.models.system import cast_floating, take_rows
from eqrlab.core.random import puzzle_keys, restart_keys

OWN, GIVEN = "restart law of the system", "given starts"
_PUZZLES, _ROWS = 2, 4  # that are looked at


@torch.no_grad()
def check_system(
    system: System,
    tokens: Tensor,
    identifiers: Tensor | None = None,
    *,
    initial: Tensor | Law | None,
    restarts: int,
    first_restart: int,
    seed: int,
    noisy: bool,
    place: Place,
) -> None:
    """Check that a system obeys the rules on a few of the rows that are about to be run.

    Parameters
    ----------
    tokens, identifiers
        All puzzles (P, L), and their identifiers (P,).
    initial, restarts, first_restart, seed, noisy, place
        Of the run.

    Raises
    ------
    ValueError
        With one sentence: which promise is broken, and how to mend it.

    Notes
    -----
    The rules: the restart law draws only from its generator; encode, step and decode return equal results for equal
    arguments, modify none of them, and treat every row separately; the state keeps its shape and dtype.  Families of
    this package obey them and are not checked.  Cost: two starts and at most five steps of four rows, once.
    """
    system = copy.copy(system)  # one that counts its calls goes on counting those of the run only
    own = isinstance(initial, Tensor) or initial is None
    if is_known(system) and own:
        return
    few, known = tokens[:_PUZZLES], None if identifiers is None else identifiers[:_PUZZLES]
    keys = puzzle_keys(seed, few, known)
    device, dtype = place.device, place.dtype
    x = cast_floating(encoded(system, few.to(device), known), dtype, device)
    many = len(few)
    places = [(i % many, i // many) for i in range(_ROWS)]
    if isinstance(initial, Tensor):
        places = [place for place in places if place[1] < restarts]
        z = require_state(initial[tuple(torch.tensor(places).T)], "initial")
    else:
        z = started(law_of(initial, system), x, [(p, first_restart + r, keys[p]) for p, r in places])
    if is_known(system):
        return
    z = z.to(device=device, dtype=dtype or z.dtype)
    puzzle = torch.tensor([p for p, _ in places], device=device)
    check_rows(system, take_rows(x, puzzle), z)
    if noisy:
        mine = torch.tensor([keys[p] for p, _ in places], dtype=torch.int64)
        row_keys = restart_keys(mine, torch.tensor([first_restart + r for _, r in places])).to(device)
        check_step(system, take_rows(x, puzzle), z, row_keys)


def law_of(initial: Law | None, system: System) -> Law:
    """Return a restart law, None: that of the system.

    Raises
    ------
    ValueError
        For starts that are given, where they have to be drawn.
    """
    if initial is not None and not callable(initial):
        raise ValueError(
            f"initial must be None or a callable (x, generator) -> z, since starts are drawn here, got a "
            f"{type(initial).__name__}"
        )
    return system.initial if initial is None else initial


def law_name(initial: Tensor | Law | None) -> str:
    """Return the name under which an ensemble records how its starts were drawn."""
    if isinstance(initial, Tensor):
        return GIVEN
    return OWN if initial is None else getattr(initial, "__name__", "callable")


def starts_of(system: System, initial: Tensor | Law | None) -> dict[str, Any]:
    """Return the attributes by which a result records how its starts were drawn."""
    config = getattr(system, "config", None)
    stds = [getattr(config, k) for k in ("H_init_std", "L_init_std") if hasattr(config, k)]
    return {"initial_law": law_name(initial), "init_std": stds if initial is None and stds else "none"}


def require_law(ensemble: xr.Dataset, initial: Tensor | Law | None) -> None:
    """Refuse to draw runs of an ensemble again from another restart law than its own.

    Raises
    ------
    ValueError
        If the name of the law differs.
    """
    recorded = str(ensemble.attrs.get("initial_law", law_name(None)))
    if recorded != law_name(initial):
        raise ValueError(
            f"the ensemble was sampled with initial = {recorded}, not {law_name(initial)}: pass the same `initial`"
        )


def as_starts(initial: Any) -> Any:
    """Return starts given as an array or a tensor as a tensor; laws and None are returned as they are."""
    return tensor_of(initial, "initial") if isinstance(initial, (Tensor, np.ndarray)) else initial
