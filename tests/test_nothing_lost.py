"""What was computed is never lost: broken output, signals, names, outputs that are inputs, --resume."""

import csv
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from eqrlab.analyses.commands import diagnose as verbs
from eqrlab.analyses.commands.common.checkpoints import named
from eqrlab.analyses.commands.common.stopping import raise_on_signals
from eqrlab.analyses.commands.common.unfinished import Kept
from eqrlab.analyses.diagnose import archive_groups
from eqrlab.analyses.text.names import group_names, safe, typed
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.archive_rules import read_schema
from eqrlab.attractors.results.validate import validate
from eqrlab.core.interrupts import interrupts_held
from tests.command_line import inside
from tests.core_models import tiny_file

PUZZLES = "puzzle,solution\n1234341223414.23,1234341223414123\n12343412.3414123,1234341223414123\n"


def eqrlab(*arguments, **options):
    command = [sys.executable, "-m", "eqrlab.analyses", *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 120, **options})


def model(path, seed=0):
    path.parent.mkdir(exist_ok=True, parents=True)
    tiny_file(path.parent / "made.safetensors", seed=seed)
    os.rename(path.parent / "made.safetensors", path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "four.csv").write_text(PUZZLES)
    for i, name in enumerate(("one", "two")):
        model(folder / f"{name}.safetensors", i)
    return folder


def options(data, out, *more):
    return ["--puzzles", data / "four.csv", "--restarts", 3, "--depth", 5, "--no-local", "--no-checks", "--quiet",
            "--out", out, *more]  # fmt: skip


def variables(path):
    """Return every variable of an archive as bytes, and the attributes without those that tell the time."""
    found = {}
    for node in archive.read(path).subtree:
        for name, values in node.to_dataset().variables.items():
            raw = (
                [str(v) for v in values.values.ravel()]
                if values.dtype.kind in "OU"
                else values.values.tobytes()
            )
            found[node.path, str(name)] = (values.dims, raw)
        found[node.path] = {k: str(v) for k, v in node.attrs.items() if k not in ("created", "history")}
    return found


