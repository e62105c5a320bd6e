"""Trajectories of a batch of rows: states, noise-free residuals, answers, and what is recorded of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.certainty import certainty
from eqrlab.attractors.ensemble.contract import draw_start, require_state
from eqrlab.attractors.ensemble.judge import Answers
from eqrlab.attractors.ensemble.recipe import FEATURES, PATH_FEATURES, TRACE, Recipe
from eqrlab.attractors.ensemble.schedule import measured_steps
from eqrlab.core import KeyedNoise, System
from eqrlab.core.models.products import weights_held
from eqrlab.core.models.reasoner import cast_floating, take_rows
from eqrlab.core.random import restart_generator, restart_keys

TRACE_SEED = 0x7ACE  # of the projection of sketches to the few numbers that are kept of every step


class Moment(NamedTuple):
    """A batch after `step` outer steps: state (n, ...), norms (n,) of residual, update and state."""

    step: int
    z: Tensor
    residual: Tensor
    update: Tensor
    norm: Tensor


def norm(z: Tensor) -> Tensor:
    """Return the 2-norm (n,) of each row over the whole state, in float32 or better."""
    flat = z.flatten(1)
    return torch.linalg.vector_norm(flat if flat.dtype == torch.float64 else flat.float(), dim=1)


def iterate(
    system: System,
    x: Any,
    z: Tensor,
    depth: int,
    keys: Tensor | None,
    before: int = 0,
    measured: np.ndarray | None = None,
) -> Iterator[Moment]:
    """Yield the batch after 1, 2, ..., `depth` outer steps from the starts z.

    Parameters
    ----------
    keys
        (n,) int64 row keys of the noise, or None for none.
    before
        Outer steps taken before z: noise is keyed by the number of the step since the start.
    measured
        (depth,) bool: steps at which a residual that costs an evaluation is measured, others are NaN; None: all.

    Notes
    -----
    The residual is that of the deterministic map at the state reached, in float32 or better.  Without noise it is the
    next update and costs nothing; with noise, or a state in half precision, it costs one more evaluation a step.
    """
    half = z.dtype in (torch.float16, torch.bfloat16)
    if keys is None and not half:
        previous, z = z, _checked(system.step(z, x), z)
        for t in range(1, depth + 1):
            following = system.step(z, x)
            yield Moment(t, z, norm(following - z), norm(z - previous), norm(z))
            previous, z = z, following
        return
    precise_x = cast_floating(x, torch.float32, None) if half else x
    for t in range(1, depth + 1):
        previous, z = (
            z,
            _checked(system.step(z, x, None if keys is None else KeyedNoise(keys, before + t)), z),
        )
        size = norm(z)
        if measured is None or measured[t - 1]:
            precise = z.float() if half else z
            residual = norm(system.step(precise, precise_x) - precise)
        else:
            residual = torch.full_like(size, torch.nan)
        update = norm(z.float() - previous.float()) if half else norm(z - previous)
        yield Moment(t, z, residual, update, size)


def _checked(following: Tensor, z: Tensor) -> Tensor:
    if following.shape != z.shape or following.dtype != z.dtype:
        found = f"{tuple(following.shape)} of {following.dtype}"
        raise ValueError(f"step must return a state of shape {tuple(z.shape)} and {z.dtype}, got {found}")
    return following


class Sketch:
    """A fixed random projection of states to a few numbers that keeps distances.

    A state of at most `features` numbers is kept as it is.  Larger ones meet a Gaussian matrix scaled so that squared
    distances are right on average; their relative standard deviation is sqrt(2 / features).

    References
    ----------
    Johnson & Lindenstrauss 1984; Indyk & Motwani 1998.
    """

    def __init__(
        self, size: int, features: int, dtype: torch.dtype, device: torch.device, seed: int = 0x5EED
    ):
        self.size, self.dtype = min(size, features), dtype
        self.matrix: Tensor | None = None
        if size > features:
            generator = torch.Generator().manual_seed(seed)
            matrix = torch.randn((size, features), generator=generator) / math.sqrt(features)
            self.matrix = matrix.to(device=device, dtype=dtype)

    def __call__(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return flat.to(self.dtype, copy=True) if self.matrix is None else flat.to(self.dtype) @ self.matrix


def starts(
    recipe: Recipe, x: Any, puzzles: np.ndarray, restarts: np.ndarray, keys: Mapping[int, int]
) -> Tensor:
    """Return the starts (n, *state_shape) of rows (puzzle, restart), each drawn from a generator of its own."""
    if isinstance(recipe.initial, Tensor):
        z = require_state(recipe.initial[torch.as_tensor(puzzles), torch.as_tensor(restarts)], "initial")
    else:
        law = recipe.system.initial if recipe.initial is None else recipe.initial
        z = torch.cat(
            [
                draw_start(
                    law,
                    take_rows(x, slice(i, i + 1)),
                    restart_generator(keys[p], recipe.first_restart + int(r)),
                )
                for i, (p, r) in enumerate(zip(puzzles, restarts, strict=True))
            ]
        )
    return z.to(device=recipe.place.device, dtype=recipe.place.dtype or z.dtype)


def _counted(recipe: Recipe, puzzles: np.ndarray) -> Tensor | None:
    """Return which cells of the answers of rows count, (n, S) bool; None: all, where there are no labels."""
    labels = recipe.judge.labels
    return None if labels is None else torch.as_tensor(labels[puzzles] != 0, device=recipe.place.device)


@torch.no_grad()
@weights_held()
def run_rows(recipe: Recipe, rows: np.ndarray, tick: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Run rows (flat index puzzle * restarts + restart) and return what was recorded, row axis first."""
    puzzles, restarts = np.divmod(rows, recipe.restarts)
    # Contexts are encoded once for each puzzle of the batch, then copied to its rows.
    present, place = np.unique(puzzles, return_inverse=True)
    tokens = recipe.inputs[torch.as_tensor(present)]
    keys = dict(zip(present.tolist(), recipe.keys(present), strict=True))
    device, keep = recipe.place.device, recipe.keep
    x = take_rows(recipe.context(present), torch.as_tensor(place, device=device))
    z = starts(recipe, x, puzzles, restarts, keys)
    row_keys = None
    # Keys of the noise belong to (puzzle, restart), not to the place in the batch: so batches may be cut anywhere.
    if recipe.noise > 0:
        mine = torch.tensor([keys[int(p)] for p in puzzles], dtype=torch.int64)
        row_keys = restart_keys(mine, torch.as_tensor(restarts) + recipe.first_restart).to(device)
    halt_logit = getattr(recipe.system, "halt_logit", None)
    sketch = Sketch(
        z[0].numel(), FEATURES, torch.float64 if z.dtype == torch.float64 else torch.float32, z.device
    )
    coarse = (
        Sketch(sketch.size, TRACE, sketch.dtype, z.device, seed=TRACE_SEED) if "summary" in keep else None
    )
    answers = Answers(recipe.judge.of(puzzles), tokens.numpy()[place])
    read_logits, counted = getattr(recipe.system, "logits", None), _counted(recipe, puzzles)
    lists: dict[str, list[Tensor]] = {
        k: []
        for k in (
            "residual", "update", "norm", "ring", "trace", "path", "halt", "entropy", "margin", "logit_delta",
            "states",
        )
    }  # fmt: skip
    measured = measured_steps(recipe.residuals, recipe.depth, recipe.before)
    logits = None
    for moment in iterate(recipe.system, x, z, recipe.depth, row_keys, recipe.before, measured):
        lists["residual"].append(moment.residual)
        lists["update"].append(moment.update)
        lists["norm"].append(moment.norm)
        answers.see(recipe.system.decode(moment.z, x))
        if halt_logit is not None:
            lists["halt"].append(halt_logit(moment.z, x).float())
        if read_logits is not None:
            before, logits = logits, read_logits(moment.z, x)
            for name, values in zip(("entropy", "margin"), certainty(logits, counted), strict=True):
                lists[name].append(values)
            if "logit_delta" in keep:
                logits = logits.float()
                change = torch.full_like(logits, torch.nan) if before is None else logits - before
                lists["logit_delta"].append(torch.linalg.vector_norm(change, dim=-1).mean(1))
        # Whole states are never kept for the fates: projections of all steps (coarse) and of the last ones (fine).
        in_window = moment.step > recipe.depth - recipe.window
        if in_window or "path" in keep or coarse is not None:
            short = sketch(moment.z)
            if in_window:
                lists["ring"].append(short)
            if coarse is not None:
                lists["trace"].append(coarse(short))
            if "path" in keep:
                lists["path"].append(short[:, :PATH_FEATURES].float())
        if "trajectory" in keep or ("final_state" in keep and moment.step == recipe.depth):
            # A copy, since the iteration may reuse the memory of the state; on the host, since all steps may be kept.
            lists["states"].append(moment.z.to("cpu", copy=True))
        tick(len(rows))
    recorded = {
        name: torch.stack(parts, dim=1).cpu().numpy()
        for name, parts in lists.items()
        if parts and name != "states"
    }
    if lists["states"]:
        recorded["states"] = (
            torch.stack(lists["states"], dim=1)
            .to(torch.float64 if z.dtype == torch.float64 else torch.float32)
            .numpy()
        )
    return {**recorded, **answers.recorded()}
