"""Escapes under noise against the exact kernel of one dimension, and basins on shells against the law of the sphere."""

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law
from scipy.stats import norm

from eqrlab import attractors as at
from eqrlab.attractors.landscape.shells import dependence
from eqrlab.core import MapSystem
from tests.zoo import contraction, normal_start, puzzles, selector, selector_level

OFFSETS = (0.3, 0.0)


def noisy_selector() -> MapSystem:
    """G3 with one unit a puzzle and noise of amplitude sigma in every step."""
    table = torch.tensor(OFFSETS, dtype=torch.float64)[:, None]

    def step(z, x, noise=None):
        following = x + torch.tanh(2 * (z - x))
        return following if noise is None else following + noise(following)

    return MapSystem(
        step, normal_start(1), lambda z, x: (z > x).long() + 1, lambda tokens: table[tokens[:, 0]]
    )


def exact_escape(sigma: float, steps: int) -> float:
    """Probability that tanh(2 y) + sigma eps, begun at the upper attractor, is below 0 after `steps` steps."""
    y = np.linspace(-1 - 8 * sigma, 1 + 8 * sigma, 2001)
    kernel = norm.pdf((y[:, None] - np.tanh(2 * y)) / sigma) / sigma * (y[1] - y[0])
    density = norm.pdf((y - np.tanh(2 * selector_level(2.0))) / sigma) / sigma
    for _ in range(steps - 1):
        density = kernel @ density
    return float(density[y < 0].sum() * (y[1] - y[0]))


@pytest.fixture(scope="module")
def found():
    system = noisy_selector()
    ensemble = at.sample(system, puzzles(2), restarts=24, depth=40, keep=("summary", "final_state"))
    return at.transitions(
        system, puzzles(2), ensemble, noises=(0.0, 0.3, 0.5), steps=8, trials=1500, depth=40, confidence=0.99
    )


def test_escape_probabilities_are_those_of_the_exact_kernel(found):
    """By symmetry both attractors of both puzzles escape alike, whatever the offset."""
    assert (found.escape.values[0] == 0).all() and (found.escape_high.values[0] < 0.01).all()
    for i, sigma in ((1, 0.3), (2, 0.5)):
        truth = exact_escape(sigma, 8)
        assert 0.01 < truth < 0.49
        inside = (found.escape_low.values[i] <= truth) & (truth <= found.escape_high.values[i])
        assert inside.all(), (truth, found.escape.values[i])
        rate = -np.log1p(-truth) / 8
        assert ((found.escape_rate_low.values[i] <= rate) & (rate <= found.escape_rate_high.values[i])).all()


def test_rows_of_the_matrix_sum_to_one_and_targets_are_the_other_basin(found):
    np.testing.assert_allclose(found.probability.sum("target"), 1)
    assert float(found.probability.sel(target=["elsewhere", "none"]).max()) == 0
    own = found.probability.values[..., [0, 1], [0, 1]]
    np.testing.assert_allclose(own, 1 - found.escape)


def test_trials_are_judged_by_the_thresholds_of_the_ensemble_and_record_how_they_ran():
    """A rotation: its circle is an attractor where sets of that size count as small, for the trials as for the runs."""
    turn = torch.tensor([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    unit = lambda x, g: torch.nn.functional.normalize(normal_start(2)(x, g))
    rotor, wide = MapSystem(lambda z, x: z @ turn.T, unit), at.Tolerances(region=2.0)
    runs = at.sample(rotor, puzzles(), restarts=4, depth=40, tolerances=wide, keep=("summary", "final_state"))
    found = at.transitions(rotor, puzzles(), runs, noises=(0.0,), steps=4, trials=4, depth=40, seed=3)
    assert found.present.all() and (found.escape == 0).all()
    assert (found.attrs["seed"], found.attrs["depth"]) == (3, 40)


def test_what_has_no_attractor_has_no_escapes():
    """A slow contraction is unfinished at depth 8: nothing to leave; masked, not zero."""
    system = contraction(1 - 1e-3)
    noisy = MapSystem(lambda z, x, e=None: system.step(z, x) + (0 if e is None else e(z)), system.initial)
    ensemble = at.sample(noisy, puzzles(), restarts=4, depth=8, keep=("summary", "final_state"))
    found = at.transitions(noisy, puzzles(), ensemble, noises=(0.1,), trials=5, depth=8)
    assert not found.present.any() and np.isnan(found.escape.values).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noises": ()}, "amplitudes >= 0"),
        ({"noises": (-1.0,)}, "amplitudes >= 0"),
        ({"noises": (0.1,), "trials": 0}, "trials must be an integer >= 1, got 0"),
    ],
)
def test_misuse_of_transitions_is_named(options, message):
    system = noisy_selector()
    ensemble = at.sample(system, puzzles(), restarts=4, depth=8)
    with pytest.raises(ValueError, match=message):
        at.transitions(system, puzzles(), ensemble, **options)
    with pytest.raises(ValueError, match="without noise and with final_state kept"):
        at.transitions(system, puzzles(), ensemble, noises=(0.1,))


