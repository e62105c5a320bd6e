"""Small random models of every family, for the tests of `eqrlab.core`."""

from __future__ import annotations

from typing import Any

import torch

from eqrlab.core import Reasoner, build
from eqrlab.core.models.puzzle_table import PuzzleTable
from tests.core_models import SMALL, shaken

SMOOTH: dict[str, tuple[str, dict[str, Any]]] = {
    "eqr": ("eqr", {}),
    "trm mlp": ("trm", {}),
    "trm mlp prefix": ("trm", {"prefix_len": 3, "prefix_dim": 20}),
    "trm attention prefix": (
        "trm",
        {"mixer": "attention", "positions": "rope", "prefix_len": 2, "prefix_dim": 16},
    ),
    "hrm": ("hrm", {"H_layers": 2}),
    "hrm prefix": ("hrm", {"prefix_len": 1, "prefix_dim": 16}),
    "hrm mlp": ("hrm", {"mixer": "mlp", "positions": "none"}),
    "urm": ("urm", {"conv_dtype": "state", "layers": 2}),
    "urm prefix": ("urm", {"conv_dtype": "state", "prefix_len": 1, "prefix_dim": 16}),
    "tied mlp": ("tied", {"H_cycles": 1, "L_cycles": 5}),
    "tied attention": ("tied", {"mixer": "attention", "positions": "rope2d"}),
    "feedforward mlp": ("feedforward", {"layers": 4}),
    "feedforward attention": ("feedforward", {"layers": 3, "mixer": "attention", "positions": "learned"}),
}
ROUGH: dict[str, tuple[str, dict[str, Any]]] = {"urm bfloat16": ("urm", {"prefix_len": 1, "prefix_dim": 16})}
VARIANTS = {**SMOOTH, **ROUGH}


def many_puzzles(task: str, rows: int, vocab_size: int, seq_len: int, hidden: int) -> Reasoner:
    """Return a tiny HRM with a table of so many puzzle embeddings, the first of them stored as its prefix."""
    torch.manual_seed(0)
    config = {"vocab_size": vocab_size, "seq_len": seq_len, "hidden_size": hidden, "num_heads": 2, "expansion": 0.5,
              "H_cycles": 1, "L_cycles": 1, "mixer": "attention", "positions": "rope", "prefix_len": 1,
              "prefix_dim": hidden}  # fmt: skip
    model = build("hrm", config, task).eval()
    model.table = PuzzleTable(rows, hidden, torch.randn(rows, hidden))
    model.embed_tokens.prefix.copy_(model.table.rows[0])
    return model


def small_model(name: str, seed: int = 0, **changes: Any) -> Reasoner:
    """Return a random model on 2x3 boards, halting head and prefix away from zero."""
    family, special = VARIANTS[name]
    torch.manual_seed(seed)
    return shaken(build(family, {**SMALL, "board": (2, 3), **special, **changes}, task="toy"))
