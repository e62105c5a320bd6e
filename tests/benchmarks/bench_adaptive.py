"""Outer steps at matched accuracy: adaptive EqR against one run of the plain TRM, from its own start, of fixed depth.

`pytest -m benchmark tests/benchmarks/bench_adaptive.py -s`, some minutes on one core: 500 runs of 128 steps (the
baseline), 300 x 8 runs of 32 steps (to choose policies), and the adaptive runs themselves.  With `ADAPTIVE_CACHE` set
to a folder the two ensembles are kept there between runs.

Policies are chosen on training puzzles for an accuracy, and judged on test puzzles; every evaluation of the map counts.
Models: the bundled `eqr-sudoku6` (noise off) and `trm-sudoku6`.
"""

import os
from pathlib import Path

import pytest
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.adaptive_trial import at_text, candidates
from eqrlab.core import load
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

CASES = [  # family of policies, accuracy on training puzzles it is chosen for
    ("+ racing", 0.96),
    ("+ racing", 0.99),
    ("+ racing", 0.94),
    ("+ halting", 0.94),
    ("+ settling", 0.94),
    ("one restart, fixed depth", 0.94),
    ("fixed depth and breadth", 0.96),
]


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
def trained():
    """Runs of training puzzles, on which policies are chosen."""
    puzzles, model = bundled("sudoku6", "train").take(slice(300)), load("eqr-sudoku6")
    return kept("eqr-train", lambda: at.sample(model, puzzles.inputs, labels=puzzles.labels, oracle=puzzles.oracle,
                                               restarts=8, depth=32, noise=0))  # fmt: skip


@pytest.fixture(scope="module")
def baseline():
    """One run of every test puzzle by the plain TRM."""
    puzzles, model = bundled("sudoku6", "test"), load("trm-sudoku6")
    return kept("trm-test", lambda: at.sample(model, puzzles.inputs, labels=puzzles.labels, oracle=puzzles.oracle,
                                              restarts=1, depth=128))  # fmt: skip


@pytest.mark.parametrize(("family", "goal"), CASES)
def test_steps_at_matched_accuracy(family, goal, trained, baseline, monkeypatch):
    policy, _ = at.best_policy(trained, candidates(family, 8, 32), goal, orders=2)
    model, puzzles, rows = load("eqr-sudoku6"), bundled("sudoku6", "test"), []
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
        f"{family}, chosen for {goal:.0%}",
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