# Shells ---------------------------------------------------------------------------------------------------------------


def test_masses_on_shells_are_those_of_uniform_directions():
    """G3, first of 6 units shifted by 0.8: P(r u_1 > 0.8) for u uniform on the sphere, exact by the beta law."""
    size, offset = 6, 0.8
    system = selector([[offset] + [9.0] * (size - 1)])
    radii = (0.25, 0.5, 1.0, 2.0)
    found = at.shells(system, puzzles(), radii=radii, restarts=800, depth=40, confidence=0.99)
    up = int(found.answer.values[0, :, 0].argmax())
    law = lambda x, g: torch.randn((len(x), size), generator=g, dtype=torch.float64)
    fixed = torch.Generator().manual_seed(0)
    unit = float(torch.stack([law(torch.zeros(1, 1), fixed).norm() for _ in range(64)]).median())
    for i, r in enumerate(radii):
        edge = np.clip((offset / (r * unit) + 1) / 2, 0, 1)
        truth = beta_law.sf(edge, (size - 1) / 2, (size - 1) / 2)
        low, high = (float(found[f"shell_mass_{e}"][0, i, up]) for e in ("low", "high"))
        assert low <= truth <= high, (r, truth, low, high)
    assert float(found.dependence_p[0]) == 0.001


def test_shells_of_a_scale_free_landscape_do_not_differ():
    """Borders through the origin: the side a start is on does not depend on its radius."""
    found = at.shells(selector([[0.0, 0.0]]), puzzles(), radii=(0.5, 1.0, 3.0), restarts=60, depth=40)
    assert int(found.attractors[0]) == 4 and float(found.dependence_p[0]) > 0.01
    np.testing.assert_allclose(found.shell_mass.sum("attractor"), 1)


def test_the_permutation_test_keeps_its_level():
    rng = np.random.default_rng(0)
    p = np.array([dependence(rng.integers(0, 3, (3, 12)), seed=i, shuffles=99) for i in range(300)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.085 and (p <= 0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_shells_know_right_from_wrong():
    labels = torch.full((1, 1), 2)
    found = at.shells(selector([[0.5]]), puzzles(), labels=labels, radii=(0.1, 4.0), restarts=40, depth=40)
    assert found.correct_mass.values[0, 0] == 0 and 0.2 < found.correct_mass.values[0, 1] < 0.8
    total = found.correct_mass + found.spurious_mass + found.mass_none
    np.testing.assert_allclose(total, 1)


@pytest.mark.parametrize("radii", [(), (0.0, 1.0), (1.0, 0.5)])
def test_misuse_of_shells_is_named(radii):
    with pytest.raises(ValueError, match="radii must be positive and increasing"):
        at.shells(selector([[0.0]]), puzzles(), radii=radii)


def test_a_set_on_which_the_answer_changes_is_not_right_at_any_moment():
    """The logistic map at 4: right nine times in ten, so its one attractor is neither right nor wrong."""
    step = lambda z, x, noise=None: 4 * z * (1 - z) + (0 if noise is None else 0 * noise(z))
    start = lambda x, g: torch.rand((len(x), 1), generator=g, dtype=torch.float64)
    chaos = MapSystem(step, start, lambda z, x: (z > 0.02).long() + 1)
    labels = torch.full((1, 1), 2)
    runs = at.sample(chaos, puzzles(), labels=labels, restarts=8, depth=256, keep="final_state")
    assert runs.correct.values[0, :, -1].any() and at.basins(runs).changing.values[0, 0]
    found = at.transitions(chaos, puzzles(), runs, noises=(0.1,), trials=4, steps=2, depth=256)
    assert found.present.values[0, 0] and not found.correct.values.any()
    branches = at.continuation({0.0: chaos, 1.0: chaos}, puzzles(), labels=labels, restarts=8, depth=256)
    assert branches.alive.values.any() and not branches.correct.values.any()
