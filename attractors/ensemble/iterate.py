"""Trajectories of a batch of rows: states, noise-free residuals, answers, and what is recorded of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.contract import Law as Law
from eqrlab.attractors.ensemble.contract import draw_start, require_state
from eqrlab.core import KeyedNoise, System
from eqrlab.core.models.reasoner import cast_floating, take_rows
from eqrlab.core.random import puzzle_key, restart_generator, restart_keys

Oracle = Callable[[np.ndarray, np.ndarray], np.ndarray]
TRACE_SEED = 0x7ACE  # of the projection of sketches to the few numbers that are kept of every step


class Moment(NamedTuple):
    """A batch after `step` outer steps: state (n, ...), norms (n,) of residual, update and state."""

    step: int
    z: Tensor
    residual: Tensor
    update: Tensor
    norm: Tensor


def norm(z: Tensor) -> Tensor:
    """Return the 2-norm (n,) of each row over the whole state, in float32 or better."""
    flat = z.flatten(1)
    return torch.linalg.vector_norm(flat if flat.dtype == torch.float64 else flat.float(), dim=1)


def iterate(
    system: System, x: Any, z: Tensor, depth: int, keys: Tensor | None, before: int = 0
) -> Iterator[Moment]:
    """Yield the batch after 1, 2, ..., `depth` outer steps from the starts z.

    Parameters
    ----------
    keys
        (n,) int64 row keys of the noise, or None for none.
    before
        Outer steps taken before z: noise is keyed by the number of the step since the start.

    Notes
    -----
    The residual is that of the deterministic map at the state reached, in float32 or better.  Without noise it is the
    next update and costs nothing; with noise, or a state in half precision, it costs one more evaluation a step.
    """
    half = z.dtype in (torch.float16, torch.bfloat16)
    if keys is None and not half:
        previous, z = z, _checked(system.step(z, x), z)
        for t in range(1, depth + 1):
            following = system.step(z, x)
            yield Moment(t, z, norm(following - z), norm(z - previous), norm(z))
            previous, z = z, following
        return
    precise_x = cast_floating(x, torch.float32, None) if half else x
    for t in range(1, depth + 1):
        previous, z = (
            z,
            _checked(system.step(z, x, None if keys is None else KeyedNoise(keys, before + t)), z),
        )
        precise = z.float() if half else z
        residual = norm(system.step(precise, precise_x) - precise)
        yield Moment(
            t, z, residual, norm(z.float() - previous.float()) if half else norm(z - previous), norm(z)
        )


def _checked(following: Tensor, z: Tensor) -> Tensor:
    if following.shape != z.shape or following.dtype != z.dtype:
        found = f"{tuple(following.shape)} of {following.dtype}"
        raise ValueError(f"step must return a state of shape {tuple(z.shape)} and {z.dtype}, got {found}")
    return following


class Sketch:
    """A fixed random projection of states to a few numbers that keeps distances.

    A state of at most `features` numbers is kept as it is.  Larger ones meet a Gaussian matrix scaled so that squared
    distances are right on average; their relative standard deviation is sqrt(2 / features).

    References
    ----------
    Johnson & Lindenstrauss 1984; Indyk & Motwani 1998.
    """

    def __init__(
        self, size: int, features: int, dtype: torch.dtype, device: torch.device, seed: int = 0x5EED
    ):
        self.size, self.dtype = min(size, features), dtype
        self.matrix: Tensor | None = None
        if size > features:
            generator = torch.Generator().manual_seed(seed)
            matrix = torch.randn((size, features), generator=generator) / math.sqrt(features)
            self.matrix = matrix.to(device=device, dtype=dtype)

    def __call__(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return flat.to(self.dtype, copy=True) if self.matrix is None else flat.to(self.dtype) @ self.matrix


@dataclass(frozen=True)
class Recipe:
    """What to run and what to record; `sample` fills it in.

    Attributes
    ----------
    window
        Number of last states whose sketches are kept.
    path, final_state, trajectory
        Also record: sketches at every step (that many features), the last state, all states.
    first
        Number of the first restart; randomness is keyed by it, given starts are taken from 0.
    before
        Outer steps that led to the given starts, 0 unless runs are continued.
    logit_delta
        Also record how much the logits changed.
    trace
        Numbers to which sketches are projected again, recorded at every step for the fates to find periods in, 0: none.
    """

    system: System
    inputs: Tensor
    labels: np.ndarray | None
    oracle: Oracle | None
    restarts: int
    depth: int
    seed: int
    noisy: bool
    initial: Tensor | Law | None
    window: int
    features: int
    path: int
    final_state: bool
    trajectory: bool
    device: torch.device
    dtype: torch.dtype | None
    first: int = 0
    before: int = 0
    logit_delta: bool = False
    trace: int = 0


def starts(
    recipe: Recipe, x: Any, puzzles: np.ndarray, restarts: np.ndarray, keys: Mapping[int, int]
) -> Tensor:
    """Return the starts (n, *state_shape) of rows (puzzle, restart), each drawn from a generator of its own."""
    if isinstance(recipe.initial, Tensor):
        z = require_state(recipe.initial[torch.as_tensor(puzzles), torch.as_tensor(restarts)], "initial")
    else:
        law = recipe.system.initial if recipe.initial is None else recipe.initial
        z = torch.cat(
            [
                draw_start(
                    law, take_rows(x, slice(i, i + 1)), restart_generator(keys[p], recipe.first + int(r))
                )
                for i, (p, r) in enumerate(zip(puzzles, restarts, strict=True))
            ]
        )
    return z.to(device=recipe.device, dtype=recipe.dtype or z.dtype)


@torch.no_grad()
def run_rows(recipe: Recipe, rows: np.ndarray, tick: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Run rows (flat index puzzle * restarts + restart) and return what was recorded, row axis first."""
    puzzles, restarts = np.divmod(rows, recipe.restarts)
    present, place = np.unique(puzzles, return_inverse=True)
    tokens = recipe.inputs[torch.as_tensor(present)]
    keys = {int(p): puzzle_key(recipe.seed, row.numpy()) for p, row in zip(present, tokens, strict=True)}
    x = cast_floating(recipe.system.encode(tokens.to(recipe.device)), recipe.dtype, recipe.device)
    x = take_rows(x, torch.as_tensor(place, device=recipe.device))
    z = starts(recipe, x, puzzles, restarts, keys)
    row_keys = None
    if recipe.noisy:
        mine = torch.tensor([keys[int(p)] for p in puzzles], dtype=torch.int64)
        row_keys = restart_keys(mine, torch.as_tensor(restarts) + recipe.first).to(recipe.device)
    halt_logit = getattr(recipe.system, "halt_logit", None)
    sketch = Sketch(
        z[0].numel(), recipe.features, torch.float64 if z.dtype == torch.float64 else torch.float32, z.device
    )
    coarse = (
        Sketch(sketch.size, recipe.trace, sketch.dtype, z.device, seed=TRACE_SEED) if recipe.trace else None
    )
    judge = _Judge(recipe, tokens.numpy()[place], None if recipe.labels is None else recipe.labels[puzzles])
    lists: dict[str, list[Tensor]] = {
        k: []
        for k in ("residual", "update", "norm", "ring", "trace", "path", "halt", "logit_delta", "states")
    }
    logits = None
    for moment in iterate(recipe.system, x, z, recipe.depth, row_keys, recipe.before):
        lists["residual"].append(moment.residual)
        lists["update"].append(moment.update)
        lists["norm"].append(moment.norm)
        judge.see(recipe.system.decode(moment.z, x))
        if halt_logit is not None:
            lists["halt"].append(halt_logit(moment.z, x).float())
        if recipe.logit_delta:
            before, logits = logits, recipe.system.logits(moment.z, x).float()  # type: ignore[attr-defined]
            change = torch.full_like(logits, torch.nan) if before is None else logits - before
            lists["logit_delta"].append(torch.linalg.vector_norm(change, dim=-1).mean(1))
        in_window = moment.step > recipe.depth - recipe.window
        if in_window or recipe.path or coarse is not None:
            short = sketch(moment.z)
            if in_window:
                lists["ring"].append(short)
            if coarse is not None:
                lists["trace"].append(coarse(short))
            if recipe.path:
                lists["path"].append(short[:, : recipe.path].float())
        if recipe.trajectory or (recipe.final_state and moment.step == recipe.depth):
            lists["states"].append(moment.z.to("cpu", copy=True))
        tick(len(rows))
    recorded = {
        name: torch.stack(parts, dim=1).cpu().numpy()
        for name, parts in lists.items()
        if parts and name != "states"
    }
    if lists["states"]:
        recorded["states"] = (
            torch.stack(lists["states"], dim=1)
            .to(torch.float64 if z.dtype == torch.float64 else torch.float32)
            .numpy()
        )
    return {**recorded, **judge.recorded()}


