"""The report of a diagnosis: one self-contained HTML file, made from the archive alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr
from markupsafe import Markup

from eqrlab import attractors as at
from eqrlab.analyses import plots, wording
from eqrlab.analyses.grids import board, board_kind
from eqrlab.attractors import archive
from eqrlab.attractors.schema import FATES, MODES
from eqrlab.attractors.statistics import cluster_bootstrap
from eqrlab.core.checkpoint import replaced_whole

Groups = dict[str, xr.Dataset]
KNOWN = ("ensemble", "basins", "alignment", "modes")
BOARDS = 4  # attractors of a puzzle whose answers are shown
DEPTHS = (1, 4, 16)  # columns of the table of selectors, with the last


def write_report(path: str | Path, out: str | Path) -> None:
    """Write the report of an archive, whole or not at all.

    Parameters
    ----------
    path
        The archive, as `attractors.archive.write` leaves it.
    out
        The HTML file.

    Raises
    ------
    ValueError
        When the archive is missing, unreadable or without an ensemble.
    OSError
        When the report cannot be written.
    """
    text = render(archive.read(path))
    with replaced_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(tree: xr.DataTree) -> str:
    """Return the report of an archive as HTML.

    Parameters
    ----------
    tree
        The archive; groups it does not know are left out.

    Raises
    ------
    ValueError
        When there is no ensemble in it.
    """
    results = checkpoints(tree)
    views = [_checkpoint(number, name, groups) for number, (name, groups) in enumerate(results.items(), 1)]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figures": _figures, "split": _split}
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.render(
        views=views,
        summary=wording.summary_rows(results),
        colours=plots.COLOURS,
        mode_names=wording.MODE_NAMES,
    )


def checkpoints(tree: xr.DataTree) -> dict[str, Groups]:
    """Return the groups of every checkpoint in an archive, by its name.

    Groups that can be derived from the ensemble are, where they are missing and correctness is known.

    Raises
    ------
    ValueError
        When there is no ensemble in it.
    """
    nodes = [tree, *(child for name, child in tree.children.items() if name not in KNOWN)]
    results: dict[str, Groups] = {}
    for node in nodes:
        if "ensemble" not in node.children:
            continue
        groups = {name: node[name].to_dataset() for name in KNOWN if name in node.children}
        ensemble = groups["ensemble"]
        for derived, derive in (("basins", at.basins), ("alignment", at.alignment), ("modes", at.modes)):
            if derived not in groups and (derived == "basins" or "correct" in ensemble):
                groups[derived] = derive(ensemble)
        name = base = checkpoint_name(node, ensemble)
        while name in results:
            name = f"{base} ({len(results) + 1})"
        results[name] = groups
    if not results:
        raise ValueError("the archive has no group named ensemble; expected one written by eqrlab diagnose")
    return results


def checkpoint_name(node: xr.DataTree, ensemble: xr.Dataset) -> str:
    """Return what to call a checkpoint: its recorded name, its group's, its file's, or its family's."""
    stem = Path(str(ensemble.attrs.get("checkpoint", "none"))).stem
    family = str(ensemble.attrs.get("family", "system"))
    return str(ensemble.attrs.get("name") or node.name or (stem if stem != "none" else family))


def telling_puzzles(groups: Mapping[str, xr.Dataset]) -> list[tuple[int, str]]:
    """Choose puzzles to show, with the reason: the likeliest example of each mode, and the most uncertain one.

    Where modes are unknown: the puzzles with the most attractors, with the largest basin, and with the most runs that
    reach none.  Ties go to the first.
    """
    chosen: dict[int, str] = {}
    basins = groups["basins"]
    if "modes" not in groups:
        largest = np.nan_to_num(basins["mass"].values).max(1)
        for score, reason in (
            (basins["attractors"].values, "most attractors"),
            (largest, "largest basin"),
            (basins["mass_none"].values, "most runs at no attractor"),
        ):
            chosen.setdefault(int(np.argmax(score)), reason)
        return list(chosen.items())
    modes = groups["modes"]
    code, chance = modes["mode"].values, modes["mode_probability"].values
    for m, letter in enumerate(MODES[:-1]):
        members = np.flatnonzero(code == m)
        if len(members):
            chosen[int(members[chance[members, m].argmax()])] = f"clearest example of mode ({letter})"
    surest = chance[:, :-1].max(1)
    if (code == MODES.index("undecided")).any() or not chosen:
        chosen.setdefault(int(surest.argmin()), "most uncertain verdict")
    if len(chosen) == 1 and len(code) > 1:  # one mode everywhere: show its least sure case too
        chosen.setdefault(int(surest.argmin()), "least sure verdict")
    return list(chosen.items())


