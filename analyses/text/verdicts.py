"""Verdicts in words: from datasets to sentences and table rows, for the report and the command line alike."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from eqrlab.analyses.text.format import number_interval, percent, percent_interval, plural
from eqrlab.analyses.text.harmful_depth import drop_in_alignment
from eqrlab.analyses.text.vocabulary import (
    MODE_NAMES,
    SELECTOR_NAMES,
    UNDEFINED,
    USABLE,
    mode_meaning,
    name_of,
)
from eqrlab.attractors.landscape.modes import BY_MODE
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.named import ADVICE_WORDS
from eqrlab.attractors.results.schema import ADVICE, FATES, MODES, STATUS


def puzzle_modes(modes: xr.Dataset) -> list[str]:
    """Return the mode of every puzzle as a name."""
    return [name_of(MODES, code, "mode") for code in modes["mode"].values]


def landscape_mode(modes: xr.Dataset) -> str:
    """Return the checkpoint's mode as a name."""
    return name_of(MODES, int(modes["landscape_mode"]), "mode")


def landscape_sentence(
    modes: xr.Dataset, alignment: xr.Dataset | None = None, signals: xr.Dataset | None = None
) -> str:
    """Return the verdict on a checkpoint: its mode and meaning, whether the residual helps, and what to run next.

    Parameters
    ----------
    modes, alignment, signals
        From the functions of `attractors` of these names, of the same ensemble.
    """
    parts = [mode_sentence(modes), advice_sentence(modes, alignment, signals)]
    if alignment is not None:
        parts.insert(1, residual_sentence(alignment))
    return " ".join(parts)


def drift_sentence(ensemble: xr.Dataset) -> str:
    """Return how many runs have reached an answer while their state still drifts, and how fast; "" if none has."""
    rate = ensemble["drift_rate"].values if "drift_rate" in ensemble else np.zeros(0)
    drifting = rate[np.isfinite(rate)]
    if not len(drifting):
        return ""
    return (
        f"Answer settled, state drifting: {plural(len(drifting), 'run')} of {int(drawn_of(ensemble).sum()):,}, by "
        f"{np.median(drifting):.2g} of the norm per step; their answer has settled, so they count as recurrent."
    )


def lost_sentence(ensemble: xr.Dataset) -> str:
    """Return how many runs left the finite numbers, or grew without bound; "" if none did."""
    grown, broken = (
        (ensemble["fate"].values == FATES.index(name)).sum() for name in ("diverged", "nonfinite")
    )
    if not grown + broken:
        return ""
    return (
        f"{plural(int(grown + broken), 'run')} of {int(drawn_of(ensemble).sum()):,} ended at no state: {broken:,} with "
        f"values that are not finite, {grown:,} growing without bound. Look for the cause (weights, noise, dtype) "
        "before what is below."
    )


def mode_sentence(modes: xr.Dataset) -> str:
    """Return the landscape mode, its meaning and its share, or why there is none, as sentences."""
    letter, names = landscape_mode(modes), puzzle_modes(modes)
    puzzles = len(names)
    if letter != "undecided":
        share, clear = share_of(modes, letter), names.count(letter)
        if puzzles == 1:
            return f"Mode ({letter}): {mode_meaning(letter)}. One puzzle, probability {share}."
        return (
            f"Mode ({letter}): {mode_meaning(letter)}. Its share over puzzles is {share}; "
            f"{clear or 'none'} of {plural(puzzles, 'puzzle')} {'is' if clear < 2 else 'are'} clearly in it."
        )
    undecided = names.count("undecided")
    if is_split(modes):
        listed = [f"({m}) on {names.count(m)}" for m in MODES[:-1] if m in names]
        listed += [f"undecided on {undecided}"] if undecided else []
        return f"Undecided: no one mode prevails over {plural(puzzles, 'puzzle')}: {', '.join(listed)}."
    shares = dict(zip(MODES, map(float, modes["landscape_share"].values), strict=True))
    best = max(MODES[:-1], key=shares.__getitem__)
    text = "Undecided: too little evidence"
    text += f" on {undecided} of {plural(puzzles, 'puzzle')}" if puzzles > 1 else ""
    if shares["undecided"] >= 0.01:
        text += f"; unfinished runs leave {share_of(modes, 'undecided')} of the probability open"
    if shares[best] >= 0.01:
        text += f"; most likely of the modes is ({best}), {MODE_NAMES[best]}, with {share_of(modes, best)}"
    return text + "."


