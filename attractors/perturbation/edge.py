"""Edge tracking: along the border of a basin to the saddle that sits on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.dynamics.fixed_points import fixed_points
from eqrlab.attractors.dynamics.solvers import RESULTS as FIXED
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import Points, state_axes
from eqrlab.attractors.perturbation.returns import LEFT, RETURNED, Homes
from eqrlab.attractors.results import schema

ROUNDS = 12  # bisections of the pair, with iteration between them
APART = 1e-3  # relative distance at which the two sides are bisected again
STEPS = 64  # most steps between two bisections
STILL = 1e-2  # tracking ends when the middle moves by less than this share of its norm in one step
EDGE_RESULTS = (*FIXED, "not_tracked")


class Track:
    """Pairs of flat states (n, d) on either side of a border, kept close to it."""

    def __init__(self, homes: Homes, points: Points, inside: Tensor, outside: Tensor, rows: np.ndarray):
        self.homes, self.points, self.rows = homes, points, rows
        self.inside, self.outside = inside.clone(), outside.clone()
        self.scale = torch.as_tensor(own_lengths(points)[rows]).to(inside)
        self.close = 1e-8 if inside.dtype == torch.float64 else 3e-6  # relative distance of a bisected pair
        # A gap of so much of the norm of the pair cannot be halved.
        self.finest = 4 * torch.finfo(inside.dtype).eps
        self.lost = np.zeros(len(rows), bool)

    def gap(self) -> Tensor:
        """Return the distance of the two sides over the length of the state shocked, (n,)."""
        return (self.outside - self.inside).norm(dim=1) / self.scale

    def middle(self) -> Tensor:
        return (self.inside + self.outside) / 2

    def shaped(self, flat: Tensor) -> Tensor:
        return flat.view(-1, *self.points.z.shape[1:])

    def bisect(self) -> None:
        """Halve the pairs until they are close; a pair whose middle is undecided is lost."""
        while True:
            least = (
                self.finest * torch.maximum(self.inside.norm(dim=1), self.outside.norm(dim=1)) / self.scale
            )
            wide = (self.gap() > least.clamp(min=self.close)).cpu().numpy() & ~self.lost
            rows = np.flatnonzero(wide)
            if not len(rows):
                return
            middle = self.middle()[rows]
            fate, _ = self.homes.returns(self.shaped(middle), self.rows[rows])
            self.inside[rows[fate == RETURNED]] = middle[fate == RETURNED]
            self.outside[rows[fate == LEFT]] = middle[fate == LEFT]
            self.lost[rows[(fate != LEFT) & (fate != RETURNED)]] = True

    @torch.no_grad()
    def advance(self) -> None:
        """Iterate both sides together until they are apart."""
        x = self.points.context(torch.as_tensor(self.rows, device=self.inside.device))
        open_ = torch.as_tensor(~self.lost, device=self.inside.device)
        for _ in range(STEPS):
            open_ = open_ & (self.gap() <= APART)
            if not open_.any():
                return
            for side in (self.inside, self.outside):
                moved = self.points.system.step(self.shaped(side), x).flatten(1)
                side[open_] = moved[open_]

    @torch.no_grad()
    def residual(self) -> np.ndarray:
        """Return ||f(z) - z|| at the middle of the pairs over the length of the state shocked, (n,)."""
        z = self.middle()
        x = self.points.context(torch.as_tensor(self.rows, device=z.device))
        move = (self.points.system.step(self.shaped(z), x).flatten(1) - z).norm(dim=1)
        return (move / self.scale).cpu().double().numpy()


def edge_states(
    homes: Homes, points: Points, inside: Tensor, outside: Tensor, rows: np.ndarray
) -> dict[str, schema.Variable]:
    """Track the border between pairs of states to its saddle, and certify that.

    Parameters
    ----------
    inside, outside
        Flat states (m, d) that return to the attractor of their row, and that do not.
    rows
        (m,) the rows of `points` they belong to.

    Returns
    -------
    dict
        Variables over (puzzle, point): `edge_state`, `edge_residual` (over the length of the state shocked, see
        `own_lengths`, at the end of tracking), `edge_result` (of Newton's method from there), `edge_distance` (from
        there to its solution, over the same length), `edge_eigenvalue` (leading), `edge_spectral_radius`,
        `edge_unstable` (number of the leading eigenvalues outside the unit circle, -1 unknown).
    """
    n = len(points.z)
    track = Track(homes, points, inside, outside, rows)
    # Follow the border: two states on either side are kept close by bisection until the middle stops moving.
    for _ in range(ROUNDS if len(rows) else 0):
        track.bisect()
        if (track.lost | (track.residual() <= STILL)).all():
            break
        track.advance()
    if len(rows):
        track.bisect()
    start = points.z.new_full((n, points.size), torch.nan)
    left = np.full(n, np.nan)
    if len(rows):
        kept = np.flatnonzero(~track.lost)
        start[rows[kept]], left[rows[kept]] = track.middle()[kept], track.residual()[kept]
    shape = (*points.shape, *points.z.shape[1:])
    at = ("puzzle", "point")
    result = np.full(points.shape, len(FIXED), np.int8)
    state, value = start.clone(), np.full(points.shape, np.nan + 0j)
    radius, unstable = np.full(points.shape, np.nan), np.full(points.shape, -1, np.int32)
    distance = np.full(n, np.nan)
    # The border leads to a saddle only approximately; Newton's method finds the saddle itself.
    if len(rows) and (~track.lost).any():
        found = fixed_points(points.system, points.tokens, start.view(shape), method="newton",
                             identifiers=points.identifiers, labels=points.judge.labels,
                             dtype=points.z.dtype, device=points.z.device)  # fmt: skip
        here = np.isfinite(left).reshape(points.shape)
        result = np.where(here, found.result.values, result).astype(np.int8)
        good = here & (found.solution.values >= 0)
        solved = torch.as_tensor(found.fixed_point.values).view(n, -1).to(state)
        flat = torch.as_tensor(good.ravel(), device=state.device)
        state[flat] = solved[flat]
        far = (solved - start).norm(dim=1).cpu().double().numpy() / own_lengths(points)
        distance = np.where(good.ravel(), far, np.nan)
        leading = found.eigenvalue.values
        value = np.where(good, leading[..., 0], value)
        radius = np.where(good, found.spectral_radius.values, radius)
        with np.errstate(invalid="ignore"):
            unstable = np.where(good, (np.abs(leading) > 1).sum(-1), unstable).astype(np.int32)
    text = "saddle on the border of the basin, where none was found the last state tracked"
    return {
        "edge_state": ((*at, *state_axes(points)), points.fold(state.view(-1, *points.z.shape[1:])), text),
        "edge_residual": (at, points.fold(left), "relative residual at the end of tracking"),
        "edge_result": (at, result, "outcome of Newton's method from there"),
        "edge_distance": (at, points.fold(distance), "from there to its solution, over the norm"),
        "edge_eigenvalue": (at, value, "leading eigenvalue at the saddle"),
        "edge_spectral_radius": (at, radius, "spectral radius at the saddle"),
        "edge_unstable": (at, unstable, "leading eigenvalues outside the unit circle, -1 unknown"),
    }
