"""Local dynamics at attractors, against maps whose spectra are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.local import VERDICTS, judge, local_dynamics
from eqrlab.attractors.return_test import RETURNS
from eqrlab.core import MapSystem

M = 0.9575040240772688  # tanh(2 m) = m
RATE = 0.16637208775  # 2 (1 - m^2)


def selector(units=3):
    """z -> tanh(2 z), one answer token: the sign of the first unit; up is right."""
    return MapSystem(
        lambda z, x: torch.tanh(2 * z),
        lambda x, g: torch.randn((len(x), units), generator=g, dtype=torch.float64),
        decode=lambda z, x: (z[:, :1] > 0).long(),
    )


INPUTS, LABELS = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)


def test_rates_and_spectra_at_attractors_are_exact():
    system = selector()
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=24, depth=40)
    found = local_dynamics(system, INPUTS, ensemble, at.basins(ensemble), depth=20)
    assert (found.attractor.values >= 0).all()
    assert np.allclose(found.spectral_radius, RATE, atol=1e-9)
    assert np.allclose(found.sigma_1, RATE, atol=1e-6)
    assert np.allclose(found.measured_rate, RATE, rtol=0.02)
    assert [VERDICTS[v] for v in found.verdict.values[0]] == ["stable", "stable"]
    answer = ensemble.answer.values[0, found.restart.values[0], 0]
    assert answer.tolist() == [1, 0]


def test_a_puzzle_without_an_attractor_of_a_kind_has_a_gap():
    system = MapSystem(
        lambda z, x: 0.5 * z, lambda x, g: torch.randn((len(x), 4), generator=g, dtype=torch.float64)
    )
    ensemble = at.sample(system, INPUTS, labels=INPUTS + 1, restarts=4, depth=60)
    found = local_dynamics(system, INPUTS, ensemble, at.basins(ensemble), depth=12)
    assert found.attractor.values.tolist() == [[-1, 0]]
    assert VERDICTS[int(found.verdict[0, 0])] == "none" and np.isnan(found.spectral_radius[0, 0])
    assert np.isclose(found.spectral_radius[0, 1], 0.5)


def test_without_any_attractor_all_points_are_gaps():
    angle = torch.tensor(2.0).double()
    turn = torch.tensor(
        [[torch.cos(angle), -torch.sin(angle)], [torch.sin(angle), torch.cos(angle)]]
    ).double()
    system = MapSystem(
        lambda z, x: z @ turn.T,
        lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64),
        decode=lambda z, x: (z[:, :1] > 0).long(),
    )
    ensemble = at.sample(system, INPUTS, labels=LABELS, restarts=3, depth=24)
    found = local_dynamics(system, INPUTS, ensemble, at.basins(ensemble))
    assert (found.attractor.values == -1).all() and (found.verdict.values == VERDICTS.index("none")).all()


@pytest.mark.parametrize(
    ("present", "residual", "radius", "converged", "returns", "verdict"),
    [
        (False, np.nan, np.nan, False, "not_tested", "none"),
        (True, 1e-7, 0.9, True, "returns", "stable"),
        (True, 1e-7, 1.1, True, "returns", "saddle"),
        (True, 1e-7, 0.9, True, "leaves", "saddle"),
        (True, 1e-7, 0.9, False, "returns", "undecided"),
        (True, 1e-2, 0.9, True, "returns", "no_fixed_point"),
    ],
)
def test_verdicts_need_residual_spectrum_and_return(present, residual, radius, converged, returns, verdict):
    code = judge(*(np.array([v]) for v in (present, residual, radius, converged, RETURNS.index(returns))))
    assert VERDICTS[int(code[0])] == verdict


def test_given_starts_and_unknown_answers_are_refused():
    system = selector(1)
    starts = torch.ones(1, 2, 1, dtype=torch.float64)
    given = at.sample(system, INPUTS, labels=LABELS, restarts=2, depth=20, initial=starts)
    with pytest.raises(ValueError, match="not given starts"):
        local_dynamics(system, INPUTS, given, at.basins(given))
    unknown = at.sample(system, INPUTS, restarts=2, depth=20)
    with pytest.raises(ValueError, match="what is correct"):
        local_dynamics(system, INPUTS, unknown, at.basins(unknown))
