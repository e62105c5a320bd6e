"""Cost of Jacobian products at the size of EqR Sudoku-Extreme (d = 82,944), and leading spectra of large models.

The weights of the full-size model are random: as initialised its states wander; scaled by 0.3 they settle at a fixed
point.  The bundled models are taken at the most settled right state among some test puzzles, noise off.
"""

import math
import resource
import time

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.jacobian import Jacobian, row_bytes
from eqrlab.core import EqR, EqRConfig, load
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record

pytestmark = pytest.mark.benchmark
FULL = EqRConfig(
    vocab_size=11, seq_len=81, hidden_size=512, num_heads=8, layers=2, H_cycles=3, L_cycles=6, mixer="mlp"
)
MEGABYTE = 2**20


def full_size(weights, steps):
    """Return a model with scaled random weights, its puzzle, context, state after so many steps, and how it moves."""
    torch.manual_seed(0)
    model = EqR(FULL)
    inputs = torch.randint(1, 11, (1, 81))
    with torch.no_grad():
        for parameter in model.L_level.parameters():
            parameter.mul_(weights)
        x = model.encode(inputs)
        z = model.initial(x, torch.Generator().manual_seed(1))
        for _ in range(steps):
            z = model.step(z, x)
        moves = float((model.step(z, x) - z).norm() / z.norm())
    return model, inputs, x, z, moves


def settled_right_state(name, task, puzzles, depth):
    """Return a bundled model, the puzzle and the state that moves least among right ones, and its relative residual."""
    model, given = load(name), bundled(task)
    inputs = torch.as_tensor(given.inputs[:puzzles])
    runs = at.sample(
        model, inputs, labels=given.labels[:puzzles], restarts=1, depth=depth, noise=0, keep=("summary", "final_state")
    )  # fmt: skip
    right, residual = runs.correct.values[:, 0, -1], runs.relative_residual.values[:, 0, -1]
    best = int(np.where(right, residual, np.inf).argmin())
    assert right[best]
    return (
        model,
        inputs[best : best + 1],
        torch.as_tensor(runs.final_state.values[best : best + 1]),
        residual[best],
    )


def timed(run, times):
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        run()
    return (time.process_time() - cpu) / times, (time.perf_counter() - wall) / times


