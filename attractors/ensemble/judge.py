"""Names that lie in other modules of this folder until it is arranged anew."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    for module in "iterate".split(",") if not name.startswith("__") else ():
        found = import_module(f"eqrlab.attractors.ensemble.{module}")
        if name in vars(found):
            return vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
