"""`eqrlab scale`: the printed grid is the dataset's, an archive is enough, misuse is refused; trials of policies."""

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner
from matplotlib.figure import Figure

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.analyses.commands import scale as scale_commands
from eqrlab.analyses.figures import scaling as scale_plots
from eqrlab.analyses.report.page import write_report
from eqrlab.analyses.studies import adaptive as adaptive_trial
from eqrlab.attractors.results import archive
from eqrlab.attractors.streaming.row_store import RowStore
from eqrlab.core import EqR, EqRConfig, build, save
from tests.command_line import refused
from tests.test_diagnose_commands import PUZZLES
from tests.zoo import narrow_in_sea, puzzles


def eqrlab(*arguments):
    result = CliRunner().invoke(cli, ["scale", *map(str, arguments)])
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale")
    torch.manual_seed(0)
    config = {"vocab_size": 6, "seq_len": 16, "hidden_size": 16, "num_heads": 2, "H_cycles": 1, "L_cycles": 1}
    save(EqR(EqRConfig(**config), "sudoku4"), folder / "free.safetensors")
    save(build("trm", config, "sudoku4"), folder / "stored.safetensors")
    (folder / "four.csv").write_text("puzzle,solution\n" + "".join(f"{p},{s}\n" for p, s in PUZZLES * 2))
    return folder


def ensemble(count=8, restarts=8, depth=24):
    """Mode (c): the runs that start inside the basin settle at the right answer, the others wander."""
    labels = torch.full((count, 1), 3)
    return at.sample(narrow_in_sea(0.4), puzzles(count), labels=labels, restarts=restarts, depth=depth)


def test_a_grid_is_printed_written_and_drawn_and_can_be_made_from_its_archive(files, tmp_path):
    run = eqrlab(files / "free.safetensors", "--puzzles", files / "four.csv", "--depths", "1,2,4", "--breadths", "3,1",
                 "--adaptive", "--out", tmp_path, "--quiet")  # fmt: skip
    assert run.exit_code == 0, run.output
    tree = archive.read(tmp_path / "scaling.nc")
    assert {"ensemble", "scaling", "signals", "adaptive"} == set(tree.children)
    scaling = tree["scaling"].to_dataset()
    assert scaling.depth.values.tolist() == [1, 2, 4] and scaling.breadth.values.tolist() == [1, 3]
    assert int(scaling.attrs["layers"]) == 2 and "top1_logit_delta" in scaling.selector.values
    for selector in scale_commands.SHOWN:
        for row in scale_commands.grid_rows(scaling, selector):
            assert all(text in run.output for text in row.values())
    assert (tmp_path / "scaling.svg").read_text().startswith("<?xml")
    write_report(tmp_path / "scaling.nc", tmp_path / "report.html")
    assert (
        "signals of a right answer, choosing 1 of 3 at depth 4" in run.output
        and "No signal is recommended" in run.output
    )
    assert "Which signal tells a right answer" in (tmp_path / "report.html").read_text()
    assert "Accuracy over depth and breadth" in (tmp_path / "report.html").read_text()
    again = eqrlab(
        "--from", tmp_path / "scaling.nc", "--depths", "2,64", "--breadths", "1", "--out", tmp_path / "2"
    )
    assert again.exit_code == 0, again.output
    kept = archive.read(tmp_path / "2" / "scaling.nc")["scaling"].to_dataset()
    assert kept.depth.values.tolist() == [2] and kept.sizes["breadth"] == 1
    both = [d.accuracy.sel(selector="mean", depth=2, breadth=1) for d in (scaling, kept)]
    assert float(both[0]) == float(both[1])


def test_a_stored_start_is_listed_beside_random_ones(files, tmp_path):
    run = eqrlab(files / "stored.safetensors", "--puzzles", files / "four.csv", "--depths", "2", "--breadths", "2",
                 "--out", tmp_path, "--quiet")  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "from random states outside its training law" in run.output and "own start" in run.output
    tree = archive.read(tmp_path / "scaling.nc")
    assert tree["own_start"].sizes["restart"] == 1
    assert tree["ensemble"].attrs["initial_law"] == "random_initial"


