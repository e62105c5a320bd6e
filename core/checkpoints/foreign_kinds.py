"""What a file that is not a checkpoint of these families seems to be, so that a message can say what to do."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from eqrlab.core.messages import brief

_MOST = 1 << 17  # bytes of a config.json that is looked into
_MOST_GROUPS, _MOST_NAMES, _MOST_NAME = 100, 1000, 500  # dictionaries, names in each, characters looked at
# Keys that only the files of one kind have, and what is said of them; the first that fits.
_KEYS = (
    ({"pytorch-lightning_version"}, "a Lightning checkpoint of another model"),
    ({"param_groups", "state"}, "the state of an optimiser: load the file of the model"),
    ({"base_model_name_or_path", "peft_type"}, "an adapter: load the whole model"),
)
_ADAPTER = ("lora_A", "lora_B")
_TRANSFORMER = (
    "self_attn.q_proj",
    "attn.c_attn",
    "attention.self.query",
    "input_layernorm",
    "SelfAttention.q",
)


def seems_to_be(content: dict[Any, Any], path: Path) -> str:
    """Return what a file seems to be, as the end of a message; nothing if it is not recognised."""
    keys = {key for key in content if isinstance(key, str)}
    said = next((text for marks, text in _KEYS if marks <= keys), None)
    # A dictionary that is there under several keys counts once.
    groups = {id(group): group for group in (content, *content.values()) if isinstance(group, dict)}
    names = [
        name[:_MOST_NAME]
        for group in islice(groups.values(), _MOST_GROUPS)
        for name in islice(group, _MOST_NAMES)
        if isinstance(name, str)
    ]
    if said is None and any(mark in name for mark in _ADAPTER for name in names):
        said = "an adapter (LoRA): load the whole model"
    if said is None:
        said = _hugging_face(path)
    if said is None and any(mark in name for mark in _TRANSFORMER for name in names):
        said = "a transformer that is not recursive, as Hugging Face names its tensors"
    return f"; it seems to be {said}" if said else ""


def _hugging_face(path: Path) -> str | None:
    """Read off the config.json beside a file which class of transformers it is of."""
    try:
        with open(path.with_name("config.json"), "rb") as file:
            config = json.loads(file.read(_MOST))
        (architecture, *_) = config["architectures"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return f"a Hugging Face model by the config.json beside it, {brief(architecture)}"
