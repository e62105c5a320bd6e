"""Any result as a table for people: one row for each number, with its interval or why it has none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eqrlab.attractors.results import schema
from eqrlab.attractors.results.drawn import common_restarts, drawn_of, interval_of
from eqrlab.attractors.results.named import named, words
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.attractors.statistics.intervals import proportion_interval

LONG = re.compile(
    r"state_\d+|token|input_token|feature|phase|coordinate|projection|restart|step|row|column|ri"
)
RENAMED = {"value": "parameter", "quantity": "measure"}  # dimensions that have the name of another column
ALL = "all"  # what stands for the mean over puzzles
WHY = {
    "mode_probability": "a posterior probability under the rule: uncertainty itself",
    "landscape_probability": "share of bootstrap draws: uncertainty itself",
    "accuracy_puzzle": "exact for the restarts drawn; see accuracy",
    "puzzle_value": "exact for the restarts drawn; see difference",
    "auc_puzzle": "exact for the restarts drawn; see auc_within",
    "eigenvalue": "no bound of its error is known",
    "correct_mass_high": "a bound itself",
}


def summary(result: xr.Dataset, *, confidence: float | None = None) -> pd.DataFrame:
    """Return a result as a table: every number with its interval, or why it has none; codes as words.

    Parameters
    ----------
    result
        Of any analysis, from the function or from a file.  An ensemble gives the shares of right runs and of fates, for
        each puzzle and over puzzles ("all").
    confidence
        Of the intervals that are computed here, those of an ensemble; default 0.95.  Other results bring theirs.

    Returns
    -------
    pandas.DataFrame
        `quantity`, a column for each dimension with its labels ("" where a quantity has it not), `value`, `low`,
        `high`, `word` (what a code or a complex number says), `why` (there is no interval).  Quantities with intervals
        come first; what is not defined, and arrays over tokens, runs, steps and states, are left out.
        `attrs["confidence"]`.

    Raises
    ------
    ValueError
        For something that is no dataset, and for an ensemble of an unfinished export.

    Notes
    -----
    Intervals of one puzzle are binomial (mid-p; of an ensemble sampled in waves a confidence sequence), those over
    puzzles resample whole puzzles, with the restarts that every puzzle has (`common_restarts`).

    Examples
    --------
    >>> from eqrlab.attractors.results import schema
    >>> from eqrlab.attractors.results.interval import Interval
    >>> masses = Interval(np.array([0.5, 0.25]), np.array([0.2, 0.1]), np.array([0.8, 0.6]))
    >>> found = schema.dataset(masses.variables("mass", ("attractor",), "share of restarts"), {})
    >>> print(summary(found)[["quantity", "attractor", "value", "low", "high"]].to_string(index=False))
    quantity  attractor  value  low  high
        mass          0   0.50  0.2   0.8
        mass          1   0.25  0.1   0.6
    """
    if not isinstance(result, xr.Dataset):
        raise ValueError(
            f"summary takes a dataset, got {type(result).__name__}: pass what an analysis returned"
        )
    found = named(result)
    if {"fate", "residual"} <= set(found) and found["residual"].dims == ("puzzle", "restart", "step"):
        level = 0.95 if confidence is None else confidence
        rows = list(_shares(found, level))
    else:
        level = float(found.attrs.get("confidence", 0.95))
        names = [str(n) for n in found.variables if n not in found.dims or found.variables[n].dims != (n,)]
        bounded = [n for n in names if f"{n}_low" in found or f"{n}_high" in found]
        bounds = {f"{n}_{end}" for n in names for end in ("low", "high") if n in found.variables}
        others = [n for n in names if n not in bounded and n not in bounds and not n.endswith("_name")]
        rows = [row for name in (*bounded, *others) for row in _rows(found, name)]
    dims = list(dict.fromkeys(d for row in rows for d in row["at"]))
    columns = ["quantity", *dims, "value", "low", "high", "word", "why"]
    table = pd.DataFrame([{**dict.fromkeys(dims, ""), **row["at"], **row} for row in rows], columns=columns)
    table.attrs["confidence"] = level
    return table


def _rows(found: xr.Dataset, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one variable."""
    one = found[name]
    if any(LONG.fullmatch(str(d)) for d in one.dims) or one.dtype.kind not in "iufcb":
        return
    word = words(one).values if "flag_meanings" in one.attrs else None
    ends = [found[f"{name}_{e}"].values if f"{name}_{e}" in found else None for e in ("low", "high")]
    error = found["eigen_error"].values if name == "eigenvalue" and "eigen_error" in found else None
    labels = [found.get_index(d) for d in one.dims]
    padding = (
        found["mass"].isnull().values if one.dims == ("puzzle", "attractor") and "mass" in found else None
    )
    for place, value in np.ndenumerate(one.values):
        if padding is not None and padding[place]:
            continue  # beyond the last attractor of this puzzle
        at = {
            RENAMED.get(str(d), str(d)): label[i] for d, label, i in zip(one.dims, labels, place, strict=True)
        }
        row: dict[str, Any] = {
            "quantity": name,
            "at": at,
            "value": np.nan,
            "low": np.nan,
            "high": np.nan,
            "word": "",
            "why": "",
        }
        if word is not None:
            row |= {"word": word[place], "why": "a verdict"}
        else:
            row["value"] = abs(value) if one.dtype.kind == "c" else float(value)
            row |= {
                end: float(v[place]) for end, v in zip(("low", "high"), ends, strict=True) if v is not None
            }
            if one.dtype.kind == "c":
                row |= {"quantity": f"|{name}|", "word": f"{value.real:.4g}{value.imag:+.4g}i"}
            if error is not None and np.isfinite(error[place]):
                row |= {"low": max(0.0, row["value"] - error[place]), "high": row["value"] + error[place]}
            if np.isnan(row["value"]) and np.isnan([row["low"], row["high"]]).all():
                continue
            if np.isnan([row["low"], row["high"]]).all():
                row["why"] = WHY.get(name) or _why(one.dtype, bounded=any(v is not None for v in ends))
        yield row


