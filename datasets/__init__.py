"""Puzzles: generate, read, write, disguise, and judge answers to them."""

from eqrlab.datasets.files import bundled, bundled_names, read_puzzles, write_csv, write_npy_folder
from eqrlab.datasets.puzzles import Draw, PuzzleSet
from eqrlab.datasets.registry.family import Family
from eqrlab.datasets.registry.lookup import (
    augmentation,
    board,
    fingerprint,
    oracle,
    render,
    seq_len,
    task,
    task_of,
    tasks,
    vocab_size,
)
from eqrlab.datasets.registry.task import Oracle, Solutions, Task
from eqrlab.datasets.sets import build
from eqrlab.datasets.symmetry import augment

__all__ = [
    "Draw",
    "Family",
    "Oracle",
    "PuzzleSet",
    "Solutions",
    "Task",
    "augment",
    "augmentation",
    "board",
    "build",
    "bundled",
    "bundled_names",
    "fingerprint",
    "oracle",
    "read_puzzles",
    "render",
    "seq_len",
    "task",
    "task_of",
    "tasks",
    "vocab_size",
    "write_csv",
    "write_npy_folder",
]
