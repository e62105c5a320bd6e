"""Disguises of ARC tests in words and as a table: do all of them end with one answer?"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import percent, percent_interval, plural
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles

ROWS = 24  # tests in the table of a report
FEW = 2  # disguises that a test needs to be asked whether they agree


def disguise_sentence(found: xr.Dataset) -> str:
    """Return a sentence on how far the answers of disguises agree, compared with the restarts of one disguise."""
    several = found.isel(case=np.flatnonzero(found.disguises.values >= FEW))
    tests = several.sizes["case"]
    if not tests:
        return "No test was run in more than one disguise, so it cannot be said whether disguises agree."
    alike = int((several.answers.values == 1).sum())
    shares = {name: _mean(several, name) for name in ("mass_disguises", "mass_restarts")}
    right = np.isfinite(several.mass_right.values).all()
    known = f"; {_mean(several, 'mass_right')} of disguises are answered right" if right else ""
    all_of = "all" if alike == tests else str(alike) if alike else "none"
    return (
        f"Of {plural(tests, 'test')} in several disguises, {all_of} had one answer whatever the disguise. "
        f"{shares['mass_disguises']} of the disguises of a test give the answer that most of them give, "
        f"{shares['mass_restarts']} of the restarts of a disguise the answer that most of these give{known}."
    )


def _mean(found: xr.Dataset, name: str) -> str:
    """Return the mean over tests with its interval, whose units are tests; of a single test its own."""
    shares = found[name].values
    if len(shares) == 1:
        return percent_interval(*Interval.of(found, name, 0))
    return percent_interval(
        *map(float, share_over_puzzles(shares, confidence=float(found.attrs["confidence"])))
    )


def disguise_rows(found: xr.Dataset) -> list[dict[str, str]]:
    """Return a line for each test: its disguises, and the masses over them and over restarts."""
    rows = []
    for c in range(min(found.sizes["case"], ROWS)):
        task, _, number = str(found.case.values[c]).rpartition(":")
        rows.append({
            "task": task,
            "test": number,
            "disguises": str(int(found.disguises.values[c])),
            "answers": str(int(found.answers.values[c])),
            "same answer over disguises": percent_interval(*Interval.of(found, "mass_disguises", c)),
            "over restarts": percent_interval(*Interval.of(found, "mass_restarts", c)),
            "right over disguises": percent_interval(*Interval.of(found, "mass_right", c)),
            "at an attractor": percent(float(found.attracted.values[c])),
        })  # fmt: skip
    return rows


def disguise_view(found: xr.Dataset) -> dict[str, Any]:
    """Return what the report shows of disguises."""
    return {
        "sentence": disguise_sentence(found),
        "rows": disguise_rows(found),
        "more": max(0, found.sizes["case"] - ROWS),
    }
