"""A CKPT that is the user's own code: FILE.py:NAME is executed, since typing it asks for that."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eqrlab.core import System
from eqrlab.core.models.contract import require_system

_OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_ASKED = {  # what commands ask of a model that a plain system has not, and what they then are told
    "family": "map", "task": "unknown", "config": None, "noise_scale": 0.0, "random_starts": True, "table": None,
    "identifiers": 0,
}  # fmt: skip


def is_own(checkpoint: str) -> bool:
    """Return whether a CKPT names an object of a Python file instead of a file of weights."""
    return _OWN.fullmatch(checkpoint) is not None and not Path(checkpoint).exists()


def load_system(checkpoint: str) -> System:
    """Run a Python file and return the system of this name in it.

    Parameters
    ----------
    checkpoint
        FILE.py:NAME; NAME is a System, such as `core.from_module` and `core.MapSystem` make, or a function without
        arguments that returns one.

    Raises
    ------
    ValueError
        If there is no such file, it fails, or NAME is not a System, or one that takes no attributes.
    """
    match = _OWN.fullmatch(checkpoint)
    assert match is not None
    path, name = Path(match["file"]), match["name"]
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected FILE.py:NAME")
    found = getattr(_run(path), name, None)
    if found is None:
        raise ValueError(
            f"{path}: has no {name!r}; expected a System of that name, or a function that returns one"
        )
    made = isinstance(found, torch.nn.Module) or not callable(found)
    made = made or (hasattr(found, "step") and not isinstance(found, type))  # a class is called
    system: Any = (
        found if made else _result(found, f"{checkpoint}: fails when it is called without arguments")
    )
    try:
        require_system(system)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    origin = {"checkpoint": f"{path.name}:{name}", "source": str(path)}
    try:
        for attribute, value in {**_ASKED, "smooth": lambda: system}.items():
            if not hasattr(system, attribute):
                setattr(system, attribute, value)
        system.provenance = {**(getattr(system, "provenance", None) or {}), **origin}
    except AttributeError:
        raise ValueError(
            f"{checkpoint}: {type(system).__name__} takes no attributes, and commands give it some, such as its task: "
            "leave out frozen=True and __slots__"
        ) from None
    return system


def _run(path: Path) -> Any:
    """Execute a file as if it were imported from its folder, and return the module."""
    name = f"_own_{path.stem}"  # of no other module: a file may be called random.py
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module  # pickles and dataclasses look their module up
    try:
        _result(partial(spec.loader.exec_module, module), f"{path}: fails when it is run")
    finally:
        sys.path.remove(folder)
    return module


def _result(of: Callable[[], Any], failing: str) -> Any:
    """Return what the user's code returns; whatever it raises becomes a ValueError that begins so."""
    try:
        return of()
    except (Exception, SystemExit) as error:  # a script may end by sys.exit
        raise ValueError(f"{failing}: {type(error).__name__}: {error}") from error
