"""Signals that wait until a piece of work is done which must not be cut in two."""

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
    """Let Ctrl-C and its like wait until the block is over.

    Notes
    -----
    An exception raised by a signal can fall between taking a lock and the block that lets go of it: those of xarray are
    then held for ever, and closing the file waits for them.  Signals that are ignored, or end the process by
    themselves, are left as they are; so are those of other threads than the main one, which gets all signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in ASKING}
    before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
