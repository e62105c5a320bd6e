"""Race of `at.sample` against the official EqR evaluator: same weights, puzzles, restarts and depth.

Both sides do all their work: the official evaluator iterates with noise and keeps logits, answers, votes, convergence
scores and metrics; ours records noise-free residuals, updates, answers, correctness, sketches and fates.  With noise
on, our noise-free residual costs a second evaluation of the map at every step, which the official one does without.
Both sides run in one process, so that the official one, too, profits from `keep_freed_memory`.
"""

import contextlib
import io
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eqrlab import attractors as at
from eqrlab.attractors.statistics.bootstrap import mean_over_puzzles
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import EqR, EqRConfig, load
from eqrlab.core.models.products import linear
from eqrlab.datasets import bundled
from tests.benchmarks.bench_speed import products_of_a_step
from tests.benchmarks.ledger import record, spread
from tests.benchmarks.official_eqr import official_batch, official_code, official_model

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
ROWS = 768  # that the official evaluator runs at once: the batch of its configuration


@pytest.fixture(scope="module")
def official():
    return official_code()


def evaluator(official, model, puzzles, restarts, depth, dtype):
    """Return a call that runs the official evaluator on the weights of our model."""
    head = official.inference_head(
        official_model(official, model, depth, dtype), "stablemax_cross_entropy"
    ).eval()
    many = max(1, ROWS // restarts)
    parts = [puzzles.take(slice(i, i + many)) for i in range(0, len(puzzles), many)]
    loader = [("all", official_batch(part.inputs, part.labels), len(part)) for part in parts]
    settings = SimpleNamespace(eval_save_outputs=[], convergence_top_k=1, convergence_window=3, eval_dir=None)

    def run():
        with contextlib.redirect_stderr(io.StringIO()):
            found, _ = official.evaluate(
                settings, SimpleNamespace(model=head), loader, SimpleNamespace(sets=["all"]), [], 0, 1, None,
                different_init=restarts,
            )  # fmt: skip
        return found

    return run


CASES = {  # name: (model, puzzles, restarts, depth, rounds, dtypes of the official side)
    "6x6, MLP mixer, hidden 64": (lambda: load("eqr-sudoku6"), 4, 16, 8, 3, ("float32", "bfloat16")),
    "6x6, MLP mixer, hidden 64, the official batch": (lambda: load("eqr-sudoku6"), 48, 16, 8, 3, ("float32",)),
    "6x6, attention, hidden 64, the official batch": (
        lambda: load("eqr-attention-sudoku6"), 48, 16, 8, 3, ("float32",),
    ),
    "6x6, attention, hidden 64": (lambda: load("eqr-attention-sudoku6"), 4, 16, 8, 3, ("float32", "bfloat16")),
    "6x6, MLP mixer, hidden 64, depth 40": (lambda: load("eqr-sudoku6"), 4, 16, 40, 3, ("float32", "bfloat16")),
    "6x6, attention, hidden 64, depth 40": (
        lambda: load("eqr-attention-sudoku6"), 4, 16, 40, 3, ("float32", "bfloat16"),
    ),
    "9x9 at the paper's size, MLP mixer, hidden 512, random weights": (
        lambda: EqR(
            EqRConfig(
                vocab_size=11, seq_len=81, hidden_size=512, num_heads=8, layers=2, H_cycles=3, L_cycles=6, mixer="mlp"
            )
        ).eval(),
        1, 4, 8, 2, ("float32", "bfloat16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ensemble_race(official, case):
    """Record restart-steps per CPU second of both sides, and the ratio; the answers must be of the same quality."""
    make, count, restarts, depth, rounds, dtypes = CASES[case]
    torch.manual_seed(0)
    model, fused = make(), make()
    fused.load_state_dict(model.state_dict())
    fused.compile()
    for each in (model, fused):
        each.multiply("fastest")  # as the commands do
    puzzles = bundled("sudoku9" if model.config.seq_len == 81 else "sudoku6").take(slice(count))

    def ours(**options):
        return at.sample(
            model, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, **options
        )

    peers = {d: evaluator(official, model, puzzles, restarts, depth, d) for d in dtypes}
    sides = {f"official, {d}": run for d, run in peers.items()}
    sides |= {
        "ours, float32, noise on": ours,
        "ours, float32, noise on, sparse residuals": lambda: ours(residuals="sparse"),
        "ours, float32, noise off": lambda: ours(noise=0),
        "ours, bfloat16, noise off": lambda: ours(noise=0, dtype="bfloat16"),
        "ours, bfloat16, noise on, sparse residuals": lambda: ours(residuals="sparse", dtype="bfloat16"),
        "ours, bfloat16, noise off, sparse residuals": lambda: ours(
            noise=0, residuals="sparse", dtype="bfloat16"
        ),
        "ours, float32, noise off, compiled": lambda: at.sample(
            fused, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, noise=0
        ),
        "ours, float32, noise on, sparse residuals, compiled": lambda: at.sample(
            fused, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, residuals="sparse"
        ),
    }
    for compiled in (
        "ours, float32, noise off, compiled",
        "ours, float32, noise on, sparse residuals, compiled",
    ):
        sides[compiled]()  # compiling is not counted: bench_speed.py tells what it costs
    x = model.encode(torch.as_tensor(puzzles.inputs).repeat_interleave(restarts, 0))
    products = products_of_a_step(model, model.initial(x, torch.Generator().manual_seed(0)), x)
    limits = {
        "torch.mm alone, float32": F.linear,
        "the products taken here alone, float32": partial(linear, fast=True),
    }
    spent = {name: [] for name in [*sides, *limits]}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.process_time()
            call()
            spent[name].append(time.process_time() - begin)
        for name, multiply in limits.items():
            spent[name].append(depth * products.seconds(torch.float32, multiply))
    work = count * restarts * depth
    for name, times in spent.items():
        columns = {
            f"over the official one in {d}": spread(
                [a / b for a, b in zip(spent[f"official, {d}"], times, strict=True)]
            )
            for d in dtypes
            if not name.startswith("official") and (name not in limits or d == "float32")
        }
        record(
            "ensembles", f"{case}: {name}", puzzles_x_restarts_x_steps=f"{count} x {restarts} x {depth}",
            restart_steps_a_CPU_s=spread([work / t for t in times]), **columns, rounds=rounds,
        )  # fmt: skip
    if case.startswith("6x6, MLP"):
        right = float(np.mean(ours().correct.values[:, :, -1]))
        theirs = float(peers["float32"]()["different_init/avg_pass_rate"])
        assert abs(right - theirs) < 0.15


SAME = {"restarts": 16, "depth": 16}
# Chosen on 200 training puzzles, among those that answer all of them as the full 16 x 16 runs do: all right.
# GROWING takes the least time of four schedules on 400 training puzzles, all right: a puzzle that resists runs more and
# more restarts side by side, so that the last puzzles do not step a few rows at a time.  The last race is the cheapest
# of 12 (at most 8 or 12 restarts of 6, 8 or 10 steps, level 4 or 5) that answers at least 99.5 % of those 400.
CALM = {"settled_below": 0.5, "window": 2}
ONE_BY_ONE = {"schedule": ((0, 1),), "halt_above": 4.0}
GROWING = {"schedule": ((0, 1), (32, 2), (64, 4), (96, 8)), "halt_above": 4.0}
FINISHED = {
    "settled rows retired, majority": at.Policy(stop="settled", **CALM, **SAME),
    "one restart after another, until one settles and halts": at.Policy(
        stop="both", settled_below=0.2, agree=1, select="residual", **ONE_BY_ONE, **SAME
    ),
    "two restarts one after another, then two, four, eight at once, until one settles and halts": at.Policy(
        stop="both", settled_below=0.2, agree=1, select="residual", **GROWING, **SAME
    ),
    "one restart after another, until two that halt agree": at.Policy(
        stop="halt", agree=2, select="residual", **ONE_BY_ONE, **SAME
    ),
    "one restart after another, at most 12, each given up after 6 steps, until one halts": at.Policy(
        stop="halt", agree=1, select="halting", restarts=12, depth=6, **ONE_BY_ONE
    ),
}


def test_retirement_race(official, monkeypatch):
    """Record CPU time to one selected answer a puzzle: 16 restarts to depth 16, or as much of it as policies need."""
    # 10 whole batches of the official evaluator, which fails on a part of one.
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6").take(slice(480))
    model.multiply("fastest")
    rounds, chosen = 2, {}
    theirs = evaluator(official, model, puzzles, SAME["restarts"], SAME["depth"], "float32")
    update = official.evaluator._update_conv

    def watched(state, preds, labels, scores, top_k):
        best = scores.argsort(dim=1)[:, 0]
        chosen["official"].append(preds.view(*scores.shape, -1)[torch.arange(len(best)), best].numpy())
        update(state, preds, labels, scores, top_k)

    monkeypatch.setattr(official.evaluator, "_update_conv", watched)

    def ours(name):
        result = at.adaptive(model, puzzles.inputs, FINISHED[name], labels=puzzles.labels, noise=0)
        chosen[name] = result.answer.values
        return result

    sides = {"official": theirs, **{name: lambda name=name: ours(name) for name in FINISHED}}
    spent, steps = {name: [] for name in sides}, {"official": float(SAME["restarts"] * SAME["depth"])}
    for _ in range(rounds):
        for name, call in sides.items():
            if name == "official":
                chosen[name] = []
            begin = time.process_time()
            found = call()
            spent[name].append(time.process_time() - begin)
            if name in FINISHED:
                steps[name] = float(found.mean_nfe)
    chosen["official"] = np.concatenate(chosen["official"])
    right = {name: (answer == puzzles.labels).all(1) for name, answer in chosen.items()}
    for name, times in spent.items():
        same = (chosen[name] == chosen["official"]).all(1).mean()
        low, high = proportion_interval(int(right[name].sum()), len(puzzles))
        more = mean_over_puzzles(right[name].astype(float) - right["official"])
        record(
            "retirement", f"ours, {name}" if name in FINISHED else "official, float32, 16 x 16",
            CPU_s=spread(times), times_faster=spread([a / b for a, b in zip(spent["official"], times, strict=True)]),
            target=">= 5", outer_steps_a_puzzle=f"{steps[name]:.1f}",
            selected_answers_right=f"{100 * right[name].mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
            points_more_than_the_official_one="{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * v for v in more)),
            same_selected_answer_as_the_official_one=f"{100 * same:.1f} %", rounds=rounds,
        )  # fmt: skip
