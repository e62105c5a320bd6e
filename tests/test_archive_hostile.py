"""Archives that are damaged, or made to harm: refused in one printable line, by every reader, unused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eqrlab import attractors as at
from eqrlab.analyses.commands.diagnose import report_command
from eqrlab.analyses.commands.export import export_command, verify_command
from eqrlab.analyses.commands.scale import stored
from eqrlab.attractors.results import archive, archive_child
from tests.zoo import puzzles, selector


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An archive of two puzzles, three restarts, six steps."""
    ensemble = at.sample(
        selector([[0.0], [1.0]]), puzzles(2), labels=torch.full((2, 1), 2), restarts=3, depth=6
    )
    groups = {"ensemble": ensemble, "basins": at.basins(ensemble)}
    groups |= {"alignment": at.alignment(ensemble), "modes": at.modes(ensemble)}
    path = tmp_path_factory.mktemp("sound") / "sound.nc"
    archive.write(path, groups)
    assert archive.look(path)["groups"] == 4
    return path


@pytest.fixture
def copy(sound, tmp_path):
    return Path(shutil.copy(sound, tmp_path / "hostile.nc"))


def refusal(path: Path) -> str:
    """What `look` says of a file: one printable line that begins with its name, and is not long."""
    with pytest.raises(ValueError) as found:
        archive.look(path)
    text = str(found.value)
    assert text.isprintable() and len(text) <= 1000 and "hostile" in text.partition(":")[0], text
    return text


def replaced(file: h5py.File, name: str, **storage) -> None:
    """Put another dataset of the same shape, type and attributes in the place of one."""
    old = file[name]
    shape, kind = old.shape, old.dtype
    about = {k: old.attrs[k] for k in old.attrs if k[0].islower()}
    del file[name]
    new = file.create_dataset(name, **{"shape": shape, "dtype": kind, **storage})
    new.attrs.update(about)


# ---- how the file is built


def external(name):
    def damage(file, folder):
        (folder / "secret").write_bytes(b"SECRET" * 4000)
        size = file[name].size * file[name].dtype.itemsize
        replaced(file, name, external=[(str(folder / "secret"), 0, size)])

    return damage


def virtual(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.arange(6)
    layout = h5py.VirtualLayout((6,), "i8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (6,))
    file["ensemble"].create_virtual_dataset("mine", layout)


def linked(link, name="ensemble/more"):
    def damage(file, folder):
        file[name] = link(file) if callable(link) else link

    return damage


def mutual(file, _):
    a, b = file.create_group("a"), file.create_group("b")
    a["b"], b["a"] = b, a


def nested(file, _):
    group = file
    for _ in range(40):
        group = group.create_group("g")


def many(thing):
    def damage(file, _):
        for i in range(2_500):
            thing(file, i)

    return damage


def of_type(kind):
    def damage(file, _):
        file["ensemble"].create_dataset("mine", (2,), kind)

    return damage


def filtered(*numbers):
    """A variable stored through these filters, through some twice."""

    def damage(file, _):
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4,))
        for number in numbers:
            plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (4,))
        space, kind = h5py.h5s.create_simple((4,)), h5py.h5t.STD_I32LE
        h5py.h5d.create(file["ensemble"].id, b"mine", kind, space, plan)

    return damage


