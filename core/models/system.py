"""The System protocol, plain maps as systems, and contexts: made of puzzles, moved, and taken row by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from eqrlab.core.random import Noise
from eqrlab.core.shown import Facts, Shown


class System(Protocol):
    """A batch of independent maps z -> f(z; x).  Implement these four and every analysis works.

    Two optional attributes are used if a system has them, as `MapSystem` and every `Reasoner` do: `noise_scale` (the
    amplitude by which its `step` multiplies the unit noise) and `with_noise(noise_scale)` (the same system with
    another amplitude).  If puzzles have identifiers (n,), they are passed to `encode(inputs, identifiers=None)`; an
    `encode` without that argument does not get them.
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


class MapSystem(Shown):
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
        `encode(inputs)`: context of tokens (n, L), or `encode(inputs, identifiers=None)` where it depends on the
        identifiers (n,) of puzzles.  Default: the tokens themselves, as float64.
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
        encode: Callable[..., Any] | None = None,
        noise_scale: float = 0.0,
    ):
        self._step, self._initial, self._decode, self._encode = step, initial, decode, encode
        self.noise_scale = float(noise_scale)

    def _facts(self) -> Facts:
        lines = {
            "step": function_name(self._step),
            "initial": function_name(self._initial),
            "decode": function_name(self._decode) if self._decode else "the token 0",
            "encode": function_name(self._encode) if self._encode else "the tokens, as float64",
            "noise": f"{self.noise_scale:g}",
        }
        return Facts("MapSystem, a map given by functions", lines)

    def encode(self, inputs: Tensor, identifiers: Tensor | None = None) -> Any:
        if self._encode is None:
            return inputs.double()
        if identifiers is None or not takes_identifiers(self._encode):
            return self._encode(inputs)
        return self._encode(inputs, identifiers)

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


def function_name(function: Callable[..., Any]) -> str:
    """Return a name for a function, a method or a callable object in one line, with the place where it is defined."""
    called = inspect.unwrap(getattr(function, "func", function))  # of functools.partial, the function
    name = getattr(called, "__qualname__", None) or type(called).__name__
    code = getattr(called, "__code__", None)
    if "<lambda>" not in name or code is None:
        return name
    return f"lambda, line {code.co_firstlineno} of {PurePath(code.co_filename).name}"


def takes_identifiers(encode: Callable[..., Any]) -> bool:
    """Return whether a function that encodes puzzles has the argument `identifiers`."""
    try:
        return "identifiers" in inspect.signature(encode).parameters
    except ValueError:  # of a function of torch, which tells none
        return False


def context_of(system: System, inputs: Tensor, identifiers: Tensor | None = None) -> Any:
    """Return the context of puzzles (n, L) with identifiers (n,), which are ignored if `encode` takes none."""
    if identifiers is None or not takes_identifiers(system.encode):
        return system.encode(inputs)
    return system.encode(inputs, identifiers)  # type: ignore[call-arg]


def cast_floating(x: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """Move every tensor of a context to a device, and its floating tensors to a dtype (None: leave as it is)."""

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return pytree.tree_map(cast, x)


def take_rows(x: Any, index: Tensor | slice) -> Any:
    """Take rows of the leading axis of every tensor of a context."""
    if isinstance(x, Tensor):  # called once a row: walking the tree takes longer than the slice
        return x[index]
    return pytree.tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, x)


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return the name of a dtype as results store it: "float32"."""
    return str(dtype).removeprefix("torch.")
