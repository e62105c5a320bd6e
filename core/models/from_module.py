"""Systems from torch modules that iterate a carry: the carry is packed into one state and unpacked again."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eqrlab.core.models.contract import check_rows, encoded, started
from eqrlab.core.models.system import cast_floating, function_name
from eqrlab.core.random import Noise, puzzle_keys
from eqrlab.core.shown import Facts, Shown

_ROWS, _STEPS, _LOOSE = 3, (1e-6, 1e-4, 1e-3), 2e-3


def from_module(
    module: nn.Module,
    *,
    step: Callable[[Any, Any, Any], Any],
    carry: Callable[[Any, Any, torch.Generator | None], Any],
    inputs: Callable[[Any, Tensor], Any] | None = None,
    readout: Callable[[Any, Any, Any], Tensor] | None = None,
    name: str | None = None,
    task: str = "unknown",
) -> ModuleSystem:
    """Make a System of a module that iterates a carry: a tensor, or tuples, dicts and dataclasses of tensors.

    Parameters
    ----------
    module
        Copied, put into evaluation mode, and cast to the precision of the states it is given.
    step
        `step(module, carry, context)`: the next carry; ONE outer step.
    carry
        `carry(module, context, generator)`: the carry that a run starts from, floating tensors (n, ...) with a row for
        each row of the context.  Random starts are drawn from the generator, on the CPU.
    inputs
        `inputs(module, tokens)`: the context of tokens (n, L), tensors with n rows.  Default: the tokens.
    readout
        `readout(module, carry, context)`: logits (n, L, V) or integer tokens (n, L).  Default: the token 0.
    name
        What reports call it; default: the name of its class.
    task
        Task that the tokens belong to, such as "sudoku6"; puzzles and boards are then those of the task.

    Returns
    -------
    ModuleSystem
        Its states are (n, N), the numbers of the carry one after another.  `check(tokens)` checks that the functions
        obey the rules on which the analyses rely; `unpack(z)` returns the carry of states.

    Raises
    ------
    ValueError
        If `module` is not a torch module, or cannot be copied.

    Examples
    --------
    A GRU cell that is fed the same input at every step; its carry is a hidden state drawn at random:

    >>> import torch
    >>> from eqrlab.core import from_module
    >>> system = from_module(
    ...     torch.nn.GRUCell(4, 8),
    ...     step=lambda cell, h, x: cell(x, h),
    ...     carry=lambda cell, x, generator: torch.randn(len(x), 8, generator=generator),
    ...     inputs=lambda cell, tokens: torch.nn.functional.one_hot(tokens[:, 0], 4).float(),
    ... )
    >>> x = system.encode(torch.tensor([[1], [3]]))
    >>> system.step(system.initial(x, torch.Generator().manual_seed(0)), x).shape
    torch.Size([2, 8])
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module must be a torch.nn.Module, got {type(module).__name__}: make a System of functions with "
            "MapSystem(step=..., initial=...)"
        )
    return ModuleSystem(module, (step, carry, inputs, readout), name or type(module).__name__, task)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a carry is packed into a state: its structure, and the shape (without rows) of each tensor."""

    spec: Any
    shapes: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> int:
        """Numbers N of a state."""
        return sum(map(math.prod, self.shapes))


class ModuleSystem(Shown):
    """A module with a carry as a System, see `from_module`."""

    family = "module"
    noise_scale = 0.0
    random_starts = True
    identifiers = 0
    config = None

    def __init__(self, module: nn.Module, functions: tuple[Any, Any, Any, Any], name: str, task: str):
        module = _copied(module).eval().requires_grad_(False)
        self._functions = functions
        self._step, self._carry, self._inputs, self._readout = functions
        self._modules: dict[tuple[torch.dtype | None, str], nn.Module] = {(None, ""): module}
        # By the numbers of a state: puzzles of another size may have another.
        self._layouts: dict[int, _Layout] = {}
        self.name, self.task = name, task
        self.provenance = {
            "checkpoint": name,
            "module": f"{type(module).__module__}.{type(module).__qualname__}",
        }

    def _facts(self) -> Facts:
        known = next(reversed(self._layouts.values()), None)
        parts = [] if known is None else [" x ".join(map(str, shape)) or "1" for shape in known.shapes]
        lines = {
            "parameters": f"{sum(p.numel() for p in self.module.parameters()):,}",
            "module": self.provenance["module"],
            "carry": " + ".join(parts) or "not known before a start is drawn",
            "state": f"{known.numbers:,} numbers" if known else "the numbers of the carry",
        }
        functions = dict(zip(("step", "carry", "inputs", "readout"), self._functions, strict=True))
        named = {name: function_name(f) if f else "not given" for name, f in functions.items()}
        title = f"{self.name}, a torch module as a system for {self.task}"
        return Facts(title, lines, {"functions": named})

    @property
    def module(self) -> nn.Module:
        """The copy of the module, in its own precision."""
        return self._modules[None, ""]

    def smooth(self) -> ModuleSystem:
        """Return the system itself: no rounding is known to be part of its map."""
        return self

    def encode(self, inputs: Tensor) -> Any:
        """Return the context of tokens (n, L)."""
        return inputs if self._inputs is None else self._inputs(self._at(None, inputs.device), inputs)

    def initial(self, x: Any, generator: torch.Generator | None) -> Tensor:
        """Return starts (n, N), a row for each of the context."""
        leaf = next((v for v in pytree.tree_leaves(x) if isinstance(v, Tensor)), None)
        if leaf is None:
            raise ValueError(
                "inputs() must give a context with at least one tensor, whose rows tell the number of starts: return "
                "the tokens where the map needs none"
            )
        dtype = leaf.dtype if leaf.is_floating_point() else None
        leaves, spec = _flattened(self._carry(self._at(dtype, leaf.device), x, generator))
        layout = _Layout(spec, _shapes(leaves))
        if self._layouts.setdefault(layout.numbers, layout) != layout:
            raise ValueError(
                f"carry() gives carries of {layout.numbers} numbers in two forms: shapes {layout.shapes}, and before "
                f"{self._layouts[layout.numbers].shapes}"
            )
        return _packed(leaves)

    def step(self, z: Tensor, x: Any, noise: Noise | None = None) -> Tensor:
        """Apply one outer step to states (n, N), in their precision."""
        carry = self.unpack(z, x)
        after = self._step(self._at(z.dtype, z.device), carry, x)
        return _packed(_leaves_like(self._layouts[z.shape[1]], after)).to(z.dtype)

    def decode(self, z: Tensor, x: Any) -> Tensor:
        """Return answer tokens (n, L)."""
        if self._readout is None:
            return torch.zeros(len(z), 1, dtype=torch.long, device=z.device)
        read = self._readout(self._at(z.dtype, z.device), self.unpack(z, x), x)
        logits = isinstance(read, Tensor) and read.is_floating_point()
        if not isinstance(read, Tensor) or read.ndim != (3 if logits else 2):
            got = tuple(read.shape) if isinstance(read, Tensor) else type(read).__name__
            raise ValueError(f"readout must return logits (n, L, V) or integer tokens (n, L), got {got}")
        return read.argmax(-1) if logits else read

    def unpack(self, z: Tensor, x: Any = None) -> Any:
        """Return the carry of states (n, N), all tensors in the precision of z."""
        if z.shape[1] not in self._layouts:
            if x is None:
                raise ValueError(
                    "the carry is not known yet: draw a start first, system.initial(x, generator)"
                )
            own = self.initial(x, torch.Generator().manual_seed(0)).shape[1]
            if own != z.shape[1]:
                raise ValueError(f"states must have the state shape ({own},), got ({z.shape[1]},)")
        layout = self._layouts[z.shape[1]]
        parts = z.split([math.prod(shape) for shape in layout.shapes], dim=1)
        leaves = [part.reshape(len(z), *shape) for part, shape in zip(parts, layout.shapes, strict=True)]
        return pytree.tree_unflatten(leaves, layout.spec)

    def check(self, tokens: Tensor, seed: int = 0) -> None:
        """Check on a few puzzles that the functions obey the rules on which the analyses rely.

        Parameters
        ----------
        tokens
            Puzzles (n, L), of which three are used.

        Raises
        ------
        ValueError
            For the first promise that is broken: which, and how to mend it.

        Notes
        -----
        Every analysis checks all rules itself, except those about derivatives.  Cost: about ten steps, in float64.
        """
        few = tokens[:_ROWS] if len(tokens) > 1 else tokens[:1].repeat(2, 1)
        x = cast_floating(encoded(self, few, None), torch.float64, None)
        keys = puzzle_keys(seed, few.cpu())
        z = started(self.initial, x, [(row, 0, key) for row, key in enumerate(keys)])
        z = z.to(device=few.device, dtype=torch.float64)
        check_rows(self, x, z)
        self._check_derivative(z, x, self.step(z, x))

    def _check_derivative(self, z: Tensor, x: Any, y: Tensor) -> None:
        """Compare the derivative of reverse mode with finite differences along one direction."""
        generator = torch.Generator().manual_seed(1)
        u, v = (torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device) for _ in range(2))
        with torch.enable_grad():
            given = z.clone().requires_grad_(True)
            out = self.step(given, x)
        differs = bool((self.step(z + v, x) != y).any())
        if not out.requires_grad:
            if differs:
                raise ValueError(
                    "step() has no derivative: it runs under torch.no_grad or inference_mode, or detaches its "
                    "carry; call the inner function that does not, or spectra and exponents will be refused"
                )
            return
        (gradient,) = torch.autograd.grad(out, given, u)
        found = float((gradient * v).sum())
        scale = max(abs(found), float((gradient * v).norm()), 1e-6)
        for size in _STEPS:  # a module that computes a part in float32 needs the larger ones
            ahead, behind = (self.step(z + s * size * v, x) for s in (1, -1))
            expected = float(((ahead - behind) / (2 * size) * u).sum())
            if abs(found - expected) <= _LOOSE * scale:
                break
        else:
            raise ValueError(
                "step() has a wrong derivative: a part of the carry is detached or computed under torch.no_grad, or a "
                f"value is rounded (by reverse mode {found:.4g}, by finite differences {expected:.4g}); call the inner "
                "function without detach"
            )

    def _at(self, dtype: torch.dtype | None, device: torch.device) -> nn.Module:
        """Return the module in a precision and on a device, its own precision for None."""
        key = (dtype, str(device))
        if key not in self._modules:
            self._modules[key] = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        return self._modules[key]


def _shapes(leaves: list[Any]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes (without rows) of the tensors of a carry, if they are floating tensors with rows."""
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim < 1:
            seen = (
                f"a tensor of {leaf.dtype}, shape {tuple(leaf.shape)}"
                if isinstance(leaf, Tensor)
                else f"{leaf!r:.40}"
            )
            raise ValueError(
                f"a carry holds floating tensors (n, ...) only, got {seen}: leave counters and flags out "
                "of it, and give them within step"
            )
    return tuple(tuple(v.shape[1:]) for v in leaves)


