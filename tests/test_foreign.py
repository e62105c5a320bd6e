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
    "hopfield": "torch",
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
    assert 0 <= float(found.spectral_radius[0, 0]) < 3


def memory(beta=8.0):
    if not FOREIGN.is_dir():
        pytest.skip("reads the guide of a checkout")
    system = load_system(f"{FOREIGN / 'hopfield'}.py:system")
    system.module.beta = beta
    return system


def test_the_attractors_of_a_memory_are_the_boards_it_stores_and_their_masses_those_of_the_nearest():
    system, puzzles = memory(), bundled("sudoku6").take(slice(2))
    basins = at.estimate_basins(
        system, puzzles.inputs, labels=puzzles.labels, oracle=puzzles.oracle, half_width=0.03, depth=16
    )
    stored, x = system.module.stored, system.encode(torch.as_tensor(puzzles.inputs))
    starts = torch.randn(50_000, stored.shape[1], generator=torch.Generator().manual_seed(5))
    nearest = (starts @ stored.T)[:, None] + 0.5 * (x @ stored.T)  # (start, puzzle, board)
    expected = [float((nearest[:, p].argmax(1) == p).float().mean()) for p in range(2)]
    assert (basins.correct_mass_low.values < expected).all() and (
        expected < basins.correct_mass_high.values
    ).all()
    assert (basins.attractors == 16).all()


def test_derivatives_that_are_rounding_alone_are_no_fault():
    system, tokens = memory(beta=1.0), bundled("sudoku6").inputs[:3]
    ends = at.sample(system, tokens, restarts=1, depth=16, keep=("summary", "final_state"))
    assert (at.spectrum(system, tokens, ends, k=1).spectral_radius < 1e-6).all()


def test_the_guide_counts_the_lines_that_users_write():
    if not FOREIGN.is_dir():
        pytest.skip("reads the guide of a checkout")
    rows = (FOREIGN.parent / "foreign.md").read_text()
    for name in NEEDED:
        text = (FOREIGN / f"{name}.py").read_text()
        rest = text.partition("\ndef step")[2].partition("\n\n\n")[0]
        lines = text.count("\n", text.index("system = from_module("))
        lines += rest.count("\n") + 1 if rest else 0
        assert f"[`{name}.py`](foreign/{name}.py) | {lines} |" in rows, (name, lines)
