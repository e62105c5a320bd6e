"""A comparison in words: what its quantities are called, and its tables of means and differences."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import percent_interval, plural
from eqrlab.analyses.text.names import distinct
from eqrlab.analyses.text.signals import points
from eqrlab.analyses.text.vocabulary import MODE_NAMES, SELECTOR_NAMES
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import stated_level

SUBJECTS = {  # heading of a part of the table: how the names of its quantities begin or end
    "Accuracy at the last depth, choosing by": "accuracy, ",
    "Chance that two restarts disagree in being right": " gap",
    "Mass, the share of restarts that end at": " mass",
    "Share of the puzzles in mode": "mode ",
    "AUC within a puzzle, wrong against right runs, of": " AUC within puzzle",
    "Dynamics": "",
}
NAMES = {
    "accuracy, any_correct": "any correct, the ceiling",
    "correct mass": "right attractors",
    "spurious mass": "wrong attractors",
    "mode undecided": "undecided",
    "path-independence gap": "path-independence gap",
}

ABOUT = (
    "Difference: second minus first, both averaged over the puzzles where both are defined; intervals pair the puzzles "
    "and resample them, each for one quantity alone."
)
ABOUT_SEEDS = (
    "Means over training seeds and puzzles. Difference: second minus first, paired by puzzle and by position among the "
    "seeds. Intervals are Student's, hold for new seeds and new puzzles, and are each for one quantity alone."
)


def subject_of(quantity: str) -> str:
    """Return the heading under which a quantity is listed."""
    return next(title for title, part in SUBJECTS.items() if part in quantity)


def quantity_name(quantity: str) -> str:
    """Return what a quantity is called under its heading.

    Examples
    --------
    >>> [quantity_name(q) for q in ("accuracy, mean", "mode d", "settle_time AUC within puzzle")]
    ['one restart', '(d) broad correct basin', 'settle time']
    """
    if quantity in NAMES:
        return NAMES[quantity]
    part = SUBJECTS[subject_of(quantity)]
    name = quantity.replace(part, "") if part else quantity
    return f"({name}) {MODE_NAMES[name]}" if part == "mode " else SELECTOR_NAMES.get(name, name)


def is_share(quantity: str) -> bool:
    """Return whether a quantity is a share, whose differences are in points."""
    return subject_of(quantity) in tuple(SUBJECTS)[:4]


def _scaled(quantity: str) -> tuple[int, int]:
    """Return by how much a quantity is multiplied where it is shown, and its digits: shares are in percent."""
    return (100, 1) if is_share(quantity) else (1, 1 if "step" in quantity else 3)


def _written(found: Interval, quantity: str, sign: str = "", few: str = "(too few puzzles)") -> str:
    """Return an estimate of a quantity, or of its difference where `sign` is "+", with its interval."""
    scale, digits = _scaled(quantity)
    value, low, high = (scale * part for part in found)
    unit = "" if not is_share(quantity) else " points" if sign else " %"
    bounds = f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if np.isfinite(low) else few
    return f"{value:{sign}.{digits}f}{unit} {bounds}" if np.isfinite(value) else "undefined"


def paired_means(comparison: xr.Dataset, other: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (quantity,) of the first checkpoint and of another over the puzzles where both are defined."""
    pair = comparison["puzzle_value"].transpose("checkpoint", "quantity", "puzzle").values[[0, other]]
    both = np.isfinite(pair).all(0)
    count = np.maximum(both.sum(-1), 1)
    first, second = (np.where(both.any(-1), np.where(both, v, 0.0).sum(-1) / count, np.nan) for v in pair)
    return first, second


def comparison_table(comparison: xr.Dataset, other: int = 1) -> dict[str, list[dict[str, str]]]:
    """Return the table of a checkpoint beside the first one: subject to rows, each heading to text.

    Parameters
    ----------
    comparison
        From `compare`.
    other
        Position of the checkpoint.

    Notes
    -----
    Columns are the quantity, the means of both, their difference with its interval, and the number of puzzles.
    Both means are over the puzzles where both checkpoints define the quantity, so that each difference is that of
    the two means.
    """
    names = [str(name) for name in comparison["checkpoint"].values]
    gap_heading = f"difference [{stated_level(comparison.attrs['confidence'])} interval]"
    fixed = ["quantity", gap_heading, "over"]
    first, second = distinct(names[0], fixed), distinct(names[other], [*fixed, names[0]])
    means = paired_means(comparison, other)
    table: dict[str, list[dict[str, str]]] = {}
    for q, quantity in enumerate(map(str, comparison["quantity"].values)):
        scale, digits = _scaled(quantity)
        count = int(comparison["puzzles_compared"].values[other, q])
        unit = " %" if is_share(quantity) else ""
        texts = [f"{scale * m[q]:.{digits}f}{unit}" if count else "undefined" for m in means]
        gap = _written(Interval.of(comparison, "difference", other, q), quantity, "+")
        table.setdefault(subject_of(quantity), []).append({
            "quantity": quantity_name(quantity),
            first: texts[0],
            second: texts[1],
            gap_heading: gap if count else "",
            "over": plural(count, "puzzle") if count else "no puzzle",
        })  # fmt: skip
    return table


