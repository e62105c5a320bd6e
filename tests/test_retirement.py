"""Runs without noise that have come to rest are not followed further, and what stands for them is told as such."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.studies.checks import check_sentences, retired_later
from eqrlab.attractors.ensemble.runs import state_error, steps_made
from eqrlab.core import MapSystem
from tests.zoo import puzzles, selector

UP = torch.full((4, 1), 2)
SYSTEM = selector([[0.0], [0.4], [-0.6], [-2.5]])
RUNS = {"labels": UP, "restarts": 12, "depth": 64}


def counted(system):
    """Return the system, and a list that grows by the rows of each evaluation."""
    rows: list[int] = []

    def step(z, x):
        rows.append(len(z))
        return system.step(z, x)

    return MapSystem(step, system.initial, system.decode, system.encode), rows


def test_fates_answers_and_attractors_are_those_of_runs_followed_to_the_end():
    whole = at.sample(SYSTEM, puzzles(4), **RUNS)
    short = at.sample(SYSTEM, puzzles(4), retire=True, **RUNS)
    assert (short.retired_step.values > 0).all() and "retired_step" not in whole
    for name in (
        "fate",
        "state_fate",
        "answer_fate",
        "period",
        "answer",
        "settling_step",
        "correct",
        "answer_id",
    ):
        np.testing.assert_array_equal(short[name], whole[name], err_msg=name)
    masses = [at.basins(runs).mass.values for runs in (whole, short)]
    np.testing.assert_array_equal(*masses)


def test_rows_at_rest_are_not_evaluated():
    system, rows = counted(SYSTEM)
    at.sample(system, puzzles(4), **RUNS)
    whole = sum(rows)
    rows.clear()
    short = at.sample(system, puzzles(4), retire=True, **RUNS)
    assert sum(rows) < 0.75 * whole
    assert sum(rows) >= int(steps_made(short).sum())


def test_what_a_run_had_last_is_carried_on():
    runs = at.sample(SYSTEM, puzzles(4), retire=True, keep=("final_state", "trajectory"), **RUNS)
    for p, r in np.ndindex(runs.fate.shape):
        step = int(runs.retired_step[p, r])
        for name in ("residual", "update", "answer_id", "trajectory"):
            values = runs[name].values[p, r, step - 1 :]
            assert (values == values[0]).all(), name
        before = runs.residual.values[p, r, : step - 1] / runs.scale.values[p, r]
        last = runs.residual.values[p, r, step - 1] / runs.scale.values[p, r]
        assert last <= 4 * np.finfo(float).eps
        assert (
            before[16:] > 4 * np.finfo(float).eps
        ).all()  # retired as soon as its answer had stood so long


def test_the_error_of_a_state_is_told_by_the_steps_it_made():
    """Repeated values do not decay: read as a decay they would put the attractor a thousand residuals away."""
    errors = [state_error(at.sample(SYSTEM, puzzles(4), retire=retire, **RUNS)) for retire in (False, True)]
    assert (errors[1] <= 10 * errors[0]).all()


def test_runs_driven_by_noise_are_never_retired():
    noisy = MapSystem(
        lambda z, x, noise=None: torch.tanh(2 * z) + (0 if noise is None else 0 * noise(z)),
        lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64),
        lambda z, x: (z > 0).long() + 1,
        noise_scale=0.1,
    )
    runs = at.sample(noisy, puzzles(2), restarts=4, depth=40, retire=True)
    assert (runs.retired_step.values == -1).all()


def test_a_batch_that_is_at_rest_altogether_ends():
    system, rows = counted(MapSystem(lambda z, x: 0 * z + 1, lambda x, g: torch.zeros(len(x), 2)))
    runs = at.sample(system, puzzles(1), restarts=3, depth=400, retire=True)
    assert (runs.retired_step.values == 16).all() and len(rows) < 40
    assert runs.sizes["step"] == 400 and (runs.fate.values == 0).all()


def test_diagnose_retires_unless_told_otherwise():
    options = {"labels": UP, "restarts": 8, "depth": 64}
    inputs = puzzles(4).numpy()
    assert (diagnose(SYSTEM, inputs, **options)["ensemble"].retired_step.values > 0).any()
    for off in ({"retire": False}, {"fixed": True}):
        found = diagnose(SYSTEM, inputs, **options, **off)["ensemble"]
        assert "retired_step" not in found or (found.retired_step.values == -1).all()


def test_checks_tell_what_retirement_misses():
    groups = diagnose(SYSTEM, puzzles(4).numpy(), labels=UP, restarts=8, depth=64, checks=True)
    told = dict(check_sentences(groups))["Twice the depth"]
    assert "Of 8 runs retired at rest before that, 0 % [0, " in told and "retirement misses" in told


def test_a_retired_run_that_leaves_later_is_counted():
    """At rest to the last bit for 100 steps of a clock, then another second cell, which counts in one puzzle of two."""

    def step(z, x):
        return torch.stack((z[:, 0], z[:, 1] + 1e-18 + 0 * z[:, 1]), 1)

    waits = MapSystem(
        step,
        lambda x, g: torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(len(x), 1),
        lambda z, x: torch.cat((torch.zeros(len(z), 1), z[:, 1:] > 50.5e-18), 1).long() + 1,
    )
    runs = at.sample(
        waits, puzzles(2), labels=torch.tensor([[1, 1], [1, 0]]), restarts=2, depth=40, retire=True,
        keep=("final_state",),
    )  # fmt: skip
    assert (runs.retired_step.values == 10).all()
    longer = at.prolong(waits, puzzles(2), runs, depth=80, which="all")
    found = retired_later(runs, longer)
    assert int(found["retired"]) == 4 and float(found["retired_changed"]) == 0.0
    longest = at.prolong(waits, puzzles(2), runs, depth=160, which="all")
    assert float(retired_later(runs, longest)["retired_changed"]) == 0.5


def test_an_export_follows_every_run(tmp_path):
    with pytest.raises(ValueError, match="follows every run"):
        at.export(SYSTEM, puzzles(4), tmp_path / "a.nc", restarts=2, depth=16, retire=True)