def inflating(file, _):
    """A chunk of 64 bytes whose stored form is a megabyte of noise."""
    made = file["ensemble"].create_dataset("mine", (64,), "i1", chunks=(64,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(np.random.default_rng(0).bytes(2**20)))


def named_type(file, _):
    file["ensemble/kind"] = np.dtype("f8")


def attribute(name, value):
    def damage(file, _):
        file["ensemble"].attrs[name] = value

    return damage


BUILT = {
    "external storage of a result": (external("basins/answer"), "keeps its values in another file"),
    "external storage of what is repeated": (external("ensemble/inputs"), "keeps its values in another file"),
    "external storage of a coordinate": (external("ensemble/puzzle"), "keeps its values in another file"),
    "virtual dataset": (virtual, "put together from other files"),
    "link to another file": (linked(h5py.ExternalLink("other.h5", "/x")), "is a link to another file"),
    "group that is another file": (linked(h5py.ExternalLink("o.h5", "/"), "more"), "is a link to another file"),
    "soft link": (linked(h5py.SoftLink("/ensemble/residual")), "is a soft link"),
    "soft link to nothing": (linked(h5py.SoftLink("/nowhere")), "is a soft link"),
    "soft link in a circle": (linked(h5py.SoftLink("/ensemble")), "is a soft link"),
    "group within itself": (linked(lambda f: f["ensemble"]), "is linked to more than once"),
    "root within a group": (linked(lambda f: f["/"]), "is linked to more than once"),
    "groups within each other": (mutual, "is linked to more than once"),
    "variable of two names": (linked(lambda f: f["ensemble/inputs"]), "is linked to more than once"),
    "deep nesting": (nested, "is nested more than 8 deep"),
    "many groups": (many(lambda f, i: f.create_group(f"g{i}")), "has more than 2000 groups"),
    "many attributes": (many(lambda f, i: f["basins"].attrs.__setitem__(f"a{i}", 1)), "has 25"),
    "huge chunked": (lambda f, _: f["ensemble"].create_dataset("m", (2**40,), "f8", chunks=(2**20,)), "declares"),
    "huge contiguous": (lambda f, _: f["ensemble"].create_dataset("m", (2**40,), "f8"), "declares"),
    "huge in every axis": (lambda f, _: f["ensemble"].create_dataset("m", (2**31,) * 6, "f8", chunks=True), "declares"),
    "more than is there": (lambda f, _: f["ensemble"].create_dataset("m", (2**25,), "i1"), "not in the file"),
    "many missing chunks": (
        lambda f, _: f["ensemble"].create_dataset("m", (2**20,), "i1", chunks=(1,)), "not in the file"),
    "chunk larger than it may be": (inflating, "has a chunk of"),
    "deflated twice": (filtered(1, 1), "is stored through filters"),
    "unknown filter": (filtered(32000), "is stored through filters"),
    "float16": (of_type("f2"), "a number of 16 bits"),
    "complex": (of_type("c8"), "of the type"),
    "compound": (of_type(np.dtype([("a", "f4"), ("b", "i4")])), "of the type compound"),
    "enumeration": (of_type(h5py.enum_dtype({"a": 1})), "of the type enumeration"),
    "variable length": (of_type(h5py.vlen_dtype("i4")), "of the type variable length"),
    "opaque": (of_type("V7"), "of the type opaque"),
    "reference": (of_type(h5py.ref_dtype), "of the type reference"),
    "array": (of_type(np.dtype("(3,)f4")), "of the type array"),
    "named type": (named_type, "is a type definition"),
    "no shape": (lambda f, _: f["ensemble"].create_dataset("m", data=h5py.Empty("f4")), "no shape"),
    "attribute of float16": (attribute("x", np.float16(1)), "a number of 16 bits"),
    "compound attribute": (attribute("x", np.zeros(1, [("a", "f4")])), "of the type compound"),
    "attribute in two axes": (attribute("x", np.zeros((2, 2))), "more than one dimension"),
    "name that steers a terminal": (lambda f, _: f.create_group("a\x1b[2Jb"), "not printable text"),
    "name of a variable likewise": (lambda f, _: f["ensemble"].create_dataset("\u202e", (1,), "f4"), "not printable"),
    "name of an attribute likewise": (attribute("\x1b]0;x\x07", 1), "not printable text"),
    "name that is not UTF-8": (lambda f, _: h5py.h5g.create(f.id, b"\xff\xfe"), "is not UTF-8"),
    "long name": (lambda f, _: f.create_group("a" * 5000), "not printable text"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), BUILT.values(), ids=BUILT)
def test_a_file_built_as_no_archive_is_is_refused(damage, reason, copy, tmp_path):
    with h5py.File(copy, "a", libver="latest") as file:
        damage(file, tmp_path)
    text = refusal(copy)
    assert reason in text and "SECRET" not in text, text


# ---- what is in it


def sealed(change):
    """Change a variable and give it the checksum of its new values: nothing but the values tells."""

    def damage(file, where, value, name):
        variable = file[where][name]
        variable.set_auto_maskandscale(False)
        values = variable[...]
        change(values, value)
        variable[...] = values
        variable.sha256 = archive.checksum(values)

    return damage


def first(values, value):
    values.reshape(-1)[0] = value


CONTENT = [
    ("ensemble", "inputs", -7, "holds -7, numbers from 0 to inf are required"),
    ("ensemble", "fate", 99, "holds 99, one of"),
    ("ensemble", "correct", 7, "holds 7, one of [0, 1] is required"),
    ("ensemble", "residual", -1.0, "holds -1.0"),
    ("ensemble", "restart", -1, "holds -1"),
    ("ensemble", "step", 0, "holds 0"),
    ("basins", "attractor_id", 30_000, "holds 30000"),
    ("basins", "attractor_id", -3, "holds -3"),
    ("basins", "attractors", 30_000, "holds 30000"),
    ("basins", "mass", 1.5, "holds 1.5"),
    ("basins", "mass", np.inf, "holds inf"),
    ("basins", "restarts_used", 9, "holds 9"),
    ("modes", "mode_probability", -0.5, "holds -0.5"),
    ("modes", "advice", 100, "holds 100, one of"),
    ("alignment", "depth", -1, "holds -1"),
    ("alignment", "accuracy", 2.0, "holds 2.0"),
]


@pytest.mark.parametrize(("group", "name", "value", "reason"), CONTENT)
def test_numbers_that_no_run_can_have_are_refused_though_their_checksum_is_right(
    group, name, value, reason, copy
):
    with netCDF4.Dataset(copy, "a") as file:
        sealed(first)(file, group, value, name)
    assert f"group /{group}, variable {name!r} {reason}" in refusal(copy)


def deep(levels):
    return "{" + '"a":' + "[" * levels + "]" * levels + "}"


ATTRIBUTES = [
    ("tolerances", deep(100_000), "is not a JSON object"),
    ("tolerances", deep(100), "is not a JSON object"),
    ("config", "[]", "is not a JSON object"),
    ("config", '{"a": ' + "9" * 5000 + "}", "is not a JSON object"),
    ("config", 3, "json is required"),
    ("restarts", np.array([3, 3]), "int is required"),
    ("restarts", -3, "a number from 1"),
    ("depth", "6", "int is required"),
    ("noise", np.nan, "a number from 0"),
    ("noise", np.inf, "a number from 0"),
    ("seed", 0.5, "int is required"),
    ("family", "", "text is required"),
    ("dtype", "complex64", "one of float16 bfloat16 float32 float64 is required"),
    ("dtype", "abacus", "one of float16 bfloat16 float32 float64 is required"),
    ("dtype", 32, "one of float16 bfloat16 float32 float64 is required"),
    ("task", np.array([1.0, 2.0]), "text is required"),
    ("complete", np.array([1, 2]), "int is required"),
    ("initial_law", 1, "text is required"),
    ("batch_size", 0, "a number from 1"),
    ("title", "a" * 2**21, "is larger than"),
]


@pytest.mark.parametrize(("name", "value", "reason"), ATTRIBUTES)
def test_attributes_of_another_kind_are_refused(name, value, reason, copy):
    with netCDF4.Dataset(copy, "a") as file:
        file["ensemble"].setncattr(name, value)
    assert f"attribute {name!r}" in (text := refusal(copy)) and reason in text, text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_factor", 2.0),
        ("add_offset", 1.0),
        ("missing_value", 0.0),
        ("_FillValue", 0.0),
        ("dtype", "bool"),
    ],
)
def test_attributes_by_which_readers_change_values_are_refused(name, value, copy):
    with h5py.File(copy, "a") as file:
        file["basins/mass"].attrs[name] = np.array([value]) if isinstance(value, float) else value
    assert "variable 'mass' has" in refusal(copy)


