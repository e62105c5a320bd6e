"""Apple's GPUs (mps), which have no float64, as far as a machine without one shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.batches import is_out_of_memory
from eqrlab.attractors.ensemble.place import Place
from eqrlab.datasets import bundled
from tests.core_models import small_eqr

MPS = torch.device("mps")
ROOT = Path(__file__).resolve().parents[1]


def test_float64_is_refused_with_what_to_do():
    model = small_eqr()
    with pytest.raises(
        ValueError, match=r"the device mps has no float64: use dtype float32 .* or the device cpu"
    ):
        Place.of(model, "mps", "float64")
    with pytest.raises(ValueError, match=r"mps has no float64"):
        at.sample(model.double(), bundled("sudoku6").inputs[:1, :6] % 5, restarts=1, depth=1, device="mps")
    assert Place.of(model, "mps", "float32").device == Place.of(model, "mps").device == MPS


def test_derivatives_are_taken_on_the_processor():
    model = small_eqr(noise_scale=0.0)
    inputs = torch.arange(6)[None] % 5
    state = model.initial(model.encode(inputs), torch.Generator().manual_seed(0))[None]
    here, there = (at.spectrum(model, inputs, state, k=2, device=d) for d in ("cpu", "mps"))
    assert np.array_equal(here.eigenvalue.values, there.eigenvalue.values)
    assert there.attrs["device"] == "cpu"


def test_states_come_to_the_processor_before_they_become_float64():
    """On mps `.double()` fails, and `.cpu().double()` is the same number everywhere else."""
    wrong = [
        f"{file.relative_to(ROOT)}: {found}"
        for file in [*(ROOT / "attractors").rglob("*.py"), *(ROOT / "core" / "models").glob("*.py")]
        for found in re.findall(r".*\.double\(\)\.cpu\(\).*", file.read_text())
    ]
    assert not wrong, wrong


def test_lack_of_memory_is_recognised():
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"))
    assert not is_out_of_memory(RuntimeError("MPS does not know this operation"))
