"""Does a run come back when it is pushed?  The evidence that a settled state is at an attractor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import require_integers, with_noise
from eqrlab.attractors.ensemble.batches import run_in_batches
from eqrlab.attractors.ensemble.iterate import Sketch
from eqrlab.attractors.ensemble.options import AnswerOptions, computing
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.ensemble.recipe import FEATURES, Recipe
from eqrlab.attractors.ensemble.sizes import least_lengths, require_lengths
from eqrlab.attractors.ensemble.states import Points, States
from eqrlab.attractors.fates.fate import LEAST, state_scale
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.random import restart_generator

RETURNS = ("returns", "leaves", "undecided", "not_tested")
SHRUNK = 0.1  # a perturbation is back when this share of it, or less, is left
GROWN = 1.0  # and has left when this much of it, or more, is left
MOVED = 0.1  # a twin that went further than this, relative to the scale, was not at rest
TURNS = 4096  # number space of the directions, so that no two points of a puzzle share one


def return_test(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    sizes: Sequence[float] = (1e-3, 1e-2, 1e-1),
    directions: int = 6,
    depth: int = 64,
    select: np.ndarray | None = None,
    **options: Unpack[AnswerOptions],
) -> xr.Dataset:
    """Push states a little and test whether state and answer come back to those of an unperturbed twin.

    Parameters
    ----------
    system, inputs
        The system and its puzzles (P, L).
    states
        (P, M, *state_shape), or an ensemble from `sample` or `prolong` with `final_state` kept.
    sizes
        Lengths of the perturbations relative to the scale, increasing: the norm of the state after `depth` more steps,
        but at least a thousandth of the largest norm of its run, or, of states without an ensemble, of the size of
        starts of the restart law.
    directions
        Random directions of each size; one more is bred, see Notes.
    depth
        Outer steps, noise off, after the perturbation, at least 8.
    select
        (P, M) bool: states to test, by default all that are finite.
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `AnswerOptions`.  Directions are keyed by (seed, input
        tokens, point, direction).

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point): `result` with flags `returns leaves undecided not_tested`, `margin` = the largest
        size up to which state and answer come back from every direction tried (0: none), `twin_moved` =
        distance of the twin from its first state, relative to the scale, beyond its own recurrence.  Over
        (puzzle, point, size, direction): `left` = share of the perturbation that is left, `answer_back`.

    Raises
    ------
    ValueError
        For sizes that are not positive and increasing, fewer than one direction or eight steps, misshapen states, and
        a state at zero of a system whose starts are zero, too.

    Notes
    -----
    The part of a push that is left is the smallest distance of the pushed state from the twin's last states (at most
    32), so that a return to a cycle at another phase counts as a return; for large states, distances are those of
    random projections.  A push is back if at most a tenth of it is left, or no more than the recurrence of the twin
    itself.  It has left if at least all of it is left, or the answer differs.  A state `returns` if all pushes of the
    smallest size are back with the twin's answer.  It `leaves` if one of them has left, or if the twin itself went away
    (by a tenth of the scale) or changed its answer, which means that it was passing a saddle.  Otherwise it is
    undecided, and more depth would decide.

    The bred direction is the difference that remains of the slowest random push of the smallest size.  States leave a
    saddle along it, even if one unstable direction is hidden among thousands of stable ones.

    The pushes are small: how far the basin reaches is another question.  Cost: (1 + (directions + 1) * sizes) * depth
    steps a state, fewer where states come to rest.

    References
    ----------
    Menck et al. 2013 (basin stability); Toth & Kalnay 1993 (breeding of growing differences).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.zeros(len(x), 1))
    >>> states = torch.tensor([[[0.957504], [1e-12]]], dtype=torch.float64)  # an attractor, and next to a saddle
    >>> return_test(system, torch.zeros(1, 1, dtype=torch.long), states).result.values.tolist()  # 0: returns, 1: leaves
    [[0, 1]]
    """
    own = computing(options, return_test, AnswerOptions)
    lengths = np.asarray(sizes, float)
    if lengths.ndim != 1 or not len(lengths) or (lengths <= 0).any() or (np.diff(lengths) <= 0).any():
        raise ValueError(f"sizes must be positive and increasing, got {sizes}")
    require_integers(directions=directions)
    require_integers(8, depth=depth)
    points = own.points(with_noise(system, 0.0)[0], inputs, states, finite=False)
    finite = points.z.flatten(1).isfinite().all(1).cpu().numpy()
    chosen = finite & (np.ones(len(finite), bool) if select is None else _flat(select, points.shape))
    rows = np.flatnonzero(chosen)
    total, kinds = len(finite), directions + 1
    left = np.full((total, len(lengths), kinds), np.nan)
    back = np.zeros((total, len(lengths), kinds), bool)
    moved = np.full(total, np.nan)
    stayed = np.ones(total, bool)
    if len(rows):
        run = _Twins(points, rows, depth, own.batch_size, own.progress)
        moved[rows], stayed[rows] = run.moved, run.stayed
        random = run.random_directions(directions, own.seed)
        bred = random[:, 0]
        for i, size in enumerate(lengths):
            left[rows, i, :directions], back[rows, i, :directions], ends = run.push(random, size)
            if i == 0:
                # What is left of the push that shrank least lies along the slowest direction, which random pushes
                # may miss: it is the last direction at every size.
                slowest = np.nan_to_num(left[rows, 0, :directions], nan=-1.0).argmax(1)
                difference = (ends[np.arange(len(rows)), torch.as_tensor(slowest)] - run.end).flatten(1)
                bred = _unit(difference, random[:, 0].flatten(1)).reshape(bred.shape)
            left[rows, i, -1:], back[rows, i, -1:], _ = run.push(bred[:, None], size)
    # The smallest size alone decides the result; larger ones only measure the margin.
    tried = back & (left <= SHRUNK)
    gone = ~back | (left >= GROWN) | ~np.isfinite(left)
    result = np.select(
        [~chosen, ~stayed | gone[:, 0].any(1), tried[:, 0].all(1)],
        [RETURNS.index(n) for n in ("not_tested", "leaves", "returns")],
        RETURNS.index("undecided"),
    ).astype(np.int8)
    reached = np.logical_and.accumulate(tried.all(2), axis=1).sum(1)
    margin = np.where(chosen, np.concatenate([[0.0], lengths])[reached], np.nan)
    axes, point = ("puzzle", "point", "size", "direction"), ("puzzle", "point")
    variables: dict[str, schema.Variable] = {
        "result": (point, points.fold(result), "whether the state returns after small pushes"),
        "margin": (point, points.fold(margin), "largest relative push after which all directions returned"),
        "twin_moved": (point, points.fold(moved), "distance from the tested state to the twin's last states, relative"),
        "left": (axes, points.fold(left), "share of the push that is left"),
        "answer_back": (axes, points.fold(back), "the answer at the end is the twin's"),
    }  # fmt: skip
    names = [f"random {i + 1}" for i in range(directions)] + ["bred"]
    attributes = points.attributes(depth=depth, seed=own.seed, shrunk=SHRUNK, grown=GROWN)
    return schema.dataset(variables, attributes, {"size": lengths, "direction": names}, {"result": RETURNS})


def _flat(select: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(select, bool)
    if mask.shape != shape:
        raise ValueError(f"select must be (puzzle, point) = {shape}, got {mask.shape}")
    return mask.reshape(-1)


def _unit(vectors: Tensor, otherwise: Tensor) -> Tensor:
    """Return rows (n, d) scaled to length 1; rows without a direction (too short or not finite) are replaced."""
    length = vectors.norm(dim=1, keepdim=True)
    usable = length.isfinite() & (length > 0)
    return torch.where(usable, vectors / torch.where(usable, length, 1.0), otherwise)


class _Twins:
    """Unperturbed continuations of states, and pushed ones measured against them."""

    def __init__(self, points: Points, rows: np.ndarray, depth: int, batch: int | None, progress: Any):
        self.points, self.rows, self.depth, self.batch, self.progress = points, rows, depth, batch, progress
        self.z = points.z[torch.as_tensor(rows, device=points.z.device)].cpu()
        record = self._run(self.z[:, None])
        self.end = torch.as_tensor(record["states"][:, -1])
        self.ring = record["ring"].astype(float)
        lengths, own = least_lengths(points), state_scale(record["norm"].astype(float))
        lengths[rows] = np.fmax(lengths[rows], np.where(own > LEAST, own, 0.0))
        require_lengths(points, lengths, rows)
        self.scale = lengths[rows]
        self.answers = record["code"][:, -self.ring.shape[1] :]
        # the twin's recurrence: how near its last state comes to the states before it
        with np.errstate(over="ignore", invalid="ignore"):  # of a twin that diverges
            before = np.linalg.norm(self.ring[:, :-1] - self.ring[:, -1:], axis=2)
        self.recurrence = np.nan_to_num(before.min(1), nan=np.inf)
        dtype = torch.float64 if self.z.dtype == torch.float64 else torch.float32
        begun = Sketch(self.z[0].numel(), FEATURES, dtype, self.z.device)(self.z).numpy().astype(float)
        self.moved = self._left(begun[:, None], 1.0)[:, 0]
        first = (record["code"][:, :1] == self.answers).any(1)
        self.stayed = first & (self.moved < MOVED)

    def _run(self, starts: Tensor) -> dict[str, np.ndarray]:
        """Run starts (rows, m, *state_shape) of the chosen points; records have rows * m rows."""
        points, count = self.points, starts.shape[1]
        puzzle = torch.as_tensor(self.rows // points.shape[1])
        recipe = Recipe(
            system=points.system, inputs=points.tokens[puzzle],
            identifiers=None if points.identifiers is None else points.identifiers[puzzle],
            restarts=count, depth=self.depth, initial=starts, judge=points.judge.of(puzzle.numpy()),
            keep=("final_state",), place=Place(points.z.device, points.z.dtype), retire=True,
        )  # fmt: skip
        return run_in_batches(recipe, np.arange(len(starts) * count), self.batch, self.progress)

    def _left(self, place: np.ndarray, size: float) -> np.ndarray:
        """Return what is left (rows, m) of pushes of a relative size that ended at sketches (rows, m, F)."""
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm(place[:, :, None] - self.ring[:, None], axis=3).min(2)
        beyond = np.where(distance <= 2 * self.recurrence[:, None], 0.0, distance) / self.scale[:, None]
        return beyond / size

    def random_directions(self, count: int, seed: int) -> Tensor:
        """Return unit vectors (rows, count, *state_shape)."""
        points = self.points
        parts, keys = [], points.keys(seed)
        for row in self.rows:
            puzzle, point = divmod(int(row), points.shape[1])
            generator = restart_generator(keys[puzzle], TURNS + point)
            parts.append(torch.randn((count, points.size), generator=generator, dtype=torch.float64))
        drawn = torch.stack(parts)
        unit = drawn / drawn.norm(dim=2, keepdim=True)
        return unit.to(self.z.dtype).reshape(len(parts), count, *self.z.shape[1:])

    def push(self, directions: Tensor, size: float) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Push along unit vectors (rows, m, ...); return what is left, whether answers agree, and the last states."""
        shape = (len(self.z), directions.shape[1])
        lengths = torch.as_tensor(size * self.scale, dtype=self.z.dtype).reshape(
            -1, *[1] * (directions.ndim - 1)
        )
        record = self._run(self.z[:, None] + lengths * directions)
        place = record["ring"][:, -1].astype(float).reshape(*shape, -1)
        code = record["code"][:, -1].reshape(shape)
        back = (code[:, :, None] == self.answers[:, None]).any(2)
        ends = torch.as_tensor(record["states"][:, -1]).reshape(*shape, *self.z.shape[1:])
        return self._left(place, size), back, ends
