"""Fixed points of a system, stable or not: searched in stages, merged, and certified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.certificate import forward_and_return, merge
from eqrlab.attractors.dynamics.eigenvalues import Wanted, eigenvalues
from eqrlab.attractors.dynamics.jacobian import check_differentiable, random_directions, rows_within
from eqrlab.attractors.dynamics.krylov.gmres import KRYLOV
from eqrlab.attractors.dynamics.neutral import (
    NEAR_ONE,
    STABILITY,
    jacobian_change,
    push_and_see,
    stability_of,
    uncertain_moves,
)
from eqrlab.attractors.dynamics.solvers import (
    CODE,
    RESULTS,
    RUNAWAY,
    Search,
    anderson,
    begin,
    long_cycles,
    newton,
    picard,
    projection,
)
from eqrlab.attractors.ensemble.arguments import identifier_variable
from eqrlab.attractors.ensemble.options import AnswerOptions, computing
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import Points, States, state_axes
from eqrlab.attractors.fates.fate import LEAST_SCALE
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

METHODS = ("staged", "picard", "anderson", "newton", "projection")
STAGES = ("picard", "anderson", "newton", "projection", "none")
FLOOR = 64.0  # epsilons: a relative residual below this that cannot be lowered is the numerical floor
DEFAULT_TOL = {torch.float64: 1e-10, torch.float32: 1e-5}
EIGENVALUES = 4
STEPS = 1000  # of plain iteration, unless the caller says how many
# The same of rows that wander: most of them are on no cycle, and would cost what all others do not.
CYCLE_STEPS = 200


def fixed_points(
    system: System,
    inputs: Tensor | np.ndarray,
    starts: States,
    *,
    method: str = "staged",
    tol: float | None = None,
    max_steps: int | None = None,
    deflate: int = 0,
    certify: bool = True,
    **options: Unpack[AnswerOptions],
) -> xr.Dataset:
    """Search for a solution of f(z; x) = z from every start, and certify it.

    Parameters
    ----------
    system, inputs, starts
        As for `spectrum`; a start that is not finite gives the result "nonfinite".
    method
        "staged": iterate the map; if this is slow or does not settle, use Anderson mixing, then Newton-Krylov, then
        recursive projection (a start on a stable cycle stops at the cycle).  "picard", "anderson", "newton",
        "projection": one of them alone; "newton" also finds saddles near starts that iteration would lead away.
    tol
        Requested residual ||f(z) - z|| over ||z||; None is 1e-10 in float64, 1e-5 in float32.
    max_steps
        Largest number of steps of plain iteration, 1000 unless given.  A row that wanders is left after about 100, and
        followed for as many more, 200 unless given, in search of a cycle; periods of up to a third of these are found.
    deflate
        Further rounds of Newton from every start, each repelled by the solutions found from that start before.
    certify
        Merge, and compute everything that needs derivatives; False leaves results, states and residuals only.
    **options
        `seed`, `batch_size`, `dtype`, `device`, `progress`, see `AnswerOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point), one point for every start, and for every further round (`start` says of which start):
        `fixed_point(puzzle, point, state_*)`, `residual`, `relative_residual`, `result` (flags converged, at_floor,
        periodic, wandering, diverged, nonfinite, budget), `stage` that decided it, `period` (1: fixed; 0: none),
        `evaluations` and `products` spent.  Certificate: `solution` (number of the distinct fixed point within the
        puzzle, -1 none) and `representative` (one point of each); `stability` (flags stable, unstable, undecided; -1 no
        solution) and `stable` (certainly); `spectral_radius` with `_low` and `_high`, `eigenvalue(puzzle, point, eig)`,
        for a cycle those of the whole period; `sigma_min` of I - J and the `error_bound` on the distance to the exact
        fixed point; `forward_drift`, `return_ratio`, `answer_returns`.  `ambiguous(puzzle)` counts pairs that could be
        merged or not.

    Raises
    ------
    ValueError
        For misuse, and for a step whose derivatives cannot be trusted (not with method "picard" or "anderson" and
        certify=False, which need none).

    Notes
    -----
    A finished row costs nothing more, and rows that are not finite never affect others.  `at_floor`: the
    residual is within 64 epsilons of the state's norm but above `tol`, and no method lowers it.  The error bound
    2 ||f(z) - z|| / sigma_min is that of Newton and Kantorovich where the curvature term is at most 1/2, which
    is not checked; sigma_min of large states is itself an estimate from above.  The return check perturbs by
    1/1000 of the norm in three directions, for 64 steps, against an unperturbed twin.  Memory for a state:
    about 60 vectors and twice the saved activations of a step.

    References
    ----------
    G. M. Shroff and H. B. Keller, SIAM J. Numer. Anal. 30 (1993) 1099; L. V. Kantorovich and G. P. Akilov, Functional
    Analysis, 1982, chapter 18; R. P. Brent, BIT 20 (1980) 176 (returns to a reference state).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn(len(x), 1, generator=g))
    >>> starts = torch.tensor([[[0.9], [-0.9], [0.01]]], dtype=torch.float64)
    >>> fixed_points(system, torch.zeros(1, 1, dtype=torch.long), starts, method="newton").fixed_point.values.round(4)
    array([[[ 0.9575],
            [-0.9575],
            [ 0.    ]]])
    """
    own = computing(options, fixed_points, AnswerOptions)
    points = own.points(system, inputs, starts, finite=False)
    if method not in METHODS:
        raise ValueError(f"method {method!r} unknown; choose from {', '.join(METHODS)}")
    settling, circling = (STEPS, CYCLE_STEPS) if max_steps is None else (max_steps, max_steps)
    if (tol is not None and not tol > 0) or settling < 1 or deflate < 0:
        raise ValueError(
            f"tol must be > 0, max_steps >= 1 and deflate >= 0, got {tol}, {max_steps} and {deflate}"
        )
    finite = points.z.flatten(1).isfinite().all(1)
    length = own_lengths(points, required=False)
    limit = DEFAULT_TOL[points.z.dtype] if tol is None else float(tol)
    _require_range(points, length, limit)
    usable = dataclasses.replace(points, present=finite)
    derivatives = certify or deflate or method not in ("picard", "anderson")
    if derivatives and finite.any():
        check_differentiable(usable, own.seed)
    size = own.batch_size or rows_within(usable, KRYLOV + 20, graphs=2 if derivatives else 1)
    records = _search(usable, length, method, limit, (settling, circling), deflate, size, own.progress)
    wide = _widened(points, torch.stack([r["z"] for r in records]))

    def gather(name: str) -> np.ndarray:
        parts = torch.stack([r[name] for r in records]).view(deflate + 1, *points.shape)
        return parts.transpose(0, 1).reshape(-1).cpu().numpy()

    variables = _searched(wide, gather)
    if certify:
        found = {name: gather(name) for name in ("code", "period", "residual", "scale")}
        variables.update(_certified(wide, found, own.seed, size))
    variables["start"] = (("point",), np.tile(np.arange(points.shape[1]), deflate + 1), "number of the start")
    attributes = points.attributes(
        seed=own.seed, method=method,
        tolerances={"relative_residual": limit, "max_steps": settling, "cycle_steps": circling, "floor": FLOOR},
    )  # fmt: skip
    codes = {"result": RESULTS, "stage": STAGES, "stability": STABILITY}
    return schema.dataset(variables, attributes, codes=codes)


def _widened(points: Points, states: Tensor) -> Points:
    """Return the points of all rounds, states (rounds, n, d), those of a puzzle side by side."""
    puzzles, per = points.shape
    z = states.view(len(states), puzzles, per, -1).transpose(0, 1).reshape(-1, *points.z.shape[1:])
    present = torch.ones(len(z), dtype=torch.bool, device=z.device)
    shape, unknown = (puzzles, per * len(states)), points.run_size.new_zeros(len(z))
    return dataclasses.replace(points, z=z, shape=shape, present=present, run_size=unknown)


Record = dict[str, Tensor]  # row values of one round of searches, by name


def _require_range(points: Points, length: np.ndarray, tol: float) -> None:
    """Refuse starts of lengths (n,) if the squares of a residual that solves, or of a state, may leave the dtype."""
    info = torch.finfo(points.z.dtype)
    remedy = "scale the map" if info.dtype == "float64" else "give dtype='float64'"
    least, most = info.tiny**0.5 / min(tol, 1.0), info.max**0.5 / 1e3
    outside = ((length > most) | (length < least)) & (length > 0) & (length < np.inf)
    for row in np.flatnonzero(outside)[:1]:
        raise ValueError(
            f"the norm of the state of {points.name(int(row))} is {length[row]:.1e}; norms in {info.dtype} must be "
            f"between {least:.0e} and {most:.0e}: {remedy}"
        )


def _search(
    points: Points,
    length: np.ndarray,
    method: str,
    tol: float,
    steps: tuple[int, int],
    deflate: int,
    size: int,
    progress: bool | Callable[[int, int], None],
) -> list[Record]:
    """Search from every start; return one record for the first round and each deflated one."""
    rounds: list[Record] = []
    known: Tensor | None = None
    lengths = torch.as_tensor(length).to(points.z)
    with tqdm(total=len(points.z) * (deflate + 1), unit="start", desc="searching", **shown(progress)) as bar:
        for number in range(deflate + 1):
            parts = []
            for rows in torch.split(torch.arange(len(points.z), device=points.z.device), size):
                z = points.z[rows]
                apart = None if known is None else known[rows]
                search = begin(
                    points.system,
                    points.context(rows),
                    z if apart is None else _nudged(z, apart, lengths[rows]),
                    tol,
                    lengths[rows],
                )
                stage = _stages(search, "newton" if number else method, steps, apart)
                parts.append((search, stage))
                bar.update(len(rows))
            record: Record = {"stage": torch.cat([stage for _, stage in parts])}
            for name in ("z", "code", "residual", "scale", "period", "evaluations", "products"):
                record[name] = torch.cat([getattr(search, name) for search, _ in parts])
            rounds.append(record)
            good = (record["code"] == CODE["converged"]) | (record["code"] == CODE["at_floor"])
            found = torch.where(good[:, None], record["z"], torch.nan)[:, None]
            known = found if known is None else torch.cat((known, found), 1)
    return rounds


def _nudged(z: Tensor, known: Tensor, length: Tensor) -> Tensor:
    """Move starts that lie on a known point (n, q, d), where deflation has no direction, by 3 % of a length (n,)."""
    flat = z.flatten(1)
    near = ((flat[:, None] - known).norm(dim=2) <= 1e-6 * length[:, None]).any(1)
    move = torch.where(near, 0.03 * torch.where(length > 0, length, 1.0), 0.0)  # 1 where nothing has a size
    return (flat + move[:, None] * random_directions(len(flat), flat.shape[1], 0, flat)).view_as(z)


def _stages(search: Search, method: str, steps: tuple[int, int], known: Tensor | None) -> Tensor:
    """Run the searches in turn, with so many steps to settle and to look for a cycle; return which closed each row."""
    settling, circling = steps
    stage = torch.full_like(search.code, len(STAGES) - 1)
    left = search.z.clone(), search.residual.clone()
    runs = {
        "picard": lambda: picard(search, settling),
        "anderson": lambda: anderson(search),
        "newton": lambda: newton(search, known),
        "projection": lambda: projection(search),
    }
    for number, name in enumerate(STAGES[:-1]):
        if method in ("staged", name) and len(search.open):
            before = search.open
            runs[name]()
            if name == "picard":
                long_cycles(search, circling)
            _settle_floor(search)
            stage[before[search.code[before] >= 0]] = number
            if name == "picard":
                left = search.z.clone(), search.residual.clone()
            # What did not converge leaves no trace: the next search starts where iteration ended.
            still = search.open
            search.z[still], search.residual[still] = left[0][still], left[1][still]
    still = search.open
    if len(still):
        with torch.no_grad():
            search.residual[still] = (search.step(still, search.z[still]) - search.z[still]).norm(dim=1)
    search.code[still] = search.hint[still]
    search.period[~torch.isin(search.code, torch.tensor([CODE["periodic"]], device=search.code.device))] = 0
    search.period[search.code <= CODE["at_floor"]] = 1
    return stage


def _settle_floor(search: Search) -> None:
    """Close open rows whose residual is rounding."""
    rows = search.open
    size = search.z[rows].norm(dim=1)
    limit = FLOOR * torch.finfo(search.z.dtype).eps * size
    done = rows[(search.residual[rows] <= limit) & (size <= RUNAWAY * search.scale[rows])]
    search.code[done] = CODE["at_floor"]


def _searched(points: Points, gather: Callable[[str], np.ndarray]) -> dict[str, schema.Variable]:
    """Return the results of the search itself."""
    at = ("puzzle", "point")
    residual, norms = gather("residual"), points.z.flatten(1).norm(dim=1).cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(residual == 0, 0, residual / norms).astype(residual.dtype)
    return {
        **identifier_variable(points.identifiers),
        "fixed_point": ((*at, *state_axes(points)), points.fold(points.z), "state reached"),
        "residual": (at, points.fold(residual), "||f(z) - z||, for a cycle ||f^period(z) - z||"),
        "relative_residual": (at, points.fold(relative), "residual over the norm of the state"),
        "result": (at, points.fold(gather("code").astype(np.int8)), "outcome of the search"),
        "stage": (at, points.fold(gather("stage").astype(np.int8)), "search that decided it"),
        "period": (
            at,
            points.fold(gather("period").astype(np.int32)),
            "period in outer steps: 1 fixed, 0 none",
        ),
        "evaluations": (at, points.fold(gather("evaluations")), "step evaluations spent"),
        "products": (at, points.fold(gather("products")), "Jacobian products spent"),
    }


def _certified(
    points: Points, given: dict[str, np.ndarray], seed: int, batch: int
) -> dict[str, schema.Variable]:
    """Return the certificates of the fixed points and cycles, from derivatives and forward iteration."""
    n, k = len(points.z), min(EIGENVALUES, points.size)
    code, period, residual = given["code"], given["period"], given["residual"].astype(float)
    found = (code == CODE["converged"]) | (code == CODE["at_floor"])
    norm = points.z.flatten(1).norm(dim=1).cpu().double().numpy()
    merged = merge(points, residual, np.fmax(norm, LEAST_SCALE * given["scale"]), found, seed, batch)
    # A fixed point at zero has no size of its own: the states on the way to it give one, and 1 stands in for none.
    size = np.fmax(norm, given["scale"])
    size = np.where(size > 0, size, 1.0)
    radius, value = np.full((3, n), np.nan), np.full((n, k + 1), np.nan + 0j)
    stability, checks = np.full(n, -1, np.int8), np.full((n, 3), np.nan)
    leading = merged.leader == np.arange(n)
    stability[leading] = STABILITY.index("undecided")  # also where no Jacobian can decide it
    # One period at a time, since eigenvalues are those of f^p.  Of equal fixed points only the representative is
    # looked at; cycles are not merged, each is looked at itself.
    smooth = leading & np.isfinite(merged.sigma)
    for p in np.unique(period[(period > 1) | smooth]):
        chosen = (smooth if p == 1 else period == p) & (period == p)
        part = dataclasses.replace(points, present=torch.as_tensor(chosen, device=points.z.device))
        moves, error = uncertain_moves(points, merged, np.flatnonzero(chosen), residual, size, int(p))
        slack = np.zeros(n)
        # The Jacobian is that of the point found; within the error it may be another, which widens the bounds.
        slack[chosen] = jacobian_change(part, part.present.nonzero()[:, 0], moves, int(p))
        eigen = eigenvalues(
            part, Wanted(k=k, tol=1e-3, seed=seed), steps=int(p), batch_size=batch, slack=slack
        )
        value[chosen] = eigen.value[chosen]
        radius[:, chosen] = np.stack((eigen.radius, eigen.low, eigen.high))[:, chosen]
        stability[chosen] = stability_of(eigen.low, eigen.high)[chosen]
        # Linearisation says nothing where the radius may be 1: there, pushes decide, or nothing does.
        near = np.maximum(eigen.high - 1, 1 - eigen.low) <= NEAR_ONE
        for row in np.flatnonzero(chosen & near & (stability == STABILITY.index("undecided"))):
            bound = float(error[chosen[:row].sum()])
            back, away = push_and_see(part, int(row), int(p), eigen.high[row], bound, float(size[row]))
            stability[row] = STABILITY.index("stable" if back else "unstable" if away else "undecided")
    for rows in torch.split(torch.as_tensor(np.flatnonzero(leading), device=points.z.device), batch):
        if not len(rows):
            continue
        checks[rows.cpu().numpy()] = np.stack(
            forward_and_return(points, rows, size[rows.cpu().numpy()], seed), 1
        )
    # Members of a solution get what was computed for its representative.
    member = merged.leader >= 0
    for values in (*radius, value, stability, checks):
        values[member] = values[merged.leader[member]]
    # A complex pair at the end brings its second member: one more than asked for, where any state has such a pair.
    wide = k + bool(np.isfinite(value[:, k]).any())
    table = {
        "solution": (merged.label.astype(np.int32), "number of the distinct fixed point, -1 none"),
        "representative": (leading, "the point with the smallest residual of its solution"),
        "stable": (stability == STABILITY.index("stable"), "certainly stable: see stability"),
        "stability": (stability, "stable, unstable, or not decided by what is known; -1 no solution"),
        "spectral_radius": (radius[0], "largest modulus of an eigenvalue, over a whole period"),
        "spectral_radius_low": (radius[1], "lower bound of the spectral radius"),
        "spectral_radius_high": (radius[2], "upper bound, infinite where it is not known"),
        "eigenvalue": (value[:, :wide], "leading eigenvalues, over a whole period"),
        "sigma_min": (merged.sigma, "smallest singular value of I - J, estimated from above"),
        "error_bound": (merged.error, "2 residual / sigma_min: distance to the exact fixed point"),
        "forward_drift": (checks[:, 0], "largest relative distance from it within 64 steps"),
        "return_ratio": (checks[:, 1], "perturbation after 64 steps over that before, worst of three"),
        "answer_returns": (
            np.nan_to_num(checks[:, 2]).astype(bool), "all perturbed twins end with the unperturbed answer"
        ),
    }  # fmt: skip
    dims = ("puzzle", "point", "eig")
    return {
        **{
            name: (dims[: values.ndim + 1], points.fold(values), text)
            for name, (values, text) in table.items()
        },
        "ambiguous": (("puzzle",), merged.ambiguous, "pairs of points that could be merged or not"),
    }
