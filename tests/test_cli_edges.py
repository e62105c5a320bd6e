"""The command line with arguments that nobody would give on purpose: a reason, never a traceback."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from eqrlab.analyses.cli import VERBS, cli


def ended_properly(arguments):
    """Run a command; `main` turns ValueError and OSError into one line and exit code 1."""
    result = CliRunner().invoke(cli, arguments)
    error = result.exception
    assert error is None or isinstance(error, SystemExit | ValueError | OSError), (arguments, error)
    assert result.exit_code in (0, 1, 2)
    if isinstance(error, ValueError | OSError):
        assert str(error)
    elif result.exit_code == 2:
        assert "Error: " in result.output
    return result.exit_code


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_file_and_unknown_options_are_reasons(verb):
    assert ended_properly([verb, "--no-such-option"]) == 2
    assert ended_properly([verb, "/nowhere/gone.pth"]) in (1, 2)
