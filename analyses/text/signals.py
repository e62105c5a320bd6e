"""Which signal to trust, in words and as a table."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import number_interval, percent_interval, plural
from eqrlab.analyses.text.vocabulary import SELECTOR_NAMES
from eqrlab.attractors.results.interval import Interval


def points(value: float, low: float, high: float) -> str:
    """Return a difference of shares in points with its interval, as in "+6.9 points [+4.5, +9.6]"."""
    if not np.isfinite(value):
        return "undefined"
    bounds = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if np.isfinite(low) else ""
    return f"{100 * value:+.1f} points{bounds}"


def signal_rows(signals: xr.Dataset) -> list[dict[str, str]]:
    """Return the table of signals, the most accurate first, heading to text."""
    rows = []
    order = np.argsort(-signals["accuracy"].values, kind="stable")
    for i in order:
        one = signals.isel(signal=int(i))
        rows.append(
            {
                "signal": signal_name(str(one["signal"].values)),
                "right": percent_interval(*Interval.of(one, "accuracy")),
                "over one restart": points(*Interval.of(one, "gain")),
                "over residual": "" if i == 0 else points(*Interval.of(one, "over_residual")),
                "AUC within": number_interval(*Interval.of(one, "auc_within")),
                "AUC across": number_interval(*Interval.of(one, "auc_across")),
                "risk area": number_interval(*Interval.of(one, "risk_area")),
            }
        )
    return rows


def signal_name(name: str) -> str:
    """Return what a signal is called: the residual, or as the selector that goes by it."""
    return "residual" if name == "top1_converged" else SELECTOR_NAMES.get(name, name)


def trust_sentence(signals: xr.Dataset) -> str:
    """Return a sentence that says which signal to trust for this checkpoint, and on what evidence."""
    name = str(signals.attrs["trusted"])
    if int(signals.attrs["restarts"]) < 2:
        return "No signal is recommended: with one restart of each puzzle there is nothing to choose between."
    single = float((signals["accuracy"] - signals["gain"])[0])  # of one restart
    if np.isclose(single, (0, 1)).any():
        kind = "right" if single > 0.5 else "wrong"
        return f"No signal is recommended: every run is {kind}, so that all signals choose alike."
    if name == "none":
        return (
            f"No signal is recommended: {plural(signals.sizes['puzzle'], 'puzzle')} cannot be split into one half to "
            "choose on and one half to report on."
        )
    held = int(signals["held_out"].values.sum())
    text = (
        f"Trust {signal_name(name)}: chosen on {signals.sizes['puzzle'] - held} of the puzzles, it chooses right on "
        f"{percent_interval(*Interval.of(signals, 'trusted_accuracy'))} of the other {held}"
    )
    if name == "top1_converged":
        return text + "."
    return text + f", {points(*Interval.of(signals, 'trusted_gain'))} against least residual."


def signal_warning(signals: xr.Dataset) -> str | None:
    """Return the warning where choosing by residual misleads, with the signals' names in words, else None."""
    text = str(signals.attrs["warning"])
    if text == "none":
        return None
    name = str(signals.attrs["trusted"])
    return text.replace(f"{name} chooses", f"{signal_name(name)} chooses")
