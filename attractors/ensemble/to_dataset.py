"""The ensemble dataset made of the records of many runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.arguments import identifier_variable
from eqrlab.attractors.ensemble.contract import starts_of
from eqrlab.attractors.ensemble.recipe import Recipe
from eqrlab.attractors.ensemble.schedule import sparse_of
from eqrlab.attractors.fates.fate import (
    CODE,
    LongRun,
    Verdict,
    answer_window,
    classify,
    solved_band,
    solved_residuals,
)
from eqrlab.attractors.fates.records import answer_ids, digested, noise_size, relative_to
from eqrlab.attractors.results import schema
from eqrlab.core import Reasoner
from eqrlab.core.models.products import how_multiplied
from eqrlab.core.models.system import dtype_name

JUDGED_AT_ONCE = 4096  # rows: judging needs many times the memory of their records
_RUN, _EACH = ("puzzle", "restart"), ("puzzle", "restart", "step")
# Name of a variable over runs to the field of the verdict that it is, and what it says.
_DECIDED = {
    "fate": ("fate", "what became of the trajectory: state and answer together"),
    "state_fate": ("state_fate", "what became of the state, whatever the answer"),
    "answer_fate": ("answer_fate", "what became of the answer, whatever the state"),
    "period": ("period", "period in outer steps: 1 settled, 0 none"),
    "answer_settled": ("answer_settled", "first step since which the answer is unchanged"),
    "settling_step": ("settling_step", "step since which the state counts as settled, -1 never"),
    "spread": ("spread", "root mean square radius of the last states over the norm"),
    "drift_rate": (
        "drift", "share of its norm that a drifting state of settled answer moves in a step, NaN: no drift",
    ),
    "scale": ("scale", "norm of the last state, at least 1/1000 of the largest: the unit of distances"),
}  # fmt: skip
# Name of a variable to the record that it is where there is one, its dims, and what it says.
_RECORDED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "halt_logit": ("halt", _EACH, "logit of the halting head"),
    "answer_entropy": (
        "entropy", _EACH, "mean over the cells that count of the entropy of the answer's distribution, in nats",
    ),
    "answer_margin": (
        "margin", _EACH, "least over the cells that count of the largest logit minus the second largest",
    ),
    "retired_step": (
        "retired", _RUN,
        "step after which the run was at rest and its last values are repeated, -1: followed to the end",
    ),
    "logit_delta": ("logit_delta", _EACH, "2-norm of the change of the logits in the last step, mean over cells"),
    "sketch_path": ("path", (*_EACH, "projection"), "random projection of the state after each step"),
}  # fmt: skip


def assemble(
    recipe: Recipe,
    records: dict[str, np.ndarray],
    noise: float | None = None,
    threshold: float | None = None,
) -> xr.Dataset:
    """Return the ensemble dataset of records, row axis first.

    Parameters
    ----------
    noise, threshold
        Relative size of the noise in one outer step, and the solved band; None finds them from these records.  They
        are given, with the record `answer_id`, where the records are only a part of the ensemble.
    """
    # Noise and solved band are of the whole ensemble: parts are given them, or fates would depend on the cut.
    if noise is None:
        noise = noise_size(records["residual"], records["update"], records["norm"]) if recipe.noise else 0.0
    puzzles, restarts, depth = len(recipe.inputs), recipe.restarts, recipe.depth
    judged, labels, limits = recipe.judge.known, recipe.judge.labels, recipe.tolerances
    residual, size = records["residual"], records["norm"]
    sparse = sparse_of(records, recipe.residuals, recipe.before)
    if threshold is None:
        threshold = solved_band_of(recipe, records, noise)
    verdict = _verdict(recipe, records, torch.finfo(recipe.dtype).eps, noise, threshold)

    def fold(values: np.ndarray) -> np.ndarray:
        return values.reshape(puzzles, restarts, *values.shape[1:])

    run, each = _RUN, _EACH
    same_length = records["answer"].shape[1] == recipe.inputs.shape[1]
    variables: dict[str, schema.Variable] = {
        "residual": (each, fold(residual), "noise-free residual ||f(z; x) - z|| over the whole state"),
        "relative_residual": (
            each,
            fold(relative_to(residual, size)),
            "noise-free residual over the norm of the state",
        ),
        "update": (each, fold(records["update"]), "norm of the last update as iterated, noise included"),
        "answer": (
            (*run, "token"),
            fold(records["answer"]).astype(np.int32),
            "decoded answer after the last step",
        ),
        "answer_id": (
            each,
            fold(records["answer_id"]) if "answer_id" in records else answer_ids(fold(records["code"])),
            "number of the answer among those its puzzle has seen",
        ),
        **{name: (run, fold(getattr(verdict, field)), text) for name, (field, text) in _DECIDED.items()},
        "sketch": ((*run, "feature"), fold(verdict.sketch), "random projection of the long-run state"),
        **_orbits(records, verdict, fold),
        "inputs": (
            ("puzzle", "token" if same_length else "input_token"),
            recipe.inputs.numpy().astype(np.int32),
            "puzzle",
        ),
    }
    # What depends on the system, the judge and `keep`: an absent variable means that it was not recorded.
    variables |= identifier_variable(recipe.identifiers)
    if judged:
        variables["correct"] = (each, fold(records["correct"]), "answer after this step is right")
    if labels is not None:
        accuracy = fold(records["token_accuracy"])
        variables["token_accuracy"] = (each, accuracy, "share of counted cells that agree with the label")
        variables["labels"] = (("puzzle", "token"), labels.astype(np.int32), "solution")
    for name, (record, dims, text) in _RECORDED.items():
        if record in records:
            variables[name] = (dims, fold(records[record]), text)
    if "states" in records:
        states = fold(records["states"])
        axes = tuple(f"state_{i}" for i in range(states.ndim - 3))
        if "trajectory" in recipe.keep:
            variables["trajectory"] = ((*each, *axes), states, "state after each step")
        if "final_state" in recipe.keep:
            variables["final_state"] = ((*run, *axes), states[:, :, -1], "state after the last step")
    # Everything that the numbers depend on, so that the ensemble can be repeated from its attributes.
    attributes = {
        **schema.provenance(recipe.system),
        "seed": recipe.seed,
        "restarts": restarts,
        "depth": depth,
        "noise": recipe.noise,
        **starts_of(recipe.system, recipe.initial),
        "dtype": dtype_name(recipe.dtype),
        "device": str(recipe.place.device),
        "tolerances": {
            **dataclasses.asdict(limits),
            "answer_window": answer_window(depth),
            "settled_below": verdict.threshold,
        },
        "oracle": recipe.judge.name,
    }
    if sparse is not None:
        attributes["residuals"] = recipe.residuals
    if isinstance(recipe.system, Reasoner):
        fast = recipe.system.multiplied == "fastest"
        if products := how_multiplied(recipe.dtype, recipe.place.device, fast):
            attributes["products"] = products
    coordinates = {"step": np.arange(1, depth + 1), "restart": recipe.first_restart + np.arange(restarts)}
    codes = {"fate": schema.FATES, "state_fate": schema.FATES, "answer_fate": schema.ANSWER_FATES}
    return schema.dataset(variables, attributes, coordinates, codes)


def _orbits(
    records: dict[str, np.ndarray], verdict: Verdict, fold: Callable[[np.ndarray], np.ndarray]
) -> dict[str, schema.Variable]:
    """Return the sets that runs go round on, and how far periodic runs are from theirs."""
    if "orbit" not in records:
        return {}
    going = np.isin(verdict.fate, [CODE[f] for f in ("periodic", "recurrent", "wandering", "unfinished")])
    # a chaotic run that passes a saddle slowly when it ends seems to have settled just then
    going |= (verdict.fate == CODE["settled"]) & (verdict.settling_step > records["residual"].shape[1] // 2)
    orbit = np.where(going[:, None, None], records["orbit"], np.nan).astype(records["orbit"].dtype)
    periodic = verdict.fate == CODE["periodic"]
    error = np.where(periodic, records["cycle_error"], np.nan) / verdict.scale
    return {
        "orbit": (
            ("puzzle", "restart", "phase", "coordinate"),
            fold(orbit),
            "projected states of a cycle, or scattered over the later half of a run that goes on moving",
        ),
        "cycle_error": (
            ("puzzle", "restart"),
            fold(error),
            "estimated distance of a periodic run from its cycle over the norm",
        ),
    }


Facts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, LongRun]


def _pieces(recipe: Recipe, records: dict[str, np.ndarray]) -> Iterator[tuple[slice, Facts]]:
    """Yield what fates are judged by, for some rows at a time."""
    rows, depth = records["residual"].shape
    for start in range(0, rows, JUDGED_AT_ONCE):
        piece = slice(start, start + JUDGED_AT_ONCE)
        part = {name: values[piece] for name, values in records.items()}
        residual, size = part["residual"].astype(float), part["norm"].astype(float)
        right = part["correct"][:, -1] & recipe.judge.known
        yield piece, (residual, size, part["code"], right, digested(part, depth, recipe.tolerances))


def solved_band_of(recipe: Recipe, records: dict[str, np.ndarray], noise: float) -> float:
    """Return the relative residual up to which the runs of these records count as settled."""
    limits = recipe.tolerances
    floor = limits.numerical_floor(torch.finfo(recipe.dtype).eps)
    band = np.concatenate(
        [solved_residuals(*facts[:4], facts[4].finite) for _, facts in _pieces(recipe, records)]
    )
    return solved_band(band, np.ones(len(band), bool), limits, floor, noise)


def _verdict(
    recipe: Recipe, records: dict[str, np.ndarray], epsilon: float, noise: float, threshold: float
) -> Verdict:
    """Decide the fates of all rows, some at a time."""
    sparse = sparse_of(records, recipe.residuals, recipe.before)
    verdicts = [
        classify(
            *facts, epsilon=epsilon, noise=noise, tolerances=recipe.tolerances, threshold=threshold,
            sparse=sparse and sparse._replace(update=sparse.update[piece]),
        )
        for piece, facts in _pieces(recipe, records)
    ]  # fmt: skip
    fields = {
        field.name: np.concatenate([getattr(v, field.name) for v in verdicts])
        for field in dataclasses.fields(Verdict)
        if field.name != "threshold"
    }
    return Verdict(**fields, threshold=threshold)