def is_split(modes: xr.Dataset) -> bool:
    """Return whether the checkpoint is undecided because most puzzles are decided, but differently."""
    names = puzzle_modes(modes)
    return landscape_mode(modes) == "undecided" and 2 * names.count("undecided") < len(names)


def share_of(modes: xr.Dataset, letter: str) -> str:
    """Return the share of a mode with its interval, as text; without interval for a single puzzle."""
    i, puzzles = MODES.index(letter), modes.sizes["puzzle"]
    value, *bounds = Interval.of(modes, "landscape_share", i)
    if puzzles < 2:
        return percent(value)
    return percent_interval(value, *bounds)


def auc_depth(alignment: xr.Dataset) -> int | None:
    """Return the index of the last depth at which the AUC is defined, None where there is none."""
    defined = np.flatnonzero(np.isfinite(alignment["auc"].values))
    return int(defined[-1]) if len(defined) else None


def auc_text(alignment: xr.Dataset, index: int) -> str:
    """Return the AUC at a depth index with its interval, as text."""
    return number_interval(*_auc(alignment, index))


def _auc(alignment: xr.Dataset, index: int) -> tuple[float, float, float]:
    value, low, high = Interval.of(alignment, "auc", index)
    return value, max(low, 0.0), min(high, 1.0)  # in this order NaN stays NaN


def auc_meaning(value: float, low: float, high: float) -> str:
    """Return what an AUC with its interval says about the residual, as a clause."""
    clear = abs(value - 0.5) >= 0.4
    did = "told right from wrong" if value > 0.5 else "misled"
    if not np.isfinite(low):
        did = did if clear else "hardly told right from wrong"
        return f"the residual {did} here, on too few puzzles for an interval"
    if low <= 0.5 <= high:
        if clear:
            return f"the residual {did} on these puzzles; with so few that may be chance (the interval contains 0.5)"
        return "the residual does not tell right from wrong (the interval contains 0.5)"
    if value < 0.5:
        return "the residual misleads: wrong runs have the lower one"
    if value >= 0.9:
        return "the residual tells right from wrong"
    return f"the residual {'tells right from wrong in part' if value >= 0.7 else 'hardly tells right from wrong'}"


def residual_sentence(alignment: xr.Dataset) -> str:
    """Return whether the residual separates right from wrong, at the last depth at which this is defined."""
    depths, last = alignment["depth"].values, alignment.sizes["depth"] - 1
    index = auc_depth(alignment)
    if index == last:
        return f"At depth {depths[last]} {_auc_clause(alignment, last)}."
    reason = UNDEFINED.get(
        name_of(STATUS, int(alignment["status"].values[last]), "status"), "it has no value"
    )
    opening = f"At depth {depths[last]} {reason}, so the residual has nothing to separate"
    if index is None:
        return f"{opening}, nor has it at any smaller depth."
    return f"{opening}; at depth {depths[index]}, the last with both, {_auc_clause(alignment, index)}."


def _auc_clause(alignment: xr.Dataset, index: int) -> str:
    value, low, high = _auc(alignment, index)
    return f"{auc_meaning(value, low, high)}, AUC {number_interval(value, low, high)}"


def advice_sentence(
    modes: xr.Dataset, alignment: xr.Dataset | None = None, signals: xr.Dataset | None = None
) -> str:
    """Return what to run next, or what would decide, and where depth does harm, as sentences."""
    drop = None if alignment is None else drop_in_alignment(alignment)
    best = None if alignment is None else advised_selector(alignment, signals)
    return _advice(modes, alignment, best) + (f" {drop.text}" if drop else "")


def advised_selector(alignment: xr.Dataset, signals: xr.Dataset | None) -> str:
    """Return the selector to choose by: the one that was tried on other puzzles, else the best on these."""
    best = best_selector(alignment, signals)
    return best if best == "mean" else trusted_signal(signals) or best


