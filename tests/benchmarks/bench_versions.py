"""The same ensemble under other versions of Python and torch: how far states, residuals and answers move.

Give other interpreters, each with eqrlab installed, in EQRLAB_PYTHONS, separated by colons:

    EQRLAB_PYTHONS=/envs/a/bin/python:/envs/b/bin/python pytest -m benchmark tests/benchmarks/bench_versions.py -s
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("eqr-sudoku6", "hrm-sudoku6")
SCRIPT = """
import platform, sys
import numpy as np, torch
torch.set_num_threads(1)
from eqrlab import attractors as at
from eqrlab.core import load
from eqrlab.datasets import bundled
puzzles, kept = bundled("sudoku6").take(slice(4)), {}
for name in sys.argv[2:]:
    for dtype in ("float32", "float64"):
        e = at.sample(load(name), puzzles.inputs, labels=puzzles.labels, restarts=8, depth=16, seed=3, dtype=dtype,
                      keep=("summary", "trajectory"))
        for v in ("residual", "trajectory", "answer", "fate"):
            kept[f"{name} {dtype} {v}"] = e[v].values
kept["version"] = f"Python {platform.python_version()}, torch {torch.__version__}"
np.savez(sys.argv[1], **kept)
"""


def sampled(python: str, path: Path) -> dict[str, np.ndarray]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-c", SCRIPT, str(path), *MODELS], check=True, cwd=path.parent, env=environment)
    return dict(np.load(path))


@pytest.mark.benchmark
def test_ensembles_of_other_versions_agree_to_rounding(tmp_path):
    others = [p for p in os.environ.get("EQRLAB_PYTHONS", "").split(":") if p]
    if not others:
        pytest.skip("EQRLAB_PYTHONS names no other interpreter")
    here = sampled(sys.executable, tmp_path / "here.npz")
    print(f"\nagainst {here['version']}")
    print(
        "| versions | model | dtype | states after 1 step | after 4 | after 16 | answers | fates |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for i, python in enumerate(others):
        other = sampled(python, tmp_path / f"{i}.npz")
        for model in MODELS:
            for dtype in ("float32", "float64"):
                one, two = (d[f"{model} {dtype} trajectory"].astype(np.float64) for d in (here, other))
                flat = (*one.shape[:3], -1)
                one, two = one.reshape(flat), two.reshape(flat)
                apart = np.linalg.norm(one - two, axis=-1) / np.linalg.norm(one, axis=-1)
                same = [
                    (here[f"{model} {dtype} {v}"] == other[f"{model} {dtype} {v}"])
                    .reshape(32, -1)
                    .all(1)
                    .mean()
                    for v in ("answer", "fate")
                ]
                moved = " | ".join(f"{apart[:, :, step].max():.1e}" for step in (0, 3, 15))
                print(f"| {other['version']} | {model} | {dtype} | {moved} | {same[0]:.0%} | {same[1]:.0%} |")
                assert apart[:, :, 0].max() < (1e-5 if dtype == "float32" else 1e-13)