def outcome_table(ensemble: xr.Dataset, basins: xr.Dataset) -> list[dict[str, Any]]:
    """Count runs that reach an attractor or none, and are right or wrong, with intervals clustered by puzzle.

    Notes
    -----
    Restarts of a puzzle are not independent, so that whole puzzles are resampled; see `wording.over_puzzles`.
    """
    reached = basins["attractor_id"].values >= 0
    right = ensemble["correct"].values[:, :, -1]
    puzzles, restarts = reached.shape
    confidence = float(basins.attrs.get("confidence", 0.95))
    rows = []
    for name, row in (("reached an attractor", reached), ("reached none", ~reached)):
        cells = []
        for kind, column in (("right", right), ("wrong", ~right)):
            count = (row & column).sum(1)
            share = count.sum() / (puzzles * restarts)
            low, high = cluster_bootstrap(
                lambda w, count=count: np.float64(w @ count / (w.sum() * restarts)),
                puzzles,
                confidence=confidence,
            )
            bounds = wording.over_puzzles(share, *np.clip((low, high), 0, 1), puzzles, confidence)
            cells.append({"kind": kind, "count": int(count.sum()), "text": wording.percent_interval(*bounds)})
        rows.append({"name": name, "cells": cells})
    return rows


def fate_bar(fate: np.ndarray) -> list[dict[str, Any]]:
    """Return the fates that occur among runs, with count, share and meaning."""
    counts = np.bincount(fate.ravel(), minlength=len(FATES))
    return [
        {"name": name, "count": int(count), "share": count / fate.size, "meaning": wording.fate_meaning(name)}
        for name, count in zip(FATES, counts, strict=True)
        if count
    ]


def _split(text: str) -> Markup:
    """Set a value's interval apart, as in "58 % [31, 84]", and keep either on one line."""
    value, bracket, rest = text.partition(" [")
    html = Markup('<span class="nb">{}</span>').format(value.replace(" %", "\u00a0%"))
    return html + Markup(' <span class="ci">[{}</span>').format(rest) if bracket else html


