"""Errors that users see."""

from __future__ import annotations

from eqrlab.core.messages import one_line


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: one line that names the file, what is wrong and what was expected."""

    def __init__(self, message: str):
        super().__init__(one_line(message))
