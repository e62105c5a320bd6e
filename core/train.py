"""Training of every family: the run, its state on disk, its log."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
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
from eqrlab.core.losses import exact
from eqrlab.core.optim import AdamATan2, sign_step
from eqrlab.core.random import GeneratorNoise
from eqrlab.core.reasoner import Reasoner
from eqrlab.core.recipes import (
    DTYPES,
    TrainConfig,
    halted_rows,
    learning_rate,
    rollout,
    segment,
    segment_loss,
)
from eqrlab.core.stream import Augment, PuzzleStream

_ROWS = ("z", "inputs", "labels", "taken", "halted")
_MOMENTS = ("exp_avg", "exp_avg_sq")
LOG_EVERY = 50


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
        When the data do not have the shape or the tokens that the model configuration states, or the anchors lie
        outside of its outer steps.
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
        self.outer_steps, self.anchors = rollout(config, self.model.config.halt_max_steps)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = AdamATan2(
            self.model.parameters(), config.lr, (config.beta1, config.beta2), config.weight_decay
        )
        self.prefix = self.model.embed_tokens.prefix  # a buffer: neither AdamATan2 nor the averages reach it
        if self.prefix is not None:
            self.prefix.requires_grad_()
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
        model, z = self.model, self.z
        noise = GeneratorNoise(self.generator) if model.noise_scale else None
        total = 0.0
        for step in range(1, self.outer_steps + 1):
            self.taken += 1
            if step not in self.anchors:
                with torch.no_grad():
                    z = model.step(z, model.encode(self.inputs).to(self.dtype), noise)
                continue
            x = model.encode(self.inputs).to(self.dtype)
            z = segment(model, z, x, noise)
            judged = segment_loss(model, z, x, self.labels, self.taken, self.config, noise)
            loss = judged.loss.sum() / (len(z) * len(self.anchors))
            loss.backward()
            total, z = total + loss.item(), z.detach()
        self._descend()
        self.z = z
        self.halted = halted_rows(model, judged, self.taken, self.config, self.generator)
        self.step_count += 1
        done, solved = self.halted.sum().item(), (judged.right & self.halted).sum().item()
        for name, value in (("steps", 1), ("loss", total), ("halted", done), ("solved", solved)):
            self.window[name] += value
        return {
            "loss": total,
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

    def _descend(self) -> None:
        """Move weights, prefix and averages by the gradients, and clear these."""
        rate = learning_rate(self.config, self.step_count + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(list(self.ema.parameters()), weights, 1 - self.config.ema)
            averaged = self.ema.embed_tokens.prefix
            if self.prefix is not None and averaged is not None:
                sign_step(self.prefix, rate, self.config.weight_decay)
                averaged.copy_(self.prefix)

    def result(self) -> Reasoner:
        """Return the averaged model with its provenance."""
        model = copy.deepcopy(self.ema)
        model.provenance = {
            "trained_by": "eqrlab",
            "torch": torch.__version__,
            "train": _plain(self.config),
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
            "model": _plain(self.model.config),
            "train": _plain(self.config),
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
        then = {
            **_leaves({"train": _plain(TrainConfig())}),
            **_leaves(header),
        }  # older states lack newer options
        now = _leaves(self._settings())
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


def _plain(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


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
    keep_every: int | None = None,
    depth: int = 16,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, float]]:
    """Train to the end, yielding a record a step; state, log and model are kept in the folder `run`.

    Files: `state.safetensors` (to continue), `log.jsonl` (a line each LOG_EVERY steps and each evaluation),
    `model.safetensors` (the averaged weights, at every save), and with `keep_every` the averaged weights as they were
    at every so many steps, `model-000200.safetensors`, ...: what a landscape is followed over.  To continue, call
    `trainer.load_state` first; the log is then cut back to the step of that state, so that it reads as if the run had
    never been interrupted.

    Parameters
    ----------
    test
        Held-out puzzles and solutions for the exact accuracy at `depth`, noise-free, with the averaged weights.
    keep_every
        Steps between models that are kept beside the last; None keeps none.
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
        if keep_every is not None and (step % keep_every == 0 or last):
            save(trainer.result(), run / f"model-{step:06d}.safetensors")
        ending = last or stop()
        if step % save_every == 0 or ending:
            trainer.save_state(run / "state.safetensors")
            save(trainer.result(), run / "model.safetensors")
        yield {**line, **record}
