"""`eqrlab spectrum`, `fixed-points`, `lyapunov`: a table and an archive for a small model."""

import random

import pytest
import xarray as xr
from click.testing import CliRunner

from eqrlab.analyses.commands.dynamics import (
    _radius,
    fixed_points_command,
    lyapunov_command,
    spectrum_command,
)
from eqrlab.analyses.commands.endings import dynamics_command
from eqrlab.attractors.results import archive
from tests.core_models import tiny_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("model") / "tiny.safetensors", hidden_size=8)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's forward mode
@pytest.mark.parametrize(
    ("command", "options", "group", "variable"),
    [
        (spectrum_command, ["-k", "2", "--tol", "1e-3", "--which", "real"], "spectrum", "spectral_radius"),
        (fixed_points_command, ["--method", "newton", "--max-steps", "50"], "fixed_points", "result"),
        (lyapunov_command, ["-k", "1", "--steps", "20"], "lyapunov", "lyapunov_exponent"),
    ],
    ids=["spectrum", "fixed-points", "lyapunov"],
)
def test_local_dynamics_print_a_row_a_run_and_keep_an_archive(
    command, options, group, variable, checkpoint, tmp_path
):
    puzzles = tmp_path / "four.txt"
    puzzles.write_text("1234341223414.23\n12343412.3414123\n")
    few = "--restarts 2 --depth 6 --dtype float64 --seed 3".split()
    common = [str(checkpoint), "--puzzles", str(puzzles), *few]
    run = CliRunner().invoke(command, [*common, "--quiet", "--out", str(tmp_path / "out"), *options])
    assert run.exit_code == 0, run.output
    rows = run.output.splitlines()
    assert rows[0].split()[:4] == ["puzzle", "run", "answer", "fate"]
    assert [row.split()[:2] for row in rows[1:5]] == [["0", "0"], ["0", "1"], ["1", "0"], ["1", "1"]]
    tree = archive.read(next((tmp_path / "out").glob("*.nc")))
    assert set(tree.children) == {"ensemble", group}
    assert tree[group][variable].sizes["point"] == 2
    assert tree[group].attrs["family"] == "eqr" and tree[group].attrs["seed"] == 3


SHEAR = """import torch
from eqrlab.core import MapSystem
Q = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
A = Q @ torch.tensor([[0.9, 1e2], [0.0, 0.7]]) @ Q.T
start, answer = lambda x, g: torch.randn((len(x), 2), generator=g), lambda z, x: torch.ones_like(x).long()
system = MapSystem(lambda z, x: z @ A.T.to(z) + 1.0, start, answer)
"""


@pytest.mark.parametrize(("dtype", "certified"), [("float32", False), ("float64", True)])
def test_fixed_points_say_that_double_precision_decides_more(dtype, certified, tmp_path):
    """Single precision does not certify the eigenvalues of this shear; its file is called like a module of Python."""
    (tmp_path / "random.py").write_text(SHEAR)
    (tmp_path / "four.txt").write_text("1234341223414.23\n")
    common = ["--puzzles", str(tmp_path / "four.txt"), "--restarts", "1", "--out", str(tmp_path), "--quiet"]
    run = CliRunner().invoke(
        fixed_points_command, [f"{tmp_path / 'random.py'}:system", "--dtype", dtype, *common]
    )
    assert run.exit_code == 0, run.output
    told = "undecided: 1 of 1, as float32 rounds too coarsely to certify more; --dtype float64 decides more"
    assert (told in run.output) != certified
    assert run.output.splitlines()[1].split()[7] == ("stable" if certified else "undecided")
    assert "own" not in repr(random) and random.random() < 1


@pytest.mark.parametrize("command", [spectrum_command, lyapunov_command], ids=["spectrum", "lyapunov"])
def test_of_runs_that_are_not_finite_nothing_is_known(command, tmp_path):
    file, puzzles = tmp_path / "lost.py", tmp_path / "four.txt"
    file.write_text(SHEAR.replace("z @ A.T.to(z) + 1.0", "torch.where(z[:, :1] > 0, z * 1e30, z / 2)"))
    puzzles.write_text("1234341223414.23\n")
    given = ["--puzzles", str(puzzles), "--restarts", "8", "-k", "1", "--quiet", "--out", str(tmp_path)]
    run = CliRunner().invoke(command, [f"{file}:system", *given])
    assert run.exit_code == 0, (run.output, run.exception)
    lost = [row.split() for row in run.output.splitlines() if "nonfinite" in row]
    assert 0 < len(lost) < 8 and all(row[-3:] == ["nan", "not", "known"] for row in lost), run.output


@pytest.mark.parametrize("error", [0.0, 3e-7, 1.4e-5, 0.0123])
def test_the_number_after_a_radius_bounds_the_error_of_what_is_printed(error):
    value = 0.91234567891
    found = {"": value, "_low": value - error, "_high": value + error}
    text = _radius(
        xr.Dataset({f"spectral_radius{end}": (("p", "m"), [[v]]) for end, v in found.items()}), 0, 0
    )
    shown, bound = map(float, text.split(" +- "))
    assert abs(value - shown) + error <= bound <= 2 * error + 1e-3 * (error > 1e-3) + 1e-9


def test_dynamics_tells_what_runs_end_as_for_several_checkpoints(checkpoint, tmp_path):
    puzzles = tmp_path / "four.txt"
    puzzles.write_text("1234341223414.23\n")
    run = CliRunner().invoke(
        dynamics_command,
        [str(checkpoint), str(checkpoint), "--puzzles", str(puzzles), "--restarts", "2", "--depth", "12", "--steps",
         "20", "--dtype", "float64", "--quiet", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "where runs end" in run.output and "AUC of the drift" in run.output
    tree = archive.read(tmp_path / "out" / "dynamics.nc")
    assert set(tree.children) == {"ensemble", "endings", "exponents", "tiny-2"}
    found = tree["endings"]
    assert int(found["count"].sum()) == 2 and found.attrs["family"] == "eqr"
    assert tree["exponents"].sizes["window"] == 1
    assert (tmp_path / "out" / "dynamics.svg").read_text().count("tiny") >= 4
