"""Configuration that all families share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from eqrlab.core.messages import brief

MIXERS = ("mlp", "attention")
POSITIONS = ("none", "rope", "rope2d", "learned")
_LATER = {"mlp_width", "mixer_width", "pre_norm", "norm_weights", "final_norm", "norm_eps"}
MOST_POSITIONS = 1 << 16
MOST_UPDATES = 1 << 16
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "int | None": (int, type(None)),
}  # what a field with this annotation may hold
ROPE_THETAS = (1e-6, 1e12)  # beyond, frequencies are infinite or zero in float32


def inner_width(size: int, expansion: float) -> int:
    """Return the inner width of a SwiGLU over `size` features: two thirds of the expansion, up to a multiple of 256."""
    return -(-round(expansion * size * 2 / 3) // 256) * 256


def _finite(name: str, value: float) -> float:
    """Return a number, which may be an integer, as a float."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {brief(value)}")
    return number


def require_types(config: Any) -> None:
    """Check that the fields of a frozen configuration hold what their annotations say; floats may be given as integers.

    Raises
    ------
    ValueError
        Naming the first field that holds something else, or no finite number.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if type(value) not in _KINDS.get(str(field.type), (type(value),)):
            raise ValueError(f"{field.name} must be of type {field.type}, got {value!r}")
        if str(field.type) == "float":
            object.__setattr__(config, field.name, _finite(field.name, value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReasonerConfig:
    """Configuration that all families share.

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
    mlp_width, mixer_width
        Inner widths of the SwiGLUs over channels and over tokens; None: those of `expansion`.
    pre_norm, norm_weights, final_norm, norm_eps
        Whether blocks normalise before they mix instead of after; whether norms have learned weights; whether such a
        norm ends every stack; and the number that norms add to the mean square.
    noise_scale
        Test-time and training noise amplitude beta of every level call.
    halt_max_steps, halt_exploration
        Largest number of outer steps for which a row is trained, and the share of rows that must explore further.
    """

    smoothing: ClassVar[
        dict[str, Any]
    ] = {}  # changes that take roundings out of the map, see Reasoner.smooth

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
    mlp_width: int | None = None
    mixer_width: int | None = None
    pre_norm: bool = False
    norm_weights: bool = False
    final_norm: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        # Types first: a file may hold anything, and the comparisons below would raise their own errors, or none.
        require_types(self)
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
        for name in ("expansion", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        lowest, highest = ROPE_THETAS
        if not lowest <= self.rope_theta <= highest:
            raise ValueError(f"rope_theta must be in [{lowest:g}, {highest:g}], got {self.rope_theta}")
        for name in ("mlp_width", "mixer_width"):
            width = getattr(self, name)
            if width is not None and width < 1:
                raise ValueError(f"{name} must be >= 1, got {width}")
        # Limits on size and work: a small file must not be able to ask for unlimited memory or time.
        if self.positions_total > MOST_POSITIONS:
            raise ValueError(f"prefix_len + seq_len must be <= {MOST_POSITIONS}, got {self.positions_total}")
        updates = self.H_cycles * (self.L_cycles + 1)
        if updates > MOST_UPDATES:
            raise ValueError(f"H_cycles * (L_cycles + 1) must be <= {MOST_UPDATES}, got {updates}")
        if not 0 <= self.halt_exploration <= 1:
            raise ValueError(f"halt_exploration must be in [0, 1], got {self.halt_exploration}")
        # Values that are possible alone but not together.
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
    def stacked_blocks(self) -> int:
        """Number of blocks with weights of their own."""
        return self.layers

    @property
    def least_weights(self) -> int:
        """A lower bound of the number of weights, for any family."""
        mixing = 4 * self.hidden_size**2
        if self.mixer == "mlp":
            mixing = 3 * self.positions_total * self.width_over_tokens
        block = mixing + 3 * self.hidden_size * self.width_over_channels
        return self.stacked_blocks * block + 2 * self.vocab_size * self.hidden_size

    @property
    def width_over_channels(self) -> int:
        """Inner width of the SwiGLU over channels."""
        return self.mlp_width or inner_width(self.hidden_size, self.expansion)

    @property
    def width_over_tokens(self) -> int:
        """Inner width of the SwiGLU over tokens."""
        return self.mixer_width or inner_width(self.positions_total, self.expansion)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as files and results store them: without newer options that have their default value."""
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):  # a family may have defaults of its own
            if field.name in _LATER and values[field.name] == field.default:
                del values[field.name]
        return values

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
