"""Checks beside a verdict: they say what was planted, and stay out of the way where there is nothing to say."""

import numpy as np
import torch

from eqrlab import attractors as at
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.report import page as report
from eqrlab.analyses.studies.checks import check_sentences, run_checks, sensitivity_sentence, states_fit
from eqrlab.analyses.studies.fates import noop_sentence
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import unlisted, validate
from eqrlab.core import MapSystem
from tests.zoo import contraction, normal_start, puzzles, selector

UP = np.full((4, 1), 2)


def late() -> MapSystem:
    """A slow drift over the border: right from about step 23 on, wherever it starts."""
    start = lambda x, g: -1 - torch.rand((len(x), 1), generator=g, dtype=torch.float64) / 10
    return MapSystem(lambda z, x: z + 0.04 * (1 - z), start, lambda z, x: (z > 0.2).long() + 1)


def test_a_diagnosis_with_checks_keeps_them_in_archive_and_report(tmp_path):
    system = selector([[0.0], [0.4], [-0.6], [-2.5]])
    plain = diagnose(system, puzzles(4).numpy(), labels=UP, restarts=24, depth=24)
    groups = diagnose(system, puzzles(4).numpy(), labels=UP, restarts=24, depth=24, checks=True)
    assert set(groups) - set(plain) == {"outcomes", "noop", "sensitivity", "duels", "radius"}
    assert "final_state" not in groups["ensemble"]
    np.testing.assert_array_equal(groups["modes"].mode_probability, plain["modes"].mode_probability)
    archive.write(tmp_path / "d.nc", groups)
    assert validate(tmp_path / "d.nc").groups == len(groups) and unlisted(tmp_path / "d.nc") == []
    text = report.render(archive.read(tmp_path / "d.nc"))
    for heading, sentence in check_sentences(groups):
        assert f"<dt>{heading}</dt>" in text
        assert sentence.split(":")[0].split(",")[0].split("[")[0].replace(" %", "\u00a0%") in text
    assert "Twice the depth" not in report.render(_tree(tmp_path, plain))


def _tree(folder, groups):
    archive.write(folder / "plain.nc", groups)
    return archive.read(folder / "plain.nc")


def test_late_solves_are_said():
    groups = diagnose(late(), puzzles(4).numpy(), labels=UP, restarts=10, depth=16, checks=True)
    told = dict(check_sentences(groups))["Twice the depth"]
    assert (
        told
        == "2 restarts of each puzzle went on. Of 8 runs wrong at step 16, 100 % [47, 100] are right at step 32."
    )  # 2 of 10 restarts, 4 puzzles


def test_reversions_are_said():
    """The mirror image: right until about step 23, then wrong."""
    forgets = MapSystem(late().step, late().initial, lambda z, x: (z <= 0.2).long() + 1)
    groups = diagnose(forgets, puzzles(4).numpy(), labels=UP, restarts=8, depth=16, checks=True)
    told = dict(check_sentences(groups))["Twice the depth"]
    assert (
        told.startswith(
            "2 restarts of each puzzle went on. None of these is wrong at step 16. Of 8 runs right then, 100 % ["
        )
        and "wrong again" in told
    )


def test_thresholds_that_matter_are_named():
    """48 of 50 right: with `broad` at .95 the verdict (d) is no longer sure; far from all thresholds nothing moves."""
    inputs = puzzles(1)
    for offset, restarts, expected in (
        (-1.55, 400, "broad = 0.95"),
        (-3.5, 400, "every verdict on 1 puzzle stays"),
    ):
        ensemble = at.sample(
            selector([[offset]]), inputs, labels=torch.tensor([[2]]), restarts=restarts, depth=24
        )
        assert expected in sensitivity_sentence(at.mode_sensitivity(ensemble))


def test_a_map_that_does_nothing_is_exposed():
    idle = MapSystem(lambda z, x: z.clone(), normal_start(1), lambda z, x: (z > 0).long() + 1)
    groups = diagnose(idle, puzzles(4).numpy(), labels=UP, restarts=8, depth=16, checks=True)
    assert "does not move the state on 4 of 4 puzzles" in dict(check_sentences(groups))["The map acts"]


def test_a_map_that_clearly_acts_is_tested_over_few_steps_and_a_suspect_over_many():
    noop = {}
    for name, rate in (("fast", 0.5), ("slow", 0.8)):
        system = MapSystem(
            lambda z, x, rate=rate: rate * z + x, normal_start(1), lambda z, x: (z > 1).long() + 1
        )
        inputs = torch.tensor([[1], [2]])
        run = at.Run.of(system, inputs, labels=torch.full((2, 1), 2), restarts=4, depth=64)
        noop[name] = run_checks(run, run.sample())["noop"]
    assert noop["fast"].attrs["depth"] == 8 and noop["slow"].attrs["depth"] == 32
    assert "passed on all 2 puzzles" in noop_sentence(noop["slow"])
    assert "passed on 1 puzzle:" in noop_sentence(noop["slow"].isel(puzzle=[0]))
    assert not noop["slow"].z_survives.any(), "after 8 steps a sixth of the start is left, which is no fault"


def test_without_states_the_deeper_look_is_left_out():
    ensemble = at.sample(contraction(0.5), puzzles(2), labels=torch.full((2, 1), 2), restarts=4, depth=16)
    assert set(run_checks(at.Run.of(contraction(0.5), puzzles(2)), ensemble)) == {"noop", "sensitivity"}

    class Large:
        state_shape = (2, 100, 512)

    assert states_fit(Large(), 480) and not states_fit(Large(), 2000)
