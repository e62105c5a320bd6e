"""The base class of all learned families."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.layers import Block, Blocks, Linear, Norm, Rotary, TokenEmbedding, truncated_normal
from eqrlab.core.models.puzzle_table import PuzzleTable, require_identifiers
from eqrlab.core.models.system import dtype_name
from eqrlab.core.random import Noise
from eqrlab.core.shown import Facts, Shown

Streams = tuple[Tensor, ...]


class Reasoner(Shown, nn.Module):
    """A learned System: a family's equations, its configuration, task and provenance.

    A family builds its stacks of blocks, defines `apply_level`, which maps one stream by one of the stacks, and says
    where its runs start, by the names of vectors to store or by `initial`.  Everything else follows.

    Attributes
    ----------
    family, task
        Name of the family ("eqr", ...) and of the task ("sudoku6", ...).
    config, config_class
        The family's frozen configuration, and its class.
    provenance
        Where the weights come from: plain values, stored with every result.
    streams
        2 for (z_H, z_L), 1 for a single z.
    stored_starts
        Names of the vectors, one per stream, from which every run starts if a family has no random starts.
    random_starts
        Whether the family is trained from random starts.  If not, `initial` returns one stored state whatever the
        generator is, all restarts of a puzzle are the same run, and `random_initial` is outside the training law.
    continue_head
        Whether training lets a row halt when its halting logit exceeds its continuation logit, instead of 0, and trains
        the continuation logit towards the value of one more step.
    table
        Puzzle embeddings by identifier, of a model trained with more than one; None: the stored prefix is all there is.
    """

    family: ClassVar[str]
    streams: ClassVar[int] = 2
    stored_starts: ClassVar[tuple[str, ...]] = ()
    random_starts: bool = False
    continue_head: ClassVar[bool] = False
    config_class: ClassVar[type[ReasonerConfig]] = ReasonerConfig
    config: Any

    def __init__(
        self, config: ReasonerConfig, task: str = "unknown", provenance: dict[str, Any] | None = None
    ):
        super().__init__()
        self.config, self.task, self.provenance = config, task, dict(provenance or {})
        self.table: PuzzleTable | None = None
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.q_head = Linear(config.hidden_size, 2, bias=-5.0)  # halting starts out unlikely
        nn.init.zeros_(self.q_head.weight)
        learned = config.positions == "learned"
        self.embed_tokens = TokenEmbedding(
            config.vocab_size,
            config.hidden_size,
            config.positions_total,
            config.prefix_len,
            config.prefix_dim,
            learned,
        )

    def _facts(self) -> Facts:
        lines = {
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}, {dtype_name(self.dtype)} on {self.device}",
            "state": f"{' x '.join(map(str, self.state_shape))} (streams, positions, channels), "
            f"{math.prod(self.state_shape):,} numbers",
            "outer step": f"{len(self.schedule)} level calls, noise {self.noise_scale:g}",
            "weights": _origin(self.provenance),
        }
        if self.identifiers > 1:
            lines["identifiers"] = f"{self.identifiers:,} of puzzles"
        title = f"{type(self).__name__}, a model of family {self.family} for {self.task}"
        return Facts(title, lines, {"configuration": self.config.to_dict(), "provenance": self.provenance})

    def stack(self, layers: int, convolution: bool = False) -> Blocks:
        """Build a stack of blocks according to the configuration; they share one rotary encoding."""
        c, rotary = self.config, None
        if c.mixer == "attention" and c.positions.startswith("rope"):
            head_size = c.hidden_size // c.num_heads
            rotary = Rotary(c.positions, c.positions_total, head_size, c.rope_theta, c.board_shape, c.box)
        norm = Norm(c.hidden_size, c.norm_eps, learned=True) if c.final_norm else None
        return Blocks([Block(c, rotary, convolution) for _ in range(layers)], norm)

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
        """Level updates of one outer step, in order: "L" and "H" of a pair of streams, "z" of a single one."""
        cycle = ("L",) * self.config.L_cycles + ("H",) if self.streams == 2 else ("z",) * self.config.L_cycles
        return cycle * self.config.H_cycles

    def draw_starts(self) -> None:
        """Draw the vectors (D,) that runs start from, once, when the stacks are built; they are never trained."""
        for name in self.stored_starts:
            self.register_buffer(name, truncated_normal((self.config.hidden_size,)))

    @property
    def trained_updates(self) -> int:
        """Number of level updates at the end of an outer step that carry gradient in training: those of a cycle."""
        return len(self.schedule) // self.config.H_cycles

    def initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw starts (n, *state_shape) from the family's restart law, in the dtype and on the device of x.

        Unless a family has another law, each stream holds its stored vector at every position of every row.
        """
        z = torch.stack([self.get_buffer(name) for name in self.stored_starts]).to(x)
        return z.view(1, self.streams, 1, -1).expand(x.shape[0], *self.state_shape).contiguous()

    @abstractmethod
    def apply_level(self, level: str, z: Tensor, injection: Tensor) -> Tensor:
        """Map one stream z (n, T, D), driven by an injection of that shape, by the blocks of a level; noise-free."""

    @property
    def identifiers(self) -> int:
        """Number of puzzle identifiers that the model knows: 0 without prefix positions, 1 with one stored prefix."""
        return self.table.count if self.table is not None else int(self.config.prefix_len > 0)

    def encode(self, inputs: Tensor, identifiers: Tensor | None = None) -> Tensor:
        """Map tokens (n, L) to the context x (n, T, D).

        Parameters
        ----------
        identifiers
            (n,) integers that choose the puzzle embedding in front of the tokens.  None: the blank identifier, 0.  A
        model without prefix positions ignores them.

        Raises
        ------
        ValueError
            For another shape or number of tokens than the model's, tokens outside of its vocabulary, or identifiers
            that it does not have.
        """
        length, size = self.config.seq_len, self.config.vocab_size
        if inputs.ndim != 2:
            raise ValueError(f"encode takes rows of tokens (n, {length}), got {tuple(inputs.shape)}")
        if inputs.shape[1] != length:
            raise ValueError(
                f"this model ({self.task}) takes {length} tokens a puzzle, got {inputs.shape[1]}: give puzzles of its "
                "own size"
            )
        outside = (inputs < 0) | (inputs >= size)
        if outside.any():
            raise ValueError(
                f"this model ({self.task}) knows the tokens 0 to {size - 1}, got token {int(inputs[outside][0])}"
            )
        if identifiers is None and self.table is not None:
            warnings.warn(
                f"this model has {self.table.count} puzzle identifiers and was given none: it runs with the blank one, "
                "which no puzzle was trained with",
                stacklevel=2,
            )
        if identifiers is None or not self.identifiers:
            return self.embed_tokens(inputs)
        if identifiers.shape != inputs.shape[:1]:
            raise ValueError(
                f"{len(inputs)} puzzles need as many identifiers, got {tuple(identifiers.shape)}"
            )
        if self.table is None:
            require_identifiers(identifiers, 1)
            return self.embed_tokens(inputs)
        return self.embed_tokens(inputs, self.table(identifiers).to(self.device))

    def random_initial(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw starts (n, *state_shape) of truncated standard normals, whatever the family's restart law.

        Notes
        -----
        Use it as `initial=` of `attractors.sample` for families with a stored start, to study their landscape
        beyond that start.  The models never saw such starts in training (`random_starts` is False), so results
        must be labelled as outside their training law.
        """
        z = truncated_normal((x.shape[0], *self.state_shape), generator)
        return z.to(device=x.device, dtype=x.dtype)

    def update(self, streams: Streams, x: Tensor, level: str, noise: Noise | None) -> Streams:
        """Apply one level update to the streams, each (n, T, D), without changing them in place.

        z_L is driven by z_H + x and z_H by z_L; a single z is driven by x.
        """
        if level == "L":
            return streams[0], self._noisy(self.apply_level(level, streams[1], streams[0] + x), noise)
        injection = streams[1] if level == "H" else x
        return self._noisy(self.apply_level(level, streams[0], injection), noise), *streams[1:]

    def _noisy(self, z: Tensor, noise: Noise | None) -> Tensor:
        return z if noise is None or not self.noise_scale else z + self.noise_scale * noise(z)

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
    def compiled(self) -> str:
        """When the blocks run compiled: "never", for "iteration", or in "training" too; see `compile`."""
        return next((module.fused for module in self.modules() if isinstance(module, Blocks)), "never")

    def compile(self, when: str = "iteration") -> None:
        """Let torch.compile fuse the blocks, in place; copies that share the weights share it.

        Parameters
        ----------
        when
            "iteration": where no derivative is taken; "training": also where one backward pass is; "never".

        Raises
        ------
        ValueError
            For another word.

        Notes
        -----
        Compiling takes seconds at the first step of each shape, and needs a C++ or Triton compiler.  Results
        differ by rounding.  Within the transforms of torch.func and forward differentiation the blocks run
        uncompiled.  Unlike `torch.nn.Module.compile`, this leaves the rest of a step unchanged;
        torch.compile(model.step) is still possible.
        """
        if when not in ("iteration", "training", "never"):
            raise ValueError(f"when {when!r} unknown; choose from iteration, training, never")
        for module in self.modules():
            if isinstance(module, Blocks):
                module.fused = when

    @property
    def multiplied(self) -> str:
        """How float32 matrices are multiplied on a CPU: as "official" code does or by the "fastest" way."""
        return "fastest" if self.lm_head.fast else "official"

    def multiply(self, how: str = "fastest") -> None:
        """Choose how float32 matrices are multiplied on a CPU, in place; copies that share the weights share it.

        Parameters
        ----------
        how
            "official": by PyTorch's BLAS, as the official code does, so that states equal its states bit for bit on the
            same processor.  "fastest": by oneDNN where that is clearly faster, which is measured once per process; on
            AMD processors with AVX-512 it takes less than half the time.  Results then differ by rounding.

        Raises
        ------
        ValueError
            For another word.

        Notes
        -----
        The commands of `eqrlab` multiply by the fastest way; results record it in the attribute `products`.
        """
        if how not in ("official", "fastest"):
            raise ValueError(f"how {how!r} unknown; choose from official, fastest")
        for module in self.modules():
            if isinstance(module, Linear):
                module.fast = how == "fastest"

    def smooth(self) -> Reasoner:
        """Return the same model without the rounding to lower precision that is part of some maps (URM).

        Notes
        -----
        Spectra, Lyapunov exponents and Newton's method need a differentiable map.  The returned map differs from the
        original by the rounding, relative 4e-3 per level call: say so with results, and check that answers agree.
        """
        return self.replace(**self.config.smoothing)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Reasoner:
        """Change all weights, as `to`, `float` and `bfloat16` do; a dtype in which one becomes infinite is refused.

        Raises
        ------
        ValueError
            Naming the first such tensor; the model is then as it was.
        """
        self.require_finite_in(fn(self.lm_head.weight.new_empty(0)).dtype)
        return super()._apply(fn, recurse)

    def require_finite_in(self, dtype: torch.dtype) -> None:
        """Raise ValueError, naming the tensor, when a weight is finite as it is and infinite in a floating dtype."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if not tensor.is_floating_point() or torch.finfo(dtype).max >= torch.finfo(tensor.dtype).max:
                continue
            if bool((torch.isfinite(tensor) & ~torch.isfinite(tensor.to(dtype))).any()):
                origin = self.provenance.get("checkpoint", self.family)
                raise ValueError(f"{origin}: tensor {name} has values that are infinite in {dtype}")

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lm_head.weight.device


def _origin(provenance: dict[str, Any]) -> str:
    """Return the origin of the weights: the file and the start of its hash, as far as they are known."""
    name, digest = provenance.get("checkpoint"), provenance.get("checkpoint_sha256")
    return f"{name or 'made here, not from a file'}{f', sha256 {str(digest)[:12]}' if digest else ''}"


def restart_law(model: Reasoner) -> Callable[[Tensor, torch.Generator | None], Tensor] | None:
    """Return the `initial=` of random restarts: None for the model's own law, random states for a stored start."""
    return None if model.random_starts else model.random_initial
