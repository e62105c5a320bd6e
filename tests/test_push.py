"""A model and its card on the hub, against a folder that stands in for it."""

from __future__ import annotations

import shutil
import sys
import types

import pytest
import yaml
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.cli import cli
from eqrlab.attractors.results import archive
from eqrlab.core import CheckpointError, load
from eqrlab.core.checkpoints import hub as hub_module
from tests.core_models import assert_same_outputs


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands in for the hub, and what was asked of it."""
    asked, place = [], tmp_path / "hub"

    class HfApi:
        def create_repo(self, repo_id, *, repo_type, private, exist_ok):
            if repo_id.startswith("others/"):
                raise OSError("403 Client Error.\nForbidden")
            asked.append((repo_id, repo_type, private, exist_ok))
            (place / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, path_in_repo, allow_patterns):
            for name in allow_patterns:
                target = place / repo_id / (path_in_repo or "") / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(f"{folder_path}/{name}", target)

    module = types.ModuleType("huggingface_hub")
    module.HfApi = HfApi
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return place, asked


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosis")
    more = ["--limit", "3", "--restarts", "6", "--depth", "16", "--no-local", "--no-checks", "--quiet"]
    done = CliRunner().invoke(cli, ["diagnose", "eqr-sudoku6", *more, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return folder / "diagnosis.nc", done.output


def push(*arguments):
    return CliRunner().invoke(cli, ["push", *map(str, arguments)])


def test_what_is_uploaded_loads_as_the_same_model_and_the_card_has_the_verdict(hub, diagnosis):
    place, asked = hub
    file, printed = diagnosis
    done = push("eqr-sudoku6", "hf://me/mine/sudoku/", "--diagnosis", file, "--private")
    assert done.exit_code == 0, done.output
    assert asked == [("me/mine", "model", True, True)]
    folder = place / "me/mine/sudoku"
    assert_same_outputs(load("eqr-sudoku6"), load(folder / "model.safetensors"))
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header == {"library_name": "eqrlab", "tags": ["eqrlab", "recursive-reasoning", "eqr", "sudoku6"]}
    assert 'load("hf://me/mine/sudoku/model.safetensors")' in card
    verdict = printed.split("\n")[1]
    assert verdict[:60] in card and "3 puzzles of sudoku6-test.csv.gz, 6 restarts, depth 16" in card
    assert "eqrlab diagnose eqr-sudoku6 --limit 3 --restarts 6 --depth 16 --no-local --no-checks" in card
    assert card.count("\n| 0 |") == 1 and "## Configuration" in card and "| `H_cycles` | 2 |" in card


def test_without_an_address_the_card_is_only_written(hub, tmp_path):
    place, asked = hub
    done = push("eqr-sudoku6", "--out", tmp_path / "card")
    assert done.exit_code == 0 and not asked and not place.exists()
    assert "Not diagnosed" in (tmp_path / "card/README.md").read_text()
    assert_same_outputs(load("eqr-sudoku6"), load(tmp_path / "card"))
    assert push("eqr-sudoku6").exit_code == 2


def test_a_diagnosis_of_another_checkpoint_is_refused(hub, diagnosis):
    done = push("eqr-attention-sudoku6", "hf://me/mine", "--diagnosis", diagnosis[0])
    assert "has no diagnosis of the checkpoint of SHA-256" in str(done.exception)
    assert not hub[1]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("hf://me", "an address hf://owner/repository, or a folder in it, is required"),
        ("me/mine", "an address hf://owner/repository, or a folder in it, is required"),
        ("hf://me/mine//other", "an address hf://owner/repository, or a folder in it, is required"),
        ("hf://me/mine/../other", "an address hf://owner/repository, or a folder in it, is required"),
        ("hf://others/theirs", "the hub does not take it (403 Client Error."),
    ],
)
def test_what_the_hub_does_not_take_is_said(hub, address, reason):
    done = push("eqr-sudoku6", address)
    assert isinstance(done.exception, CheckpointError) and reason in str(done.exception)


def test_a_diagnosis_needs_its_runs_alone(diagnosis, tmp_path):
    groups, file = at.read(diagnosis[0]), tmp_path / "few.nc"
    for names, code in ((("ensemble", "modes"), 0), (("modes",), 1)):
        archive.write(file, {name: groups[name] for name in names})
        done = push("eqr-sudoku6", "--out", tmp_path / "card", "--diagnosis", file)
        assert done.exit_code == code, (done.output, done.exception)
        assert code == 0 or "no group named ensemble" in str(done.exception)
    assert "Puzzle by puzzle" in (tmp_path / "card" / "README.md").read_text()


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'eqrlab\[hub\]'"):
        hub_module.push(tmp_path, "hf://me/mine", ())
