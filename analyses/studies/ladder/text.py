"""The ladder in tables and sentences, beside what the paper reports."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import xarray as xr

from eqrlab.analyses.studies.ladder.rungs import REFERENCE_DEPTH, RUNGS, rung_before
from eqrlab.analyses.studies.ladder.summary import (
    ACCURACY,
    ADVANTAGE,
    CORRECT,
    GAP,
    POOLED,
    SELECTED,
    STARTS,
    WITHIN,
)
from eqrlab.analyses.text.format import markdown_table, number_interval, plural
from eqrlab.attractors.results.schema import MODES
from eqrlab.attractors.statistics.intervals import stated_level

Rows = list[dict[str, str]]

PAPER_SOURCE = "Equilibrium Reasoners, arXiv 2605.21488, Sudoku-Extreme"
PAPER_ACCURACY = {
    "feedforward": 0.026, "tied": 0.326, "sot": 0.747, "hierarchy": 0.765, "act": 0.848, "ri": 0.860, "ni": 0.864,
}  # fmt: skip
PAPER_EFFECT = {
    "random starts": 0.012,
    "noise and damping": 0.004,
}  # on Sudoku-Extreme; random starts +0.237 on mazes
PAPER_GAP = {"act": 0.0358, "ri": 0.0010, "ni": 0.0013}
START_NOTES = {"training_law": "", "outside_training_law": " *", "start_has_no_effect": " †"}


def _cell(summary: xr.Dataset, rung: str, quantity: str, kind: str = "mean") -> str:
    """Return a mean, or a step or an effect in points, with its interval, shares in percent, AUCs as numbers."""
    ends = ("low", "high") if kind == "mean" else (f"{kind}_low", f"{kind}_high")
    chosen = summary.sel({"ingredient" if kind == "effect" else "rung": rung, "quantity": quantity})
    value, low, high = (float(chosen[name]) for name in (kind, *ends))
    if not np.isfinite(value):
        return "undefined"
    if quantity in (*POOLED, WITHIN) and kind == "mean":
        return number_interval(value, low, high)
    if quantity in (*POOLED, WITHIN):
        bounds = f" [{low:+.2f}, {high:+.2f}]" if np.isfinite(low) else ""
        return f"{value:+.2f}{bounds}"
    sign = "" if kind == "mean" and quantity != ADVANTAGE else "+"
    bounds = f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]" if np.isfinite(low) else ""
    return f"{100 * value:{sign}.1f}{bounds}"


def _marked(summary: xr.Dataset, rung: str) -> str:
    """Return the name of a rung, marked where its starts need a note."""
    return rung + START_NOTES[STARTS[int(summary.starts.sel(rung=rung))]]


def accuracy_rows(summary: xr.Dataset) -> Rows:
    """Return the table of accuracies: one row per rung, percent with intervals, each seed, and the paper's."""
    rows = []
    depths = [str(q) for q in summary.quantity_accuracy.values if q != ACCURACY]
    for rung in map(str, summary.rung.values):
        one = summary.sel(rung=rung)
        seeds = one.seed_mean.sel(quantity=ACCURACY).values
        row = {
            "rung": rung,
            "what": RUNGS[rung].text,
            "layers": str(int(one.equivalent_layers)),
            "parameters": f"{int(one.parameters):,}",
            "training depth": str(int(one.training_depth)),
            "exact at training depth, %": _cell(summary, rung, ACCURACY),
            "each seed": " ".join(f"{100 * v:.1f}" for v in seeds),
        }
        row |= {f"at {q.removeprefix('accuracy at ')}, %": _cell(summary, rung, q) for q in depths}
        rows.append(row | {"paper, %": f"{100 * PAPER_ACCURACY[rung]:.1f}" if rung in PAPER_ACCURACY else ""})
    return rows


def landscape_rows(summary: xr.Dataset) -> Rows:
    """Return the table of landscapes: shares in percent and AUCs, with intervals; * and † mark the starts."""
    return [
        {"rung": _marked(summary, rung)}
        | {q: _cell(summary, rung, q) for q in (CORRECT, "spurious mass", GAP, "settled", WITHIN, *POOLED)}
        for rung in map(str, summary.rung.values)
    ]


def selection_rows(summary: xr.Dataset) -> Rows:
    """Return the table of choosing one of all restarts, in percent and points, with the paired change of the gain."""
    rungs = [str(r) for r in summary.rung.values]
    rows = []
    for rung in rungs:
        row = {"rung": _marked(summary, rung)}
        row["one restart"] = _cell(summary, rung, "accuracy from the landscape's starts")
        row |= {q: _cell(summary, rung, q) for q in (*SELECTED, ADVANTAGE)}
        below = rung_before(rung, rungs)
        row["change"] = f"{_cell(summary, rung, ADVANTAGE, 'step')} to {below}" if below else ""
        rows.append(row)
    return rows