def test_text_of_a_file_reaches_a_terminal_printable_and_short(copy):
    with netCDF4.Dataset(copy, "a") as file:
        file["ensemble"].setncattr("tolerances", "\x1b[2J\u202e" + "x" * 100_000)
    assert "\\x1b" in refusal(copy)


def test_long_coordinates_of_text_are_sound(copy):
    with netCDF4.Dataset(copy, "a") as file:
        group = file.createGroup("mine")
        group.setncatts({k: file["modes"].getncattr(k) for k in file["modes"].ncattrs()})
        group.createDimension("word", 5000)
        made = group.createVariable("word", str, ("word",))
        made[:] = np.array([f"word {i}" for i in range(5000)], object)
        made.long_name = "word"
    assert archive.look(copy)["groups"] == 5


def test_entries_of_text_that_share_their_bytes_are_refused(copy):
    with h5py.File(copy, "a") as file:
        made = file["ensemble"].create_dataset("mine", (4000,), h5py.string_dtype(), chunks=(4000,))
        made[0] = "x" * 50_000
        made.attrs.update({"long_name": "mine", "units": "1"})
        _, raw = made.id.read_direct_chunk((0,))
        made.id.write_direct_chunk((0,), raw[:16] * 4000)
    with pytest.raises(ValueError, match="holds more text than the file has bytes"):
        archive.read(copy)


