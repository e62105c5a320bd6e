"""The variables of a plane: its maps, the fractions of its area, and its borders, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.perturbation.follow import Ends
from eqrlab.attractors.perturbation.fractal import basin_entropy, uncertainty_exponent
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.intervals import proportion_interval

LABELS = ("attractor", "answer")
Field = dict[str, np.ndarray]  # maps (n, n) of one puzzle, and its answers (a, L)


def field_of(ends: Ends, number: np.ndarray, right: np.ndarray, n: int) -> Field:
    """Return the maps of one puzzle, (n, n) each, and the answers seen, the most frequent first."""
    codes, first, inverse, count = np.unique(
        ends.code, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((codes, -count))
    rank = np.empty(len(codes), np.int32)
    rank[order] = np.arange(len(codes))
    away = np.isin(ends.fate, [CODE["diverged"], CODE["nonfinite"]])
    maps = {
        "attractor_id": number.astype(np.int32), "fate": ends.fate, "settling_step": ends.settling_step,
        "answer_settled": ends.answer_settled, "answer_id": rank[inverse.reshape(-1)], "correct": right & ~away,
        "steps": ends.steps, "away": away,
    }  # fmt: skip
    return {**{k: m.reshape(n, n) for k, m in maps.items()}, "answers": ends.answer[first[order]]}


MAPS = {
    "attractor_id": "attractor the cell leads to, -1 none",
    "fate": "what became of the cell",
    "settling_step": "step since which the state counts as settled, -1 never",
    "answer_settled": "first step since which the answer is unchanged",
    "answer_id": "number of the answer among those on the plane",
    "correct": "the answer at the end is right",
    "steps": "steps taken before the fate was decided",
}


def maps(fields: list[Field], judged: bool) -> dict[str, schema.Variable]:
    names = [name for name in MAPS if judged or name != "correct"]
    variables: dict[str, schema.Variable] = {
        name: (("puzzle", "v", "u"), np.stack([f[name] for f in fields]), MAPS[name]) for name in names
    }
    most = max(len(f["answers"]) for f in fields)
    answers = np.full((len(fields), most, fields[0]["answers"].shape[1]), -1, np.int32)
    for p, f in enumerate(fields):
        answers[p, : len(f["answers"])] = f["answers"]
    variables["answer"] = (
        ("puzzle", "answer_number", "token"),
        answers,
        "answers on the plane, -1 beyond the last",
    )
    return variables


def fractions(
    fields: list[Field], judged: bool, jitter: bool, confidence: float
) -> dict[str, schema.Variable]:
    most = max(1, max(int(f["attractor_id"].max()) + 1 for f in fields))
    total = fields[0]["attractor_id"].size
    count = np.stack([np.bincount(f["attractor_id"][f["attractor_id"] >= 0], minlength=most) for f in fields])
    each: tuple[str, ...] = ("puzzle",)
    wanted = {
        "fraction": ((*each, "attractor"), count, "share of the plane that leads to the attractor"),
        "fraction_none": (each, total - count.sum(1), "share of the plane that leads to no attractor"),
        "fraction_away": (
            each,
            np.array([f["away"].sum() for f in fields]),
            "share that diverges or is not finite",
        ),
    }
    if judged:
        right = np.stack([np.bincount(f["attractor_id"][f["correct"] & (f["attractor_id"] >= 0)], minlength=most)
                          for f in fields])  # fmt: skip
        wanted["fraction_correct"] = (
            each,
            np.array([f["correct"].sum() for f in fields]),
            "share that ends right",
        )
    variables: dict[str, schema.Variable] = {}
    for name, (dims, number, text) in wanted.items():
        bounds = np.stack(proportion_interval(number, total, confidence, "clopper-pearson"))
        if not jitter:  # cells at regular places are no random sample of the plane
            bounds[:] = np.nan
        variables |= Interval(number / total, *bounds).variables(name, dims, text)
    if judged:
        variables["attractor_correct"] = (
            (*each, "attractor"), (2 * right > count), "most of its cells end with a right answer"
        )  # fmt: skip
    return variables


def borders(
    fields: list[Field], box: int, jitter: bool, confidence: float, seed: int, step: float
) -> dict[str, schema.Variable]:
    """Return entropies and exponents of the borders between attractors, and between answers."""
    found: dict[str, list] = {name: [] for name in TEXTS}
    for f in fields:
        for name in ("attractor_id", "answer_id"):
            label = np.where(f["away"], -2, f[name])
            everywhere, border = basin_entropy(label, box, confidence, seed)
            fit = uncertainty_exponent(label, confidence, seed)
            measured = [everywhere, border, fit.exponent]
            if not jitter:
                measured = [e._replace(low=np.nan, high=np.nan) for e in measured]
            differs = (label[1:] != label[:-1])[:, :-1] | (label[:, 1:] != label[:, :-1])[:-1]
            numbers = (*measured, 2 - fit.exponent.value, differs.mean(), fit.uncertain)
            for values, number in zip(found.values(), numbers, strict=True):
                values.append(number)
    each = ("puzzle", "label")
    variables: dict[str, schema.Variable] = {}
    for name, values in found.items():
        if isinstance(values[0], Interval):
            variables |= Interval(*map(_pairs, zip(*values, strict=True))).variables(name, each, TEXTS[name])
        else:
            variables[name] = (each if name != "uncertain" else (*each, "lag"), _pairs(values), TEXTS[name])
    text = "distance at which labels are compared, in units of `unit`"
    variables["epsilon"] = (("lag",), fit.lag * step, text)
    return variables


def _pairs(values: Sequence) -> np.ndarray:
    array = np.array(values, float)
    return array.reshape(len(array) // len(LABELS), len(LABELS), *array.shape[1:])


TEXTS = {
    "basin_entropy": "mean entropy of the labels in a box, in nats",
    "boundary_entropy": "mean entropy of the boxes through which a border runs, in nats",
    "uncertainty_exponent": "alpha in f(epsilon) ~ epsilon^alpha",
    "boundary_dimension": "2 - alpha: dimension of the borders on the plane",
    "boundary_share": "share of cells whose upper or right neighbour has another label",
    "uncertain": "share f(epsilon) of cells with another label at distance epsilon",
}
