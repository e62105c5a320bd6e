"""The command line: `eqrlab <verb>`.

Exit codes: 0 success, 2 wrong usage, 1 failure with a one-line reason, 128 + N stopped by signal N (Ctrl-C 130).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from eqrlab import __version__
from eqrlab.analyses import verbs
from eqrlab.analyses.commands.common.stopping import exit_code, raise_on_signals
from eqrlab.analyses.streams import lost_output, tolerate_broken_streams
from eqrlab.analyses.terminal import guard_streams
from eqrlab.core.messages import did_you_mean, one_line


class LazyGroup(click.Group):
    """A command group that imports a verb only when it is used, so that help stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*verbs.verbs(), *verbs.installed()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return verbs.command_of(cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the verbs, or options, that begin so; unlike in `click.Group` no verb is imported for it."""
        known = {name: verb.summary for name, verb in verbs.verbs().items()}
        known |= {name: f"From {package}." for name, package in verbs.installed().items()}
        found = [
            CompletionItem(name, help=text) for name, text in known.items() if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no verb {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; stopped by a signal, it says what is kept in one line."""
        try:
            with _stopped_in_a_line():  # before click catches it, which says "Aborted!"
                super().invoke(ctx)
        except click.ClickException as error:
            error.message = one_line(error.message)  # type: ignore[misc]
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in verbs.verbs().items()])
        if others := verbs.installed():
            with formatter.section("Verbs of other packages"):
                formatter.write_dl([(name, f"From {package}.") for name, package in others.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eqrlab")
def cli() -> None:
    """See the attractor landscape of recursive reasoning networks.

    `eqrlab diagnose CKPT` finds which landscape mode each puzzle is in, how big the basins are, and whether the
    residual tells right from wrong.
    """


def main() -> None:
    """Run the command line; misuse, unusable files and a lack of memory end with one line and exit code 1."""
    try:
        with _stopped_in_a_line():
            raise_on_signals()
            _run()
    finally:
        # Python ends by SIGINT, whatever exit code is asked for, if the source text it ran last was interrupted;
        # imports run such texts (dataclasses). This one is not interrupted.
        exec("")


@contextmanager
def _stopped_in_a_line() -> Iterator[None]:
    """End the process with one line, what is kept, and the exit code of the signal, where one stops it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        _fail(_with_notes("stopped", stop), exit_code(stop))


def _run() -> None:
    output = tolerate_broken_streams()
    guard_streams()
    try:
        _run_click()
    except SystemExit as end:
        lost = lost_output(output)
        if end.code or lost is None:
            raise
        _fail(lost) if lost else sys.exit(1)
    except (ValueError, OSError) as error:
        _fail(_with_notes(str(error) or type(error).__name__, error))
    except (MemoryError, RuntimeError) as error:
        from eqrlab.attractors.ensemble.batches import (
            is_out_of_memory,  # loads torch, which help does without
        )

        if not is_out_of_memory(error):
            raise
        _fail(
            f"out of memory, ask for less at a time ({str(error).splitlines()[0] if str(error) else 'no details'})"
        )


def _run_click() -> None:
    """Run click without its own ways to end: of a signal before or after a verb it makes "Aborted!" and exit code 1."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.Abort as abort:
        raise abort.__cause__ or abort from None
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def _with_notes(text: str, error: BaseException) -> str:
    """Return a message and what was added to the error on its way, such as what is kept."""
    return "; ".join([text, *getattr(error, "__notes__", ())])


def _fail(reason: str, code: int = 1) -> NoReturn:
    print(f"eqrlab: {one_line(reason)}", file=sys.stderr)
    sys.exit(code)
