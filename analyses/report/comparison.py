"""What the report shows of a comparison: differences, landscapes and puzzles, as values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from eqrlab.analyses.compare import UNBOUNDED, compare
from eqrlab.analyses.figures.comparison import plot_differences, plot_scatter
from eqrlab.analyses.figures.diagnosis import mode_bar, plot_modes
from eqrlab.analyses.figures.style import figure_of, to_svg
from eqrlab.analyses.text.comparison import (
    ABOUT,
    ABOUT_SEEDS,
    clear_differences,
    comparison_table,
    puzzle_rows,
    recipe_table,
    seeds_sentence,
)
from eqrlab.analyses.text.format import plural
from eqrlab.analyses.text.verdicts import puzzle_modes
from eqrlab.attractors.statistics.intervals import stated_level

Results = Mapping[str, Mapping[str, xr.Dataset]]
PUZZLES = 32  # in the table


def comparison_of(stored: xr.Dataset, results: Results) -> xr.Dataset:
    """Return the comparison that an archive holds; archives of before hold no values of puzzles, so it is made again.

    Raises
    ------
    ValueError
        When it is not one of the checkpoints in the archive.
    """
    if stored.sizes.get("checkpoint") != len(results):
        raise ValueError("its group compare has other checkpoints than the rest of the archive")
    if "puzzle_value" in stored:
        return stored
    return compare(results, confidence=float(stored.attrs.get("confidence", 0.95)))


def comparison_view(
    stored: xr.Dataset, results: Results, recipes: xr.Dataset | None = None
) -> dict[str, Any]:
    """Return what is shown of a comparison.

    Parameters
    ----------
    stored
        The group "compare" of the archive.
    results
        Checkpoint name to its groups.
    recipes
        The group "recipes", if there is one.
    """
    comparison, names = comparison_of(stored, results), list(results)
    ensemble = results[names[0]]["ensemble"]
    modes = [groups["modes"] for groups in results.values()]
    others = range(1, len(names))

    def figure(kind: str, text: str, *draw: partial[Axes]) -> Markup:
        return Markup(to_svg(figure_of(*draw), f"compare-{kind}", text))

    puzzles, restarts = (plural(ensemble.sizes[d], d) for d in ("puzzle", "restart"))
    seeds = {
        str(groups["ensemble"].attrs.get("seed")) for groups in results.values()
    }  # archives may have several
    same = f"The same {puzzles} " + (
        "and seeds for all" if len(seeds) == 1 else "for all, under different seeds"
    )
    rows = puzzle_rows([g["basins"] for g in results.values()], [puzzle_modes(m) for m in modes], names)
    bars = [
        figure(f"modes-{m}", f"Modes of {name}", partial(mode_bar, one), partial(plot_modes, one))
        for m, (name, one) in enumerate(zip(names, modes, strict=True))
    ]
    return {
        "title": _title(names) if recipes is None else _title(
            [str(name) for name in recipes["recipe"].values], f"recipes of {recipes.sizes['seed']} seeds"
        ),
        "first": names[0],
        "sentences": [clear_differences(comparison, c) for c in others],
        "scope": f"{same}: {restarts} each, {ensemble.sizes['step']} steps.",
        "about": ABOUT,
        "unbounded": any(str(q) in UNBOUNDED for q in comparison["quantity"].values),
        "confidence": stated_level(comparison.attrs["confidence"]).replace(" ", "\u00a0"),
        "differences": figure(
            "differences", f"Differences to {names[0]} with intervals", partial(plot_differences, comparison)
        ),
        "recipes": None if recipes is None else _recipes(recipes),
        "others": [_other(comparison, c, names, figure) for c in others],
        "bars": bars,
        "puzzles": rows[:PUZZLES],
        "more": max(0, len(rows) - PUZZLES),
    }  # fmt: skip


def _title(names: list[str], what: str = "checkpoints") -> str:
    return f"{names[0]} and {names[1]}" if len(names) == 2 else f"{len(names)} {what} beside each other"


def _recipes(recipes: xr.Dataset) -> dict[str, Any]:
    """Return what is shown of training recipes over their seeds."""
    others = range(1, recipes.sizes["recipe"])
    tables = [recipe_table(recipes, r) for r in others]
    return {
        "sentences": [*(clear_differences(recipes, r) for r in others), seeds_sentence(recipes)],
        "about": ABOUT_SEEDS,
        "tables": [{"headings": list(next(iter(lines.values()))[0]), "table": lines} for lines in tables],
    }


def _other(comparison: xr.Dataset, c: int, names: list[str], figure: Any) -> dict[str, Any]:
    """Return what is shown of one checkpoint beside the first."""
    table = comparison_table(comparison, c)
    draw = partial(plot_scatter, comparison, checkpoint=str(comparison["checkpoint"].values[c]))
    text = f"Mass of right attractors puzzle by puzzle, {names[c]} against {names[0]}"
    return {
        "name": names[c],
        "table": table,
        "headings": list(next(iter(table.values()))[0]),
        "scatter": figure(f"scatter-{c}", text, draw),
    }
