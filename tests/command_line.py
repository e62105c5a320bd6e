"""The command line within the process of a test: no second interpreter that imports torch."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from eqrlab.analyses.cli import cli


def inside(*arguments: Any) -> Result:
    """Run a command with these words."""
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def refused(run: Result, *words: str) -> str:
    """Return the reason that a command ended with: one line that holds these words."""
    assert isinstance(run.exception, ValueError), (run.exception, run.output)
    text = str(run.exception)
    assert all(w in text for w in words) and "\n" not in text and len(text) < 1000, text
    return text
