"""Training of every family: the run, its state on disk, its log."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqrlab.core.checkpoints.build import build
from eqrlab.core.checkpoints.load import save
from eqrlab.core.checkpoints.tensors import read_tensors, write_tensors
from eqrlab.core.files import replaced_whole
from eqrlab.core.labels import counts
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.random import GeneratorNoise
from eqrlab.core.regular import read_log
from eqrlab.core.training.accuracy import Judge, exact_accuracy
from eqrlab.core.training.objective import (
    DTYPES,
    TrainConfig,
    halted_rows,
    learning_rate,
    rollout,
    segment,
    segment_loss,
)
from eqrlab.core.training.optim import AdamATan2, sign_step
from eqrlab.core.training.regularisers import late_terms
from eqrlab.core.training.state import pack, plain, unpack
from eqrlab.core.training.stream import Augment, PuzzleStream
from eqrlab.core.training.throughput import matmul_rate, step_operations

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
        Draws a random symmetry a row: `(inputs, labels, generator) -> (inputs, labels)`, tensors on the device.
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
        self.model.multiply("fastest")
        self.data = PuzzleStream(inputs, labels, augment, config.seed, self.device)
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
        # Where the number of steps was changed on the way: until which step it was what.
        self.extended: list[dict[str, int]] = []
        self.regularised = config.regulariser is not None and config.regulariser_weight > 0
        # Sums since the last line of the log: steps, loss, rows that halted, and of these the solved; late rows and
        # their terms of the regulariser.
        self.window = torch.zeros(6, dtype=torch.float64, device=self.device)
        n = config.batch_size
        self.z = torch.zeros(n, *self.model.state_shape, dtype=self.dtype, device=self.device)
        self.inputs = torch.zeros(n, self.data.inputs.shape[1], dtype=torch.long, device=self.device)
        self.labels = torch.zeros_like(self.inputs)
        self.taken = torch.zeros(n, dtype=torch.long, device=self.device)
        self.halted = torch.ones(n, dtype=torch.bool, device=self.device)
        self.sparse = (
            self.device.type == "cpu"
        )  # elsewhere, asking which rows halted would make the host wait
        self.model.compile("training" if config.compile else "never")

    def step(self) -> dict[str, Tensor]:
        """Take one optimiser step.

        Returns
        -------
        dict
            Numbers on the device, () each: `loss`, without the regulariser; `halted`, the number of rows that ended,
            and of these `exact`, the share answered exactly, and `segments`, their mean number (both NaN where none
            ended).

        Notes
        -----
        On an accelerator the host never waits for the device in here, reading a number does; but a regulariser asks
        which rows are late.
        """
        self._refill()
        model, z = self.model, self.z
        noise = GeneratorNoise(self.generator) if model.noise_scale else None
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        shaped = torch.zeros(2, dtype=torch.float64, device=self.device)
        share = len(z) * len(self.anchors)
        self.taken += 1
        for step in range(1, self.outer_steps + 1):
            # not `encode`: the tokens were checked when the run was built, and asking again makes the host wait
            x = model.embed_tokens(self.inputs).to(self.dtype)
            if step not in self.anchors:
                with torch.no_grad():
                    z = segment(model, z, x, noise)
                continue
            z = segment(model, z, x, noise)
            taken = self.taken + step - 1
            judged = segment_loss(model, z, x, self.labels, taken, self.config, noise)
            loss = judged.loss.sum() / share
            total += loss.detach()
            if self.regularised:
                number = self.step_count * self.outer_steps + step
                terms = late_terms(model, z, x, counts(self.labels), taken, self.config, number)
                loss = loss + self.config.regulariser_weight * terms.sum() / share
                shaped += torch.stack((total.new_tensor(len(terms)), terms.detach().double().sum()))
            loss.backward()
            z = z.detach()
        self.taken += self.outer_steps - 1
        self._descend()
        self.z = z
        self.halted = halted_rows(model, judged, self.taken, self.config, self.generator)
        self.step_count += 1
        done, solved = self.halted.sum(), (judged.right & self.halted).sum()
        sums = torch.stack((torch.ones_like(total), total, done.double(), solved.double()))
        self.window += torch.cat((sums, shaped))
        return {
            "loss": total,
            "exact": solved / done,
            "segments": (self.taken * self.halted).sum() / done,
            "halted": done,
        }

    def _refill(self) -> None:
        """Offer every row a new puzzle; halted rows take theirs, and a new initial state."""
        inputs, labels = self.data.offer(len(self.halted))
        if not self.sparse:
            ended = self.halted[:, None]
            self.inputs = torch.where(ended, inputs, self.inputs)
            self.labels = torch.where(ended, labels, self.labels)
            self.z = torch.where(ended[..., None, None], self._fresh(self.inputs), self.z)
            self.taken = torch.where(self.halted, 0, self.taken)
            return
        rows = self.halted.nonzero().squeeze(1)
        if len(rows):
            self.inputs[rows], self.labels[rows] = inputs[rows], labels[rows]
            self.z[rows] = self._fresh(self.inputs[rows])
            self.taken[rows] = 0

    @torch.no_grad()
    def _fresh(self, inputs: Tensor) -> Tensor:
        """Draw initial states for puzzles (n, S)."""
        return self.model.initial(self.model.embed_tokens(inputs), self.generator).to(self.dtype)

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

    def require_finite(self) -> None:
        """Raise ValueError if the loss since the last line of the log, or a weight, is NaN or infinite."""
        if not all(t.isfinite().all() for t in (self.window, *self.model.parameters())):
            raise ValueError(
                f"training diverged: the loss or the weights are not finite at step {self.step_count}; "
                f"train anew with a smaller lr than {self.config.lr:g}"
            )

    def result(self) -> Reasoner:
        """Return the averaged model with its provenance.

        Raises
        ------
        ValueError
            If training diverged.
        """
        self.require_finite()
        model = copy.deepcopy(self.ema)
        model.multiply("official")
        model.provenance = {
            "trained_by": "eqrlab",
            "torch": torch.__version__,
            "train": plain(self.config),
            "steps": self.step_count,
            **({"extended": self.extended} if self.extended else {}),
            "puzzles": len(self.data.inputs),
            "augmented": self.data.augment is not None,
            "data_sha256": self.data.sha256,
        }
        return model

    def save_state(self, path: str | Path) -> None:
        """Write everything that continuing needs to a file, whole or not at all.

        Raises
        ------
        ValueError
            If training diverged: the file that is there is then left as it is.
        """
        self.require_finite()
        write_tensors(path, *pack(self))

    def load_state(self, path: str | Path, extend: bool = False) -> None:
        """Go on from a saved state.

        Parameters
        ----------
        path
            What `save_state` wrote.
        extend
            Take up a run of another number of steps, finished or not.  From there on the step size is that of a run
            of this run's steps; `extended` (and the provenance of the model) says until which step it was another.

        Raises
        ------
        CheckpointError
            For an unreadable state, one of a run with other settings or data (naming those that differ), or one beyond
            the steps of this run.
        """
        unpack(self, *read_tensors(path), path, extend)


def train(
    trainer: Trainer,
    run: str | Path,
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    judge: Judge | None = None,
    evaluate_every: int = 500,
    save_every: int = 250,
    keep_every: int | None = None,
    depth: int = 16,
    stop: Callable[[], bool] = lambda: False,
    throughput: bool = False,
) -> Iterator[dict[str, Any]]:
    """Train to the end, yielding one record per step; state, log and model are kept in the folder `run`.

    Files: `state.safetensors` (to continue), `log.jsonl` (a line each LOG_EVERY steps and each evaluation),
    `model.safetensors` (the averaged weights, at every save), and with `keep_every` the averaged weights as they were
    at every so many steps, `model-000200.safetensors`, ...: what a landscape is followed over.  To continue, call
    `trainer.load_state` first; the log is then cut back to the step of that state, so that it reads as if the run had
    never been interrupted.

    Parameters
    ----------
    test
        Held-out puzzles and solutions for the exact accuracy at `depth`, noise-free, with the averaged weights, in the
        dtype of training.
    judge
        Says which answers to these are right, `(inputs, answers) -> bool (n,)`; None: those equal to the solutions.
    keep_every
        Steps between models that are kept beside the last; None keeps none.
    stop
        Asked before the first and after every step; True saves and ends.
    throughput
        Add to every line of the log tokens per second (positions of all rows, once an outer step) and the share of the
        device's matmul rate, which is measured first.

    Yields
    ------
    dict
        What `Trainer.step` returns, as tensors on the device, and the numbers of a line of the log where one was
        written (whose mean loss is in the log alone).

    Raises
    ------
    ValueError
        If training diverged, where a line of the log or a file is due; the files have what was there before.
    """
    run = Path(run)
    run.mkdir(parents=True, exist_ok=True)
    for name in ("state.safetensors", "model*.safetensors", "log.jsonl"):
        for unfinished in run.glob(f".{name}.*.tmp"):  # of a run killed while it wrote
            unfinished.unlink(missing_ok=True)
    log = run / "log.jsonl"
    records: list[dict[str, Any]] = []
    if trainer.step_count:
        records = [r for r in read_log(log) if r["step"] <= trainer.step_count]
    with replaced_whole(log) as temporary:
        temporary.write_text("".join(json.dumps(r) + "\n" for r in records))

    def keep(name: str) -> None:
        save(trainer.result(), run / name)

    def keep_all() -> None:
        trainer.save_state(run / "state.safetensors")
        keep("model.safetensors")

    ending = trainer.step_count >= trainer.config.steps or stop()
    if ending:  # it was killed between the last state and the last model, or has no time
        keep_all()
    pace = _pace(trainer) if throughput and not ending else {}
    began, since = time.monotonic(), trainer.step_count
    while not ending:
        record = trainer.step()
        step, last = trainer.step_count, trainer.step_count == trainer.config.steps
        line: dict[str, float] = {}
        if step % LOG_EVERY == 0 or last:
            trainer.require_finite()
            steps, loss, done, solved, late, terms = trainer.window.tolist()
            trainer.window.zero_()
            line = {"step": step, "loss": loss / steps}
            if done:
                line["train_exact"] = solved / done
            if late:
                line["regulariser"] = terms / late
            speed = line["steps_per_second"] = (step - since) / (time.monotonic() - began)
            line |= {name: speed * amount for name, amount in pace.items()}
            began, since = time.monotonic(), step
        if test is not None and (step % evaluate_every == 0 or last):
            paused = time.monotonic()
            accuracy = exact_accuracy(trainer.ema, *test, depth, dtype=trainer.dtype, judge=judge)
            line |= {"step": step, "test_exact": accuracy}
            began += time.monotonic() - paused
        if line:
            with open(log, "a") as file:
                file.write(json.dumps(line) + "\n")
        paused = time.monotonic()
        if keep_every is not None and (step % keep_every == 0 or last):
            keep(f"model-{step:06d}.safetensors")
        ending = last or stop()
        if step % save_every == 0 or ending:
            keep_all()
        began += time.monotonic() - paused
        yield {**line, **record}


def _pace(trainer: Trainer) -> dict[str, float]:
    """Return what one optimiser step per second would be in tokens per second and in shares of the matmul rate."""
    model, config = trainer.model, trainer.config
    tokens = config.batch_size * model.config.positions_total * trainer.outer_steps
    share = step_operations(model, config) / matmul_rate(model, config)
    return {"tokens_per_second": tokens, "matmul_share": share}
