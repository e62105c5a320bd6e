"""Verdicts in words: from datasets to sentences and table rows, for the report and the command line alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from eqrlab.attractors.schema import ADVICE, MODES, STATUS

MODE_NAMES = {
    "a": "no correct attractor",
    "b": "right and wrong attractors coexist",
    "c": "the correct attractor is hard to reach",
    "d": "a broad correct basin",
    "undecided": "too little evidence",
}
MODE_MEANINGS = {
    "a": "no correct attractor was found: no restart ends at a right answer, however often or long it is run",
    "b": "right and wrong attractors coexist: where a run ends depends on where it starts",
    "c": "a correct attractor exists but is hard to reach: most failed runs settle nowhere",
    "d": "the correct basin is broad and stable: nearly every restart ends there",
    "undecided": "the evidence does not single out a mode",
}
ADVICE_TEXTS = {
    "deeper_is_enough": "depth is enough: one restart, run until it settles",
    "more_restarts": "buy restarts and choose among their answers; depth helps only inside the right basin",
    "more_restarts_and_depth": "buy restarts to reach the basin, and depth to settle in it",
    "retrain": "retrain: neither depth nor restarts reach a right answer",
    "buy_restarts": "undecided: buy restarts, more of them would tell",
    "buy_depth": "undecided: buy depth, too many runs are unfinished",
}
ADVICE_SHORT = {
    "deeper_is_enough": "depth is enough",
    "more_restarts": "restarts",
    "more_restarts_and_depth": "restarts and depth",
    "retrain": "retrain",
    "buy_restarts": "open: more restarts",
    "buy_depth": "open: more depth",
}
FATE_MEANINGS = {
    "settled": "the state stopped moving and the answer is constant",
    "periodic": "the state returns after a few steps: a cycle",
    "recurrent": "the state stays in a small region with a constant answer, without a period",
    "wandering": "bounded, but the region or the answer keeps changing",
    "unfinished": "the residual was still falling at the last step",
    "diverged": "the state's norm grew without end",
    "nonfinite": "the state became NaN or infinite",
}
SELECTOR_NAMES = {
    "top1_converged": "top-1 converged",
    "majority": "majority",
    "halting": "halting head",
    "mean": "one restart",
    "any_correct": "any correct",
}
SELECTOR_MEANINGS = {
    "top1_converged": "the restart with the least residual over the last 3 steps",
    "majority": "the most frequent whole answer",
    "halting": "the restart the halting head is surest of",
    "mean": "a single restart, on average: no selection",
    "any_correct": "some restart is right: the ceiling of all selection, not itself usable",
}
# Among equally accurate selectors the first is the best buy: a single restart costs least.
USABLE = ("mean", "halting", "majority", "top1_converged")


def mode_meaning(letter: str) -> str:
    """Return what a landscape mode means, as a clause.

    Parameters
    ----------
    letter
        "a", "b", "c", "d" or "undecided".

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> mode_meaning("d")
    'the correct basin is broad and stable: nearly every restart ends there'
    """
    return _look_up(MODE_MEANINGS, letter, "mode")


def advice_text(code: str | int) -> str:
    """Return what compute can buy, as a clause, for an advice code (its name or its number in the archive).

    Raises
    ------
    ValueError
        For an unknown code.
    """
    return _look_up(ADVICE_TEXTS, code if isinstance(code, str) else _name(ADVICE, code, "advice"), "advice")


def fate_meaning(name: str) -> str:
    """Return what a fate means, as a clause.

    Raises
    ------
    ValueError
        For an unknown fate.
    """
    return _look_up(FATE_MEANINGS, name, "fate")


def _look_up(table: Mapping[str, str], key: str, what: str) -> str:
    if key not in table:
        raise ValueError(f"{what} {key!r} unknown; choose from {', '.join(table)}")
    return table[key]


def _name(names: Sequence[str], code: int, what: str) -> str:
    if not 0 <= int(code) < len(names):
        raise ValueError(f"{what} {code} unknown; codes run from 0 to {len(names) - 1}")
    return names[int(code)]


def percent(share: float) -> str:
    """Return a share as text: whole percents, one decimal within 1 % of either end.

    Examples
    --------
    >>> percent(0.5833), percent(0.004), percent(1.0), percent(float("nan"))
    ('58 %', '0.4 %', '100 %', 'undefined')
    """
    return "undefined" if not np.isfinite(share) else f"{_percent(share)} %"


def percent_interval(share: float, low: float, high: float) -> str:
    """Return a share with its interval, as in "58 % [31, 84]"; without interval where the bounds are NaN."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return percent(share)
    return f"{percent(share)} [{_percent(low)}, {_percent(high)}]"


