"""Faults of puzzle files, in sentences that are safe to print wherever the file comes from."""

from __future__ import annotations

from typing import NamedTuple

from eqrlab.core.messages import one_line


class PuzzleFileError(ValueError):
    """A puzzle file that cannot be read: one printable line that names the file, what is wrong and what is required."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Fault(NamedTuple):
    """A fault in one place: `place` is "file:line"."""

    place: str
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.place}: {self.reason}")
