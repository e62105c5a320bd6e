"""Trajectories of a batch of rows: states, noise-free residuals, answers, and the records made of them."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.certainty import certainty
from eqrlab.attractors.ensemble.contract import law_of
from eqrlab.attractors.ensemble.judge import Answers
from eqrlab.attractors.ensemble.recipe import FEATURES, PATH_FEATURES, TRACE, Recipe
from eqrlab.attractors.ensemble.running import Running
from eqrlab.attractors.ensemble.schedule import measured_steps
from eqrlab.core import KeyedNoise, System
from eqrlab.core.labels import counts
from eqrlab.core.models.contract import draw_start, require_state
from eqrlab.core.models.products import weights_held
from eqrlab.core.models.system import cast_floating, take_rows
from eqrlab.core.random import restart_generator, restart_keys

TRACE_SEED = 0x7ACE  # of the projection of sketches to the few numbers that are kept of every step


class Moment(NamedTuple):
    """A batch after `step` outer steps: state (n, ...), norms (n,) of residual, update and state."""

    step: int
    z: Tensor
    residual: Tensor
    update: Tensor
    norm: Tensor


def norms(z: Tensor, *moves: Tensor) -> list[Tensor]:
    """Return the 2-norms (n,) of the rows of states, and of moves between states, in float32 or better.

    Where squares of the entries of a state, or of a rounding of it, leave the range of the precision, each row is
    divided by its largest entry first.
    """
    flats = [v.flatten(1) if v.dtype == torch.float64 else v.flatten(1).float() for v in (z, *moves)]
    sizes = [torch.linalg.vector_norm(flat, dim=1) for flat in flats]
    info = torch.finfo(flats[0].dtype)
    least = (info.tiny / info.eps) ** 0.5 / info.eps
    plain = (sizes[0] >= least) & (sum(sizes[1:], sizes[0]) < math.inf)
    if plain.all():
        return sizes
    return [torch.where(plain, size, _scaled_norm(flat)) for size, flat in zip(sizes, flats, strict=True)]


def _scaled_norm(flat: Tensor) -> Tensor:
    largest = flat.abs().amax(1)
    unit = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    return unit * torch.linalg.vector_norm(flat / unit[:, None], dim=1)


class Iteration:
    """A batch taken from its starts step by step; rows may leave it.

    Parameters
    ----------
    system, x, z
        The map, the contexts of n rows, and their starts (n, *state_shape).
    keys
        (n,) int64 row keys of the noise, or None for none.
    before
        Outer steps taken before z: noise is keyed by the number of the step since the start.
    measured
        (depth,) bool: steps at which a residual that costs an evaluation is measured, others are NaN; None: all.

    Notes
    -----
    The residual is that of the deterministic map at the state reached, in float32 or better.  Without noise it is the
    next update and costs nothing; with noise, or a state in half precision, it costs one more evaluation per step.
    """

    def __init__(
        self,
        system: System,
        x: Any,
        z: Tensor,
        keys: Tensor | None,
        before: int = 0,
        measured: np.ndarray | None = None,
    ):
        self.system, self.x, self.z, self.keys, self.before = system, x, z, keys, before
        self.measured, self.taken = measured, 0
        self.half = z.dtype in (torch.float16, torch.bfloat16)
        self.precise_x = cast_floating(x, torch.float32, None) if self.half else x
        self._following: Tensor | None = None  # the next state, where the residual has asked for it already

    def advance(self) -> Moment:
        """Take the next step."""
        self.taken += 1
        previous, z = self.z, self._following
        if z is None:
            noise = None if self.keys is None else KeyedNoise(self.keys, self.before + self.taken)
            z = checked(self.system.step(previous, self.x, noise), previous)
        self.z = z
        update = z.float() - previous.float() if self.half else z - previous
        if self.keys is None and not self.half:
            self._following = self.system.step(z, self.x)
            size, update, residual = norms(z, update, self._following - z)
        elif self.measured is None or self.measured[self.taken - 1]:
            precise = z.float() if self.half else z
            size, update, residual = norms(z, update, self.system.step(precise, self.precise_x) - precise)
        else:
            size, update = norms(z, update)
            residual = torch.full_like(size, torch.nan)
        return Moment(self.taken, z, residual, update, size)

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows (m,) only."""
        self.z, self.x = self.z[rows], take_rows(self.x, rows)
        self.precise_x = take_rows(self.precise_x, rows) if self.half else self.x
        self.keys = None if self.keys is None else self.keys[rows]
        self._following = None if self._following is None else self._following[rows]