def _figures(text: str) -> str:
    """Keep numbers and their percent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _checkpoint(number: int, name: str, groups: Groups) -> dict[str, Any]:
    ensemble, basins = groups["ensemble"], groups["basins"]
    modes, alignment = groups.get("modes"), groups.get("alignment")
    restarts, puzzles, depth = (ensemble.sizes[d] for d in ("restart", "puzzle", "step"))
    judged = modes is not None and alignment is not None
    scope = f"{wording.plural(puzzles, 'puzzle')}, {wording.plural(restarts, 'restart')} each, {depth} steps"

    def figure(kind: str, drawn: plots.Figure, text: str) -> Markup:
        return Markup(plots.to_svg(drawn, f"c{number}-{kind}", text))

    view: dict[str, Any] = {
        "id": f"checkpoint-{number}", "name": name, "judged": judged, "scope": scope, "puzzles": puzzles, "depth": depth,
        "runs": puzzles * restarts, "task": str(ensemble.attrs.get("task", "unknown")),
        "family": str(ensemble.attrs.get("family", "unknown")),
        "confidence": f"{float(basins.attrs.get('confidence', 0.95)):.0%}".replace("%", " %"),
        "banded": puzzles * restarts > plots.EACH_RUN, "fates": fate_bar(ensemble["fate"].values),
        "paths": figure("paths", plots.residual_paths(ensemble), f"Relative residual of the runs of {name} over steps"),
        "puzzle_views": [], "provenance": provenance(groups), "letter": "unknown",
        "floor": plots.settled_below(ensemble),
        "rule": "the clearest example of each mode, and the most uncertain verdict" if judged
        else "the most attractors, the largest basin, the most runs at no attractor",
    }  # fmt: skip
    if judged:
        view |= _judged(ensemble, basins, modes, alignment)
        view["bar"] = figure("modes", plots.mode_shares(modes), f"Shares of the landscape modes of {name}")
        text = f"Error against residual of the runs of {name}: {plots.auc_label(alignment)}"
        view["scatter"] = figure("scatter", plots.residual_error(ensemble, alignment), text)
    for p, reason in telling_puzzles(groups):
        view["puzzle_views"].append(
            _puzzle(groups, p, reason, lambda kind, *a, p=p: figure(f"p{p}-{kind}", *a))
        )
    return view


def _judged(
    ensemble: xr.Dataset, basins: xr.Dataset, modes: xr.Dataset, alignment: xr.Dataset
) -> dict[str, Any]:
    last, index = alignment.sizes["depth"] - 1, wording.auc_depth(alignment)
    best = wording.best_selector(alignment)
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
        "letter": letter,
        "sentences": [
            ("Landscape", wording.mode_sentence(modes)),
            ("Residual", wording.residual_sentence(alignment)),
            ("What to buy", wording.buy_sentence(modes, alignment)),
        ],
        "tiles": [
            (
                "One restart",
                wording.accuracy_text(alignment, "mean"),
                f"right at depth {ensemble.sizes['step']}",
            ),
            ("Best selector", wording.accuracy_text(alignment, best), _choice(best)),
            ("Residual AUC", "undefined" if index is None else wording.auc_text(alignment, index), auc_note),
            ("Attractor reached", _reached(basins), "of runs; the others were unfinished or settle nowhere"),
        ],
        "strip": _strip(modes),
        "selectors": selector_table(alignment),
        "warning": wording.selector_warning(alignment),
        "outcomes": outcome_table(ensemble, basins),
    }


def _choice(selector: str) -> str:
    return (
        "no selection beats one restart"
        if selector == "mean"
        else f"choosing by {wording.SELECTOR_NAMES[selector]}"
    )


def _reached(basins: xr.Dataset) -> str:
    """Return the share of runs at an attractor, with its interval clustered by puzzle, as text."""
    share = (basins["attractor_id"].values >= 0).mean(1)
    confidence = float(basins.attrs.get("confidence", 0.95))
    bounds = cluster_bootstrap(lambda w: np.float64(w @ share / w.sum()), len(share), confidence=confidence)
    bounds = wording.over_puzzles(float(share.mean()), *np.clip(bounds, 0, 1), len(share), confidence)
    return wording.percent_interval(*bounds)


def selector_table(alignment: xr.Dataset) -> dict[str, Any]:
    """Return the table of selectors: depths, and for each selector its name, meaning, accuracies and rank."""
    depths = alignment["depth"].values
    columns = [i for i, d in enumerate(depths) if d in DEPTHS or i == len(depths) - 1]
    best = wording.best_selector(alignment)
    names = [str(n) for n in alignment["selector"].values]
    return {
        "depths": [int(depths[i]) for i in columns],
        "rows": [
            {
                "name": wording.SELECTOR_NAMES.get(name, name),
                "meaning": wording.SELECTOR_MEANINGS.get(name, ""),
                "cells": [wording.accuracy_text(alignment, name, i) for i in columns],
                "best": name == best,
                "ceiling": name == "any_correct",
            }
            for name in names
        ],
    }


def _strip(modes: xr.Dataset) -> list[dict[str, Any]]:
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
        "found": wording.plural(found, "attractor"),
        "basins": figure("basins", plots.basin_masses(basins, p), f"Basin masses of puzzle {label}"),
        "fates": fate_bar(ensemble["fate"].values[p]),
        "boards": [attractor_view(groups, p, a) for a in range(min(found, BOARDS))],
        "more": max(0, found - BOARDS),
        "phase": None,
        "kind": board_kind(str(ensemble.attrs.get("task", "")), basins.sizes["token"]),
    }
    if "sketch_path" in ensemble:
        view["phase"] = figure(
            "phase", plots.phase(ensemble, basins, p), f"Runs of puzzle {label} in a plane"
        )
    return view


def attractor_view(groups: Mapping[str, xr.Dataset], puzzle: int, a: int) -> dict[str, Any]:
    """Return what is shown of one attractor: its answer as a board, mass, fate, period and residual."""
    ensemble, basins = groups["ensemble"], groups["basins"]
    judged, labelled = "correct" in ensemble, "labels" in ensemble
    one = basins.isel(puzzle=puzzle, attractor=a)
    correct = bool(one["correct"])
    fate, period = FATES[int(one["fate"])], int(one["period"])
    kind = ("right" if correct else "wrong") if judged else "none"
    inputs = ensemble["inputs"].values[puzzle] if "inputs" in ensemble else None
    labels = ensemble["labels"].values[puzzle] if labelled else None
    task = str(ensemble.attrs.get("task", "unknown"))
    return {
        "number": a + 1,
        "kind": kind,
        "mass": wording.percent_interval(*(float(one[n]) for n in ("mass", "mass_low", "mass_high"))),
        "fate": f"period {period}" if fate == "periodic" else fate,
        "residual": f"{float(one['residual']):.2g}",
        "board": board(task, one["answer"].values, inputs, labels, correct and judged),
    }


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
