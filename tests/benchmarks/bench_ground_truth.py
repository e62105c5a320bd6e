"""Table of the systems with exact answers: our value, its error, the tolerance; and of the maps that fail.

`pytest -m benchmark tests/benchmarks/bench_ground_truth.py -s` prints both.  All in float64.
"""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests import test_failing_maps as failing
from tests import zoo
from tests.benchmarks.ledger import record

pytestmark = pytest.mark.benchmark
ONE = zoo.puzzles()
GOLDEN = math.pi * (math.sqrt(5) - 1)
M, M15 = zoo.selector_level(2.0), zoo.selector_level(1.5)


def at_point(*states):
    return torch.tensor([[list(z) for z in states]], dtype=torch.float64)


def eigen(system, states, k, **options):
    """Return the k leading eigenvalues at the first state, those of a cut pair included, by modulus."""
    values = at.spectrum(system, ONE, states, k=k, tol=1e-12, **options).eigenvalue.values[0, 0]
    return values[~np.isnan(values)]


def by_size(values):
    values = np.asarray(values, complex)
    return values[np.lexsort((-values.imag, -np.abs(values).round(9)))]


def compare(name, quantity, ours, exact, tolerance, note=""):
    """Record the largest error of ours against exact, and hold it to the tolerance."""
    ours, exact = np.atleast_1d(ours), np.atleast_1d(exact)
    exact = np.broadcast_to(exact, ours.shape)
    same = ours == exact  # infinities
    error = np.where(same, 0.0, np.abs(ours - np.where(same, 0, exact))).max()

    def text(values):
        shown = " ".join(f"{v:.10g}" if np.isreal(v) else f"{v:.8g}" for v in values.ravel()[:4])
        return shown.replace("+0j", "") + (" ..." if values.size > 4 else "")

    record(
        "exact values", f"{name}: {quantity}", exact=text(exact), ours=text(ours), error=f"{error:.1e}",
        tolerance=f"{tolerance:.0e}{note}",
    )  # fmt: skip
    assert error <= tolerance