@pytest.mark.parametrize("verb", ["diagnose", "compare"])
def test_a_reader_that_goes_away_costs_the_text_only(verb, data, tmp_path):
    line = [sys.executable, "-m", "eqrlab.analyses", verb, data / "one.safetensors", data / "two.safetensors"]
    process = subprocess.Popen([str(a) for a in (*line, *options(data, tmp_path))], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 1 and said == b""
    name = "diagnosis.nc" if verb == "diagnose" else "compare.nc"
    assert sorted(os.listdir(tmp_path)) == sorted([name, "report.html"])
    assert "two" in archive.read(tmp_path / name).children
    process.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("verb", "more", "file"),
    [
        ("diagnose", [], "diagnosis.nc"),
        ("basins", ["--max-restarts", 8], "basins.nc"),
        ("fates", ["--depths", "2,4"], "fates.nc"),
        ("dynamics", ["--depth", 4, "--steps", 20], "dynamics.svg"),
        ("scale", ["--depths", "1,2", "--breadths", "1,2"], "scaling.nc"),
        ("plane", ["--depth", 4, "--resolution", 8], "plane-one-0.png"),
        ("continuation", ["--over", "noise=0,0.1", "--depth", 4], "continuation.png"),
    ],
)
def test_a_full_standard_output_costs_the_text_only(verb, more, file, data, tmp_path):
    given = [
        verb,
        data / "one.safetensors",
        "--puzzles",
        data / "four.csv",
        "--quiet",
        "--out",
        tmp_path,
        *more,
    ]
    if verb not in ("plane", "basins"):
        given += ["--limit", 1]
    if verb in ("diagnose", "continuation", "fates", "dynamics"):
        given += ["--restarts", 2]
    with open("/dev/full", "w") as full:
        run = eqrlab(*given, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert run.returncode == 1 and run.stderr == "eqrlab: standard output: No space left on device\n", (
        run.stderr
    )
    assert (tmp_path / file).stat().st_size


def test_standard_error_that_breaks_does_not_end_a_run(data, tmp_path):
    with open("/dev/full", "w") as full:
        run = eqrlab("diagnose", data / "one.safetensors", *[a for a in options(data, tmp_path) if a != "--quiet"],
                     capture_output=False, stdout=subprocess.PIPE, stderr=full)  # fmt: skip
    assert run.returncode == 0 and (tmp_path / "report.html").exists()


def test_closed_streams_and_a_narrow_encoding_do_not_end_a_run(data, tmp_path):
    odd = model(tmp_path / "m" / "mod\u00e8le \u4e2d.safetensors")
    run = eqrlab(
        "diagnose", odd, *options(data, tmp_path / "a"), env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert run.returncode == 0 and ": 2 puzzles of four.csv" in run.stdout, run.stderr
    quoted = " ".join(f"'{a}'" for a in (sys.executable, "-m", "eqrlab.analyses", "diagnose", odd,
                                         *options(data, tmp_path / "b")))  # fmt: skip
    assert subprocess.run(f"{quoted} >&- 2>&-", shell=True).returncode == 0
    assert validate(tmp_path / "b" / "diagnosis.nc").checksums


NAMES = [
    "model ", "~x", "#x", "-x", "..", "a\nb", "\u202eevil\x1b[31m", "ensemble", "modes", "compare", "quantity",
    "spectrum", "x" * 240, "a$b^{$", "caf\u00e9", " ", "v1.2", "%s{0}",
]  # fmt: skip


def test_any_name_has_a_group_of_its_own():
    groups = group_names([typed(name) for name in NAMES], read_schema().groups)
    assert len(set(groups.values())) == len(NAMES) and not set(groups.values()) & set(read_schema().groups)


def test_any_name_of_a_file_keeps_its_results_and_is_shown(data, tmp_path):
    names = ["model ", "-x", "..", "a\nb\u202eevil\x1b[31m", "ensemble", "x" * 240, "a$b^{$%s{0} caf\u00e9"]
    odd = [model(tmp_path / "m" / f"{name}.safetensors") for name in names]
    run = inside("compare", data / "one.safetensors", *odd, *options(data, tmp_path / "out"))
    assert run.exit_code == 0, run.output
    assert all(c.isprintable() or c == "\n" for c in run.output)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"checkpoint-{len(names) + 1}" in page and f"checkpoint-{len(names) + 2}" not in page
    assert validate(tmp_path / "out" / "compare.nc").groups == 5 * (len(names) + 1) + 1
    tree = archive.read(tmp_path / "out" / "compare.nc")
    groups = {c["ensemble"].attrs["name"]: str(n) for n, c in tree.children.items() if c.children}
    assert list(tree["compare"].checkpoint.values) == ["one", *map(typed, names)]
    for name in names:
        assert f"\n{typed(name)}: 2 puzzles" in run.output
        assert groups[typed(name)] not in read_schema().groups


def test_names_that_agree_are_all_kept_apart(data, tmp_path):
    folders = [tmp_path / f"{i}" for i in range(4)]
    files = [model(f / n, i) for i, (f, n) in enumerate(zip(folders, ("a.safetensors", "a-3.safetensors",
                                                                      "a.safetensors", "a.pt.safetensors"),
                                                            strict=True))]  # fmt: skip
    names = list(named([str(f) for f in files]))
    assert len(set(names)) == 4 and names[:2] == ["a", "a-3"]
    assert list(named(["eqr-sudoku6"] * 3)) == ["eqr-sudoku6", "eqr-sudoku6-2", "eqr-sudoku6-3"]
    groups = group_names(["x ", "x", "ensemble", "x\n"], {"ensemble"})
    assert len(set(groups.values())) == 4 and "ensemble" not in groups.values()
    assert safe("n" * 300 + "1") == safe("n" * 300 + "2"), "so they must be told apart:"
    assert len(set(group_names(["n" * 300 + "1", "n" * 300 + "2"], ()).values())) == 2


def test_a_name_of_dots_gives_each_plane_a_file_of_its_own(data, tmp_path):
    odd = model(tmp_path / "m" / "v1.2.safetensors")
    for puzzle in (0, 1):
        run = inside("plane", odd, "--puzzles", data / "four.csv", "--puzzle", puzzle, "--depth", 3, "--resolution", 8,
                     "--quiet", "--out", tmp_path / "p")  # fmt: skip
        assert run.exit_code == 0, run.output
    assert sorted(os.listdir(tmp_path / "p")) == [
        f"plane-v1.2-{p}.{e}" for p in (0, 1) for e in ("nc", "png")
    ]


@pytest.fixture(scope="module")
def diagnosed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("diagnosed")
    assert inside("diagnose", data / "one.safetensors", *options(data, out)).exit_code == 0
    return out / "diagnosis.nc"


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link", "another way"])
def test_an_output_that_is_an_input_is_refused(how, data, diagnosed, tmp_path):
    mine = tmp_path / "mine.nc"
    shutil.copy(diagnosed, mine)
    target = tmp_path / "other.nc"
    if how == "symlink":
        target.symlink_to(mine)
    elif how == "hard link":
        os.link(mine, target)
    else:
        (tmp_path / "sub").mkdir()
        target = mine if how == "itself" else tmp_path / "sub" / ".." / "mine.nc"
    before = mine.read_bytes()
    run = inside("report", mine, "--out", target)
    assert isinstance(run.exception, ValueError) and "is an input of this command" in str(run.exception)
    run = inside("export", data / "one.safetensors", "--like", mine, "--out", target, "--quiet")
    assert isinstance(run.exception, ValueError) and "is an input of this command" in str(run.exception)
    assert mine.read_bytes() == before


@pytest.mark.parametrize("verb", ["diagnose", "compare", "basins", "fates", "spectrum", "lyapunov", "fixed-points",
                                  "dynamics", "scale", "continuation", "evaluate"])  # fmt: skip
def test_a_checkpoint_or_a_puzzle_file_named_as_an_output_survives(verb, data, tmp_path):
    outputs = {"diagnose": "diagnosis.nc", "scale": "scaling.nc", "fixed-points": "fixed-points.nc"}
    file = tmp_path / outputs.get(verb, f"{verb}.nc")
    file.write_text(PUZZLES)
    if verb == "evaluate":  # writes nothing
        return
    checkpoints = [data / "one.safetensors"] * (2 if verb in ("compare", "continuation") else 1)
    run = inside(verb, *checkpoints, "--puzzles", file, "--quiet", "--out", tmp_path)
    assert isinstance(run.exception, ValueError) and "is an input of this command" in str(run.exception), (
        run.output
    )
    assert file.read_text() == PUZZLES


def test_puzzles_are_not_written_over_what_they_are_made_from(tmp_path):
    (tmp_path / "four.csv").write_text(PUZZLES)
    run = inside("data", "convert", tmp_path / "four.csv", "--out", tmp_path / "four.csv")
    assert "is an input of this command" in str(run.exception)
    assert inside("data", "convert", tmp_path / "four.csv", "--out", tmp_path / "npy").exit_code == 0
    run = inside("data", "convert", tmp_path / "npy", "--out", tmp_path / "npy")
    assert "is an input of this command" in str(run.exception)
    run = inside("data", "build", "sudoku4", "--count", 1, "--exclude", tmp_path / "four.csv", "--out",
                 tmp_path / "four.csv")  # fmt: skip
    assert (
        "is an input of this command" in str(run.exception) and (tmp_path / "four.csv").read_text() == PUZZLES
    )
    run = inside("train", "sudoku4", "--puzzles", tmp_path / "log.jsonl", "--out", tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in csv.DictReader(PUZZLES.splitlines()))
    (tmp_path / "log.jsonl").write_text(lines)
    run = inside("train", "sudoku4", "--puzzles", tmp_path / "log.jsonl", "--out", tmp_path, "--steps", 1)
    assert "is an input of this command" in str(run.exception), run.output
    assert (tmp_path / "log.jsonl").read_text() == lines


def test_an_output_that_cannot_be_a_file_is_found_before_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(verbs, "diagnose_run", lambda *a, **k: pytest.fail("it ran"))
    one = data / "one.safetensors"

    def refused(out, *reason):
        run = inside("diagnose", one, *options(data, out))
        assert isinstance(run.exception, (ValueError, OSError)), run.output
        assert all(r in str(run.exception) for r in reason), run.exception

    (tmp_path / "a" / "diagnosis.nc").mkdir(parents=True)
    refused(tmp_path / "a", "diagnosis.nc: is a folder")
    (tmp_path / "b" / "report.html").mkdir(parents=True)
    refused(tmp_path / "b", "report.html: is a folder")
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c" / "diagnosis.nc")
    refused(tmp_path / "c", "diagnosis.nc: is no regular file")
    assert stat.S_ISFIFO((tmp_path / "c" / "diagnosis.nc").stat().st_mode)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "diagnosis.nc.parts").write_text("in the way")
    refused(tmp_path / "d", "diagnosis.nc.parts", "cannot write there")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "sub", "cannot write there")
    run = inside("report", tmp_path / "none.nc", "--out", tmp_path)
    assert "is a folder" in str(run.exception)
    run = inside(
        "export", one, "--puzzles", data / "four.csv", "--out", tmp_path / f"{'n' * 252}.nc", "--quiet"
    )
    assert "File name too long" in str(run.exception)


