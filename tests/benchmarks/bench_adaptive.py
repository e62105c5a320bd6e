"""Outer steps at matched accuracy: adaptive EqR against one run of the plain TRM, from its own start, of fixed depth.

`pytest -m benchmark tests/benchmarks/bench_adaptive.py -s`, some minutes on one core: 500 runs of 128 steps (the
baseline), and the runs of the policies.  With `ADAPTIVE_CACHE` set to a folder, ensembles are kept there between runs.

Policies are judged on test puzzles.  They were chosen on training puzzles: the last test does that again (300 x 8 runs
of 32 steps).  Every evaluation of the map counts.  Models: the bundled `eqr-sudoku6` (noise off) and `trm-sudoku6`.
"""

import os
from itertools import product
from pathlib import Path

import pytest
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.studies.adaptive import at_text
from eqrlab.core import load
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


LEVEL = 4.0  # least whole halting logit above which every answer accepted in training is right


def race(restarts, patience):
    """One restart after another, each given up after `patience` steps, until a halting logit exceeds the level."""
    return at.Policy(
        stop="halt",
        halt_above=LEVEL,
        restarts=restarts,
        depth=patience,
        schedule=((0, 1),),
        agree=1,
        select="halting",
    )


RACES = {0.99: race(8, 6), 0.96: race(3, 6), 0.95: race(2, 8)}
POLICIES = {
    **{f"racing, chosen for {goal:.0%}": policy for goal, policy in RACES.items()},
    "halting, one restart": at.Policy(stop="halt", halt_above=LEVEL, depth=24),
    "settling, one restart": at.Policy(stop="settled", settled_below=1.0, window=2, depth=24),
    "fixed depth, one restart": at.Policy(stop="never", depth=16),
    "fixed depth, 2 restarts, least residual": at.Policy(
        stop="never", restarts=2, depth=8, select="residual"
    ),
    "fixed depth, 4 restarts, least residual": at.Policy(
        stop="never", restarts=4, depth=8, select="residual"
    ),
}


def kept(name, make):
    """Return a dataset from the cache, or make it and keep it there."""
    folder = os.environ.get("ADAPTIVE_CACHE")
    path = Path(folder or ".") / f"{name}.nc"
    if folder and path.exists():
        return xr.load_dataset(path)
    found = make()
    if folder:
        found.to_netcdf(path)
    return found


@pytest.fixture(scope="module")
def baseline():
    """One run of every test puzzle by the plain TRM."""
    puzzles, model = bundled("sudoku6", "test"), load("trm-sudoku6")
    return kept("trm-test", lambda: at.sample(model, puzzles.inputs, labels=puzzles.labels, oracle=puzzles.oracle,
                                              restarts=1, depth=128))  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_steps_at_matched_accuracy(name, baseline, monkeypatch):
    policy, model, puzzles, rows = POLICIES[name], load("eqr-sudoku6"), bundled("sudoku6", "test"), []
    step = type(model).step
    monkeypatch.setattr(
        type(model), "step", lambda self, z, *rest: rows.append(len(z)) or step(self, z, *rest)
    )
    result = at.adaptive(model, puzzles.inputs, policy, labels=puzzles.labels, oracle=puzzles.oracle, noise=0)
    assert sum(rows) == int(result.nfe.sum())
    found = at.matched_cost(baseline, result)
    value = lambda dataset, name: [float(dataset[f"{name}{end}"]) for end in ("", "_low", "_high")]
    ahead = "{:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * v for v in value(found, "difference")))
    record(
        "adaptive",
        name,
        **{
            "accuracy, %": "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value(result, "accuracy"))),
            "steps a puzzle": "{:.2f} [{:.2f}, {:.2f}]".format(*value(result, "mean_nfe")),
            "steps in sequence": f"{float(result.mean_latency):.2f}",
            "TRM depth as accurate": f"{float(found.baseline_nfe):.0f}",
            "times fewer": "{:.1f} [{:.1f}, {:.1f}]".format(*value(found, "ratio")),
            "above TRM at any depth": ahead if bool(found.exceeds) else "no",
            "policy": at_text(policy),
        },
    )


def test_policies_are_those_chosen_in_training():
    """The level, then the cheapest races that reach the goals, over four orders of the restarts."""
    puzzles, model = bundled("sudoku6", "train").take(slice(300)), load("eqr-sudoku6")
    runs = kept("eqr-train", lambda: at.sample(model, puzzles.inputs, labels=puzzles.labels, oracle=puzzles.oracle,
                                               restarts=8, depth=32, noise=0))  # fmt: skip
    halt, correct = runs.halt_logit.values, runs.correct.values
    sure = {level: correct[halt > level].all() for level in range(6)}
    assert min(level for level, holds in sure.items() if holds) == LEVEL
    tried = [race(b, d) for b, d in product((2, 3, 4, 6, 8), (5, 6, 8))]
    for goal, policy in RACES.items():
        assert at.best_policy(runs, tried, goal, orders=4)[0] == policy, goal
