"""`eqrlab diagnose` and `eqrlab report`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import named
from eqrlab.analyses.commands.common.cost import cost_line
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import (
    SAMPLE,
    how_chosen,
    puzzle_attributes,
    puzzles_for,
    require_solutions,
    short_source,
)
from eqrlab.analyses.commands.common.run_options import asked_law
from eqrlab.analyses.commands.common.unfinished import CONTINUE, Kept, request
from eqrlab.analyses.diagnose import archive_groups, diagnose_run
from eqrlab.analyses.report.disguises import disguise_sentence
from eqrlab.analyses.report.local import NOTHING, local_sentence
from eqrlab.analyses.report.page import write_report
from eqrlab.analyses.studies import arc
from eqrlab.analyses.studies.checks import check_sentences
from eqrlab.analyses.text.format import plural, table, wrapped
from eqrlab.analyses.text.names import typed
from eqrlab.analyses.text.signals import trust_sentence
from eqrlab.analyses.text.verdicts import drift_sentence, landscape_sentence, lost_sentence, verdict_rows
from eqrlab.attractors.landscape.waves import FIRST
from eqrlab.attractors.results import archive
from eqrlab.core import Reasoner
from eqrlab.datasets import PuzzleSet

DEFAULT = ("eqr-sudoku6", "eqr-attention-sudoku6")  # two bundled models with contrasting landscapes
ROWS = 32  # puzzles in a printed table
REPORT = "report.html"
LOCAL = 64  # puzzles up to which the local dynamics, some thousand evaluations each, are examined unasked


def verdict_lines(groups: dict[str, xr.Dataset]) -> list[str]:
    """Return the printed lines of a diagnosis: the verdict in a sentence, then a table of puzzles."""
    rows = verdict_rows(groups)
    sentences = landscape_sentence(groups["modes"], groups["alignment"], groups.get("signals"))
    if lost := lost_sentence(groups["ensemble"]):
        sentences = f"{lost} {sentences}"
    if "signals" in groups:
        sentences += " " + trust_sentence(groups["signals"])
    if drifting := drift_sentence(groups["ensemble"]):
        sentences += " " + drifting
    if "disguises" in groups:
        sentences += " " + disguise_sentence(groups["disguises"])
    if "spectrum" in groups:
        told = local_sentence(groups["spectrum"])
        sentences += f" {told}" if told == NOTHING else f" At the attractors: {told}"
    more = [f"... and {len(rows) - ROWS} more puzzles in the archive"] if len(rows) > ROWS else []
    checked = [line for _, text in check_sentences(groups) for line in wrapped(text)]
    return [
        *wrapped(sentences),
        "",
        *table(rows[:ROWS]),
        *more,
        *([""] if checked else []),
        *checked,
    ]


sampling_options = opt.together(
    opt.puzzles,
    opt.limit(bundled=SAMPLE),
    opt.allow_several,
    opt.restarts(40),
    opt.depth(),
    opt.seed(),
    opt.noise(),
    opt.starts,
    opt.device(),
    opt.dtype("float32", "float64", "bfloat16"),
    opt.batch_size,
    opt.compiled,
    click.option("--local/--no-local", default=None,
                 help="Examine spectrum and stability at each puzzle's largest right and wrong attractor "
                      f"(default: with up to {LOCAL} puzzles)."),
    click.option("--checks/--no-checks", default=True, show_default=True,
                 help="Check the verdicts: more depth for some runs, other thresholds, whether the map acts at all."),
    opt.out(),
    click.option("--resume", is_flag=True,
                 help="Continue a run that was stopped: finished checkpoints, and kept runs, are not run again."),
    prints_json,
    opt.quiet,
    opt.checkpoint,
)  # fmt: skip

fixed_option = click.option(
    "--fixed",
    is_flag=True,
    help="Draw all restarts of every puzzle, even of clear ones, measure all residuals, run to full depth.",
)


def run_one(
    name: str,
    model: Reasoner,
    chosen: PuzzleSet,
    kept: Kept,
    *,
    restarts: int,
    starts: str | None,
    noise: float | None,
    quiet: bool,
    local: bool | None,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Diagnose one model on its puzzles, or use the stored result; store the result and print the verdict."""
    unasked = local is None and len(chosen) > LOCAL
    law = asked_law(model, starts)
    beta = model.noise_scale if noise is None else noise
    outside = ", from random states outside its training law" if law and not model.random_starts else ""
    if not (law or model.random_starts or beta):
        restarts = 1
        outside = ": it starts at one stored state, noise is off, so that every restart would be the same"
    source = short_source(chosen) + how_chosen(chosen)
    plenty = "" if options["fixed"] or restarts <= FIRST else "up to "
    click.echo(
        f"{name}: {plural(len(chosen), 'puzzle')} of {source}, {plenty}{plural(restarts, 'restart')}, "
        f"depth {options['depth']}{outside}"
    )
    groups = kept.found(name)
    if groups is None:
        batch, checks, fixed = (options.pop(n) for n in ("batch_size", "checks", "fixed"))
        job: dict[str, Any] = {
            "labels": chosen.labels, "identifiers": chosen.identifiers, "oracle": chosen.oracle,
            "restarts": restarts, "noise": noise,
            "initial": law, "residuals": "all" if fixed else "sparse",
            "retire": not fixed, **options,
        }  # fmt: skip
        parts: dict[str, Any] = {
            "local": not unasked if local is None else local, "checks": checks, "batch_size": batch,
        }  # fmt: skip
        run = at.Run.of(model, chosen.inputs, **job)
        if not quiet:
            click.echo(cost_line(run, waves=not fixed and restarts > FIRST, **parts), err=True)
        groups = diagnose_run(run, fixed=fixed, progress=not quiet, store=kept.rows(name), **parts)
        if shown := arc.shown_names(chosen):
            groups["ensemble"] = arc.with_names(groups["ensemble"], shown)
            groups["disguises"] = arc.disguises(at.common_restarts(groups["ensemble"]), chosen)
        for dataset in groups.values():
            dataset.attrs |= {"name": typed(name), **puzzle_attributes(chosen)}
        kept.keep(name, groups)
    click.echo("\n".join(verdict_lines(groups)) + "\n")
    if unasked:
        click.echo(f"Local dynamics left out with more than {LOCAL} puzzles; --local asks for them.\n")
    return groups


