"""The page of a model on the hub: what it is, how to load it, and what its diagnosis found."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import xarray as xr
import yaml

from eqrlab.analyses.text.names import typed
from eqrlab.analyses.text.verdicts import landscape_sentence, verdict_rows
from eqrlab.core.shown import flat, plain

ROWS = 16  # puzzles in the table
FILE = "model.safetensors"


def model_card(facts: Mapping[str, Any], address: str | None, groups: Mapping[str, xr.Dataset] | None) -> str:
    """Return a model card in Markdown, with the header that the hub reads.

    Parameters
    ----------
    facts
        What `describe` tells of the model.
    address
        hf://owner/repository[/folder] where it is going to be.
    groups
        Of its diagnosis: `ensemble`, `modes`, `alignment` and what else there is; None without one.
    """
    family, task = facts["family"], facts["task"]
    header = {"library_name": "eqrlab", "tags": ["eqrlab", "recursive-reasoning", family, task]}
    shape = " x ".join(map(str, facts["state_shape"]))
    lines = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {family} on {task}",
        f"{facts['parameters']:,} parameters; a state of {facts['state_dimension']:,} numbers ({shape}: streams, "
        f"positions, channels); an outer step applies {facts['equivalent_layers']} layers.",
        f'```python\nfrom eqrlab.core import load\n\nmodel = load("{address or "FOLDER"}/{FILE}")\n```',
        _verdict(groups) if groups else "Not diagnosed: `eqrlab diagnose` tells its landscape.",
        "## Configuration\n\n" + _table({k: plain(v) for k, v in flat(dict(facts["config"])).items()}),
        "## Provenance\n\n" + _table({k: plain(v) for k, v in flat(dict(facts["provenance"])).items()}),
    ]
    return "\n\n".join(lines) + "\n"


def _verdict(groups: Mapping[str, xr.Dataset]) -> str:
    """Return what a diagnosis found, with the runs it is of."""
    ensemble = groups["ensemble"]
    about = ensemble.attrs
    runs = (
        f"{ensemble.sizes['puzzle']} puzzles of {typed(str(about.get('puzzles', 'a set that is not recorded')))}, "
        f"{ensemble.sizes['restart']} restarts, depth {ensemble.sizes['step']}, noise {float(about['noise']):g}, "
        f"seed {about['seed']}, {about['dtype']}; {about['source']}"
    )
    rows = verdict_rows(dict(groups))
    shown = [
        "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(row.values()) + " |" for row in rows[:ROWS]),
    ] if rows else []  # fmt: skip
    more = [f"... and {len(rows) - ROWS} more puzzles"] if len(rows) > ROWS else []
    sentence = landscape_sentence(groups["modes"], groups["alignment"])
    return "\n".join(
        ["## Landscape", "", *textwrap.wrap(sentence, 110), "", f"From {runs}.", "", *shown, *more]
    )


def _table(values: Mapping[str, str]) -> str:
    rows = (f"| `{name}` | {text} |" for name, text in values.items() if "|" not in text)
    return "\n".join(["| | |", "|---|---|", *rows])
