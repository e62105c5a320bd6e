"""The page of a model on the hub: what it is, how to load it, and what its diagnosis found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr
import yaml

from eqrlab.analyses.report.markdown import diagnosis_markdown
from eqrlab.analyses.text.format import markdown_table
from eqrlab.core.shown import flat, plain

FILE = "model.safetensors"


def model_card(facts: Mapping[str, Any], address: str | None, groups: Mapping[str, xr.Dataset] | None) -> str:
    """Return a model card in Markdown, with the header that the hub reads.

    Parameters
    ----------
    facts
        Facts about the model, from `describe`.
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
        diagnosis_markdown(groups) if groups else "Not diagnosed: `eqrlab diagnose` tells its landscape.",
        "## Configuration\n\n" + _table({k: plain(v) for k, v in flat(dict(facts["config"])).items()}),
        "## Provenance\n\n" + _table({k: plain(v) for k, v in flat(dict(facts["provenance"])).items()}),
    ]
    return "\n\n".join(lines) + "\n"


def _table(values: Mapping[str, str]) -> str:
    return markdown_table([{"": f"`{name}`", " ": text} for name, text in values.items()])
