"""The study of fates: what is printed is what was planted, and the command writes what it prints."""

from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.analyses.figures import fates as fate_plots
from eqrlab.analyses.figures.style import figure_of
from eqrlab.analyses.studies import fates
from eqrlab.attractors.results import archive
from eqrlab.core import MapSystem
from tests.zoo import contraction, normal_start, puzzles, selector

UP = np.array([[2]] * 4)


@pytest.fixture(scope="module")
def decoy():
    system = selector([[0.0], [0.4], [-0.6], [-2.5]])
    return fates.fates_study(system, puzzles(4).numpy(), labels=UP, restarts=12, depths=(16, 64), pushed=8)


def test_rows_name_every_cell_and_carry_intervals(decoy):
    rows = fates.outcome_rows(decoy["outcomes"])
    assert [r["D"] for r in rows] == ["16", "64"]
    assert set(rows[0]) == {
        "D",
        "settled, right",
        "settled, wrong",
        "not settled, right",
        "not settled, wrong",
    }
    assert all("[" in text for name, text in rows[1].items() if name != "D")
    wrong = ~decoy["prolonged"].correct.values[..., -1]
    assert rows[1]["settled, wrong"].startswith(f"{100 * wrong.mean():.0f} %")


def test_settled_wrong_runs_of_a_decoy_come_back(decoy):
    tested = decoy["return_test"].result.values != 3
    wrong = decoy["return_test"].correct.values == 0
    assert (tested & wrong).sum() == 8 and (tested & wrong).any(1).sum() >= 3  # spread over puzzles
    text = fates.return_sentence(decoy["return_test"])
    assert "100 % [" in text and "8 runs settled on a wrong answer come back" in text and "0 leave" in text


def test_late_solves_are_said_in_a_sentence():
    groups = fates.fates_study(contraction(0.9), puzzles(4).numpy(), labels=UP, restarts=8, depths=(16, 128))
    assert "100 % [47, 100] are right at step 128" in fates.late_sentence(groups["outcomes"])
    assert fates.depth_rows(groups["outcomes"])[0]["unfinished among wrong"].startswith("100 %")
    easy = fates.fates_study(contraction(0.1), puzzles(4).numpy(), labels=UP, restarts=4, depths=(16, 32))
    assert fates.late_sentence(easy["outcomes"]) == "No run is wrong at step 16."
    assert "no run settled on a wrong answer" in fates.return_sentence(easy["return_test"])


def test_an_idle_map_fails_the_no_op_test_in_words():
    idle = MapSystem(lambda z, x: z.clone(), normal_start(2), lambda z, x: (z[:, :1] > 0).long() + 1)
    groups = fates.fates_study(idle, puzzles(4).numpy(), labels=UP, restarts=8, depths=(8, 16))
    text = fates.noop_sentence(groups["noop"])
    assert (
        "does not move the state on 4 of 4 puzzles" in text and "start survives in the end on 4 of 4" in text
    )


def test_depths_that_are_no_doublings_are_refused():
    for depths in ((16, 48), (16,), (32, 16)):
        with pytest.raises(ValueError, match="depths must be at least two, increasing"):
            fates.fates_study(contraction(0.5), puzzles(4).numpy(), labels=UP, depths=depths)


def test_chosen_runs_are_spread_over_puzzles():
    mask = np.array([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]], bool)
    chosen = fates.spread_over_puzzles(mask, 4)
    assert chosen.sum(1).tolist() == [2, 1, 0, 1] and not (chosen & ~mask).any()
    assert (fates.spread_over_puzzles(mask, 100) == mask).all()


def test_bars_of_outcomes_fill_the_axis(decoy):
    figure = figure_of(partial(fate_plots.plot_outcomes, decoy["outcomes"]))
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(sum(widths), decoy["outcomes"].sizes["depth"])


def test_the_command_prints_tables_and_writes_the_archive(tmp_path):
    arguments = [
        "fates",
        "eqr-sudoku6",
        "--limit",
        "2",
        "--restarts",
        "2",
        "--depths",
        "8,16",
        "--pushed",
        "1",
        "--quiet",
    ]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "settled, right" in done.output and "No-op test" in done.output
    tree = archive.read(tmp_path / "fates.nc")
    assert {"ensemble", "prolonged", "outcomes", "noop"} <= set(tree.children)
    assert tree["outcomes"]["count"].values.sum() == 2 * 4
    for kind in ("html", "md"):
        again = CliRunner().invoke(cli, ["report", str(tmp_path / "fates.nc"), "--format", kind])
        assert again.exit_code == 0, again.output


@pytest.mark.parametrize("depths", ["16", "16,40"])
def test_depths_that_are_no_doublings_are_refused_before_the_model_is_loaded(depths, tmp_path):
    run = CliRunner().invoke(cli, ["fates", "no-such-model", "--depths", depths, "--out", str(tmp_path)])
    assert "at least two, increasing, each the first times a power of 2" in str(run.exception)


def test_wrong_usage_ends_with_code_2():
    for depths in ("a", "0,1"):
        assert CliRunner().invoke(cli, ["fates", "eqr-sudoku6", "--depths", depths]).exit_code == 2
