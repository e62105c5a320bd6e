"""Options that several verbs share: each is defined once, so that its text is the same in every `--help`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import click
import torch

from eqrlab.core.checkpoints.foreign_configs import parse_setting
from eqrlab.datasets import task


class Given(TypedDict, total=False):
    """Values of the shared options as a command receives them: settings of runs, and the choice of puzzles.

    A verb has some of these keys.  The names are those of the flags; settings of runs have the names that
    `attractors.RunOptions` uses.
    """

    puzzles: str | None
    split: str
    limit: int | None
    allow_several: bool
    restarts: int
    depth: int
    seed: int
    noise: float | None
    device: str
    dtype: str | None


MOST = 2**31 - 1  # of counts, ...
MOST_SEED = 2**63 - 1  # ... and of seeds: what the files and libraries that get them can hold


class Numbers(click.ParamType):
    """Integers of at least 1, separated by commas; returned sorted and without repetitions."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            found = sorted({int(part) for part in value.split(",")})
        except ValueError:
            self.fail(f"{value!r} is not a list of integers such as 1,2,4", param, ctx)
        if found[0] < 1:
            self.fail(f"{found[0]} is less than 1", param, ctx)
        if found[-1] > MOST:
            self.fail(f"{found[-1]} is more than {MOST}", param, ctx)
        return found


class Whole(click.IntRange):
    """A whole number from `least` to `most`, which help does not show."""

    def __init__(self, least: int, most: int):
        super().__init__(least)
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = super().convert(value, param, ctx)
        if found > self.most:
            self.fail(f"{found} is more than {self.most}", param, ctx)
        return found


class Real(click.FloatRange):
    """A finite number: `click.FloatRange` takes nan and inf."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is not a finite number", param, ctx)
        return found


class Seed(click.types.IntParamType):
    """A whole number of 64 bits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = super().convert(value, param, ctx)
        if abs(found) > MOST_SEED:
            self.fail(f"{found} has more than 64 bits", param, ctx)
        return found


class Limit(click.ParamType):
    """A number of puzzles of at least 1, or "all", which becomes a number larger than any set."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return sys.maxsize if value == "all" else click.IntRange(1).convert(value, param, ctx)


class Setting(click.ParamType):
    """An option of a model's configuration, KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_setting(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def device_named(name: str) -> str:
    """Return the name of an available torch device; "auto" is CUDA if there is a CUDA device, else the processor.

    Raises
    ------
    click.BadParameter
        When there is no such device.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "auto":
        return usual
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise click.BadParameter(
            f"{name!r} is no device; choose from auto, cpu, cuda, mps", param_hint="--device"
        ) from None
    if kind == "cuda" and usual == "cpu":
        raise click.BadParameter("no CUDA device here; use --device cpu", param_hint="--device")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise click.BadParameter("no GPU of Apple here; use --device cpu", param_hint="--device")
    try:
        torch.zeros(1, device=name).item()  # a device without values, as "meta", is none to run on
    except (RuntimeError, AssertionError, NotImplementedError):
        raise click.BadParameter(f"there is no device {name!r} here", param_hint="--device") from None
    return name


def together(*options: Callable) -> Callable:
    """Return one decorator for several options, which `--help` lists in this order."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _kept(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Store an option of the checkpoint where `commands.common.checkpoints` looks for it."""
    context.meta[f"eqrlab.checkpoint.{option.name}"] = value


def _task_kept(context: click.Context, _option: click.Parameter, name: str | None) -> None:
    """Store the task of the puzzles where `asked_task` looks for it; an unknown name is wrong usage."""
    if name is not None:
        try:
            task(name)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--task") from None
    context.meta["eqrlab.puzzles.task"] = name


def asked_task() -> str | None:
    """Return the value of --task of the running command, or None if it was not given."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get("eqrlab.puzzles.task")


def _kept_with_puzzles(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Store an option of the puzzles where `commands.common.identifiers` looks for it."""
    context.meta[f"eqrlab.puzzles.{option.name}"] = value


