"""Other places for the numbers of a training run, besides log.jsonl: a CSV table, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eqrlab.core.files import replaced_whole
from eqrlab.core.regular import read_log

Sink = Callable[[dict[str, Any]], object]
COLUMNS = (
    "step",
    "loss",
    "regulariser",
    "train_exact",
    "test_exact",
    "steps_per_second",
    "tokens_per_second",
    "matmul_share",
)


class Followed:
    """Passes every line of a run's log.jsonl to a sink, once; it reads only the log, so that the two never differ."""

    def __init__(self, log: Path, sink: Sink, since: int):
        self.log, self.sink, self.since = log, sink, since

    def __call__(self) -> None:
        """Pass on the lines written since the last call; the first number of each is the step."""
        for record in read_log(self.log):
            if record["step"] > self.since:
                self.sink(record)
                self.since = record["step"]


def follow(kind: str | None, out: Path, options: dict[str, Any], since: int) -> Callable[[], object]:
    """Return a callable to be called after each line of a log.

    Parameters
    ----------
    kind
        "csv", "tensorboard", "wandb", or None for nothing.
    out
        Folder of the run.
    options
        Of the run, which Weights & Biases shows.
    since
        Step that the run continues from.

    Raises
    ------
    ValueError
        When the package that is needed is not installed, or the service refuses.
    """
    if kind is None:
        return lambda: None
    try:
        sink = SINKS[kind](out, options, since)
    except ImportError as error:
        raise ValueError(
            f"--log {kind} needs the package {error.name}; run: pip install {error.name}"
        ) from None
    return Followed(out / "log.jsonl", sink, since)


def _csv(out: Path, options: dict[str, Any], since: int) -> Sink:
    """Write log.csv anew with what the log has up to `since`, then one row per line."""
    path = out / "log.csv"
    with replaced_whole(path) as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(r for r in read_log(out / "log.jsonl") if r["step"] <= since)

    def add(record: dict[str, Any]) -> None:
        with open(path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS, extrasaction="ignore").writerow(record)

    return add


def _tensorboard(out: Path, options: dict[str, Any], since: int) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=since + 1)

    def add(record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    return add


def _wandb(out: Path, options: dict[str, Any], since: int) -> Sink:
    """Log to a run of its own, whose number is kept in wandb-id.txt so that --resume goes on with it."""
    import wandb

    plain, kept = json.loads(json.dumps(options, default=str)), out / "wandb-id.txt"
    same = kept.read_text().strip() if since and kept.exists() else None
    try:
        run = wandb.init(project="eqrlab", name=out.name, dir=str(out), config=plain, id=same, resume="allow")
    except wandb.errors.Error as error:
        raise ValueError(f"--log wandb: {error}") from None
    kept.write_text(f"{run.id}\n")
    return lambda record: run.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])


SINKS: dict[str, Callable[[Path, dict[str, Any], int], Sink]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
