"""Models and maps: the System protocol, the families, training, checkpoints.

Names are loaded when they are first used, so that importing `core.messages`, for example, does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eqrlab.core.checkpoints.build import build
    from eqrlab.core.checkpoints.load import bundled, load, save
    from eqrlab.core.errors import CheckpointError
    from eqrlab.core.models.eqr import EqR, EqRConfig
    from eqrlab.core.models.families import families
    from eqrlab.core.models.feedforward import Feedforward, FeedforwardConfig
    from eqrlab.core.models.from_module import ModuleSystem, from_module
    from eqrlab.core.models.hrm import HRM, HRMConfig
    from eqrlab.core.models.reasoner import Reasoner
    from eqrlab.core.models.system import MapSystem, System
    from eqrlab.core.models.tied import Tied, TiedConfig
    from eqrlab.core.models.trm import TRM, TRMConfig
    from eqrlab.core.models.urm import URM, URMConfig
    from eqrlab.core.random import KeyedNoise, StoredNoise

_MODULES = {
    "checkpoints.build": "build",
    "checkpoints.load": "bundled load save",
    "errors": "CheckpointError",
    "models.eqr": "EqR EqRConfig",
    "models.families": "families",
    "models.feedforward": "Feedforward FeedforwardConfig",
    "models.from_module": "ModuleSystem from_module",
    "models.hrm": "HRM HRMConfig",
    "random": "KeyedNoise StoredNoise",
    "models.reasoner": "Reasoner",
    "models.system": "MapSystem System",
    "models.tied": "Tied TiedConfig",
    "models.trm": "TRM TRMConfig",
    "models.urm": "URM URMConfig",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "HRM",
    "TRM",
    "URM",
    "CheckpointError",
    "EqR",
    "EqRConfig",
    "Feedforward",
    "FeedforwardConfig",
    "HRMConfig",
    "KeyedNoise",
    "MapSystem",
    "ModuleSystem",
    "Reasoner",
    "StoredNoise",
    "System",
    "TRMConfig",
    "Tied",
    "TiedConfig",
    "URMConfig",
    "build",
    "bundled",
    "families",
    "from_module",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
