"""What the report shows of one diagnosis: its texts, tables and pictures, as values for the template."""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr
from markupsafe import Markup
from matplotlib.axes import Axes

from eqrlab.analyses.figures.diagnosis import mode_bar, plot_basins, plot_modes
from eqrlab.analyses.figures.runs import (
    EACH_RUN,
    PHASE_RUNS,
    auc_label,
    plot_alignment,
    plot_auc,
    plot_phase,
    plot_residuals,
    settled_below,
)
from eqrlab.analyses.figures.scaling import plot_heat, plot_scaling
from eqrlab.analyses.figures.signals import plot_risk_coverage
from eqrlab.analyses.figures.spectrum import plot_spectrum
from eqrlab.analyses.figures.style import figure_of, to_svg
from eqrlab.analyses.report.disguises import disguise_view
from eqrlab.analyses.report.local import local_view
from eqrlab.analyses.report.markdown import sentences
from eqrlab.analyses.report.puzzle_boards import puzzle_boards
from eqrlab.analyses.text import tables
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.borders import border_sentences
from eqrlab.analyses.text.format import plural
from eqrlab.analyses.text.signals import signal_rows, signal_warning
from eqrlab.analyses.text.telling import telling_puzzles
from eqrlab.analyses.text.vocabulary import SELECTOR_NAMES
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.statistics.intervals import stated_level

Groups = dict[str, xr.Dataset]


def diagnosis_view(number: int, name: str, groups: Groups) -> dict[str, Any]:
    """Return the template values of one checkpoint; the number counts checkpoints in the report."""
    ensemble, basins = groups["ensemble"], groups["basins"]
    modes, alignment = groups.get("modes"), groups.get("alignment")
    restarts, puzzles, depth = (ensemble.sizes[d] for d in ("restart", "puzzle", "step"))
    drawn = drawn_of(ensemble)
    each = (
        plural(restarts, "restart") + " each"
        if drawn.all()
        else f"{drawn.sum(1).min()} to {restarts} restarts each"
    )
    common = int(drawn.sum(1).min())
    scope = f"{plural(puzzles, 'puzzle')}, {each}, {depth} steps"
    if not drawn.all():
        scope += f"; accuracies and AUC from the first {common} of each"
    runs = int(drawn.sum())
    if "identifier" in ensemble and not ensemble.identifier.values.any():
        scope += ", all under the blank identifier"

    def figure(kind: str, text: str, *draw: partial[Axes]) -> Markup:
        return Markup(to_svg(figure_of(*draw), f"c{number}-{kind}", text))

    view: dict[str, Any] = {
        "id": f"checkpoint-{number}", "name": name, "judged": False, "scope": scope, "puzzles": puzzles,
        "runs": runs, "common": common, "unequal": not drawn.all(), "task": str(ensemble.attrs.get("task", "unknown")),
        "family": str(ensemble.attrs.get("family", "unknown")),
        "confidence": stated_level(basins.attrs.get("confidence", 0.95)).replace(" ", "\u00a0"),
        "banded": runs > EACH_RUN, "fates": tables.fate_bar(ensemble["fate"].values),
        "paths": figure("paths", f"Residual of the runs of {name} over steps", partial(plot_residuals, ensemble)),
        "some": PHASE_RUNS if restarts > PHASE_RUNS else 0, "puzzle_views": [],
        "provenance": tables.provenance(groups), "letter": "unknown",
        "floor": settled_below(ensemble), "zeros": bool((ensemble["residual"].values == 0).any()),
        "sparse": ensemble.attrs.get("residuals") == "sparse",
        "rule": "the most attractors, the largest basin, the most runs at no attractor", "local": None,
        "scaling": None, "disguises": None,
    }  # fmt: skip
    if "scaling" in groups:
        scaling = groups["scaling"]
        view["scaling"] = scaling.attrs
        view["heat"] = figure("heat", f"Accuracy over depth and breadth, {name}", partial(plot_heat, scaling))
        view["frontier"] = figure(
            "frontier", f"Accuracy against outer steps, {name}", partial(plot_scaling, scaling)
        )
        text = f"Accuracy of every selector against breadth and depth, {name}"
        both = [partial(plot_scaling, scaling, along) for along in ("breadth", "depth")]
        view["curves"] = figure("curves", text, *both)
    if "disguises" in groups:
        view["disguises"] = disguise_view(groups["disguises"])
    if "spectrum" in groups and "verdict" in groups["spectrum"]:
        view["local"] = local_view(groups["spectrum"], basins)
        text = f"Leading eigenvalues at the attractors of {name}, beside the unit circle"
        view["plane"] = figure("plane", text, partial(plot_spectrum, groups["spectrum"]))
    if modes is not None and alignment is not None:
        view |= _judged(ensemble, basins, modes, alignment, groups["signals"])
        signals = groups["signals"]
        view["signals"], view["misleads"] = signal_rows(signals), signal_warning(signals)
        text = f"Risk against coverage of every signal, {name}"
        view["risk"] = figure("risk", text, partial(plot_risk_coverage, signals))
        view["sentences"] = sentences(groups)
        text = f"Shares of the landscape modes of {name}"
        view["bar"] = figure("modes", text, partial(mode_bar, modes), partial(plot_modes, modes))
        text = f"Error against residual of the runs of {name}: {auc_label(alignment)}"
        scatter = partial(plot_alignment, ensemble, alignment)
        view["scatter"] = figure("scatter", text, scatter, partial(plot_auc, alignment))
    for p, reason in telling_puzzles(groups):
        view["puzzle_views"].append(
            _puzzle(groups, p, reason, lambda kind, *a, p=p: figure(f"p{p}-{kind}", *a))
        )
    return view


