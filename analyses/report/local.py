"""Local dynamics for readers: a sentence, a table and the eigenvalues beside the unit circle."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import percent_interval, plural, span
from eqrlab.attractors.dynamics.at_attractors import VERDICTS
from eqrlab.attractors.results.interval import Interval

MEANINGS = {
    "stable": "stable",
    "saddle": "saddle: passed slowly",
    "no_fixed_point": "still moving",
    "undecided": "undecided",
}
ROWS = 24  # states listed in a table
NOTHING = "No run reached an attractor, so there is no state to examine."


def local_sentence(local: xr.Dataset) -> str:
    """Return how many of the states examined are stable, saddles, or no fixed points, right and wrong apart."""
    parts = []
    for m, kind in enumerate(local["point"].values):
        codes = local["verdict"].values[:, m]
        total = int((codes != VERDICTS.index("none")).sum())
        if not total:
            continue
        counts = {name: int((codes == VERDICTS.index(name)).sum()) for name in MEANINGS}
        names = {name: text.split(":")[0] for name, text in MEANINGS.items()}
        chaotic = int((local["exponent_low"].values[:, m] > 0).sum()) if "exponent_low" in local else 0
        names["no_fixed_point"] += f" ({chaotic} of these chaotic)" if chaotic else ""
        told = ", ".join(f"{n} {names[name]}" for name, n in counts.items() if n)
        radius = span(local["spectral_radius"].values[:, m])
        parts.append(
            f"{plural(total, f'{kind} state')}: {told}" + (f"; spectral radius {radius}" if radius else "")
        )
    if not parts:
        return NOTHING
    return ". ".join(parts) + "."


def local_rows(local: xr.Dataset, basins: xr.Dataset) -> list[dict[str, str]]:
    """Return the table of the states examined, at most ROWS of them, wrong ones first."""
    rows = []
    order = sorted(np.argwhere(local["attractor"].values >= 0).tolist(), key=lambda pm: (-pm[1], pm[0]))
    for p, m in order[:ROWS]:
        one = local.isel(puzzle=p, point=m)
        a = int(one["attractor"])
        mass = Interval.of(basins, "mass", p, a)
        rows.append({
            "puzzle": str(basins["puzzle"].values[p]),
            "answer": str(one["point"].values),
            "mass": percent_interval(*mass),
            "verdict": "chaotic" if "exponent_low" in one and float(one["exponent_low"]) > 0
            else MEANINGS[VERDICTS[int(one["verdict"])]],
            "radius": _radius(one),
            "measured": _measured(one),
            "sigma_1": f"{float(one['sigma_1']):.1f}",
        })  # fmt: skip
    return rows


def _radius(one: xr.Dataset) -> str:
    """Return the spectral radius and how well it is known; files of before hold the residual alone."""
    value = float(one["spectral_radius"])
    if "spectral_radius_high" not in one:
        return f"{value:.3f} [to {float(one['eigen_residual'].values[0]):.0g}]"
    error = max(float(one["spectral_radius_high"]) - value, value - float(one["spectral_radius_low"]))
    return f"{value:.3f} [to {error:.0g}]" if np.isfinite(error) else f"{value:.3f} [not known]"


def _measured(one: xr.Dataset) -> str:
    """Return the measured settling rate; if the state keeps moving, the factor that corresponds to its exponent."""
    if "exponent" in one and np.isfinite(float(one["exponent"])):
        factors = Interval.of(one, "exponent").each(np.exp)
        return f"{factors[0]:.2f} [{factors[1]:.2f}, {factors[2]:.2f}]"
    rate = float(one["measured_rate"])
    return "not known" if np.isnan(rate) else f"{rate:.2f}"


def local_view(local: xr.Dataset, basins: xr.Dataset) -> dict[str, Any]:
    """Return what the report shows of local dynamics, without the figure."""
    examined = int((local["attractor"].values >= 0).sum())
    return {
        "sentence": local_sentence(local),
        "rows": local_rows(local, basins),
        "more": max(0, examined - ROWS),
    }
