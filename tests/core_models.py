"""Small random models for the tests of `eqrlab.core`, and files in the official layout written from them."""

from __future__ import annotations

import collections
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from eqrlab.core import CheckpointError, EqR, EqRConfig, Reasoner, load, save

Model = TypeVar("Model", bound=Reasoner)


SMALL: dict[str, Any] = {
    "vocab_size": 5, "seq_len": 6, "hidden_size": 16, "num_heads": 2, "expansion": 1.0, "noise_scale": 0.1,
}  # fmt: skip


def shaken(model: Model) -> Model:
    """Return a model whose halting head and prefix are away from zero."""
    with torch.no_grad():
        model.q_head.weight.normal_()
        if model.config.prefix_len:
            model.embed_tokens.prefix.normal_(std=0.3)
    return model.eval()


def small_eqr(seed: int = 0, **changes: Any) -> EqR:
    """Return a random EqR on 2x3 boards with weights away from their initial scale."""
    board = (2, 3) if changes.get("positions") == "rope2d" else None
    torch.manual_seed(seed)
    return shaken(EqR(EqRConfig(**{**SMALL, "board": board, **changes}), task="toy"))


def urm_state(tensors: dict[str, torch.Tensor], step: int) -> dict[str, Any]:
    """Return what the official trainer of URM writes beside the weights of a step."""
    return {
        "step": step, "model_state_dict": tensors, "optimizer_states": [], "rng_state": torch.zeros(3),
    }  # fmt: skip


def tiny_file(path: Path, side: int = 4, seed: int = 0, **changes: Any) -> Path:
    """Save a random EqR of Sudoku boards of this side, as small as commands can run, as a file; return its path."""
    small = {"vocab_size": side + 2, "seq_len": side**2, "hidden_size": 16, "num_heads": 2}
    torch.manual_seed(seed)
    model = EqR(EqRConfig(**{**small, "H_cycles": 1, "L_cycles": 1, **changes}), f"sudoku{side}")
    save(model, path)
    return path


def tokens(n: int, model: EqR, seed: int = 0) -> torch.Tensor:
    """Return random tokens (n, S) of the model's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (n, model.config.seq_len), generator=generator)


def official_tensors(model: EqR, prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights under the names of the official code."""
    names = {
        "embed_tokens.prefix": "puzzle_emb.weights",
        "embed_tokens.position_weight": "embed_pos.embedding_weight",
    }
    plain = {names.get(k, k): v.clone() for k, v in model.state_dict().items()}
    if "puzzle_emb.weights" in plain:
        plain["puzzle_emb.weights"] = plain["puzzle_emb.weights"][None]
    return {prefix + k: v for k, v in plain.items()}


def official_config(model: EqR, **changes: Any) -> dict[str, Any]:
    """Return the configuration dictionary that the official trainer stores with a model."""
    c = model.config
    arch = {
        "name": "eqr.EqR@Model",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "H_cycles": c.H_cycles,
        "L_cycles": c.L_cycles,
        "H_layers": 0,
        "L_layers": c.layers,
        "hidden_size": c.hidden_size,
        "num_heads": c.num_heads,
        "expansion": c.expansion,
        "mlp_t": c.mixer == "mlp",
        "pos_encodings": c.positions,
        "rope_theta": c.rope_theta,
        "lambda_": 1 - c.damping,
        "noise_scale": c.noise_scale,
        "H_init_std": c.H_init_std,
        "L_init_std": c.L_init_std,
        "halt_max_steps": c.halt_max_steps,
        "halt_exploration_prob": c.halt_exploration,
        "forward_dtype": "float32",
    }
    if c.positions == "rope2d":
        arch |= {"board_height": c.board_shape[0], "board_width": c.board_shape[1]}
    if c.prefix_len:
        arch |= {"puzzle_emb_len": c.prefix_len, "puzzle_emb_ndim": c.prefix_dim}
    return {"arch": {**arch, **changes}, "ema": True, "lr": 1e-4, "global_batch_size": 4}


def assert_same_outputs(one: EqR, other: EqR, depth: int = 3) -> None:
    """Check that two models map the same tokens and states to bit-identical logits, halting logits and states."""
    inputs = tokens(4, one)
    x, y = one.encode(inputs), other.encode(inputs)
    z = w = one.initial(x, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(depth):
            z, w = one.step(z, x), other.step(w, y)
    assert torch.equal(z, w)
    assert torch.equal(one.logits(z, x), other.logits(w, y))
    assert torch.equal(one.halt_logit(z, x), other.halt_logit(w, y))


PREFIX = "_orig_mod.model.inner."


class _Carry:
    """Stands for both carry classes of the official code."""


@contextmanager
def foreign_modules() -> Iterator[None]:
    """Let `_Carry` be pickled by an import path, `models.eqr`, that exists only here."""
    names = {"models": types.ModuleType("models"), "models.eqr": types.ModuleType("models.eqr")}
    names["models.eqr"].ModelCarry = _Carry
    before = _Carry.__module__, _Carry.__qualname__
    sys.modules.update(names)
    _Carry.__module__, _Carry.__qualname__ = "models.eqr", "ModelCarry"
    try:
        yield
    finally:
        _Carry.__module__, _Carry.__qualname__ = before
        for name in names:
            del sys.modules[name]


def training_state(
    model: EqR, ema: EqR | None = None, prefix: str = PREFIX, **changes: Any
) -> dict[str, Any]:
    """Return the dictionary that the official trainer saves, with a carry of foreign classes."""
    carry, inner = _Carry(), _Carry()
    shape = (3, model.config.positions_total, model.config.hidden_size)
    inner.z_H, inner.z_L = (torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2))
    carry.inner_carry, carry.steps = inner, torch.zeros(3, dtype=torch.int32)
    carry.halted = torch.ones(3, dtype=torch.bool)
    group = {"lr": 1e-4, "betas": (0.9, 0.95), "params": [0]}
    content = {
        "step": 77,
        "model": collections.OrderedDict(official_tensors(model, prefix)),
        "optimizers": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [group]}],
        "carry": carry,
        "rng": {"torch": torch.get_rng_state()},
        "numpy": np.random.default_rng(0).bit_generator.state,
        "python": random.getstate(),
        "train_dataset": {"order": np.arange(5), "seen": {1, 2}, "kind": collections.Counter("ab")},
        "config": official_config(model, **changes),
    }
    content["model"]._metadata = collections.OrderedDict({"": {"version": 1}})
    if ema is not None:
        shadow = official_tensors(ema, prefix)
        shadow.pop(prefix + "puzzle_emb.weights", None)  # a buffer: never averaged
        content["ema"] = {"mu": 0.999, "shadow": shadow}
    return content


def write(folder: Path, content: Any, **options: Any) -> Path:
    """Save a content as the official code does; its classes cannot be imported afterwards."""
    path = folder / "step_77.pth"
    with foreign_modules():
        torch.save(content, path, **options)
    return path


def refused(path: Path, *parts: str) -> None:
    """Check that a file is refused with one line that names it and says these things."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) <= 1000
    assert all(part in message for part in parts), message
