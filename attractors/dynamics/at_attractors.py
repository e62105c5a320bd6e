"""Local dynamics at the attractors found in an ensemble: spectrum, settling rate, and return after pushes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.dynamics.lyapunov import lyapunov
from eqrlab.attractors.dynamics.neutral import STABILITY, stability_of
from eqrlab.attractors.dynamics.singular import singular_values
from eqrlab.attractors.dynamics.spectrum import spectrum
from eqrlab.attractors.ensemble.arguments import require_known, require_same_puzzles
from eqrlab.attractors.ensemble.contract import require_law
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.sample import sample
from eqrlab.attractors.ensemble.states import run_size
from eqrlab.attractors.fates.fate import LEAST_SCALE
from eqrlab.attractors.landscape.return_test import RETURNS, return_test
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.trends import decay_rate
from eqrlab.core import System

POINTS = ("right", "wrong")
VERDICTS = ("none", "stable", "saddle", "no_fixed_point", "undecided")
AT_REST = 1e-4  # relative residual up to which a state counts as a fixed point, to be judged by its spectrum
PUSH = 1e-3  # relative size of the push after which the settling rate is measured
LEAST_STEPS = 4  # fewest steps a rate is fitted to
DIRECTIONS = 1  # random pushes of the return test; one more is bred
NOTHING = {"returns": RETURNS.index("not_tested"), "converged": False}  # where a state was not examined
SPECTRAL = {
    "radius": "spectral_radius", "low": "spectral_radius_low", "high": "spectral_radius_high",
    "eigenvalue": "eigenvalue", "eigen_residual": "eigen_residual", "converged": "converged",
}  # fmt: skip
SINGULAR = 0.05  # residual of the largest singular value, which is right to about its square
EXPONENT_STEPS = 160  # over which the exponent of a state that keeps moving is averaged


def local_dynamics(
    run: Run,
    ensemble: xr.Dataset,
    basins: xr.Dataset,
    *,
    k: int = 4,
    tol: float = 1e-3,
    depth: int = 64,
    max_products: int = 300,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Examine the largest right and the largest wrong attractor of every puzzle.

    Parameters
    ----------
    run
        The run with which the ensemble was sampled, or `Run.of_ensemble(system, ensemble)`.
    ensemble, basins
        From `run.sample()` (with starts drawn from a law, not given as a tensor) and `basins`, with correctness known.
        If `final_state` was kept, the examined runs need not be run again.
    k, tol, max_products
        Of the spectrum.
    depth
        Outer steps, noise off, for which a representative run continues before it is examined.
    seed
        Of the pushes.
    progress
        Whether bars are shown, one for each part of the work.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point) with points right and wrong: `attractor` (its number in `basins`, -1: none),
        `restart` (the run that stands for it), `residual` (relative, noise off, where it was examined),
        `spectral_radius` with `_low` and `_high`, `sigma_1`, `predicted_rate` = spectral radius, the factor by
        which a small error shrinks in a step, `measured_rate` = that factor after a push of 1e-3 (of the run
        itself if it is still settling), `returns` (flags of `return_test`), `verdict` with flags none, stable,
        saddle, no_fixed_point, undecided; where there is no fixed point, the leading Lyapunov `exponent` with
        `_low` and `_high`: chaos where the interval lies above 0. Over (puzzle, point, eig): `eigenvalue`,
        `eigen_residual`, `converged`.

    Raises
    ------
    ValueError
        For an ensemble of given starts or without correctness, for other puzzles than the ensemble's, and for a system
        or law that does not reproduce the ensemble's runs.

    Notes
    -----
    The points belong to the deterministic map: representative runs are repeated from their seeds and then continue with
    noise off.  If the map includes rounding (URM), derivatives are those of `system.smooth()`.

    stable: a fixed point (relative residual up to 1e-4) whose spectral radius is below 1 by its upper bound and whose
    pushes come back.  saddle: a fixed point with a radius above 1 by its lower bound, or one that a push leaves.
    no_fixed_point: the residual is larger, the state moves on and is not pushed; its spectrum describes a single step.
    Else undecided.

    Cost, for each of at most two points a puzzle: about `max_products` products with the Jacobian at most, and some 100
    to 300 steps, the more the slower pushes come back; where the state keeps moving, 64 steps and 180 with a tangent
    vector.
    """
    require_known(ensemble, "local_dynamics")
    if ensemble.attrs.get("initial_law") == "given starts":
        raise ValueError("local_dynamics needs restarts it can draw again, not given starts")
    system, tokens, device = run.system, run.inputs, run.place.device
    known = require_same_puzzles(ensemble, tokens, run.identifiers)
    attractor, restart = representatives(ensemble, basins)
    present = attractor >= 0
    options: dict[str, Any] = {"seed": int(ensemble.attrs["seed"]), "device": device, "initial": run.initial,
                               "dtype": ensemble.attrs["dtype"]}  # fmt: skip
    states = _ends(system, (tokens, known), restart, present, ensemble, options)
    smooth = getattr(system, "smooth", lambda: system)()
    if states is None:
        return _table(ensemble, attractor, restart, {})
    work: dict[str, Any] = {"device": device, "progress": progress}

    def puzzles_of(chosen: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
        """Return the puzzles of chosen points, (puzzle, point) bool, one row each, and options to analyse them."""
        rows = torch.as_tensor(np.nonzero(chosen)[0])
        return tokens[rows], {**work, "identifiers": None if known is None else known[rows]}

    few, where = puzzles_of(present)
    z = states[torch.as_tensor(present)]
    # At the origin the states of further steps vanish: the run that led there has a size.
    scale = torch.as_tensor(np.take_along_axis(ensemble.scale.values, np.maximum(restart, 0), 1)[present])
    least = LEAST_SCALE * run_size(scale, z).numpy()
    quiet = _measured(_quiet(smooth, few, z[:, None], depth, where), least)
    end, residual = torch.as_tensor(quiet.final_state.values), quiet.relative_residual.values[:, 0, -1]
    spectra = spectrum(smooth, few, end, k=min(k, end[0, 0].numel()), tol=tol, max_products=max_products, seed=seed,
                       radius=True, **where)  # fmt: skip
    # Only the largest singular value is told: neither growth nor departure from normality is followed.
    sigma = singular_values(smooth, few, end, k=1, tol=SINGULAR, horizon=0, **where)
    every = {name: spectra[stored].values[:, 0] for name, stored in SPECTRAL.items()}
    every |= {"residual": residual, "sigma": sigma.singular_value.values[:, 0, 0]}
    found = {name: placed(present, values, NOTHING.get(name, np.nan)) for name, values in every.items()}
    moving, rest = residual > AT_REST, residual <= AT_REST
    if moving.any():
        chosen = placed(present, moving, False)
        few, where = puzzles_of(chosen)
        found["exponent"] = np.stack(
            [
                placed(chosen, values)
                for values in _exponents(smooth, few, end[torch.as_tensor(moving)], seed, where)
            ]
        )
    if rest.any():
        chosen = placed(present, rest, False)
        few, where = puzzles_of(chosen)
        labels = Judge.of_ensemble(ensemble).of(np.nonzero(chosen)[0]).labels
        still, ran = end[torch.as_tensor(rest)], quiet.isel(puzzle=rest)
        one = _pushed(smooth, few, still, ran, labels, depth=depth, seed=seed, **where)
        found |= {name: placed(chosen, values, NOTHING.get(name, np.nan)) for name, values in one.items()}
    return _table(ensemble, attractor, restart, found)


def placed(chosen: np.ndarray, values: np.ndarray, fill: Any = np.nan) -> np.ndarray:
    """Return values (n, ...) of the n points that are chosen, (P, M) bool, as (P, M, ...), the others filled."""
    out = np.full((*chosen.shape, *values.shape[1:]), fill, values.dtype)
    out[chosen] = values
    return out


def _exponents(system: System, tokens: Tensor, z: Tensor, seed: int, where: dict[str, Any]) -> Interval:
    """Return the leading exponents (n,) of states (n, 1, *state_shape) that keep moving, each with its puzzle."""
    found = lyapunov(system, tokens, z, k=1, steps=EXPONENT_STEPS, noise=0, seed=seed, **where)
    return Interval.of(found, "lyapunov_exponent", ..., 0, 0)


def _pushed(
    system: System, tokens: Tensor, z: Tensor, quiet: xr.Dataset, labels: np.ndarray | None, *, depth: int, seed: int,
    **where: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Push states at rest (n, 1, *state_shape), each with its puzzle; return settling rates and whether they return."""
    scale = quiet.scale.values[:, 0]
    size = torch.maximum(z.flatten(2).norm(dim=2), torch.as_tensor(scale).to(z)[:, None])
    moved = PUSH * size.view(*z.shape[:2], *(1,) * (z.ndim - 2))
    way = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    unit = way / way.flatten(2).norm(dim=2).view(*moved.shape)
    run = _measured(_quiet(system, tokens, z + moved * unit, depth, where), scale)
    back = return_test(system, tokens, quiet, sizes=(PUSH,), directions=DIRECTIONS, depth=depth, seed=seed,
                       labels=labels, **where)  # fmt: skip
    return {"measured_rate": rates(run, quiet)[:, 0], "returns": back.result.values[:, 0]}


def representatives(ensemble: xr.Dataset, basins: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers (P, 2) of the largest right and wrong attractor (-1: none), and a run (P, 2) at each.

    The run is the one with the smallest final residual among those with the answer of the attractor.
    """
    counts = np.nan_to_num(basins["count"].values.astype(float))
    correct, changing = (basins[name].values.astype(bool) for name in ("correct", "changing"))
    labels, final = basins.attractor_id.values, ensemble.relative_residual.values[:, :, -1]
    told_apart = Judge.of_ensemble(ensemble)
    attractor = np.full((len(labels), len(POINTS)), -1, np.int32)
    restart = np.full_like(attractor, -1)
    for p in range(len(labels)):
        for m, kind in enumerate((correct[p], ~correct[p] & ~changing[p])):
            sizes = np.where(kind, counts[p], 0)
            if sizes.max() == 0:
                continue
            attractor[p, m] = sizes.argmax()
            rows = np.flatnonzero(labels[p] == attractor[p, m])
            kept = np.vstack([basins.answer.values[p, attractor[p, m]], ensemble.answer.values[p, rows]])
            code = told_apart.of(np.full(len(kept), p)).codes(kept)
            same = code[1:] == code[0]
            rows = rows[same] if same.any() else rows
            restart[p, m] = rows[final[p, rows].argmin()]
    return attractor, restart


def rates(pushed: xr.Dataset, quiet: xr.Dataset) -> np.ndarray:
    """Return the factor (P, M) by which the residual falls per step after a push, NaN if there is nothing to fit.

    It is fitted over the second half of the steps in which the residual is above a hundred roundings and ten times that
    of the unpushed run, so that faster components have decayed.  If the unpushed run is still settling, so that a push
    shows nothing, its own rate over its last half is used.
    """
    series = pushed.relative_residual.values.astype(float)
    floor = 100 * torch.finfo(getattr(torch, pushed.attrs["dtype"])).eps
    rest = np.maximum(10 * quiet.relative_residual.values[:, :, -1].astype(float), floor)
    result = np.full(series.shape[:2], np.nan)
    for row in np.ndindex(result.shape):
        below = np.flatnonzero(series[row] <= rest[row])
        stop = below[0] if len(below) else series.shape[2]
        if stop >= LEAST_STEPS:
            result[row] = decay_rate(series[row][None, stop // 2 : stop])[0]
            continue
        own = quiet.relative_residual.values[row].astype(float)
        tail = own[len(own) // 2 :]
        if len(tail) >= LEAST_STEPS and floor < tail[-1] <= AT_REST and (np.diff(tail) < 0).all():
            result[row] = decay_rate(tail[None])[0]
    return result


def judge(
    present: np.ndarray, residual: np.ndarray, low: np.ndarray, high: np.ndarray, returns: np.ndarray
) -> np.ndarray:
    """Return the codes of `VERDICTS` for states with these bounds of the spectral radius, all of one shape.

    See `local_dynamics`.
    """
    at_rest, known = residual <= AT_REST, stability_of(low, high)
    back, left = returns == RETURNS.index("returns"), returns == RETURNS.index("leaves")
    stable, unstable = (
        (known == STABILITY.index("stable")) & back,
        (known == STABILITY.index("unstable")) | left,
    )
    return np.select(
        [~present, ~at_rest, unstable, stable],
        [VERDICTS.index(n) for n in ("none", "no_fixed_point", "saddle", "stable")],
        VERDICTS.index("undecided"),
    ).astype(np.int8)


def _ends(
    system: System,
    puzzles: tuple[Tensor, Tensor | None],
    restart: np.ndarray,
    present: np.ndarray,
    ensemble: xr.Dataset,
    options: dict[str, Any],
) -> Tensor | None:
    """Return the final states of the representatives (P, 2, *state_shape), zero for missing ones; None without any.

    Runs whose final states were not kept are run again, and must be the same runs.
    """
    if not present.any():
        return None
    if "final_state" in ensemble:
        kept = ensemble.final_state.values[np.arange(len(restart))[:, None], np.maximum(restart, 0)]
        return torch.as_tensor(np.where(present.reshape(*present.shape, *(1,) * (kept.ndim - 2)), kept, 0))
    require_law(ensemble, options["initial"])
    states: Tensor | None = None
    tokens, known = puzzles
    for p, m in np.argwhere(present):
        number = int(ensemble.restart.values[restart[p, m]])
        again = sample(
            system, tokens[p : p + 1], identifiers=None if known is None else known[p : p + 1], restarts=1,
            first_restart=number, depth=ensemble.sizes["step"],
            noise=float(ensemble.attrs["noise"]), keep=("summary", "final_state"), **options,
        )  # fmt: skip
        mine = ensemble.isel(puzzle=[p], restart=[restart[p, m]])
        if not _same_run(mine, again):
            raise ValueError(
                f"run {restart[p, m]} of puzzle {p}, drawn again, is not that of the ensemble: give the system and the "
                "`initial` that it was sampled with, or keep its final states (keep=('summary', 'final_state'))"
            )
        z = torch.as_tensor(again.final_state.values[0, 0])
        if states is None:
            states = torch.zeros(*present.shape, *z.shape, dtype=z.dtype)
        states[p, m] = z
    return states


def _same_run(mine: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether two ensembles of a run begin with the same residuals and, if it settles, end at the same place.

    Later steps and the end of a chaotic run need not agree, since batches differ by rounding.
    """
    a, b = (run.residual.values[0, 0, :2] for run in (mine, other))
    alike = np.allclose(a, b, rtol=1e-2, atol=1e-6, equal_nan=True)
    if not alike or schema.FATES[int(mine.fate.item())] != "settled":
        return bool(alike)
    apart = np.linalg.norm(mine.sketch.values.astype(float) - other.sketch.values)
    code, again = (Judge.of_ensemble(mine).codes(run.answer.values[0]) for run in (mine, other))
    return bool(apart <= 0.1 * mine.scale.item() and code == again)


def _quiet(
    system: System,
    tokens: Tensor,
    states: Tensor,
    depth: int,
    where: dict[str, Any],
) -> xr.Dataset:
    """Continue from states (P, M, *state_shape) with noise off."""
    return sample(
        system, tokens, restarts=states.shape[1], depth=depth, noise=0, initial=states,
        keep=("summary", "final_state"), retire=True, **where,
    )  # fmt: skip


def _measured(run: xr.Dataset, least: np.ndarray) -> xr.Dataset:
    """Return runs (n, 1) whose scale, and unit of relative residuals, is at least this one (n,)."""
    unit = least[:, None].astype(run.residual.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.fmin(run.relative_residual, run.residual / unit[..., None])
    return run.assign(scale=run.scale.copy(data=np.fmax(run.scale, unit)), relative_residual=relative)


def _table(
    ensemble: xr.Dataset, attractor: np.ndarray, restart: np.ndarray, found: dict[str, np.ndarray]
) -> xr.Dataset:
    """Return the dataset of the results, by name over (puzzle, point); missing values were not examined."""
    pair, each = ("puzzle", "point"), ("puzzle", "point", "eig")
    nothing = np.full(attractor.shape, np.nan)
    values: dict[str, Any] = dict.fromkeys(
        ("residual", "measured_rate", "radius", "low", "high", "sigma"), nothing
    )
    values |= {
        "exponent": np.full((3, *attractor.shape), np.nan),
        "returns": np.full(attractor.shape, NOTHING["returns"], np.int8),
        "eigenvalue": nothing[..., None].astype(complex), "eigen_residual": nothing[..., None],
        "converged": np.zeros((*attractor.shape, 1), bool),
    }  # fmt: skip
    values |= found
    verdict = judge(attractor >= 0, values["residual"], values["low"], values["high"], values["returns"])
    variables: dict[str, schema.Variable] = {
        "attractor": (pair, attractor, "number of the attractor among those of its puzzle, -1 none"),
        "restart": (pair, restart, "run that stands for the attractor, -1 none"),
        "residual": (pair, values["residual"], "relative residual, noise off, at the state examined"),
        "spectral_radius": (pair, values["radius"], "largest modulus of an eigenvalue of df/dz"),
        "spectral_radius_low": (pair, values["low"], "lower bound of the spectral radius"),
        "spectral_radius_high": (pair, values["high"], "upper bound, infinite where it is not known"),
        "sigma_1": (pair, values["sigma"], "largest singular value of df/dz"),
        "predicted_rate": (
            pair,
            values["radius"],
            "factor by which a step multiplies a small error, from the spectrum",
        ),
        "measured_rate": (
            pair,
            values["measured_rate"],
            "factor by which a step multiplies the residual after a push",
        ),
        **Interval(*values["exponent"]).variables(
            "exponent", pair, "leading Lyapunov exponent where the state keeps moving", "that exponent"
        ),
        "returns": (pair, values["returns"], "whether the state returns after small pushes"),
        "verdict": (pair, verdict, "what the state is"),
        "eigenvalue": (each, values["eigenvalue"], "leading eigenvalues of df/dz"),
        "eigen_residual": (each, values["eigen_residual"], "||J v - value v|| / |value|"),
        "converged": (
            each,
            values["converged"],
            "residual and error of the eigenvalue are within the tolerance",
        ),
    }
    coordinates = {"puzzle": ensemble.puzzle.values, "point": list(POINTS)}
    codes = {"returns": RETURNS, "verdict": VERDICTS}
    return schema.dataset(variables, schema.carried(ensemble), coordinates, codes)
