"""What became of the runs: settled or not against right or wrong, at growing depth, and whether pushed ones return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.text.format import number_interval, percent_interval, plural
from eqrlab.attractors.answers.outcomes import share_of_runs
from eqrlab.attractors.ensemble.judge import Judge, require_judged
from eqrlab.attractors.ensemble.options import check_options, part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.landscape.return_test import RETURNS
from eqrlab.attractors.results.interval import Interval
from eqrlab.core import System

CELLS = (("settled", "right"), ("settled", "wrong"), ("not_settled", "right"), ("not_settled", "wrong"))


class FatesOptions(at.DrawOptions, at.WorkOptions, total=False):
    """Options of `fates_study`, besides its depths: those of `attractors.sample`, but no noise unless given."""


def fates_study(
    system: System,
    inputs: np.ndarray,
    *,
    restarts: int = 16,
    depths: Sequence[int] = (16, 64, 256),
    pushed: int = 24,
    initial: Law | None = None,
    **options: Unpack[FatesOptions],
) -> dict[str, xr.Dataset]:
    """Run puzzles to the first depth, continue every run to the last, and test what settled on a wrong answer.

    Parameters
    ----------
    system, inputs, restarts, initial, **options
        See `attractors.sample` and `FatesOptions`.
    depths
        Depths reported: the first, and doublings of it.
    pushed
        Most settled wrong runs, and as many settled right ones, that are pushed in the return test.

    Returns
    -------
    dict
        Groups: `ensemble` (at the first depth), `prolonged`, `outcomes` (at the depths asked for), `noop`, and
        `return_test` where some run settled.

    Raises
    ------
    ValueError
        When the depths are not increasing doublings of the first, or there are neither labels nor an oracle.
    """
    check_options(options, FatesOptions, fates_study)
    require_doublings(depths)
    first, last = depths[0], depths[-1]
    require_judged("a study of fates", options.get("labels"), options.get("oracle"))
    tokens = torch.as_tensor(inputs)
    options.setdefault("noise", 0.0)
    ensemble = at.sample(
        system,
        tokens,
        restarts=restarts,
        depth=first,
        initial=initial,
        keep=("summary", "final_state"),
        **options,
    )
    oracle, seed, device = options.get("oracle"), options.get("seed", 0), options.get("device")
    longer = at.prolong(
        system, tokens, ensemble, depth=last, which="all", oracle=oracle, device=device,
        **part_of(options, at.WorkOptions),
    )  # fmt: skip
    groups = {
        "ensemble": ensemble.drop_vars("final_state"),
        "prolonged": longer.drop_vars("final_state"),
        "outcomes": at.outcomes(longer).sel(depth=list(depths)),
        "noop": at.noop_test(system, tokens, restarts=min(8, max(2, restarts)), depth=first, seed=seed,
                             initial=initial, device=device, dtype=options.get("dtype"),
                             identifiers=options.get("identifiers"),
                             labels=Judge.of_ensemble(ensemble).labels),
    }  # fmt: skip
    settled = longer.fate.values[..., -1] == CODE["settled"]
    right = longer.correct.values[..., -1]
    chosen = spread_over_puzzles(settled & ~right, pushed) | spread_over_puzzles(settled & right, pushed)
    if chosen.any():
        result = at.return_test(
            system, tokens, longer, depth=min(last, 4 * first), select=chosen, seed=seed, device=device,
            batch_size=options.get("batch_size"),
        )  # fmt: skip
        variables = {
            name: (("puzzle", "point"), values, {"long_name": text, "units": "1"})
            for name, values, text in (
                ("correct", right, "the run tested was right"),
                ("settled", settled, "the run had settled"),
            )
        }
        groups["return_test"] = result.assign(variables)
    return groups


def require_doublings(depths: Sequence[int]) -> None:
    """Raise ValueError unless there are two depths or more, increasing, each the first times a power of 2."""
    first, last = depths[0], depths[-1]
    doublings = [first * 2**i for i in range(64) if first * 2**i <= last]
    if len(depths) < 2 or list(depths) != sorted(set(depths)) or not set(depths) <= set(doublings):
        raise ValueError(
            "depths must be at least two, increasing, each the first times a power of 2, got "
            f"{', '.join(map(str, depths))}"
        )


def spread_over_puzzles(mask: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the runs (puzzle, restart) in a mask, as evenly over puzzles as can be."""
    order = np.where(mask, np.cumsum(mask, axis=1), mask.shape[1] + 1)
    ranked = np.argsort(order, axis=None, kind="stable")[: min(most, int(mask.sum()))]
    chosen = np.zeros(mask.size, bool)
    chosen[ranked] = True
    return chosen.reshape(mask.shape) & mask