def test_groups_of_one_checkpoint_agree_in_size(sound, tmp_path):
    tree, path = archive.read(sound), tmp_path / "hostile.nc"
    groups = {name: node.to_dataset() for name, node in tree.children.items()}
    groups["basins"] = groups["basins"].isel(puzzle=slice(1))
    archive.write(path, groups)
    assert "dimension 'puzzle' has 1, in /ensemble it has 2" in refusal(path)
    with netCDF4.Dataset(path, "w") as file:
        file.createGroup("ensemble").createDimension("puzzle", 0)
        file["ensemble"].createVariable("puzzle", "i8", ("puzzle",))
    with pytest.raises(ValueError, match="dimension 'puzzle' is empty"):
        archive.read(path)


# ---- what is no file


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "hostile.fifo")
    (tmp_path / "hostile.folder").mkdir()
    (tmp_path / "hostile.loop").symlink_to(tmp_path / "hostile.loop")
    (tmp_path / "hostile.zero").symlink_to("/dev/zero")
    (tmp_path / "hostile.empty").touch()
    (tmp_path / "hostile.text").write_text("hello")
    (tmp_path / "hostile\x1b[2J").write_bytes(bytes(1000))
    for path in [*tmp_path.iterdir(), tmp_path / "hostile.missing", tmp_path / ("hostile" + "x" * 5000)]:
        refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share, copy):
    content = copy.read_bytes()
    copy.write_bytes(content[: int(len(content) * share)])
    refusal(copy)


# ---- every reader takes the door


def everyone(path: Path, folder: Path):
    """Yield a call for each reader of archives, with a name."""
    run = lambda command, *line: CliRunner().invoke(command, [*map(str, line)], catch_exceptions=False)
    yield "verify", lambda: run(verify_command, path)
    yield "report", lambda: run(report_command, path, "--out", folder / "x.html")
    yield "like", lambda: run(export_command, "--like", path, "--out", folder / "l.nc", "--estimate")
    yield "read", lambda: archive.read(path)
    yield "open_ensemble", lambda: at.open_ensemble(path)
    yield "scale --from", lambda: stored(path)
    yield "resume", lambda: at.export(selector([[0.0]]), puzzles(1), path, resume=True)


@pytest.mark.parametrize("kind", ["external storage of what is repeated", "group within itself", "float16"])
def test_no_reader_goes_around_the_door(kind, copy, tmp_path):
    with h5py.File(copy, "a", libver="latest") as file:
        BUILT[kind][0](file, tmp_path)
    for name, call in everyone(copy, tmp_path):
        with pytest.raises(ValueError) as found:
            call()
        assert BUILT[kind][1] in str(found.value), name
    assert not (tmp_path / "x.html").exists() and not (tmp_path / "l.nc").exists()


def test_values_that_changed_are_used_by_no_reader(copy, tmp_path):
    with netCDF4.Dataset(copy, "a") as file:
        file["ensemble"]["inputs"][0, 0] += 1
    for name, call in everyone(copy, tmp_path):
        if name != "resume":  # it looks at what the file says of itself
            with pytest.raises(ValueError, match="does not have the values of its checksum"):
                call()


