"""Finding the weights in files of other trainers: containers, wrappers in names, averages beside raw weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eqrlab.core.checkpoints.torchfile import StoredTensor
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief

CONTAINERS = ("model", "model_state_dict", "state_dict", "model_state", "net", "network", "module", "weights")
_AVERAGE = re.compile(r"(^|_)(ema|avg|averages?|averaged|shadow|swa)(_|$)")
_ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # around any part of a model
_LEADING = {"model", "module", "inner", "net", "network", "online_model", "_forward_module"}
# Kept by averagers beside the weights.
_COUNTERS = {"initted", "step", "n_averaged", "num_updates", "decay", "mu"}
ROOTS = frozenset(
    "embed_tokens embed_pos absolute_pos_embedding lm_head q_head puzzle_emb L_level H_level layers "
    "H_init L_init init_hidden".split()
)  # how names of tensors begin in the four families


@dataclass
class Weights:
    """The weights of a file under stripped names, still in the file.

    Attributes
    ----------
    key
        Key of the raw weights in the file, None if they are at the top level.
    raw, average
        Raw weights and their averages; either may be empty.
    average_keys
        Keys of the averages; two are ambiguous.
    unread
        Keys named like averages whose content is not a dictionary of tensors.
    """

    key: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)
    average_keys: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def chosen(self, weights: str, config_says_ema: bool) -> dict[str, Any] | None:
        """Return the averages if they are requested or all there is, None if the raw weights are to be used.

        Raises
        ------
        CheckpointError
            If the requested weights are missing or ambiguous.
        """
        if weights == "raw" and not self.raw:
            raise CheckpointError("holds no raw weights, only their averages")
        asked = weights == "ema" or (weights == "auto" and config_says_ema) or not self.raw
        if not asked:
            return None
        if len(self.average_keys) > 1:
            raise CheckpointError(
                f"averages lie under {' and '.join(map(brief, self.average_keys[:3]))}; keep one of them"
            )
        if not self.average:
            if self.unread:
                raise CheckpointError(
                    f"{brief(self.unread[0])} is no dictionary of averaged tensors by name, which is what is read; "
                    "pass weights='raw' for the raw weights"
                )
            if weights == "ema":
                raise CheckpointError("holds no EMA weights")
            return None
        return self.average


def find_weights(content: dict[Any, Any]) -> Weights:
    """Find raw and averaged weights in the content of a file.

    Raises
    ------
    CheckpointError
        If there are no weights, or a tensor occurs twice.
    """
    found = Weights(next((k for k in CONTAINERS if k in content and not _is_tensor(content[k])), None))
    named = [k for k in content if isinstance(k, str) and _AVERAGE.search(k.lower())]
    for key in named:
        flat = _flat(content[key])
        if flat is not None:
            inner = split_names(_checked(flat, brief(key)))
            found.average_keys.append(key)
            found.average = inner[1] or inner[0]
        elif not (content[key] is None or isinstance(content[key], bool | int | float | str)):
            if not _is_tensor(content[key]):
                found.unread.append(key)
    if found.key is not None:
        value = content[found.key]
        tensors = _checked(_flat(value) or value, repr(found.key))
    elif found.average_keys and not any(map(_is_tensor, content.values())):
        return found
    else:
        tensors = _checked(content, "the file")
    found.raw, inside = split_names(tensors)
    if inside:
        found.average_keys.append(found.key or "the names of its tensors")
        found.average = inside
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor | Tensor)


def _flat(value: Any, depth: int = 2) -> dict[Any, Any] | None:
    """Return a dictionary of tensors, or the one in a dictionary of a known or averaging name."""
    if not isinstance(value, dict):
        return None
    if any(_is_tensor(v) for k, v in value.items() if k not in _COUNTERS):
        return value
    inside = (v for k, v in value.items() if isinstance(k, str) and (k in CONTAINERS or _AVERAGE.search(k)))
    return next((found for v in inside if depth and (found := _flat(v, depth - 1))), None)


def _checked(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{what} is no dictionary of tensors")
    kept = {}
    for name, tensor in value.items():
        if isinstance(name, str) and name in _COUNTERS and not _is_tensor(tensor):
            continue
        if not _is_tensor(tensor):
            raise CheckpointError(f"{what} is no dictionary of tensors: {brief(name)} is not a tensor")
        if not isinstance(name, str) or len(name) > 500:
            raise CheckpointError(
                f"{what} names a tensor by {brief(name)}, text of 500 characters at most is required"
            )
        kept[name] = tensor
    return kept


def split_names(tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Remove the prefixes of wrappers from the names of tensors; return raw weights and averages.

    Notes
    -----
    Wrappers are those of torch.compile, of training on several devices, of modules that hold the model, and of
    averaged copies, whose tensors are kept apart.  Counters of averagers are left out.

    Raises
    ------
    CheckpointError
        When two names become one.
    """
    raw: dict[str, Any] = {}
    average: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name in _COUNTERS and math.prod(tensor.shape) <= 1:
            continue
        parts = [part for part in name.split(".") if part not in _ANYWHERE]
        averaged = False
        while len(parts) > 1 and (parts[0] in _LEADING or _AVERAGE.search(parts[0])):
            averaged |= parts.pop(0) not in _LEADING
        group, short = average if averaged else raw, ".".join(parts)
        if short in group:
            raise CheckpointError(f"tensor {short} is there twice, with and without the wrappers of its name")
        group[short] = tensor
    if "n_averaged" in tensors and not average:  # torch.optim.swa_utils.AveragedModel
        return {}, raw
    return raw, average
