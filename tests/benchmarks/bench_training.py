"""Race of one optimiser step of `Trainer` against the official model, loss head and averages.

The official optimiser is a CUDA kernel; AdamATan2 of eqrlab follows its rule and stands in on both sides.  The official
data loader is left out: its side gets one batch again and again, ours draws puzzles.
"""

import dataclasses
import time

import pytest
import torch

from eqrlab.core import load
from eqrlab.core.training.optim import AdamATan2
from eqrlab.core.training.trainer import TrainConfig, Trainer
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record, spread
from tests.benchmarks.official_eqr import official_batch, official_code, official_model

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
CASES = {64: (9, ("float32", "bfloat16")), 768: (3, ("float32",))}  # rows (768 officially): rounds, dtypes


def their_step(official, model, puzzles, rows, dtype, compiled):
    """Return a call that takes one optimiser step as the official trainer does."""
    head = official.training_head(
        official_model(official, model, model.config.halt_max_steps, dtype), "stablemax_cross_entropy"
    ).train()
    optimizer = AdamATan2(head.parameters(), 1e-4)
    averages = official.averages(mu=0.999)
    averages.register(head)
    batch = official_batch(puzzles.inputs[:rows], puzzles.labels[:rows])
    state = {"carry": head.initial_carry(batch)}
    forward = torch.compile(head, dynamic=False) if compiled else head

    def step():
        state["carry"], loss, _, _, _ = forward(carry=state["carry"], batch=batch, return_keys=[])
        (loss / rows).backward()
        optimizer.step()
        optimizer.zero_grad()
        averages.update(head)

    return step


@pytest.mark.parametrize("rows", CASES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["eqr-sudoku6", "eqr-attention-sudoku6"])
def test_training_step(name, compiled, rows):
    """Record CPU time of one optimiser step of both sides; nothing is asserted of the times."""
    official = official_code()
    model, puzzles = load(name), bundled("sudoku6", "train")
    rounds, dtypes = CASES[rows]
    sides, spent, first = {}, {}, {}
    for dtype in dtypes:
        config = TrainConfig(batch_size=rows, dtype=dtype, compile=compiled, lr=1e-4)
        ours = Trainer(
            "eqr", dataclasses.asdict(model.config), "sudoku6", puzzles.inputs, puzzles.labels, config
        )
        sides[f"official, {dtype}"] = their_step(official, model, puzzles, rows, dtype, compiled)
        sides[f"ours, {dtype}"] = ours.step
    for side, step in sides.items():  # warm up, and compile
        begin = time.process_time()
        for _ in range(2):
            step()
        first[side], spent[side] = time.process_time() - begin, []
    for _ in range(rounds):
        for side, step in sides.items():
            begin = time.process_time()
            step()
            spent[side].append(time.process_time() - begin)
    how = "compiled" if compiled else "eager"
    for dtype in dtypes:
        theirs, mine = spent[f"official, {dtype}"], spent[f"ours, {dtype}"]
        record(
            "training", f"{name}, {rows} rows, {dtype}, {how}",
            official_CPU_s=spread(theirs), ours_CPU_s=spread(mine),
            ratio=spread([a / b for a, b in zip(theirs, mine, strict=True)]), rounds=rounds, target=">= 1.3",
            first_two_steps_CPU_s=f"{first[f'official, {dtype}']:.1f} : {first[f'ours, {dtype}']:.1f}",
        )  # fmt: skip
