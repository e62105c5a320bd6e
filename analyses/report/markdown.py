"""A report as Markdown, for a paper's appendix or a model card: verdict, tables, provenance, how to reproduce it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from eqrlab.analyses.report.comparison import comparison_of
from eqrlab.analyses.report.disguises import disguise_sentence
from eqrlab.analyses.report.local import local_sentence
from eqrlab.analyses.studies.checks import check_sentences
from eqrlab.analyses.text import tables
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.comparison import (
    ABOUT,
    ABOUT_SEEDS,
    clear_differences,
    comparison_table,
    recipe_table,
    seeds_sentence,
)
from eqrlab.analyses.text.format import markdown_table
from eqrlab.analyses.text.names import typed
from eqrlab.analyses.text.signals import trust_sentence
from eqrlab.analyses.text.vocabulary import MODE_NAMES, SELECTOR_NAMES
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.statistics.intervals import stated_level
from eqrlab.datasets.files import bundled_names

Groups = Mapping[str, xr.Dataset]
ROWS = 16  # puzzles in a table
RECORDED = (  # attributes of a run that the table of provenance shows
    "checkpoint", "checkpoint_sha256", "family", "task", "puzzles", "puzzles_drawn_from", "puzzles_drawn_by_seed",
    "oracle", "restarts", "depth", "noise", "initial_law", "seed", "dtype", "device", "source", "created",
)  # fmt: skip
UNJUDGED = "No verdict: right and wrong are unknown, since the archive has neither labels nor an oracle."


def sentences(groups: Groups) -> list[tuple[str, str]]:
    """Return what a diagnosis says, a heading and a sentence or two each."""
    modes, alignment = groups.get("modes"), groups.get("alignment")
    if modes is None or alignment is None:
        return [("Landscape", UNJUDGED)]
    told = [
        ("Lost runs", wording.lost_sentence(groups["ensemble"])),
        ("Landscape", wording.mode_sentence(modes)),
        ("Residual", wording.residual_sentence(alignment)),
        ("What to trust", trust_sentence(groups["signals"]) if "signals" in groups else ""),
        ("What to do next", wording.advice_sentence(modes, alignment, groups.get("signals"))),
        ("State and answer", wording.drift_sentence(groups["ensemble"])),
    ]
    return [(title, text) for title, text in told if text] + check_sentences(groups)


def diagnosis_markdown(groups: Groups, level: int = 2) -> str:
    """Return a diagnosis as Markdown: verdict, figures and puzzles with intervals, provenance, how to reproduce it.

    Parameters
    ----------
    groups
        Of one checkpoint: `ensemble`, `basins`, and `modes`, `alignment` and what else there is.
    level
        Of its headings.
    """
    ensemble, hashes = groups["ensemble"], "#" * level
    about = ensemble.attrs
    rows = wording.verdict_rows(groups)
    told = [f"**{title}.** {text}" for title, text in sentences(groups)]
    if "disguises" in groups:
        told.append(f"**Disguises.** {disguise_sentence(groups['disguises'])}")
    if "spectrum" in groups and "verdict" in groups["spectrum"]:
        told.append(f"**At the attractors.** {local_sentence(groups['spectrum'])}")
    stated = stated_level(groups["basins"].attrs.get("confidence", 0.95))
    drawn = drawn_of(ensemble).sum(1)
    restarts = f"{drawn.max()} restarts"
    if drawn.min() < drawn.max():
        restarts = f"{drawn.min()} to {restarts} (accuracies and AUC from the first {drawn.min()} of each)"
    runs = (
        f"From {ensemble.sizes['puzzle']} puzzles of {typed(str(about.get('puzzles', 'a set that is not recorded')))}, "
        f"{restarts}, depth {ensemble.sizes['step']}, noise {float(about['noise']):g}, seed {about['seed']}, "
        f"{about['dtype']}."
    )
    parts = [
        f"{hashes} Landscape", *told, runs,
        f"{hashes}# Over the puzzles", markdown_table(_figures(groups)),
        f"In brackets {stated} intervals from resampling whole puzzles, whose restarts are not independent.",
        f"{hashes}# Puzzle by puzzle", markdown_table(rows[:ROWS], len(rows) - ROWS),
        f"In brackets {stated} intervals of each mass alone, over the restarts of the puzzle; a mass is the share of "
        "restarts that end at such attractors.",
        f"{hashes}# How it was made", markdown_table(_provenance(about)),
        f"{hashes}# How to reproduce it", f"```bash\n{command('diagnose', [about], ensemble.sizes['puzzle'])}\n```",
    ]  # fmt: skip
    return "\n\n".join(parts)


def comparison_markdown(
    stored: xr.Dataset, results: Mapping[str, Groups], recipes: xr.Dataset | None = None
) -> str:
    """Return a comparison as Markdown: recipes over their seeds, if there are any, and checkpoints, each paired."""
    comparison = comparison_of(stored, results)
    parts = []
    if recipes is not None:
        parts.append("## Recipes over their seeds")
        for other in range(1, recipes.sizes["recipe"]):
            parts += [clear_differences(recipes, other), _flat(recipe_table(recipes, other))]
        parts += [seeds_sentence(recipes), ABOUT_SEEDS]
    parts.append("## Paired differences")
    for other in range(1, len(results)):
        parts += [clear_differences(comparison, other), _flat(comparison_table(comparison, other))]
    abouts = [groups["ensemble"].attrs for groups in results.values()]
    puzzles = next(iter(results.values()))["ensemble"].sizes["puzzle"]
    again = command("compare", abouts, puzzles) + (
        "" if recipes is None else f" --seeds {recipes.sizes['seed']}"
    )
    return "\n\n".join([*parts, ABOUT, f"```bash\n{again}\n```"])


def _flat(lines: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """Return a table by subject as one table."""
    return markdown_table(
        [{**row, "quantity": f"{title}: {row['quantity']}"} for title, rows in lines.items() for row in rows]
    )


def report_markdown(
    stored: xr.Dataset | None, results: Mapping[str, Groups], recipes: xr.Dataset | None = None
) -> str:
    """Return the report of an archive as Markdown.

    Parameters
    ----------
    stored
        Its group "compare", None without one.
    results
        Checkpoint name to its groups, as `report.page.checkpoints` gives them.
    recipes
        Its group "recipes", None without one.
    """
    names = [typed(name) for name in results]
    parts = [f"# Attractor landscape of {', '.join(names)}"]
    if stored is not None:
        parts.append(comparison_markdown(stored, results, recipes))
    for name, groups in zip(names, results.values(), strict=True):
        parts += (
            [f"## {name}", diagnosis_markdown(groups, 3)] if len(names) > 1 else [diagnosis_markdown(groups)]
        )
    return "\n\n".join(parts) + "\n"


def command(verb: str, abouts: Sequence[Mapping[str, Any]], puzzles: int) -> str:
    """Return the command that makes a diagnosis or a comparison again, from the attributes of its ensembles."""
    about = abouts[0]
    asked = json.loads(about.get("request", "{}"))
    if "request" not in about:  # written by another verb than diagnose and compare
        asked["noise"] = about.get("noise")
    names = [str(one.get("name", one.get("checkpoint", "CKPT"))) for one in abouts]
    file = str(about.get("puzzles", "FILE"))
    words = ["eqrlab", verb, *names]
    if file != f"{about['task']}-test.csv.gz":
        bundled = file.removesuffix(".csv.gz")
        words += ["--puzzles", bundled if bundled in bundled_names() else file]
    words += [] if "puzzles_drawn_from" in about else ["--limit", str(puzzles)]
    for option, default in (("restarts", None), ("depth", None), ("seed", 0), ("dtype", "float32")):
        value = asked.get(option, about[option]) if option != "dtype" else about[option]
        words += [f"--{option}", str(value)] if value != default else []
    for option in ("noise", "starts"):
        words += [f"--{option}", str(asked[option])] if asked.get(option) is not None else []
    words += {True: ["--local"], False: ["--no-local"]}.get(asked.get("local"), [])
    words += ["--no-checks"] if asked.get("checks") is False else []
    words += ["--fixed"] if asked.get("fixed") and verb == "diagnose" else []
    return shlex.join(words)


def _figures(groups: Groups) -> list[dict[str, str]]:
    """Return the rows of the table over puzzles: modes, accuracies, the AUC of the residual, runs at attractors."""
    rows = {"runs that reach an attractor": tables.reached_text(groups["basins"])}
    modes, alignment = groups.get("modes"), groups.get("alignment")
    if modes is not None and alignment is not None:
        best = wording.best_selector(alignment, groups.get("signals"))
        index = wording.auc_depth(alignment)
        shown = dict.fromkeys(("mean", best, "any_correct"))
        shares = {m: "undecided" if m == "undecided" else f"mode ({m}), {MODE_NAMES[m]}" for m in MODES}
        rows = (
            {f"puzzles in {text}" if m != "undecided" else "puzzles undecided": wording.share_of(modes, m)
             for m, text in shares.items()}
            | {f"accuracy, {SELECTOR_NAMES[n]}": wording.accuracy_text(alignment, n) for n in shown}
            | {"AUC of the residual": "undefined" if index is None else
               f"{wording.auc_text(alignment, index)} at depth {alignment['depth'].values[index]}"}
            | rows
        )  # fmt: skip
    return [{"quantity": name, "value [interval]": text} for name, text in rows.items()]


def _provenance(about: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the table of provenance."""
    return [
        {"": name.replace("_", " "), "value": typed(str(about[name]))} for name in RECORDED if name in about
    ]
