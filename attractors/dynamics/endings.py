"""Where runs end: stable fixed points, saddles, cycles, chaos; for right and wrong runs separately, with evidence."""

from __future__ import annotations

import json
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.fixed_points import fixed_points
from eqrlab.attractors.dynamics.lyapunov import lyapunov
from eqrlab.attractors.dynamics.neutral import stability_of
from eqrlab.attractors.dynamics.solvers import CODE
from eqrlab.attractors.dynamics.spectrum import spectrum
from eqrlab.attractors.ensemble.arguments import identifier_variable, identifiers_in, require_known
from eqrlab.attractors.ensemble.options import StateOptions, computing
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import require_equal
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.core import System

KINDS = ("stable", "saddle", "cycle", "chaotic", "marginal", "unfinished", "undecided", "diverged")
OUTCOMES = ("right", "wrong")
SLOW = 1e-2  # relative residual up to which a run may be passing a saddle slowly
NEAR = 0.05  # and how close to it, relative to the norm of the state
SAME = 10.0  # states at rest within this many times the sum of their errors are one fixed point


class EndingOptions(StateOptions, total=False):
    """Options of `endings`: how long runs are followed, and how it computes."""

    max_steps: int
    steps: int
    searches: int


def endings(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    k: int = 4,
    tol: float = 1e-3,
    confidence: float = 0.95,
    **options: Unpack[EndingOptions],
) -> xr.Dataset:
    """Continue runs without noise and classify the end of each.

    Parameters
    ----------
    system, inputs
        Those of the ensemble; the step must be differentiable.
    ensemble
        From `sample` with keep=("summary", "final_state").
    max_steps
        Largest number of outer steps for which a run continues in order to come to rest; default 512.
    steps
        Outer steps over which the exponents of runs that do not come to rest are averaged; default 200.
    searches
        Number of runs that do not come to rest, spread over right and wrong ones and over puzzles, from which Newton's
        method searches for a fixed point nearby; default 24.
    k, tol
        Leading eigenvalues at rest and on cycles, and their residual.
    confidence
        As for `lyapunov`.
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point): `kind` (flags stable, saddle, cycle, chaotic, marginal, unfinished, undecided, diverged),
        `correct` at the ensemble's last step, `relative_residual` and `fixed_point(..., state_*)` where the run went
        on to, `period`, `solution` (number of the fixed point within the puzzle, -1: not at rest), `spectral_radius`
        at rest (of the whole period on a cycle), `exponent` with `_low`, `_high` of the others, and of the fixed point
        that Newton's method found from there `near_distance` (relative), `near_radius`.  Over (puzzle, point, eig):
        `eigenvalue`, `eigen_residual`.  Over (outcome, ending): `count` of runs, and `share`, the mean over puzzles
        with such runs, with `_low`, `_high`; `solutions(outcome)`, distinct fixed points, and `stable_solutions`.

    Raises
    ------
    ValueError
        For an ensemble without final states or knowledge of what is correct, and a step without derivatives.

    Notes
    -----
    stable, saddle: the run comes to rest, at a point whose spectral radius is below, above 1 by its bounds; a
    saddle is also a run that is slow (relative residual up to 1e-2) within 5 % of an unstable fixed point.
    cycle: the state returns after at most max_steps / 3 steps.  chaotic: the interval of the leading exponent
    lies above 0; unfinished: below 0, the run still contracts; marginal: the interval contains 0 (slow decay, shear, a
    torus, or too few steps; one such run in forty is called chaotic by chance).  undecided: at rest, with
    bounds of the radius on both sides of 1.

    Runs continue under the deterministic map; correctness is that of the ensemble.  Restarts of a puzzle are not
    independent, so intervals resample puzzles.  Cost per run: up to `max_steps` evaluations; at rest some 50 products,
    otherwise about the cost of 7 steps for each of `steps`.

    This differs from the fates of `sample`, which are judged from residuals and states of the run itself, noise
    included, without derivatives.  A run with fate settled may end here at a saddle, and one with fate unfinished at a
    stable point.  The local dynamics of a diagnosis judge points at rest by the same bounds, and also require that
    pushes come back.

    References
    ----------
    J.-P. Eckmann and D. Ruelle, Rev. Mod. Phys. 57 (1985) 617.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> law = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    >>> system = MapSystem(lambda z, x: 4 * z * (1 - z), law)
    >>> inputs, labels = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)
    >>> runs = sample(system, inputs, labels=labels, restarts=2, depth=16, keep=("summary", "final_state"))
    >>> endings(system, inputs, runs).kind.values.tolist()  # 3 is "chaotic"
    [[3, 3]]
    """
    own = computing(options, endings, EndingOptions)
    max_steps, steps = options.get("max_steps", 512), options.get("steps", 200)
    require_known(ensemble, "endings")
    require_equal(ensemble, "endings")
    known = own.identifiers if own.identifiers is not None else identifiers_in(ensemble)
    where: dict[str, Any] = {
        "dtype": own.dtype, "device": own.device, "identifiers": known, "batch_size": own.batch_size,
    }  # fmt: skip
    # Plain iteration, not Newton: where runs end is asked, not which fixed points there are.
    rest = fixed_points(system, inputs, ensemble, method="picard", max_steps=max_steps, certify=False,
                        seed=own.seed, progress=own.progress, **where)  # fmt: skip
    code, period, state = rest.result.values, rest.period.values, rest.fixed_point.values
    # Each end needs its own evidence: eigenvalues where the state returns, exponents where it keeps moving.
    settled = np.isin(code, (CODE["converged"], CODE["at_floor"]))
    cyclic = code == CODE["periodic"]
    lost = np.isin(code, (CODE["diverged"], CODE["nonfinite"]))
    moving = ~(settled | cyclic | lost)
    eigen = _eigen(
        system, inputs, state, np.where(settled, 1, np.where(cyclic, period, 0)), k, tol, own.seed, where
    )
    radius, low, high = (eigen[f"spectral_radius{end}"] for end in ("", "_low", "_high"))
    exponent = np.full((3, *code.shape), np.nan)
    if moving.any():
        found = lyapunov(system, inputs, _gaps(state, moving), k=1, steps=steps, noise=0, confidence=confidence,
                         seed=own.seed, progress=own.progress, **where)  # fmt: skip
        exponent = np.stack(Interval.of(found, "lyapunov_exponent", ..., 0))
    residual, right = rest.relative_residual.values, ensemble.correct.values[:, :, -1]
    # A run may creep past a saddle with a tiny residual: Newton finds that saddle next to it, if there is one.
    near_distance, near_radius, near_low = _near(
        system, inputs, state, _spread(moving, right, options.get("searches", 24)), tol, own.seed, where
    )
    passing = (residual <= SLOW) & (near_distance <= NEAR) & (near_low > 1)
    stable, unstable = (settled & (stability_of(low, high) == i) for i in range(2))
    # The first that fits: the certain before the likely, and `marginal` where the exponent's interval holds 0.
    name = np.select(
        [lost, cyclic, unstable, stable, settled, passing, exponent[1] > 0, exponent[2] < 0],
        ["diverged", "cycle", "saddle", "stable", "undecided", "saddle", "chaotic", "unfinished"],
        "marginal",
    )  # fmt: skip
    kind = np.vectorize(KINDS.index)(name).astype(np.int8)
    solution = same_points(
        state, ensemble.scale.values.astype(float), rest.residual.values.astype(float), radius, settled,
        float(torch.finfo(getattr(torch, rest.attrs["dtype"])).eps),
    )  # fmt: skip
    at, each = ("puzzle", "point"), ("puzzle", "point", "eig")
    axes = tuple(f"state_{i}" for i in range(state.ndim - 2))
    variables: dict[str, schema.Variable] = {
        **identifier_variable(identifiers_in(ensemble)),
        "kind": (at, kind, "what the run ends as"),
        "correct": (at, right, "answer at the last step of the ensemble is right"),
        "relative_residual": (at, residual, "residual over the norm of the state, where the run went on to"),
        "fixed_point": ((*at, *axes), state, "state that the run went on to"),
        "period": (at, np.where(settled, 1, period).astype(np.int32), "period in outer steps: 1 at rest, 0 none"),
        "solution": (at, solution, "number of the fixed point within the puzzle, -1 not at rest"),
        "spectral_radius": (at, radius, "largest modulus of an eigenvalue, over a whole period"),
        "spectral_radius_low": (at, low, "lower bound of the spectral radius"),
        "spectral_radius_high": (at, high, "upper bound, infinite where it is not known"),
        **Interval(*exponent).variables(
            "exponent", at, "leading Lyapunov exponent of a run that does not come to rest", "that exponent"
        ),
        "near_distance": (at, near_distance, "relative distance to the fixed point that Newton's method found"),
        "near_radius": (at, near_radius, "spectral radius at that point"),
        "eigenvalue": (each, eigen["eigenvalue"], "leading eigenvalues, over a whole period"),
        "eigen_residual": (each, eigen["eigen_residual"], "||J v - value v|| / |value|"),
        **_counts(kind, right, solution, confidence),
    }  # fmt: skip
    attributes = {
        **schema.carried(ensemble), "dtype": rest.attrs["dtype"], "device": rest.attrs["device"],
        "max_steps": max_steps, "steps": steps, "confidence": confidence,
        "tolerances": {**_limits(rest), "eigen_residual": tol, "slow": SLOW, "near": NEAR},
    }  # fmt: skip
    coordinates = {"puzzle": ensemble.puzzle.values, "outcome": list(OUTCOMES), "ending": list(KINDS)}
    return schema.dataset(variables, attributes, coordinates, {"kind": KINDS})


