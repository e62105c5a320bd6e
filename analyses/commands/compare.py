"""`eqrlab compare`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import xarray as xr

from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.run_options import require_no_runs
from eqrlab.analyses.commands.common.unfinished import Kept
from eqrlab.analyses.commands.diagnose import REPORT, finish, run_all, sampling_options, with_puzzles
from eqrlab.analyses.compare import compare, over_seeds, require_recipes, require_same_puzzles
from eqrlab.analyses.diagnose import archive_groups
from eqrlab.analyses.report import page
from eqrlab.analyses.text.comparison import (
    ABOUT,
    ABOUT_SEEDS,
    clear_differences,
    comparison_table,
    recipe_table,
    seeds_sentence,
    table_rows,
)
from eqrlab.analyses.text.format import table, wrapped
from eqrlab.analyses.text.names import distinct
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.drawn import require_equal


def read_results(files: Sequence[str]) -> dict[str, dict[str, xr.Dataset]]:
    """Return the groups of every checkpoint in some archives, by name.

    Raises
    ------
    ValueError
        If an archive cannot be read or has no judged ensemble, or if the runs are not equally many and deep.
    """
    results: dict[str, dict[str, xr.Dataset]] = {}
    for file in files:
        for name, groups in page.checkpoints(archive.read(file, complete=True)).items():
            if "modes" not in groups:
                raise ValueError(f"{file}: it does not say which answers are right")
            require_equal(groups["ensemble"], f"{file}: a comparison")
            results[distinct(name, results)] = groups
    sizes = {
        name: tuple(groups["ensemble"].sizes[d] for d in ("restart", "step"))
        for name, groups in results.items()
    }
    first, wanted = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != wanted:
            raise ValueError(
                "{} has {} restarts of {} steps, {} has {} of {}".format(first, *wanted, name, *size)
            )
    return results


@click.command(
    "compare",
    epilog="Example:  eqrlab compare eqr-sudoku6 trm-sudoku6 --limit 2 --restarts 4 --depth 16 --no-local",
)
@click.argument("checkpoints", nargs=-1, metavar="CKPT CKPT...")
@click.option(
    "--seeds",
    type=click.IntRange(2),
    metavar="N",
    help="Every N checkpoints in turn are training seeds of one recipe: compare recipes, with intervals for "
    "new seeds and new puzzles.",
)
@sampling_options
def compare_command(checkpoints: tuple[str, ...], seeds: int | None, out: Path, **options: Any) -> Path:
    """Compare checkpoints on the same puzzles and seeds.

    Differences are taken to the first CKPT, with intervals paired by puzzle.  All restarts are drawn, even if fewer
    would decide a mode.  Writes OUT/compare.nc and OUT/report.html, which shows the landscapes side by side; `eqrlab
    report OUT/compare.nc --format md` makes the report as Markdown.  For families with one stored start see `eqrlab
    diagnose --help`.

    Instead of checkpoints, archives of scale, export or diagnose --fixed can be given (FILE.nc FILE.nc...), of runs on
    the same puzzles: nothing is run then.
    """
    began, target = time.monotonic(), out / "compare.nc"
    archives = [name for name in checkpoints if Path(name).suffix == ".nc"]
    if archives and len(archives) < len(checkpoints):
        raise click.UsageError("give checkpoints or archives, not both")
    if len(checkpoints) < 2 and not archives:
        raise click.UsageError("compare needs at least two checkpoints")
    kept: Kept | None = None
    if archives:
        require_no_runs("checkpoints", "seeds")
        results = read_results(archives)
        require_writable(out, target.name, REPORT)
    else:
        if seeds:
            require_recipes(len(checkpoints), seeds)
        jobs = with_puzzles(checkpoints, options)
        require_same_puzzles({name: puzzles.inputs for name, (_, puzzles) in jobs.items()})
        results, kept = run_all(jobs, target=target, fixed=True, **options)
    comparison = compare(results)
    groups = {**archive_groups(results), "compare": comparison}
    if seeds:
        groups["recipes"] = over_seeds(comparison, seeds)
    files = finish(target, groups, kept, began)
    click.echo("\n".join(comparison_lines(comparison, groups.get("recipes"))) + f"\n\n{files}")
    return target


def comparison_lines(comparison: xr.Dataset, recipes: xr.Dataset | None) -> list[str]:
    """Return the printed lines of a comparison: of every checkpoint with the first, or of every recipe."""
    lines: list[str] = []
    shown, tabled, about = (
        (comparison, comparison_table, ABOUT) if recipes is None else (recipes, recipe_table, ABOUT_SEEDS)
    )
    for other in range(1, shown["difference"].shape[0]):
        lines += [*table(table_rows(tabled(shown, other))), ""]
        lines += [*wrapped(clear_differences(shown, other)), ""]
    if recipes is not None:
        lines += [*wrapped(seeds_sentence(recipes)), ""]
    return [*lines, *wrapped(about)]
