"""Products of a layer's input with its weights, in the precision of the input, computed by the fastest way."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eqrlab.core.models import onednn

_ROWS, _WIDTH = 256, 256  # of the products that are timed: a few milliseconds where they are slow
_REPEATS = 12
_CLEARLY = 0.8  # of the BLAS's time; processors on which both take the same instructions are nowhere near it
_lock = threading.Lock()
_fastest: Fastest | None = None  # None: not yet measured
_held = threading.local()


class Fastest(NamedTuple):
    """Which products are fastest on this processor: whether oneDNN's of float32, and whether those of bfloat16."""

    onednn: bool
    bfloat16: bool


def fastest() -> Fastest:
    """Return which products are fastest on this processor; measured once per process.

    Notes
    -----
    On AMD processors with AVX-512, oneDNN takes less than half the time of the BLAS; elsewhere both take about the
    same, and the BLAS stays.  PyTorch knows whether its library has kernels for bfloat16, but not whether the processor
    has the instructions (avx512_bf16, amx_bf16): without them the kernels take four to ten times as long as float32.
    """
    global _fastest
    if _fastest is None:
        with _lock:
            if _fastest is None:
                _fastest = _measured()
    return _fastest


def _measured() -> Fastest:
    wide = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _WIDTH)
    blas, narrow, dnn = (
        _least_time(F.linear, *wide),
        _least_time(F.linear, *(factor.bfloat16() for factor in wide)),
        _least_time(onednn.plain_product, *wide) if onednn.is_available() else math.inf,
    )
    by_onednn = dnn < _CLEARLY * blas
    return Fastest(by_onednn, narrow < (dnn if by_onednn else blas))


def _least_time(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, weight: Tensor) -> float:
    spent = []
    with torch.no_grad():
        for _ in range(_REPEATS + 1):
            begin = time.thread_time()
            multiply(a, weight)
            spent.append(time.thread_time() - begin)
    return min(spent[1:])


def how_multiplied(dtype: torch.dtype, device: torch.device, fast: bool) -> str | None:
    """Return how products of this dtype are computed where there is a choice: for the attributes of results.

    Parameters
    ----------
    fast
        Whether the model takes the fastest products of float32, see `Reasoner.multiply`.
    """
    if device.type != "cpu":
        return None
    if dtype == torch.float32:
        return "oneDNN" if fast and fastest().onednn else "BLAS"
    if dtype == torch.bfloat16:
        return "bfloat16" if fastest().bfloat16 else "float32, rounded"
    return None


@contextlib.contextmanager
def weights_held() -> Iterator[None]:
    """Within this block, in this thread: cast each weight to a lower precision once, not at every product.

    For iteration only: weights must not change inside the block.  At full size, casting the weights for a product
    touches more numbers than its input has.
    """
    before = getattr(_held, "casts", None)
    _held.casts = {}
    try:
        yield
    finally:
        _held.casts = before


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if weight.dtype == dtype or torch.compiler.is_dynamo_compiling():
        return weight.to(dtype)
    casts = getattr(_held, "casts", None)
    if casts is None or torch.is_grad_enabled() or not isinstance(weight, nn.Parameter):
        return weight.to(dtype)
    key = id(weight), dtype
    if key not in casts:
        casts[key] = weight, weight.to(dtype)  # the weight is kept, so that its number stays its own
    return casts[key][1]


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None, fast: bool = False) -> Tensor:
    """Return h weight^T + bias in the dtype of h; weights (out, in) are cast to it.

    Parameters
    ----------
    fast
        Multiply float32 on a CPU by oneDNN where that is clearly faster than the BLAS, which the official code calls.

    Notes
    -----
    On a CPU without bfloat16 instructions, bfloat16 factors are multiplied in float32 and the result is rounded.  All
    ways compute the same, up to the order of summation.
    """
    weight, bias = _cast(weight, h.dtype), None if bias is None else bias.to(h.dtype)
    if h.device.type == "cpu":
        if h.dtype == torch.bfloat16 and not fastest().bfloat16:
            wide = None if bias is None else bias.float()
            return linear(h.float(), weight.float(), wide, fast).to(h.dtype)
        if fast and h.dtype == torch.float32 and fastest().onednn:
            product = onednn.product(h, weight)
            return product if bias is None else product + bias
    return F.linear(h, weight, bias)
