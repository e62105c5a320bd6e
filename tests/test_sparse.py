"""Residuals at chosen steps: what is left out, what stays the same, and what needs them all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.schedule import measured_in, measured_of, measured_steps
from eqrlab.attractors.statistics.trends import filled, tail, way_left
from eqrlab.core import load
from eqrlab.datasets import bundled
from tests.core_models import small_eqr, tokens


class Counting:
    """A map that counts its evaluations, by whether noise was asked for."""

    noise_scale = 0.01

    def __init__(self):
        self.calls = {"noisy": 0, "quiet": 0}

    def encode(self, inputs):
        return inputs.double()

    def initial(self, x, generator):
        return torch.randn((len(x), 3), generator=generator, dtype=torch.float64)

    def step(self, z, x, noise=None):
        self.calls["quiet" if noise is None else "noisy"] += 1
        return z / 2 if noise is None else z / 2 + self.noise_scale * noise(z)

    def decode(self, z, x):
        return torch.ones((len(z), 1), dtype=torch.long)

    def with_noise(self, scale):
        assert scale == self.noise_scale or scale == 0
        return self


def steps(residuals, depth, before=0):
    return (np.flatnonzero(measured_steps(residuals, depth, before)) + 1).tolist()


def test_sparse_steps_are_powers_of_two_of_the_whole_run_and_its_last_window():
    assert steps("sparse", 8) == [1, 2, 4, 6, 7, 8]
    assert steps("sparse", 40) == [1, 2, 4, 8, 16, *range(31, 41)]
    assert steps("sparse", 40, before=40) == [24, *range(25, 41)]
    assert steps("sparse", 1) == [1] and steps("all", 5) == [1, 2, 3, 4, 5]


def test_a_residual_that_costs_an_evaluation_is_measured_at_those_steps_only():
    system, inputs = Counting(), torch.zeros(1, 1, dtype=torch.long)
    options = {"restarts": 2, "depth": 40, "batch_size": 2}
    every = at.sample(system, inputs, **options)
    before = system.calls["quiet"]
    sparse = at.sample(system, inputs, residuals="sparse", **options)
    saved = before - (system.calls["quiet"] - before)
    assert saved == 40 - 15
    measured = measured_steps("sparse", 40)
    for name in ("residual", "relative_residual"):
        assert np.isnan(sparse[name].values[..., ~measured]).all()
        assert np.array_equal(sparse[name].values[..., measured], every[name].values[..., measured])
    for name in ("update", "answer", "sketch", "scale", "spread"):
        assert sparse[name].equals(every[name])
    assert sparse.attrs["residuals"] == "sparse" and "residuals" not in every.attrs


def test_where_residuals_cost_nothing_all_are_measured():
    model = small_eqr(noise_scale=0.0)
    options = {"restarts": 2, "depth": 12}
    every = at.sample(model, tokens(2, model), **options)
    sparse = at.sample(model, tokens(2, model), residuals="sparse", **options)
    assert sparse.residual.equals(every.residual) and measured_of(sparse).all()
    narrow = at.sample(model, tokens(2, model), residuals="sparse", dtype="bfloat16", **options)
    assert (
        not measured_of(narrow).all() and np.isfinite(narrow.residual.values[..., measured_of(narrow)]).all()
    )


def test_a_run_without_any_finite_residual_does_not_hide_which_steps_were_measured():
    residual = np.full((2, 40), np.nan)
    assert np.array_equal(measured_in(residual, "sparse"), measured_steps("sparse", 40))
    assert measured_in(residual, "all").all()


def test_what_lies_between_measured_steps_is_drawn_as_a_power_law():
    time = np.arange(1, 65)
    power = 3.0 * time**-1.5
    measured = measured_steps("sparse", 64)
    gaps = np.where(measured, power, np.nan)
    assert np.allclose(filled(gaps[None], measured)[0], power, rtol=1e-12)
    assert tail(measured) == 16 and tail(np.ones(5, bool)) == 5 and tail(np.ones(50, bool)) == 16


def test_the_way_left_of_a_geometric_decay_is_not_underestimated_from_fewer_steps():
    time = np.arange(1, 41)
    decay = (0.8**time)[None]
    measured = measured_steps("sparse", 40)
    whole, few = way_left(decay), way_left(decay[:, measured], time[measured])
    assert np.isfinite(whole).all() and (few >= whole * (1 - 1e-9)).all()
    assert np.array_equal(way_left(decay, time), whole)


def test_settling_is_told_at_the_first_measured_step_since_which_it_holds():
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6").take(slice(3))
    options = {"labels": puzzles.labels, "restarts": 12, "depth": 32}
    every = at.sample(model, puzzles.inputs, **options)
    sparse = at.sample(model, puzzles.inputs, residuals="sparse", **options)
    both = (every.settling_step.values > 0) & (sparse.settling_step.values > 0)
    early, late = every.settling_step.values[both], sparse.settling_step.values[both]
    assert both.sum() > 10 and np.mean(late >= early) > 0.9
    settled = np.isin(sparse.settling_step.values[both], [*(np.flatnonzero(measured_of(sparse)) + 1)])
    later_answer = late == sparse.answer_settled.values[both]
    assert (settled | later_answer).all()


def test_few_fates_change_and_every_result_can_be_made(monkeypatch):
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6").take(slice(4))
    options = {"labels": puzzles.labels, "restarts": 12, "depth": 32}
    every = at.sample(model, puzzles.inputs, **options)
    sparse = at.sample(model, puzzles.inputs, residuals="sparse", **options)
    assert (every.fate.values != sparse.fate.values).mean() <= 0.1
    assert np.array_equal(every.answer.values, sparse.answer.values)
    found = at.modes(sparse)
    assert found.attrs["residuals"] == "sparse" and np.isfinite(found.mode_probability.values).all()
    told = at.alignment(sparse)
    assert (
        np.isfinite(told.accuracy.values).all() and at.scaling(sparse).sizes["depth"] == told.sizes["depth"]
    )
    assert int(at.basins(sparse).attractors.sum()) > 0


def test_depths_and_analyses_that_need_residuals_left_out_are_refused():
    system = Counting()
    ensemble = at.sample(system, torch.zeros(1, 1, dtype=torch.long), labels=torch.ones(1, 1, dtype=torch.long),
                         restarts=4, depth=40, residuals="sparse")  # fmt: skip
    with pytest.raises(ValueError, match="no residual was measured in the last 3 steps up to 24"):
        at.scaling(ensemble, depths=[24])
    with pytest.raises(ValueError, match="a replay needs residuals at every step"):
        at.replay(ensemble, at.Policy(restarts=2, depth=8))
    with pytest.raises(ValueError, match="residuals 'some' unknown; choose from all, sparse"):
        at.Run.of(system, torch.zeros(1, 1, dtype=torch.long), residuals="some")


def test_an_export_keeps_every_residual(tmp_path):
    with pytest.raises(ValueError, match="an export has residuals at every step"):
        at.export(
            Counting(), torch.zeros(1, 1, dtype=torch.long), tmp_path / "a.nc", restarts=2, residuals="sparse"
        )