def test_big_archives_are_opened_without_reading_their_values(copy, monkeypatch):
    with netCDF4.Dataset(copy, "a") as file:
        file["ensemble"]["residual"][0, 0, 0] += 1
    monkeypatch.setattr(archive, "SMALL", 0)
    with at.open_ensemble(copy) as ensemble:
        assert ensemble.sizes["restart"] == 3


def test_a_file_is_looked_at_again_once_it_has_changed(copy):
    archive.look(copy)
    archive.look(copy)
    with netCDF4.Dataset(copy, "a") as file:
        file["ensemble"].renameVariable("residual", "residuum")
    assert "variable 'residual' is missing" in refusal(copy)


def test_what_does_not_fit_into_memory_is_not_read(copy, monkeypatch):
    monkeypatch.setattr(archive, "_free_memory", lambda: 2000)
    with pytest.raises(ValueError, match="1,000 fit into memory: open it with open_ensemble"):
        archive.read(copy)


# ---- the process that looks


def run_child(code: str) -> int:
    line = f"import sys; sys.path.insert(0, {str(Path(archive_child.__file__).parent)!r}); import archive_child as c\n"
    done = subprocess.run([sys.executable, "-c", line + code], stderr=subprocess.DEVNULL, timeout=100)
    return done.returncode


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel keeps these bounds on Linux")
def test_a_child_that_hangs_or_eats_memory_is_ended():
    assert "takes too long" in archive._ended(run_child("c.progress(0)\nwhile True: pass"))
    assert run_child("c.bounded_memory()\nbytearray(2 * c.MEMORY)") == 1


def test_a_crash_of_the_library_is_a_refusal(copy, monkeypatch, tmp_path):
    (tmp_path / "archive_child.py").write_text("import os\nos.abort()\n")
    monkeypatch.setattr(archive, "__file__", str(tmp_path / "archive.py"))
    assert "the library that reads it crashes (SIGABRT)" in refusal(copy)


def test_the_child_answers_without_pytorch_or_xarray(copy):
    options = json.dumps({"values": True, "complete": True, "most": None})
    code = f"import sys; sys.argv[1:] = [{str(copy)!r}, {options!r}]; c.main(); print(*sys.modules)"
    line = f"import sys; sys.path.insert(0, {str(Path(archive_child.__file__).parent)!r}); import archive_child as c\n"
    done = subprocess.run([sys.executable, "-c", line + code], capture_output=True, text=True, check=True)
    answer, modules = done.stdout.partition("}")[0] + "}", done.stdout.split()
    assert json.loads(answer + "}")["found"]["groups"] == 4
    assert "h5py" in modules and "torch" not in modules and "xarray" not in modules


# ---- settings that --like takes from an archive


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tolerances", '{"floor": 1e999}', "tolerance 'floor' of inf unknown"),
        ("tolerances", '{"floor": true}', "tolerance 'floor' of True unknown"),
        ("tolerances", '{"floor": ' + "9" * 400 + "}", "tolerance 'floor' of 9999"),
        ("tolerances", '{"a\\u001b[2J": 1}', "tolerance 'a"),
        ("initial_law", "a law of my own", "its starts were given"),
        ("checkpoint_source", "/dev/zero", "is no regular file"),
        ("dtype", "float8", "attribute 'dtype' is 'float8'"),
        ("device", "meta", "no device 'meta' here"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(name, value, reason, copy, tmp_path):
    with netCDF4.Dataset(copy, "a") as file:
        about = {"initial_law": "restart law of the system", "checkpoint_sha256": "0" * 64, "noise": 0.0}
        for group in (file, file["ensemble"]):
            group.setncatts({**about, "checkpoint_source": "eqr-sudoku6", name: value})
    line = ["--like", copy, "--out", tmp_path / "x.nc", "--estimate"]
    checkpoint = [] if name == "checkpoint_source" else ["eqr-sudoku6"]
    done = CliRunner().invoke(export_command, [*map(str, [*checkpoint, *line])])
    said = done.output if isinstance(done.exception, SystemExit) else str(done.exception)
    assert isinstance(done.exception, (ValueError, SystemExit)) and reason in said, repr(done.exception)
