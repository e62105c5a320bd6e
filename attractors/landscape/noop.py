"""Does the map do anything?  A zero residual may mean that z is returned unchanged, or that the answer ignores it."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import distinct, identifiers_of, require_integers, tokens_of
from eqrlab.attractors.ensemble.contract import law_of, starts_of
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.options import AnswerOptions, check_options
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.fates.fate import state_scale
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.models.contract import draw_starts, require_system
from eqrlab.core.models.system import take_rows
from eqrlab.core.random import puzzle_keys

STILL = 1e-6  # a first step shorter than this, relative to the state, is none
SURVIVES = 0.1  # the start survives when the end remembers it by this share, or more


@torch.no_grad()
def noop_test(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    restarts: int = 8,
    depth: int = 64,
    initial: Law | None = None,
    **options: Unpack[AnswerOptions],
) -> xr.Dataset:
    """Check that the map moves the state, forgets its start, and reads its input, puzzle by puzzle.

    Parameters
    ----------
    system, inputs
        The system and its puzzles (P, L).
    restarts, depth
        Starts of every puzzle, at least 2, and outer steps of each run, with noise off.
    initial
        Restart law, as in `sample`.
    **options
        `identifiers`, `labels`, `seed`, `batch_size`, `dtype`, `device`, `progress`, see `AnswerOptions`.

    Returns
    -------
    xarray.Dataset
        Over puzzle: `moved` = median relative length of the first step; `memory` = share of the differences
        between starts that reappears, with place and sign, in the end states; `input_effect` = median relative
        distance of the end states of the same start under the inputs of this puzzle and of the next, in the order
        of their tokens, NaN where all puzzles are the same.  Conclusions from them: `acts` (the state moved),
        `z_survives`, `blind` (the input of the next puzzle gives the same end states; False where all puzzles are
        the same), `answer_fixed` (all starts, before any step, decode to the final answer).

    Raises
    ------
    ValueError
        For fewer than two restarts, or what `sample` refuses.

    Notes
    -----
    Memory is the slope of the regression of end states on starts, over all coordinates at once: 1 for the
    identity, near 0 if the start is forgotten.  With coexisting attractors the end depends on the start through
    its basin; differences are therefore taken around the mean of the restarts that end with the same answer, if
    there are several. All puzzles get the same starts.

    Cost: P * restarts * depth steps.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> start = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
    >>> idle = MapSystem(lambda z, x: z * 1.0, start)
    >>> noop_test(idle, torch.zeros(1, 1, dtype=torch.long)).acts.values.tolist()
    [False]
    """
    check_options(options, AnswerOptions, noop_test)
    require_system(system)
    tokens = tokens_of(inputs, "inputs")
    require_integers(2, restarts=restarts)
    known = identifiers_of(options.get("identifiers"), len(tokens))
    place = Place.of(system, options.get("device"), options.get("dtype"))
    first_puzzle, other = _others(tokens, known)
    z, x = _starts(system, (tokens, known), first_puzzle, restarts, options.get("seed", 0), initial, place)
    shape = (len(tokens), restarts)
    quiet: dict[str, Any] = {
        **options, "restarts": restarts, "depth": depth, "noise": 0.0, "keep": ("summary", "final_state"),
        "retire": True,
        "initial": z.reshape(*shape, *z.shape[1:]),
    }  # fmt: skip
    ensemble = sample(system, tokens, **{**quiet, "identifiers": known})
    begin = z.flatten(1).cpu().double().numpy().reshape(*shape, -1)
    end = ensemble.final_state.values.astype(float).reshape(*shape, -1)
    # All puzzles have the same starts: a start's end under another input is that puzzle's end from that start.
    swapped = end[other]
    with np.errstate(over="ignore", invalid="ignore"):  # ends of runs that diverge
        scale = state_scale(np.linalg.norm(end, axis=2).reshape(-1, 1)).reshape(shape)
        length = ensemble["update"].values[:, :, 0] / np.maximum(np.linalg.norm(begin, axis=2), 1e-300)
        effect = np.median(np.linalg.norm(swapped - end, axis=2) / scale, axis=1)
    moved = np.median(length, axis=1)
    judge = Judge.of_ensemble(ensemble).of(np.repeat(np.arange(len(tokens)), restarts))
    last = ensemble.answer.values.reshape(len(z), -1)
    answer, first = (judge.codes(a).reshape(shape) for a in (last, system.decode(z, x).cpu().numpy()))
    memory = np.array([_memory(*rows) for rows in zip(begin, end, answer, strict=True)])
    fixed = (first == answer).all(1) & (answer == answer[:, :1]).all(1)
    single = bool((other == first_puzzle).all())  # all puzzles are the same
    each = ("puzzle",)
    variables: dict[str, schema.Variable] = {
        "moved": (each, moved, "median relative length of the first step"),
        "memory": (each, memory, "share of the differences between starts found again in the ends"),
        "input_effect": (each, np.full(len(tokens), np.nan) if single else effect,
                         "median relative distance between ends under this input and the next"),
        "acts": (each, moved > STILL, "the first step moves the state"),
        "z_survives": (each, memory > SURVIVES, "the start can be read off the end"),
        "blind": (each, np.zeros(len(tokens), bool) if single else effect < STILL, "another input gives the same ends"),
        "answer_fixed": (each, fixed, "every start decodes to the final answer before any step"),
    }  # fmt: skip
    attributes = {
        **schema.carried(ensemble), **starts_of(system, initial), "still": STILL, "survives": SURVIVES,
    }  # fmt: skip
    return schema.dataset(variables, attributes)


def _others(tokens: Tensor, known: Tensor | None) -> tuple[int, np.ndarray]:
    """Return the first puzzle in the order of tokens, and for each puzzle (P,) the next different one in that order."""
    number, place = distinct(tokens, known)
    return int(number[0]), number[(place + 1) % len(number)]


def _starts(
    system: System,
    puzzles: tuple[Tensor, Tensor | None],
    first: int,
    restarts: int,
    seed: int,
    initial: Law | None,
    place: Place,
) -> tuple[Tensor, Any]:
    """Return starts and contexts of all rows, for every puzzle the starts of the first one in the order of tokens."""
    system = place.bring(system)
    tokens, known = puzzles
    x = place.context(system, tokens, known)
    one = slice(first, first + 1)
    key = puzzle_keys(seed, tokens[one], None if known is None else known[one])[0]
    z = draw_starts(law_of(initial, system), x, first, key, restarts).to(
        device=place.device, dtype=place.dtype
    )
    every = torch.arange(len(tokens), device=place.device).repeat_interleave(restarts)
    return z.repeat(len(tokens), *[1] * (z.ndim - 1)), take_rows(x, every)


def _memory(begin: np.ndarray, end: np.ndarray, answer: np.ndarray) -> float:
    """Return the share of the differences between starts (B, d) that is found again in the ends (B, d).

    `answer` (B,) tells answers apart.
    """
    _, group = np.unique(answer, return_inverse=True)
    keep = np.bincount(group)[group] > 1
    if not keep.any() or not np.isfinite(end).all():
        keep = np.isfinite(end).all(1)
        group = np.zeros(len(group), int)
    if keep.sum() < 2:
        return float("nan")
    begin, end, group = begin[keep], end[keep], group[keep]
    a, b = (_centred(v, group) for v in (begin, end))
    total = (a**2).sum()
    return float(max(0.0, (a * b).sum() / total)) if total > 0 else float("nan")


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    means = np.stack(
        [values[group == g].mean(0) if (group == g).any() else 0 * values[0] for g in range(group.max() + 1)]
    )
    return values - means[group]