@pytest.mark.parametrize(("mask", "mode"), [(0o027, 0o640), (0o000, 0o666), (0o077, 0o600)])
def test_files_have_the_rights_that_the_umask_leaves(mask, mode, data, tmp_path):
    before = os.umask(mask)
    try:
        assert inside("diagnose", data / "one.safetensors", *options(data, tmp_path / "out")).exit_code == 0
        assert (
            inside("data", "build", "sudoku4", "--count", 1, "--out", tmp_path / "out" / "p.csv").exit_code
            == 0
        )
    finally:
        os.umask(before)
    assert {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == dict.fromkeys(
        ("diagnosis.nc", "report.html", "p.csv"), mode
    )


def stopped_in_the_second(monkeypatch, error=KeyboardInterrupt):
    """Let the diagnosis of the second checkpoint raise; return the list of what was diagnosed."""
    one, ran = verbs.diagnose_run, []

    def diagnose(*args, **kwargs):
        ran.append(1)
        if len(ran) == 2:
            raise error("injected")
        return one(*args, **kwargs)

    monkeypatch.setattr(verbs, "diagnose_run", diagnose)
    return ran


def test_what_is_said_to_cost_so_much_is_the_run_that_is_diagnosed(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(verbs, "cost_line", lambda run, **parts: seen.append(run) or "much")

    def diagnose(run, **parts):
        seen.append(run)
        raise ValueError("enough")

    monkeypatch.setattr(verbs, "diagnose_run", diagnose)
    given = [o for o in options(data, tmp_path / "out") if o != "--quiet"]
    assert "enough" in str(inside("diagnose", data / "one.safetensors", *given).exception)
    assert len(seen) == 2 and seen[0] is seen[1]


@pytest.mark.parametrize("verb", ["diagnose", "compare"])
def test_a_run_stopped_in_the_second_checkpoint_goes_on_to_the_same_archive(
    verb, data, tmp_path, monkeypatch
):
    name = "diagnosis.nc" if verb == "diagnose" else "compare.nc"
    two = [data / f"{n}.safetensors" for n in ("one", "two")]
    assert inside(verb, *two, *options(data, tmp_path / "whole")).exit_code == 0
    ran, out = stopped_in_the_second(monkeypatch), tmp_path / "out"
    run = inside(verb, *two, *options(data, out))
    assert run.exit_code == 130
    assert run.output.splitlines()[-1] == (
        f"eqrlab: stopped; 1 of 2 checkpoints are kept in {out}; the same command with --resume continues"
    )
    assert "one" in archive.read(out / name)["ensemble"].attrs["name"], "what is done can be read at once"
    assert (out / "report.html").exists() and len(list((out / f"{name}.parts").iterdir())) == 1
    run = inside(verb, *two, *options(data, out), "--resume")
    assert run.exit_code == 0, run.output
    assert len(ran) == 3, "the first is not run again"
    assert variables(out / name) == variables(tmp_path / "whole" / name)
    assert sorted(os.listdir(out)) == sorted([name, "report.html"])
    again = inside(verb, *two, *options(data, out), "--resume")
    assert again.exit_code == 0 and len(ran) == 3, "a whole run is taken as it is"
    assert variables(out / name) == variables(tmp_path / "whole" / name)


def test_a_stopped_run_that_replaces_the_archive_of_another_one_goes_on(data, tmp_path, monkeypatch):
    two = [data / f"{n}.safetensors" for n in ("one", "two")]
    assert inside("diagnose", *two, *options(data, tmp_path, "--seed", 9)).exit_code == 0
    ran = stopped_in_the_second(monkeypatch)
    run = inside("diagnose", *two, *options(data, tmp_path))
    assert run.output.endswith("the same command with --resume continues\n")
    run = inside("diagnose", *two, *options(data, tmp_path), "--resume")
    assert run.exit_code == 0 and len(ran) == 3, run.output
    assert archive.read(tmp_path / "diagnosis.nc")["ensemble"].attrs["seed"] == 0
    assert sorted(os.listdir(tmp_path)) == ["diagnosis.nc", "report.html"]


def test_an_error_in_the_second_checkpoint_keeps_the_first_and_says_so(data, tmp_path, monkeypatch):
    stopped_in_the_second(monkeypatch, OSError)
    run = inside("diagnose", data / "one.safetensors", data / "two.safetensors", *options(data, tmp_path))
    assert run.exception.__notes__ == [
        f"1 of 2 checkpoints are kept in {tmp_path}; the same command with --resume continues"
    ]
    assert validate(tmp_path / "diagnosis.nc").groups == 5


@pytest.fixture(scope="module")
def halted(data, tmp_path_factory):
    """Runs of one and two: stopped in the second, and whole."""
    folder = tmp_path_factory.mktemp("halted")
    two = [data / "one.safetensors", data / "two.safetensors"]
    assert inside("diagnose", *two, *options(data, folder / "whole")).exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        stopped_in_the_second(patch)
        assert inside("diagnose", *two, *options(data, folder / "stopped")).exit_code == 130
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--depth", 6], "depth 5 there, 6 here"),
        (["--seed", 9], "seed 0 there, 9 here"),
        (["--restarts", 4], "restarts 3 there, 4 here"),
        (["--limit", 1], "inputs "),
        (["--noise", 0.5], "noise None there, 0.5 here"),
        (["--dtype", "float64"], "dtype None there, float64 here"),
        (["--checks"], "checks False there, True here"),
    ],
)
def test_another_run_is_not_resumed_and_nothing_of_it_is_removed(change, reason, data, halted, tmp_path):
    two = [data / "one.safetensors", data / "two.safetensors"]
    shutil.copytree(halted / "stopped", tmp_path, dirs_exist_ok=True)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for archive_there in (True, False):
        if not archive_there:
            before.pop(tmp_path / "diagnosis.nc")
            (tmp_path / "diagnosis.nc").unlink()
        run = inside("diagnose", *two, *options(data, tmp_path, *change), "--resume")
        assert isinstance(run.exception, ValueError) and reason in str(run.exception), run.exception
        assert "\n" not in str(run.exception)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_another_run_whose_first_checkpoint_is_under_way_is_not_resumed_either(tmp_path):
    """Only runs are kept, no finished checkpoint: `scale` has nothing else, and the first checkpoint of all verbs."""
    target = tmp_path / "scaling.nc"
    mine, other = ({"one": json.dumps({"restarts": n})} for n in (32, 16))
    store = Kept(target, mine, False).rows("one")
    store.every = 0.0
    store.put(np.arange(2), {"residual": np.ones(2)})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(
        ValueError, match="belongs to another run: restarts 32 there, 16 here; choose another --out"
    ):
        Kept(target, other, True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before and len(before) == 2
    assert Kept(target, mine, True).rows("one").files()
    Kept(target, other, False).remove()
    assert store.files(), "what another run has kept is left alone"
    Kept(target, mine, True).remove()
    assert not list(tmp_path.iterdir())


def test_a_finished_diagnosis_of_another_checkpoint_is_not_replaced_by_resume(data, diagnosed, tmp_path):
    shutil.copy(diagnosed, tmp_path / "diagnosis.nc")
    run = inside("diagnose", data / "two.safetensors", *options(data, tmp_path), "--resume")
    assert "checkpoint_sha256" in str(run.exception)
    assert (tmp_path / "diagnosis.nc").read_bytes() == diagnosed.read_bytes()


def test_what_others_keep_in_the_folder_of_parts_stays(data, halted, tmp_path):
    two, folder = [data / "one.safetensors", data / "two.safetensors"], tmp_path / "diagnosis.nc.parts"
    shutil.copytree(halted / "stopped", tmp_path, dirs_exist_ok=True)
    (folder / "mine.txt").write_text("keep")
    (others,) = [p for p in folder.iterdir() if p.suffix == ".nc"]
    kept = others.read_bytes()
    assert inside("diagnose", *two, *options(data, tmp_path, "--depth", 6)).exit_code == 0
    assert others.read_bytes() == kept and (folder / "mine.txt").read_text() == "keep"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "junk", "cut", "bits"])