def test_one_puzzle_one_restart_and_a_map_of_ones_own_are_told_in_plain_words(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom eqrlab.core import MapSystem\n"
        "mine = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn(len(x), 2, generator=g),\n"
        "                 lambda z, x: (z > 0).long() + 1)\n"
    )
    (tmp_path / "one.jsonl").write_text('{"inputs": [1, 2], "labels": [2, 2]}\n')
    run = eqrlab(f"{tmp_path / 'mine.py'}:mine", "--puzzles", tmp_path / "one.jsonl", "--depths", "1", "--breadths",
                 "1", "--out", tmp_path / "out", "--quiet")  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "up to 1 restart of 1 step\n" in run.output and "a single puzzle gives no interval" in run.output
    for wrong in ("equivalent layer", "undefined of", "1 puzzles", "95%"):
        assert wrong not in run.output, run.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("x", "--depths", "0"), 2),
        (("x", "--breadths", "a"), 2),
        (("eqr-sudoku6", "--from", "x.nc"), 2),
        (("--from", "x.nc", "--limit", "3"), 2),
        (("--from", "x.nc", "--noise", "0.5"), 2),
        (("--from", "x.nc", "--set", "H_cycles=3"), 2),
    ],
)
def test_wrong_usage_exits_with_2(arguments, code, tmp_path):
    assert eqrlab(*arguments, "--out", tmp_path / "out").exit_code == code
    assert not (tmp_path / "out").exists()


def test_a_trial_of_too_few_puzzles_is_refused_before_any_run(files, tmp_path, monkeypatch):
    monkeypatch.setattr(scale_commands, "drawn", lambda *a: pytest.fail("something was run"))
    few = "--puzzles", files / "four.csv", "--limit", 3, "--adaptive", "--out", tmp_path / "out"
    assert "at least 4 puzzles, got 3" in str(eqrlab(files / "free.safetensors", *few).exception)
    assert not (tmp_path / "out").exists()


def test_an_archive_without_an_ensemble_is_named(tmp_path):
    archive.write(tmp_path / "bare.nc", {"other": ensemble(2, 2, 3)[["residual"]]})
    with pytest.raises(ValueError, match="no group named ensemble"):
        scale_commands.stored(tmp_path / "bare.nc")


def test_the_front_holds_ever_more_accurate_points_of_ever_higher_cost():
    scaling = at.scaling(ensemble(), [1, 8, 24], [1, 2, 8])
    rows = scale_commands.front_rows(scaling)
    steps = [int(row["steps"].replace(",", "")) for row in rows]
    shares = [float(row["accuracy"].split(" ")[0]) for row in rows]
    assert steps == sorted(set(steps)) and shares == sorted(set(shares))
    best = max(float(scaling.accuracy.sel(selector=s).max()) for s in ("majority", "top1_converged"))
    assert shares[-1] == pytest.approx(100 * best, abs=0.05)


def hopeless_or_quick(count=24, restarts=8, steps=8):
    """A run in three is right, at rest and sure of it from step 3 on; the others change their answer for ever."""
    rng = np.random.default_rng(0)
    right = np.broadcast_to(rng.random((count, restarts, 1)) < 0.35, (count, restarts, steps)).copy()
    right[:, :, :2] = False
    moving = np.where(right, 1e-3, 0.5)
    each = ("puzzle", "restart", "step")
    values = {
        "correct": right, "residual": moving, "relative_residual": moving, "update": moving,
        "halt_logit": np.where(right, 5.0, -5.0), "answer_id": np.where(right, 0, rng.integers(1, 9, right.shape)),
    }  # fmt: skip
    data = {name: (each, array) for name, array in values.items()} | {
        "scale": (each[:2], np.ones(right.shape[:2]))
    }
    return xr.Dataset(data, {"puzzle": np.arange(count), "step": np.arange(1, steps + 1)})


def test_a_trial_finds_that_trying_again_is_cheaper_than_going_deeper():
    found = adaptive_trial.trial(hopeless_or_quick(), accuracy=0.9)
    family = found.to_dataframe()
    assert family.accuracy["one restart, fixed depth"] < 0.6
    assert family.accuracy["+ racing"] > 0.8 and family.exceeds["+ racing"] == 1
    assert family.accuracy["fixed depth and breadth"] > 0.8
    assert family.mean_nfe["+ racing"] < 0.8 * family.mean_nfe["fixed depth and breadth"]
    lines = "\n".join(adaptive_trial.trial_lines(found))
    assert "+ racing" in lines and "halt above" in lines
    large = found.assign({f"mean_nfe{end}": found.mean_nfe * 0 + 1024 for end in ("", "_low", "_high")})
    assert adaptive_trial.trial_rows(large)[0]["steps a puzzle"] == "1,024 [1,024, 1,024]"
    with pytest.raises(ValueError, match="at least 4 puzzles"):
        adaptive_trial.trial(hopeless_or_quick(3))


