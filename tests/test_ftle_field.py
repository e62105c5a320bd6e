"""The field of finite-time exponents is that of the exact Jacobian products."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from tests.zoo import henon, hidden_selector, linear, puzzles, selector

NON_NORMAL = torch.tensor([[0.5, 5.0], [0.0, 0.4]], dtype=torch.float64)


@pytest.mark.parametrize("along", ["plane", "all"])
@pytest.mark.parametrize(("steps", "exact"), [(1, 1.6175), (2, 0.7531), (20, -0.4981), (100, -0.6540)])
def test_a_linear_map_has_a_constant_field(along, steps, exact):
    field = at.ftle_field(linear(NON_NORMAL), puzzles(), steps=steps, along=along, resolution=4, extent=2.0)
    np.testing.assert_allclose(field.ftle, exact, atol=6e-5)
    assert field.converged.all()


@pytest.mark.parametrize("along", ["plane", "all"])
def test_henon_agrees_with_the_product_of_its_jacobians(along):
    field = at.ftle_field(henon(), puzzles(), steps=4, along=along, resolution=9, extent=(-1, 1, -0.3, 0.3))
    for i, v in enumerate(field.v.values):
        for j, u in enumerate(field.u.values):
            x, y, product = u, v, np.eye(2)
            for _ in range(4):
                product = np.array([[-2.8 * x, 1], [0.3, 0]]) @ product
                x, y = 1 - 1.4 * x**2 + y, 0.3 * x
            exact = np.log(np.linalg.norm(product, 2)) / 4
            np.testing.assert_allclose(field.ftle[0, i, j], exact, rtol=1e-8)


def test_within_the_plane_is_the_stretch_of_its_two_axes():
    """70 dimensions: the plane lies along a coordinate with slope 2 cosh^-2 and one that contracts by 0.5."""
    system = selector([[0.0] * 70])
    state = torch.zeros(1, 1, 70, dtype=torch.float64)
    axes = torch.eye(70, dtype=torch.float64)[None, 3:5]
    options = {"steps": 3, "resolution": 5, "extent": 1.0, "states": state, "directions": axes, "unit": 1.0}
    inside = at.ftle_field(system, puzzles(), along="plane", **options)
    whole = at.ftle_field(system, puzzles(), along="all", **options)

    def growth(z):
        total = np.zeros_like(z)
        for _ in range(3):
            following = np.tanh(2 * z)
            total, z = total + np.log(2 * (1 - following**2)), following
        return total / 3

    exact = np.maximum(growth(inside.u.values)[None, :], growth(inside.v.values)[:, None])
    np.testing.assert_allclose(inside.ftle[0], exact, rtol=1e-9)
    np.testing.assert_allclose(whole.ftle, np.log(2), rtol=1e-6)  # the other 68 stay on their borders
    assert whole.converged.all()


def test_ridges_lie_where_basins_meet():
    system = hidden_selector(80, torch.full((78,), 0.5, dtype=torch.float64))
    corners = torch.tensor([[0.9575, 0.9575], [-0.9575, 0.9575], [0.9575, -0.9575]], dtype=torch.float64)
    from tests.zoo import householder, reflect

    states = reflect(torch.nn.functional.pad(corners, (0, 78)), householder(80))[None]
    field = at.ftle_field(system, puzzles(), steps=6, states=states, resolution=21)
    basins = at.plane(system, puzzles(), states=states, resolution=21, jitter=False)
    label = basins.attractor_id.values[0]
    border = np.zeros(label.shape, bool)
    for axis in (0, 1):
        border |= (label != np.roll(label, 1, axis)) | (label != np.roll(label, -1, axis))
    border[[0, -1]] = border[:, [0, -1]] = False
    inside = ~border
    inside[[0, -1]] = inside[:, [0, -1]] = False
    assert field.ftle.values[0][border].mean() > field.ftle.values[0][inside].mean() + 0.3
    np.testing.assert_allclose(field.mark_u, basins.mark_u)
    np.testing.assert_allclose(field.u, basins.u)


def test_batches_do_not_matter_and_misuse_is_named():
    options = {"steps": 3, "resolution": 6}
    whole = at.ftle_field(henon(), puzzles(2), **options)
    parts = at.ftle_field(henon(), puzzles(2), batch_size=7, **options)
    np.testing.assert_allclose(whole.ftle, parts.ftle, rtol=1e-12)
    escape = at.ftle_field(henon(), puzzles(), steps=40, resolution=4, extent=50.0)
    assert np.isnan(escape.ftle).any() and (escape.converged == np.isfinite(escape.ftle)).all()
    with pytest.raises(ValueError, match="along 'both' unknown"):
        at.ftle_field(henon(), puzzles(), along="both")
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        at.ftle_field(henon(), puzzles(), steps=0)