def test_parts_that_are_none_end_in_one_line_or_are_run_again(kind, data, halted, tmp_path, monkeypatch):
    two = [data / "one.safetensors", data / "two.safetensors"]
    shutil.copytree(halted / "stopped", tmp_path, dirs_exist_ok=True)
    (tmp_path / "diagnosis.nc").unlink()
    (part,) = (tmp_path / "diagnosis.nc.parts").iterdir()
    whole = part.read_bytes()
    part.unlink()
    if kind == "fifo":
        os.mkfifo(part)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            monkeypatch.chdir(part.parent)
            opened.bind(part.name)
    elif kind == "folder":
        part.mkdir()
    else:
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 4
        part.write_bytes({"junk": b"nothing", "cut": whole[: len(whole) // 2], "bits": bytes(flipped)}[kind])
    run = inside("diagnose", *two, *options(data, tmp_path), "--resume")
    if kind in ("fifo", "socket", "folder"):
        assert isinstance(run.exception, ValueError) and part.name in str(run.exception)
        return
    assert run.exit_code == 0, run.output
    assert variables(tmp_path / "diagnosis.nc") == variables(halted / "whole" / "diagnosis.nc")


def start(*arguments, **more):
    line = [sys.executable, "-m", "eqrlab.analyses", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_as_ctrl_c_does(number, data, tmp_path):
    long = ["--limit", 1, "--depth", 1_000_000, "--restarts", 16, "--quiet", "--out", tmp_path]
    with start("diagnose", data / "one.safetensors", "--puzzles", data / "four.csv", *long) as process:
        while not tmp_path.exists() or (process.poll() is None and not _catches(process.pid)):
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 128 + number and said == "eqrlab: stopped\n", said
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_source_text_is_run_ends_with_the_code_of_ctrl_c(tmp_path):
    """As in an import of dataclasses, after which Python would end by the signal itself."""
    (tmp_path / "interrupted.py").write_text(
        "from eqrlab.analyses import cli\ncli._run = lambda: exec('raise KeyboardInterrupt')\ncli.main()\n"
    )
    run = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (130, "eqrlab: stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["make_context", "resolve_command"])
def test_a_signal_before_a_verb_runs_ends_with_its_own_code(place, number, tmp_path):
    """Left to click, it ended with "Aborted!" and the exit code of a fault."""
    code = (
        "import signal\nfrom eqrlab.analyses import cli\n"
        f"cli.cli.{place} = lambda *given, **named: signal.raise_signal({int(number)})\ncli.main()\n"
    )
    run = subprocess.run([sys.executable, "-c", code, "info", "eqr-sudoku6"], capture_output=True, text=True)
    assert (run.returncode, run.stderr.strip()) == (128 + number, "eqrlab: stopped")


def _catches(pid):
    """Say whether a process has a handler for SIGTERM, which it has from its first lines on."""
    with open(f"/proc/{pid}/status") as status:
        caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def test_a_hangup_that_is_ignored_stays_ignored(data, tmp_path):
    """As under nohup."""
    given = ["diagnose", data / "one.safetensors", *options(data, tmp_path)]
    with start(*given, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        while not _catches(process.pid):
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert (tmp_path / "diagnosis.nc").exists()


def test_groups_of_an_archive_never_take_a_reserved_name():
    one = {"ensemble": 1, "basins": 2}
    groups = archive_groups({"a": one, "basins": one, "..": one, "lyapunov": {"lyapunov": 3}})
    assert len(groups) == 7 and groups["ensemble"] == 1
    assert json.dumps(sorted(groups)).count("basins/") == 0
    assert np.unique([g.split("/")[0] for g in groups if "/" in g]).size == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_an_archive_is_written_waits_until_it_is_whole(number, data, tmp_path, monkeypatch):
    """Raised within, it would leave locks of the library taken, for which closing the file then waits for ever."""
    written = xr.DataTree.to_netcdf

    def interrupted(tree, *args, **kwargs):
        signal.raise_signal(number)
        return written(tree, *args, **kwargs)

    monkeypatch.setattr(xr.DataTree, "to_netcdf", interrupted)
    raise_on_signals()
    run = inside("diagnose", data / "one.safetensors", *options(data, tmp_path))
    assert run.exit_code == 128 + number and "\neqrlab: stopped" in run.output
    (part,) = (tmp_path / "diagnosis.nc.parts").iterdir()
    assert validate(part).groups == 5


def test_signals_are_held_only_as_long_as_the_block(monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)
        steps.append("went on")
    assert steps == ["went on"] and signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("an error in the block does not swallow it")
