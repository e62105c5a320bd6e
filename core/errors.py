"""The error that users see for bad checkpoints, and the errors that libraries raise for damaged files."""

from __future__ import annotations

from eqrlab.core.messages import one_line

DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)  # what comes of reading a damaged or hostile file, by whatever library


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: one line that names the file, what is wrong and what was expected."""

    def __init__(self, message: str):
        super().__init__(one_line(message))