def _advice(modes: xr.Dataset, alignment: xr.Dataset | None, best: str | None) -> str:
    letter = landscape_mode(modes)
    if letter == "undecided":
        deeper, wider, stuck = _open_advice(modes)
        if is_split(modes):
            return "Read the verdicts puzzle by puzzle; more puzzles would show which mode prevails."
        if stuck > max(deeper, wider):
            return (
                f"More depth will not decide {plural(stuck, 'puzzle')}: unfinished runs slow down like 1 / depth, "
                "and so never come to rest."
            )
        if deeper >= wider:
            also = f"; {plural(wider, 'other puzzle')} need more restarts" if wider else ""
            also = also.replace("puzzle need", "puzzle needs")
            where = f"runs are unfinished on {plural(deeper, 'puzzle')}"
            return f"To decide, run deeper than {_size(modes, 'depth', 'step')}: {where}{also}."
        also = (
            f"; runs are unfinished on {plural(deeper, 'other puzzle')}: run deeper there" if deeper else ""
        )
        return f"To decide, run more than {_size(modes, 'restarts', 'restart')}{also}."
    text = {
        "a": "Retrain: neither depth nor restarts reach a correct attractor",
        "b": "Run more restarts; more depth helps only inside the right basin",
        "c": "Run more restarts to reach the basin, and deeper to settle in it",
        "d": "Depth is enough: one restart, run until it settles",
    }[letter]
    if 2 * puzzle_modes(modes).count(letter) < modes.sizes["puzzle"]:
        text += "; more restarts would make the verdicts on single puzzles sure"
    if letter == "d" and alignment is not None and best not in (None, "mean"):
        one, chosen = (percent(_at_last(alignment, n)) for n in ("mean", str(best)))
        how = SELECTOR_NAMES[str(best)]
        text += f"; on the other puzzles restarts help: over all, {one} with one, {chosen} choosing by {how}"
    if letter == "a" and alignment is not None and best is not None:
        passing = _at_last(alignment, "mean")
        text += (
            f"; {percent(passing)} of the runs are right in passing, without an attractor"
            if passing > 0
            else ""
        )
    if letter in "bc" and best is not None:
        choice = f"choose by {SELECTOR_NAMES[best]}"
        text += f"; {choice if best != 'mean' else 'but no selector tried here beats a single restart'}"
    return text + "."


def _open_advice(modes: xr.Dataset) -> tuple[int, int, int]:
    """Return on how many puzzles more depth would decide, on how many more restarts, and on how many no depth will."""
    names = ("buy_depth", "buy_restarts", "depth_will_not_tell")
    deeper, wider, stuck = (int((modes["advice"].values == ADVICE.index(name)).sum()) for name in names)
    return deeper, wider, stuck


def _size(modes: xr.Dataset, name: str, noun: str) -> str:
    return plural(int(modes.attrs[name]), noun) if name in modes.attrs else f"the {noun}s given"


def best_selector(alignment: xr.Dataset, signals: xr.Dataset | None = None) -> str:
    """Return the usable selector of the highest accuracy at the last depth.

    Of equals it is one restart, then that of the trusted signal, then the cheapest.
    """
    accuracy = {str(n): float(v) for n, v in zip(alignment["selector"].values, _last(alignment), strict=True)}
    usable = (n for n in USABLE if n in accuracy)
    return max(usable, key=lambda n: (accuracy[n], n == "mean", n == trusted_signal(signals)))


def trusted_signal(signals: xr.Dataset | None) -> str | None:
    """Return the signal that was chosen on one half of the puzzles and tried on the other, if there is one."""
    name = "none" if signals is None else str(signals.attrs["trusted"])
    return None if name == "none" else name


def _last(alignment: xr.Dataset) -> np.ndarray:
    return alignment["accuracy"].transpose("selector", "depth").values[:, -1]


def _at_last(alignment: xr.Dataset, selector: str) -> float:
    return float(_last(alignment)[[str(n) for n in alignment["selector"].values].index(selector)])


def selector_warning(alignment: xr.Dataset) -> str | None:
    """Return a warning when choosing by residual does worse than a majority vote at the last depth, else None."""
    accuracy = dict(zip(map(str, alignment["selector"].values), _last(alignment), strict=True))
    if not {"top1_converged", "majority"} <= set(accuracy):
        return None
    top, vote = accuracy["top1_converged"], accuracy["majority"]
    if top >= vote:
        return None
    return (
        f"Choosing by least residual ({percent(top)}) does worse here than a majority vote ({percent(vote)}): "
        "low residual does not mean right."
    )


def accuracy_text(alignment: xr.Dataset, selector: str, index: int = -1) -> str:
    """Return the accuracy of a selector at a depth index, with its interval, as text."""
    row = [str(n) for n in alignment["selector"].values].index(selector)
    at = alignment.transpose("selector", "depth", ...)
    return percent_interval(*Interval.of(at, "accuracy", row, index))


