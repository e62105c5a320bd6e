"""Basin radius: the size of a push at which half of the pushes lose the answer."""

from __future__ import annotations

import dataclasses
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from scipy.special import bdtr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import is_whole, tensor_of
from eqrlab.attractors.ensemble.options import computing
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import Points, States
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.fates.history import Arrival
from eqrlab.attractors.perturbation.follow import Ends, Follower
from eqrlab.attractors.perturbation.returns import NARROWEST, ReturnOptions, follower_of
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import check_confidence
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

NEAR = 0.02  # of the tolerance: relative residual at which a pushed state is left; nearer passes of a saddle are rare
BACK = 0.2  # share of a push that may be left of it where the state counts as back, with the unpushed state's answer
SCAN = 6  # lengths tried first, each twice the one before, up to the reach


def basin_radius(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    directions: int | Tensor | np.ndarray = 16,
    reach: float = 4.0,
    tol: float = 0.02,
    confidence: float = 0.95,
    **options: Unpack[ReturnOptions],
) -> xr.Dataset:
    """Find the size of a push at which half of the pushes lose the answer, for each state.

    Parameters
    ----------
    system, inputs, states
        As for `critical_shock`; of runs or of attractors.
    directions
        How many directions, isotropic, in pairs of opposites, the same for all states and at all sizes; or these, as
        vectors (k, d), of which only the direction counts.
    reach
        Longest push, relative to the norm of the state, or to the size of its run for a state next to the origin, see
        `critical_shock`.
    tol
        Width of the final bracket of each direction, relative to its upper end, as far as rounding allows.
    confidence
        Of the intervals.
    **options
        As for `critical_shock`, but `depth` is 64 unless given.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point): `basin_radius` = smallest length at which at least half of the pushes lose the
        answer (infinite: not within the reach), and `relative_radius` = that over the norm of the state, with
        `_low`, `_high`; `settled` = the state itself ends at rest.  Over (puzzle, point, direction):
        `critical_size` = relative length from which on the answer is lost (infinite: kept up to the reach).

    Raises
    ------
    ValueError
        For directions that are none, a reach or tolerance that is not positive, states that are all NaN, and a state at
        zero where starts are zero, too.

    Notes
    -----
    A push loses the answer if the pushed state decodes to another answer than the state itself, both after
    `depth` steps without noise.  Of several exits along a ray, the first among the scanned lengths (reach, half
    of it, ...) is found. A pushed state is left before `depth` steps where its answer has been constant for a
    quarter of them and either it is back, within a fifth of its push of where the state ends, or a step moves it by
    at most a fiftieth of the tolerance.

    The radius is the median over directions, with an interval from order statistics: exact for independent directions,
    and wider than necessary for pairs of opposites, of which one often leads away from every border.  A radius
    measures robustness and a mass how many starts arrive: they need not agree.  Neither chooses answers better than
    the entropy or the halting head, which cost nothing. Cost: points * directions * (6 + log2(1 / tol)) orbits at most.

    References
    ----------
    Menck, Heitzig, Marwan & Kurths 2013, Nature Physics 9, 89 (pushes of a given size); Conover 1999, "Practical
    nonparametric statistics" (intervals of quantiles).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> start = lambda x, g: torch.randn(len(x), 1, generator=g)
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), start, lambda z, x: (z > 0).long() + 1)
    >>> state = torch.tensor([[[0.95750402]]], dtype=torch.float64)  # the border is at 0, on one side
    >>> found = basin_radius(system, torch.zeros(1, 1, dtype=torch.long), state, directions=2, tol=1e-6)
    >>> found.basin_radius.values.round(5)
    array([[0.9575]])
    """
    own = computing(options, basin_radius, ReturnOptions)
    check_confidence(confidence)
    for name, value in (("reach", reach), ("tol", tol)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be a finite number > 0, got {value}")
    points = own.points(system, inputs, states)
    way = _directions(directions, points, own.seed)
    follower = follower_of(points, {"depth": 64, **options}, reach)
    points.require_some()
    rows = points.present.nonzero()[:, 0].cpu().numpy()
    home = follower(points.z[torch.as_tensor(rows)], rows // points.shape[1])
    settled = np.zeros(len(points.z), bool)
    settled[rows] = home.fate == CODE["settled"]
    place = np.full(len(points.z), -1)
    place[rows] = np.arange(len(rows))
    rays = _Rays(follower, points, way, home.take(place), settled, NEAR * tol)
    critical = np.full((len(points.z), len(way)), np.nan)
    with tqdm(total=len(rows) * len(way), unit="ray", **shown(own.progress)) as bar:
        at_once = max(1, follower.rows_at_once(points.size) // len(way))
        for part in np.split(rows, range(at_once, len(rows), at_once)):
            critical[part] = rays.exits(part, reach, tol)
            bar.update(len(part) * len(way))
    relative = _median(critical, confidence)
    pair = ("puzzle", "point")
    radius = relative.each(lambda v: points.fold(v * rays.length))
    variables: dict[str, schema.Variable] = {
        **radius.variables("basin_radius", pair, "least length at which half of the pushes lose the answer"),
        **relative.each(points.fold).variables("relative_radius", pair, "that length over the norm of the state"),
        "settled": (pair, points.fold(settled), "the state itself ends at rest"),
        "critical_size": (
            (*pair, "direction"),
            points.fold(critical),
            "length over the norm from which on the answer is lost along the direction, infinite: kept",
        ),
    }  # fmt: skip
    attributes = points.attributes(
        seed=own.seed, depth=follower.depth, reach=reach, tol=tol, confidence=confidence,
        evaluations=follower.evaluations, interval="order statistics of the directions' sizes",
        tolerances=dataclasses.asdict(follower.tolerances),
    )  # fmt: skip
    return schema.dataset(variables, attributes)


def _directions(directions: int | Tensor | np.ndarray, points: Points, seed: int) -> Tensor:
    """Return unit vectors (k, d): those given, or random ones in pairs of opposites."""
    if isinstance(directions, (Tensor, np.ndarray)):
        directions = tensor_of(directions, "directions")
        if directions.ndim != 2 or directions.shape[1] != points.size or not len(directions):
            raise ValueError(
                f"directions must be a number or vectors (k, {points.size}), got {tuple(directions.shape)}"
            )
        way = directions.double()
        if not (way.isfinite().all() and (way.norm(dim=1) > 0).all()):
            raise ValueError("directions must be finite and not zero")
    else:
        if not is_whole(directions) or directions < 2 or directions % 2:
            raise ValueError(f"directions must be an even number >= 2, got {directions}")
        generator = torch.Generator().manual_seed(seed)
        half = torch.randn((directions // 2, points.size), generator=generator, dtype=torch.float64)
        way = torch.stack((half, -half), 1).flatten(0, 1)
    return (way / way.norm(dim=1, keepdim=True)).to(points.z)


class _Rays:
    """Pushes of states along common directions, and where each ray loses the answer of its state."""

    def __init__(
        self, follower: Follower, points: Points, way: Tensor, home: Ends, settled: np.ndarray, near: float
    ):
        self.follower, self.points, self.way, self.near = follower, points, way, near
        self.home, self.settled = home, settled
        self.flat = points.z.flatten(1)
        self.length = own_lengths(points)
        self.unit = torch.as_tensor(self.length).to(self.flat)

    def lost(self, row: np.ndarray, direction: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return which pushed states (n,) end with another answer than the unpushed state."""
        index = torch.as_tensor(row, device=self.flat.device)
        way = self.way[torch.as_tensor(direction, device=self.way.device)]
        push = torch.as_tensor(length, device=self.flat.device).to(self.flat) * self.unit[index]
        z = (self.flat[index] + push[:, None] * way).view(-1, *self.points.z.shape[1:])
        within = np.where(self.settled[row], BACK * push.abs().cpu().double().numpy(), 0.0)
        back = Arrival(self.home.sketch[row], self.home.code[row], within)
        return self.follower.answers(z, row // self.points.shape[1], self.near, back) != self.home.code[row]

    def exits(self, rows: np.ndarray, reach: float, tol: float) -> np.ndarray:
        """Return the relative length (n, k) at which each ray of some rows is first lost, infinite where it is not."""
        row, direction = (v.ravel() for v in np.meshgrid(rows, np.arange(len(self.way)), indexing="ij"))
        low, high = np.zeros(len(row)), np.full(len(row), np.inf)
        for length in reach * 0.5 ** np.arange(SCAN - 1, -1, -1):
            open_ = np.flatnonzero(np.isinf(high))
            if len(open_):
                gone = self.lost(row[open_], direction[open_], np.full(len(open_), length))
                high[open_[gone]], low[open_[~gone]] = length, length
        finest = torch.finfo(self.flat.dtype).eps  # a shorter bracket is rounding of the states
        while True:
            with np.errstate(invalid="ignore"):
                limit = np.maximum(max(tol, NARROWEST) * high, finest)
                wide = np.flatnonzero(np.isfinite(high) & (high - low > limit))
            if not len(wide):
                return high.reshape(len(rows), -1)
            middle = (low[wide] + high[wide]) / 2
            gone = self.lost(row[wide], direction[wide], middle)
            high[wide[gone]], low[wide[~gone]] = middle[gone], middle[~gone]


def _median(sizes: np.ndarray, confidence: float) -> Interval:
    """Return the lower median of sizes (n, k) and its bounds by order statistics; NaN rows stay NaN.

    Notes
    -----
    The bounds are the order statistics r and k + 1 - r with the largest r for which a binomial of k trials at 1/2 is
    below r with a probability of at most half of what may be missed; without such an r they are 0 and infinity.
    """
    count = sizes.shape[1]
    ordered = np.sort(sizes, axis=1)
    below = bdtr(np.arange(count + 1), count, 0.5)
    rank = int(np.searchsorted(below, (1 - confidence) / 2))  # P(X < rank) <= alpha / 2
    value = ordered[:, (count - 1) // 2]
    if rank < 1:
        known = ~np.isnan(value)
        return Interval(value, np.where(known, 0.0, np.nan), np.where(known, np.inf, np.nan))
    return Interval(value, ordered[:, rank - 1], ordered[:, count - rank])
