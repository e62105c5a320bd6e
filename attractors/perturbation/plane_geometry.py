"""Planes in state space: random ones, and those through given states or along given directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import tensor_of
from eqrlab.attractors.ensemble.contract import Law, law_of
from eqrlab.attractors.ensemble.states import States, take_points
from eqrlab.attractors.perturbation.follow import Follower
from eqrlab.attractors.results import schema
from eqrlab.core.models.contract import draw_start
from eqrlab.core.models.system import take_rows
from eqrlab.core.random import restart_generator

MARGIN = 1.5  # half width of an automatic extent over the farthest given state


class SliceOptions(TypedDict, total=False):
    """Options that say which plane through state space is meant; described at `plane`."""

    resolution: int
    extent: float | Sequence[float] | None
    states: States | None
    directions: Tensor | np.ndarray | None
    unit: float | None


class Frame(NamedTuple):
    """A plane: centre + unit * (u * axes[0] + v * axes[1]), all flat (d,); marks (m, 2): (u, v) of the given states."""

    centre: Tensor
    axes: Tensor
    unit: float
    marks: np.ndarray

    def states(self, at: Tensor) -> Tensor:
        """Return the flat states (n, d) at coordinates (n, 2) of the plane."""
        return self.centre + self.unit * (at.to(self.axes) @ self.axes)


def make_frames(
    follower: Follower, options: SliceOptions, initial: Law | None
) -> tuple[list[Frame], tuple[int, ...]]:
    """Return the plane of each puzzle, and the shape of a state.

    Raises
    ------
    ValueError
        For states or directions of the wrong shape or number, or a state of one number.
    """
    states, directions, unit = options.get("states"), options.get("directions"), options.get("unit")
    puzzles = len(follower.tokens)
    law = law_of(initial, follower.system)
    given = None
    if states is not None:
        points = take_points(
            follower.system,
            follower.tokens,
            states,
            identifiers=follower.identifiers,
            dtype=follower.dtype,
            device=follower.device,
            finite=False,
        )
        given = points.z.view(*points.shape, *points.z.shape[1:])
    if given is not None and given.shape[1] > 3:
        raise ValueError(f"a plane holds one to three states of a puzzle, got {given.shape[1]}")
    span = None if directions is None else follower.place(tensor_of(directions, "directions"))
    if span is not None and (
        given is None or given.shape[1] != 1 or span.shape != (puzzles, 2, *given.shape[2:])
    ):
        raise ValueError(
            "directions must be (puzzle, 2, *state_shape), together with states of one point a puzzle"
        )
    frames: list[Frame] = []
    shape: tuple[int, ...] = ()
    for p in range(puzzles):
        x = take_rows(follower.x, slice(p, p + 1))
        # Two restarts are always drawn: they give shape and scale, and span the plane if nothing else does.
        draws = [follower.place(draw_start(law, x, restart_generator(follower.keys[p], r))) for r in range(2)]
        shape = tuple(draws[0].shape[1:])
        drawn = torch.cat(draws).flatten(1).double()
        size = drawn.shape[1]
        if size < 2:
            raise ValueError("a plane needs states of at least two numbers, got one")
        if given is not None and tuple(given.shape[2:]) != shape:
            raise ValueError(f"states must have the state shape {shape}, got {tuple(given.shape[2:])}")
        whole = given is None and size == 2
        if given is None:
            centre, marked = torch.zeros_like(drawn[0]), drawn if not whole else drawn[:0]
            wanted = torch.eye(2).to(drawn) if whole else drawn
        else:
            marked = given[p].flatten(1).double()
            marked = marked[marked.isfinite().all(1)]
            if not len(marked):
                raise ValueError(f"states of puzzle {p} are not finite; leave the puzzle out")
            centre = marked.mean(0)
            wanted = span[p].flatten(1).double() if span is not None else marked[1:] - marked[0]
        # Lengths on the axes are in state norms; a state at the origin must not make the unit zero.
        length = (marked if len(marked) else drawn).norm(dim=1).square().mean().sqrt()
        one = unit or (1.0 if size == 2 else max(float(length), 1e-300))
        axes = _orthonormal(wanted, restart_generator(follower.keys[p], 2))
        marks = np.full((3, 2), np.nan)
        marks[: len(marked)] = ((marked - centre) @ axes.T / one).cpu().numpy()
        kind = draws[0].dtype
        frames.append(Frame(centre.to(kind), axes.to(kind), one, marks))
    most = max(1, max(int(np.isfinite(f.marks[:, 0]).sum()) for f in frames))
    return [f._replace(marks=f.marks[:most]) for f in frames], shape


def _orthonormal(wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Return two orthonormal vectors (2, d): those that span `wanted` (m, d), completed by random ones."""
    axes: list[Tensor] = []
    for vector in wanted:
        rest = vector
        for _ in range(2):  # the second pass removes what rounding left
            for axis in axes:
                rest = rest - (rest @ axis) * axis
        if len(axes) < 2 and float(rest.norm()) > 1e-6 * float(vector.norm()):
            axes.append(rest / rest.norm())
    if len(axes) == 2:
        return torch.stack(axes)
    more = torch.randn((2, wanted.shape[1]), generator=generator, dtype=torch.float64).to(wanted)
    return _orthonormal(torch.cat((torch.stack(axes), more)) if axes else more, generator)


def make_sides(
    extent: float | Sequence[float] | None, frames: list[Frame]
) -> tuple[float, float, float, float]:
    """Return (left, right, bottom, top) of the planes, in units of their `unit`.

    Raises
    ------
    ValueError
        When the extent is neither a number above 0 nor four numbers in order.
    """
    if extent is None:
        far = max(float(np.nanmax(np.abs(f.marks), initial=0.0)) for f in frames)
        extent = MARGIN * far if far > 0 else MARGIN
    given = np.ravel(extent).astype(float)
    if len(given) == 1:
        given = given[0] * np.array([-1.0, 1.0, -1.0, 1.0])
    if len(given) != 4 or not np.isfinite(given).all() or given[0] >= given[1] or given[2] >= given[3]:
        raise ValueError(f"extent must be a number > 0 or (left, right, bottom, top) in order, got {extent}")
    left, right, bottom, top = map(float, given)
    return left, right, bottom, top


def cell_centres(sides: Sequence[float], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates u and v, (resolution,) each, of the centres of the cells of a plane."""
    u, v = (a + (b - a) * (np.arange(resolution) + 0.5) / resolution for a, b in (sides[:2], sides[2:]))
    return u, v


def frame_variables(frames: list[Frame]) -> dict[str, schema.Variable]:
    """Return the places of the given states on the planes, and the units of their axes."""
    marks, point = np.stack([f.marks for f in frames]), ("puzzle", "point")
    return {
        "mark_u": (point, marks[..., 0], "given state, first axis"),
        "mark_v": (point, marks[..., 1], "given state, second axis"),
        "unit": (("puzzle",), np.array([f.unit for f in frames]), "length of 1 on the axes, in state space"),
    }


def with_axes_named(result: xr.Dataset) -> xr.Dataset:
    """Return a result over planes whose axes u and v say what they are."""
    for axis, name in (("u", "first"), ("v", "second")):
        result[axis].attrs |= {"long_name": f"{name} axis of the plane, in units of `unit`", "units": "1"}
    return result
