"""Every analysis hands the identifiers of puzzles to the system, and results keep them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.results.validate import validate
from eqrlab.core import MapSystem

INPUTS = torch.ones(3, 2, dtype=torch.long)  # one grid under three identifiers
IDENTIFIERS = torch.tensor([0, 1, 2])
KEEP = ("summary", "final_state")


def towards(x, identifiers=None):
    """Return the contexts: where the map of a puzzle goes to."""
    assert identifiers is not None, "no identifiers were handed on"
    return x[:, :1].double() + identifiers.double().to(x.device)[:, None]


def law(x, generator):
    return x * 0 + torch.randn((len(x), 2), generator=generator, dtype=torch.float64)


def pitchfork(z, x, noise=None):
    out = torch.stack((x[:, 0] + (z[:, 0] - x[:, 0]) / 2, torch.tanh(2 * z[:, 1])), 1)
    return out if noise is None else out + noise(out)


def decode(z, x):
    return torch.stack((z[:, 0].round().long(), (z[:, 1] > 0).long()), 1)


SYSTEM = MapSystem(pitchfork, law, decode, towards, noise_scale=0.1)
LABELS = torch.tensor([[1, 1], [2, 1], [3, 1]])
RUN = {"identifiers": IDENTIFIERS, "labels": LABELS}


@pytest.fixture(scope="module")
def ensemble():
    return at.sample(SYSTEM, INPUTS, **RUN, restarts=6, depth=48, noise=0, keep=KEEP)


def test_an_identifier_is_part_of_the_context_and_of_the_key(ensemble):
    assert ensemble.identifier.values.tolist() == [0, 1, 2] and ensemble.identifier.dims == ("puzzle",)
    assert np.allclose(ensemble.final_state.values[:, :, 0], [[1], [2], [3]])
    one = at.sample(SYSTEM, INPUTS[:1], identifiers=IDENTIFIERS[2:], restarts=6, depth=48, noise=0, keep=KEEP)
    assert np.array_equal(
        one.residual.values[0], ensemble.residual.values[2]
    )  # the same alone and in company
    assert not np.array_equal(ensemble.final_state.values[0, :, 1], ensemble.final_state.values[1, :, 1])


def test_results_without_identifiers_do_not_name_any():
    plain = MapSystem(
        lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    )
    ensemble = at.sample(plain, INPUTS[:1], restarts=1, depth=2, keep=KEEP)
    assert "identifier" not in ensemble


AFTER = {  # analyses of the states or the runs of an ensemble, which knows the identifiers
    "prolong": lambda e: at.prolong(SYSTEM, INPUTS, e, depth=96),
    "fixed_points": lambda e: at.fixed_points(SYSTEM, INPUTS, e),
    "spectrum": lambda e: at.spectrum(SYSTEM, INPUTS, e, k=1),
    "singular_values": lambda e: at.singular_values(SYSTEM, INPUTS, e, k=1),
    "ftle": lambda e: at.ftle(SYSTEM, INPUTS, e, steps=2, k=1),
    "lyapunov": lambda e: at.lyapunov(SYSTEM, INPUTS, e, steps=40, k=1),
    "endings": lambda e: at.endings(SYSTEM, INPUTS, e, max_steps=64, steps=40, searches=1, k=1),
    "return_test": lambda e: at.return_test(SYSTEM, INPUTS, e, depth=32),
    "basin_stability": lambda e: at.basin_stability(SYSTEM, INPUTS, e, sizes=(0.1,), trials=4, depth=32),
    "critical_shock": lambda e: at.critical_shock(SYSTEM, INPUTS, e, random=1, leading=1, depth=32),
    "transitions": lambda e: at.transitions(SYSTEM, INPUTS, e, noises=(0.1,), steps=2, trials=4, depth=32),
    "asymptotic_alignment": lambda e: at.asymptotic_alignment(SYSTEM, INPUTS, e, depth=32, resamples=20),
    "local_dynamics": lambda e: at.local_dynamics(
        at.Run.of_ensemble(SYSTEM, e), e.drop_vars("final_state"), at.basins(e)
    ),
}
ALONE = {  # those that draw their own runs
    "noop_test": lambda **o: at.noop_test(SYSTEM, INPUTS, restarts=2, depth=16, **o),
    "estimate_basins": lambda **o: at.estimate_basins(SYSTEM, INPUTS, depth=48, half_width=0.3, **o),
    "shells": lambda **o: at.shells(SYSTEM, INPUTS, radii=(0.5, 1.0), restarts=4, depth=32, **o),
    "continuation": lambda **o: at.continuation(
        {0.0: SYSTEM, 1.0: SYSTEM}, INPUTS, restarts=4, depth=48, **o
    ),
    "trajectory_exponents": lambda **o: at.trajectory_exponents(
        SYSTEM, INPUTS, labels=LABELS, restarts=2, depth=16, resamples=20, **o
    ),
    "adaptive": lambda **o: at.adaptive(SYSTEM, INPUTS, at.Policy(stop="settled"), **o),
    "plane": lambda **o: at.plane(SYSTEM, INPUTS, resolution=6, extent=1, depth=48, **o),
    "ftle_field": lambda **o: at.ftle_field(SYSTEM, INPUTS, resolution=3, extent=1, steps=2, **o),
}


@pytest.mark.parametrize("name", AFTER)
def test_analyses_of_an_ensemble_take_its_identifiers(name, ensemble):
    assert isinstance(AFTER[name](ensemble), xr.Dataset)


@pytest.mark.parametrize("name", ALONE)
def test_analyses_that_draw_runs_take_identifiers(name):
    assert isinstance(ALONE[name](identifiers=IDENTIFIERS), xr.Dataset)
    with pytest.raises(AssertionError, match="no identifiers were handed on"):
        ALONE[name]()


def test_the_system_is_shown_the_right_identifiers(ensemble):
    found = at.fixed_points(SYSTEM, INPUTS, ensemble)
    assert np.allclose(found.fixed_point.values[:, :, 0], [[1], [2], [3]])
    assert found.identifier.values.tolist() == [0, 1, 2]
    assert at.spectrum(SYSTEM, INPUTS, found, k=1).spectral_radius.values == pytest.approx(0.5, abs=1e-3)
    plane = at.plane(SYSTEM, INPUTS, identifiers=IDENTIFIERS, labels=LABELS, resolution=6, extent=1, depth=48)
    assert plane.fraction_correct.values.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("identifiers", "reason"),
    [
        ([1, 2], "identifiers must be 3 integers, one a puzzle, got (2,)"),
        ([0.0, 1.0, 2.0], "identifiers must be 3 integers, one a puzzle, got (3,) of torch.float64"),
        ([0, -1, 2], "identifiers must be >= 0, got -1"),
    ],
)
def test_identifiers_of_the_wrong_kind_are_refused(identifiers, reason):
    with pytest.raises(ValueError) as caught:
        at.sample(SYSTEM, INPUTS, identifiers=np.array(identifiers))
    assert reason in str(caught.value)


def test_other_identifiers_than_the_ensembles_are_refused(ensemble):
    with pytest.raises(ValueError, match="identifiers must be those of the ensemble"):
        at.Run.of_ensemble(SYSTEM, ensemble, identifiers=IDENTIFIERS.flip(0))
    with pytest.raises(ValueError, match="identifiers must be those of the ensemble, which has none"):
        at.Run.of_ensemble(SYSTEM, ensemble.drop_vars("identifier"), identifiers=IDENTIFIERS)
    again = at.Run.of_ensemble(SYSTEM, ensemble, identifiers=IDENTIFIERS)
    assert np.array_equal(again.sample().residual.values, ensemble.residual.values)


def test_an_archive_keeps_identifiers_and_an_export_with_others_is_another_one(tmp_path, ensemble):
    path = tmp_path / "a.nc"
    options = {"restarts": 6, "depth": 48, "noise": 0, "keep": KEEP}
    at.export(SYSTEM, INPUTS, path, **RUN, **options)
    with at.open_ensemble(path) as kept:
        assert kept.identifier.values.tolist() == [0, 1, 2]
        assert np.array_equal(kept.residual.values, ensemble.residual.values)
    validate(path)
    for other in (IDENTIFIERS + 1, None):
        free = MapSystem(
            pitchfork, law, decode, lambda x, identifiers=None: x[:, :1].double(), noise_scale=0.1
        )
        with pytest.raises(ValueError, match="is the complete archive of an export with identifiers"):
            at.export(free, INPUTS, path, **RUN | {"identifiers": other}, **options, resume=True)
    assert at.export(SYSTEM, INPUTS, path, **RUN, **options, resume=True).complete