def mode_rows(summary: xr.Dataset) -> Rows:
    """Return the table of mode shares, percent with intervals."""
    return [
        {"rung": _marked(summary, rung)}
        | {(m if m == "undecided" else f"({m})"): _cell(summary, rung, f"mode {m}") for m in MODES}
        for rung in map(str, summary.rung.values)
    ]


def step_rows(summary: xr.Dataset) -> Rows:
    """Return the table of differences to the rung before, in points, paired by seed and puzzle."""
    rungs = [str(r) for r in summary.rung.values]
    deep = f"accuracy at depth {REFERENCE_DEPTH}"
    shown = (ACCURACY, deep, CORRECT, "spurious mass", GAP, "mode d", WITHIN, *POOLED)
    return [
        {"step": f"{lower} -> {upper}"} | {q: _cell(summary, upper, q, "step") for q in shown}
        for upper in rungs
        if (lower := rung_before(upper, rungs))
    ]


def effect_rows(summary: xr.Dataset) -> Rows:
    """Return the effects of random starts and of noise, in points, where all four models were trained."""
    if "effect" not in summary:
        return []
    deep = f"accuracy at depth {REFERENCE_DEPTH}"
    shown = (ACCURACY, deep, CORRECT, "spurious mass", GAP, WITHIN, *POOLED, ADVANTAGE)
    return [
        {"ingredient": name}
        | {q: _cell(summary, name, q, "effect") for q in shown}
        | {"paper, accuracy": f"{100 * PAPER_EFFECT[name]:+.1f}" if name in PAPER_EFFECT else ""}
        for name in map(str, summary.ingredient.values)
    ]


def order_sentences(
    summary: xr.Dataset, quantity: str = ACCURACY, paper: dict[str, float] | None = None
) -> list[str]:
    """Return sentences on where the measured order of the rungs agrees with the paper's, and where not.

    Parameters
    ----------
    summary
        From `analyses.studies.ladder.summary.summarise`.
    quantity
        What is ordered.
    paper
        Rung to the paper's value; default: its accuracies.

    Notes
    -----
    A step agrees, or goes the other way, where its interval excludes zero; else it is not resolved.  Signs are
    compared, not sizes: the paper's task, model and training are far larger.
    """
    paper = PAPER_ACCURACY if paper is None else paper
    rungs = [str(r) for r in summary.rung.values if str(r) in paper]
    mean = summary["mean"].sel(quantity=quantity)
    ordered = sorted(rungs, key=lambda r: float(mean.sel(rung=r)))
    here = ", ".join(f"{r} {100 * float(mean.sel(rung=r)):.1f} %" for r in ordered)
    there = ", ".join(f"{r} {100 * paper[r]:.3g} %" for r in sorted(rungs, key=paper.__getitem__))
    sentences = [
        f"Measured order, {quantity}, from low to high: {here}; the paper's ({PAPER_SOURCE}): {there}."
    ]
    found: dict[str, list[str]] = {"agree": [], "contrary": [], "open": []}
    every = [str(r) for r in summary.rung.values]
    for upper in every:
        lower = rung_before(upper, every)
        if lower not in paper or upper not in paper:
            continue
        one = summary.sel(rung=upper, quantity=quantity)
        kind = _verdict(float(one.step_low), float(one.step_high), paper[upper] - paper[lower])
        said = f"{100 * (paper[upper] - paper[lower]):+.3g}"
        found[kind].append(f"{lower} -> {upper} {_cell(summary, upper, quantity, 'step')} (paper {said})")
    seeds = plural(summary.sizes["seed"], "seed")
    texts = {
        "agree": "Steps in the paper's direction",
        "contrary": "Steps against the paper's direction",
        "open": f"Steps whose direction {seeds} cannot tell",
    }
    sentences += [f"{texts[k]}, in points: {'; '.join(v)}." for k, v in found.items() if v]
    return sentences


def effect_sentences(summary: xr.Dataset) -> list[str]:
    """Return for each effect that the paper states whether its direction is confirmed here, refuted, or undecided.

    Notes
    -----
    As in `order_sentences`, signs are compared, not sizes.
    """
    if "effect" not in summary:
        return []
    words = {
        "agree": "confirmed in direction",
        "contrary": "refuted",
        "open": "open, for the interval holds 0",
    }
    said = []
    for name, paper in PAPER_EFFECT.items():
        one = summary.sel(ingredient=name, quantity=ACCURACY)
        kind = _verdict(float(one.effect_low), float(one.effect_high), paper)
        found = _cell(summary, name, ACCURACY, "effect")
        said.append(f"{name}, {ACCURACY}: {found} points (paper {100 * paper:+.1f}): {words[kind]}")
    return [f"Effects where random starts and noise are crossed: {'; '.join(said)}."]


