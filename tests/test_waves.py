"""Restarts in waves: which are drawn, that they are the same runs, and what unequal numbers may not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.commands.scale import scale_command
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.report.page import write_report
from eqrlab.analyses.text.tables import fate_bar, outcome_table
from eqrlab.attractors.landscape.waves import wave_ends
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.results.validate import validate
from eqrlab.attractors.statistics.ranks import PooledAuc
from eqrlab.core import MapSystem

PUZZLES = torch.tensor([[0], [1], [2]])
LABELS = torch.full((3, 1), 2)
SHARE = (1.0, 0.5, 0.8)  # of starts that end right; the last is at the threshold of "broad"


def system(noise=0.0):
    """Two attractors; the share of starts in the basin of the right one depends on the puzzle."""

    def start(x, generator):
        u = torch.rand((len(x), 1), generator=generator, dtype=torch.float64)
        right = u < torch.tensor(SHARE, dtype=torch.float64)[x.long().reshape(-1)][:, None]
        return torch.where(right, 0.5 + u, -0.5 - u)

    return MapSystem(lambda z, x, *n: torch.tanh(3 * z), start, lambda z, x: (z > 0).long() + 1)


def run(restarts=40, **options):
    return at.Run.of(system(), PUZZLES, labels=LABELS, restarts=restarts, depth=48, **options)


@pytest.fixture(scope="module")
def waves():
    return at.sample_until_decided(run())


def test_waves_double_up_to_the_most():
    assert wave_ends(8, 40) == [8, 16, 32, 40] and wave_ends(8, 8) == [8] and wave_ends(8, 3) == [3]


def test_a_puzzle_is_drawn_from_until_its_mode_is_decided(waves):
    number = drawn_of(waves).sum(1)
    assert number[0] == 8 and number[2] > 8
    assert waves.attrs["waves"] == " ".join(
        map(str, wave_ends(8, 40)[: list(wave_ends(8, 40)).index(max(number)) + 1])
    )
    full = at.sample_until_decided(run()).drawn.values
    for p, n in enumerate(number):
        assert full[p, :n].all() and not full[p, n:].any()
        if n < 40:
            few = at.sample(system(), PUZZLES[p : p + 1], labels=LABELS[:1], restarts=int(n), depth=48)
            assert at.modes(few)["mode"].values[0] != 4
            if n > 8:
                fewer = few.isel(restart=slice(0, n // 2)).assign_attrs(restarts=n // 2)
                assert at.modes(fewer)["mode"].values[0] == 4


def test_restarts_in_waves_are_those_of_one_draw(waves):
    every = at.sample(system(), PUZZLES, labels=LABELS, restarts=waves.sizes["restart"], depth=48)
    mask = drawn_of(waves)
    for name in ("residual", "answer", "correct", "fate", "sketch", "settling_step"):
        assert np.array_equal(waves[name].values[mask], every[name].values[mask], equal_nan=True)
    assert (waves.fate.values[~mask] == -1).all() and np.isnan(waves.residual.values[~mask]).all()
    assert not waves.correct.values[~mask].any() and (waves.answer_id.values[~mask] == -1).all()


def test_masses_count_the_restarts_there_are_with_intervals_that_bear_stopping(waves):
    found, number = at.basins(waves), drawn_of(waves).sum(1)
    assert np.array_equal(found.restarts_used, number)
    assert found.attrs["interval_method"] == "sequence"
    assert ((found.attractor_id.values == -2) == ~drawn_of(waves)).all()
    total = found.mass.fillna(0).sum("attractor") + found.mass_none
    assert np.allclose(total, 1)
    fixed = at.basins(at.sample(system(), PUZZLES[:1], labels=LABELS[:1], restarts=8, depth=48))
    assert fixed.attrs["interval_method"] == "mid-p"
    assert float(found.correct_mass_low[0]) < float(fixed.correct_mass_low[0])


def test_undrawn_restarts_are_no_failures(waves):
    found, number = at.modes(waves), drawn_of(waves).sum(1)
    counts = sum(found[f"count_{n}"].values for n in ("correct", "spurious", "unsettled", "unfinished"))
    assert np.array_equal(counts, number)
    assert found.count_correct.values[0] == 8 and found.restarts_needed.values[0] == 8


def test_a_summary_counts_the_restarts_there_are(waves):
    table, number = at.summary(waves), drawn_of(waves).sum(1)
    settled, right = (table[table.quantity == name].set_index("puzzle") for name in ("settled", "right"))
    assert (settled.value == 1).all(), "every run drawn settles"
    assert right.value[0] == 1 and right.value[2] == waves.correct.values[2, :, -1].sum() / number[2]
    masses = at.basins(waves)
    assert np.allclose(right.low[[0, 1, 2]].astype(float), masses.correct_mass_low)
    assert right.value["all"] == at.common_restarts(waves).correct.values[:, :, -1].mean()


def test_what_pools_over_puzzles_takes_equally_many_of_each(waves):
    common = at.common_restarts(waves)
    assert common.sizes["restart"] == drawn_of(waves).sum(1).min() == common.attrs["restarts"]
    assert "drawn" not in common and common.fate.values.min() >= 0
    for analysis in (at.alignment, at.scaling, at.outcomes):
        assert analysis(waves).drop_attrs().equals(analysis(common).drop_attrs())
    with pytest.raises(ValueError, match="prolong needs equally many restarts of every puzzle"):
        at.prolong(system(), PUZZLES, waves.assign(final_state=waves.sketch), depth=96)


def test_a_grid_made_from_waves_has_the_restarts_of_every_puzzle(waves, tmp_path):
    archive.write(tmp_path / "a.nc", {"ensemble": waves})
    wanted = ["--from", str(tmp_path / "a.nc"), "--depths", "1,48", "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(scale_command, wanted)
    assert run.exit_code == 0 and "choosing 1 of 8 at depth 48" in run.output, run.output
    grid = archive.read(tmp_path / "out" / "scaling.nc")["scaling"]
    assert grid["breadth"].values.tolist() == [1, 2, 4, 8]


def test_runs_that_are_not_known_enter_no_rank():
    rng = np.random.default_rng(0)
    score, event = rng.random((3, 6)), rng.random((3, 6)) < 0.5
    known = np.arange(6) < np.array([[6], [3], [4]])
    auc = PooledAuc(score, event, known).within()
    alone = [
        PooledAuc(score[p : p + 1, :n], event[p : p + 1, :n]).within()[0] for p, n in enumerate((6, 3, 4))
    ]
    assert np.allclose(auc, alone, equal_nan=True)


def test_without_correctness_there_is_nothing_to_decide():
    with pytest.raises(ValueError, match="deciding a mode needs to know what is correct"):
        at.sample_until_decided(at.Run.of(system(), PUZZLES, restarts=4, depth=8))
    with pytest.raises(ValueError, match="first must be an integer >= 1, got 0"):
        at.sample_until_decided(run(), first=0)


def test_progress_counts_up_to_all_restarts():
    seen = []
    at.sample_until_decided(run(), progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (3 * 40 * 48, 3 * 40 * 48)


def test_given_starts_and_noise_go_in_waves_too():
    starts = torch.linspace(-1, 1, 3 * 12, dtype=torch.float64).reshape(3, 12, 1)
    found = at.sample_until_decided(run(restarts=12, initial=starts))
    assert found.sizes["restart"] <= 12 and found.attrs["initial_law"] == "given starts"


def test_diagnosis_and_report_of_waves(tmp_path, waves):
    options = {"labels": LABELS, "restarts": 40, "depth": 48}
    groups = diagnose(system(), PUZZLES.numpy(), checks=True, local=True, **options)
    assert "drawn" in groups["ensemble"] and groups["outcomes"].attrs["followed"] == 2
    path = tmp_path / "a.nc"
    archive.write(path, groups)
    validate(path)
    write_report(path, tmp_path / "a.html")
    assert "8 to" in (tmp_path / "a.html").read_text()
    with xr.open_datatree(path) as tree:
        again = at.modes(tree["ensemble"].to_dataset().load())
    assert np.array_equal(again["mode"], groups["modes"]["mode"])
    fixed = diagnose(system(), PUZZLES.numpy(), fixed=True, **options)
    assert fixed["ensemble"].sizes["restart"] == 40 and "drawn" not in fixed["ensemble"]
    assert "waves" not in fixed["ensemble"].attrs and fixed["basins"].attrs["interval_method"] == "mid-p"


def test_tables_of_a_report_leave_out_what_was_not_drawn(waves):
    assert sum(row["count"] for row in fate_bar(waves.fate.values)) == drawn_of(waves).sum()
    cells = [cell["count"] for row in outcome_table(waves, at.basins(waves)) for cell in row["cells"]]
    assert sum(cells) == 3 * 8


def test_runs_from_foreign_starts_need_equally_many_restarts(waves):
    with pytest.raises(ValueError, match="asymptotic alignment needs equally many restarts"):
        at.asymptotic_alignment(system(), PUZZLES, waves.assign(final_state=waves.sketch))
