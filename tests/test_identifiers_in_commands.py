"""Every verb that runs a model of many puzzles gives it the identifier of each puzzle, in all parts of its work."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from eqrlab.analyses.cli import cli
from eqrlab.core import Reasoner, save
from eqrlab.datasets import PuzzleSet, write_npy_folder
from tests.family_models import many_puzzles

ROWS = 4
NAMES = ("<blank>", "one", "two", "three")
SIZES = ("--limit", 2, "--restarts", 3, "--depth", 12)
VERBS = {
    "diagnose": (*SIZES, "--out", "OUT"),
    "compare": (*SIZES, "--out", "OUT"),
    "basins": ("--limit", 2, "--depth", 12, "--half-width", 0.4, "--out", "OUT"),
    "scale": ("--limit", 2, "--depths", "2,4", "--breadths", "1,2", "--out", "OUT"),
    "export": (*SIZES, "--out", "OUT/e.nc"),
    "evaluate": ("--limit", 2, "--depth", 4),
    "fates": ("--limit", 2, "--restarts", 3, "--depths", "8,16", "--out", "OUT"),
    "continuation": ("--over", "noise=0,0.1", *SIZES, "--out", "OUT"),
    "dynamics": (*SIZES, "--steps", 20, "--out", "OUT"),
    "fixed-points": (*SIZES, "--max-steps", 20, "--out", "OUT"),
    "spectrum": (*SIZES, "--out", "OUT"),
    "lyapunov": (*SIZES, "--steps", 20, "--out", "OUT"),
    "plane": tuple("--resolution 8 --depth 12 --field ftle --field-steps 2 --stability --out OUT".split()),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a model of four puzzle embeddings, and a folder of three puzzles of two by two cells."""
    folder = tmp_path_factory.mktemp("many")
    save(many_puzzles("generic-2x2-v5", ROWS, 5, 4, 8), folder / "model.safetensors")
    rng = np.random.default_rng(0)
    inputs, labels = rng.integers(1, 5, (3, 4)), rng.integers(1, 5, (3, 4))
    labels[:, 3] = 0  # a cell that does not count
    puzzles = PuzzleSet(
        inputs, labels, "generic-2x2-v5", identifiers=np.arange(1, ROWS), identifier_names=NAMES
    )
    write_npy_folder(folder / "data", puzzles)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_no_part_of_a_command_leaves_identifiers_out(verb, files, tmp_path, monkeypatch):
    encode, seen = Reasoner.encode, set()

    def strict(self, inputs, identifiers=None):
        assert identifiers is not None, "no identifiers were handed on"
        seen.update(identifiers.tolist())
        return encode(self, inputs, identifiers)

    monkeypatch.setattr(Reasoner, "encode", strict)
    options = [str(option).replace("OUT", str(tmp_path)) for option in VERBS[verb]]
    model = str(files / "model.safetensors")
    twice = [model] if verb == "compare" else []
    quiet = [] if verb == "evaluate" else ["--quiet"]
    found = CliRunner().invoke(cli, [verb, model, *twice, "--puzzles", str(files / "data"), *options, *quiet])
    assert found.exit_code == 0, (found.exception, found.output)
    assert ({1} if verb == "plane" else {1, 2}) <= seen  # a plane is of one puzzle
