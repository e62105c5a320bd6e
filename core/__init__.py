"""Models and maps: the System protocol, the families, training, checkpoints."""

from eqrlab.core.checkpoints.load import FAMILIES, CheckpointError, build, bundled, load, save
from eqrlab.core.models.eqr import EqR, EqRConfig
from eqrlab.core.models.feedforward import Feedforward, FeedforwardConfig
from eqrlab.core.models.hrm import HRM, HRMConfig
from eqrlab.core.models.reasoner import MapSystem, Reasoner, System
from eqrlab.core.models.tied import Tied, TiedConfig
from eqrlab.core.models.trm import TRM, TRMConfig
from eqrlab.core.models.urm import URM, URMConfig
from eqrlab.core.random import KeyedNoise, StoredNoise

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
