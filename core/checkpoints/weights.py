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


_LONGEST = 200  # characters of a name without its wrappers, and of a key that is looked into


class NoTensorsError(CheckpointError):
    """What should be weights is no dictionary of tensors."""


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

    Notes
    -----
    Parts of a file may be shared: each is looked into once, however many keys lead to it.

    Raises
    ------
    NoTensorsError
        If there are no weights.
    CheckpointError
        If a tensor occurs twice, or has too long a name.
    """
    looked: dict[tuple[int, int], dict[Any, Any] | None] = {}
    holders = [key for key in CONTAINERS if key in content and not _is_tensor(content[key])]
    found = Weights(next((k for k in holders if _flat(content[k], looked)), next(iter(holders), None)))
    named = {key: _flat(content[key], looked) for key in content if _names_average(key)}
    tensors: dict[str, Any] = {}
    if found.key is not None:
        value = content[found.key]
        tensors = _checked(_flat(value, looked) or value, repr(found.key))
    elif not any(named.values()) or any(map(_is_tensor, content.values())):
        tensors = _checked(content, "the file")
    found.raw, inside = split_names(tensors)
    known = set(found.raw) | set(inside)
    read: dict[int, dict[str, Any] | None] = {}
    for key in named:
        part = id(content[key])
        if part not in read:
            read[part] = _averages(content[key], named[key], key, known)
        average = read[part]
        if average:
            found.average_keys.append(key)
            found.average = average
        elif average is not None:
            found.unread.append(key)
    if inside:
        found.average_keys.append(found.key or "the names of its tensors")
        found.average = inside
    return found


def _averages(value: Any, flat: dict[Any, Any] | None, key: str, known: set[str]) -> dict[str, Any] | None:
    """Return the averages under a key, none if they are not those of the known tensors, None for mere numbers."""
    if _is_tensor(value) or _is_number(value):
        return None
    inside = value if flat is None else flat
    if isinstance(inside, dict) and inside and all(map(_is_number, inside.values())):
        return None  # metrics, for example
    if flat is None:
        return {}
    try:
        raw, average = split_names(_checked(flat, brief(key)))
    except NoTensorsError:
        if known:
            return {}
        raise
    found = average or raw
    return found if not known or not known.isdisjoint(found) else {}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StoredTensor | Tensor)


def _names_average(key: Any) -> bool:
    return isinstance(key, str) and len(key) <= _LONGEST and _AVERAGE.search(key.lower()) is not None


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, a text, or a tensor of at most one value."""
    if _is_tensor(value):
        return math.prod(value.shape) <= 1
    return value is None or isinstance(value, bool | int | float | str)


def _flat(value: Any, looked: dict[tuple[int, int], Any], depth: int = 2) -> dict[Any, Any] | None:
    """Return a dictionary of tensors, or the one in a dictionary of a known or averaging name.

    `looked` keeps what was found in every part, for parts that occur again.
    """
    if not isinstance(value, dict):
        return None
    place = id(value), depth
    if place not in looked:
        if any(_is_tensor(v) for k, v in value.items() if k not in _COUNTERS):
            looked[place] = value
        else:
            inside = (v for k, v in value.items() if depth and (k in CONTAINERS or _names_average(k)))
            looked[place] = next((flat for v in inside if (flat := _flat(v, looked, depth - 1))), None)
    return looked[place]


def _checked(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise NoTensorsError(f"{what} is no dictionary of tensors")
    kept = {}
    for name, tensor in value.items():
        if isinstance(name, str) and name in _COUNTERS and not _is_tensor(tensor):
            continue
        if not _is_tensor(tensor):
            raise NoTensorsError(f"{what} is no dictionary of tensors: {brief(name)} is not a tensor")
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
        if len(short) > _LONGEST:
            raise CheckpointError(
                f"tensor {brief(short)} has a name of {len(short)} characters, at most {_LONGEST} are read"
            )
        if short in group:
            raise CheckpointError(f"tensor {short} is there twice, with and without the wrappers of its name")
        group[short] = tensor
    if "n_averaged" in tensors and not average:  # torch.optim.swa_utils.AveragedModel
        return {}, raw
    return raw, average
