"""Races along orbits against their peers: Lyapunov exponents (lyapax), basins (pynamicalsys), intervals (Wald).

Times are recorded, never asserted; the answers are.  A peer that is not installed is skipped with how to get it.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.attractors.statistics.intervals import proportion_interval
from eqrlab.core import MapSystem
from tests.benchmarks.ledger import peer, race, record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
INPUTS = torch.zeros(1, 1, dtype=torch.long)


@pytest.mark.parametrize("use", ["as documented", "compiled by its user"])
def test_lyapunov_exponents_of_a_coupled_map(use):
    """One orbit of a map of ten cheap operations: as documented, JAX compiles in every call."""
    jax = peer("jax", 'pip install lyapax "jax[cpu]"')
    lyapax = peer("lyapax", 'pip install lyapax "jax[cpu]"')
    jax.config.update("jax_enable_x64", True)
    d, k, steps = 1000, 5, 1000
    start = torch.rand(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def lattice(z, roll):
        y = 3.9 * z * (1 - z)
        return 0.8 * y + 0.1 * (roll(y, 1) + roll(y, -1))

    system = MapSystem(
        lambda z, x: lattice(z, lambda y, s: torch.roll(y, s, 1)), lambda x, g: torch.rand(len(x), d)
    )
    begin = jax.numpy.asarray(start.numpy())
    step = lambda z: lattice(z, jax.numpy.roll)
    whole = lambda z: lyapax.lyapunov_spectrum(step, z, 1.0, steps, k=k, t_transient=100.0).exponents
    theirs = jax.jit(whole) if use == "compiled by its user" else whole
    theirs(begin)  # compiles
    name = f"Lyapunov top 5, coupled map, d = 1000, JAX {use}"
    result = race(
        name,
        "lyapax",
        lambda: np.asarray(theirs(begin)),
        lambda: at.lyapunov(system, INPUTS, start[None, None], k=k, steps=steps, transient=100),
        rounds=5,
        target=1,
    )
    mine = result.ours.lyapunov_exponent.values.ravel()
    low, high = (result.ours[f"lyapunov_exponent_{side}"].values.ravel() for side in ("low", "high"))
    record(
        "answers",
        "Lyapunov top 5, coupled map, d = 1000",
        peer=f"{np.round(result.peer, 4)}, no intervals",
        ours=f"{mine.round(4)}, half widths {((high - low) / 2).round(4)}",
        exact="none known; the same orbit only for about 100 steps, as it is chaotic",
    )
    np.testing.assert_allclose(mine, result.peer, atol=0.03)


@pytest.mark.parametrize("call", ["a loop over starts", "one ensemble call"])
def test_newton_basins(call):
    """z -> z - (z^3 - 1) / 3 z^2 from 10^5 starts; the peer's map is compiled by numba before the race."""
    numba = peer("numba", "pip install pynamicalsys")
    pynamicalsys = peer("pynamicalsys", "pip install pynamicalsys")
    starts = np.random.default_rng(0).uniform(-1.5, 1.5, (100_000, 2))
    roots = np.exp(2j * np.pi * np.arange(3) / 3)

    @numba.njit
    def mapping(u, parameters):
        a, b = u[0] * u[0] - u[1] * u[1], 2 * u[0] * u[1]
        s = 3 * (a * a + b * b)
        return np.array([2 * u[0] / 3 + a / s, 2 * u[1] / 3 - b / s])

    compiled = pynamicalsys.DiscreteDynamicalSystem(
        mapping=mapping, system_dimension=2, number_of_parameters=0
    )

    def step(z, x):
        w = torch.view_as_complex(z)
        return torch.view_as_real(w * (2 / 3) + (1 / 3) / (w * w))

    def nearest(points):
        return np.abs(points[:, :1] + 1j * points[:, 1:] - roots).argmin(1)

    def theirs():
        if call == "one ensemble call":
            return nearest(compiled.trajectory(starts, 40, parameters=[]).reshape(-1, 40, 2)[:, -1])
        return nearest(np.stack([compiled.trajectory(u, 40, parameters=[])[-1] for u in starts]))

    def ours():
        system = MapSystem(step, lambda x, g: torch.rand(len(x), 2, generator=g))
        found = at.fixed_points(
            system, INPUTS, torch.from_numpy(starts)[None], method="picard", certify=False, tol=1e-6
        )
        return found, nearest(found.fixed_point.values[0])

    theirs()  # compiles
    name = f"Newton basins of 10^5 starts, {call}"
    result = race(
        name, "pynamicalsys (numba), 40 steps", theirs, ours, rounds=3, target=50 if "loop" in call else 1
    )
    found, labels = result.ours
    shares = np.bincount(labels) / len(labels)
    record(
        "answers",
        "Newton basins of 10^5 starts",
        peer=f"shares {(np.bincount(result.peer) / len(labels)).round(4)}, no sign of what did not converge",
        ours=f"shares {shares.round(4)}, converged {float((found.result == 0).mean()):.5f}",
        exact="shares .3456 .3271 .3272 (3)",
    )
    assert (labels == result.peer).mean() > 0.999
    np.testing.assert_allclose(shares, [0.3456, 0.3271, 0.3272], atol=5 * np.sqrt(0.25 / 1e5))


def test_coverage_of_mass_intervals():
    """Exact coverage at N = 100: the sum of the binomial probabilities of the counts whose interval holds p."""
    counts, p = np.arange(101), 0.01
    weight = stats.binom.pmf(counts, 100, p)
    half = 1.959964 * np.sqrt(counts / 100 * (1 - counts / 100) / 100)
    wald = weight[(np.abs(counts / 100 - p) <= half)].sum()
    low, high = proportion_interval(counts, 100)
    ours = weight[(low <= p) & (p <= high)].sum()
    record(
        "answers",
        "coverage of a 95 % interval of a mass, N = 100, p = .01",
        peer=f"Wald (pybasin) {wald:.3f}",
        ours=f"{ours:.3f}",
        exact="0.95; target >= .92",
    )
    assert abs(wald - 0.633) < 1e-3 and ours >= 0.92
