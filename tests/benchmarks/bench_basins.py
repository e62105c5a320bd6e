"""Basin masses: coverage of intervals, restarts to a precision, many and tiny basins, a shock in 10^5 dimensions."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from eqrlab import attractors as at
from eqrlab.attractors.statistics.intervals import DEFAULT_INTERVAL, INTERVALS, proportion_interval
from eqrlab.core import MapSystem
from tests.benchmarks.ledger import record
from tests.zoo import one_pattern, puzzles, selector, selector_level, up_mass

pytestmark = pytest.mark.benchmark
ENSEMBLES = 20_000
SHARES, SIZES = (0.001, 0.01, 0.1, 0.5), (32, 100, 1000)


@pytest.mark.parametrize("method", INTERVALS)
def test_coverage_of_every_interval(method):
    """20,000 simulated ensembles each: how often the 95 % interval holds the mass."""
    rng, cells = np.random.default_rng(0), {}
    for n in SIZES:
        for p in SHARES:
            count = rng.binomial(n, p, ENSEMBLES)
            low, high = proportion_interval(count, n, 0.95, method)
            cells[f"N {n}, p {p:g}"] = ((low <= p) & (p <= high)).mean()
    worst = min(cells.values())
    record("intervals", method, **{k: f"{100 * v:.1f}" for k, v in cells.items()}, worst=f"{100 * worst:.1f}")
    if method == DEFAULT_INTERVAL:
        assert worst >= 0.92


def lotteries(masses: np.ndarray) -> MapSystem:
    """Puzzle p: a start falls at once onto attractor 1 with mass masses[p], else onto attractor 2."""
    table = torch.as_tensor(masses, dtype=torch.float64)[:, None]

    def start(x, generator):
        return 1 + (torch.rand(x.shape, generator=generator, dtype=torch.float64) > x).double()

    return MapSystem(lambda z, x: z.round(), start, lambda z, x: z.round().long(), lambda t: table[t[:, 0]])


@pytest.mark.parametrize(("half_width", "each"), [(0.05, 40), (0.02, 6)])
def test_restarts_to_a_precision_against_a_fixed_number(half_width, each):
    """Puzzles of masses .5 to .01 in equal parts: restarts and coverage once every interval is narrow."""
    masses = np.repeat([0.5, 0.3, 0.1, 0.03, 0.01], each)
    found = at.estimate_basins(lotteries(masses), puzzles(len(masses)), half_width=half_width, depth=8)
    answer, seen = found.answer.values[:, :, 0], found["count"].values > 0
    truth = np.where(answer == 1, masses[:, None], 1 - masses[:, None])
    covered = ((found.mass_low.values <= truth) & (truth <= found.mass_high.values))[seen].mean()
    used, fixed = found.restarts_used.values, int(found.attrs["fixed_restarts"])
    parts = "; ".join(f"mass {m:g}: {used[masses == m].mean():.0f}" for m in np.unique(masses)[::-1])
    record(
        "masses", f"half-width {half_width:g}, {len(masses)} puzzles", exact=f"fixed number for any mass: {fixed}",
        ours=f"mean {used.mean():.0f} ({parts}), ratio {used.mean() / fixed:.2f}; coverage {covered:.1%}",
    )  # fmt: skip
    assert (found.half_width <= half_width).all() and used.mean() < fixed and covered > 0.92


def test_1024_attractors():
    """G3 with 10 units: masses are products, the unseen mass what the attractors found leave."""
    offsets = np.linspace(-0.6, 0.6, 10)
    found = at.basins(at.sample(selector([offsets.tolist()]), puzzles(), restarts=4000, depth=40))
    up = np.array([up_mass(b) for b in offsets])
    mass = np.where(found.answer.values[0] == 2, up, 1 - up).prod(1)
    covered = ((found.mass_low.values[0] <= mass) & (mass <= found.mass_high.values[0])).mean()
    unseen, bound = float(found.unseen_mass[0]), float(found.unseen_mass_high[0])
    told = f"{len(mass)} attractors found, masses covered {covered:.1%}; unseen {unseen:.4f}, at most {bound:.4f}"
    exact = f"1,024 attractors; mass of those not found {1 - mass.sum():.4f}"
    record("masses", "G3, 10 units, 4,000 restarts", exact=exact, ours=told)
    assert 1 - mass.sum() <= bound


def test_a_basin_of_a_thousandth():
    """G3 with P(up) = .001: found in 6,000 restarts but for one chance in 400."""
    found = at.basins(at.sample(selector([[float(norm.isf(1e-3))]]), puzzles(), restarts=6000, depth=40))
    share, *bounds = (float(found[f"mass{e}"][0, 1]) for e in ("", "_low", "_high"))
    record("masses", "planted basin of .1 %, 6,000 restarts", exact="0.001",
           ours=f"{share:.5f} [{bounds[0]:.5f}, {bounds[1]:.5f}], {int(found.attractors[0])} attractors")  # fmt: skip
    assert bounds[0] <= 1e-3 <= bounds[1]


def test_the_shock_of_one_pattern_at_100000_dimensions():
    """G5: the least perturbation that leaves the basin of m xi is m sqrt(d), along the eigenvector."""
    size, m = 100_000, selector_level(2.0)
    system, xi = one_pattern(size)
    found = at.critical_shock(system, puzzles(), (m * xi).view(1, 1, -1), directions=("eigen",), leading=1, scan=2,
                              tol=1e-3, depth=40)  # fmt: skip
    value, exact = float(found.least_shock[0, 0]), m * size**0.5
    low = float(found.shock_low.values[0, 0][int(found.least_direction.values[0, 0])])
    record("masses", "G5, d = 100,000: least shock", exact=f"m sqrt(d) = {exact:.4f}",
           ours=f"{value:.4f}, bracket from {low:.4f}")  # fmt: skip
    assert low <= exact * (1 + 1e-9) and value <= exact * 1.00102