def spectrum_row(name, state, run):
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    values, residuals = found.eigenvalue.values[0, 0], found.eigen_residual.values[0, 0]
    record(
        "full size",
        name,
        state=state,
        result=" ".join(f"{v:.5f}".replace("+0.00000j", "").replace("-0.00000j", "") for v in values),
        residuals=" ".join(f"{r:.0e}" for r in residuals),
        radius_within="[{:.5f}, {:.5f}]".format(
            *(float(found[f"spectral_radius_{end}"][0, 0]) for end in ("low", "high"))
        ),
        converged=f"{int(found.converged.sum())} of {found.converged.size}",
        cost=f"{int(found.products.sum())} products, {cpu:.1f} s CPU, {wall:.1f} s wall, checks included",
    )
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forward mode compiles a rule with torch.jit
def test_products_of_the_full_size_map():
    model, _, x, z, _ = full_size(1.0, 16)
    jacobian, v = Jacobian(model, x, z), torch.randn(1, z.numel())
    saved = row_bytes(model, x, z) / MEGABYTE
    with torch.no_grad():
        step = timed(lambda: model.step(z, x), 5)
    rows = {"outer step": step}
    for name, run in {"J^T u": lambda: jacobian.pull(v), "J v": lambda: jacobian.push(v)}.items():
        run()  # runs the map and keeps its activations
        rows[f"product {name}"] = timed(run, 5)
    begin = time.process_time(), time.perf_counter()
    with torch.no_grad():
        torch.func.jvp(lambda s: model.step(s, x), (z,), (v.view_as(z),))
    rows["product J v, forward mode (what ours avoids)"] = tuple(
        now - then for now, then in zip((time.process_time(), time.perf_counter()), begin, strict=True)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, (cpu, wall) in rows.items():
        record(
            "full size",
            f"d = 82,944, {name}",
            state="random weights, float32, 16 outer steps",
            result=f"{1 / cpu:.2f} a second",
            cost=f"{cpu:.3f} s CPU, {wall:.3f} s wall",
            memory=f"{saved:.0f} MB activations ({2 * saved:.0f} once J v is used), process peak {peak:.0f} MB",
        )
    assert rows["product J^T u"][0] < 60


def test_spectrum_of_the_full_size_map():
    model, inputs, _, z, moves = full_size(0.3, 96)
    state = f"random weights x 0.3, 96 outer steps, relative residual {moves:.0e}"
    whole = spectrum_row(
        "d = 82,944, k = 2", state, lambda: at.spectrum(model, inputs, z[None], k=2, tol=1e-4)
    )
    one = spectrum_row(
        "d = 82,944, k = 2, one inner cycle, cubed",
        state,
        lambda: at.spectrum(model.replace(H_cycles=1), inputs, z[None], k=2, tol=1e-4, power=3),
    )
    assert whole.complete.all() and (one.eigen_residual <= 1e-4).all()
    np.testing.assert_allclose(one.spectral_radius, whole.spectral_radius, rtol=1e-3)


def test_spectrum_at_a_wandering_full_size_state():
    model, inputs, _, z, moves = full_size(1.0, 32)
    found = spectrum_row(
        "d = 82,944, k = 1, at most 150 products",
        f"random weights as initialised, 32 outer steps, relative residual {moves:.1f}",
        lambda: at.spectrum(model, inputs, z[None], k=1, tol=1e-4, max_products=150),
    )
    assert np.isfinite(found.spectral_radius).all()


def test_spectrum_of_the_bundled_9x9_model():
    model, inputs, z, residual = settled_right_state("eqr-sudoku9", "sudoku9", 64, 96)
    found = spectrum_row(
        "eqr-sudoku9, d = 20,736, k = 6",
        f"right, relative residual {residual:.0e}, float32",
        lambda: at.spectrum(model, inputs, z, k=6, tol=1e-4),
    )
    assert (found.eigen_residual <= 1e-4).all()


def test_spectrum_of_the_bundled_6x6_model_against_its_dense_jacobian():
    """d = 4,608 in float64: the full matrix is formed and handed to ARPACK, to rounding, for twice as many values."""
    model, inputs, z, residual = settled_right_state("eqr-sudoku6", "sudoku6", 24, 128)
    model, z = model.double(), z.double()
    found = spectrum_row(
        "eqr-sudoku6, d = 4,608, k = 6",
        f"right, relative residual {residual:.0e}, float64",
        lambda: at.spectrum(model, inputs, z, k=6, tol=1e-10),
    )
    x, size = model.encode(inputs), z[0, 0].numel()
    rows = 64
    block = Jacobian(model, x.expand(rows, *x.shape[1:]), z[0].expand(rows, *z.shape[2:]))
    unit = torch.eye(size, dtype=torch.float64)
    dense = torch.cat([block.pull(unit[i : i + rows]) for i in range(0, size, rows)])
    cpu = time.process_time()
    exact = scipy.sparse.linalg.eigs(dense.numpy(), k=12, tol=0, return_eigenvectors=False)
    cpu = time.process_time() - cpu
    values = found.eigenvalue.values[0, 0]
    values = values[~np.isnan(values)]
    error = max(np.abs(exact - v).min() for v in values)
    largest = np.sort(np.abs(exact))[::-1][: len(values)]
    record(
        "full size",
        "eqr-sudoku6, d = 4,608, dense Jacobian",
        result=f"largest error of our {len(values)} eigenvalues {error:.1e}, none missed",
        cost=f"{math.ceil(size / rows)} products of {rows} rows; ARPACK on the matrix {cpu:.1f} s CPU",
    )
    assert found.complete.all() and error <= 1e-8
    np.testing.assert_allclose(np.sort(np.abs(values))[::-1], largest, atol=1e-8)
