"""`eqrlab info`."""

from __future__ import annotations

import json

import click

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_file
from eqrlab.analyses.text.describe import describe
from eqrlab.core.shown import aligned, flat, plain


@click.command("info", epilog="Example:  eqrlab info eqr-sudoku6")
@click.argument("checkpoint", metavar="CKPT")
@opt.as_json
@opt.checkpoint
def info(checkpoint: str, as_json: bool) -> None:
    """Show what a checkpoint is: family, configuration, provenance.

    CKPT is a file (official or eqrlab's own) or the name of a bundled model.
    """
    reasoner = load_file(checkpoint)
    facts = describe(reasoner)
    if as_json:
        click.echo(json.dumps({"checkpoint": checkpoint, **facts}))
        return
    shape = facts["state_shape"]
    lines = {
        "checkpoint": checkpoint,
        "family": facts["family"],
        "variant": facts["variant"],
        "task": facts["task"],
        "parameters": f"{facts['parameters']:,}",
        "state": f"{facts['state_dimension']:,} numbers: {' x '.join(map(str, shape))} (streams, positions, channels)",
        "outer step": f"{facts['level_calls']} level calls, {facts['equivalent_layers']} equivalent layers",
    }
    if reasoner.identifiers > 1:
        lines["identifiers"] = (
            f"{reasoner.identifiers:,} of puzzles, one embedding each; puzzles need the identifiers.json with "
            "which the model was trained"
        )
    click.echo("\n".join(aligned(lines)))
    for title, values in (("configuration", facts["config"]), ("provenance", facts["provenance"])):
        click.echo("\n".join(["", title, *aligned({f"  {k}": plain(v) for k, v in flat(values).items()})]))