def recipe_table(recipes: xr.Dataset, other: int = 1) -> dict[str, list[dict[str, str]]]:
    """Return the table of a training recipe beside the first one: subject to rows, each heading to text.

    Parameters
    ----------
    recipes
        From `over_seeds`.
    other
        Position of the recipe.
    """
    names = [str(name) for name in recipes["recipe"].values]
    gap_heading = f"difference [{stated_level(recipes.attrs['confidence'])} interval]"
    first = distinct(names[0], ["quantity", gap_heading])
    second = distinct(names[other], ["quantity", gap_heading, first])
    table: dict[str, list[dict[str, str]]] = {}
    for q, quantity in enumerate(map(str, recipes["quantity"].values)):
        written = [
            _written(Interval.of(recipes, name, place, q), quantity, sign, "(too few for an interval)")
            for name, place, sign in (("value", 0, ""), ("value", other, ""), ("difference", other, "+"))
        ]
        row = {
            "quantity": quantity_name(quantity),
            first: written[0],
            second: written[1],
            gap_heading: written[2],
        }
        table.setdefault(subject_of(quantity), []).append(row)
    return table


def seeds_sentence(recipes: xr.Dataset) -> str:
    """Return how often one restart of every single run is right."""
    parts = [
        f"{name} {', '.join(f'{100 * value:.1f}' for value in values)}"
        for name, values in zip(
            recipes["recipe"].values, recipes["seed_value"].sel(quantity="accuracy, mean").values, strict=True
        )
    ]
    return f"One restart is right, in %, each seed: {'; '.join(parts)}."


def table_rows(table: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """Return a table by subject as rows for a terminal: subjects are rows of their own, quantities set in."""
    rows = []
    for title, members in table.items():
        rows += [dict.fromkeys(members[0], "") | {"quantity": title}]
        rows += [row | {"quantity": f"  {row['quantity']}"} for row in members]
    return rows


def clear_differences(comparison: xr.Dataset, other: int = 1) -> str:
    """Return whether a checkpoint, or recipe, is right and at right and wrong attractors more often than the first."""
    sides = comparison["recipe" if "recipe" in comparison.dims else "checkpoint"].values
    first, name = str(sides[0]), str(sides[other])
    gap, low, high = Interval.of(comparison, "difference", other)
    quantities = [str(q) for q in comparison["quantity"].values]
    told = [q for q in quantities if q in ("accuracy, mean", "correct mass", "spurious mass")]
    parts = []
    for quantity in told:
        q = quantities.index(quantity)
        if not np.isfinite(gap[q]):
            continue
        what = "one restart is right" if "mean" in quantity else f"runs end at {quantity_name(quantity)}"
        clear = np.isfinite(low[q]) and not low[q] <= 0 <= high[q]
        how = (
            f"{what} {'more' if gap[q] > 0 else 'less'} often"
            if clear
            else f"whether {what} more often is open"
        )
        parts.append(f"{how}, {points(gap[q], low[q], high[q])}")
    return f"{name} beside {first}: {'; '.join(parts)}."


def puzzle_rows(basins: list[xr.Dataset], letters: list[list[str]], names: list[str]) -> list[dict[str, str]]:
    """Return the table of puzzles, heading to text: the mode and the correct mass of every checkpoint."""
    rows = []
    for p, puzzle in enumerate(basins[0]["puzzle"].values):
        row = {"puzzle": str(puzzle)}
        for name, found, letter in zip(names, basins, letters, strict=True):
            row[distinct(name, row)] = (
                f"{letter[p]}, {percent_interval(*Interval.of(found, 'correct_mass', p))}"
            )
        rows.append(row)
    return rows
