"""Signals that are held back during work that must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ASKING = tuple(
    number for name, number in signal.Signals.__members__.items() if name in ("SIGINT", "SIGTERM", "SIGHUP")
)  # signals that ask a run to stop; not every system has all


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and similar signals until the end of the block.

    Notes
    -----
    A signal can raise its exception after a lock is taken and before the block that releases it: xarray's locks are
    then held for ever, and closing the file waits for them.  Signals that are ignored, or that end the process
    themselves, are left as they are.  Outside of the main thread, which receives all signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in ASKING}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