def over_puzzles(
    value: float, low: float, high: float, puzzles: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return a share over puzzles with its interval, widened where the bootstrap's has no width.

    Where all puzzles agree on 0 or 1, resampling them cannot tell how far the share of all puzzles may be from that;
    the bound is then alpha^(1/puzzles), valid for any distribution over puzzles.
    """
    if low == high and value in (0.0, 1.0):
        edge = (1 - confidence) ** (1 / puzzles)
        return (value, 0.0, 1 - edge) if value == 0 else (value, edge, 1.0)
    return value, low, high


def _percent(share: float) -> str:
    value = 100 * float(share)
    near_end = 0.05 <= value < 1 or 99 < value < 99.95
    return f"{value:.1f}" if near_end else f"{value:.0f}"


def number(value: float) -> str:
    """Return a number in [0, 1] with two decimals, three above 0.98."""
    return "undefined" if not np.isfinite(value) else f"{value:.3f}" if 0.98 < value < 1 else f"{value:.2f}"


def number_interval(value: float, low: float, high: float) -> str:
    """Return a number with its interval, as in "0.97 [0.95, 0.99]"; without interval where the bounds are NaN."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def plural(count: int, noun: str) -> str:
    """Return "1 puzzle", "2 puzzles", "1,000 puzzles"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def puzzle_modes(modes: xr.Dataset) -> list[str]:
    """Return the mode of every puzzle as a name."""
    return [_name(MODES, code, "mode") for code in modes["mode"].values]


def landscape_mode(modes: xr.Dataset) -> str:
    """Return the checkpoint's mode as a name."""
    return _name(MODES, int(modes["landscape_mode"]), "mode")


def landscape_sentence(modes: xr.Dataset, alignment: xr.Dataset | None = None) -> str:
    """Return the verdict on a checkpoint: its mode and what that means, whether the residual helps, what to buy.

    Parameters
    ----------
    modes, alignment
        From `attractors.modes` and `attractors.alignment`, of the same ensemble.
    """
    parts = [mode_sentence(modes), buy_sentence(modes, alignment)]
    if alignment is not None:
        parts.insert(1, residual_sentence(alignment))
    return " ".join(parts)


def mode_sentence(modes: xr.Dataset) -> str:
    """Return the landscape mode, its meaning and its share, or why there is none, as sentences."""
    letter, names = landscape_mode(modes), puzzle_modes(modes)
    puzzles = len(names)
    if letter != "undecided":
        share = share_of(modes, letter)
        agree = f"{names.count(letter)} of {plural(puzzles, 'puzzle')} on their own"
        if puzzles == 1:
            return f"Mode ({letter}): {mode_meaning(letter)}. One puzzle, probability {share}."
        return (
            f"Mode ({letter}): {mode_meaning(letter)}. Its share over puzzles is {share}; "
            f"{agree} {_are(names, letter)} clearly in it."
        )
    undecided = names.count("undecided")
    if 2 * undecided < puzzles:
        counts = {m: names.count(m) for m in MODES[:-1] if m in names}
        listed = ", ".join(f"({m}) {plural(count, 'puzzle')}" for m, count in counts.items())
        return f"Undecided: the puzzles are split over several modes: {listed}, undecided {undecided}."
    shares = dict(zip(MODES, map(float, modes["landscape_share"].values), strict=True))
    best = max(MODES[:-1], key=shares.__getitem__)
    text = f"Undecided: too little evidence on {undecided} of {plural(puzzles, 'puzzle')}"
    if shares["undecided"] >= 0.01:
        text += f"; unfinished runs leave {share_of(modes, 'undecided')} of the probability open"
    if shares[best] >= 0.01:
        text += f"; most likely of the modes is ({best}), {MODE_NAMES[best]}, with {share_of(modes, best)}"
    return text + "."


def _are(names: list[str], letter: str) -> str:
    return "is" if names.count(letter) == 1 else "are"


def share_of(modes: xr.Dataset, letter: str) -> str:
    """Return the share of a mode with its interval, as text; without interval for a single puzzle."""
    i, puzzles = MODES.index(letter), modes.sizes["puzzle"]
    value, *bounds = (float(modes[f"landscape_share{end}"].values[i]) for end in ("", "_low", "_high"))
    if puzzles < 2:
        return percent(value)
    return percent_interval(*over_puzzles(value, *bounds, puzzles, _confidence(modes)))


def _confidence(dataset: xr.Dataset) -> float:
    return float(dataset.attrs.get("confidence", 0.95))


def auc_depth(alignment: xr.Dataset) -> int | None:
    """Return the index of the last depth at which the AUC is defined, None where there is none."""
    defined = np.flatnonzero(np.isfinite(alignment["auc"].values))
    return int(defined[-1]) if len(defined) else None


def auc_text(alignment: xr.Dataset, index: int) -> str:
    """Return the AUC at a depth index with its interval, as text."""
    return number_interval(*(float(alignment[f"auc{end}"].values[index]) for end in ("", "_low", "_high")))


def auc_meaning(value: float, low: float, high: float) -> str:
    """Return what an AUC with its interval says about the residual, as a clause."""
    if np.isfinite(low) and low <= 0.5 <= high:
        return "the residual does not tell right from wrong (chance is inside the interval)"
    if value < 0.5:
        return "the residual misleads: wrong runs have the lower one"
    if value >= 0.9:
        return "the residual tells right from wrong"
    return f"the residual tells right from wrong {'in part' if value >= 0.7 else 'hardly'}"


UNDEFINED = {
    "all_right": "every run is right",
    "all_wrong": "every run is wrong",
    "no_residual_spread": "all residuals are the same",
}


def residual_sentence(alignment: xr.Dataset) -> str:
    """Return whether the residual tells right from wrong, at the last depth, or where that is last defined."""
    depths, last = alignment["depth"].values, alignment.sizes["depth"] - 1
    index = auc_depth(alignment)
    if index == last:
        return f"At depth {depths[last]} {_auc_clause(alignment, last)}."
    reason = UNDEFINED.get(_name(STATUS, int(alignment["status"].values[last]), "status"), "it has no value")
    opening = f"At depth {depths[last]} {reason}, so there is nothing for the residual to tell apart"
    if index is None:
        return f"{opening}, nor is there at any lesser depth."
    return f"{opening}; at depth {depths[index]}, the last with both, {_auc_clause(alignment, index)}."


def _auc_clause(alignment: xr.Dataset, index: int) -> str:
    value, low, high = (float(alignment[f"auc{end}"].values[index]) for end in ("", "_low", "_high"))
    return f"{auc_meaning(value, low, high)}, AUC {number_interval(value, low, high)}"


def buy_sentence(modes: xr.Dataset, alignment: xr.Dataset | None = None) -> str:
    """Return what to buy, or what would decide, as a sentence."""
    letter = landscape_mode(modes)
    if letter == "undecided":
        names = puzzle_modes(modes)
        advice = modes["advice"].values
        deeper, wider = ((advice == ADVICE.index(a)).sum() for a in ("buy_depth", "buy_restarts"))
        if 2 * names.count("undecided") < len(names):
            return "Read the verdicts puzzle by puzzle; more puzzles would tell which mode prevails."
        if deeper >= wider:
            what = f"depth beyond {_attr(modes, 'depth')} steps: runs are unfinished on {plural(int(deeper), 'puzzle')}"
            also = f", and more restarts on {plural(int(wider), 'other')}" if wider else ""
            return f"To decide, buy {what}{also}."
        also = f", and depth on {plural(int(deeper), 'other')}" if deeper else ""
        return f"To decide, buy more than {_attr(modes, 'restarts')} restarts{also}."
    text = {
        "a": "Retrain: neither depth nor restarts reach a right answer",
        "b": "Buy restarts; depth helps only inside the right basin",
        "c": "Buy restarts to reach the basin, and depth to settle in it",
        "d": "Depth is enough: one restart, run until it settles",
    }[letter]
    best = best_selector(alignment) if alignment is not None else None
    if letter in "bc" and best is not None and best != "mean":
        text += f"; choose by {SELECTOR_NAMES[best]}"
    return text + "."


def _attr(dataset: xr.Dataset, name: str) -> str:
    return str(dataset.attrs.get(name, "the given"))


def best_selector(alignment: xr.Dataset) -> str:
    """Return the usable selector of the highest accuracy at the last depth; the cheapest of equals."""
    accuracy = {str(n): float(v) for n, v in zip(alignment["selector"].values, _last(alignment), strict=True)}
    return max((n for n in USABLE if n in accuracy), key=accuracy.__getitem__)


def _last(alignment: xr.Dataset) -> np.ndarray:
    return alignment["accuracy"].transpose("selector", "depth").values[:, -1]


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
    values = (
        float(alignment[f"accuracy{end}"].transpose("selector", "depth").values[row, index])
        for end in ("", "_low", "_high")
    )
    return percent_interval(*over_puzzles(*values, alignment.sizes["puzzle"], _confidence(alignment)))


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
            row["mode"] = _name(MODES, code, "mode")
            row["probability"] = probability_text(modes, p)
            row["correct mass"] = mass_text(basins, "correct_mass", p)
            row["spurious mass"] = mass_text(basins, "spurious_mass", p)
        row["no attractor"] = mass_text(basins, "mass_none", p)
        row["attractors"] = str(int(basins["attractors"].values[p]))
        if modes is not None:
            row["advice"] = ADVICE_SHORT[_name(ADVICE, int(modes["advice"].values[p]), "advice")]
        rows.append(row)
    return rows


def probability_text(modes: xr.Dataset, puzzle: int) -> str:
    """Return the probability of a puzzle's mode; where undecided, that of the likeliest, "open" if none is."""
    code, chances = int(modes["mode"].values[puzzle]), modes["mode_probability"].values[puzzle]
    if MODES[code] != "undecided":
        return percent(float(chances[code]))
    likeliest = MODES[int(chances.argmax())]
    return f"{'open' if likeliest == 'undecided' else likeliest} {percent(float(chances.max()))}"


def mass_text(basins: xr.Dataset, name: str, puzzle: int) -> str:
    """Return a mass of one puzzle (`correct_mass`, `spurious_mass`, `mass_none`) with its interval, as text."""
    return percent_interval(*(float(basins[f"{name}{end}"].values[puzzle]) for end in ("", "_low", "_high")))


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
            row["mode"], row["share"] = letter, share_of(modes, letter)
            row["advice"] = landscape_advice(modes)
        if alignment is not None:
            best, index = best_selector(alignment), auc_depth(alignment)
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
        by_mode = dict(
            zip(
                "abcd",
                ("retrain", "more_restarts", "more_restarts_and_depth", "deeper_is_enough"),
                strict=True,
            )
        )
        return ADVICE_SHORT[by_mode[letter]]
    names = puzzle_modes(modes)
    if 2 * names.count("undecided") < len(names):
        return "mixed: puzzle by puzzle"
    advice = modes["advice"].values
    deeper, wider = ((advice == ADVICE.index(a)).sum() for a in ("buy_depth", "buy_restarts"))
    return ADVICE_SHORT["buy_depth" if deeper >= wider else "buy_restarts"]
