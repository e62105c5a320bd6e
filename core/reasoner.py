"""The System protocol, plain maps as systems, and the base class of all learned families."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eqrlab.core.layers import Linear, inner_width
from eqrlab.core.random import Noise

Streams = tuple[Tensor, ...]
MIXERS = ("mlp", "attention")
POSITIONS = ("none", "rope", "rope2d", "learned")
MOST_POSITIONS = 1 << 16


class System(Protocol):
    """A batch of independent maps z -> f(z; x).  Implement these four and every analysis works.

    Two optional attributes are honoured where a system has them: `noise_scale` (the amplitude its `step` multiplies
    the unit noise by) and `with_noise(noise_scale)` (the same system with another amplitude), as `MapSystem` and
    every `Reasoner` have.
    """

    def encode(self, inputs: Tensor) -> Any:
        """Map tokens (n, L) to a context: any pytree of tensors with leading axis n."""
        ...

    def initial(self, x: Any, generator: torch.Generator | None) -> Tensor:
        """Draw one start (n, *state_shape) for each row of the context from the restart law."""
        ...

    def step(self, z: Tensor, x: Any, noise: Noise | None = None) -> Tensor:
        """Apply ONE outer step.  `noise=None` is deterministic; else `noise(h)` gives standard normals like h."""
        ...

    def decode(self, z: Tensor, x: Any) -> Tensor:
        """Read the answer tokens (n, L) off a state."""
        ...


class MapSystem:
    """Wrap plain callables as a System, so that any torch map is analysed in three lines.

    Parameters
    ----------
    step
        `step(z, x)` or `step(z, x, noise)`: the map on states (n, ...).  It is called with two arguments when no
        noise is asked for.  With noise it gets a third, `noise(h)`, normals like h of amplitude `noise_scale`.
    initial
        `initial(x, generator)`: starts (n, ...), drawn from the generator.
    decode
        `decode(z, x)`: integer answers (n, L).  Default: every state decodes to the single token 0.
    encode
        `encode(inputs)`: context of tokens (n, L).  Default: the tokens themselves, as float64.
    noise_scale
        Amplitude of the noise handed to `step`; 0 means that the map has none.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g))
    >>> half.step(torch.ones(1, 3), None)
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        initial: Callable[[Any, torch.Generator | None], Tensor],
        decode: Callable[[Tensor, Any], Tensor] | None = None,
        encode: Callable[[Tensor], Any] | None = None,
        noise_scale: float = 0.0,
    ):
        self._step, self._initial, self._decode, self._encode = step, initial, decode, encode
        self.noise_scale = float(noise_scale)

    def encode(self, inputs: Tensor) -> Any:
        return inputs.double() if self._encode is None else self._encode(inputs)

    def initial(self, x: Any, generator: torch.Generator | None) -> Tensor:
        return self._initial(x, generator)

    def step(self, z: Tensor, x: Any, noise: Noise | None = None) -> Tensor:
        if noise is None:
            return self._step(z, x)
        unit, scale = noise, self.noise_scale
        return self._step(z, x, lambda h: scale * unit(h))

    def decode(self, z: Tensor, x: Any) -> Tensor:
        if self._decode is None:
            return torch.zeros(z.shape[0], 1, dtype=torch.long, device=z.device)
        return self._decode(z, x)

    def with_noise(self, noise_scale: float) -> MapSystem:
        """Return the same system with another noise amplitude."""
        return MapSystem(self._step, self._initial, self._decode, self._encode, noise_scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasonerConfig:
    """What all families share.

    Attributes
    ----------
    vocab_size, seq_len
        Tokens V and grid cells S of the task.
    hidden_size, num_heads, expansion, layers
        Width D, attention heads, SwiGLU expansion, blocks in a level.
    H_cycles, L_cycles
        Inner cycles of one outer step.
    mixer
        "mlp" (SwiGLU over the token axis) or "attention".
    positions
        "none", "rope" (place in the sequence), "rope2d" (row and column of the board), "learned".
    rope_theta, board, box
        Base of the rotary frequencies; rows and columns of the board (default: the square root of S) and, if "rope2d"
        shall leave a gap between boxes, of a box.
    prefix_len, prefix_dim
        Prefix positions in front of the grid and the length of their stored vector (0: none).
    noise_scale
        Test-time and training noise amplitude beta of every level call.
    halt_max_steps, halt_exploration
        Most outer steps a training segment takes, and the share of rows that must explore further.
    """

    vocab_size: int
    seq_len: int
    hidden_size: int = 64
    num_heads: int = 4
    expansion: float = 4.0
    layers: int = 1
    H_cycles: int = 2
    L_cycles: int = 2
    mixer: str = "mlp"
    positions: str = "none"
    rope_theta: float = 10000.0
    board: tuple[int, int] | None = None
    box: tuple[int, int] | None = None
    prefix_len: int = 0
    prefix_dim: int = 0
    noise_scale: float = 0.0
    halt_max_steps: int = 16
    halt_exploration: float = 0.1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}
            if type(value) not in kinds.get(str(field.type), (type(value),)):
                raise ValueError(f"{field.name} must be of type {field.type}, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name} must be finite, got {value}")
        for name in ("board", "box"):
            pair = getattr(self, name)
            whole = isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and min(pair) >= 1
            if pair is not None and not whole:
                raise ValueError(f"{name} must be two integers >= 1 (rows, columns), got {pair!r}")
        for name, choices in {"mixer": MIXERS, "positions": POSITIONS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} unknown; choose from {', '.join(choices)}")
        sizes = (
            "vocab_size",
            "seq_len",
            "hidden_size",
            "num_heads",
            "layers",
            "H_cycles",
            "L_cycles",
            "halt_max_steps",
        )
        for name, least in {
            **dict.fromkeys(sizes, 1),
            "prefix_len": 0,
            "prefix_dim": 0,
            "noise_scale": 0,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("expansion", "rope_theta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.positions_total > MOST_POSITIONS:
            raise ValueError(f"prefix_len + seq_len must be <= {MOST_POSITIONS}, got {self.positions_total}")
        if not 0 <= self.halt_exploration <= 1:
            raise ValueError(f"halt_exploration must be in [0, 1], got {self.halt_exploration}")
        if self.prefix_dim > self.prefix_len * self.hidden_size:
            raise ValueError(
                f"prefix_dim {self.prefix_dim} does not fit into {self.prefix_len} positions of {self.hidden_size}"
            )
        if self.mixer == "attention":
            if self.hidden_size % self.num_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}"
                )
            divisor = {"rope": 2, "rope2d": 4}.get(self.positions, 1)
            if (self.hidden_size // self.num_heads) % divisor:
                raise ValueError(f"{self.positions} needs a head size that is a multiple of {divisor}")
        if self.positions == "rope2d":
            rows, columns = self.board_shape
            if self.prefix_len or rows * columns != self.seq_len:
                raise ValueError(
                    f"rope2d needs a board of seq_len {self.seq_len} cells and no prefix, "
                    f"got board {rows}x{columns} and prefix_len {self.prefix_len}"
                )

    @property
    def positions_total(self) -> int:
        """Positions T of a state: prefix and grid."""
        return self.prefix_len + self.seq_len

    @property
    def least_weights(self) -> int:
        """A lower bound of the number of weights, for any family."""
        mixing = 4 * self.hidden_size**2
        if self.mixer == "mlp":
            mixing = 3 * self.positions_total * inner_width(self.positions_total, self.expansion)
        block = mixing + 3 * self.hidden_size * inner_width(self.hidden_size, self.expansion)
        return self.layers * block + 2 * self.vocab_size * self.hidden_size

    @property
    def board_shape(self) -> tuple[int, int]:
        """Rows and columns of the board."""
        side = round(self.seq_len**0.5)
        return self.board if self.board is not None else (side, self.seq_len // side)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """Build a configuration from plain values; unknown or missing names raise ValueError."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"unknown configuration keys {', '.join(unknown)}; {cls.__name__} knows {', '.join(known)}"
            )
        missing = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
        if missing:
            raise ValueError(f"configuration lacks {', '.join(missing)}")
        pairs = {k: tuple(values[k]) for k in ("board", "box") if isinstance(values.get(k), list)}
        return cls(**{**values, **pairs})


class Reasoner(nn.Module):
    """A learned System: a family's equations, its configuration, task and provenance.

    A subclass gives `schedule` (the level updates of one outer step, in order), `trained_updates` (how many of the
    last carry gradient in training), `initial` and `update`; everything else follows.

    Attributes
    ----------
    family, task
        Name of the family ("eqr", ...) and of the task ("sudoku6", ...).
    config
        The family's frozen configuration.
    provenance
        Where the weights come from: plain values, stored with every result.
    """

    family: ClassVar[str]
    streams: ClassVar[int] = 2
    config: Any

    def __init__(
        self, config: ReasonerConfig, task: str = "unknown", provenance: dict[str, Any] | None = None
    ):
        super().__init__()
        self.config, self.task, self.provenance = config, task, dict(provenance or {})
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.q_head = Linear(config.hidden_size, 2, bias=-5.0)  # halting starts out unlikely
        nn.init.zeros_(self.q_head.weight)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(streams, positions, channels); streams are (z_H, z_L) or (z,), positions include the prefix."""
        return (self.streams, self.config.positions_total, self.config.hidden_size)

    @property
    def noise_scale(self) -> float:
        """Noise amplitude beta of every level call when noise is on."""
        return self.config.noise_scale

    @property
    def schedule(self) -> tuple[str, ...]:
        """Level updates of one outer step, in order."""
        return (("L",) * self.config.L_cycles + ("H",)) * self.config.H_cycles

    @property
    @abstractmethod
    def trained_updates(self) -> int:
        """Number of level updates at the end of an outer step that carry gradient in training."""

    @abstractmethod
    def encode(self, inputs: Tensor) -> Tensor:
        """Map tokens (n, L) to the context x (n, T, D)."""

    @abstractmethod
    def initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw starts (n, *state_shape) from the family's restart law, in the dtype and on the device of x."""

    @abstractmethod
    def update(self, streams: Streams, x: Tensor, level: str, noise: Noise | None) -> Streams:
        """Apply one level update to the streams, each (n, T, D), without changing them in place."""

    def step(self, z: Tensor, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Apply one outer step to z (n, *state_shape); pure, differentiable, in the dtype of z.

        Raises
        ------
        ValueError
            When z has not the model's state shape.
        """
        if tuple(z.shape[1:]) != self.state_shape:
            raise ValueError(
                f"a state of shape (n, {', '.join(map(str, self.state_shape))}) is required, got {tuple(z.shape)}"
            )
        streams = z.unbind(1)
        for level in self.schedule:
            streams = self.update(streams, x, level, noise)
        return torch.stack(streams, dim=1)

    def logits(self, z: Tensor, x: Tensor) -> Tensor:
        """Return answer logits (n, S, V), read from the first stream behind the prefix."""
        return self.lm_head(z[:, 0])[:, self.config.prefix_len :]

    def halt_logit(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the halting logit (n,), read from position 0, in float32 or better."""
        return self.q_values(z)[:, 0]

    def q_values(self, z: Tensor) -> Tensor:
        """Return both outputs (n, 2) of the halting head (halt, continue), in float32 or better."""
        first = z[:, 0, 0]
        return self.q_head(first if first.dtype == torch.float64 else first.float())

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        """Return answer tokens (n, S)."""
        return self.logits(z, x).argmax(-1)

    def replace(self, **changes: Any) -> Reasoner:
        """Return a copy that shares the weights and differs in configuration values such as `noise_scale`."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, **changes)
        return other

    def with_noise(self, noise_scale: float) -> Reasoner:
        """Return the same model with another noise amplitude."""
        return self.replace(noise_scale=float(noise_scale))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lm_head.weight.device


def cast_floating(x: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """Move every tensor of a context to a device, and its floating tensors to a dtype (None: leave as it is)."""

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return pytree.tree_map(cast, x)


def take_rows(x: Any, index: Tensor | slice) -> Any:
    """Take rows of the leading axis of every tensor of a context."""
    return pytree.tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, x)
