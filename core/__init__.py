"""Models and maps: the System protocol, the families, training, checkpoints."""

from eqrlab.core.checkpoint import FAMILIES, CheckpointError, build, bundled, load, save
from eqrlab.core.eqr import EqR, EqRConfig
from eqrlab.core.feedforward import Feedforward, FeedforwardConfig
from eqrlab.core.hrm import HRM, HRMConfig
from eqrlab.core.random import KeyedNoise, StoredNoise
from eqrlab.core.reasoner import MapSystem, Reasoner, System
from eqrlab.core.tied import Tied, TiedConfig
from eqrlab.core.trm import TRM, TRMConfig
from eqrlab.core.urm import URM, URMConfig

__all__ = [
    "FAMILIES",
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
    "Reasoner",
    "StoredNoise",
    "System",
    "TRMConfig",
    "Tied",
    "TiedConfig",
    "URMConfig",
    "build",
    "bundled",
    "load",
    "save",
]
