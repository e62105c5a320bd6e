"""eqrlab: see what the dynamics of recursive reasoning networks really do.

The work is done in four sub-packages: `eqrlab.core` (models, checkpoints, training), `eqrlab.attractors` (ensembles,
basins, modes, local dynamics of any system), `eqrlab.datasets` (puzzles) and `eqrlab.analyses` (the command line).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqrlab import analyses, attractors, core, datasets, plots
    from eqrlab.core import load

__version__ = "0.1.0"
__all__ = ["__version__", "analyses", "attractors", "core", "datasets", "load", "plots"]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that `import eqrlab` and `eqrlab --help` do not wait for torch.
    if name == "load":
        return importlib.import_module("eqrlab.core").load
    if name in __all__:
        return importlib.import_module(f"eqrlab.{name}")
    raise AttributeError(f"module 'eqrlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