@pytest.mark.parametrize("family", adaptive_trial.FAMILIES)
@pytest.mark.parametrize(("restarts", "depth"), [(1, 1), (3, 5), (16, 32)])
def test_candidates_fit_the_ensemble(family, restarts, depth):
    for policy in adaptive_trial.candidates(family, restarts, depth):
        assert policy.restarts <= restarts and policy.depth <= depth
        assert policy.lanes <= restarts and adaptive_trial.at_text(policy)


def test_pictures_show_the_numbers_of_the_grid():
    scaling = at.scaling(ensemble(), [1, 24], [1, 8])
    shown = [t.get_text() for t in scale_plots.plot_heat(scaling, ax=Figure().subplots()).texts]
    values = scaling.accuracy.sel(selector="top1_converged").values.ravel()
    assert shown == [f"{100 * v:.1f}" if v > 0.895 else f"{100 * v:.0f}" for v in values]
    curve = scale_plots.plot_scaling(scaling, "breadth", ax=Figure().subplots()).lines[0]
    np.testing.assert_array_equal(
        curve.get_ydata(), scaling.accuracy.sel(selector="top1_converged", depth=24).values
    )
    assert len(scale_plots.scaling_figure(scaling, "a").axes) == 4


def test_a_run_that_was_stopped_is_continued(files, tmp_path, monkeypatch):
    """The second time only what was missing is run; the values are those of a run in one go."""
    asked = [
        files / "stored.safetensors",
        "--puzzles",
        files / "four.csv",
        "--commit",
        0.2,
        "--batch-size",
        3,
        "--quiet",
    ]
    asked += ["--depths", "2,6", "--breadths", "1,3"]
    assert eqrlab(*asked, "--out", tmp_path / "whole").exit_code == 0
    rows, put, out = [], RowStore.put, tmp_path / "out"

    def stopping(self, piece, records):
        self.every = 0.0  # written at once
        put(self, piece, records)
        rows.extend(piece)
        if len(rows) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(RowStore, "put", stopping)
    run = eqrlab(*asked, "--out", out)
    assert run.exit_code == 130 and not (out / "scaling.nc").exists()
    kept = f"what was sampled is kept in {out / 'scaling.nc.parts'}"
    assert run.output.splitlines()[-1] == f"eqrlab: stopped; {kept}; the same command with --resume continues"
    assert eqrlab(*asked, "--out", out, "--resume").exit_code == 0
    assert sorted(rows) == list(range(18)), "6 puzzles, 3 restarts, each run once"
    assert sorted(file.name for file in out.iterdir()) == ["scaling.nc", "scaling.svg"]
    whole, again = (archive.read(folder / "scaling.nc") for folder in (tmp_path / "whole", out))
    assert (
        set(whole.children)
        == set(again.children)
        == {"ensemble", "own_start", "commit", "scaling", "signals"}
    )
    for group in whole.children:
        for name, variable in whole[group].data_vars.items():
            np.testing.assert_array_equal(again[group][name].values, variable.values)
    run = eqrlab(*asked, "--out", out, "--resume", "--breadths", "1,2")
    refused(run, "scaling.nc", "restarts 3 there, 2 here")
    assert eqrlab(*asked, "--out", out, "--resume").exit_code == 0 and len(rows) == 18, "nothing is run again"


def test_a_baseline_keeps_its_name_when_a_run_is_continued(files, tmp_path):
    asked = [
        files / "free.safetensors",
        "--against",
        files / "stored.safetensors",
        "--puzzles",
        files / "four.csv",
    ]
    asked += ["--depths", "2", "--breadths", "2", "--adaptive", "--quiet", "--out", tmp_path]
    for more in ([], ["--resume"]):
        run = eqrlab(*asked, *more)
        assert run.exit_code == 0 and "Baseline: one run of stored" in " ".join(run.output.split()), (
            run.output
        )
    names = [archive.read(tmp_path / "scaling.nc")[group].attrs["name"] for group in ("ensemble", "baseline")]
    assert names == ["free", "stored"]
