"""The command line: `eqrlab <verb>`.  Exit codes: 0 success, 2 wrong usage, 1 failure with a one-line reason."""

from __future__ import annotations

import importlib
import sys

import click

from eqrlab import __version__

VERBS = {
    "diagnose": "eqrlab.analyses.diagnose_commands:diagnose_command",
    "compare": "eqrlab.analyses.diagnose_commands:compare_command",
    "export": "eqrlab.analyses.export_commands:export_command",
    "verify": "eqrlab.analyses.export_commands:verify_command",
    "report": "eqrlab.analyses.diagnose_commands:report_command",
    "spectrum": "eqrlab.analyses.dynamics_commands:spectrum_command",
    "fixed-points": "eqrlab.analyses.dynamics_commands:fixed_points_command",
    "basins": "eqrlab.analyses.basins_commands:basins_command",
    "continuation": "eqrlab.analyses.continuation_commands:continuation_command",
    "scale": "eqrlab.analyses.scale_commands:scale_command",
    "plane": "eqrlab.analyses.plane_commands:plane_command",
    "lyapunov": "eqrlab.analyses.dynamics_commands:lyapunov_command",
    "dynamics": "eqrlab.analyses.endings_commands:dynamics_command",
    "fates": "eqrlab.analyses.fates_commands:fates_command",
    "train": "eqrlab.analyses.train_commands:train",
    "ladder": "eqrlab.analyses.ladder_commands:ladder_command",
    "evaluate": "eqrlab.analyses.train_commands:evaluate",
    "info": "eqrlab.analyses.train_commands:info",
    "data": "eqrlab.analyses.data_commands:data",
}
SUMMARIES = {
    "diagnose": "The main job: verdict, archive and report for checkpoints.",
    "compare": "Landscapes side by side, with paired intervals on the differences.",
    "export": "A trajectory archive, streamed and resumable.",
    "verify": "Whether an archive keeps the schema and its checksums.",
    "report": "Write the HTML report again, from an archive alone.",
    "spectrum": "Leading eigenvalues of the Jacobian where runs end.",
    "fixed-points": "Fixed points next to where runs end, certified.",
    "basins": "Basin sizes of each puzzle to a requested precision.",
    "continuation": "Attractors, masses and modes followed over training, noise, damping or starts.",
    "scale": "What depth and breadth buy: accuracy of every selector, and cost.",
    "plane": "A picture of the basins on a plane through state space.",
    "lyapunov": "Lyapunov exponents of the trajectories that go on from there.",
    "dynamics": "What runs end as: fixed points, saddles, cycles, chaos; right and wrong.",
    "fates": "Settled or not against right or wrong, at growing depth.",
    "train": "Train a model on a task.",
    "ladder": "The construction path: what each ingredient does to accuracy and landscape.",
    "evaluate": "Exact accuracy of a checkpoint.",
    "info": "Family, configuration, size and provenance of a checkpoint.",
    "data": "Puzzles: generate, describe, verify.",
}


class LazyGroup(click.Group):
    """A command group that imports a verb only when it is used, so that help stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name = VERBS[cmd_name].split(":")
        return getattr(importlib.import_module(module), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eqrlab")
def cli() -> None:
    """See the attractor landscape of recursive reasoning networks.

    `eqrlab diagnose` on a checkpoint tells which landscape mode each puzzle is in, how big the basins are, and whether
    the residual tells right from wrong.
    """


def main() -> None:
    """Run the command line; misuse, unusable files and a lack of memory end with one line and exit code 1."""
    try:
        cli()
    except (ValueError, OSError) as error:
        _fail(" ".join(str(error).split()) or type(error).__name__)
    except (MemoryError, RuntimeError) as error:
        from eqrlab.attractors.batches import is_out_of_memory  # loads torch, which help does without

        if not is_out_of_memory(error):
            raise
        _fail(
            f"out of memory, ask for less at a time ({str(error).splitlines()[0] if str(error) else 'no details'})"
        )


def _fail(reason: str) -> None:
    print(f"eqrlab: {reason}", file=sys.stderr)
    sys.exit(1)
