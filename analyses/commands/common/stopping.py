"""Signals that ask a run to stop, treated alike: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a closing terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from eqrlab.core.interrupts import ASKING

_WAIT = 0.02  # seconds until an import is looked at again

ENDING = tuple(number for number in ASKING if number != signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Like KeyboardInterrupt, for other signals than Ctrl-C.

    Attributes
    ----------
    number
        Of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def exit_code(stop: BaseException | None) -> int:
    """Return the exit code of a run that was stopped: 128 and the number of the signal."""
    return 128 + getattr(stop, "number", signal.SIGINT)


def raise_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise once, like Ctrl-C; signals that are ignored, as under nohup, stay ignored.

    Notes
    -----
    While a module is imported, they wait for its end: an interrupted import leaves half a module, and who asks for its
    names next, often the importing library itself, fails by another error than the signal's.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            later = threading.Timer(_WAIT, _ask_again, (number,))
            later.daemon = True
            later.start()
            return
        for other in ENDING:  # a terminal that closes sends several: they must not end the tidying up
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second Ctrl-C stops at once
        raise Stopped(number)

    for number in ASKING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)


def _ask_again(number: int) -> None:
    """Send the signal to the main thread, whose waiting it interrupts; only some systems can choose the thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)  # type: ignore[arg-type]
    else:
        signal.raise_signal(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that is filled when the process is asked to stop; a second request stops it at once."""
    stopped: list[int] = []

    def note(number: int, _: Any) -> None:
        stopped.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in ASKING}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
