"""Float32 products of a layer's input with its weights by oneDNN, with every derivative that torch takes.

PyTorch multiplies float32 matrices by the BLAS that it was built with; that of its builds for x86 keeps to 256-bit
instructions on processors of another maker.  oneDNN, which PyTorch carries for bfloat16 and its compiler, takes the
512-bit ones wherever they are.  The operator used here is the one to which torch.compile lowers a linear layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Return whether torch.func or forward differentiation looks on: plain kernels have no rule for either."""
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def is_available() -> bool:
    """Return whether this build of PyTorch has the operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def plain_product(h: Tensor, weight: Tensor) -> Tensor:
    """Return h weight^T of float32 tensors (..., k) and (m, k) on a CPU, where no derivative is taken."""
    return torch.ops.mkldnn._linear_pointwise(h, weight, None, "none", [], "")


def _columns(rows: Tensor) -> Tensor:
    """Return rows (..., k), or a single one (k,), as a matrix (k, rows)."""
    return torch.atleast_2d(rows).flatten(0, -2).T


@torch.library.custom_op("eqrlab::product", mutates_args=())
def _product_in_graph(h: Tensor, weight: Tensor) -> Tensor:
    """Do what `plain_product` does, closed to the compiler, which takes that operator with frozen weights only."""
    return plain_product(h, weight)


@_product_in_graph.register_fake
def _(h: Tensor, weight: Tensor) -> Tensor:
    return h.new_empty((*h.shape[:-1], weight.shape[0]))


def _derivatives_in_graph(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    h, weight = ctx.saved_tensors
    of_weight = _product_in_graph(_columns(gradient), _columns(h))
    return _product_in_graph(gradient, weight.T), of_weight


def _keep_factors(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


_product_in_graph.register_autograd(_derivatives_in_graph, setup_context=_keep_factors)


def product(h: Tensor, weight: Tensor) -> Tensor:
    """Return h weight^T of float32 tensors (..., k) and (m, k) on a CPU; differentiable in every way of torch.func."""
    if torch.compiler.is_dynamo_compiling():
        return _product_in_graph(h, weight)
    if not h.shape[-1]:  # oneDNN has no empty sums
        return h @ weight.T
    if torch.is_grad_enabled() or is_transformed():
        return _Product.apply(h, weight)
    return plain_product(h, weight)


class _Product(torch.autograd.Function):
    """The derivatives are products again, by the same operator, and so have derivatives themselves."""

    @staticmethod
    def forward(h: Tensor, weight: Tensor) -> Tensor:
        return plain_product(h, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        h, weight = ctx.saved_tensors
        of_h, of_weight = ctx.needs_input_grad
        return (
            product(gradient, weight.T) if of_h else None,
            product(_columns(gradient), _columns(h)) if of_weight else None,
        )

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, turn: Tensor | None) -> Tensor | None:
        h, weight = ctx.saved_tensors
        moved = None if tangent is None else product(tangent, weight)
        if turn is None:
            return moved
        return product(h, turn) if moved is None else moved + product(h, turn)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], h: Tensor, weight: Tensor
    ) -> tuple[Tensor, int]:
        h_axis, weight_axis = in_dims
        if h_axis is not None:
            h = h.movedim(h_axis, 0)
        if weight_axis is None:
            return product(h, weight), 0
        weight = weight.movedim(weight_axis, 0)
        if h_axis is None:  # one input, several weights: the rows of all weights below each other
            together = product(h, weight.flatten(0, 1))
            return together.unflatten(-1, weight.shape[:2]).movedim(-2, 0), 0
        rows = h.flatten(1, -2) if h.ndim > 2 else h[:, None]
        return (rows @ weight.transpose(1, 2)).view(*h.shape[:-1], weight.shape[1]), 0
