"""The saved state of a training run, and how a run continues from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from eqrlab.core.checkpoints.build import fill
from eqrlab.core.errors import CheckpointError
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.shown import flat
from eqrlab.core.training.objective import TrainConfig
from eqrlab.core.training.optim import AdamATan2
from eqrlab.core.training.stream import PuzzleStream

_VERSION = 2  # 1 drew its training rows on the host
_ROWS = ("z", "inputs", "labels", "taken", "halted")
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STATISTICS = ("steps", "loss", "halted", "solved", "late", "regulariser")
_FREE = ("train.compile",)  # settings that may change on the way
_STEPS = "train.steps"  # may change where a run is extended


class TrainingRun(Protocol):
    """What a training run must have to be saved and continued; `Trainer` implements it."""

    config: TrainConfig
    device: torch.device
    model: Reasoner
    ema: Reasoner
    optimizer: AdamATan2
    data: PuzzleStream
    generator: torch.Generator
    step_count: int
    window: Tensor
    extended: list[dict[str, int]]


def plain(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def pack(trainer: TrainingRun) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a run as tensors and plain values; a run restored from it continues bit for bit."""
    tensors = {f"model.{k}": v for k, v in trainer.model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in trainer.ema.state_dict().items()}
    for name, p in trainer.model.named_parameters():
        moments = trainer.optimizer.state[p]
        for key in _MOMENTS:
            tensors[f"{key}.{name}"] = moments[key] if moments else torch.zeros_like(p)
    tensors |= {f"rows.{name}": getattr(trainer, name) for name in _ROWS}
    tensors["generator"] = trainer.generator.get_state()
    rows, stream = trainer.data.state()
    tensors |= {f"stream.{k}": v for k, v in rows.items()}
    header = {
        "training_state": _VERSION,
        "device": trainer.device.type,
        "step": trainer.step_count,
        "stream": stream,
        "window": dict(zip(_STATISTICS, trainer.window.tolist(), strict=True)),
        "extended": trainer.extended,
        **_settings(trainer),
    }
    return tensors, header


def unpack(
    trainer: TrainingRun,
    tensors: dict[str, Tensor],
    header: dict[str, Any],
    path: str | Path,
    extend: bool = False,
) -> None:
    """Restore a state into a run that was built with the same settings; `path` names it in errors.

    With `extend` the run may have another number of steps, which is then recorded in `trainer.extended`.

    Raises
    ------
    CheckpointError
        If the state has other settings or data (naming those that differ), comes from another kind of device, or lacks
        a part; the run must not be used afterwards.
    """
    version = header.get("training_state")
    if version is None:
        raise CheckpointError(f"{path}: holds a model, not a training state")
    if version != _VERSION:
        raise CheckpointError(
            f"{path}: holds a training state of version {version}, and version {_VERSION} is required: start anew"
        )
    # Settings and data must agree before a tensor is looked at: another run would train on, silently wrong.
    then = {**flat({"train": plain(TrainConfig())}), **flat(header)}  # older states lack newer options
    now = {k: v for k, v in flat(_settings(trainer)).items() if k not in _FREE}
    planned = then.get(_STEPS, -1)
    if extend:
        del now[_STEPS]
    differ = [f"{k} {then.get(k)} there, {v} here" for k, v in now.items() if then.get(k) != v]
    if differ:
        raise CheckpointError(f"{path}: belongs to a run with other settings: {'; '.join(differ)}")
    step = header.get("step")
    if isinstance(step, int) and step > trainer.config.steps:
        raise CheckpointError(
            f"{path}: the run is at step {step} already, beyond the {trainer.config.steps} steps asked for"
        )
    if header.get("compact"):
        raise CheckpointError(
            f"{path}: holds a rounded state of an earlier version, which is no longer read: start anew"
        )
    if header.get("device") != trainer.device.type:
        raise CheckpointError(
            f"{path}: was saved on {header.get('device')}, and continues only on such a device, "
            f"not on {trainer.device.type}"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    # All parts are checked before the first is restored, so that most refusals leave the run as it was.
    names = [name for name, _ in trainer.model.named_parameters()]
    rows = {name: getattr(trainer, name) for name in _ROWS}
    for name, like in rows.items():
        stored = tensors.get(f"rows.{name}")
        if stored is None or stored.shape != like.shape or stored.dtype != like.dtype:
            raise CheckpointError(f"{path}: has no valid rows.{name}")
    moments = [part(f"{key}.") for key in _MOMENTS]
    if any(set(m) != set(names) for m in moments) or "generator" not in tensors:
        raise CheckpointError(f"{path}: lacks a part of the optimiser or of the random state")
    fill(trainer.model, part("model."), path)
    fill(trainer.ema, part("ema."), path)
    try:
        trainer.step_count = int(header["step"])
        trainer.extended = [{k: int(e[k]) for k in ("step", "steps")} for e in header.get("extended", [])]
        if planned != trainer.config.steps:
            trainer.extended.append({"step": trainer.step_count, "steps": int(planned)})
        trainer.generator.set_state(tensors["generator"])
        trainer.data.restore(part("stream."), header["stream"])
        sums = {"late": 0.0, "regulariser": 0.0, **header["window"]}  # older states lack these two
        window = [float(sums[k]) for k in _STATISTICS]
        trainer.window.copy_(torch.tensor(window, dtype=torch.float64))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the training state is damaged ({error!r})") from None
    for name, p in trainer.model.named_parameters():
        first, second = (m[name].to(p) for m in moments)
        trainer.optimizer.state[p] = {"step": trainer.step_count, "exp_avg": first, "exp_avg_sq": second}
    for name, like in rows.items():
        setattr(trainer, name, tensors[f"rows.{name}"].to(like.device))


def _settings(trainer: TrainingRun) -> dict[str, Any]:
    return {
        "family": trainer.model.family,
        "task": trainer.model.task,
        "model": plain(trainer.model.config),
        "train": plain(trainer.config),
        "data_sha256": trainer.data.sha256,
    }