def _leaves_like(layout: _Layout, after: Any) -> list[Tensor]:
    """Return the tensors of the carry after a step in the order of that before it: dictionaries may have another."""
    leaves, spec = _flattened(after)
    shapes = _shapes(leaves)
    if spec != layout.spec and len(shapes) == len(layout.shapes):
        try:
            leaves = layout.spec.flatten_up_to(after)
        except ValueError as error:
            raise ValueError(f"step() must return a carry like the one it gets: {error}") from None
        shapes = _shapes(leaves)
    if shapes != layout.shapes:
        raise ValueError(
            f"step() must return a carry like the one it gets: shapes {layout.shapes}, got {shapes}"
        )
    return leaves


def _packed(leaves: list[Tensor]) -> Tensor:
    wide = max((v.dtype for v in leaves), key=lambda d: torch.finfo(d).bits)
    return torch.cat([v.reshape(len(v), -1).to(wide) for v in leaves], dim=1)


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise ValueError(
            f"{type(module).__name__} cannot be copied: it holds weights that are computed from others, as "
            "weight_norm of torch.nn.utils and torchdeq leave them; take the norm out first (remove_weight_norm, "
            "torchdeq.norm.remove_norm)"
        ) from error


def _flattened(carry: Any) -> tuple[list[Any], Any]:
    """Return leaves and structure of a carry; dataclasses are made known to torch the first time."""
    leaves, spec = pytree.tree_flatten(carry)
    unknown = {type(v) for v in leaves if dataclasses.is_dataclass(v) and not isinstance(v, type)}
    if not unknown:
        return leaves, spec
    for kind in unknown:
        pytree.register_dataclass(kind)
    return _flattened(carry)
