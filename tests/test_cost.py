"""What a diagnosis will cost, told before it starts; bars only where they are asked for."""

import re

import pytest
import torch
from click.testing import CliRunner
from tqdm.auto import tqdm

from eqrlab import attractors as at
from eqrlab.analyses.commands.basins import basins_command
from eqrlab.analyses.commands.common import cost
from eqrlab.analyses.commands.continuation import continuation_command
from eqrlab.analyses.commands.diagnose import diagnose_command
from eqrlab.analyses.commands.dynamics import spectrum_command
from eqrlab.analyses.commands.fates import fates_command
from eqrlab.analyses.diagnose import diagnose
from eqrlab.core import EqR, EqRConfig, MapSystem
from eqrlab.core.progress import shown
from eqrlab.datasets import bundled
from tests.core_models import tiny_file


class Clock:
    """A clock that only the map moves, so that a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(cost, "time", made)
    return made


def counted(noise=0.0, seconds=0.0, clock=None, start=0.0):
    """Return a map and the list of the numbers of rows it was asked for.

    By the clock a row takes so many seconds, and the first call `start` more.
    """
    asked = []

    def halved(z, x, draw=None):
        if clock:
            clock.now += seconds * len(z) + start * (not asked)
        asked.append(len(z))
        return z / 2

    law = lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64)
    return MapSystem(halved, law, noise_scale=noise), asked


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_evaluations_of_sampling_are_those_that_happen(noise):
    system, asked = counted(noise)
    run = at.Run.of(system, torch.zeros(3, 1, dtype=torch.long), restarts=5, depth=7)
    asked.clear()
    run.sample()
    assert sum(asked) == cost.evaluations(run, local=False, checks=False)["sampling"]


def test_the_time_of_sampling_is_measured_on_the_map_itself(clock):
    run = at.Run.of(
        counted(seconds=2e-4, clock=clock)[0], torch.zeros(8, 1, dtype=torch.long), restarts=10, depth=40
    )
    told = cost.estimate(run, local=False, checks=False)["sampling"]
    assert told == pytest.approx(2e-4 * 80 * 41)
    began = clock.now
    run.sample()
    assert told == pytest.approx(clock.now - began)


def test_what_happens_only_at_the_first_step_is_not_taken_for_the_price_of_a_step(clock):
    system, asked = counted(seconds=0.01, clock=clock, start=60.0)
    run = at.Run.of(system, torch.zeros(2, 1, dtype=torch.long), restarts=2, depth=4)
    asked.clear()  # the run has been checked by steps of its own
    assert cost.seconds_an_evaluation(run, None) == pytest.approx(0.01)


def test_phases_left_out_cost_nothing():
    run = at.Run.of(counted()[0], torch.zeros(2, 1, dtype=torch.long), restarts=2, depth=4)
    assert list(cost.evaluations(run, local=False, checks=False)) == ["sampling"]
    every = ["sampling", "local dynamics", "checks", "borders"]
    assert list(cost.evaluations(run, local=True, checks=True)) == every
    config = EqRConfig(vocab_size=8, seq_len=36, hidden_size=16, num_heads=2, H_cycles=1, L_cycles=1)
    puzzles = bundled("sudoku6").take(slice(2))
    run = at.Run.of(EqR(config, "sudoku6"), puzzles.inputs, labels=puzzles.labels, restarts=2, depth=4)
    assert list(cost.evaluations(run, local=True, checks=True)) == [*every, "committing at most"]
    assert list(cost.estimate(run, local=True, checks=False))[-1] == "verdict and report"


def test_restarts_in_waves_are_told_as_a_range(clock):
    """Eight restarts of every puzzle are drawn whatever they show: a fifth of forty."""
    run = at.Run.of(
        counted(seconds=3e-3, clock=clock)[0], torch.zeros(4, 1, dtype=torch.long), restarts=40, depth=20
    )
    told = cost.cost_line(run, local=False, checks=False, waves=True)
    seconds = re.fullmatch(r"up to about .+: sampling (\d+) s to (\d+) s, verdict and report 2 s", told)
    assert seconds and float(seconds[2]) >= 3 * float(seconds[1]) > 0, told
    assert " to " not in cost.cost_line(run, local=False, checks=False).split("sampling")[1]


def test_a_range_whose_ends_read_alike_is_one_time(clock):
    system, _ = counted(seconds=1e-4, clock=clock)
    run = at.Run.of(system, torch.zeros(2, 1, dtype=torch.long), restarts=16, depth=4)
    assert ": sampling under 1 s, " in cost.cost_line(run, local=False, checks=False, waves=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under 1 s"),
        (0.6, "1 s"),
        (89, "89 s"),
        (95, "2 min"),
        (3000, "50 min"),
        (40000, "11 h"),
        (1.4e6, "16 days"),
    ],
)
def test_times_are_told_as_precisely_as_they_are_known(seconds, text):
    assert cost.duration(seconds) == text


def test_the_cost_is_the_first_thing_on_the_error_stream_and_quiet_leaves_it_out(tmp_path):
    tiny_file(tmp_path / "tiny.safetensors", 6)
    arguments = [str(tmp_path / "tiny.safetensors"), "--limit", "2", "--restarts", "2", "--depth", "3",
                 "--no-local", "--out", str(tmp_path / "out")]  # fmt: skip
    run = CliRunner().invoke(diagnose_command, arguments, catch_exceptions=False)
    phases = ("sampling", "checks", "borders", "committing at most", "verdict and report")
    line = r"about \d+ \w+ for [\d,]+ evaluations of the map: " + ", ".join(f"{name} .+" for name in phases)
    assert re.match(line, run.stderr), run.stderr
    quiet = CliRunner().invoke(diagnose_command, [*arguments, "--quiet"], catch_exceptions=False)
    assert quiet.exit_code == 0 and quiet.stderr == ""


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_cost_of_a_study_adds_its_phases_and_is_measured_with_few_restarts(noise):
    system, asked = counted(noise)
    run = at.Run.of(system, torch.zeros(2, 1, dtype=torch.long), restarts=1000, depth=10)
    asked.clear()
    told = cost.study_cost_line(run, {"afterwards": 500}, times=3, at_most=True)
    assert max(asked) <= 2 * cost.MEASURED_RESTARTS
    count = 3 * 2 * 1000 * (20 if noise else 11) + 500
    assert re.fullmatch(
        rf"up to about .+ for {count:,} evaluations of the map: sampling .+, afterwards .+", told
    )
    alone = cost.study_cost_line(run.with_(restarts=2), {})
    assert re.fullmatch(r"about \d+ \w+ for [\d,]+ evaluations of the map", alone)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (basins_command, ["--half-width", "0.4", "--depth", "3"]),
        (fates_command, ["--restarts", "2", "--depths", "8,16"]),
        (continuation_command, ["--over", "noise=0,0.1", "--restarts", "2", "--depth", "3"]),
        (spectrum_command, ["--restarts", "1", "--depth", "3", "-k", "1"]),
    ],
)
def test_studies_tell_their_cost_first_and_quiet_leaves_it_out(command, options, tmp_path):
    tiny_file(tmp_path / "tiny.safetensors", 6)
    arguments = [str(tmp_path / "tiny.safetensors"), "--limit", "1", *options, "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert re.match(r"(up to )?about \d+ \w+ for [\d,]+ evaluations of the map", run.stderr), run.stderr
    quiet = CliRunner().invoke(command, [*arguments, "--quiet"], catch_exceptions=False)
    assert quiet.exit_code == 0 and quiet.stderr == ""


def test_a_bar_is_shown_only_where_progress_is_true(monkeypatch):
    made = []
    monkeypatch.setattr(tqdm, "__init__", _recorded(tqdm.__init__, made))
    puzzles = bundled("sudoku6").take(slice(2))
    config = EqRConfig(vocab_size=8, seq_len=36, hidden_size=16, num_heads=2, H_cycles=1, L_cycles=1)
    options = {"labels": puzzles.labels, "oracle": puzzles.oracle, "restarts": 2, "depth": 4}
    for progress, disabled in ((False, True), (True, None)):
        made.clear()
        torch.manual_seed(0)
        diagnose(
            EqR(config, "sudoku6"), puzzles.inputs, local=True, checks=True, progress=progress, **options
        )
        assert {options["disable"] for options in made} == {disabled}
        assert {"sampling", "verdict"} <= {options["desc"] for options in made if "desc" in options}


def _recorded(begin, made):
    def __init__(self, *args, **options):
        made.append(options)
        begin(self, *args, **options)

    return __init__


def test_a_bar_waits_a_second_and_is_taken_away():
    assert shown(True) == {"disable": None, "leave": False, "delay": 1.0}
    assert shown(False)["disable"] is True and shown(lambda done, every: None)["disable"] is True


def test_the_rows_of_the_measurement_grow_with_the_time_that_one_takes(clock):
    system, asked = counted(seconds=0.05, clock=clock)
    run = at.Run.of(system, torch.zeros(3, 1, dtype=torch.long), restarts=40, depth=64)
    asked.clear()
    assert cost.seconds_an_evaluation(run, None) == pytest.approx(0.05)
    assert clock.now < 5 * cost.MEASURED, "forty restarts at once would take eighteen seconds"


def test_a_slow_map_is_measured_by_one_row_and_a_shorter_diagnosis_is_named(monkeypatch, clock):
    system, asked = counted(seconds=0.02, clock=clock)
    monkeypatch.setattr(cost, "MEASURED", 0.01)
    run = at.Run.of(system, torch.zeros(3, 1, dtype=torch.long), restarts=40, depth=64)
    asked.clear()
    each = cost.seconds_an_evaluation(run, None)
    assert sum(asked) == 4 and each == pytest.approx(0.02)  # twice a row, its step and its residual
    assert "--limit" not in cost.cost_line(run, local=False, checks=False)
    monkeypatch.setattr(cost, "AFFORDABLE", 60.0)
    assert (
        cost.affordable(run, 5.0)
        == "--limit 2 --restarts 1 --depth 4 --no-local --no-checks takes about 50 s"
    )
    assert cost.affordable(run, 0.02).startswith(
        "--limit 3 --restarts 16 --depth 32 --no-local --no-checks takes about"
    )
    assert cost.affordable(run, 500.0) == ""
    told = cost.cost_line(run, local=False, checks=False)
    assert re.search(
        r"; --limit \d --restarts 16 --depth 32 --no-local --no-checks takes about \d+ s; \d", told
    )
    assert re.search(r"; \d+\.\d GB of memory are in use so far$", told)
