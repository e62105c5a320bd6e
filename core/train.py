"""Training: segmented online training with adaptive halting, random initial states and path noise."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.core.checkpoint import (
    CheckpointError,
    build,
    fill,
    read_tensors,
    replaced_whole,
    save,
    write_tensors,
)
from eqrlab.core.layers import Blocks
from eqrlab.core.losses import exact, halting_loss, stablemax_cross_entropy
from eqrlab.core.optim import AdamATan2
from eqrlab.core.random import GeneratorNoise, Noise
from eqrlab.core.reasoner import Reasoner
from eqrlab.core.stream import Augment, PuzzleStream

_ROWS = ("z", "inputs", "labels", "taken", "halted")
_MOMENTS = ("exp_avg", "exp_avg_sq")
LOG_EVERY = 50
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps (one a segment, i.e. one outer step of the whole batch) and rows.
    lr, lr_min_ratio, warmup
        Peak step size, its final share after the cosine, steps of linear warm-up.
    weight_decay, beta1, beta2
        Of AdamATan2.
    ema
        Decay of the averaged weights, which are what is saved and evaluated.
    halt_weight
        Weight of the halting loss beside the cross-entropy.
    seed
        Of initial weights, data order, symmetries, initial states and noise.
    dtype
        Of the state during training: float32, bfloat16 or float64; weights and optimiser stay in float32.
    compile
        Compile the level blocks with torch.compile.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 2e-3
    lr_min_ratio: float = 0.1
    warmup: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    ema: float = 0.99
    halt_weight: float = 0.5
    seed: int = 0
    dtype: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be >= 1, got {self.steps} and {self.batch_size}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} unknown; choose from {', '.join(DTYPES)}")
        for name in ("ema", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("lr", "lr_min_ratio", "warmup", "weight_decay", "halt_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the step size of optimiser step `step` (first: 1): linear warm-up, then a cosine to its final share."""
    if step < config.warmup:
        return config.lr * step / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (
        config.lr_min_ratio + (1 - config.lr_min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    )


def segment(model: Reasoner, z: Tensor, x: Tensor, noise: Noise | None) -> Tensor:
    """Apply one outer step whose last `trained_updates` level updates carry gradient, the others none."""
    streams = z.detach().unbind(1)
    free = len(model.schedule) - model.trained_updates
    with torch.no_grad():
        for level in model.schedule[:free]:
            streams = model.update(streams, x, level, noise)
    for level in model.schedule[free:]:
        streams = model.update(streams, x, level, noise)
    return torch.stack(streams, dim=1)


class Trainer:
    """One training run: model, averaged weights, optimiser, the rows under way and all random states.

    Parameters
    ----------
    family, model_config, task
        What to build; plain values.
    inputs, labels
        Training puzzles and solutions (P, S), integer tokens.
    config
        How to train.
    augment
        Draws a random symmetry a row: `(inputs, labels, rng) -> (inputs, labels)`, NumPy arrays.
    device
        Where to compute.

    Raises
    ------
    ValueError
        When the data do not have the shape or the tokens that the model configuration states.
    """

    def __init__(
        self,
        family: str,
        model_config: dict[str, Any],
        task: str,
        inputs: np.ndarray,
        labels: np.ndarray,
        config: TrainConfig,
        augment: Augment | None = None,
        device: str = "cpu",
    ):
        self.config, self.device, self.dtype = config, torch.device(device), DTYPES[config.dtype]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build(family, model_config, task).to(self.device).train()
        self.data = PuzzleStream(inputs, labels, augment, config.seed)
        self.data.check(self.model.config.seq_len, self.model.config.vocab_size)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = AdamATan2(
            self.model.parameters(), config.lr, (config.beta1, config.beta2), config.weight_decay
        )
        self.generator = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.step_count = 0
        # Sums since the last line of the log.
        self.window = dict.fromkeys(("steps", "loss", "halted", "solved"), 0.0)
        n = config.batch_size
        self.z = torch.zeros(n, *self.model.state_shape, dtype=self.dtype, device=self.device)
        self.inputs = torch.zeros(n, inputs.shape[1], dtype=torch.long, device=self.device)
        self.labels = torch.zeros_like(self.inputs)
        self.taken = torch.zeros(n, dtype=torch.long, device=self.device)
        self.halted = torch.ones(n, dtype=torch.bool, device=self.device)
        if config.compile:
            for module in self.model.modules():
                if isinstance(module, Blocks):
                    module.compile()

    def step(self) -> dict[str, float]:
        """Take one optimiser step; return the loss, and of the rows that halted number, exact share and segments."""
        self._refill()
        model, n = self.model, self.config.batch_size
        noise = GeneratorNoise(self.generator) if model.noise_scale else None
        x = model.encode(self.inputs).to(self.dtype)
        z = segment(model, self.z, x, noise)
        logits, q_halt = model.logits(z, x), model.halt_logit(z, x)
        right = exact(logits.detach(), self.labels)
        loss = stablemax_cross_entropy(logits, self.labels).sum()
        loss = (loss + self.config.halt_weight * halting_loss(q_halt, right).sum()) / n
        rate = learning_rate(self.config, self.step_count + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(model.parameters()), 1 - self.config.ema)
        self.z = z.detach()
        self.taken += 1
        self._halt(q_halt.detach())
        self.step_count += 1
        done, solved = self.halted.sum().item(), (right & self.halted).sum().item()
        for name, value in (("steps", 1), ("loss", loss.item()), ("halted", done), ("solved", solved)):
            self.window[name] += value
        return {
            "loss": loss.item(),
            "exact": solved / done if done else math.nan,
            "segments": self.taken[self.halted].float().mean().item() if done else math.nan,
            "halted": done,
        }

    def _refill(self) -> None:
        """Give halted rows a new puzzle and a new initial state."""
        rows = self.halted.nonzero().squeeze(1)
        if not len(rows):
            return
        inputs, labels = self.data.draw(len(rows))
        self.inputs[rows], self.labels[rows] = inputs.to(self.device), labels.to(self.device)
        with torch.no_grad():
            fresh = self.model.initial(self.model.encode(self.inputs[rows]), self.generator)
        self.z[rows] = fresh.to(self.dtype)
        self.taken[rows] = 0

    def _halt(self, q_halt: Tensor) -> None:
        """Halt rows whose halting logit is positive or whose segments are used up; some must explore further."""
        c, n = self.model.config, len(q_halt)
        last = self.taken >= c.halt_max_steps
        if c.halt_max_steps > 1:
            explore = torch.rand(n, generator=self.generator, device=self.device) < c.halt_exploration
            least = torch.randint(2, c.halt_max_steps + 1, (n,), generator=self.generator, device=self.device)
            self.halted = (last | (q_halt > 0)) & (self.taken >= explore * least)
        else:
            self.halted = last

    def result(self) -> Reasoner:
        """Return the averaged model with its provenance."""
        model = copy.deepcopy(self.ema)
        model.provenance = {
            "trained_by": "eqrlab",
            "torch": torch.__version__,
            "train": dataclasses.asdict(self.config),
            "steps": self.step_count,
            "puzzles": len(self.data.inputs),
            "augmented": self.data.augment is not None,
            "data_sha256": self.data.sha256,
        }
        return model

    def _settings(self) -> dict[str, Any]:
        return {
            "family": self.model.family,
            "task": self.model.task,
            "model": json.loads(json.dumps(dataclasses.asdict(self.model.config))),
            "train": dataclasses.asdict(self.config),
            "data_sha256": self.data.sha256,
        }

    def save_state(self, path: str | Path) -> None:
        """Write everything that continuing needs, whole or not at all."""
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for name, p in self.model.named_parameters():
            moments = self.optimizer.state[p]
            for key in _MOMENTS:
                tensors[f"{key}.{name}"] = moments[key] if moments else torch.zeros_like(p)
        for name in _ROWS:
            tensors[f"rows.{name}"] = getattr(self, name)
        tensors["generator"] = self.generator.get_state()
        header = {
            "training_state": 1,
            "step": self.step_count,
            "stream": self.data.state(),
            "window": self.window,
            **self._settings(),
        }
        write_tensors(path, tensors, header)

    def load_state(self, path: str | Path) -> None:
        """Go on from a saved state.

        Raises
        ------
        CheckpointError
            For an unreadable file, or one of a run with other settings or data (naming those that differ).
        """
        tensors, header = read_tensors(path)
        if "training_state" not in header:
            raise CheckpointError(f"{path}: holds a model, not a training state")
        then, now = _leaves(header), _leaves(self._settings())
        differ = [f"{k} {then.get(k)} there, {v} here" for k, v in now.items() if then.get(k) != v]
        if differ:
            raise CheckpointError(f"{path}: belongs to a run with other settings: {'; '.join(differ)}")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        names = [name for name, _ in self.model.named_parameters()]
        rows = {name: getattr(self, name) for name in _ROWS}
        for name, like in rows.items():
            stored = tensors.get(f"rows.{name}")
            if stored is None or stored.shape != like.shape or stored.dtype != like.dtype:
                raise CheckpointError(f"{path}: has no valid rows.{name}")
        moments = [part(f"{key}.") for key in _MOMENTS]
        if any(set(m) != set(names) for m in moments) or "generator" not in tensors:
            raise CheckpointError(f"{path}: lacks a part of the optimiser or of the random state")
        fill(self.model, part("model."), path)
        fill(self.ema, part("ema."), path)
        try:
            self.data.restore(header["stream"])
            self.generator.set_state(tensors["generator"])
            self.step_count = int(header["step"])
            self.window |= header.get("window", {})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: the training state is damaged ({error!r})") from None
        for name, p in self.model.named_parameters():
            first, second = (m[name].to(p) for m in moments)
            self.optimizer.state[p] = {"step": self.step_count, "exp_avg": first, "exp_avg_sq": second}
        for name, like in rows.items():
            setattr(self, name, tensors[f"rows.{name}"].to(like.device))


def _leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@torch.no_grad()
def exact_accuracy(
    model: Reasoner, inputs: np.ndarray, labels: np.ndarray, depth: int, batch_size: int = 256, seed: int = 0
) -> float:
    """Return the share of puzzles solved exactly after `depth` noise-free outer steps from one random start each."""
    generator = torch.Generator().manual_seed(seed)
    solved = 0
    for i in range(0, len(inputs), batch_size):
        x = model.encode(torch.as_tensor(inputs[i : i + batch_size], device=model.device))
        z = model.initial(x, generator)
        for _ in range(depth):
            z = model.step(z, x)
        right = exact(model.logits(z, x), torch.as_tensor(labels[i : i + batch_size], device=model.device))
        solved += int(right.sum())
    return solved / len(inputs)


def train(
    trainer: Trainer,
    run: str | Path,
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    evaluate_every: int = 500,
    save_every: int = 250,
    depth: int = 16,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, float]]:
    """Train to the end, yielding a record a step; state, log and model are kept in the folder `run`.

    Files: `state.safetensors` (to continue), `log.jsonl` (a line each LOG_EVERY steps and each evaluation),
    `model.safetensors` (the averaged weights, at every save).  To continue, call `trainer.load_state` first; the log is
    then cut back to the step of that state, so that it reads as if the run had never been interrupted.

    Parameters
    ----------
    test
        Held-out puzzles and solutions for the exact accuracy at `depth`, noise-free, with the averaged weights.
    stop
        Asked after every step; True saves and ends.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    log = run / "log.jsonl"
    records: list[dict[str, float]] = []
    if trainer.step_count and log.exists():
        whole = [
            line for line in log.read_text().splitlines() if line.endswith("}")
        ]  # the last may be cut off
        records = [r for r in map(json.loads, whole) if r["step"] <= trainer.step_count]
    with replaced_whole(log) as temporary:
        temporary.write_text("".join(json.dumps(r) + "\n" for r in records))
    ending = trainer.step_count >= trainer.config.steps
    if ending:  # it was killed between the last state and the last model
        save(trainer.result(), run / "model.safetensors")
    began, since = time.monotonic(), trainer.step_count
    while not ending:
        record = trainer.step()
        step, last = trainer.step_count, trainer.step_count == trainer.config.steps
        line: dict[str, float] = {}
        if step % LOG_EVERY == 0 or last:
            sums, trainer.window = trainer.window, dict.fromkeys(trainer.window, 0.0)
            line = {"step": step, "loss": sums["loss"] / sums["steps"]}
            if sums["halted"]:
                line["train_exact"] = sums["solved"] / sums["halted"]
            line["steps_per_second"] = (step - since) / (time.monotonic() - began)
            began, since = time.monotonic(), step
        if test is not None and (step % evaluate_every == 0 or last):
            paused = time.monotonic()
            line |= {"step": step, "test_exact": exact_accuracy(trainer.ema, *test, depth)}
            began += time.monotonic() - paused
        if line:
            with open(log, "a") as file:
                file.write(json.dumps(line) + "\n")
        ending = last or stop()
        if step % save_every == 0 or ending:
            trainer.save_state(run / "state.safetensors")
            save(trainer.result(), run / "model.safetensors")
        yield {**line, **record}
