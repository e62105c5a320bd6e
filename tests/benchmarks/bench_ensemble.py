"""Race of `at.sample` against the official EqR evaluator: same weights, puzzles, restarts, depth and dtype.

`EQR_OFFICIAL=path pytest -m benchmark tests/benchmarks/bench_ensemble.py -s`, where path is a clone of
https://github.com/locuslab/EqR (`pip install pydantic omegaconf hydra-core colorama argdantic psutil coolname wandb`).
Its attention needs a kernel of its own (flash_attn): torch's scaled_dot_product_attention stands in for it.

Both sides do all their work: the official evaluator iterates with noise and keeps logits, answers, votes, convergence
scores and metrics; ours records noise-free residuals, updates, answers, correctness, sketches and fates.  With noise
on, our noise-free residual costs a second evaluation of the map at every step, which the official one does without.
Both sides run in one process, so that the official one, too, profits from `keep_freed_memory` of eqrlab.core.layers.
"""

import contextlib
import io
import os
import statistics
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import EqR, EqRConfig, load
from eqrlab.datasets import bundled

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def official():
    """Return the modules of the official evaluator, its attention kernel replaced."""
    path = os.environ.get("EQR_OFFICIAL")
    if not path:
        pytest.skip("set EQR_OFFICIAL to a clone of https://github.com/locuslab/EqR")
    sys.path.insert(0, path)
    try:
        from evaluators import eval_fn
        from models import eqr, layers
        from models.losses import loss_heads
    except ImportError as error:
        pytest.skip(f"the official code cannot be imported: {error}")
    finally:
        sys.path.remove(path)

    def attention(q, k, v, causal=False):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

    layers.flash_attn_func = attention
    return SimpleNamespace(evaluate=eval_fn.evaluate, model=eqr.EqRModel, head=loss_heads.InferenceLossHead)


def evaluator(official, model, puzzles, restarts, depth):
    """Return a call that runs the official evaluator on the weights of our model."""
    c = model.config
    theirs = official.model(
        dict(
            batch_size=1, seq_len=c.seq_len, vocab_size=c.vocab_size, H_cycles=c.H_cycles, L_cycles=c.L_cycles,
            H_layers=0, L_layers=c.layers, hidden_size=c.hidden_size, expansion=c.expansion, num_heads=c.num_heads,
            pos_encodings=c.positions, board_height=c.board_shape[0], board_width=c.board_shape[1],
            halt_max_steps=depth, halt_exploration_prob=0.1, forward_dtype="float32", mlp_t=c.mixer == "mlp",
            lambda_=1 - c.damping, noise_scale=c.noise_scale,
        )
    )  # fmt: skip
    weights = {f"inner.{k}": v for k, v in model.state_dict().items()}
    missing, surplus = theirs.load_state_dict(weights, strict=False)
    assert not missing and not surplus, (missing, surplus)
    head = official.head(theirs, "stablemax_cross_entropy").eval()
    batch = {
        "inputs": torch.as_tensor(puzzles.inputs).int(),
        "labels": torch.as_tensor(puzzles.labels).long(),
        "puzzle_identifiers": torch.zeros(len(puzzles), dtype=torch.int32),
    }
    settings = SimpleNamespace(eval_save_outputs=[], convergence_top_k=1, convergence_window=3, eval_dir=None)

    def run():
        with contextlib.redirect_stderr(io.StringIO()):
            found, _ = official.evaluate(
                settings, SimpleNamespace(model=head), [("all", batch, len(puzzles))], SimpleNamespace(sets=["all"]),
                [], 0, 1, None, different_init=restarts,
            )  # fmt: skip
        return found

    return run


def median_times(sides, repeats):
    """Run all sides in turn and return, by side, the median and the spread of their CPU times in s."""
    spent = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            begin = time.process_time()
            call()
            spent[name].append(time.process_time() - begin)
    return {name: (statistics.median(t), min(t), max(t)) for name, t in spent.items()}


CASES = {  # name: (model, puzzles, restarts, depth, repeats)
    "6x6, MLP mixer, hidden 64": (lambda: load("eqr-sudoku6"), 8, 16, 16, 3),
    "6x6, attention, hidden 64, random weights": (
        lambda: EqR(EqRConfig(vocab_size=8, seq_len=36, mixer="attention", positions="rope2d")).eval(), 8, 16, 16, 3,
    ),
    "9x9 at the paper's size, MLP mixer, hidden 512, random weights": (
        lambda: EqR(
            EqRConfig(
                vocab_size=11, seq_len=81, hidden_size=512, num_heads=8, layers=2, H_cycles=3, L_cycles=6, mixer="mlp"
            )
        ).eval(),
        1, 4, 4, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ensemble_race(official, case):
    """Print restart-steps per CPU second of both sides, and the ratio; the answers must be of the same quality."""
    make, count, restarts, depth, repeats = CASES[case]
    torch.manual_seed(0)
    model = make()
    puzzles = bundled("sudoku9" if model.config.seq_len == 81 else "sudoku6").take(slice(count))
    run = evaluator(official, model, puzzles, restarts, depth)

    def ours(**options):
        return at.sample(
            model, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, **options
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = {"official, noise": run, "ours, noise": ours, "ours, noise off": lambda: ours(noise=0)}
        if model.config.hidden_size >= 512:
            sides["ours, noise off, bfloat16"] = lambda: ours(noise=0, dtype="bfloat16")
        times = median_times(sides, repeats)
    finally:
        torch.set_num_threads(threads)
    work = count * restarts * depth
    print(
        f"\n{case}: {count} puzzles x {restarts} restarts x {depth} steps, float32, one thread, {torch.__version__}"
    )
    base = times["official, noise"][0]
    for name, (middle, low, high) in times.items():
        rate = f"{work / middle:10.1f} restart-steps/s  [{work / high:.1f}, {work / low:.1f}]"
        print(f"  {name:28}{rate}  ratio {base / middle:.2f}")
    if case.startswith("6x6, MLP"):
        right = float(np.mean(ours().correct.values[:, :, -1]))
        theirs = float(run()["different_init/avg_pass_rate"])
        print(f"  share of right restarts: official {theirs:.3f}, ours {right:.3f}")
        assert abs(right - theirs) < 0.15
