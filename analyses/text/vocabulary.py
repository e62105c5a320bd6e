"""What modes, fates and selectors are called, and what they mean in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MODE_NAMES = {
    "a": "no correct attractor",
    "b": "right and wrong attractors",
    "c": "correct attractor hard to reach",
    "d": "broad correct basin",
    "undecided": "too little evidence",
}
MODE_MEANINGS = {
    "a": "no correct attractor of the puzzle as given was found: no restart comes to rest at a right answer",
    "b": "right and wrong attractors coexist: where a run ends depends on where it starts",
    "c": "a correct attractor exists but is hard to reach: most failed runs never settle",
    "d": "the correct basin is broad and stable: nearly every restart ends there",
    "undecided": "the evidence does not single out a mode",
}
FATE_MEANINGS = {
    "settled": "the state stopped moving and the answer is constant",
    "periodic": "the state returns after a number of steps, seen three times: a cycle",
    "recurrent": "the answer is constant; the state stays in a small region without a period, or drifts for ever",
    "wandering": "bounded, no period up to a third of the depth, and the region or the answer keeps changing",
    "unfinished": "the state was still on its way at the last step: its residual fell, or it moved on slowly",
    "diverged": "the state's norm grew without end",
    "nonfinite": "the state became NaN or infinite",
}
SELECTOR_NAMES = {
    "top1_converged": "top-1 converged",
    "top1_logit_delta": "least logit change",
    "majority": "majority",
    "halting": "halting head",
    "first_to_halt": "first to halt",
    "answer_entropy": "answer entropy",
    "settle_time": "settle time",
    "mean": "one restart",
    "any_correct": "any correct",
}
SELECTOR_MEANINGS = {
    "top1_converged": "the restart with the least residual over the last 3 steps",
    "top1_logit_delta": "the restart whose logits change least over the last 3 steps: the official score",
    "majority": "the most frequent whole answer",
    "halting": "the restart the halting head is surest of",
    "first_to_halt": "the answer of the restart that halts first, at that step",
    "answer_entropy": "the restart surest of its answer: least mean entropy of its cells' distributions",
    "settle_time": "the restart whose answer has been unchanged for longest",
    "mean": "a single restart, on average: no selection",
    "any_correct": "some restart is right: the ceiling of all selection, not itself usable",
}
# Among equally accurate selectors the first is the one to use: a single restart costs least.
USABLE = ("mean", "halting", "answer_entropy", "majority", "top1_converged", "settle_time")
UNDEFINED = {
    "all_right": "every run is right",
    "all_wrong": "every run is wrong",
    "no_residual_spread": "all residuals are the same",
}


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


def name_of(names: Sequence[str], code: int, what: str) -> str:
    if not 0 <= int(code) < len(names):
        raise ValueError(f"{what} {code} unknown; codes run from 0 to {len(names) - 1}")
    return names[int(code)]