def with_puzzles(
    checkpoints: Sequence[str], options: dict[str, Any]
) -> dict[str, tuple[Reasoner, PuzzleSet]]:
    """Load checkpoints and the puzzles of each; the options that choose puzzles are taken out of `options`."""
    models = named(checkpoints, options["compiled"])
    choice = [options.pop(name) for name in ("puzzles", "split", "limit", "allow_several")]
    about = {"seed": options["seed"], "quiet": options["quiet"]}
    jobs = {name: (model, puzzles_for(model, *choice, **about)) for name, model in models.items()}
    for _, chosen in jobs.values():
        require_solutions(chosen)
    return jobs


def run_all(
    jobs: Mapping[str, tuple[Reasoner, PuzzleSet]],
    *,
    compiled: bool,
    target: Path,
    resume: bool,
    **options: Any,
) -> tuple[dict[str, dict[str, xr.Dataset]], Kept]:
    """Diagnose checkpoints on their puzzles, one after another.

    The results of each checkpoint are stored beside `target` as soon as they are there, until `target` is written.
    """
    require_writable(target.parent, target.name, REPORT)
    wanted = {name: request(*job, options, compiled) for name, job in jobs.items()}
    kept = Kept(target, wanted, resume)
    results: dict[str, dict[str, xr.Dataset]] = {}
    try:
        for name, job in jobs.items():
            results[name] = run_one(name, *job, kept, **options)
    except BaseException as error:
        if results:
            if not target.exists():
                archive.write(target, archive_groups(results))
                write_report(target, target.with_name(REPORT))
            error.add_note(
                f"{len(results)} of {len(jobs)} checkpoints are kept in {target.parent}; {CONTINUE}"
            )
        else:
            kept.note(error)
        raise
    return results, kept


def finish(target: Path, groups: dict[str, xr.Dataset], kept: Kept | None, began: float) -> str:
    """Write the archive and the report, and return their paths."""
    archive.write(target, groups)
    if kept is not None:
        kept.remove()
    write_report(target, target.with_name(REPORT))
    return f"archive {target}, report {target.with_name(REPORT)}, {time.monotonic() - began:.0f} s"


@click.command("diagnose", epilog="Example:  eqrlab diagnose eqr-sudoku6 --limit 2 --restarts 8 --depth 16")
@click.argument("checkpoints", nargs=-1, metavar="[CKPT]...")
@sampling_options
@fixed_option
def diagnose_command(checkpoints: tuple[str, ...], out: Path, **options: Any) -> Path:
    """Diagnose the landscape of checkpoints: verdict and report.

    CKPT is a file (official or eqrlab's own) or the name of a bundled model; without any, two bundled models with
    contrasting landscapes are diagnosed.  Writes OUT/diagnosis.nc and OUT/report.html; `eqrlab report OUT/diagnosis.nc
    --format md` makes the report as Markdown.

    Families with one stored start (TRM, HRM, URM) have no restart law of their own.  They are started from random
    states, outside their training law, or run once from their stored start with `--starts own`.
    """
    began, target = time.monotonic(), out / "diagnosis.nc"
    results, kept = run_all(with_puzzles(checkpoints or DEFAULT, options), target=target, **options)
    click.echo(finish(target, archive_groups(results), kept, began))
    return target


@click.command("report", epilog="Example:  eqrlab report out/diagnosis.nc --format md")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to write (default: report.html or .md beside FILE)."
)
@click.option("--format", "kind", type=click.Choice(["html", "md"]), default="html", show_default=True,
              help="md: Markdown for a paper's appendix or a model card.")  # fmt: skip
def report_command(file: Path, out: Path | None, kind: str) -> None:
    """Write the report of an archive again, as HTML or Markdown.

    This needs only the archive.
    """
    target = out or file.parent / f"report.{kind}"
    require_writable(target.parent, target.name)
    write_report(file, target, kind)
    click.echo(f"report {target}")
