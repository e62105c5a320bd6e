"""Basin radius and duels as selectors: do they tell right runs from wrong ones better than signals that cost nothing?

`python tests/benchmarks/bench_borders.py eqr-attention-sudoku6 fresh6.csv.gz` takes the first puzzles of a file whose
four runs are not all right or all wrong, and prints the AUC within puzzles of each score, with intervals over puzzles.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from eqrlab import attractors as at
from eqrlab.attractors.answers.selectors import selector_score
from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap, widened
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.core import load
from eqrlab.core.models.reasoner import restart_law
from eqrlab.datasets import read_puzzles

SIGNALS = ("top1_converged", "answer_entropy", "halting", "settle_time", "majority")


def scores(
    name: str, path: str, count: int, depth: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return scores (puzzle, run), lower is better, which runs are wrong, and steps spent on each of both measures."""
    model, puzzles = load(name), read_puzzles(path)
    law = restart_law(model)
    runs = at.sample(
        model, puzzles.inputs, labels=puzzles.labels, restarts=4, depth=depth, noise=0, initial=law
    )
    right = runs.correct.values[:, :, -1].sum(1)
    chosen = np.flatnonzero((right > 0) & (right < 4))[:count]
    inputs = puzzles.inputs[chosen]
    mixed = at.sample(model, inputs, labels=puzzles.labels[chosen], restarts=4, depth=depth, noise=0, initial=law,
                      keep=("summary", "final_state"))  # fmt: skip
    found = {signal: selector_score(mixed, signal, depth) for signal in SIGNALS}
    radius = at.basin_radius(model, inputs, mixed, directions=8, depth=32, tol=0.1)
    sizes = np.minimum(radius.critical_size.values, 2 * float(radius.attrs["reach"]))
    found["basin radius"] = -np.log(sizes).mean(2)  # of all directions: finer than their median
    duel = at.duels(model, inputs, mixed, depth=32)
    last = mixed.answer_id.values[:, :, -1]
    same = last[:, :, None] == duel.answer_id.values[:, None, :]
    found["duels"] = -np.where(same, np.nan_to_num(duel.strength.values)[:, None, :], 0).sum(2)
    spent = np.array([radius.attrs["evaluations"], duel.attrs["evaluations"]]) / len(chosen)
    return found, ~mixed.correct.values[:, :, -1], spent


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("puzzles")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--depth", type=int, default=16)
    given = parser.parse_args()
    found, wrong, spent = scores(given.checkpoint, given.puzzles, given.count, given.depth)
    print(f"{given.checkpoint}: {len(wrong)} puzzles whose 4 runs of {given.depth} steps are right and wrong")
    for name, score in found.items():
        each = PooledAuc(score, wrong).within()
        mean = float(each.mean())
        low, high = cluster_bootstrap(lambda w, e=each: float(w @ e / w.sum()), len(each))
        low, high = widened(mean, low, high, len(each), 0.95)
        chosen = (score == score.min(1, keepdims=True)) & ~wrong
        right = (chosen.sum(1) / (score == score.min(1, keepdims=True)).sum(1)).mean()
        print(f"  {name:16} AUC within {mean:.2f} [{low:.2f}, {high:.2f}], chosen right {right:.0%}")
    print(f"  evaluations a puzzle beyond the runs: basin radius {spent[0]:,.0f}, duels {spent[1]:,.0f}")
