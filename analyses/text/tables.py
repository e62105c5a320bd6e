"""What the report lists: outcomes, fates, selectors, masses and provenance, as plain values and texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.format import percent_interval
from eqrlab.analyses.text.vocabulary import SELECTOR_MEANINGS, SELECTOR_NAMES, fate_meaning
from eqrlab.attractors.results.drawn import common_restarts
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import FATES, MODES
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.attractors.statistics.intervals import proportion_interval

DEPTHS = (1, 4, 16)  # columns of the table of selectors, with the last
SHOWN_ATTRACTORS = 5  # of a puzzle, one by one; the others are summed


def outcome_table(ensemble: xr.Dataset, basins: xr.Dataset) -> list[dict[str, Any]]:
    """Count runs that reach an attractor or none, and are right or wrong, with intervals clustered by puzzle.

    Notes
    -----
    Restarts of a puzzle are not independent, so that whole puzzles are resampled.
    """
    ensemble = common_restarts(ensemble)
    reached = basins["attractor_id"].values[:, : ensemble.sizes["restart"]] >= 0
    right = ensemble["correct"].values[:, :, -1]
    confidence = float(basins.attrs.get("confidence", 0.95))
    rows = []
    for name, row in (("reached an attractor", reached), ("reached none", ~reached)):
        cells = []
        for kind, column in (("right", right), ("wrong", ~right)):
            runs = row & column
            text = share_text(runs.mean(1), confidence)
            cells.append({"kind": kind, "count": int(runs.sum()), "text": text})
        rows.append({"name": name, "cells": cells})
    return rows


def fate_bar(fate: np.ndarray) -> list[dict[str, Any]]:
    """Return the fates that occur among runs, with count, share and meaning."""
    fate = fate[fate >= 0]
    counts = np.bincount(fate, minlength=len(FATES))
    return [
        {"name": name, "count": int(count), "share": count / fate.size, "meaning": fate_meaning(name)}
        for name, count in zip(FATES, counts, strict=True)
        if count
    ]


def reached_text(basins: xr.Dataset) -> str:
    """Return the share of runs at an attractor, with its interval clustered by puzzle, as text."""
    reached = (basins["attractor_id"].values >= 0).sum(1) / basins["restarts_used"].values
    return share_text(reached, float(basins.attrs.get("confidence", 0.95)))


def share_text(share: np.ndarray, confidence: float) -> str:
    """Return the mean of shares of restarts, one a puzzle, with its interval from resampling puzzles, as text."""
    return percent_interval(*map(float, share_over_puzzles(share, confidence=confidence)))


def selector_table(alignment: xr.Dataset, signals: xr.Dataset | None = None) -> dict[str, Any]:
    """Return the table of selectors: depths, and for each selector its name, meaning, accuracies and rank."""
    depths = alignment["depth"].values
    columns = [i for i, d in enumerate(depths) if d in DEPTHS or i == len(depths) - 1]
    best = wording.best_selector(alignment, signals)
    names = [str(n) for n in alignment["selector"].values]
    return {
        "depths": [int(depths[i]) for i in columns],
        "rows": [
            {
                "name": SELECTOR_NAMES.get(name, name),
                "meaning": SELECTOR_MEANINGS.get(name, ""),
                "cells": [wording.accuracy_text(alignment, name, i) for i in columns],
                "best": name == best,
                "ceiling": name == "any_correct",
            }
            for name in names
        ],
    }


def mode_strip(modes: xr.Dataset) -> list[dict[str, Any]]:
    """Return a cell for each puzzle: its mode, and of an undecided one the likeliest, with probability."""
    cells = []
    for p, letter in enumerate(wording.puzzle_modes(modes)):
        chance = modes["mode_probability"].values[p]
        likeliest = MODES[int(chance.argmax())]
        cells.append(
            {
                "letter": letter,
                "colour": likeliest,
                "probability": float(chance.max()),
                "text": f"puzzle {modes['puzzle'].values[p]}: {letter}, {wording.probability_text(modes, p)}",
            }
        )
    return cells


def is_judged(found: xr.Dataset) -> bool:
    """Say whether labels or an oracle told which answers of a result are right."""
    return str(found.attrs.get("oracle", "labels")) != "none"


def answer_word(found: xr.Dataset, *place: int) -> str:
    """Return "right" or "wrong" by `correct` at a place of a result, or why it is neither.

    It is "not known" where nothing told what is right, and "changing" for an attractor whose answer changes on it.
    """
    if not is_judged(found):
        return "not known"
    if "changing" in found and found["changing"].values[place]:
        return "changing"
    return "right" if found["correct"].values[place] else "wrong"


def mass_rows(basins: xr.Dataset, puzzle: int) -> list[tuple[str, str, float, float, float]]:
    """Return label, kind ("right", "wrong", "none", "unseen"), mass and bounds of the bars of one puzzle.

    The largest attractors come one by one, the others summed by their answers.  The kind of an attractor whose answer
    changes, or is not judged, is "none".
    """
    one = basins.isel(puzzle=puzzle)
    count, restarts = one["count"].values, int(one["restarts_used"])
    answers = np.array([answer_word(basins, puzzle, a) for a in range(len(count))])
    judged = is_judged(basins)
    options = float(basins.attrs.get("confidence", 0.95)), str(basins.attrs.get("interval_method", "mid-p"))
    found = np.flatnonzero(count > 0)
    shown = found if len(found) <= SHOWN_ATTRACTORS + 1 else found[:SHOWN_ATTRACTORS]
    rows: list[tuple[str, str, float, float, float]] = []

    def add(label: str, answer: str, value: Any, low: Any, high: Any) -> None:
        kind = answer if answer in ("right", "wrong", "unseen") else "none"
        rows.append((label, kind, float(value), float(low), float(high)))

    for a in shown:
        label = f"{a + 1}: {answers[a]}" if judged else f"attractor {a + 1}"
        add(label, answers[a], *Interval.of(one, "mass", a))
    rest = np.setdiff1d(found, shown)
    for answer in ("right", "wrong", "changing", "not known"):
        if members := int((answers[rest] == answer).sum()):
            total = count[rest][answers[rest] == answer].sum()
            label = f"{members:,} more" + (f" {answer}" if judged else "")
            add(label, answer, total / restarts, *proportion_interval(total, restarts, *options))
    add("none", "none", *Interval.of(one, "mass_none"))
    add("unseen", "unseen", one["unseen_mass"].values, 0.0, one["unseen_mass_high"].values)
    return rows


def provenance(groups: Mapping[str, xr.Dataset]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the recorded attributes in sections, each a list of names and texts; JSON is taken apart."""
    attrs = {str(k): str(v) for k, v in groups["ensemble"].attrs.items()}
    extra = {
        k: str(v) for g in ("basins", "alignment", "modes") if g in groups for k, v in groups[g].attrs.items()
    }
    attrs |= {k: extra[k] for k in ("confidence", "interval_method", "bootstrap", "rule") if k in extra}
    taken = {
        "config": "Configuration",
        "tolerances": "Tolerances",
        "checkpoint_provenance": "Checkpoint",
        "rule": "Modes",
    }
    sections = [("Run", [(k.replace("_", " "), v) for k, v in attrs.items() if k not in taken])]
    for key, title in taken.items():
        try:
            values = json.loads(attrs.get(key, "{}"))
        except json.JSONDecodeError:
            values = {key: attrs[key]}
        if isinstance(values, dict) and values:
            sections.append((title, [(str(k).replace("_", " "), _plain(v)) for k, v in values.items()]))
    return sections


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