checkpoint = together(
    click.option("--config", type=click.Path(path_type=Path), metavar="FILE", expose_value=False, callback=_kept,
                 help="Configuration (YAML or JSON) of weights that come without one."),
    click.option("--set", type=Setting(), multiple=True, metavar="KEY=VALUE", expose_value=False, callback=_kept,
                 help="One option of the model's configuration, such as H_cycles=3; may be repeated."),
    click.option("--seq-len", type=click.IntRange(1), expose_value=False, callback=_kept,
                 help="Number of grid cells, if neither the weights nor the puzzles determine it."),
    click.option("--weights", type=click.Choice(["auto", "ema", "raw"]), expose_value=False, callback=_kept,
                 help="Weights to use if a file has averaged and raw ones (default: as the configuration says)."),
    click.option("--step", type=click.IntRange(0), expose_value=False, callback=_kept,
                 help="Which training step to load if CKPT is a folder (default: the newest)."),
)  # fmt: skip
puzzles = together(
    click.option("--puzzles", metavar="FILE|DIR|NAME",
                 help="Puzzles, or the name of a bundled set (default: the bundled test set of the model's task)."),
    click.option("--split", default="test", show_default=True, help="Split of a bundled set or .npy folder."),
    click.option("--task", metavar="NAME", expose_value=False, callback=_task_kept,
                 help="Task of the puzzles: sudoku6-3x2, maze7x12, generic-7x8, ... (default: inferred)."),
    click.option("--identifiers", type=click.Path(path_type=Path), metavar="FILE", expose_value=False,
                 callback=_kept_with_puzzles,
                 help="identifiers.json of the model, for puzzle files that contain no identifiers (ARC)."),
    click.option("--blank-identifiers", is_flag=True, expose_value=False, callback=_kept_with_puzzles,
                 help="Use the blank identifier for every puzzle instead of its own embedding (ARC)."),
)  # fmt: skip
allow_several = click.option(
    "--allow-several", is_flag=True, help="Also accept puzzles that have several solutions."
)
starts = click.option(
    "--starts",
    type=click.Choice(["own", "random"]),
    help="own: the family's restart law; random: truncated normals (default: own, if that law is random).",
)
batch_size = click.option("--batch-size", type=click.IntRange(1), help="Rows per batch (default: automatic).")
compiled = click.option(
    "--compile", "compiled", is_flag=True,
    help="Use torch.compile: slower to start, then faster; results are equal up to rounding; needs a compiler.",
)  # fmt: skip
commit = click.option(
    "--commit",
    type=Real(0, 1, min_open=True),
    metavar="SHARE",
    help="If no restart halts, write this share of each one's surest cells into the puzzle and restart; usual: 0.2.",
)
quiet = click.option("--quiet", is_flag=True, help="No progress bar.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def limit(default: int | None = None, *, bundled: int | None = None) -> Callable:
    """Return --limit; without a default it means all puzzles, or 64 of a file and `bundled` ones of a bundled set."""
    usual = f"64 of a file, drawn at random by --seed; {bundled} of a bundled set" if bundled else "all"
    text = "How many puzzles, from the first on, or all" + ("." if default else f" (default: {usual}).")
    return click.option(
        "--limit", type=Limit(), metavar="N|all", default=default, show_default=True, help=text
    )


def number(flag: str, default: int | None, text: str, least: int = 1, most: int = MOST) -> Callable:
    """Return an option for a whole number from `least` to `most`."""
    return click.option(flag, type=Whole(least, most), default=default, show_default=True, help=text)


def share(
    flag: str, default: float | None, text: str, most: float = 1, metavar: str | None = None
) -> Callable:
    """Return an option for a number between 0 and `most`, both excluded."""
    kind = Real(0, most, min_open=True, max_open=True)
    return click.option(flag, type=kind, default=default, show_default=True, metavar=metavar, help=text)


def restarts(default: int | None, text: str = "Restarts B of each puzzle.") -> Callable:
    """Return --restarts."""
    return number("--restarts", default, text)


def depth(default: int | None = 64, text: str = "Outer steps D of every run.") -> Callable:
    """Return --depth."""
    return number("--depth", default, text)


def seed(default: int | None = 0, text: str = "Seed of all random numbers.") -> Callable:
    """Return --seed."""
    return click.option("--seed", type=Seed(), default=default, show_default=True, help=text)


def noise(
    default: float | None = None,
    text: str = "Noise amplitude in every level call (default: the model's own).",
) -> Callable:
    """Return --noise."""
    return click.option("--noise", type=Real(0), default=default, show_default=True, help=text)


def device(
    default: str | None = "auto",
    text: str = "auto: CUDA if there is a CUDA device.",
    kind: click.ParamType = click.STRING,
) -> Callable:
    """Return --device; the command receives the name of a torch device, or None if the default is None."""

    def named(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
        return None if name is None else device_named(name)

    return click.option("--device", type=kind, default=default, show_default=True, metavar="[auto|cpu|cuda|mps]",
                        callback=named, help=text)  # fmt: skip


def dtype(*choices: str, default: str | None = None) -> Callable:
    """Return --dtype with these choices; None means the dtype of the model."""
    return click.option("--dtype", type=click.Choice(choices), default=default, show_default=True,
                        help="Precision of the iteration.")  # fmt: skip


def out(default: str = "out") -> Callable:
    """Return --out, a folder."""
    return click.option("--out", type=click.Path(path_type=Path), default=Path(default), show_default=True,
                        help="Folder of the results.")  # fmt: skip


def study(default_limit: int, default_restarts: int) -> Callable:
    """Return the options of verbs that study some runs of a few puzzles, in a precision that allows derivatives."""
    return together(
        puzzles,
        limit(default_limit),
        restarts(default_restarts),
        seed(),
        device(),
        dtype("float32", "float64", default="float32"),
        out(),
        quiet,
    )
