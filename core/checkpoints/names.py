"""Names of tensors in other code: one table of rules, and tensors of a file that are parts of one tensor here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.checkpoints.torchfile import read_stored
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief

_WEIGHT = r"\.(?:weight|scale|gamma|g)$"
# Applied in this order to a name without its wrappers; names of the official code are left as they are.
_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # Outside of the stacks.
        (r"^(?:embed_tokens|tok_embeddings?|token_embeddings?|tok_emb|token_emb|input_embedding|input_emb|embedding"
         r"|embed|wte)\.weight$", "embed_tokens.embedding_weight"),
        (r"^(?:output_head|out_head|output|to_logits|unembed|head)\.", "lm_head."),
        (r"^(?:Q_head|q_net|halt_head|halting_head|to_halt)\.", "q_head."),
        (r"^puzzle_emb(?:edding)?\.(?:weight|embedding_weight)$", "puzzle_emb.weights"),
        (r"^(?:y_init(?:ial)?|z_?H_init|init_(?:y|H|z_?H))$", "H_init"),
        (r"^(?:z_init(?:ial)?|z_?L_init|init_(?:z|L|z_?L))$", "L_init"),
        # Stacks.
        (r"^(?:H_net|H_module|h_level|high_level)\.", "H_level."),
        (r"^(?:L_net|L_module|l_level|low_level|level|reasoning_module)\.", "L_level."),
        (r"^((?:[HL]_level\.)?)blocks\.(?=\d)", r"\1layers."),
        (r"^((?:[HL]_level\.)?)(?:final_norm|norm_f|ln_f|norm_out|norm)" + _WEIGHT, r"\1norm.weight"),
        # Inside of a block.
        (r"\.(?:self_attention|attention|attn)\.", ".self_attn."),
        (r"\.(?:feed_forward|ffn|ff)\.", ".mlp."),
        (r"\.(?:token_mlp|mlp_tokens?|token_mixer|token_mix)\.", ".mlp_t."),
        (r"\.self_attn\.(?:to_qkv|wqkv|qkv|c_attn)\.", ".self_attn.qkv_proj."),
        (r"\.self_attn\.(?:to_)?(?:w?([qkv])|(q)uery|(k)ey|(v)alue)\.", r".self_attn.\1\2\3\4_proj."),
        (r"\.self_attn\.(?:out_proj|to_out|wo|proj|out|o)\.", ".self_attn.o_proj."),
        (r"\.(mlp|mlp_t)\.(?:gate_up|w_gate_up)\.", r".\1.gate_up_proj."),
        (r"\.(mlp|mlp_t)\.(?:w_)?(gate|up|down)\.", r".\1.\2_proj."),
        (r"\.(?:norm_?1|ln_?1|input_layernorm|(?:pre_|post_)?att(?:n|ention)_norm|norm_attn|mixer_norm|pre_norm_?1"
         r"|post_norm_?1)" + _WEIGHT, ".norm1.weight"),
        (r"\.(?:norm_?2|ln_?2|post_attention_layernorm|(?:pre_|post_)?(?:mlp|ffn)_norm|norm_mlp|pre_norm_?2"
         r"|post_norm_?2)" + _WEIGHT, ".norm2.weight"),
    )
)  # fmt: skip
_BEFORE = re.compile(
    r"\.(?:input_layernorm|post_attention_layernorm|pre_\w*norm\w*|attention_norm|ffn_norm)\."
)
_AFTER = re.compile(r"\.post_(?!attention_layernorm)\w*norm\w*\.")
_ROTARY = re.compile(r"(^|\.)(rotary\w*|rope\w*|rotary_pos_emb)\.(?:\w+\.)*(inv_freqs?|freqs|cos\w*|sin\w*)$")
_PARTS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp_t.gate_up_proj": ("mlp_t.gate_proj", "mlp_t.up_proj"),
}  # tensors that others keep apart, in the order of their rows
_NUMBERED = re.compile(r"^(.*\.mlp(?:_t)?)\.w1\.weight$")


class Joined:
    """Tensors of a file that form one tensor of these models, with their rows stacked."""

    def __init__(self, name: str, parts: list[Any]):
        if any(len(p.shape) < 1 or p.shape[1:] != parts[0].shape[1:] for p in parts):
            shapes = ", ".join(str(tuple(p.shape)) for p in parts)
            raise CheckpointError(
                f"the parts of {name} have the shapes {shapes}, rows of one length are required"
            )
        self.parts = parts

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (sum(p.shape[0] for p in self.parts), *self.parts[0].shape[1:])


def read_named(tensors: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Read the values of tensors of a file, and put together those that are `Joined`."""
    parts = {
        f"{name}/{k}": part
        for name, tensor in tensors.items()
        for k, part in enumerate(tensor.parts if isinstance(tensor, Joined) else [tensor])
    }
    read = read_stored(parts, path)
    return {
        name: torch.cat([read[f"{name}/{k}"] for k in range(len(tensor.parts))])
        if isinstance(tensor, Joined)
        else read[f"{name}/0"]
        for name, tensor in tensors.items()
    }


