"""How a family is trained: the options of a run, the objective of a segment, and when a row halts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.models.config import require_types
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.random import Noise
from eqrlab.core.training.losses import exact, halting_loss, stablemax_cross_entropy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SUPERVISIONS = ("sot", "terminal", "anchors")
HALTINGS = ("learned", "off", "oracle")
REGULARISERS = ("entropy", "stability", "spectral")
MOST_SEED = (1 << 63) - 3  # with the two numbers after it, which seed generators too
# Where the families' own trainers differ from the defaults of TrainConfig.
RECIPES: dict[str, dict[str, Any]] = {
    "hrm": {"ema": 0.0},  # it evaluates the last weights
    "feedforward": {"halting": "off"},  # one step is all there is
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Attributes
    ----------
    steps, batch_size
        Optimiser steps and rows.
    supervision
        "sot" (segmented online training): every outer step of the whole batch is a segment with its own loss
        and optimiser step, and the state is carried on.  "anchors" (trajectory supervision): an optimiser step
        rolls fresh rows out over all `halt_max_steps` outer steps and averages the losses of the anchored
        steps.  "terminal": the last step is the only anchor.  In all three, the state is detached between outer
        steps.
    anchors
        First and last anchored outer step, counted from 1; None: all of them.
    halting
        When a row ends, with "sot": "learned" (adaptive computation: when its halting head says so), "oracle" (when its
        answer is right), "off" (after `halt_max_steps`). The halting head is trained only with "learned".
    lr, lr_min_ratio, warmup
        Peak learning rate, its final share after the cosine, steps of linear warm-up.
    weight_decay, beta1, beta2
        Parameters of AdamATan2. The vector of the prefix positions moves by the sign of its gradient instead, with the
        same learning rate and decay, as in the official trainers.
    ema
        Decay of the averaged weights, which are what is saved and evaluated.
    halt_weight
        Weight of the halting loss beside the cross-entropy.
    regulariser, regulariser_weight
        A term for the rows in the second half of their outer steps, and its weight beside the objective: "entropy" of
        the answer, "stability" of the answer under a push of the state, "spectral" (squared leading gain of an outer
        step).  None, or a weight of 0: no term, and the run is the same to the last bit.  See `training.regularisers`.
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
    regulariser: str | None = None
    regulariser_weight: float = 0.1
    seed: int = 0
    dtype: str = "float32"
    compile: bool = False
    supervision: str = "sot"
    anchors: tuple[int, int] | None = None
    halting: str = "learned"

    def __post_init__(self) -> None:
        if isinstance(self.anchors, list):  # as JSON gives it
            object.__setattr__(self, "anchors", tuple(self.anchors))
        require_types(self)
        words = {"supervision": SUPERVISIONS, "halting": HALTINGS, "regulariser": (None, *REGULARISERS)}
        for name, choices in words.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} unknown; choose from {', '.join(filter(None, choices))}"
                )
        if self.supervision != "sot" and self.halting != "off":
            raise ValueError(
                f"supervision {self.supervision!r} runs every row to its end: halting must be 'off', "
                f"got {self.halting!r}"
            )
        if self.anchors is not None:
            whole = isinstance(self.anchors, tuple) and [type(v) for v in self.anchors] == [int, int]
            pair = whole and 1 <= self.anchors[0] <= self.anchors[1]
            if self.supervision != "anchors" or not pair:
                raise ValueError(
                    "anchors must be two steps, 1 <= first <= last, for supervision 'anchors', "
                    f"got {self.anchors} for {self.supervision!r}"
                )
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps and batch_size must be >= 1, got {self.steps} and {self.batch_size}")
        if abs(self.seed) > MOST_SEED:
            raise ValueError(f"seed must be at most {MOST_SEED} in size, got {self.seed}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} unknown; choose from {', '.join(DTYPES)}")
        for name in ("ema", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("lr", "lr_min_ratio", "warmup", "weight_decay", "halt_weight", "regulariser_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


def recipe(family: str, **changes: Any) -> TrainConfig:
    """Return the options with which a family is trained by default, with changes on top."""
    return TrainConfig(**{**RECIPES.get(family, {}), **changes})


def rollout(config: TrainConfig, most: int) -> tuple[int, range]:
    """Return how many outer steps an optimiser step makes, and which of them, counted from 1, have a loss.

    Raises
    ------
    ValueError
        If the last anchor is beyond the `most` steps of a rollout.
    """
    if config.supervision == "sot":
        return 1, range(1, 2)
    first, last = (most, most) if config.supervision == "terminal" else config.anchors or (1, most)
    if last > most:
        raise ValueError(f"anchors must lie within halt_max_steps {most}, got {first} to {last}")
    return most, range(first, last + 1)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of optimiser step `step` (from 1): linear warm-up, then a cosine to the final share."""
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


@dataclass(frozen=True)
class SegmentLoss:
    """Objective of one outer step.

    Attributes
    ----------
    loss
        Loss of each row (n,), float64.
    right
        Whether each row's answer is exact (n,).
    margin
        A row may halt where this is positive (n,); without gradient.
    """

    loss: Tensor
    right: Tensor
    margin: Tensor


def segment_loss(
    model: Reasoner,
    z: Tensor,
    x: Tensor,
    labels: Tensor,
    taken: Tensor,
    config: TrainConfig,
    noise: Noise | None,
) -> SegmentLoss:
    """Judge the states z (n, ...) that a segment ended in, `taken` (n,) outer steps after their start.

    Notes
    -----
    The loss is the cross-entropy of the answer.  If halting is learned, the binary cross-entropy of the halting logit
    against present correctness is added; for families with a continuation head, also that of the continuation logit
    against the value of one more step, which has to be computed.
    """
    logits, q = model.logits(z, x), model.q_values(z)
    right = exact(logits.detach(), labels)
    loss = stablemax_cross_entropy(logits, labels)
    if config.halting == "learned":
        halting = halting_loss(q[:, 0], right)
        if model.continue_head and model.config.halt_max_steps > 1:
            halting = halting + halting_loss(q[:, 1], continuation_value(model, z, x, taken, noise))
        loss = loss + config.halt_weight * halting
    margin = q[:, 0] - q[:, 1] if model.continue_head else q[:, 0]
    return SegmentLoss(loss, right, margin.detach())


@torch.no_grad()
def continuation_value(model: Reasoner, z: Tensor, x: Tensor, taken: Tensor, noise: Noise | None) -> Tensor:
    """Return the target (n,) of the continuation logit: the better of halting and continuing after one more step.

    Rows that have used all their segments can only halt at the next step.
    """
    halt, go_on = model.q_values(model.step(z.detach(), x, noise)).unbind(1)
    last = taken >= model.config.halt_max_steps
    return torch.sigmoid(torch.where(last, halt, torch.maximum(halt, go_on)))


def halted_rows(
    model: Reasoner, judged: SegmentLoss, taken: Tensor, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Return which rows (n,) end: those that have used all their segments, and those that halt.

    If halting is learned, a share of the rows must first explore a random number of segments.
    """
    c, n = model.config, len(taken)
    last = taken >= c.halt_max_steps
    if c.halt_max_steps == 1 or config.halting == "off":
        return last
    if config.halting == "oracle":
        return last | judged.right
    explore = torch.rand(n, generator=generator, device=taken.device) < c.halt_exploration
    least = torch.randint(2, c.halt_max_steps + 1, (n,), generator=generator, device=taken.device)
    return (last | (judged.margin > 0)) & (taken >= explore * least)
