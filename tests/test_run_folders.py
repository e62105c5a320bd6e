"""Run folders and parts are input like any other: one line for what is none, and nothing waits for a pipe."""

import hashlib
import json
import os
import shutil
import socket
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file

from eqrlab import attractors as at
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.attractors.streaming.batch_store import Parts, read_plan
from eqrlab.attractors.streaming.export import status
from eqrlab.core import load
from eqrlab.core.checkpoints.tensors import read_tensors, write_tensors
from eqrlab.datasets import bundled, write_csv
from tests.command_line import inside, refused

SMALL = ["--limit", 2, "--restarts", 6, "--depth", 5, "--batch-size", 4, "--quiet"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """An export that was stopped half-way."""
    folder = tmp_path_factory.mktemp("begun")
    reached = []

    def stop(done, total):
        reached.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    whole = inside("export", "eqr-sudoku6", "--out", folder / "whole.nc", *SMALL)
    assert whole.exit_code == 0, whole.output
    from eqrlab.analyses.commands import export as verb

    inner, verb.export = verb.export, lambda *a, **k: inner(*a, **{**k, "progress": stop})
    try:
        run = inside("export", "eqr-sudoku6", "--out", folder / "a.nc", *SMALL)
    finally:
        verb.export = inner
    assert run.exit_code == 130 and "go on with eqrlab export --out" in run.output, run.output
    return folder


@pytest.fixture
def stopped(begun, tmp_path):
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return tmp_path / "a.nc"


def parts(path):
    return path.with_name(f"{path.name}.parts")


def content(path):
    return {n: v.values.tobytes() for n, v in archive.read(path)["ensemble"].to_dataset().variables.items()}


def test_an_export_that_was_stopped_ends_as_the_whole_one(stopped):
    assert 0 < status(stopped).done < status(stopped).total
    assert inside("export", "--out", stopped, "--resume", "--quiet").exit_code == 0
    assert content(stopped) == content(stopped.with_name("whole.nc")) and not parts(stopped).exists()


def test_the_very_command_that_was_stopped_goes_on_with_resume(stopped):
    """Its checkpoint and its puzzles are named again, as a file."""
    some = stopped.with_name("some.csv")
    write_csv(some, bundled("sudoku6").take(slice(2)))
    run = inside("export", "eqr-sudoku6", "--out", stopped, *SMALL, "--puzzles", some, "--resume")
    assert run.exit_code == 0, (run.output, run.exception)
    assert content(stopped) == content(stopped.with_name("whole.nc")) and not parts(stopped).exists()


def put(folder, data):
    """Put a part into a folder whose name has the right checksum."""
    name = f"part-0-of-1-00000000-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    (folder / name).write_bytes(data)


def part(change=lambda records: records, **header):
    rows, depth = 4, 5
    grid, column = (rows, depth), (rows,)
    records = {name: torch.zeros(grid) for name in ("residual", "update", "norm", "token_accuracy")}
    records |= {"code": torch.zeros(grid, dtype=torch.uint64), "correct": torch.zeros(grid, dtype=torch.bool)}
    records |= {
        "answer": torch.zeros(rows, 36, dtype=torch.int64),
        "run_period": torch.zeros(column, dtype=torch.int32),
    }
    records |= {name: torch.zeros(column, dtype=torch.bool) for name in ("run_finite", "run_drifting")}
    records |= {name: torch.zeros(column) for name in ("run_cycle", "run_last", "run_mean", "run_spread")}
    about = {"batches": [[0, 4]], "least": None, **header}
    return save_bytes(change(records), {"eqrlab": json.dumps(about)})


def without(name):
    return lambda records: {k: v for k, v in records.items() if k != name}


JUNK = {
    "junk": b"nothing of the kind",
    "empty": b"",
    "header too large": (1 << 60).to_bytes(8, "little") + b"{}",
    "no header": save_bytes({"residual": torch.zeros(4, 5)}),
    "header no object": save_bytes({"residual": torch.zeros(4, 5)}, {"eqrlab": "[]"}),
    "header nested": save_bytes({"residual": torch.zeros(4, 5)}, {"eqrlab": "[" * 100_000}),
    "no records": save_bytes({}, {"eqrlab": json.dumps({"batches": [[0, 4]], "least": None})}),
    "no batches": part(batches=[]),
    "batches no list": part(batches=7),
    "batch beyond the end": part(batches=[[99, 4]]),
    "batch below the beginning": part(batches=[[-1, 4]]),
    "batch of other size": part(batches=[[0, 3]]),
    "number of batch a text": part(batches=[["0", 4]]),
    "least negative": part(least=-4),
    "a record missing": part(without("run_last")),
    "other steps": part(lambda r: {**r, "residual": torch.zeros(4, 6)}),
    "other type": part(lambda r: {**r, "residual": torch.zeros(4, 5, dtype=torch.int32)}),
    "other rows": part(lambda r: {**r, "run_mean": torch.zeros(3)}),
    "a further record": part(lambda r: {**r, "more": torch.zeros(4)}),
}


@pytest.mark.parametrize("kind", JUNK)
def test_a_part_that_is_none_is_refused_whatever_its_name_says(kind, stopped):
    put(parts(stopped), JUNK[kind])
    before = {p.name: p.read_bytes() for p in parts(stopped).glob("part-*")}
    refused(inside("export", "--out", stopped, "--resume", "--quiet"), "part-0-of-1-00000000")
    refused(inside("verify", stopped), "part-0-of-1-00000000")
    assert {p.name: p.read_bytes() for p in parts(stopped).glob("part-*")} == before


def make_odd(kind, name):
    """Have something in the working folder that is no file: opened, a pipe would wait for ever."""
    if kind == "fifo":
        os.mkfifo(name)
    elif kind == "folder":
        os.mkdir(name)
    else:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(name)


@pytest.mark.parametrize("name", ["part-x.safetensors", "plan.safetensors", "all.lock"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_pipes_sockets_and_folders_are_not_opened(kind, name, stopped, monkeypatch):
    file = parts(stopped) / name
    file.unlink(missing_ok=True)
    monkeypatch.chdir(parts(stopped))
    make_odd(kind, name)
    began = time.monotonic()
    refused(inside("export", "--out", stopped, "--resume", "--quiet"), name)
    if name != "all.lock":
        refused(inside("verify", stopped), name)
    assert time.monotonic() - began < 20 and file.exists()


def changed(**values):
    return lambda plan, tensors: ({**plan, **values}, tensors)


PLANS = {
    "no keys": lambda plan, tensors: ({}, tensors),
    "no plan": lambda plan, tensors: (None, tensors),
    "depth -1": changed(depth=-1),
    "depth a text": changed(depth="5"),
    "depth true": changed(depth=True),
    "restarts 0": changed(restarts=0),
    "puzzles a list": changed(puzzles=[2]),
    "more puzzles than there are": changed(puzzles=3),
    "batch size 0": changed(batch_size=0),
    "noise not finite": changed(noise=float("nan")),
    "keep a number": changed(keep=5),
    "tolerances unknown": changed(tolerances={"nonsense": 1}),
    "tolerances texts": changed(tolerances={"floor": "1"}),
    "attributes a list": changed(attributes=[]),
    "no inputs": lambda plan, tensors: (plan, without("inputs")(tensors)),
    "no labels": lambda plan, tensors: (plan, without("labels")(tensors)),
    "inputs floating": lambda plan, tensors: (plan, {**tensors, "inputs": tensors["inputs"].float()}),
    "inputs of another puzzle": lambda plan, tensors: (plan, {**tensors, "inputs": tensors["inputs"][:, :9]}),
    "tokens that no model has": lambda plan, tensors: (plan, {**tensors, "inputs": tensors["inputs"] + 1000}),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_that_is_none_is_refused_naming_the_key(kind, stopped):
    file = parts(stopped) / "plan.safetensors"
    tensors, header = read_tensors(file)
    plan, tensors = PLANS[kind](header["plan"], tensors)
    write_tensors(file, tensors, {"format": header["format"]} | ({} if plan is None else {"plan": plan}))
    run = inside("export", "--out", stopped, "--resume", "--quiet")
    text = refused(run)
    assert "continues only format" not in text, "refused for its version"
    assert "plan.safetensors" in text or "was begun with" in text or "puzzles of" in text, text


def test_puzzles_that_the_model_cannot_read_are_refused(stopped):
    """Also where the plan agrees with them."""
    file = parts(stopped) / "plan.safetensors"
    tensors, header = read_tensors(file)
    tensors["inputs"] = tensors["inputs"] + 1000
    digest = hashlib.sha256(tensors["inputs"].numpy().tobytes()).hexdigest()[:16]
    write_tensors(file, tensors, {"format": header["format"], "plan": {**header["plan"], "inputs": digest}})
    refused(inside("export", "--out", stopped, "--resume", "--quiet"), "the model reads 36 cells")
    whole = stopped.with_name("whole.nc")
    refused(
        inside("export", "eqr-sudoku9", "--like", whole, "--out", stopped.with_name("b.nc"), "--quiet"),
        "81 cells",
    )


def test_a_plan_without_a_header_is_refused(stopped):
    save_file({"inputs": torch.zeros(2, 36)}, parts(stopped) / "plan.safetensors")
    refused(inside("export", "--out", stopped, "--resume", "--quiet"), "plan.safetensors")
    refused(inside("verify", stopped), "plan.safetensors")


RUNS = {
    "checkpoint": (["eqr-attention-sudoku6"], "checkpoint_sha256"),
    "seed": (["eqr-sudoku6", "--seed", 9], "seed 0, got 9"),
    "restarts": (["eqr-sudoku6", "--restarts", 7], "restarts 6, got 7"),
    "depth": (["eqr-sudoku6", "--depth", 6], "depth 5, got 6"),
    "limit": (["eqr-sudoku6", "--limit", 1], "inputs"),
    "noise": (["eqr-sudoku6", "--noise", 0.5], "noise"),
    "keep": (["eqr-sudoku6", "--keep", "path"], "keep"),
    "dtype": (["eqr-sudoku6", "--dtype", "float64"], "dtype own, got float64"),
    "starts": (["eqr-sudoku6", "--starts", "random"], "starts"),
    "batch size": (["eqr-sudoku6", "--batch-size", 3], "batch_size 4, got 3"),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_finished_archive_is_this_run_or_it_is_refused(kind, stopped):
    whole, (change, reason) = stopped.with_name("whole.nc"), RUNS[kind]
    parts(whole).mkdir()
    (parts(whole) / "mine.txt").write_text("keep")
    before = whole.read_bytes()
    refused(
        inside("export", *[change[0], *SMALL, *change[1:]], "--out", whole, "--resume"), reason, "whole.nc"
    )
    done = inside("export", "eqr-sudoku6", "--out", whole, *SMALL, "--resume")
    assert done.exit_code == 0, done.output
    assert whole.read_bytes() == before and os.listdir(parts(whole)) == ["mine.txt"]


def test_an_archive_that_is_no_export_is_not_resumed(tmp_path):
    system = load("eqr-sudoku6")
    ensemble = at.sample(system, torch.ones(1, 36, dtype=torch.long), restarts=2, depth=3)
    archive.write(tmp_path / "a.nc", {"ensemble": ensemble})
    before = (tmp_path / "a.nc").read_bytes()
    refused(
        inside("export", "eqr-sudoku6", *SMALL, "--out", tmp_path / "a.nc", "--resume"),
        "which export made it",
    )
    assert (tmp_path / "a.nc").read_bytes() == before


def test_parts_of_another_run_beside_a_whole_archive_stay(stopped):
    shutil.move(stopped.with_name("whole.nc"), stopped)
    tensors, header = read_tensors(parts(stopped) / "plan.safetensors")
    write_tensors(
        parts(stopped) / "plan.safetensors", tensors, {**header, "plan": {**header["plan"], "seed": 5}}
    )
    before = sorted(os.listdir(parts(stopped)))
    run = inside("export", "eqr-sudoku6", *SMALL, "--seed", 0, "--out", stopped, "--resume")
    assert run.exit_code == 0 and sorted(os.listdir(parts(stopped))) == before


def test_files_of_others_in_the_folder_of_parts_survive_the_end_of_an_export(stopped):
    for name in ("mine.txt", "part-notes.safetensors", ".hidden.tmp"):
        (parts(stopped) / name).write_text("keep")
    assert inside("export", "--out", stopped, "--resume", "--quiet").exit_code == 0
    assert sorted(os.listdir(parts(stopped))) == [".hidden.tmp", "mine.txt", "part-notes.safetensors"]
    assert content(stopped) == content(stopped.with_name("whole.nc"))


def test_a_store_reads_what_it_wrote(stopped):
    store = Parts(parts(stopped))
    store.refresh(repair=False)
    plan, tokens = read_plan(parts(stopped))
    assert store.place and plan["depth"] == 5 and tokens["inputs"].shape == (2, 36)
    assert np.isfinite(store.read(min(store.place), 4)["residual"]).all()
    assert validate(stopped).groups == 1


TINY = "--hidden 16 --heads 2 --layers 1 --batch-size 4 --halt-max-steps 2 --depth 2 --threads 1 --quiet --steps 3"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    lines = "puzzle,solution\n" + "1234341223414.23,1234341223414123\n12343412.3414123,1234341223414123\n" * 2
    (folder / "four.csv").write_text(lines)
    run = inside("train", "sudoku4", "--out", folder / "run", "--puzzles", folder / "four.csv", "--test-puzzles",
                 folder / "four.csv", *TINY.split())  # fmt: skip
    assert run.exit_code == 0, run.output
    return folder / "run"


@pytest.fixture
def run_folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


OPTIONS = {
    "steps": ["x", 1.5, True, -3, 0, 10**30, [], {}, None and 0],
    "lr": [[1], "0.1", float("nan"), -1.0],
    "puzzles": [5, ["a"], {}],
    "depth": [-1, 0, "2"],
    "seed": ["s", 1e9, 10**40],
    "anchors": [[1], [1, 2, 3], "ab", 7],
    "family": [{"a": 1}, "nonsense", 3],
    "hidden": [-4, 0, "16"],
    "no_symmetries": ["yes", 1],
    "evaluate_every": [0, None],
    "keep_every": [-1, "a"],
    "dtype": ["float8", 16],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, vs in OPTIONS.items() for v in vs if v is not None]
)
def test_options_of_no_run_are_refused_naming_file_and_key(name, value, run_folder):
    file = run_folder / "options.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    model = (run_folder / "model.safetensors").read_bytes()
    run = inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet")
    text = refused(run, "options.json")
    assert name in text or {"hidden": "hidden_size"}.get(name, name) in text, text
    assert (run_folder / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "[]", "7", "null", '{"task": "sudoku9"}', "{", "", "\xff", '{"a":' * 50_000, " " * 2**21],
)
def test_options_that_are_no_json_object_are_refused(text, run_folder):
    (run_folder / "options.json").write_bytes(text.encode("latin-1"))
    refused(inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet"), "options.json")


@pytest.mark.parametrize(
    "line",
    [
        '{"step": "x"}',
        '{"step": -1}',
        '{"step": 1.5}',
        '{"loss": 1}',
        '{"step": 1, "loss": []}',
        "[1]",
        "x}",
        '{"step": true}',
        "[" * 100_000 + "}",
    ],
)
def test_a_line_of_the_log_that_is_none_is_refused_naming_it(line, run_folder):
    log = run_folder / "log.jsonl"
    log.write_text(log.read_text() + line + "\n")
    number = log.read_text().count("\n")
    refused(inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet"), f"log.jsonl:{number}")


def test_a_last_line_of_the_log_that_was_cut_off_is_left_out(run_folder):
    log = run_folder / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 4, "lo')
    assert inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet").exit_code == 0
    assert log.read_text() == whole


@pytest.mark.parametrize(
    "name", ["options.json", "log.jsonl", "slots.jsonl", "state.safetensors", "model.safetensors"]
)
@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_pipes_sockets_and_folders_of_a_run_are_not_opened(kind, name, run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    os.unlink(name)
    make_odd(kind, name)
    refused(inside("train", "sudoku4", "--out", ".", "--resume", "--quiet"), name)


def test_a_finished_run_without_its_state_is_not_begun_anew(run_folder):
    (run_folder / "state.safetensors").unlink()
    before = {p.name: p.read_bytes() for p in run_folder.iterdir()}
    text = refused(
        inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet"), "choose another --out"
    )
    assert "state.safetensors" in text and "has model.safetensors" in text
    assert {p.name: p.read_bytes() for p in run_folder.iterdir()} == before
    (run_folder / "options.json").unlink()
    refused(inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet"), "has model.safetensors")


def test_a_run_that_was_killed_before_its_first_save_begins(run_folder):
    for name in ("state.safetensors", "model.safetensors"):
        (run_folder / name).unlink()
    run = inside("train", "sudoku4", "--out", run_folder, "--resume", "--quiet")
    assert run.exit_code == 0 and "starting from the beginning" in run.output
