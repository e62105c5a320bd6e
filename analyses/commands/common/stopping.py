"""Signals that ask a run to stop, treated alike: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a closing terminal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eqrlab.core.interrupts import ASKING

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
    """Make SIGTERM and SIGHUP raise once, like Ctrl-C; signals that are ignored, as under nohup, stay ignored."""

    def stop(number: int, _: Any) -> None:
        for other in ENDING:  # a terminal that closes sends several: they must not end the tidying up
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


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
