"""Whether a diagnosis in bfloat16 is the one in float32: modes, correct masses and answers, beside another seed."""

import functools

import numpy as np
import pytest

from eqrlab.analyses.diagnose import diagnose
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.core import load
from eqrlab.core.models.reasoner import restart_law
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
MODELS = ("eqr-sudoku6", "eqr-attention-sudoku6", "trm-sudoku6", "hrm-sudoku6", "urm-sudoku6")


@pytest.mark.parametrize("name", MODELS)
def test_the_verdict_in_bfloat16(name):
    model, puzzles = load(name), bundled("sudoku6").take(slice(24))
    law = restart_law(model)
    run = functools.partial(
        diagnose,
        model,
        puzzles.inputs,
        labels=puzzles.labels,
        restarts=32,
        depth=32,
        noise=0,
        initial=law,
        fixed=True,
    )
    found = {"float32": run(), "bfloat16": run(dtype="bfloat16"), "float32, another seed": run(seed=1)}
    wanted = found["float32"]
    for case, other in found.items():
        modes, theirs = (g["modes"] for g in (wanted, other))
        right = [g["ensemble"].correct.values[:, :, -1].mean(1) for g in (wanted, other)]
        difference = right[1] - right[0]
        _, low, high = share_over_puzzles(difference, least=-1.0)
        same = (wanted["ensemble"].answer.values == other["ensemble"].answer.values).all(2).mean()
        names = [m.mode_name.values[m.mode.values] for m in (modes, theirs)]
        decided = [n != "undecided" for n in names]
        both = decided[0] & decided[1]
        verdict = theirs.mode_name.values[int(theirs.landscape_mode)]
        row = {
            "puzzles x restarts x steps": "24 x 32 x 32",
            "checkpoint": f"{verdict} ({float(theirs.landscape_probability):.2f})",
            "puzzles decided": f"{decided[1].sum()}",
            "runs right": f"{100 * right[1].mean():.1f} %",
        }
        if case != "float32":
            row["decided otherwise"] = f"{(names[0] != names[1])[both].sum()} of {both.sum()}"
            row["more runs right, points"] = (
                f"{100 * difference.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            )
        if case == "bfloat16":
            row["same answer from the same start"] = f"{100 * same:.1f} %"
        record("precision", f"{name}: {case}", **row)
    assert np.isfinite(difference).all()
