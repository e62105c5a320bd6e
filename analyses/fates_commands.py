"""`eqrlab fates`: settled or not against right or wrong, at growing depth."""

from __future__ import annotations

from pathlib import Path

import click

from eqrlab.analyses import fates
from eqrlab.analyses.diagnose_commands import puzzles_for, require_writable, short_source, table
from eqrlab.attractors import archive
from eqrlab.core import load


class Depths(click.ParamType):
    """Depths as numbers with commas between."""

    name = "D,D,..."

    def convert(self, value: str | tuple[int, ...], param: object, ctx: object) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            depths = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of depths, such as 16,64,256")
        if min(depths) < 1:
            self.fail(f"depths must be >= 1, got {min(depths)}")
        return depths


@click.command("fates", epilog="Example:  eqrlab fates eqr-sudoku6 --limit 6 --restarts 8 --depths 16,64")
@click.argument("checkpoint", metavar="CKPT")
@click.option("--puzzles", metavar="FILE|DIR", help="Puzzles (default: the bundled test set).")
@click.option("--split", default="test", show_default=True, help="Split of a bundled set or .npy folder.")
@click.option(
    "--limit", type=click.IntRange(1), default=12, show_default=True, help="The first so many puzzles."
)
@click.option(
    "--restarts", type=click.IntRange(1), default=16, show_default=True, help="Runs of each puzzle."
)
@click.option(
    "--depths",
    type=Depths(),
    default="16,64,256",
    show_default=True,
    help="The first depth and doublings of it.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Noise amplitude in every level call.",
)
@click.option(
    "--pushed",
    type=click.IntRange(1),
    default=24,
    show_default=True,
    help="Most settled wrong, and right, runs in the return test.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bar.")
def fates_command(
    checkpoint: str, puzzles: str | None, split: str, limit: int, restarts: int, depths: tuple[int, ...], noise: float,
    pushed: int, dtype: str, device: str, seed: int, out: Path, quiet: bool,
) -> None:  # fmt: skip
    """Settled or not against right or wrong, at growing depth, halting off.

    Tells runs that failed from runs that were merely unfinished; pushes runs that settled and sees whether they come
    back; checks that the map does anything at all.  Families with one stored start are started from random states,
    outside their training law.  Writes OUT/fates.nc.
    """
    model = load(checkpoint)
    chosen = puzzles_for(model, puzzles, split, limit, several=True)
    require_writable(out)
    groups = fates.fates_study(
        model, chosen.inputs, labels=chosen.labels, oracle=chosen.oracle, restarts=restarts, depths=depths,
        pushed=pushed, seed=seed, noise=noise, dtype=dtype, device=device, progress=not quiet,
        initial=None if model.random_starts else model.random_initial,
    )  # fmt: skip
    found = groups["outcomes"]
    click.echo(
        f"{checkpoint}: {len(chosen)} puzzles of {short_source(chosen)}, {restarts} restarts, noise {noise:g}\n"
    )
    for title, rows in (
        ("share of runs, with intervals over puzzles", fates.outcome_rows(found)),
        ("what depth changed", fates.depth_rows(found)),
        ("relative residual of right and wrong runs, without any threshold", fates.residual_rows(found)),
    ):
        click.echo("\n".join([title, *table(rows), ""]))
    click.echo(fates.late_sentence(found))
    if "return_test" in groups:
        click.echo(fates.return_sentence(groups["return_test"]))
    click.echo(fates.noop_sentence(groups["noop"]))
    archive.write(out / "fates.nc", groups)
    click.echo(f"\narchive {out / 'fates.nc'}")