def _limits(found: xr.Dataset) -> dict[str, Any]:
    return dict(json.loads(found.attrs["tolerances"]))


def _gaps(state: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return states (P, M, ...) with NaN where they are not to be analysed."""
    return np.where(keep.reshape(*keep.shape, *(1,) * (state.ndim - 2)), state, np.nan)


def _eigen(
    system: System,
    inputs: Any,
    state: np.ndarray,
    period: np.ndarray,
    k: int,
    tol: float,
    seed: int,
    where: dict,
) -> dict[str, np.ndarray]:
    """Return leading eigenvalues of states of each period (0: none: NaN), and the spectral radius with its bounds."""
    k = min(k, state[0, 0].size)
    value = np.full((*period.shape, k), np.nan + 0j)
    residual, radius = np.full((*period.shape, k), np.nan), np.full((3, *period.shape), np.nan)
    names = [f"spectral_radius{end}" for end in ("", "_low", "_high")]
    for p in np.unique(period[period > 0]):
        mine = period == p
        found = spectrum(system, inputs, _gaps(state, mine), k=k, tol=tol, steps=int(p), max_products=400, seed=seed,
                         **where)  # fmt: skip
        value[mine] = found.eigenvalue.values[mine][:, :k]
        residual[mine] = found.eigen_residual.values[mine][:, :k]
        radius[:, mine] = np.stack([found[name].values for name in names])[:, mine]
    return {"eigenvalue": value, "eigen_residual": residual, **dict(zip(names, radius, strict=True))}


def _spread(moving: np.ndarray, right: np.ndarray, most: int) -> np.ndarray:
    """Return which of the moving runs to search from: as many right as wrong ones, restart by restart over puzzles."""
    chosen = np.zeros(moving.shape, bool)
    orders = [np.argwhere((moving & side).T).tolist() for side in (right, ~right)]
    for rank in range(max(map(len, orders))):
        for order in orders:
            if rank < len(order) and chosen.sum() < most:
                restart, puzzle = order[rank]
                chosen[puzzle, restart] = True
    return chosen


def _near(
    system: System, inputs: Any, state: np.ndarray, chosen: np.ndarray, tol: float, seed: int, where: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distance to the fixed point that Newton's method finds from each state, its radius and lower bound."""
    distance, radius, low = (np.full(chosen.shape, np.nan) for _ in range(3))
    if not chosen.any():
        return distance, radius, low
    found = fixed_points(
        system, inputs, _gaps(state, chosen), method="newton", certify=False, seed=seed, **where
    )
    good = chosen & np.isin(found.result.values, (CODE["converged"], CODE["at_floor"]))
    flat = state.reshape(*chosen.shape, -1).astype(float)
    away = np.linalg.norm(found.fixed_point.values.reshape(flat.shape) - flat, axis=2)
    distance[good] = (away / np.linalg.norm(flat, axis=2).clip(1e-300))[good]
    if good.any():
        z = _gaps(found.fixed_point.values, good)
        near = spectrum(system, inputs, z, k=1, tol=tol, max_products=400, seed=seed, **where)
        radius[good], low[good] = near.spectral_radius.values[good], near.spectral_radius_low.values[good]
    return distance, radius, low


def same_points(
    state: np.ndarray, scale: np.ndarray, residual: np.ndarray, radius: np.ndarray, settled: np.ndarray, epsilon: float
) -> np.ndarray:  # fmt: skip
    """Number the distinct fixed points (P, M) of each puzzle, the first seen first; -1 where not at rest.

    Parameters
    ----------
    scale
        (P, M) least unit of distances: what the run gives that came to rest at the origin.

    Notes
    -----
    A state's error is its residual over |1 - radius|, the slowest mode's; two are the same point within ten times the
    sum of their errors, but no farther than a hundredth of the norm or scale.
    """
    flat = state.reshape(*settled.shape, -1).astype(float)
    norm = np.linalg.norm(flat, axis=2)
    size = np.fmax(norm, scale)
    error = np.maximum(residual, 8 * epsilon * norm) / np.maximum(
        np.abs(1 - np.nan_to_num(radius, nan=1.0)), 1e-3
    )
    number = np.full(settled.shape, -1, np.int32)
    for p in range(len(flat)):
        leaders: list[int] = []
        for m in np.flatnonzero(settled[p]):
            for i, other in enumerate(leaders):
                reach = min(SAME * (error[p, m] + error[p, other]), 1e-2 * max(size[p, m], size[p, other]))
                if np.linalg.norm(flat[p, m] - flat[p, other]) <= reach:
                    number[p, m] = i
                    break
            else:
                number[p, m] = len(leaders)
                leaders.append(int(m))
    return number


def _counts(
    kind: np.ndarray, right: np.ndarray, solution: np.ndarray, confidence: float
) -> dict[str, schema.Variable]:
    """Return runs and shares of every kind, and distinct fixed points, right and wrong apart."""
    table = np.zeros((2, len(KINDS)), int)
    share = np.full((3, 2, len(KINDS)), np.nan)
    points = np.zeros((2, 2), int)
    for o, side in enumerate((right, ~right)):
        each = np.stack([((kind == i) & side).sum(1) for i in range(len(KINDS))], 1)
        table[o] = each.sum(0)
        some = side.any(1)
        if some.any():
            share[:, o] = share_over_puzzles(
                each[some] / side[some].sum(1, keepdims=True), confidence=confidence
            )
        for s, chosen in enumerate((solution >= 0, (solution >= 0) & (kind == KINDS.index("stable")))):
            points[s, o] = sum(
                len(np.unique(row[use])) for row, use in zip(solution, chosen & side, strict=True)
            )
    pair, text = ("outcome", "ending"), "share of the runs, mean over puzzles that have such runs"
    return {
        "count": (pair, table, "runs"),
        **Interval(*share).variables("share", pair, text),
        "solutions": (("outcome",), points[0], "distinct fixed points at which runs end"),
        "stable_solutions": (("outcome",), points[1], "those that are stable"),
    }
