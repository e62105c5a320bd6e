"""Products of a layer's input with its weights, in the precision of the input, computed by the fastest way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS, _WIDTH = 256, 256  # of the product that is timed: a few milliseconds where it is slow
_REPEATS = 5
_lock = threading.Lock()
_native: bool | None = None  # whether a CPU multiplies bfloat16 faster than float32, None: not yet measured
_held = threading.local()


def has_bfloat16_products() -> bool:
    """Return whether this processor multiplies bfloat16 matrices faster than float32 ones; measured once per process.

    Notes
    -----
    PyTorch knows whether its library has such kernels, but not whether the processor has the instructions
    (avx512_bf16, amx_bf16).  Without them the kernels take four to ten times as long as float32, with them
    about a fifth.
    """
    global _native
    if _native is None:
        with _lock:
            if _native is None:
                _native = _measured()
    return _native


def _measured() -> bool:
    a, weight = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _WIDTH)
    narrow = a.bfloat16(), weight.bfloat16()
    with torch.no_grad():
        wide, own = _least_time(a, weight), _least_time(*narrow)
    return own < wide


def _least_time(a: Tensor, weight: Tensor) -> float:
    spent = []
    for _ in range(_REPEATS + 1):
        begin = time.thread_time()
        F.linear(a, weight)
        spent.append(time.thread_time() - begin)
    return min(spent[1:])


def how_multiplied(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return how products of this dtype are computed where there is a choice: for the attributes of results."""
    if dtype != torch.bfloat16 or device.type != "cpu":
        return None
    return "bfloat16" if has_bfloat16_products() else "float32, rounded"


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


def linear(h: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return h weight^T + bias in the dtype of h; weights (out, in) are cast to it.

    Notes
    -----
    On a CPU without bfloat16 instructions, bfloat16 factors are multiplied in float32 and the result is rounded.  The
    instructions compute the same, up to the order of summation.
    """
    weight, bias = _cast(weight, h.dtype), None if bias is None else bias.to(h.dtype)
    if h.dtype == torch.bfloat16 and h.device.type == "cpu" and not has_bfloat16_products():
        return F.linear(h.float(), weight.float(), None if bias is None else bias.float()).to(h.dtype)
    return F.linear(h, weight, bias)
