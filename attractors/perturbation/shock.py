"""Critical shocks: the smallest perturbation found that makes a state leave its basin, along chosen directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import names_of, require_integers
from eqrlab.attractors.ensemble.options import computing
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import Points, States, take_points
from eqrlab.attractors.perturbation.directions import KINDS, Directions, shock_directions
from eqrlab.attractors.perturbation.edge import EDGE_RESULTS, edge_states
from eqrlab.attractors.perturbation.returns import (
    LEFT,
    NARROWEST,
    RETURNED,
    UNDECIDED,
    Homes,
    ReturnOptions,
    follower_of,
)
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

RESULTS = ("found", "none_within_range", "not_settled", "undecided", "no_direction")
CODE = {name: i for i, name in enumerate(RESULTS)}


class ShockOptions(ReturnOptions, total=False):
    """Options of `critical_shock`: how many directions and lengths are tried, and how their states are followed."""

    random: int
    leading: int
    scan: int


def critical_shock(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    directions: str | Sequence[str] = KINDS,
    others: States | None = None,
    reach: float = 2.0,
    tol: float = 1e-3,
    edge: bool = False,
    **options: Unpack[ShockOptions],
) -> xr.Dataset:
    """Find the smallest perturbation of each state, along several directions, from which it does not come back.

    Parameters
    ----------
    system, inputs, states
        As for `spectrum`; states are settled ones, for example the final states of `sample`.  A state smaller than a
        thousandth of its run (the largest norm in its ensemble, else the norm of starts) has no norm of its own: that
        of its run takes its place in all that is relative.
    directions
        Any of "random", "eigen" and "singular" (leading right eigenvectors and singular vectors of df/dz at the state,
        both signs; they need a differentiable step), "between" (towards a state of each other attractor of the
        puzzle).
    random, leading
        Numbers of random directions, 8 unless given, and of eigenvectors and of singular vectors, 2 of each.
    others
        (P, T, *state_shape): further states whose attractors count for "between", besides those of `states`.
    reach
        Longest shock tried, relative to the norm of the state; "between" goes as far as the other state.
    scan
        Lengths tried first, 8 unless given, each half of the next, before bisection: of several exits along a ray the
        first among these is found.
    tol
        Width of the final bracket, relative to its upper end, as far as rounding allows.
    edge
        Also follow the border from each state's least shock to the saddle on it; see Notes.
    **options
        `depth`, `escape`, `tolerances`, see `ReturnOptions`, and those of `AnswerOptions`.  Random directions are keyed
        by (seed, input tokens, point).

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, direction), `kind` and `sign` coordinates of direction: `shock` (length of the shortest
        perturbation known not to return, NaN: none), `shock_low` (longest known to return below it), `relative_shock`
        (over the norm of the state), `result` (flags found, none_within_range, not_settled, undecided,
        no_direction), `same_answer` (the shocked state ends with the answer of the unshocked one).  Over (puzzle,
        point): `least_shock`, `least_relative_shock`, `least_direction` (-1: none), `norm`, `attractor_id` (number of
        the attractor among those of `states` and `others`, -1: none).  With `edge`, `edge_state`, `edge_residual`,
        `edge_result`, `edge_distance`, `edge_eigenvalue`, `edge_spectral_radius`, `edge_unstable`.

    Raises
    ------
    ValueError
        For directions of another name, lengths and numbers out of range, states that are all NaN, and a state at zero
        where starts are zero, too.

    Notes
    -----
    The least shock is an upper bound on the distance from the state to the border of its basin: another
    direction may be shorter, and an exit narrower than the scanned lengths is missed.  `shock_low` is a lower
    bound of the exit along the ray only if the basin has no gap between the lengths tried.  A shocked state has
    left if it ends at another attractor, diverges, or still wanders after `depth` steps; if it is unfinished
    even then, the search along its direction stays undecided, with the bracket reached so far.

    Cost: points * directions * (scan + log2(1 / tol)) orbits, those that are decided early being short.

    Edge tracking (Itano & Toh 2001; Skufca, Yorke & Eckhardt 2006): two states on either side of the border are
    bisected together, iterated until they separate, and bisected again, until the state between them hardly moves;
    Newton's method then gives the saddle, `fixed_points` its eigenvalues.  An edge state need not be a fixed point:
    then `edge_residual` stays large and `edge_result` says so.

    References
    ----------
    Halekotte & Feudel 2020, Sci. Rep. 10, 11783 (minimal fatal shocks); Itano & Toh 2001, J. Phys. Soc. Jpn. 70, 703;
    Skufca, Yorke & Eckhardt 2006, Phys. Rev. Lett. 96, 174101.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn(len(x), 1, generator=g))
    >>> state = torch.tensor([[[0.95750402]]], dtype=torch.float64)  # the border is at 0
    >>> critical_shock(system, torch.zeros(1, 1, dtype=torch.long), state, random=2).least_shock.values.round(3)
    array([[0.958]])
    """
    own = computing(options, critical_shock, ShockOptions)
    random, leading, scan = options.get("random", 8), options.get("leading", 2), options.get("scan", 8)
    kinds = names_of(directions, KINDS, "directions")
    if not kinds:
        raise ValueError(f"directions must be some of {', '.join(KINDS)}, got none")
    require_integers(random=random, leading=leading, scan=scan)
    if not (np.isfinite(reach) and reach > 0):
        raise ValueError(f"reach must be a finite number > 0, got {reach}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must be between 0 and 1, got {tol}")
    points = own.points(system, inputs, states)
    more = (
        None
        if others is None
        else take_points(
            system, inputs, others, identifiers=points.identifiers, dtype=points.z.dtype, device=own.device
        )
    )
    follower, size = follower_of(points, options, reach), own_lengths(points)
    homes = Homes(follower, points, more)
    chosen = shock_directions(points, homes, kinds, random, leading, own.seed)
    search = _Search(homes, points, chosen, size, reach, scan)
    search.run(tol, own.progress)
    variables = search.variables(points, size)
    if edge:
        variables |= edge_states(homes, points, *search.sides())
    attributes = points.attributes(
        seed=own.seed, depth=follower.depth, reach=reach, scan=scan, evaluations=follower.evaluations,
        tolerances={"relative_bracket": tol, **dataclasses.asdict(follower.tolerances)},
        semantics="least_shock is the smallest found: an upper bound on the distance to the border of the basin",
    )  # fmt: skip
    codes = {"result": RESULTS} | ({"edge_result": EDGE_RESULTS} if edge else {})
    result = schema.dataset(variables, attributes, codes=codes)
    result = result.assign_coords(
        kind=("direction", np.array(chosen.kind), {"long_name": "kind of direction"}),
        sign=("direction", np.array(chosen.sign, np.int8), {"long_name": "sign of the vector", "units": "1"}),
    )
    return result


class _Search:
    """The bracket of every (row, direction): lengths known to return and to leave, and what was found."""

    def __init__(
        self, homes: Homes, points: Points, chosen: Directions, size: np.ndarray, reach: float, scan: int
    ):
        self.homes, self.points, self.chosen = homes, points, chosen
        rows, count = chosen.vector.shape[:2]
        far = chosen.length.cpu().double().numpy()
        length = np.where(np.isnan(far), reach * size[:, None], far)
        # A shorter bracket is rounding of the states.
        self.finest = torch.finfo(points.z.dtype).eps * size[:, None]
        self.lengths = length[..., None] * 2.0 ** np.arange(1 - scan, 1)
        self.low = np.zeros((rows, count))
        self.high = np.full((rows, count), np.nan)
        self.same = np.zeros((rows, count), bool)
        self.code = np.full((rows, count), -1)
        self.code[~chosen.vector.isfinite().all(2).cpu().numpy()] = CODE["no_direction"]
        self.code[~homes.settled] = CODE["not_settled"]

    def run(self, tol: float, progress: bool | Callable[[int, int], None]) -> None:
        """Scan all lengths, then bisect until every bracket is narrow or undecided."""
        row, direction = np.nonzero(self.code < 0)
        if not len(row):
            return
        steps = self.lengths.shape[2] + int(np.ceil(np.log2(1 / tol)))
        with tqdm(total=steps, unit="round", desc="shocks", **shown(progress)) as bar:
            unsure = np.zeros(self.code.shape, bool)
            for i in range(self.lengths.shape[2]):
                open_ = (self.code < 0) & np.isnan(self.high)
                row, direction = np.nonzero(open_)
                length = self.lengths[row, direction, i]
                fate = self._try(row, direction, length)
                self.low[row[fate == RETURNED], direction[fate == RETURNED]] = length[fate == RETURNED]
                unsure[row, direction] = fate == UNDECIDED
                bar.update(1)
            none = (self.code < 0) & np.isnan(self.high)
            self.code[none] = np.where(unsure[none], CODE["undecided"], CODE["none_within_range"])
            while True:
                wide = self.high - self.low > np.maximum(max(tol, NARROWEST) * self.high, self.finest)
                self.code[(self.code < 0) & ~wide] = CODE["found"]
                row, direction = np.nonzero(self.code < 0)
                if not len(row):
                    break
                length = (self.low + self.high)[row, direction] / 2
                fate = self._try(row, direction, length)
                back, stuck = fate == RETURNED, fate == UNDECIDED
                self.low[row[back], direction[back]] = length[back]
                self.code[row[stuck], direction[stuck]] = CODE["undecided"]
                bar.update(1)

    def _try(self, row: np.ndarray, direction: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Follow the shocked states of some (row, direction) and note those that leave; return the fates."""
        if not len(row):
            return np.zeros(0, int)
        parts = []
        vectors = self.chosen.vector
        chunk = max(1, self.homes.follower.rows_at_once(self.points.size) * torch.get_num_threads())
        for start in range(0, len(row), chunk):
            r, d = row[start : start + chunk], direction[start : start + chunk]
            at = torch.as_tensor(length[start : start + chunk]).to(self.points.z)
            z = self.points.z.flatten(1)[r] + at[:, None] * vectors[r, d]
            fate, same = self.homes.returns(z.view(-1, *self.points.z.shape[1:]), r)
            left = fate == LEFT
            self.high[r[left], d[left]] = length[start : start + chunk][left]
            self.same[r[left], d[left]] = same[left]
            parts.append(fate)
        return np.concatenate(parts)

    def least(self) -> np.ndarray:
        """Return the direction (rows,) of the least shock, -1 where there is none."""
        known = np.where(np.isnan(self.high), np.inf, self.high)
        return np.where(np.isfinite(known).any(1), known.argmin(1), -1)

    def sides(self) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return, for rows with a shock, states inside and outside of the basin along the least one, and the rows."""
        best = self.least()
        rows = np.flatnonzero(best >= 0)
        flat, way = self.points.z.flatten(1)[rows], self.chosen.vector[rows, best[rows]]
        low, high = (torch.as_tensor(v[rows, best[rows]]).to(flat)[:, None] for v in (self.low, self.high))
        return flat + low * way, flat + high * way, rows

    def variables(self, points: Points, norms: np.ndarray) -> dict[str, schema.Variable]:
        best = self.least()
        known = np.where(np.isnan(self.high), np.inf, self.high).min(1)
        least = np.where(best >= 0, known, np.nan)
        at, each = ("puzzle", "point"), ("puzzle", "point", "direction")
        tried = self.code != CODE["not_settled"]
        tried &= self.code != CODE["no_direction"]
        with np.errstate(divide="ignore", invalid="ignore"):
            relative, least_relative = self.high / norms[:, None], least / norms
        fold = points.fold
        return {
            "shock": (
                each,
                fold(self.high),
                "length of the shortest perturbation found that does not return",
            ),
            "shock_low": (each, fold(np.where(tried, self.low, np.nan)), "longest below it that returns"),
            "relative_shock": (each, fold(relative), "shock over the norm of the state"),
            "result": (each, fold(self.code.astype(np.int8)), "outcome of the search"),
            "same_answer": (
                each,
                fold(self.same),
                "the shocked state ends with the answer of the unshocked one",
            ),
            "least_shock": (at, fold(least), "smallest shock found: an upper bound"),
            "least_relative_shock": (at, fold(least_relative), "that over the norm of the state"),
            "least_direction": (at, fold(best.astype(np.int32)), "direction of the smallest shock, -1 none"),
            "norm": (
                at,
                fold(norms),
                "norm of the state, or the size of its run where it has none of its own",
            ),
            "attractor_id": (at, fold(self.homes.label.astype(np.int32)), "attractor of the state, -1 none"),
        }
