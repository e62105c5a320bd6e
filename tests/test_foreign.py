"""Models of other packages run as systems: their promises hold, and runs and spectra come out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.commands.common.own_system import load_system
from eqrlab.datasets import bundled

FOREIGN = Path(__file__).parents[1] / "docs" / "foreign"
NEEDED = {
    "trm": "tiny_recursive_model",
    "hrm": "HRM",
    "deq": "torchdeq",
    "looped_llama": "transformers",
    "gru": "torch",
}


@pytest.mark.filterwarnings("default")  # of packages that are not ours
@pytest.mark.parametrize("name", NEEDED)
def test_a_model_of_another_package_is_analysed(name):
    if not FOREIGN.is_dir():
        pytest.skip("reads the guide of a checkout")
    pytest.importorskip(NEEDED[name])
    system = load_system(f"{FOREIGN / name}.py:system")
    tokens = torch.as_tensor(bundled("sudoku6").inputs[:2])
    if name == "looped_llama":
        tokens = torch.randint(1, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    system.check(tokens)
    ensemble = at.sample(system, tokens, restarts=3, depth=24, keep=("summary", "final_state"))
    assert (
        np.isfinite(ensemble.residual.values).all() and len(np.unique(ensemble.residual.values[0, :, 0])) == 3
    )
    if name != "hrm":  # whose runs of random weights mostly wander
        assert (
            ensemble.relative_residual.values[:, :, -1] < 0.1 * ensemble.relative_residual.values[:, :, 0]
        ).all()
    found = at.spectrum(system, tokens[:1], ensemble.isel(puzzle=slice(1), restart=slice(1)), k=1)
    assert 0 < float(found.spectral_radius[0, 0]) < 3
