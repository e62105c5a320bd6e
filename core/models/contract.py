"""What a system promises to its callers, looked at on a few rows before anything relies on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from eqrlab.core.models.families import built_in
from eqrlab.core.models.system import System, cast_floating, context_of, dtype_name, take_rows
from eqrlab.core.random import KeyedNoise, restart_generator

Law = Callable[[Any, torch.Generator], Tensor]
PROTOCOL = ("encode", "initial", "step", "decode")
ROUNDINGS = 100  # two calls at one state may differ by so many epsilons: sums on a GPU have no fixed order


def require_system(system: Any) -> None:
    """Refuse an object that cannot be a system, and say how to make one from it.

    Raises
    ------
    ValueError
        For a text, or an object without the methods of the protocol.
    """
    if isinstance(system, str):
        raise ValueError(
            f"system must be a model, got the text {system!r}: load it with core.load({system!r})"
        )
    missing = [name for name in PROTOCOL if not callable(getattr(system, name, None))]
    if missing:
        raise ValueError(
            f"system must have the methods {', '.join(PROTOCOL)}, {type(system).__name__} has no "
            f"{', '.join(missing)}: make one of a module with core.from_module, of functions with core.MapSystem"
        )


def require_state(z: Any, source: str) -> Tensor:
    """Return z if it is a batch of states (n, ...) of real floating-point numbers.

    Parameters
    ----------
    source
        Where z comes from, for the message: "initial()", "starts".

    Raises
    ------
    ValueError
        For anything else.
    """
    if not isinstance(z, Tensor):
        raise ValueError(
            f"{source} must give one tensor (n, *state_shape), got {_kind(z)}: stack or concatenate the parts of the "
            "state into one tensor, and take them apart within step and decode"
        )
    if z.is_complex():
        raise ValueError(
            f"{source} must give real states, got {dtype_name(z.dtype)}: keep real and imaginary part as a last axis "
            "of 2 (torch.view_as_real), and join them within step"
        )
    if not z.is_floating_point():
        raise ValueError(
            f"{source} must give floating states, got {dtype_name(z.dtype)}: convert them with .double() or .float()"
        )
    if z.ndim < 2:
        raise ValueError(
            f"{source} must give states with at least one axis beside that of the rows, got shape {tuple(z.shape)}: "
            "a map of one number has states (n, 1), for example torch.rand((len(x), 1), ...)"
        )
    return z


def draw_start(law: Law, x: Any, generator: torch.Generator) -> Tensor:
    """Draw the start (1, *state_shape) of one row of a context."""
    z = require_state(law(x, generator), "initial()")
    if len(z) != 1:
        raise ValueError(
            f"initial() must give one start for each row of the context, got {len(z)} starts for 1 row: "
            "make it as long as the context, for example torch.randn((len(x), ...), generator=generator)"
        )
    return z


def draw_starts(law: Law, x: Any, puzzle: int, key: int, restarts: int) -> Tensor:
    """Draw the first starts (restarts, *state_shape) of one puzzle of a context, each from its own generator."""
    one = take_rows(x, slice(puzzle, puzzle + 1))
    return torch.cat([draw_start(law, one, restart_generator(key, r)) for r in range(restarts)])


def is_known(system: System) -> bool:
    """Return whether a system belongs to a family of this package, which the test suite checks."""
    return type(system) in built_in().values()


@torch.no_grad()
def check_rows(system: System, x: Any, z: Tensor) -> None:
    """Check that step and decode obey the rules at these states (n, ...), with their contexts.

    Raises
    ------
    ValueError
        With one sentence: which rule is broken, and how to mend it.
    """
    system = copy.copy(system)
    if (z == z[:1]).all():  # other company is needed to see that a row depends on it
        row = torch.zeros(1, dtype=torch.long, device=z.device)
        x = take_rows(x, torch.cat((torch.arange(len(z), device=z.device), row)))
        z = torch.cat((z, z[:1] + 0.01 * (1 + z[:1].abs())))
    y = check_step(system, x, z, None)
    _check_decode(system, x, y)


def encoded(system: System, tokens: Tensor, identifiers: Tensor | None) -> Any:
    """Return the context of a few puzzles, whose rows must not depend on each other."""
    given = tokens.clone()
    x = context_of(system, given, identifiers)
    if not torch.equal(given, tokens):
        raise ValueError("encode() writes into the tokens it is given; it must return new tensors")
    for leaf in _leaves(x):
        if leaf.ndim < 1 or len(leaf) != len(tokens):
            raise ValueError(
                f"encode() must give tensors with one row for each puzzle, got shape {tuple(leaf.shape)} for "
                f"{len(tokens)} puzzles: expand what all puzzles share, or keep it outside of the context"
            )
    again = context_of(system, tokens.clone(), identifiers)
    if not _close(_leaves(x), _leaves(again), ROUNDINGS):
        raise ValueError("encode() is not deterministic: two calls on the same tokens differ")
    alone = context_of(system, tokens[:1].clone(), None if identifiers is None else identifiers[:1])
    if not _close([leaf[:1] for leaf in _leaves(x)], _leaves(alone), None):
        raise ValueError(
            "encode() mixes puzzles: a puzzle has another context alone than in company; treat every row by itself"
        )
    return x


def started(law: Law, x: Any, places: Sequence[tuple[int, int, int]]) -> Tensor:
    """Return the starts of some (puzzle, restart, key), drawn twice to check that the generator decides."""
    draw = lambda p, r, key: draw_start(law, take_rows(x, slice(p, p + 1)), restart_generator(key, r))
    z, again = (torch.cat([draw(*place) for place in places]) for _ in range(2))
    if not torch.equal(z.nan_to_num(), again.nan_to_num()):
        raise ValueError(
            "initial() gives two starts for one generator: draw all random numbers from it, for example "
            "torch.randn((len(x), ...), generator=generator)"
        )
    return z


def check_step(system: System, x: Any, z: Tensor, keys: Tensor | None) -> Tensor:
    """Return the states after a step of z (n, ...), after checking the rules there."""
    name = "step()" if keys is None else "step() with noise"

    def stepped(rows: Tensor) -> Tensor:
        noise = None if keys is None else KeyedNoise(keys[rows], 1)
        given, context = z[rows], take_rows(x, rows)
        y = _in_precision(system, given, context, noise)
        if not isinstance(y, Tensor) or y.shape != given.shape or y.dtype != given.dtype:
            seen = f"{tuple(y.shape)} of {y.dtype}" if isinstance(y, Tensor) else _kind(y)
            raise ValueError(
                f"step must return a state of shape {tuple(given.shape)} and {z.dtype}, got {seen}"
            )
        if not _close([z[rows]], [given], 0):
            raise ValueError(f"{name} writes into its state; it must return a new tensor")
        if not _close(_leaves(take_rows(x, rows)), _leaves(context), 0):
            raise ValueError(f"{name} writes into its context; it must leave its arguments as they are")
        return y

    every = torch.arange(len(z), device=z.device)
    before = torch.random.get_rng_state()
    y, again = stepped(every), stepped(every)
    size = _sizes(y, z)
    if not _near(again, y, size, ROUNDINGS * torch.finfo(z.dtype).eps):
        drawn = not torch.equal(before, torch.random.get_rng_state())
        cause = (
            ": it draws from torch's global random numbers" if drawn else ": two calls at one state differ"
        )
        raise ValueError(
            f"{name} is not deterministic{cause}; noise must come from the `noise` argument only, and dropout be off "
            "(.eval())"
        )
    rows = _other_company(every)
    loose = torch.finfo(z.dtype).eps ** 0.5
    if not _near(stepped(rows), y[rows], size[rows], loose) or not _near(
        stepped(every[:1]), y[:1], size[:1], loose
    ):
        raise ValueError(
            f"{name} mixes rows: a state maps differently alone or in other company than in a batch; every row must "
            "depend on itself only (no statistics over the batch, no halting that depends on all rows; batch "
            "normalisation needs .eval())"
        )
    return y


def _in_precision(system: System, z: Tensor, x: Any, noise: Any) -> Any:
    """Apply a step; if it fails only because of the precision of its state, say so."""
    try:
        return system.step(z, x) if noise is None else system.step(z, x, noise)
    except (RuntimeError, TypeError) as error:
        if noise is not None and isinstance(error, TypeError) and "positional argument" in str(error):
            raise ValueError(
                "step() takes no noise: define it as step(z, x, noise=None), or leave noise out"
            ) from error
        other = torch.float64 if z.dtype == torch.float32 else torch.float32
        try:
            system.step(z.detach().to(other), cast_floating(x, other, None))
        except (RuntimeError, TypeError):
            _require_shape(system, z, x)
            raise error from None
        mine = dtype_name(z.dtype)
        change = {"float32": "float", "float64": "double"}.get(mine, mine)
        leave = (
            "give float64 states, or dtype='float64'"
            if other == torch.float64
            else "leave dtype out and give float32 states"
        )
        raise ValueError(
            f"step() does not take {mine}: convert the module with .{change}(), or {leave}"
        ) from error


def _require_shape(system: System, z: Tensor, x: Any) -> None:
    """Refuse states of another shape than the system's own starts have."""
    try:
        own = draw_start(system.initial, take_rows(x, slice(0, 1)), torch.Generator().manual_seed(0))
    except (ValueError, TypeError, RuntimeError):
        return  # its law says nothing of the shape
    if own.shape[1:] != z.shape[1:]:
        raise ValueError(f"states must have the state shape {tuple(own.shape[1:])}, got {tuple(z.shape[1:])}")


