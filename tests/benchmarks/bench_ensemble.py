"""Race of `at.sample` against the official EqR evaluator: same weights, puzzles, restarts and depth.

Both sides do all their work: the official evaluator iterates with noise and keeps logits, answers, votes, convergence
scores and metrics; ours records noise-free residuals, updates, answers, correctness, sketches and fates.  With noise
on, our noise-free residual costs a second evaluation of the map at every step, which the official one does without.
Both sides run in one process, so that the official one, too, profits from `keep_freed_memory` of eqrlab.core.layers.
"""

import contextlib
import io
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import EqR, EqRConfig, load
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record, spread
from tests.benchmarks.official_eqr import official_batch, official_code, official_model

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def official():
    return official_code()


def evaluator(official, model, puzzles, restarts, depth, dtype):
    """Return a call that runs the official evaluator on the weights of our model."""
    head = official.inference_head(
        official_model(official, model, depth, dtype), "stablemax_cross_entropy"
    ).eval()
    batch = official_batch(puzzles.inputs, puzzles.labels)
    settings = SimpleNamespace(eval_save_outputs=[], convergence_top_k=1, convergence_window=3, eval_dir=None)

    def run():
        with contextlib.redirect_stderr(io.StringIO()):
            found, _ = official.evaluate(
                settings, SimpleNamespace(model=head), [("all", batch, len(puzzles))], SimpleNamespace(sets=["all"]),
                [], 0, 1, None, different_init=restarts,
            )  # fmt: skip
        return found

    return run


CASES = {  # name: (model, puzzles, restarts, depth, rounds, dtypes of the official side)
    "6x6, MLP mixer, hidden 64": (lambda: load("eqr-sudoku6"), 4, 16, 8, 3, ("float32", "bfloat16")),
    "6x6, attention, hidden 64": (lambda: load("eqr-attention-sudoku6"), 4, 16, 8, 3, ("float32", "bfloat16")),
    "9x9 at the paper's size, MLP mixer, hidden 512, random weights": (
        lambda: EqR(
            EqRConfig(
                vocab_size=11, seq_len=81, hidden_size=512, num_heads=8, layers=2, H_cycles=3, L_cycles=6, mixer="mlp"
            )
        ).eval(),
        1, 4, 2, 2, ("float32", "bfloat16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ensemble_race(official, case):
    """Record restart-steps per CPU second of both sides, and the ratio; the answers must be of the same quality."""
    make, count, restarts, depth, rounds, dtypes = CASES[case]
    torch.manual_seed(0)
    model = make()
    puzzles = bundled("sudoku9" if model.config.seq_len == 81 else "sudoku6").take(slice(count))

    def ours(**options):
        return at.sample(
            model, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, **options
        )

    peers = {d: evaluator(official, model, puzzles, restarts, depth, d) for d in dtypes}
    sides = {f"official, {d}": run for d, run in peers.items()}
    sides |= {
        "ours, float32, noise on": ours,
        "ours, float32, noise off": lambda: ours(noise=0),
        "ours, bfloat16, noise off": lambda: ours(noise=0, dtype="bfloat16"),
    }
    spent = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.process_time()
            call()
            spent[name].append(time.process_time() - begin)
    work = count * restarts * depth
    for name, times in spent.items():
        columns = {
            f"over the official one in {d}": spread(
                [a / b for a, b in zip(spent[f"official, {d}"], times, strict=True)]
            )
            for d in dtypes
            if name.startswith("ours")
        }
        record(
            "ensembles", f"{case}: {name}", puzzles_x_restarts_x_steps=f"{count} x {restarts} x {depth}",
            restart_steps_a_CPU_s=spread([work / t for t in times]), **columns, rounds=rounds,
        )  # fmt: skip
    if case.startswith("6x6, MLP"):
        right = float(np.mean(ours().correct.values[:, :, -1]))
        theirs = float(peers["float32"]()["different_init/avg_pass_rate"])
        assert abs(right - theirs) < 0.15
