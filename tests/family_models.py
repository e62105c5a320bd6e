"""Small random models of every family, for the tests of `eqrlab.core`."""

from __future__ import annotations

from typing import Any

import torch

from eqrlab.core import Reasoner, build

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


def small_model(name: str, seed: int = 0, **changes: Any) -> Reasoner:
    """Return a random model on 2x3 boards, halting head and prefix away from zero."""
    family, special = VARIANTS[name]
    config = {
        "vocab_size": 5,
        "seq_len": 6,
        "hidden_size": 16,
        "num_heads": 2,
        "expansion": 1.0,
        "board": (2, 3),
        "noise_scale": 0.1,
    }
    torch.manual_seed(seed)
    model = build(family, {**config, **special, **changes}, task="toy")
    with torch.no_grad():
        model.q_head.weight.normal_()
        if model.config.prefix_len:
            model.embed_tokens.prefix.normal_(std=0.3)
    return model.eval()