def _verdict(low: float, high: float, paper: float) -> str:
    """Return whether an interval of a step agrees with the paper's sign: "agree", "contrary" or "open"."""
    if not (low > 0 or high < 0):
        return "open"
    return "agree" if (low > 0) == (paper > 0) else "contrary"


def notes(summary: xr.Dataset) -> list[str]:
    """Return what must be known to read the tables."""
    a, seeds = summary.attrs, summary.sizes["seed"]
    kinds = {STARTS[int(k)] for k in summary.starts.values}
    interval = (
        f"Intervals are {stated_level(a['confidence'])} and rest on {seeds} seeds: Student's t on the variance between "
        "seeds plus that between puzzles, so they hold for new seeds and new puzzles."
        if seeds > 1
        else "There is one seed, hence no interval: nothing tells how another seed would differ."
    )
    lines = [
        f"{a['task']}: {a['steps']} optimiser steps on {a['training_puzzles']} puzzles; accuracy of one restart from "
        f"the rung's own law on {a['test_puzzles']} held-out puzzles, none of them, up to symmetry, in training.",
        f"Landscape on the first {summary.sizes['puzzle']} of these: {a['restarts']} restarts, depth {a['depth']}, "
        "the rung's own noise.",
        interval,
        "The path-independence gap is the chance that two restarts of a puzzle disagree in being right, 2 p (1 - p), "
        "estimated without bias; paper: "
        + ", ".join(f"{r} {100 * v:.2f} %" for r, v in PAPER_GAP.items())
        + ".",
    ]
    if seeds > 1 and _without_interval(summary):
        lines.append(
            "A number without interval is defined by a single seed or puzzle; an undefined one by none."
        )
    if "outside_training_law" in kinds:
        lines.append(
            "* trained from one stored start: the landscape's random starts are outside the training law."
        )
    if "start_has_no_effect" in kinds:
        lines.append(
            "† forgets its start: all restarts are the same run, so that its residual is 0 throughout."
        )
    return lines


def _without_interval(summary: xr.Dataset) -> bool:
    """Say whether some mean, step or effect has no interval, or is undefined (the first rung has no step)."""
    rungs = [str(r) for r in summary.rung.values]
    above = [rung_before(rung, rungs) is not None for rung in rungs]
    lows = [summary.low.values, summary.step_low.values[above]]
    if "effect" in summary:
        lows.append(summary.effect_low.values)
    return not all(np.isfinite(low).all() for low in lows)


def tables(summary: xr.Dataset) -> list[tuple[str, Rows]]:
    """Return all tables with their titles, those without rows left out."""
    named = [
        ("Accuracy", accuracy_rows(summary)),
        ("Landscape, % and AUC", landscape_rows(summary)),
        (f"Choosing 1 of {summary.attrs['restarts']} restarts, %", selection_rows(summary)),
        ("Mode shares, %", mode_rows(summary)),
        ("Difference to the rung before, points, paired by seed and puzzle", step_rows(summary)),
        ("Effects of random starts and of noise, points, paired by seed and puzzle", effect_rows(summary)),
    ]
    return [(title, rows) for title, rows in named if rows]


def sentences(summary: xr.Dataset) -> list[str]:
    """Return what the ladder says of the paper's order, of accuracy and of the path-independence gap."""
    rungs = {str(r) for r in summary.rung.values}
    said = order_sentences(summary) if len(rungs & set(PAPER_ACCURACY)) > 1 else []
    said += effect_sentences(summary)
    return said + (order_sentences(summary, GAP, PAPER_GAP) if len(rungs & set(PAPER_GAP)) > 1 else [])


def markdown(summary: xr.Dataset) -> str:
    """Return the ladder as a Markdown page: tables, sentences, notes."""
    lines = [f"# The construction path on {summary.attrs['task']}", ""]
    for title, rows in tables(summary):
        lines += [f"## {title}", "", markdown_table(rows), ""]
    for title, said in (("Beside the paper", sentences(summary)), ("Notes", notes(summary))):
        if said:
            lines += [f"## {title}", "", *_items(said), ""]
    return "\n".join(lines)


def _items(texts: Iterable[str]) -> list[str]:
    return ["- " + text.replace("*", r"\*") for text in texts]
