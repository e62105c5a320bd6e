"""Layers shared by all families.

Every layer computes in the dtype of its input: weights are cast to it, so a float64 state is mapped in float64.
Nothing here draws random numbers, detaches, or depends on `training`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.onednn import is_transformed
from eqrlab.core.models.products import fastest, linear

_NORM_EPS = 1e-5
_GRAPHS = 64  # compiled blocks that a thread may hold; beyond, torch would run them uncompiled, unsaid
_WRITTEN_OUT = 128  # longest sequence whose attention is computed without a fused kernel
_CACHE_VALUES = 1 << 20  # values of the widest activation that stay near the processor (4 MB in float32)


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library reuse the memory of freed activations; done once per process, when the first stack is built.

    Notes
    -----
    glibc returns large freed blocks to the system, and every step then has one page fault per page of them: up to
    half its time.  Freeing one block of 31 MiB raises both thresholds concerned (mallopt(3), M_MMAP_THRESHOLD); other
    C libraries are unaffected.
    """
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")


def truncated_normal(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw normals truncated at two sigma, rescaled to unit standard deviation: float32, on the generator's device."""
    low = math.erf(-2 / math.sqrt(2))
    device = generator.device if generator is not None else None
    u = torch.rand(shape, generator=generator, device=device, dtype=torch.float32)
    # The variance of a standard normal truncated at +-2 is 1 - 4 phi(2) / (2 Phi(2) - 1).
    deviation = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / -low)
    return u.mul_(-2 * low).add_(low).erfinv_().mul_(math.sqrt(2)).clamp_(-2, 2).div_(deviation)


def rms_norm(h: Tensor, eps: float = _NORM_EPS) -> Tensor:
    """Divide by the root mean square over the last axis: half precision in float32, other dtypes as they are."""
    wide = h.float() if h.dtype in (torch.bfloat16, torch.float16) else h
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(h.dtype)


class Linear(nn.Module):
    """Linear map with weight (out, in), cast to the dtype of its input; `bias` is what its bias starts as, if any.

    Attributes
    ----------
    fast
        Whether its products are computed by the fastest way, see `Reasoner.multiply`.
    """

    fast = False

    def __init__(self, features_in: int, features_out: int, bias: float | None = None):
        super().__init__()
        self.weight = nn.Parameter(truncated_normal((features_out, features_in)) / math.sqrt(features_in))
        self.bias = (
            None if bias is None else nn.Parameter(torch.full((features_out,), bias, dtype=torch.float32))
        )

    def forward(self, h: Tensor) -> Tensor:
        return linear(h, self.weight, self.bias, self.fast)


class Norm(nn.Module):
    """Root-mean-square norm over the last axis, times one weight per feature if `learned`."""

    def __init__(self, features: int, eps: float, learned: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features, dtype=torch.float32)) if learned else None

    def forward(self, h: Tensor) -> Tensor:
        normed = rms_norm(h, self.eps)
        return normed if self.weight is None else normed * self.weight.to(h.dtype)


class TokenPair(nn.Module):
    """Depthwise convolution along tokens, y_t = w_0 a_{t-1} + w_1 a_t + b with a_{-1} = 0: causal in token order."""

    def __init__(self, width: int):
        super().__init__()
        bound = math.sqrt(0.5)  # one over the root of the two values that a sum has
        self.weight, self.bias = (
            nn.Parameter(torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound))
            for shape in ((width, 1, 2), (width,))
        )

    def forward(self, h: Tensor, narrow: bool = False) -> Tensor:
        """Map h (n, T, width); `narrow` rounds weights and result to bfloat16."""
        weight, bias = (_rounded(p.to(h.dtype), narrow) for p in (self.weight, self.bias))
        before = F.pad(h, (0, 0, 1, 0))[:, :-1]
        return _rounded(
            torch.addcmul(torch.addcmul(bias, before, weight[:, 0, 0]), h, weight[:, 0, 1]), narrow
        )


def _rounded(h: Tensor, narrow: bool) -> Tensor:
    """Round to bfloat16 and back where `narrow`; sums between two roundings keep the dtype of the state."""
    return h.to(torch.bfloat16).to(h.dtype) if narrow else h


class SwiGLU(nn.Module):
    """down(silu(gate) * up), gate rows first; with a convolution, down(silu(conv(silu(gate) * up)))."""

    def __init__(self, size: int, width: int, convolution: bool = False):
        super().__init__()
        self.gate_up_proj = Linear(size, 2 * width)
        self.down_proj = Linear(width, size)
        self.dwconv = TokenPair(width) if convolution else None

    def forward(self, h: Tensor, narrow: bool = False) -> Tensor:
        """Map h (n, T, size); `narrow` rounds what follows silu(gate) * up to bfloat16 where there is a convolution."""
        gate, up = self.gate_up_proj(h).chunk(2, dim=-1)
        # In place: one pass through memory less; with gradients torch would copy the factor first.
        inner = F.silu(gate) * up if torch.is_grad_enabled() else F.silu(gate).mul_(up)
        if self.dwconv is None:
            return self.down_proj(inner)
        inner = _rounded(F.silu(self.dwconv(_rounded(inner, narrow), narrow)), narrow)
        weight = _rounded(self.down_proj.weight.to(h.dtype), narrow)
        return _rounded(linear(inner, weight, fast=self.down_proj.fast), narrow)


