"""Records of training in several parts: one line of slots.jsonl per command, computed from the log."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from eqrlab.core.regular import read_log
from eqrlab.core.training.trainer import Trainer


def end_slot(trainer: Trainer, out: Path, first: int, seconds: float) -> str | None:
    """Add what one command trained to slots.jsonl, and say how fast it was where that was measured.

    Parameters
    ----------
    trainer
        The run, after training.
    out
        Its folder.
    first
        The step at which the command took it up.
    seconds
        Wall time since the command began.

    Returns
    -------
    str or None
        One line to print; None where nothing was trained or no rate was measured.
    """
    lines = [r for r in read_log(out / "log.jsonl") if r["step"] > first]
    if trainer.step_count == first:
        return None
    cuda = trainer.device.type == "cuda"
    name = torch.cuda.get_device_name(trainer.device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    slot: dict[str, Any] = {
        "from": first,
        "to": trainer.step_count,
        "seconds": round(seconds, 1),
        "device": name,
        "torch": torch.__version__,
        "dtype": trainer.config.dtype,
        "compiled": trainer.config.compile,
    }
    for key in ("steps_per_second", "tokens_per_second", "matmul_share"):
        values = [line[key] for line in lines if key in line]
        if values:
            slot[key] = statistics.median(values)
    for key in ("loss", "train_exact", "test_exact"):
        last = next((line[key] for line in reversed(lines) if key in line), None)
        if last is not None:
            slot[key] = last
    if cuda:
        slot["peak_memory_bytes"] = torch.cuda.max_memory_allocated(trainer.device)
    with open(out / "slots.jsonl", "a") as file:
        file.write(json.dumps(slot) + "\n")
    if "matmul_share" not in slot:
        return None
    return (
        f"steps {first + 1} to {trainer.step_count} in {seconds:.0f} s on {name}: "
        f"{slot['steps_per_second']:.3g} steps/s, {slot['tokens_per_second']:,.0f} tokens/s, "
        f"{slot['matmul_share']:.1%} of the device's matmul rate (medians over the lines of the log)"
    )


def last_accuracy(log: Path) -> float | None:
    """Return the last exact accuracy in the log of a run that is continued."""
    return next((line["test_exact"] for line in reversed(read_log(log)) if "test_exact" in line), None)
