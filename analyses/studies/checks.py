"""Checks beside a verdict: does depth change what is right, does the map act, do verdicts hang on a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.studies.commit import commit_sentence
from eqrlab.analyses.studies.fates import late_sentence, noop_sentence
from eqrlab.analyses.text.format import percent_interval, plural
from eqrlab.attractors.answers.outcomes import share_of_runs
from eqrlab.attractors.ensemble.contract import require_law
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.runs import steps_made
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.core import System

GROUPS = ("outcomes", "noop", "sensitivity", "commit")
NOOP_RESTARTS, NOOP_DEPTHS = 4, (8, 32)  # of the no-op test; the deeper one is for maps suspected of a fault
CLEAR_MEMORY, CLEAR_EFFECT = 0.05, 1e-2  # most that may be left of the start, least effect of the input
FOLLOWED = 2  # restarts of each puzzle that go on to twice the depth
MOST_NUMBERS = 2**27  # of states that are kept for it


def run_checks(
    run: at.Run, ensemble: xr.Dataset, *, batch_size: int | None = None, progress: bool = False
) -> dict[str, xr.Dataset]:
    """Follow some runs to twice the depth, test whether the map acts, and move the thresholds of the verdicts.

    Parameters
    ----------
    run
        The run the ensemble was sampled by.
    ensemble
        With correctness known; where it has `final_state`, its first 2 restarts of each puzzle are followed.
    batch_size, progress
        As for `attractors.sample`.

    Returns
    -------
    dict
        Groups `noop`, `sensitivity` and, where runs were followed, `outcomes`.
    """
    require_law(ensemble, run.initial)
    depth, device = ensemble.sizes["step"], run.place.device
    groups = {"noop": _noop(run, ensemble, progress), "sensitivity": at.mode_sensitivity(ensemble)}
    if "final_state" in ensemble:
        few = common_restarts(ensemble).isel(restart=slice(0, FOLLOWED))
        longer = at.prolong(run.system, run.inputs, few, depth=2 * depth, which="all", oracle=run.judge.oracle,
                            device=device, batch_size=batch_size, progress=progress)  # fmt: skip
        found = at.outcomes(longer).assign_attrs(followed=few.sizes["restart"])
        groups["outcomes"] = found.assign(retired_later(few, longer))
    return groups


def _noop(run: at.Run, ensemble: xr.Dataset, progress: bool) -> xr.Dataset:
    """Test whether the map acts: over a few steps, and over more where these do not clearly show that it does."""
    law = None if isinstance(run.initial, torch.Tensor) else run.initial
    for depth in sorted({min(ensemble.sizes["step"], d) for d in NOOP_DEPTHS}):
        found = at.noop_test(
            run.system, run.inputs, restarts=NOOP_RESTARTS, depth=depth, seed=run.seed, initial=law,
            device=run.place.device, dtype=run.place.dtype, progress=progress, identifiers=run.identifiers,
            labels=Judge.of_ensemble(ensemble).labels,
        )  # fmt: skip
        forgotten, read = found["memory"] <= CLEAR_MEMORY, ~(found["input_effect"] < CLEAR_EFFECT)
        if bool((found["acts"] & forgotten & read & ~found["answer_fixed"]).all()):
            break
    return found


def retired_later(ensemble: xr.Dataset, longer: xr.Dataset) -> Mapping[Any, xr.DataArray]:
    """Return what retirement may have missed: which share of retired runs, followed on, have another answer then.

    Parameters
    ----------
    ensemble, longer
        The runs, and the same ones prolonged; nothing is returned where none was retired.
    """
    retired = steps_made(ensemble) < ensemble.sizes["step"]
    if not retired.any():
        return {}
    differ, counted = (
        ensemble["answer"].values != longer["answer"].values,
        Judge.of_ensemble(ensemble).counted,
    )
    changed = (differ if counted is None else differ & counted[:, None]).any(2) & retired
    share = Interval(*share_of_runs(changed.sum(1), retired.sum(1)))
    text = "share of the retired runs that have another answer at the largest depth"
    variables: dict[str, schema.Variable] = {
        "retired": ((), np.asarray(retired.sum()), "runs retired in the ensemble and followed on"),
        **share.variables("retired_changed", (), text),
    }
    return schema.dataset(variables, {}).data_vars


def states_fit(system: System, runs: int) -> bool:
    """Return whether the final states of so many runs may be kept."""
    return int(np.prod(getattr(system, "state_shape", (1,)))) * runs <= MOST_NUMBERS


def check_sentences(groups: Mapping[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Return the results of the checks of a diagnosis, one heading and sentence for each check that was made."""
    told = []
    if (
        "outcomes" in groups and "followed" in groups["outcomes"].attrs
    ):  # those of a study of fates are no check
        told.append(("Twice the depth", deeper_sentence(groups["outcomes"])))
    if "sensitivity" in groups:
        told.append(("Thresholds", sensitivity_sentence(groups["sensitivity"])))
    if "noop" in groups:
        told.append(("The map acts", noop_sentence(groups["noop"])))
    if "commit" in groups:
        told.append(("Commit and restart", commit_sentence(groups["commit"])))
    return told


def deeper_sentence(outcomes: xr.Dataset) -> str:
    """Return how many wrong runs were merely unfinished, and how many right ones did not stay right."""
    last = outcomes.isel(depth=-1)
    right = int(outcomes["count"].isel(depth=0).sel(correctness="right").sum())
    followed = plural(int(outcomes.attrs["followed"]), "restart")
    text = f"{followed} of each puzzle went on. {late_sentence(outcomes, 'None of these')}"
    if right and np.isfinite(float(last["reverted"])):
        lost = percent_interval(*Interval.of(last, "reverted"))
        text += f" Of {plural(right, 'run')} right then, {lost} are wrong again."
    if "retired" in outcomes:
        changed = percent_interval(*Interval.of(outcomes, "retired_changed"))
        text += (
            f" Of {plural(int(outcomes['retired']), 'run')} retired at rest before that, {changed} have another "
            "answer by then: so much retirement misses."
        )
    return text


def sensitivity_sentence(sensitivity: xr.Dataset) -> str:
    """Return how many verdicts change when one threshold or prior of the modes is moved."""
    puzzles, tried = sensitivity.sizes["puzzle"], sensitivity.sizes["variation"] - 1
    changed = np.rint(sensitivity["changed"].values * puzzles).astype(int)
    turned = np.rint(sensitivity["reversed"].values * puzzles).astype(int)
    opening = f"Each threshold and prior of the modes moved, {tried} changes one at a time:"
    if not changed.max():
        return f"{opening} every verdict on {plural(puzzles, 'puzzle')} stays."
    worst = str(sensitivity["variation"].values[changed.argmax()])
    text = f"{opening} at most {changed.max()} of {plural(puzzles, 'verdict')} changes ({worst})"
    text = text.replace("changes (", "change (") if changed.max() > 1 else text
    if not turned.max():
        return f"{text}, none to another mode."
    return f"{text}, {turned.max()} to another mode ({sensitivity['variation'].values[turned.argmax()]})."