@dataclass
class Spelled:
    """Tensors under the names of the official code.

    Attributes
    ----------
    tensors
        Name to a tensor in the file, or to several `Joined`.
    rotary
        Tables of rotary encodings, which follow from the configuration; the official code does not store them.
    pre_norm
        Whether blocks normalise before they mix, where the names of norms say so.
    renamed
        Names that changed, other than by their wrappers.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    rotary: dict[str, Any] = field(default_factory=dict)
    pre_norm: bool | None = None
    renamed: int = 0


def spelled(tensors: dict[str, Any]) -> Spelled:
    """Rename tensors, whose wrapper prefixes are already removed, to the names of the official code.

    Raises
    ------
    CheckpointError
        When two names become one, or the parts of a tensor do not fit together.
    """
    found = Spelled()
    for name, tensor in _numbered(tensors).items():
        if _ROTARY.search(name):
            found.rotary[name] = tensor
            continue
        if _BEFORE.search(name) or _AFTER.search(name):
            found.pre_norm = bool(_BEFORE.search(name))
        official = name
        for pattern, replacement in _RULES:
            official = pattern.sub(replacement, official)
        if official in found.tensors:
            raise CheckpointError(f"two tensors have names that mean {official}, one of them {brief(name)}")
        found.tensors[official] = tensor
        found.renamed += official not in tensors
    _put_stack_into_level(found.tensors)
    _join(found.tensors)
    return found


def _put_stack_into_level(tensors: dict[str, Any]) -> None:
    """Rename the only stack of a two-state model, stored by some code outside of any level, to the official level."""
    if "H_init" not in tensors or any(name.startswith(("L_level.", "H_level.")) for name in tensors):
        return
    for name in [n for n in tensors if n.startswith("layers.") or n == "norm.weight"]:
        tensors[f"L_level.{name}"] = tensors.pop(name)


def _numbered(tensors: dict[str, Any]) -> dict[str, Any]:
    """Identify the projections w1, w2, w3 of a SwiGLU by their shapes: the output projection is the transposed one.

    If all are square, w2 is the output projection, as in Llama.  If there are two, one holds both input halves.
    """
    renamed = dict(tensors)
    for first in [name for name in tensors if _NUMBERED.match(_canonical_mlp(name))]:
        base = first.removesuffix(".w1.weight")
        numbered = {k: f"{base}.{k}.weight" for k in ("w1", "w2", "w3") if f"{base}.{k}.weight" in tensors}
        shapes = {k: tuple(tensors[name].shape) for k, name in numbered.items()}
        if len(numbered) == 3:
            odd = [k for k in shapes if [s == shapes[k] for s in shapes.values()].count(True) == 1]
            down = odd[0] if len(odd) == 1 else "w2"
            roles = dict(zip([k for k in numbered if k != down], ("gate_proj", "up_proj"), strict=True))
            roles[down] = "down_proj"
        else:
            roles = {"w1": "gate_up_proj", "w2": "down_proj"}
        for k, name in numbered.items():
            renamed[f"{base}.{roles.get(k, k)}.weight"] = renamed.pop(name)
    for name in [n for n in renamed if n.endswith(".w12.weight")]:  # both halves in one, and w3 back
        base = name.removesuffix(".w12.weight")
        renamed[f"{base}.gate_up_proj.weight"] = renamed.pop(name)
        if f"{base}.w3.weight" in renamed:
            renamed[f"{base}.down_proj.weight"] = renamed.pop(f"{base}.w3.weight")
    return renamed


def _canonical_mlp(name: str) -> str:
    return re.sub(r"\.(?:feed_forward|ffn|ff|token_mlp|mlp_tokens?|token_mixer|token_mix)\.", ".mlp.", name)


def _join(tensors: dict[str, Any]) -> None:
    """Replace the parts of a tensor by the whole, if all of them are there."""
    for name in list(tensors):
        for whole, parts in _PARTS.items():
            if f".{parts[0]}." not in name:
                continue
            names = [name.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            target = name.replace(f".{parts[0]}.", f".{whole}.")
            if all(n in tensors for n in names) and target not in tensors:
                tensors[target] = Joined(target, [tensors.pop(n) for n in names])
