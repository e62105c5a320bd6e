"""`eqrlab push`: a model and its card on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import xarray as xr

from eqrlab.analyses import options as opt
from eqrlab.analyses.commands.common.checkpoints import load_file
from eqrlab.analyses.commands.common.outputs import require_writable
from eqrlab.analyses.report import page
from eqrlab.analyses.report.model_card import FILE, model_card
from eqrlab.analyses.text.describe import describe
from eqrlab.attractors.results import archive, schema
from eqrlab.core import Reasoner, save
from eqrlab.core.checkpoints import hub
from eqrlab.core.files import replaced_whole


@click.command("push", epilog="Example:  eqrlab push eqr-sudoku6 --diagnosis out/diagnosis.nc --out card")
@click.argument("checkpoint", metavar="CKPT")
@click.argument("address", metavar="[HF://OWNER/REPOSITORY]", required=False)
@click.option("--diagnosis", type=click.Path(path_type=Path), metavar="FILE.nc",
              help="Of this checkpoint: its verdict is part of the card.")  # fmt: skip
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write what is uploaded there, too."
)
@opt.checkpoint
def push_command(
    checkpoint: str, address: str | None, diagnosis: Path | None, private: bool, out: Path | None
) -> None:
    """Put a model and its card on the Hugging Face hub.

    Uploads model.safetensors, which `load` reads, and the card README.md, which says what the model is, how to
    load it, and with --diagnosis what its landscape is.  Without an address nothing is uploaded, and --out is
    required.  Log in to the hub with `hf auth login` first.
    """
    if address is None and out is None:
        raise click.UsageError("give an address hf://owner/repository, --out DIR, or both")
    if address is not None:
        address = hub.SCHEME + "/".join(filter(None, hub.repository(address)))  # without a slash at its end
    model = load_file(checkpoint)
    card = model_card(describe(model), address, None if diagnosis is None else _groups(diagnosis, model))
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        require_writable(folder, FILE, "README.md")
        save(model, folder / FILE)
        with replaced_whole(folder / "README.md") as part:
            part.write_text(card, encoding="utf-8")
        if out is not None:
            click.echo(f"wrote {out / FILE} and {out / 'README.md'}")
        if address is not None:
            click.echo(f"uploaded to {hub.push(folder, address, (FILE, 'README.md'), private=private)}")


def _groups(path: Path, model: Reasoner) -> dict[str, xr.Dataset]:
    """Return the groups of an archive that belong to this checkpoint.

    Raises
    ------
    ValueError
        If the archive has no such groups.
    """
    wanted = schema.identity(model)
    for groups in page.checkpoints(archive.read(path, complete=True)).values():
        if "modes" in groups and schema.identity_in(groups["ensemble"].attrs) == wanted:
            return groups
    which = f", weights {wanted['weights']}" if "weights" in wanted else ""
    raise ValueError(
        f"{path}: has no diagnosis of the checkpoint of SHA-256 {wanted['checkpoint_sha256'][:16]}{which}"
    )
