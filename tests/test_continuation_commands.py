"""`eqrlab continuation`: what is printed, written and drawn of a landscape followed over training or a parameter."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.collections import LineCollection

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.analyses.commands.continuation import event_lines, value_rows
from eqrlab.analyses.figures.continuation import continuation_picture
from eqrlab.analyses.figures.style import COLOURS
from eqrlab.attractors.results import archive
from eqrlab.core import EqR, EqRConfig, MapSystem, build, save
from tests.zoo import normal_start, puzzles, selector

SMALL = {"vocab_size": 6, "seq_len": 16, "hidden_size": 8, "num_heads": 2, "H_cycles": 1, "L_cycles": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three models of a run at steps 10, 20 and 30, and two puzzles."""
    path = tmp_path_factory.mktemp("run")
    for step in (10, 20, 30):
        torch.manual_seed(step)
        save(EqR(EqRConfig(**SMALL), "sudoku4", {"steps": step}), path / f"model-{step:06d}.safetensors")
    save(build("trm", SMALL, "sudoku4"), path / "trm.safetensors")
    (path / "four.txt").write_text("1234341223414.23\n12343412.3414123\n")
    return path


def run(folder, *arguments, out=None):
    common = ["--puzzles", folder / "four.txt", "--restarts", 3, "--depth", 5, "--quiet"]
    common += ["--out", out] if out else []
    return CliRunner().invoke(cli, ["continuation", *map(str, [*arguments, *common])])


def test_a_run_is_followed_over_its_training_steps(folder, tmp_path):
    printed = run(folder, folder, "--match", "answer", out=tmp_path)
    assert printed.exit_code == 0, printed.output
    assert "3 values of the training step, 2 puzzles of four.txt, 3 restarts, depth 5" in printed.output
    rows = [line.split()[0] for line in printed.output.splitlines() if line[:2] in ("10", "20", "30")]
    assert rows == ["10", "20", "30"]
    assert "that no restart reached may have a mass of up to about 63 %" in printed.output, "0.37 ** 3 is 5 %"
    found = archive.read(tmp_path / "continuation.nc")["continuation"]
    assert found["value"].values.tolist() == [10, 20, 30] and found.attrs["match"] == "answer"
    assert (tmp_path / "continuation.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("model", "over", "title"),
    [
        ("model-000010", "noise=0,0.1", "noise beta"),
        ("model-000010", "damping=0.05,0.5", "damping lambda"),
        ("model-000010", "sigma=0.5,1", "size of the starts sigma_0"),
        ("trm", "sigma=0.5,1", "size of the starts sigma_0, 2 puzzles"),
        ("newest of the folder", "noise=0,0.1", "noise beta"),
    ],
)
def test_parameters_of_one_model_are_followed(model, over, title, folder, tmp_path):
    file = folder / f"{model}.safetensors"
    printed = run(folder, file if file.exists() else folder, "--over", over, out=tmp_path)
    assert printed.exit_code == 0, printed.output
    assert f"2 values of the {title}" in printed.output
    assert ("outside the training law" in printed.output) == (model == "trm")
    found = archive.read(tmp_path / "continuation.nc")["continuation"]
    assert found.attrs["match"] == "state" and found.attrs["restarts"] == 3


def test_a_larger_damping_and_larger_starts_do_what_they_say(folder):
    """The values reach the model: the archive's runs differ, and the restart law is scaled."""
    from eqrlab.analyses.commands.continuation import family_of_systems

    path = str(folder / "model-000010.safetensors")
    _, damped, _ = family_of_systems([path], ("damping", (0.1, 0.9)))
    assert [m.config.damping for m in damped.values()] == [0.1, 0.9]
    _, sized, laws = family_of_systems([path], ("sigma", (0.5, 2.0)))
    x = sized[0.5].encode(torch.ones(1, 16, dtype=torch.long))
    small, large = (sized[v].initial(x, torch.Generator().manual_seed(0)) for v in (0.5, 2.0))
    assert laws is None and torch.allclose(4 * small, large)
    _, sized, laws = family_of_systems([str(folder / "trm.safetensors")], ("sigma", (0.5, 2.0)))
    small, large = (laws[v](x, torch.Generator().manual_seed(0)) for v in (0.5, 2.0))
    assert torch.allclose(4 * small, large)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model-000010.safetensors"], 1, "two or more checkpoints of one task and shape are required"),
        (
            ["model-000010.safetensors", "trm.safetensors", "--over", "noise=0,1"],
            1,
            "--over takes one checkpoint",
        ),
        (["trm.safetensors", "--over", "damping=0,0.5"], 1, "family trm has no damping"),
        (["model-000010.safetensors", "--over", "colour=0,1"], 2, "'colour' cannot be followed"),
        (["model-000010.safetensors", "--over", "noise=1,0"], 2, "two or more increasing values"),
        (["model-000010.safetensors", "--over", "noise=0,nan"], 2, "two or more increasing values"),
        (["model-000010.safetensors", "--over", "noise=0,inf"], 2, "all of them finite"),
        (["model-000010.safetensors", "--over", "noise=a,b"], 2, "is not a list of values"),
        ([], 2, "Missing argument"),
    ],
)
def test_misuse_ends_in_one_line(arguments, code, message, folder, tmp_path):
    arguments = [folder / a if a.endswith(".safetensors") else a for a in arguments]
    printed = run(folder, *arguments, out=tmp_path / "out")
    text = printed.output + str(printed.exception or "")
    assert printed.exit_code == code and message in text, text
    assert not (tmp_path / "out").exists()


