"""`eqrlab spectrum`, `fixed-points` and `lyapunov`: local dynamics at the states where runs end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_checkpoint
from eqrlab.analyses.commands.common.cost import study_cost_line
from eqrlab.analyses.commands.common.json_result import prints_json
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.commands.common.puzzle_choice import puzzles_for
from eqrlab.analyses.text.format import at_most, signed_interval, table
from eqrlab.analyses.text.tables import answer_word
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.results.schema import FATES
from eqrlab.core import Reasoner
from eqrlab.core.models.reasoner import restart_law
from eqrlab.datasets import PuzzleSet

EIGENVALUE = 60  # evaluations that a leading eigenvalue of a state takes, as a rule
FIXED_POINT = 1000  # evaluations that the search from a state takes, with its certificate

common = opt.together(
    click.argument("checkpoint", metavar="CKPT"),
    opt.depth(text="Outer steps, noise off, before the analysis."),
    prints_json,
    opt.study(default_limit=4, default_restarts=2),
    opt.checkpoint,
)


def settled_runs(
    checkpoint: str, puzzles: str | None, split: str, limit: int, file: Path, quiet: bool, then: tuple[str, int],
    **options: Any,
) -> tuple[Reasoner, PuzzleSet, xr.Dataset]:  # fmt: skip
    """Load a model, run its puzzles noise-free from its restart law, and return model, puzzles and final states.

    First checks that `file` can be written, and prints the cost; `then` gives the name of the analysis that follows
    and its evaluations per state.
    """
    model = load_checkpoint(checkpoint).smooth()
    chosen = puzzles_for(model, puzzles, split, limit, several=True)
    require_writable(file.parent, file.name)
    run = at.Run.of(model, chosen.inputs, labels=chosen.labels, identifiers=chosen.identifiers,
                    oracle=chosen.oracle, noise=0, initial=restart_law(model),
                    keep=("summary", "final_state"), **options)  # fmt: skip
    if not quiet:
        click.echo(study_cost_line(run, {then[0]: then[1] * run.rows}), err=True)
    return model, chosen, run.sample(progress=not quiet)


def _run_row(ensemble: xr.Dataset, puzzle: int, point: int) -> dict[str, str]:
    return {
        "puzzle": str(puzzle),
        "run": str(point),
        "answer": answer_word(ensemble, puzzle, point, -1),
        "fate": FATES[int(ensemble.fate.values[puzzle, point])],
        "residual": f"{float(ensemble.relative_residual.values[puzzle, point, -1]):.1e}",
    }


def _finish(
    out: Path, name: str, groups: dict[str, xr.Dataset], rows: list[dict[str, str]], note: str = ""
) -> Path:
    archive.write(out / f"{name}.nc", groups)
    click.echo("\n".join([*table(rows), note] if note else table(rows)))
    click.echo(f"\narchive {out / f'{name}.nc'}")
    return out / f"{name}.nc"


@click.command("spectrum", epilog="Example:  eqrlab spectrum eqr-sudoku6 --limit 1 --restarts 1 -k 2")
@common
@opt.number("-k", 6, "How many leading eigenvalues, at most as many as a state has numbers.")
@click.option(
    "--tol",
    type=opt.Real(0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Relative residual asked for.",
)
@click.option("--which", default="modulus", show_default=True, metavar="modulus|real|NUMBER",
              help="The largest modulus, the largest real part, or nearest to a number.")  # fmt: skip
def spectrum_command(k: int, tol: float, which: str, out: Path, **options: Any) -> Path:
    """Compute the Jacobian's leading eigenvalues where runs end.

    The Jacobian is that of one outer step.  At a fixed point, a spectral radius below 1 means stable; elsewhere it
    describes one step only.  The number after +- bounds its error.  The radius of a strongly non-normal Jacobian may
    be unknown.  Writes OUT/spectrum.nc.
    """
    model, chosen, ensemble = settled_runs(
        file=out / "spectrum.nc", then=("eigenvalues", EIGENVALUE * k), **options
    )
    k = min(k, ensemble["final_state"][0, 0].size)
    result = at.spectrum(model, chosen.inputs, ensemble, k=k, tol=tol, which=wanted(which), seed=options["seed"],
                         device=options["device"], progress=not options["quiet"])  # fmt: skip
    rows = []
    for p, m in np.ndindex(ensemble.fate.shape):
        values = result.eigenvalue.values[p, m]
        residual = result.eigen_residual.values[p, m][np.isfinite(values)]
        row = {"spectral radius": _radius(result, p, m)}
        row["leading eigenvalues"] = "  ".join(_complex(v) for v in values[:3] if np.isfinite(v))
        row["worst residual"] = f"{residual.max():.0g}" if len(residual) else ""
        row["worst residual"] += (
            " not converged" if len(residual) and not result.complete.values[p, m] else ""
        )
        rows.append({**_run_row(ensemble, p, m), **row})
    return _finish(out, "spectrum", {"ensemble": ensemble, "spectrum": result}, rows)


def _radius(result: xr.Dataset, p: int, m: int) -> str:
    """Return the spectral radius with its error bound, as text; of a state that is not finite nothing is known."""
    value, low, high = Interval.of(result, "spectral_radius", p, m)
    if np.isnan(value):
        return "not known"
    if not np.isfinite(high):
        return f"{value:.4f} (not known)"
    error = max(high - value, value - low)
    digits = int(np.clip(-np.floor(np.log10(max(error, 1e-300))), 4, 9))
    return (
        f"{value:.{digits}f} +- {at_most(error + 0.5 * 10.0**-digits)}"  # which bounds what is left out, too
    )


def wanted(which: str) -> str | float:
    """Return the text as a number if it is one, otherwise unchanged; `at.spectrum` checks it."""
    try:
        return float(which)
    except ValueError:
        return which


def _complex(value: complex) -> str:
    return f"{value.real:.3f}" if abs(value.imag) < 5e-4 else f"{value.real:.3f}{value.imag:+.3f}i"


@click.command("fixed-points", epilog="Example:  eqrlab fixed-points eqr-sudoku6 --limit 1 --restarts 2")
@common
@click.option("--method", type=click.Choice(["staged", "picard", "anderson", "newton", "projection"]),
              default="staged", show_default=True)  # fmt: skip
@click.option("--max-steps", type=click.IntRange(1), default=1000, show_default=True)
@opt.number(
    "--deflate", 0, "Further searches from every run, each avoiding the points found before.", least=0
)
def fixed_points_command(method: str, max_steps: int, deflate: int, out: Path, **options: Any) -> Path:
    """Find and certify fixed points near the states where runs end.

    Equal points are merged, and each is classed as stable, unstable or undecided.  Writes OUT/fixed-points.nc.
    """
    model, chosen, ensemble = settled_runs(
        file=out / "fixed-points.nc", then=("fixed points", FIXED_POINT * (1 + deflate)), **options
    )
    result = at.fixed_points(model, chosen.inputs, ensemble, method=method, max_steps=max_steps,
                             deflate=deflate, seed=options["seed"], device=options["device"],
                             progress=not options["quiet"])  # fmt: skip
    names, kinds = (result[n].attrs["flag_meanings"].split() for n in ("result", "stability"))
    rows = []
    for p, m in np.ndindex(result.result.shape):
        solution = int(result.solution.values[p, m])
        row = _run_row(ensemble, p, int(result.start.values[m]))
        row |= {"result": names[int(result.result.values[p, m])], "solution": ""}
        row |= dict.fromkeys(("stable", "spectral radius", "error bound"), "")
        if solution >= 0:
            row["solution"], row["stable"] = str(solution), kinds[int(result.stability.values[p, m])]
            row["spectral radius"] = _radius(result, p, m)
            row["error bound"] = f"{float(result.error_bound.values[p, m]):.1e}"
        rows.append(row)
    return _finish(
        out,
        "fixed-points",
        {"ensemble": ensemble, "fixed_points": result},
        rows,
        _precision_note(result, kinds.index("undecided")),
    )


def _precision_note(result: xr.Dataset, undecided: int) -> str:
    """Return what float64 would be needed for, empty where it is used already or nothing is undecided."""
    stability = result.stability.values
    count = int((stability == undecided).sum())
    if not count or result.attrs["dtype"] == "float64":
        return ""
    return (
        f"\nundecided: {count} of {(stability >= 0).sum()}, as float32 rounds too coarsely to certify more; "
        "--dtype float64 decides more"
    )


@click.command("lyapunov", epilog="Example:  eqrlab lyapunov eqr-sudoku6 --limit 1 --restarts 1 --steps 40")
@common
@opt.number("-k", 2, "How many leading exponents, at most as many as a state has numbers.")
@opt.number("--steps", 200, "Outer steps to average over.", least=20)
def lyapunov_command(k: int, steps: int, out: Path, **options: Any) -> Path:
    """Compute the leading Lyapunov exponents of continued runs.

    Each run continues, with noise off, from the state where it ended.  Exponents are in natural logarithm per outer
    step; a leading exponent whose interval is above 0 means chaos.  Writes OUT/lyapunov.nc.
    """
    model, chosen, ensemble = settled_runs(
        file=out / "lyapunov.nc", then=("exponents", steps * (1 + 3 * k)), **options
    )
    k = min(k, ensemble["final_state"][0, 0].size)
    result = at.lyapunov(model, chosen.inputs, ensemble, k=k, steps=steps, noise=0, seed=options["seed"],
                         device=options["device"], progress=not options["quiet"])  # fmt: skip
    rows = []
    for p, m in np.ndindex(ensemble.fate.shape):
        row = {}
        for i in range(k):
            exponent = Interval.of(result, "lyapunov_exponent", p, m, i)
            row[f"exponent {i + 1}"] = signed_interval(*exponent, 4) or "not known"
        rows.append({**_run_row(ensemble, p, m), **row})
    return _finish(out, "lyapunov", {"ensemble": ensemble, "lyapunov": result}, rows)