@functools.cache
def _hash_factors(length: int) -> np.ndarray:
    """Return fixed odd 64-bit factors (length,): their products with the tokens, summed, tell answers apart."""
    return np.random.default_rng(7).integers(1, 2**63, size=length, dtype=np.uint64) | np.uint64(1)


def answer_codes(answer: np.ndarray) -> np.ndarray:
    """Return a number (n,) for each answer (n, L) that is equal for equal answers."""
    return (answer.astype(np.uint64) + np.uint64(1)) @ _hash_factors(answer.shape[1])


def judge(
    labels: np.ndarray | None, oracle: Oracle | None, inputs: np.ndarray, answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether answers (n, L) are right, and their share of right cells (NaN without labels), both (n,).

    Labels say what is right unless there is an oracle; cells with label 0 do not count.
    """
    correct, accuracy = np.zeros(len(answer), bool), np.full(len(answer), np.nan, np.float32)
    if labels is not None:
        if labels.shape[1] != answer.shape[1]:
            raise ValueError(f"labels have {labels.shape[1]} tokens, answers {answer.shape[1]}")
        counted = labels != 0
        same = (answer == labels) | ~counted
        correct = same.all(1) & counted.any(1)
        accuracy = ((same & counted).sum(1) / np.maximum(counted.sum(1), 1)).astype(np.float32)
    if oracle is not None:
        correct = np.asarray(oracle(inputs, answer), bool)
    return correct, accuracy


class _Judge:
    """Follows the answers of rows: their hash, correctness and cell accuracy at every step, the last in full."""

    def __init__(self, recipe: Recipe, inputs: np.ndarray, labels: np.ndarray | None):
        self.oracle, self.inputs, self.labels = recipe.oracle, inputs, labels
        self.codes: list[np.ndarray] = []
        self.correct: list[np.ndarray] = []
        self.accuracy: list[np.ndarray] = []
        self.answer = np.zeros((len(inputs), 0), dtype=np.int64)

    def see(self, answers: Tensor) -> None:
        answer = answers.cpu().numpy()
        if answer.ndim != 2 or len(answer) != len(self.inputs) or answer.dtype.kind not in "iub":
            raise ValueError(
                f"decode must return integer tokens (n, L), got {answer.shape} of {answer.dtype}"
            )
        code = answer_codes(answer)
        changed = np.ones(len(code), bool) if not self.codes else code != self.codes[-1]
        correct = np.zeros(len(code), bool) if not self.codes else self.correct[-1].copy()
        accuracy = np.full(len(code), np.nan, np.float32) if not self.codes else self.accuracy[-1].copy()
        if changed.any():
            labels = None if self.labels is None else self.labels[changed]
            correct[changed], accuracy[changed] = judge(
                labels, self.oracle, self.inputs[changed], answer[changed]
            )
        self.codes.append(code)
        self.correct.append(correct)
        self.accuracy.append(accuracy)
        self.answer = answer

    def recorded(self) -> dict[str, np.ndarray]:
        return {
            "code": np.stack(self.codes, 1),
            "correct": np.stack(self.correct, 1),
            "token_accuracy": np.stack(self.accuracy, 1),
            "answer": self.answer,
        }