def rotary_angles(positions: Tensor, features: int, theta: float) -> Tensor:
    """Return rotary angles (T, features) for real positions (T,), float32: frequencies repeated for both halves."""
    frequency = 1.0 / theta ** (torch.arange(0, features, 2, dtype=torch.float32) / features)
    angles = torch.outer(positions.float(), frequency)
    return torch.cat((angles, angles), dim=-1)


class Rotary(nn.Module):
    """Rotary position encoding of queries and keys.

    Parameters
    ----------
    kind
        "rope": by place in the sequence, prefix included; "rope2d": first half of a head by board row, second half
        by board column.
    length
        Number of positions T.
    board, box
        (rows, columns) of the board and of its boxes, used by "rope2d"; one coordinate is left free between boxes, so
        that cells of one box are nearer to each other.  Without boxes coordinates are plain rows and columns.
    """

    cos: Tensor
    signed_sin: Tensor

    def __init__(
        self,
        kind: str,
        length: int,
        head_size: int,
        theta: float,
        board: tuple[int, int],
        box: tuple[int, int] | None = None,
    ):
        super().__init__()
        place = torch.arange(length)
        if kind == "rope":
            parts = [rotary_angles(place, head_size, theta)]
        else:
            half = head_size // 2
            coordinates = [place // board[1], place % board[1]]
            if box is not None:
                coordinates = [c + c // width for c, width in zip(coordinates, box, strict=True)]
            parts = [rotary_angles(c, half, theta) for c in coordinates]
        self.parts = len(parts)
        angles = torch.cat(parts, dim=-1)
        sign = (
            angles.new_tensor([-1.0, 1.0]).repeat_interleave(head_size // self.parts // 2).repeat(self.parts)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("signed_sin", angles.sin() * sign, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Move the tables with the weights; in whatever precision those are kept, angles stay as they were computed."""
        self.cos, self.signed_sin = (table.to(fn(table).device) for table in (self.cos, self.signed_sin))
        return self

    def forward(self, v: Tensor) -> Tensor:
        """Rotate v (n, T, ..., heads, head_size), the two halves of each part of a head against each other."""
        table = (v.shape[1], *(1,) * (v.ndim - 3), v.shape[-1])
        cos, sin = self.cos.to(v.dtype).view(table), self.signed_sin.to(v.dtype).view(table)
        halves = v.chunk(2 * self.parts, dim=-1)
        swapped = torch.cat([halves[i ^ 1] for i in range(len(halves))], dim=-1)
        return v * cos + swapped * sin


class Attention(nn.Module):
    """Non-causal self-attention without biases; rotary encoding is optional."""

    def __init__(self, hidden: int, heads: int, rotary: Rotary | None):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.qkv_proj = Linear(hidden, 3 * hidden)
        self.o_proj = Linear(hidden, hidden)

    def forward(self, h: Tensor) -> Tensor:
        n, length, hidden = h.shape
        qkv = self.qkv_proj(h).view(n, length, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(qkv[:, :, :2]).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        # Fused kernels have no forward-mode rule and no batched derivatives, and gain nothing on short sequences.
        if length <= _WRITTEN_OUT or forward_ad._current_level >= 0:
            weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o_proj(mixed.transpose(1, 2).reshape(n, length, hidden))


class Block(nn.Module):
    """Mix over tokens (attention, or a SwiGLU over the token axis), then a SwiGLU over channels.

    Each is added to its input and normalised after that, in the official code, or reads a normalised input (pre-norm).
    A SwiGLU over the token axis has its norm over that axis too.
    """

    def __init__(self, config: ReasonerConfig, rotary: Rotary | None, convolution: bool = False):
        super().__init__()
        c, length, hidden = config, config.positions_total, config.hidden_size
        if c.mixer == "mlp":
            self.mlp_t = SwiGLU(length, c.width_over_tokens)
        else:
            self.self_attn = Attention(hidden, c.num_heads, rotary)
        self.mixer, self.pre_norm = c.mixer, c.pre_norm
        self.mlp = SwiGLU(hidden, c.width_over_channels, convolution)
        self.norm1 = Norm(length if c.mixer == "mlp" else hidden, c.norm_eps, c.norm_weights)
        self.norm2 = Norm(hidden, c.norm_eps, c.norm_weights)
        token_width = hidden * 2 * c.width_over_tokens if c.mixer == "mlp" else 3 * length * hidden
        self.widest = max(token_width, length * 2 * c.width_over_channels)  # values per row

    def forward(self, h: Tensor, narrow: bool = False) -> Tensor:
        if self.mixer == "mlp":
            h = self._added(h.transpose(1, 2), self.norm1, self.mlp_t).transpose(1, 2)
        else:
            h = self._added(h, self.norm1, self.self_attn)
        return self._added(h, self.norm2, self.mlp, narrow)

    def _added(self, h: Tensor, norm: Norm, part: nn.Module, *how: bool) -> Tensor:
        if self.pre_norm:
            return h + part(norm(h), *how)
        return norm(h + part(h, *how))


def apply_in_turn(layers: nn.ModuleList, h: Tensor, narrow: bool) -> Tensor:
    """Map h (n, T, D) by one block after the other."""
    for layer in layers:
        h = layer(h, narrow)
    return h


@functools.cache
def _compiled() -> Callable[[nn.ModuleList, Tensor, bool], Tensor]:
    return torch.compile(apply_in_turn)


def apply_fused(layers: nn.ModuleList, h: Tensor, narrow: bool) -> Tensor:
    """Do what `apply_in_turn` does, compiled: a graph for each structure, dtype and shape, with or without gradient."""
    if h.device.type == "cpu":
        fastest()  # measured here at the latest, not within a compiled graph
    config = torch._dynamo.config  # of this thread
    if config.recompile_limit < _GRAPHS:
        config.recompile_limit = _GRAPHS
    return _compiled()(layers, h, narrow)


class Blocks(nn.Module):
    """A stack of blocks, the learned part of one level, and the norm at its end if it has one.

    Attributes
    ----------
    fused
        When the blocks run compiled by torch.compile: "never"; for "iteration", where no derivative is taken; also in
        "training", where one backward pass is taken.
    """

    def __init__(self, layers: list[Block], norm: Norm | None = None):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm
        self.fused = "never"
        self.rows_at_once = max(1, _CACHE_VALUES // max(layer.widest for layer in layers))
        keep_freed_memory()

    def forward(self, h: Tensor, narrow: bool = False) -> Tensor:
        """Map h (n, T, D); a CPU takes as many rows at once as keep the widest activation in its cache.

        `narrow` rounds to bfloat16 where the official convolutional SwiGLU does so.
        """
        h = self._mapped(h, narrow)
        return h if self.norm is None else self.norm(h)

    def _mapped(self, h: Tensor, narrow: bool) -> Tensor:
        groups = -(-h.shape[0] // self.rows_at_once)
        if torch.compiler.is_dynamo_compiling():  # not `is_compiling`: true in all threads while one compiles
            return apply_in_turn(self.layers, h, narrow)
        plain = self.fused == "never" or (self.fused == "iteration" and torch.is_grad_enabled())
        run = apply_in_turn if plain or is_transformed() else apply_fused
        if groups <= 1 or h.device.type != "cpu":
            return run(self.layers, h, narrow)
        return torch.cat([run(self.layers, part, narrow) for part in h.chunk(groups)])


class TokenEmbedding(nn.Module):
    """Token embedding scaled by sqrt(hidden), behind optional prefix positions, with optional learned positions.

    Parameters
    ----------
    prefix_len
        Prefix positions P in front of the grid; their content is one vector, stored or given for each puzzle,
        zero-padded to P * hidden.
    learned_positions
        Add a learned vector per position (all P + seq_len of them), both scaled by 1/sqrt(2).
    """

    prefix: Tensor | None

    def __init__(
        self, vocab: int, hidden: int, length: int, prefix_len: int, prefix_dim: int, learned_positions: bool
    ):
        super().__init__()
        scale = 1.0 / math.sqrt(hidden)
        self.hidden, self.prefix_len = hidden, prefix_len
        self.embedding_weight = nn.Parameter(truncated_normal((vocab, hidden)) * scale)
        self.position_weight = (
            nn.Parameter(truncated_normal((length, hidden)) * scale) if learned_positions else None
        )
        self.register_buffer("prefix", torch.zeros(prefix_dim, dtype=torch.float32) if prefix_len else None)

    def forward(self, inputs: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Map tokens (n, L) to the context x (n, P + L, hidden), with vectors (n, prefix_dim) or the stored one."""
        x = F.embedding(inputs.long(), self.embedding_weight)
        if self.prefix is not None:
            rows = self.prefix[None] if vectors is None else vectors
            prefix = F.pad(rows, (0, self.prefix_len * self.hidden - rows.shape[1]))
            prefix = prefix.view(len(rows), self.prefix_len, self.hidden).expand(len(x), -1, -1)
            x = torch.cat((prefix.to(x), x), dim=1)
        if self.position_weight is not None:
            x = 0.707106781 * (x + self.position_weight)
        return math.sqrt(self.hidden) * x
