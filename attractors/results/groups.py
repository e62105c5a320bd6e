"""The groups of an archive, each as a result by name."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from eqrlab.attractors.results import archive
from eqrlab.attractors.results.named import named


def read(path: str | Path) -> dict[str, xr.Dataset]:
    """Read an archive into memory: group name to result, as the analyses returned them.

    Parameters
    ----------
    path
        An archive of `eqrlab diagnose`, `export`, ... of this version or an older one.

    Returns
    -------
    dict
        "ensemble", "basins", ...; those of a second checkpoint are "NAME/ensemble", ...

    Raises
    ------
    ValueError
        When the file is missing, no archive, damaged, or of a newer schema version.
    """
    tree = archive.read(path)
    return {
        node.path.lstrip("/"): named(node.to_dataset(inherit=False))
        for node in tree.subtree
        if node.data_vars
    }


def results_of(node: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the groups of one checkpoint in an archive, name to result, as the analyses returned them."""
    return {name: named(child.to_dataset()) for name, child in node.children.items() if child.data_vars}