def checked(following: Tensor, z: Tensor) -> Tensor:
    """Return what a step made of states z; raise ValueError if it has another shape or dtype."""
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
    """Return the starts (n, *state_shape) of rows (puzzle, restart), each drawn from its own generator."""
    if isinstance(recipe.initial, Tensor):
        z = require_state(recipe.initial[torch.as_tensor(puzzles), torch.as_tensor(restarts)], "initial")
    else:
        law = law_of(recipe.initial, recipe.system)
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
    """Return which cells of the answers of rows count, (n, S) bool; None, without labels: all."""
    labels = recipe.judge.labels
    return None if labels is None else torch.as_tensor(counts(labels[puzzles]), device=recipe.place.device)


class Observer:
    """Computes the records of the states of rows, which belong to these puzzles (n,)."""

    def __init__(self, recipe: Recipe, puzzles: np.ndarray, z: Tensor):
        self.recipe, self.keep = recipe, recipe.keep
        kind = torch.float64 if z.dtype == torch.float64 else torch.float32
        self.sketch = Sketch(z[0].numel(), FEATURES, kind, z.device)
        self.coarse = (
            Sketch(self.sketch.size, TRACE, kind, z.device, seed=TRACE_SEED)
            if "summary" in self.keep
            else None
        )
        self.halt_logit = getattr(recipe.system, "halt_logit", None)
        self.read_logits, self.counted = getattr(recipe.system, "logits", None), _counted(recipe, puzzles)
        self.logits: Tensor | None = None

    def __call__(self, moment: Moment, x: Any) -> dict[str, Tensor]:
        """Return the records of rows (m, ...) with their contexts, by name, row axis first."""
        z = moment.z
        seen = {"residual": moment.residual, "update": moment.update, "norm": moment.norm}
        seen["answer"] = self.recipe.system.decode(z, x)
        if self.halt_logit is not None:
            seen["halt"] = self.halt_logit(z, x).float()
        if self.read_logits is not None:
            before, self.logits = self.logits, self.read_logits(z, x)
            seen |= zip(("entropy", "margin"), certainty(self.logits, self.counted), strict=True)
            if "logit_delta" in self.keep:
                logits = self.logits = self.logits.float()
                change = torch.full_like(logits, torch.nan) if before is None else logits - before
                seen["logit_delta"] = torch.linalg.vector_norm(change, dim=-1).mean(1)
        # Whole states are never kept for the fates: projections of all steps (coarse) and of the last ones (fine).
        late = moment.step > self.recipe.depth - self.recipe.window
        if late or "path" in self.keep or self.coarse is not None or self.recipe.retire:
            short = seen["short"] = self.sketch(z)
            if self.coarse is not None:
                seen["trace"] = self.coarse(short)
            if "path" in self.keep:
                seen["path"] = short[:, :PATH_FEATURES].float()
        if {"trajectory", "final_state"} & set(self.keep):
            seen["state"] = z
        return seen

    def go_on(self, rows: Tensor) -> None:
        """Continue with these rows (m,) only."""
        self.logits = None if self.logits is None else self.logits[rows]
        self.counted = None if self.counted is None else self.counted[rows]


@torch.no_grad()
@weights_held()
def run_rows(recipe: Recipe, rows: np.ndarray, tick: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Run rows (flat index puzzle * restarts + restart) and return their records, row axis first."""
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
    observer = Observer(recipe, puzzles, z)
    answers = Answers(recipe.judge.of(puzzles), tokens.numpy()[place])
    running = Running(len(rows), recipe, z.dtype)
    measured = measured_steps(recipe.residuals, recipe.depth, recipe.before)
    batch = Iteration(recipe.system, x, z, row_keys, recipe.before, measured)
    lists: dict[str, list[Tensor]] = defaultdict(list)
    ring: deque[Tensor] = deque(maxlen=recipe.window)
    for step in range(1, recipe.depth + 1):
        if len(running.left):
            running.take(observer(batch.advance(), batch.x))
        last = running.last
        answers.see(last["answer"])
        for name in last.keys() - {"answer", "short", "state"}:
            lists[name].append(last[name])
        if "short" in last:
            ring.append(last["short"])
        if "trajectory" in keep or ("final_state" in keep and step == recipe.depth):
            # A copy, since the iteration may reuse the memory of the state; on the host, since all steps may be kept.
            lists["states"].append(last["state"].to("cpu", copy=True))
        if recipe.retire and step < recipe.depth:
            stay = running.retire(answers.unchanged, step)
            if stay is not None:
                batch.keep(stay)
                observer.go_on(stay)
        tick(len(rows))
    lists["ring"] = list(ring)
    recorded = {
        name: torch.stack(parts, dim=1).cpu().numpy() for name, parts in lists.items() if name != "states"
    }
    if lists["states"]:
        recorded["states"] = (
            torch.stack(lists["states"], dim=1)
            .to(torch.float64 if z.dtype == torch.float64 else torch.float32)
            .numpy()
        )
    if recipe.retire:
        recorded["retired"] = running.retired
    return {**recorded, **answers.recorded()}
