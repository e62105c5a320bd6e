"""What pushes, duels and clues show about a puzzle, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import percent, percent_interval
from eqrlab.attractors.results.interval import Interval
from eqrlab.datasets import task

CLUES = 3  # named, those on which most hangs


def border_sentences(groups: Mapping[str, xr.Dataset], label: object) -> list[str]:
    """Return sentences about the basin borders of one puzzle, given by its label; none if nothing was measured."""
    told = []
    for name, tell in (("radius", _radius), ("duels", _duels), ("clues", _clues)):
        if name in groups and label in groups[name]["puzzle"].values:
            told += tell(groups[name].sel(puzzle=label), groups)
    return told


def _radius(one: xr.Dataset, groups: Mapping[str, xr.Dataset]) -> list[str]:
    parts = []
    for i, kind in enumerate(one["point"].values):
        value, low, high = Interval.of(one, "relative_radius", i)
        if np.isnan(value):
            continue
        reach = f"{float(groups['radius'].attrs['reach']):g}"
        size, *bounds = (f"beyond {reach}" if np.isinf(v) else f"{v:.2g}" for v in (value, low, high))
        interval = "" if np.isinf(low) else f" [{bounds[0]}, {bounds[1]}]"
        parts.append(f"the {kind} answer at {size}{interval}")
    return [f"Half of the pushes lose {' and '.join(parts)} times the state's norm."] if parts else []


def _duels(one: xr.Dataset, groups: Mapping[str, xr.Dataset]) -> list[str]:
    if "correct" not in one or not one["correct"].values.any():
        return []
    right = int(one["correct"].values.argmax())
    wrong = [i for i, a in enumerate(one["answer_id"].values) if a >= 0 and not one["correct"].values[i]]
    if not wrong or np.isnan(one["wins"].values[right, wrong[0]]):
        return []
    pairs = int(one["duels"].values[right, wrong[0]])
    share = percent_interval(*Interval.of(one, "wins", right, wrong[0]))
    return [
        f"From half way between runs with the right and with the most frequent wrong answer, {share} end right "
        f"({pairs} pairs)."
    ]


def _clues(one: xr.Dataset, groups: Mapping[str, xr.Dataset]) -> list[str]:
    told = []
    board = task(str(groups["ensemble"].attrs["task"]))
    for i, kind in enumerate(one["point"].values):
        share = one["margin_lost"].values[i] if "margin_lost" in one else one["moved"].values[i]
        clues = np.flatnonzero(~np.isnan(share))
        if not len(clues):
            continue
        order = clues[np.argsort(-share[clues], kind="stable")][:CLUES]
        tokens = one["inputs"].values
        named = [
            f"{board.symbol(int(tokens[c]))} in {board.cell(int(c))} ({percent(float(share[c]))})"
            for c in order
        ]
        told.append(f"The {kind} answer depends most on the clues {'; '.join(named)}.")
    if told and "margin_lost" in one:
        told[-1] += (
            " In brackets: the share of a cell's margin that would be lost without the clue, to first order."
        )
    return told