def _check_decode(system: System, x: Any, z: Tensor) -> None:
    """Refuse a decode that writes into its state, is not deterministic, or mixes rows."""

    def decoded(rows: Tensor) -> Tensor:
        given = z[rows]
        answer = system.decode(given, take_rows(x, rows))
        if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(rows) or _is_real(answer):
            seen = f"{tuple(answer.shape)} of {answer.dtype}" if isinstance(answer, Tensor) else _kind(answer)
            raise ValueError(f"decode must return integer tokens (n, L), got {seen}")
        if not _close([z[rows]], [given], 0):
            raise ValueError("decode() writes into its state; it must return a new tensor")
        return answer

    every = torch.arange(len(z), device=z.device)
    answer = decoded(every)
    if not torch.equal(answer, decoded(every)):
        raise ValueError("decode() is not deterministic: two calls at one state differ")
    rows = _other_company(every)
    if not torch.equal(decoded(rows), answer[rows]):
        raise ValueError(
            "decode() mixes rows: a state has another answer in other company; every row must depend on itself only"
        )


def _other_company(every: Tensor) -> Tensor:
    """Return the rows in an order in which the first comes last and has other neighbours."""
    return torch.cat((every[-1:].expand(len(every)), every[:1]))


def _leaves(x: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]


def _close(first: list[Tensor], second: list[Tensor], epsilons: float | None) -> bool:
    """Return whether tensors agree row by row, to this many epsilons (None: half of the digits)."""
    if [leaf.shape for leaf in first] != [leaf.shape for leaf in second]:
        return False
    for a, b in zip(first, second, strict=True):
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return False
            continue
        epsilon = torch.finfo(a.dtype).eps
        limit = epsilon**0.5 if epsilons is None else epsilons * epsilon
        if not _near(b, a, _sizes(a, b), limit):
            return False
    return True


def _sizes(first: Tensor, second: Tensor) -> Tensor:
    """Return the larger norm (n,) of each row of two tensors, what is not finite left out; never quite zero."""
    norm = lambda v: v.reshape(len(v), -1).nan_to_num(0.0, 0.0, 0.0).cpu().double().norm(dim=1)
    return torch.maximum(norm(first), norm(second)).clamp(min=torch.finfo(first.dtype).eps ** 0.5)


def _near(first: Tensor, second: Tensor, size: Tensor, limit: float) -> bool:
    """Say whether rows agree up to `limit` of their sizes; what is not finite must be so in both."""
    a, b = (v.reshape(len(v), -1).cpu().double() for v in (first, second))
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b).norm(dim=1)
    return bool(((gap == 0) | (gap <= limit * size)).all())


def _is_real(answer: Tensor) -> bool:
    return answer.is_floating_point() or answer.is_complex()


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