def test_g1_linear():
    values = [0.99, 0.9 + 0.3j, -0.8, 0.5 + 0.5j, 0.3]
    small = 0.1 * torch.eye(293, dtype=torch.float64)
    A = torch.block_diag(zoo.rotation_blocks(values), small)
    Q = torch.linalg.qr(
        torch.randn(300, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )[0]
    system, z = zoo.linear(Q @ A @ Q.T), torch.ones(1, 1, 300, dtype=torch.float64)
    full = by_size([v for c in values for v in ({c, c.conjugate()} if isinstance(c, complex) else {c})])
    compare("G1 linear, d = 300", "6 eigenvalues", eigen(system, z, 6), full[:6], 1e-10)
    found = at.lyapunov(system, ONE, z, k=4, steps=200, transient=1500).lyapunov_exponent.values[0, 0]
    compare("G1 linear, d = 300", "4 Lyapunov exponents", found, np.log(np.abs(full[:4])), 1e-9)
    B = torch.randn(90, 90, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 9
    z = torch.ones(1, 1, 90, dtype=torch.float64)
    found = at.ftle(zoo.linear(B), ONE, z, steps=7, k=3, tol=1e-7).ftle.values[0, 0]
    exact = torch.linalg.svdvals(torch.linalg.matrix_power(B, 7))[:3].log() / 7
    compare("G1 linear, d = 90", "3 exponents of 7 steps", found, exact.numpy(), 1e-10)
    fixed = at.fixed_points(zoo.linear(B / 3, torch.ones(90, dtype=torch.float64)), ONE, z, tol=1e-14)
    exact = torch.linalg.solve(
        torch.eye(90, dtype=torch.float64) - B / 3, torch.ones(90, dtype=torch.float64)
    )
    compare("G1 linear, d = 90", "fixed point", fixed.fixed_point.values[0, 0], exact.numpy(), 1e-11)
    jordan = torch.tensor([[0.9, 1.0], [0.0, 0.9]], dtype=torch.float64)
    values = eigen(zoo.linear(jordan), at_point((1, 1)), 2)
    compare("G1 Jordan block", "double eigenvalue", values, 0.9, 2e-8, " (root of epsilon)")


def test_g2_non_normal():
    A = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)
    system, z = zoo.linear(A), at_point((1, 1))
    compare("G2 non-normal", "eigenvalues", eigen(system, z, 2), [0.5, 0.4], 1e-14)
    found = at.singular_values(system, ONE, z, k=2)
    compare(
        "G2 non-normal",
        "singular values",
        found.singular_value.values[0, 0],
        [5.0407, 0.0397],
        1e-4,
        " (digits given)",
    )
    compare(
        "G2 non-normal",
        "sup of the norms of powers",
        found.transient_growth.item(),
        5.0407,
        1e-4,
        " (digits given)",
    )
    compare("G2 non-normal", "reactivity", found.reactivity.item(), 4.0407, 1e-4, " (digits given)")
    for steps, exact in {1: 1.6175, 2: 0.7531, 5: 0.00995, 20: -0.4981, 100: -0.6540}.items():
        value = at.ftle(system, ONE, z, steps=steps).ftle.item()
        compare("G2 non-normal", f"exponent of {steps} steps", value, exact, 1e-4, " (digits given)")


def test_g3_selector():
    for beta, level, slope in ((2.0, 0.9575040240772688, 0.16637208775), (1.5, 0.8585596366, 0.3943130255)):
        system = zoo.selector([[0.3, -0.2]], beta)
        grid = torch.cartesian_prod(*[torch.tensor([-1.0, -0.02, 1.0], dtype=torch.float64)] * 2)
        starts = grid[None] + torch.tensor([0.3, -0.2], dtype=torch.float64)
        found = at.fixed_points(system, ONE, starts, method="newton", tol=1e-14)
        points = found.fixed_point.values[0][found.representative.values[0]]
        name = f"G3 selector, beta = {beta}"
        compare(name, "number of fixed points", float(len(points)), 9.0, 0)
        offset = np.sort(np.unique(np.abs(points - [0.3, -0.2]).round(9)))
        compare(name, "distances from the boundary", offset, [0, level], 2e-9)
        compare(
            name,
            "number of stable ones",
            float(found.stable.values[0][found.representative.values[0]].sum()),
            4.0,
            0,
        )
        z = torch.tensor([[[0.3 + level, -0.2]]], dtype=torch.float64)
        compare(name, "eigenvalues at a saddle", eigen(system, z, 2), [beta, slope], 1e-9)


@pytest.mark.parametrize("size", [50_000])
def test_g4_hidden_selector_at_high_dimension(size):
    rest = 0.7 * torch.linspace(-1, 1, size - 2, dtype=torch.float64) ** 3
    rest[0], rest[-1] = -0.8, 0.9
    system, u = zoo.hidden_selector(size, rest), zoo.householder(size)
    w = torch.zeros(3, size, dtype=torch.float64)
    w[0, :2] = torch.tensor([M, -M], dtype=torch.float64)
    w[1, :2] = torch.tensor([M, 0.0], dtype=torch.float64)
    w[2, :2] = 0.0
    z = zoo.reflect(w, u)
    found = at.spectrum(system, ONE, z[None], k=3, tol=1e-9)
    name = f"G4 hidden selector, d = {size}"
    for i, (kind, exact) in enumerate(
        {"attractor": [0.9, -0.8, 0.7], "saddle": [2.0, 0.9, -0.8], "repeller": [2.0, 2.0, 0.9]}.items()
    ):
        values = found.eigenvalue.values[0, i, :3]
        if kind == "attractor":  # the third is the first of a dense band
            values, exact = values[:2], exact[:2]
        if kind == "repeller":  # one Krylov space holds one vector of a double eigenvalue
            values, exact = values[:1], exact[:1]
        compare(name, f"leading eigenvalues at the {kind}", values, exact, 1e-9)
    starts = z + 1e-3 * torch.randn(3, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    points = at.fixed_points(system, ONE, starts[None], method="newton", tol=1e-12, certify=False)
    compare(
        name, "attractor, saddle and repeller from nearby", points.fixed_point.values[0], z.numpy(), 1e-10
    )


def test_g5_to_g7_patterns():
    system, xi = zoo.one_pattern(500)
    z = (M * xi)[None, None]
    slope = 2 * (1 - M**2)
    compare("G5 one pattern, d = 500", "leading eigenvalue", eigen(system, z, 1), slope, 1e-12)
    found = at.fixed_points(system, ONE, (0.1 * xi)[None, None], tol=1e-14)
    compare("G5 one pattern, d = 500", "fixed point", found.fixed_point.values[0, 0], (M * xi).numpy(), 1e-12)
    system, xi = zoo.hopfield(5, 3)
    values = eigen(system, (M * xi[:1])[None], 3)
    compare("G6 Hopfield, d = 32, 3 patterns", "eigenvalue of multiplicity 3", values, slope, 1e-12)
    size, patterns, beta = 200, 5, 8.0
    system = zoo.softmax_memory(size, patterns, beta)
    start = torch.zeros(1, 1, size, dtype=torch.float64)
    start[..., 0] = 1
    found = at.fixed_points(system, ONE, start, tol=1e-14)
    a = 1.0
    for _ in range(200):  # the scalar equation of the near-pattern
        a = 1 / (1 + (patterns - 1) * math.exp(-beta * (a - (1 - a) / (patterns - 1))))
    b = (1 - a) / (patterns - 1)
    name = "G7 softmax memory, d = 200"
    exact = np.array([a] + [b] * (patterns - 1) + [0] * (size - patterns))
    compare(name, "near-pattern", found.fixed_point.values[0, 0], exact, 1e-12)
    values = eigen(system, torch.as_tensor(found.fixed_point.values), 2)
    compare(name, "two eigenvalues", values, [beta * a * b * patterns, beta * b], 1e-10)


def test_g8_to_g10():
    eta = 0.1
    system, z = zoo.rotor(GOLDEN, eta), at_point((1.0, 0.0))
    found = at.lyapunov(system, ONE, z, k=2, steps=400, transient=400).lyapunov_exponent.values[0, 0]
    compare("G8 rotor", "Lyapunov exponents", found, [0, math.log(1 - 2 * eta)], 1e-12)
    values = eigen(zoo.rotor(2 * math.pi * 2 / 7, eta), z, 2, steps=7)
    compare("G8 rotor, angle 2/7", "multipliers of the 7-cycle", values, [1, (1 - 2 * eta) ** 7], 1e-12)
    found = at.lyapunov(zoo.noisy_ar(0.7, 0.1, 3), ONE, at_point((0, 0, 0)), k=2, steps=40)
    compare(
        "G9 noisy AR(1)", "exponents with noise", found.lyapunov_exponent.values[0, 0], math.log(0.7), 1e-12
    )
    many = at.sample(zoo.noisy_ar(0.7, 0.1, 400), ONE, restarts=64, depth=80, noise=0.1)
    rms = np.sqrt((many["update"].values[0, :, 40:] ** 2).mean() / 400)
    compare("G9 noisy AR(1)", "rms of the updates", rms, 0.1 * math.sqrt(2 / 1.7), 1e-3, " (sampling)")
    found = at.fixed_points(zoo.contraction(0.8), ONE, at_point((3, -2, 0)), tol=1e-6)
    away = np.linalg.norm(found.fixed_point.values[0, 0] - 1)
    compare("G10 contraction", "spectral radius", found.spectral_radius.item(), 0.8, 1e-14)
    compare(
        "G10 contraction",
        "bound over true error (2 by definition)",
        found.error_bound.item() / away,
        2.0,
        1e-6,
    )


def test_henon_and_ikeda():
    system = zoo.henon()
    found = at.fixed_points(system, ONE, at_point((0.6, 0.2), (-1.1, -0.3)), method="newton", tol=1e-14)
    exact = np.array([[0.6313544771, 0.1894063431], [-1.1313544771, -0.3394063431]])
    compare("Hénon", "fixed points", found.fixed_point.values[0], exact, 1e-10)
    for i, values in enumerate([[-1.9237388582, 0.1559463223], [3.2598220979, -0.0920295620]]):
        mine = eigen(system, torch.as_tensor(found.fixed_point.values[:, i : i + 1]), 2)
        compare("Hénon", f"eigenvalues at point {i + 1}", mine, values, 1e-9)
    z = 0.1 + 0.01 * torch.arange(32, dtype=torch.float64)[None, :, None].expand(1, 32, 2)
    found = at.lyapunov(system, ONE, z, k=2, steps=4000)
    compare("Hénon", "sum of the exponents", found.exponent_sum.values, math.log(0.3), 1e-10)
    compare("Hénon", "largest exponent", found.puzzle_exponent.values[0, 0], 0.4193, 2e-3, " (sampling)")
    system = zoo.ikeda()
    found = at.fixed_points(system, ONE, at_point((2.9, 4.1)), tol=1e-14)
    compare("Ikeda", "fixed point", found.fixed_point.values[0, 0], [2.97213162, 4.14594642], 1e-8)
    point = torch.as_tensor(found.fixed_point.values)
    compare("Ikeda", "moduli of the eigenvalues", np.abs(eigen(system, point, 2)), 0.9, 1e-12)
    values = at.singular_values(system, ONE, point, k=2).singular_value.values[0, 0]
    compare("Ikeda", "singular values", values, [1.11278, 0.72790], 1e-5, " (digits given)")
    found = at.lyapunov(system, ONE, 0.1 * z, k=2, steps=4000)
    compare("Ikeda", "sum of the exponents", found.exponent_sum.values, 2 * math.log(0.9), 1e-10)
    compare("Ikeda", "largest exponent", found.puzzle_exponent.values[0, 0], 0.50769, 3e-3, " (sampling)")


def test_logistic_cat_and_newton():
    exact = {2.5: math.log(0.5), 3.2: -0.9162907319, 3.5: -0.8725073458, 3.83: -0.3696738}
    for r, value in exact.items():
        z = at_point((0.5130445095 if r == 3.2 else 0.3,))
        found = at.lyapunov(zoo.logistic(r), ONE, z, k=1, steps=240, transient=2400).lyapunov_exponent.item()
        compare(f"logistic, r = {r}", "exponent", found, value, 1e-7)
    z = torch.rand(1, 32, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = at.lyapunov(zoo.logistic(4.0), ONE, z, k=1, steps=4000).puzzle_exponent.item()
    compare("logistic, r = 4", "exponent", found, math.log(2), 2e-3, " (sampling)")
    found = at.fixed_points(zoo.logistic(2.5), ONE, at_point((0.3,)), tol=1e-14)
    compare("logistic, r = 2.5", "fixed point", found.fixed_point.item(), 0.6, 1e-13)
    for r, period, value in ((3.2, 2, 0.16), (3.5, 4, math.exp(4 * -0.8725073458)), (3.83, 3, 0.3298817)):
        found = at.fixed_points(zoo.logistic(r), ONE, at_point((0.5,)))
        compare(f"logistic, r = {r}", "period", float(found.period.item()), float(period), 0)
        compare(f"logistic, r = {r}", "multiplier", found.spectral_radius.item(), value, 1e-6)
    cat = math.log((3 + math.sqrt(5)) / 2)
    found = at.lyapunov(zoo.cat_map(), ONE, at_point((0.3, 0.45)), k=2, steps=200, transient=40)
    compare("cat map", "exponents", found.lyapunov_exponent.values[0, 0], [cat, -cat], 1e-12)
    for steps in (1, 5, 30):
        found = at.ftle(zoo.cat_map(), ONE, at_point((0.3, 0.45)), steps=steps, k=2).ftle.values[0, 0]
        compare("cat map", f"exponents of {steps} steps", found, [cat, -cat], 1e-11)

    def newton(z, x):
        w = torch.view_as_complex(z)
        return torch.view_as_real(w * (2 / 3) + (1 / 3) / (w * w))

    system = MapSystem(newton, zoo.normal_start(2))
    found = at.fixed_points(system, ONE, at_point((1.3, 0.1), (-0.6, 0.9), (-0.6, -0.9)), tol=1e-14)
    half = math.sqrt(3) / 2
    compare(
        "Newton's map of z^3 - 1",
        "roots",
        found.fixed_point.values[0],
        [[1, 0], [-0.5, half], [-0.5, -half]],
        1e-14,
    )
    compare("Newton's map of z^3 - 1", "spectral radius at them", found.spectral_radius.values, 0.0, 1e-12)


@pytest.mark.parametrize("name", failing.FAULTS)
def test_refused_maps(name):
    sentence = failing.said("spectrum", failing.faulty(name), failing.states())
    record("failing maps", name, answer=f"ValueError: {sentence}")
    assert failing.FAULTS[name][1] in sentence


def test_refused_states():
    z = failing.states()
    z[0, 1, 2] = torch.nan
    sentence = failing.said("spectrum", zoo.contraction(0.5), z)
    record("failing maps", "state with one NaN", answer=f"ValueError: {sentence}")
    assert "puzzle 0, point 1" in sentence


@pytest.mark.parametrize("name", failing.CODES)
def test_codes(name):
    result, period = failing.outcome(name)
    record("failing maps", name, answer=f"fixed_points: result {result}, period {period}")
    assert (result, period) == failing.CODES[name][2:]
