"""Signals that ask a run to stop: Ctrl-C, SIGTERM of a scheduler, SIGHUP of a terminal that closes, all alike."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eqrlab.core.interrupts import ASKING

ENDING = tuple(number for number in ASKING if number != signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """What Ctrl-C raises, for other signals.

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
    """Let SIGTERM and SIGHUP raise what Ctrl-C does, once; where they are ignored, as under nohup, they stay so."""

    def stop(number: int, _: Any) -> None:
        for other in ENDING:  # a terminal that closes sends several: they must not end the tidying up
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Give a list that is filled when the process is asked to stop; asked twice, it stops at once."""
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