def _judged(
    ensemble: xr.Dataset, basins: xr.Dataset, modes: xr.Dataset, alignment: xr.Dataset, signals: xr.Dataset
) -> dict[str, Any]:
    last, index = alignment.sizes["depth"] - 1, wording.auc_depth(alignment)
    best = wording.best_selector(alignment, signals)
    letter = wording.landscape_mode(modes)
    auc_note = "no depth has both right and wrong runs"
    if index is not None:
        where = (
            "at the last step"
            if index == last
            else f"at depth {alignment['depth'].values[index]}, the last with both"
        )
        auc_note = f"wrong run has the higher residual, {where}"
    return {
        "judged": True,
        "rule": "the clearest example of each mode, and the most uncertain verdict",
        "letter": letter,
        "tiles": [
            (
                "One restart",
                wording.accuracy_text(alignment, "mean"),
                f"right at depth {ensemble.sizes['step']}",
            ),
            ("Best selector", wording.accuracy_text(alignment, best), _choice(best)),
            ("Residual AUC", "undefined" if index is None else wording.auc_text(alignment, index), auc_note),
            (
                "Attractor reached",
                tables.reached_text(basins),
                "of runs; the others were unfinished or never settle",
            ),
        ],
        "strip": tables.mode_strip(modes),
        "selectors": tables.selector_table(alignment, signals),
        "warning": wording.selector_warning(alignment),
        "outcomes": tables.outcome_table(ensemble, basins),
    }


def _choice(selector: str) -> str:
    return (
        "no selection beats one restart" if selector == "mean" else f"choosing by {SELECTOR_NAMES[selector]}"
    )


def _puzzle(groups: Groups, p: int, reason: str, figure: Any) -> dict[str, Any]:
    ensemble, basins, modes = groups["ensemble"], groups["basins"], groups.get("modes")
    label = basins["puzzle"].values[p]
    found = int(basins["attractors"].values[p])
    view = {
        "label": label,
        "reason": reason,
        "letter": wording.puzzle_modes(modes)[p] if modes is not None else "unknown",
        "probability": wording.probability_text(modes, p) if modes is not None else "",
        "correct": wording.mass_text(basins, "correct_mass", p) if modes is not None else "",
        "found": plural(found, "attractor"),
        "basins": figure("basins", f"Basin masses of puzzle {label}", partial(plot_basins, basins, p)),
        "fates": tables.fate_bar(ensemble["fate"].values[p]),
        **puzzle_boards(groups, p),
        "borders": border_sentences(groups, label),
        "phase": None,
    }
    if "sketch_path" in ensemble:
        draw = partial(plot_phase, ensemble, basins, p)
        view["phase"] = figure("phase", f"Runs of puzzle {label} in a plane", draw)
    return view