def outcome_rows(outcomes: xr.Dataset) -> list[dict[str, str]]:
    """Return the rows of the table of settling against correctness, a depth each, heading to text."""
    rows = []
    for i, depth in enumerate(outcomes["depth"].values):
        row = {"D": str(depth)}
        for settling, side in CELLS:
            cell = outcomes.isel(depth=i).sel(settling=settling, correctness=side)
            row[f"{settling.replace('_', ' ')}, {side}"] = _share(cell, "share")
        rows.append(row)
    return rows


def residual_rows(outcomes: xr.Dataset) -> list[dict[str, str]]:
    """Return what the residual says without any threshold, a depth each, heading to text."""
    rows = []
    for i, depth in enumerate(outcomes["depth"].values):
        one = outcomes.isel(depth=i)
        quantiles = one["residual_quantile"].sel(quantile=[0.05, 0.5, 0.95])
        spans = {side: quantiles.sel(correctness=side).values for side in ("right", "wrong")}
        text = {
            s: "none" if np.isnan(v).any() else " / ".join(f"{q:.1e}" for q in v) for s, v in spans.items()
        }
        rows.append(
            {
                "D": str(depth),
                "right: 5 / 50 / 95 %": text["right"],
                "wrong: 5 / 50 / 95 %": text["wrong"],
                "least wrong": "none" if np.isnan(one["least_wrong"]) else f"{float(one['least_wrong']):.1e}",
                "right runs below it": _share(one, "right_below"),
                "AUC": number_interval(*Interval.of(one, "auc")),
            }
        )
    return rows


def depth_rows(outcomes: xr.Dataset) -> list[dict[str, str]]:
    """Return what depth changed, a depth each, heading to text: late solves, reversions, late collapse."""
    names = {
        "accuracy": "right", "late_solved": "late solves", "reverted": "reversions", "collapsed": "collapses",
        "settled_of_wrong": "settled among wrong", "unfinished_of_wrong": "unfinished among wrong",
    }  # fmt: skip
    return [
        {"D": str(depth), **{text: _share(outcomes.isel(depth=i), name) for name, text in names.items()}}
        for i, depth in enumerate(outcomes["depth"].values)
    ]


def late_sentence(outcomes: xr.Dataset, none: str = "No run") -> str:
    """Return how many failures at the first depth were merely unfinished; `none`: how to say that there are none."""
    depths, last = outcomes["depth"].values, outcomes.isel(depth=-1)
    failures = int(outcomes["count"].isel(depth=0).sel(correctness="wrong").sum())
    if not failures:
        return f"{none} is wrong at step {depths[0]}."
    share = _share(last, "late_solved")
    return f"Of {plural(failures, 'run')} wrong at step {depths[0]}, {share} are right at step {depths[-1]}."


def return_sentence(result: xr.Dataset) -> str:
    """Return how many settled wrong and right runs came back from small pushes, and from which sizes."""
    parts = []
    for side, right in (("wrong", False), ("right", True)):
        tested = (result["result"].values != RETURNS.index("not_tested")) & (
            result["correct"].values == right
        )
        if not tested.any():
            parts.append(f"no run settled on a {side} answer")
            continue
        back = tested & (result["result"].values == RETURNS.index("returns"))
        gone = tested & (result["result"].values == RETURNS.index("leaves"))
        shares = share_of_runs(back.sum(1), tested.sum(1))
        text = percent_interval(*(float(v) for v in shares))
        median = float(np.nanmedian(result["margin"].values[tested]))
        parts.append(
            f"{text} of {plural(int(tested.sum()), 'run')} settled on a {side} answer come back from every small push "
            f"with state and answer (median margin {median:g} of the state's norm), {int(gone.sum())} leave"
        )
    return "Return test: " + "; ".join(parts) + "."


def noop_sentence(result: xr.Dataset) -> str:
    """Return whether the map moves the state, forgets its start and reads its input, as a sentence."""
    puzzles = result.sizes["puzzle"]
    faults = {
        "the first step does not move the state": ~result["acts"].values,
        "the start survives in the end": result["z_survives"].values,
        "another input gives the same ends": result["blind"].values,
        "every start decodes to the final answer at once": result["answer_fixed"].values,
    }
    found = [
        f"{text} on {int(mask.sum())} of {plural(puzzles, 'puzzle')}"
        for text, mask in faults.items()
        if mask.any()
    ]
    if found:
        return "No-op test: " + "; ".join(found) + "."
    passed = "the state moves, its start is forgotten, its input counts"
    return f"No-op test passed on {'all ' if puzzles > 1 else ''}{plural(puzzles, 'puzzle')}: {passed}."


def _share(values: xr.Dataset, name: str) -> str:
    return percent_interval(*Interval.of(values, name))
