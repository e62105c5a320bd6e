"""More depth for unfinished runs: an ensemble is continued in doublings, with halting off."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    identifier_variable,
    identifiers_in,
    is_whole,
    require_states,
    tensor_of,
)
from eqrlab.attractors.ensemble.batches import run_in_batches
from eqrlab.attractors.ensemble.judge import Oracle
from eqrlab.attractors.ensemble.options import WorkOptions, check_options
from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.schedule import sparse_of
from eqrlab.attractors.fates.fate import CODE, Tolerances, Verdict, classify, solved_band
from eqrlab.attractors.fates.records import digested, noise_size, relative_to
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import require_equal
from eqrlab.core import System

WHICH = {
    "unfinished": ("unfinished",),
    "unsettled": ("unfinished", "wandering", "recurrent", "periodic"),
    "all": ("settled", "periodic", "recurrent", "wandering", "unfinished", "diverged"),
}


def prolong(
    system: System,
    inputs: Tensor | np.ndarray,
    ensemble: xr.Dataset,
    *,
    depth: int = 256,
    which: str = "unfinished",
    budget: int | None = None,
    oracle: Oracle | None = None,
    device: str | torch.device | None = None,
    **options: Unpack[WorkOptions],
) -> xr.Dataset:
    """Continue the runs of an ensemble to D, 2 D, 4 D, ... outer steps, and return their fates at each depth.

    Parameters
    ----------
    system, inputs
        Those of the ensemble.
    ensemble
        From `sample`, of depth D, with `final_state` kept.
    depth
        Deepest depth; the largest doubling of D up to it is the last.
    which
        Runs that continue at each doubling, by their fate so far: "unfinished"; "unsettled": all that have neither
        settled nor diverged nor become nonfinite; "all", which is needed to see reversions and late collapse.  The
        other runs keep their fate, residual and answer.
    budget
        Largest number of outer steps of all runs together; a doubling that would exceed it is not begun.
    oracle
        The ensemble's, when correctness was decided by one; labels are taken from the ensemble.
    device, **options
        As in `sample`: `batch_size`, `progress`, see `WorkOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, restart, depth), the depth D of the ensemble first: `fate`, `state_fate`, `answer_fate`,
        `residual`, `relative_residual`, `correct`, and `followed` (the run was continued to this depth).  Over
        (puzzle, restart): `final_state`, and `answer` with a token axis, after the last step taken.  Also the
        `inputs`, `labels` and `identifier` of the ensemble.

    Raises
    ------
    ValueError
        For an ensemble without final states or of other puzzles, a depth below 2 D, a missing oracle, or an unknown
        `which`.

    Notes
    -----
    Noise, seed and precision are those of the ensemble.  The noise sequence continues where it stopped, so that
    a continued run equals the run that `sample` gives at that depth.  Fates are judged on the new half of each
    run.  The solved band of each depth is that of all runs, continued or not.  Cost: the added outer steps, at
    most depth - D per run.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, section 5: accuracy keeps rising with depth; for some checkpoints it
    falls again.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import sample
    >>> from eqrlab.core import MapSystem
    >>> slow = MapSystem(lambda z, x: 0.98 * z, lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64))
    >>> inputs = torch.zeros(1, 1, dtype=torch.long)
    >>> ensemble = sample(slow, inputs, restarts=2, depth=16, keep=("summary", "final_state"))
    >>> longer = prolong(slow, inputs, ensemble, depth=4096)
    >>> longer.depth.values[:3].tolist(), longer.fate.values[0, 0, [0, -1]].tolist()  # 4: unfinished, 0: settled
    ([16, 32, 64], [4, 0])
    """
    check_options(options, WorkOptions, prolong)
    require_states(ensemble)
    require_equal(ensemble, "prolong")
    recipe = Run.of_ensemble(system, ensemble, inputs=inputs, oracle=oracle, device=device)
    recipe = recipe.with_(keep=("summary", "final_state"))
    if recipe.noise and (np.diff(ensemble.restart.values) != 1).any():
        raise ValueError(
            "prolong needs all restarts of the ensemble in their order, since noise is keyed by their numbers"
        )
    start = ensemble.sizes["step"]
    if not is_whole(depth) or depth < 2 * start:
        raise ValueError(f"depth must be an integer >= twice the ensemble's, {2 * start}, got {depth}")
    if which not in WHICH:
        raise ValueError(f"which {which!r} unknown; choose from {', '.join(WHICH)}")
    codes = [CODE[name] for name in WHICH[which]]
    now, answer, state = _begin(ensemble)
    moments, done, depths = [{**now, "followed": np.ones(len(state), bool)}], start, [start]
    spent = 0
    while 2 * done <= depth:
        rows = np.flatnonzero(np.isin(now["fate"], codes))
        if budget is not None and spent + len(rows) * done > budget:
            break
        spent += len(rows) * done
        if len(rows):
            folded = tensor_of(state, "final_state").reshape(*ensemble.fate.shape, *state.shape[1:])
            stage = recipe.with_(initial=folded, depth=done, before=done)
            records = run_in_batches(stage, rows, options.get("batch_size"), options.get("progress", False))
            now = {name: values.copy() for name, values in now.items()}
            _judge(now, rows, records, recipe, done)
            state, answer = state.copy(), answer.copy()
            state[rows], answer[rows] = records["states"][:, -1], records["answer"]
        followed = np.zeros(len(state), bool)
        followed[rows] = True
        done *= 2
        depths.append(done)
        moments.append({**now, "followed": followed})
    return _assemble(ensemble, moments, depths, answer, state, {"which": which, "row_steps": spent})


def _begin(ensemble: xr.Dataset) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return what is known of the runs after the ensemble's last step, flat over runs; answers; states."""
    runs = ensemble.fate.size
    now = {n: ensemble[n].values.reshape(runs) for n in ("fate", "state_fate", "answer_fate")}
    now |= {n: ensemble[n].values[:, :, -1].reshape(runs) for n in ("residual", "relative_residual")}
    if "correct" in ensemble:
        now["correct"] = ensemble.correct.values[:, :, -1].reshape(runs)
    with np.errstate(invalid="ignore"):
        now["scaled"] = now["residual"] / ensemble.scale.values.reshape(runs)
    answer = ensemble.answer.values.reshape(runs, -1).astype(np.int64)
    state = ensemble.final_state.values
    return now, answer, state.reshape(runs, *state.shape[2:])


def _judge(
    now: dict[str, np.ndarray], rows: np.ndarray, records: dict[str, np.ndarray], recipe: Recipe, before: int,
) -> None:  # fmt: skip
    """Bring what is known of these rows up to date, with the solved band of all rows."""
    residual, size, limits = records["residual"], records["norm"], recipe.tolerances
    noise = noise_size(residual, records["update"], size) if recipe.noise else 0.0
    epsilon = torch.finfo(recipe.dtype).eps
    judged = "correct" in now

    def verdict(solved: np.ndarray, tolerances: Tolerances) -> Verdict:
        return classify(
            residual.astype(float), size.astype(float), records["code"], solved,
            digested(records, residual.shape[1], limits, before),
            epsilon=epsilon, noise=noise, tolerances=tolerances, before=before,
            sparse=sparse_of(records, recipe.residuals, before),
        )  # fmt: skip

    right = records["correct"][:, -1] & judged
    first = verdict(right, limits)
    with np.errstate(invalid="ignore"):
        now["scaled"][rows] = residual[:, -1] / first.scale
    constant = now["answer_fate"] == 0
    constant[rows] = first.answer_fate == 0
    if judged:
        now["correct"][rows] = right
        floor = limits.numerical_floor(epsilon)
        band = solved_band(now["scaled"], now["correct"] & constant, limits, floor, noise)
        first = verdict(right, limits.pinned(band))
    for name in ("fate", "state_fate", "answer_fate"):
        now[name][rows] = getattr(first, name)
    now["residual"][rows] = residual[:, -1]
    now["relative_residual"][rows] = relative_to(residual[:, -1], size[:, -1])


def _assemble(
    ensemble: xr.Dataset, moments: list[dict[str, np.ndarray]], depths: list[int], answer: np.ndarray,
    state: np.ndarray, extra: dict[str, Any],
) -> xr.Dataset:  # fmt: skip
    shape, each = ensemble.fate.shape, ("puzzle", "restart", "depth")
    texts = {
        "fate": "what became of the trajectory: state and answer together",
        "state_fate": "what became of the state, whatever the answer",
        "answer_fate": "what became of the answer, whatever the state",
        "residual": "noise-free residual ||f(z; x) - z|| over the whole state",
        "relative_residual": "noise-free residual over the norm of the state",
        "correct": "answer at this depth is right",
        "followed": "the run was continued to this depth; else its last values are repeated",
    }
    variables: dict[str, schema.Variable] = {
        name: (each, np.stack([m[name] for m in moments], axis=1).reshape(*shape, -1), text)
        for name, text in texts.items()
        if name in moments[0]
    }
    variables |= identifier_variable(identifiers_in(ensemble))
    for name in ("inputs", "labels"):  # by which later analyses know the puzzles, and tell answers apart
        if name in ensemble:
            dims, text = tuple(map(str, ensemble[name].dims)), str(ensemble[name].attrs["long_name"])
            variables[name] = (dims, ensemble[name].values, text)
    run = ("puzzle", "restart")
    axes = tuple(f"state_{i}" for i in range(state.ndim - 1))
    variables["answer"] = (
        (*run, "token"),
        answer.reshape(*shape, -1).astype(np.int32),
        "answer after the last step",
    )
    variables["final_state"] = (
        (*run, *axes),
        state.reshape(*shape, *state.shape[1:]),
        "state after the last step",
    )
    codes = {"fate": schema.FATES, "state_fate": schema.FATES, "answer_fate": schema.ANSWER_FATES}
    coordinates = {
        "depth": depths, "puzzle": ensemble.puzzle.values, "restart": ensemble.restart.values,
    }  # fmt: skip
    attributes = {**schema.carried(ensemble), "tolerances": ensemble.attrs["tolerances"], **extra}
    return schema.dataset(variables, {**attributes, "depth": depths[-1]}, coordinates, codes)