def test_a_folder_without_models_is_named(folder, tmp_path):
    printed = run(folder, tmp_path)
    assert "no checkpoint in it has a step in its name" in str(printed.exception)
    assert "train with --keep-every N" in str(printed.exception)


def test_births_and_deaths_are_said_with_what_becomes_of_the_states():
    """G3 whose upper side is torn at the last value: the right attractor dies and its states go to the wrong one."""
    from eqrlab.core import MapSystem
    from tests.zoo import normal_start

    def fold(tilt):
        return MapSystem(
            lambda z, x: torch.tanh(1.5 * z - tilt), normal_start(1), lambda z, x: (z > 0).long() + 1
        )

    labels = torch.full((1, 1), 2)
    found = at.continuation(
        {t: fold(t) for t in (0.0, 0.1, 0.6)}, puzzles(), labels=labels, restarts=40, depth=60
    )
    text = "\n".join(event_lines(found))
    assert (
        "puzzle 0: right attractor" in text
        and "dies between 0.1 and 0.6" in text
        and "its states go to" in text
    )
    assert "mode of the checkpoint: 0: b, 0.1: b, 0.6: a" in text
    rows = value_rows(found)
    assert [r["died"] for r in rows] == ["", "0", "1"] and rows[2]["puzzles by mode"] == "a 1"
    figure = continuation_picture(found)
    assert len(figure.axes) == 2 and len(figure.axes[1].lines) >= 2


def test_an_attractor_at_one_value_alone_is_drawn_with_its_interval():
    systems = {b: MapSystem(lambda z, x, b=b: torch.tanh(b * z), normal_start(1)) for b in (0.5, 2.0)}
    found = at.continuation(systems, puzzles(), restarts=40, depth=60)
    axes = continuation_picture(found).axes[0]
    bars = [s[:, 1] for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    one = found.isel(puzzle=0)
    intervals = np.stack([one.mass_low, one.mass_high], -1)[
        one.alive.values
    ]  # each at one of the two values only
    assert len(intervals) == 3
    np.testing.assert_allclose(sorted(map(tuple, bars)), sorted(map(tuple, intervals)))


def test_a_landscape_of_unknown_correctness_is_drawn_too():
    found = at.continuation({b: selector([[b]]) for b in (0.0, 0.5)}, puzzles(), restarts=8, depth=30)
    assert "mode" not in found and "right runs" not in value_rows(found)[0]
    assert len(continuation_picture(found).axes) == 2
    assert np.isfinite(found.mass.values[0]).all()


def test_events_of_unknown_correctness_say_neither_right_nor_wrong_and_steps_are_whole():
    gains = {999_999: 0.8, 1_000_001: 1.5}  # a pitchfork between them
    systems = {s: MapSystem(lambda z, x, b=b: torch.tanh(b * z), normal_start(1)) for s, b in gains.items()}
    found = at.continuation(systems, puzzles(), restarts=16, depth=128)
    text = "\n".join(event_lines(found))
    assert "puzzle 0: attractor 2 born between 999999 and 1000001" in text and "wrong" not in text
    row = value_rows(found)[1]
    assert row["parameter"] == "1000001" and row["none"].startswith("0 %")
    assert row["right attractors"] == row["wrong attractors"] == "not known"


def test_a_branch_whose_answer_becomes_right_changes_its_colour():
    """One fixed point moves through zero, where the sign that is its answer turns to the right one."""
    systems = {
        c: MapSystem(lambda z, x, c=c: c + (z - c) / 2, normal_start(2), lambda z, x: (z[:, :1] > 0).long())
        for c in (-0.2, -0.1, 0.1, 0.2)
    }
    found = at.continuation(systems, puzzles(), labels=torch.ones(1, 1).long(), restarts=8, depth=40)
    assert found.correct.values[:, 0, 0].tolist() == [False, False, True, True]
    lines = [line for line in continuation_picture(found).axes[1].lines if line.get_marker() == "None"]
    drawn = {tuple(line.get_xdata()): line.get_color() for line in lines}
    assert drawn == {(0, 1): COLOURS["wrong"], (1, 2): COLOURS["right"], (2, 3): COLOURS["right"]}
