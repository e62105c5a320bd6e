"""Stability has three values: where the radius is 1 to rounding, pushes to both sides decide, or nothing does."""

import math

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests.zoo import puzzles, rotor


def turn(z, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack((c * z[:, 0] - s * z[:, 1], s * z[:, 0] + c * z[:, 1]), 1)


def square(z):
    return (z**2).sum(1, keepdim=True)


def both(first, second):
    return lambda z: torch.stack((first(z[:, 0]), second(z[:, 1])), 1)


# map with a fixed point at 0 whose spectral radius is exactly 1, its numbers, and what the fixed point is
NEUTRAL = {
    "z + z^2": (lambda z: z + z**2, 1, "unstable"),
    "z - z^2": (lambda z: z - z**2, 1, "unstable"),
    "z - z^3": (lambda z: z - z**3, 1, "stable"),
    "z + z^3": (lambda z: z + z**3, 1, "unstable"),
    "z - z^5": (lambda z: z - z**5, 1, "stable"),
    "z + z^4": (lambda z: z + z**4, 1, "unstable"),
    "sin": (torch.sin, 1, "stable"),
    "tanh": (torch.tanh, 1, "stable"),
    "sinh": (torch.sinh, 1, "unstable"),
    "exp - 1": (torch.expm1, 1, "unstable"),
    "-z + z^3": (lambda z: -z + z**3, 1, "stable"),
    "-z - z^3": (lambda z: -z - z**3, 1, "unstable"),
    "-z + z^2": (lambda z: -z + z**2, 1, "stable"),
    "identity": (lambda z: 1.0 * z, 1, "undecided"),
    "reflection": (lambda z: -z, 1, "undecided"),
    "spiral in": (lambda z: turn(z, 1.0) * (1 - 0.1 * square(z)), 2, "stable"),
    "spiral out": (lambda z: turn(z, 1.0) * (1 + 0.1 * square(z)), 2, "unstable"),
    "rotation": (lambda z: turn(z, 1.0), 2, "undecided"),
    "semistable beside a sink": (both(lambda u: u + u**2, lambda v: 0.5 * v), 2, "unstable"),
    "semistable beside neutral": (both(lambda u: u - u**3, lambda v: v + v**2), 2, "unstable"),
    "semistable beside a source": (both(lambda u: u - u**3, lambda v: 2 * v), 2, "unstable"),
}  # fmt: skip


def stability(step, starts, **options):
    size = starts.shape[-1]
    law = lambda x, g: torch.randn((len(x), size), generator=g, dtype=torch.float64)
    result = at.fixed_points(MapSystem(lambda z, x: step(z), law), puzzles(), starts[None], **options)
    names = np.array([*result.stability.attrs["flag_meanings"].split(), "none"])
    assert (result.stable.values == (result.stability.values == 0)).all()
    return names[result.stability.values[0]], result


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("method", ["staged", "newton"])
@pytest.mark.parametrize("place", [0.0, 3.0])
def test_the_sign_of_rounding_never_decides(name, method, place):
    step, size, truth = NEUTRAL[name]
    starts = torch.tensor([-0.1, 0.1, 0.05, 0.0], dtype=torch.float64)[:, None].expand(4, size) + place
    found, result = stability(lambda z: step(z - place) + place, starts, method=method)
    here = np.abs(result.fixed_point.values[0] - place).max(1) < 0.01
    found = found[here & (found != "none")]
    assert len(found) and set(found) <= {truth, "undecided"}, found
    if place == 0 and size == 1:
        assert set(found) == {truth}


@pytest.mark.parametrize("slope", [0.9, 0.999, 0.99999, 1.00001, 1.001, 1.1])
def test_a_radius_that_is_known_decides_alone(slope):
    found, result = stability(
        lambda z: slope * z - z**3, torch.tensor([[0.0], [0.5]]).double(), method="newton"
    )
    assert found[0] == ("stable" if slope < 1 else "unstable")
    low, high = result.spectral_radius_low.values[0, 0], result.spectral_radius_high.values[0, 0]
    assert low <= slope <= high and high - low < 1e-6


def test_cycles_are_judged_alike():
    flip = lambda z: (
        -z - z**3 + 2 * z**3 * (z.abs() < 0.5)
    )  # a neutral turn with period 2 orbits nowhere near
    found, _ = stability(flip, torch.tensor([[0.1]]).double(), method="newton")
    assert found[0] in ("stable", "undecided")
    logistic = lambda z: 3.2 * z * (1 - z)
    found, result = stability(logistic, torch.tensor([[0.5]]).double())
    assert found[0] == "stable" and result.period.item() == 2


def test_the_center_of_a_rotor_is_unstable_whatever_its_angle():
    for angle in (0.3, 2.0, 2 * math.pi / 5):
        z = torch.tensor([[[0.01, 0.02]]], dtype=torch.float64)
        result = at.fixed_points(rotor(angle), puzzles(), z, method="newton")
        assert not result.stable.item() and result.stability.item() == 1
