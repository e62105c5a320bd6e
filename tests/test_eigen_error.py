"""Numbers of non-normal Jacobians are right, or said not to be known: against exact spectra."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.conditioning import is_triangular, power_bounds
from eqrlab.core import MapSystem
from tests.zoo import linear, puzzles, rotation_blocks


def orthogonal(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def found(matrix, k=3, **options):
    A = torch.as_tensor(matrix, dtype=torch.float64)
    return at.spectrum(linear(A), puzzles(), torch.zeros(1, 1, len(A), dtype=torch.float64), k=k, **options)


def chain(size, level, coupling):
    return level * np.eye(size) + coupling * np.eye(size, k=1)


def triangular(size, strength, seed=1):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(size=(size, size)), 1) / np.sqrt(size) * strength
    return upper + np.diag(rng.uniform(-0.5, 0.5, size))


def turned(matrix, seed=0):
    Q = orthogonal(len(matrix), seed)
    return Q @ matrix @ Q.T


def block(*parts):
    return torch.block_diag(*[torch.as_tensor(p) for p in parts]).numpy()


RNG = np.random.default_rng(3)
NORMAL = rotation_blocks([0.95, *(RNG.uniform(0, 0.8, 60) * np.exp(1j * RNG.uniform(0.1, 3, 60)))]).numpy()
SIMILAR = np.geomspace(1, 30, 100)[:, None] * np.diag(np.linspace(-0.8, 0.9, 100)) / np.geomspace(1, 30, 100)
# matrix and its exact spectral radius; the first are known to default tolerance, of the last nothing can be
KNOWN = {
    "normal": (NORMAL, 0.95),
    "normal, turned": (turned(NORMAL), 0.95),
    "rank one": (np.outer(np.ones(100), np.linspace(0, 1, 100)) / 100, 0.5),
    "nothing": (np.zeros((100, 100)), 0.0),
    "rotation, fifty times": (turned(np.kron(np.eye(50), rotation_blocks([0.9 * np.exp(1j)]))), 0.9),
    "hidden chain within": (turned(block(chain(60, 0.2, 0.1), NORMAL)), 0.95),
    "stretched": (turned(SIMILAR), 0.9),
    "two apart, coupled by 100": (turned(block(np.array([[0.9, 100.0], [0.0, 0.2]]), 0.5 * np.eye(80))), 0.9),
    "small, turned": (turned(triangular(20, 1.0)), np.abs(np.diag(triangular(20, 1.0))).max()),
    "small chain, triangular": (chain(60, 0.9, 0.3), 0.9),
    "small chain, other order": (chain(60, 0.9, 0.3)[::-1, ::-1].copy(), 0.9),
}
UNKNOWN = {
    "triangular, 128": (triangular(128, 1.5), np.abs(np.diag(triangular(128, 1.5))).max()),
    "triangular, 128, turned": (turned(triangular(128, 1.5)), np.abs(np.diag(triangular(128, 1.5))).max()),
    "chain of 100": (chain(100, 0.9, 0.3), 0.9),
    "chain of 100, turned": (turned(chain(100, 0.9, 0.3)), 0.9),
    "chain of 1,000": (chain(1000, 0.9, 0.3), 0.9),
    "weak chain": (chain(200, 0.5, 0.02), 0.5),
    "negative chain": (chain(150, -0.9, 0.3), 0.9),
    "two chains": (block(chain(70, 0.9, 0.3), chain(70, -0.8, 0.2)), 0.9),
    "nilpotent": (turned(chain(100, 0.0, 1.0)), 0.0),
    "Jordan block of 5": (turned(block(chain(5, 0.9, 1.0), 0.1 * np.eye(90))), 0.9),
    "small chain, turned": (turned(chain(60, 0.9, 0.3)), 0.9),
    "chain beside a normal part": (turned(block(chain(80, 0.9, 0.4), NORMAL)), 0.95),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_can_be_known_is_right_and_said_to_be(name):
    matrix, radius = KNOWN[name]
    result = found(matrix)
    assert result.converged.values[0, 0, 0] and float(result.eigen_error[0, 0, 0]) <= 1e-4 * max(radius, 1e-9)
    np.testing.assert_allclose(result.spectral_radius, radius, rtol=1e-4, atol=1e-14)
    assert result.spectral_radius_low.item() <= radius + 1e-9
    assert result.spectral_radius_high.item() >= radius - 1e-9


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
def test_what_cannot_be_known_is_never_complete_and_its_bounds_hold(name, tol):
    matrix, radius = UNKNOWN[name]
    result = found(matrix, k=2, tol=tol)
    wrong = abs(result.spectral_radius.item() - radius) > tol * radius
    assert not (wrong and result.complete.item())
    assert result.spectral_radius_low.item() <= radius + 1e-9
    assert result.spectral_radius_high.item() >= radius - 1e-9


def test_the_tolerance_is_one_on_the_error_not_on_the_residual():
    coupled = turned(block(np.array([[0.9, 100.0], [0.0, 0.2]]), 0.5 * np.eye(80)))
    for tol in (1e-3, 1e-6):
        result = found(coupled, k=1, tol=tol)
        assert result.complete.item() and abs(result.spectral_radius.item() - 0.9) <= 0.9 * tol
        np.testing.assert_allclose(result.eigen_condition[0, 0, 0], np.hypot(1, 100 / 0.7), rtol=0.1)


def test_zeros_of_a_singular_jacobian_are_known():
    A = np.outer(*np.random.default_rng(0).normal(size=(2, 100))) / 20
    result = found(A, k=6)
    assert result.complete.item() and result.converged.all()
    np.testing.assert_allclose(np.abs(result.eigenvalue.values[0, 0, 1:]), 0, atol=1e-12)


@pytest.mark.parametrize("which", ["modulus", "real", 0.5])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_pair_that_occurs_many_times_is_never_cut(k, which):
    R = turned(np.kron(np.eye(50), rotation_blocks([0.9 * np.exp(1j)])))
    values = found(R, k=k, which=which).eigenvalue.values[0, 0]
    values = values[np.isfinite(values)]
    np.testing.assert_allclose(values[0::2], values[1::2].conj(), atol=1e-10)
    assert len(values) == k + k % 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_is_part_of_what_is_known(dtype):
    matrix = turned(chain(12, 0.9, 0.3))
    states = torch.zeros(1, 1, 12, dtype=getattr(torch, dtype))
    system = MapSystem(lambda z, x: z @ torch.as_tensor(matrix).T.to(z), lambda x, g: torch.zeros(len(x), 12))
    result = at.spectrum(system, puzzles(), states, k=1)
    low, high = result.spectral_radius_low.item(), result.spectral_radius_high.item()
    assert low <= 0.9 <= high and not result.complete.item()
    assert high < (1.1 if dtype == "float64" else 1.3)


def test_powers_bound_the_radius_of_every_matrix_nearby():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 8, 8)) / 3
    slack = 10.0 ** rng.uniform(-12, -1, 40)
    low, high = power_bounds(A, slack)
    for _ in range(20):
        E = rng.normal(size=A.shape)
        E *= (slack / np.linalg.norm(E, 2, axis=(1, 2)))[:, None, None]
        radius = np.abs(np.linalg.eigvals(A + E)).max(1)
        assert (low <= radius * (1 + 1e-9)).all() and (radius <= high * (1 + 1e-9)).all()
    low, high = power_bounds(np.array([np.diag([0.5, -0.25]), [[0.5, 1], [0, 0.5]]]), np.zeros(2))
    np.testing.assert_allclose(low, 0.5, rtol=1e-6)
    assert 0.5 <= high[0] < 0.5 + 1e-6 and 0.5 <= high[1] < 0.51  # the powers of the second grow at first


def test_triangular_matrices_are_recognised_in_any_order():
    order = np.random.default_rng(0).permutation(30)
    T = triangular(30, 1.0)
    assert is_triangular(T) and is_triangular(T[np.ix_(order, order)]) and is_triangular(T.T)
    T[-1, 0] = 1e-9
    assert not is_triangular(T)


def test_fixed_points_do_not_call_a_chain_unstable():
    long = linear(torch.as_tensor(chain(100, 0.9, 0.3)))
    result = at.fixed_points(long, puzzles(), 1e-3 * torch.ones(1, 1, 100).double())
    assert not result.stable.item()
    names = result.stability.attrs["flag_meanings"].split()
    assert names[result.stability.item()] == "undecided"
    small = at.fixed_points(
        linear(torch.as_tensor(chain(20, 0.9, 0.02))), puzzles(), torch.ones(1, 1, 20).double()
    )
    assert small.stable.item()  # its radius is known to be below 1, whatever its condition
