"""The command line with arguments that nobody would give on purpose: a reason, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqrlab.analyses import cli as command_line
from eqrlab.analyses.cli import cli
from eqrlab.analyses.verbs import verbs

NOWHERE = "/nowhere/gone.pth"  # so that no verb starts real work, whatever its options
EDGES = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "1",
        "0.5",
        "1e400",
        "-inf",
        "nan",
        "9" * 40,
        "1,2",
        ",",
        "0=",
        "=",
        "a" * 300,
        "\x1b[2J",
        "é",
        "none",
    ]
)


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


@pytest.mark.parametrize("verb", verbs())
def test_a_missing_file_and_unknown_options_are_reasons(verb):
    assert ended_properly([verb, "--no-such-option"]) == 2
    assert ended_properly([verb, NOWHERE]) in (1, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["diagnos", "x.pth"], "no verb 'diagnos'; did you mean diagnose?"),
        (["fixedpoints"], "no verb 'fixedpoints'; did you mean fixed-points?"),
        (["zzz"], "no verb 'zzz'\n"),
        (["info", "eqr-sudoku"], "did you mean eqr-sudoku9 or eqr-sudoku6?"),
        (["info", "trm-suduko6"], "did you mean trm-sudoku6 or "),
        (["diagnose", "--restart", "3"], "--restarts"),
        (["data", "info", "sudoku6-tst"], "did you mean sudoku6-test"),
        (["evaluate", "eqr-sudoku6", "--puzzles", "sudoku9-hrad"], "or sudoku9-hard-test?"),
    ],
)
def test_a_name_with_a_slip_is_answered_by_the_nearest(arguments, told):
    result = CliRunner().invoke(cli, arguments)
    assert told in (
        str(result.exception) if isinstance(result.exception, ValueError | OSError) else result.output
    )


def test_completing_a_verb_imports_none():
    code = "import sys; from eqrlab.analyses.cli import cli; cli(prog_name='eqrlab', complete_var='_EQRLAB_COMPLETE')"
    about = {**os.environ, "_EQRLAB_COMPLETE": "bash_complete", "COMP_WORDS": "eqrlab di", "COMP_CWORD": "1"}
    watch = f"import atexit; atexit.register(lambda: print('torch' in __import__('sys').modules)); {code}"
    done = subprocess.run(
        [sys.executable, "-c", watch], env=about, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["plain,diagnose", "False"], done.stderr
    about |= {"COMP_WORDS": "eqrlab --v"}
    done = subprocess.run([sys.executable, "-c", code], env=about, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["plain,--version"], done.stderr


def commands():
    """Yield (words, command) of every verb and sub-verb."""
    for verb in verbs():
        command = cli.get_command(click.Context(cli), verb)
        if isinstance(command, click.Group):
            yield from (((verb, name), sub) for name, sub in command.commands.items())
        else:
            yield (verb,), command


@pytest.mark.parametrize(
    ("words", "command"),
    list(commands()),
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_any_option_is_taken_or_refused_in_a_sentence(
    words, command, data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = [p for p in command.params if isinstance(p, click.Option) and p.name not in ("help", "version")]
    chosen = (
        data.draw(st.lists(st.sampled_from(options), max_size=3, unique_by=lambda p: p.name))
        if options
        else []
    )
    arguments = [*words, *data.draw(st.sampled_from(([NOWHERE], [NOWHERE, NOWHERE], [""])))]
    for option in chosen:
        arguments += [
            option.opts[0],
            *(data.draw(EDGES) for _ in range(0 if option.is_flag else option.nargs)),
        ]
    assert ended_properly(arguments) in (1, 2)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\n<frames>")],
    ids=["Python", "torch"],
)
def test_a_lack_of_memory_is_said_in_one_line(error, monkeypatch, capsys):
    def lacking(**options):
        raise error

    monkeypatch.setattr(command_line, "cli", lacking)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1 and told.startswith("eqrlab: out of memory") and told.count("\n") == 1


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    def faulty(**options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(command_line, "cli", faulty)
    with pytest.raises(RuntimeError, match="a bug"):
        command_line.main()
