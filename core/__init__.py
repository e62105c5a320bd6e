"""Models and maps: the System protocol, the families, training, checkpoints."""

from eqrlab.core.checkpoint import CheckpointError, build, bundled, load, save
from eqrlab.core.eqr import EqR, EqRConfig
from eqrlab.core.random import KeyedNoise, StoredNoise
from eqrlab.core.reasoner import MapSystem, Reasoner, System

__all__ = [
    "CheckpointError",
    "EqR",
    "EqRConfig",
    "KeyedNoise",
    "MapSystem",
    "Reasoner",
    "StoredNoise",
    "System",
    "build",
    "bundled",
    "load",
    "save",
]