def _why(dtype: np.dtype, bounded: bool) -> str:
    if bounded:
        return "too little to tell"
    return {"i": "a count", "u": "a count", "b": "a verdict"}.get(
        dtype.kind, "computed, not estimated from a sample"
    )


def _shares(ensemble: xr.Dataset, confidence: float) -> Iterator[dict[str, Any]]:
    """Yield the shares of right runs, and of each fate that occurs: over puzzles, then for each puzzle."""
    schema.require_complete(ensemble)
    for name, event in _events(common_restarts(ensemble)).items():
        value, low, high = (float(v) for v in share_over_puzzles(event.mean(1), confidence=confidence))
        alone = event.shape[0] < 2
        yield {
            "quantity": name, "at": {"puzzle": ALL}, "value": value, "word": "",
            "low": np.nan if alone else low, "high": np.nan if alone else high,
            "why": "one puzzle says nothing about others" if alone else "",
        }  # fmt: skip
    runs = drawn_of(ensemble).sum(1)
    for name, event in _events(ensemble).items():
        found = event.sum(1)
        lows, highs = proportion_interval(found, runs, confidence, interval_of(ensemble))
        for p, puzzle in enumerate(ensemble["puzzle"].values.tolist()):
            share = {"value": float(found[p] / runs[p]), "low": float(lows[p]), "high": float(highs[p])}
            yield {"quantity": name, "at": {"puzzle": puzzle}, **share, "word": "", "why": ""}


def _events(ensemble: xr.Dataset) -> dict[str, np.ndarray]:
    """Return which runs, (puzzle, restart), are right, and which have each fate that occurs; of those drawn."""
    fate = words(ensemble["fate"]).values
    right = {"right": ensemble["correct"].values[:, :, -1]} if "correct" in ensemble else {}
    known = ensemble["fate"].attrs["flag_meanings"].split()
    return right | {name: fate == name for name in known if (fate == name).any()}