def verdict_rows(groups: Mapping[str, xr.Dataset]) -> list[dict[str, str]]:
    """Return the rows of the table of puzzles, heading to text.

    Parameters
    ----------
    groups
        Of one checkpoint: `basins`, and `modes` where correctness is known.
    """
    basins, modes = groups["basins"], groups.get("modes")
    rows = []
    for p, puzzle in enumerate(basins["puzzle"].values):
        row = {"puzzle": str(puzzle)}
        if modes is not None:
            code = int(modes["mode"].values[p])
            row["mode"] = name_of(MODES, code, "mode")
            row["probability"] = probability_text(modes, p)
            row["correct mass"] = mass_text(basins, "correct_mass", p)
            row["spurious mass"] = mass_text(basins, "spurious_mass", p)
            if has_changing(basins):
                row["changing mass"] = mass_text(basins, "changing_mass", p)
        row["no attractor"] = mass_text(basins, "mass_none", p)
        row["attractors"] = str(int(basins["attractors"].values[p]))
        if modes is not None:
            row["advice"] = ADVICE_WORDS[name_of(ADVICE, int(modes["advice"].values[p]), "advice")]
        rows.append(row)
    return rows


def has_changing(basins: xr.Dataset) -> bool:
    """Return whether runs ended at attractors whose answer changes, which are neither right nor wrong."""
    return "changing_mass" in basins and bool((basins["changing_mass"].values > 0).any())


def probability_text(modes: xr.Dataset, puzzle: int) -> str:
    """Return the probability of a puzzle's mode; where undecided, that of the likeliest."""
    code, chances = int(modes["mode"].values[puzzle]), modes["mode_probability"].values[puzzle]
    if MODES[code] != "undecided":
        return percent(float(chances[code]))
    likeliest = MODES[int(chances.argmax())]
    return f"{likeliest} {percent(float(chances.max()))}"


def mass_text(basins: xr.Dataset, name: str, puzzle: int) -> str:
    """Return a mass of one puzzle (`correct_mass`, `spurious_mass`, ...) with its interval, as text."""
    return percent_interval(*Interval.of(basins, name, puzzle))


def summary_rows(results: Mapping[str, Mapping[str, xr.Dataset]]) -> list[dict[str, str]]:
    """Return the rows of the table of checkpoints, heading to text.

    Parameters
    ----------
    results
        Checkpoint name to its groups.
    """
    rows = []
    for name, groups in results.items():
        basins, modes, alignment = (groups.get(g) for g in ("basins", "modes", "alignment"))
        row = {"checkpoint": name, "mode": "unknown", "share": "", "one restart": "", "best selector": ""}
        row |= {"residual AUC": "", "advice": "needs labels or an oracle"}
        if modes is not None:
            letter = landscape_mode(modes)
            leading = MODES[int(modes["landscape_share"].values.argmax())]
            row["mode"], row["share"] = letter, share_of(modes, leading)
            if leading != letter:  # undecided: which mode leads
                row["share"] = f"{leading} {row['share']}"
            row["advice"] = landscape_advice(modes)
        if alignment is not None:
            best, index = best_selector(alignment, groups.get("signals")), auc_depth(alignment)
            row["one restart"] = accuracy_text(alignment, "mean")
            row["best selector"] = f"{SELECTOR_NAMES[best]} {accuracy_text(alignment, best)}"
            row["residual AUC"] = "undefined"
            if index is not None:
                at_depth = (
                    ""
                    if index == alignment.sizes["depth"] - 1
                    else f" (depth {alignment['depth'].values[index]})"
                )
                row["residual AUC"] = auc_text(alignment, index) + at_depth
        row["puzzles"] = str(basins.sizes["puzzle"]) if basins is not None else ""
        rows.append(row)
    return rows


def landscape_advice(modes: xr.Dataset) -> str:
    """Return the advice for the checkpoint in a few words."""
    letter = landscape_mode(modes)
    if letter != "undecided":
        return ADVICE_WORDS[ADVICE[BY_MODE[MODES.index(letter)]]]
    if is_split(modes):
        return "mixed: puzzle by puzzle"
    deeper, wider, stuck = _open_advice(modes)
    if stuck > max(deeper, wider):
        return ADVICE_WORDS["depth_will_not_tell"]
    return ADVICE_WORDS["buy_depth" if deeper >= wider else "buy_restarts"]
