"""Exports: what is written is what `sample` gives, bit for bit, and no end of a process loses what was completed."""

import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from eqrlab import attractors as at
from eqrlab.analyses.commands.common.unfinished import request
from eqrlab.attractors.ensemble import batches
from eqrlab.attractors.results import archive
from eqrlab.attractors.streaming import batch_store as parts
from eqrlab.attractors.streaming.export import status
from eqrlab.attractors.streaming.write_archive import order_statistics, quantile
from eqrlab.core import EqR, EqRConfig, MapSystem, load
from eqrlab.datasets import PuzzleSet
from tests.core_models import small_eqr, training_state, write
from tests.zoo import noisy_ar, puzzles, selector


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = EqRConfig(
        vocab_size=6, seq_len=16, hidden_size=16, num_heads=2, mixer="attention", positions="rope2d"
    )
    return EqR(config, "sudoku4")


def boards(count=3):
    return torch.randint(1, 6, (count, 16), generator=torch.Generator().manual_seed(1))


def assert_same(path, ensemble):
    """Every variable of the archive has the bytes and labels of the ensemble's."""
    found = archive.read(path)["ensemble"].to_dataset()
    assert list(found.variables) == list(ensemble.variables)
    for name, variable in ensemble.variables.items():
        assert found[name].dims == variable.dims and found[name].dtype == variable.dtype
        assert found[name].values.tobytes() == variable.values.tobytes(), name
        assert {k: str(v) for k, v in found[name].attrs.items()} == {
            k: str(v) for k, v in variable.attrs.items()
        }
    for name in set(ensemble.attrs) - {"created", "history"}:
        assert str(found.attrs[name]) == str(ensemble.attrs[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 0.0, "keep": ("path", "final_state", "logit_delta")},
        {"noise": 0.05, "keep": ("trajectory",), "batch_size": 4, "first_restart": 3},
        {"noise": 0.05, "dtype": "float64", "batch_size": 100, "oracle": lambda i, a: a[:, 0] > 2},
    ],
)
def test_the_archive_is_the_sampled_ensemble(model, options, tmp_path):
    options = {"labels": boards().flip(1), "restarts": 5, "depth": 6, "batch_size": 7, **options}
    done = at.export(model, boards(), tmp_path / "a.nc", flush_seconds=0, **options)
    assert done.complete and [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    assert_same(tmp_path / "a.nc", at.sample(model, boards(), **options))


def test_solved_band_and_noise_are_those_of_the_whole_ensemble(tmp_path):
    offsets = torch.tensor([[0.0], [0.4], [2.0]])
    band = {"labels": torch.full((3, 1), 2), "restarts": 30, "depth": 12, "batch_size": 7}
    for name, system in (("quiet", selector(offsets.tolist())), ("loud", noisy_ar(0.5, 0.1))):
        at.export(system, puzzles(3), tmp_path / f"{name}.nc", flush_seconds=0, snapshot_seconds=0, **band)
        assert_same(tmp_path / f"{name}.nc", at.sample(system, puzzles(3), **band))


@given(
    st.lists(st.lists(st.floats(0, allow_nan=False, allow_infinity=False), max_size=5), max_size=6),
    st.floats(0, 1),
)
def test_order_statistics_in_pieces_are_exact(pieces, q):
    values = np.array([v for piece in pieces for v in piece])
    stream = lambda: [np.array(piece) for piece in pieces]
    assert order_statistics(stream, lambda n: range(n)) == (len(values), sorted(values.tolist()))
    with np.errstate(over="ignore", invalid="ignore"):
        found = quantile(stream, q)
        assert (
            found is None
            if not len(values)
            else np.array_equal(found, np.quantile(values, q), equal_nan=True)
        )


def test_selection_narrows_down_when_many_numbers_share_their_first_bits(monkeypatch):
    monkeypatch.setattr("eqrlab.attractors.streaming.write_archive.FEW", 3)
    values = 1 + np.random.default_rng(0).permutation(500) * 2.0**-50
    assert order_statistics(lambda: np.split(values, 5), lambda n: [0, 250, 499])[1] == [
        1.0, 1 + 250 * 2.0**-50, 1 + 499 * 2.0**-50,
    ]  # fmt: skip


def stopping(after):
    """A map that is interrupted, as by Ctrl-C, at one of its calls."""
    calls = iter(range(10**9))

    def step(z, x, noise=None):
        if next(calls) == after:
            raise KeyboardInterrupt
        return z / 2

    return MapSystem(step, lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64))


def test_an_interrupted_export_is_resumed_to_the_same_archive(tmp_path):
    path, options = tmp_path / "a.nc", {"restarts": 6, "depth": 9, "batch_size": 4, "seed": 5}
    with pytest.raises(KeyboardInterrupt) as stopped:
        at.export(stopping(25), puzzles(2), path, **options)
    assert stopped.value.__notes__ == [f"{path}: 2 of 3 batches are kept; resume to go on"]
    assert status(path) == (2, 3, False)
    with pytest.raises(ValueError, match=r"an unfinished export is in a\.nc\.parts; resume it"):
        at.export(stopping(-1), puzzles(2), path, **options)
    assert at.export(stopping(-1), puzzles(2), path, resume=True, **options).complete
    assert_same(path, at.sample(stopping(-1), puzzles(2), **options))
    left = stopping(20)  # enough for the look at its promises, too few for a batch
    assert at.export(left, puzzles(2), path, resume=True, **options).complete, "nothing is left to do"
    with pytest.raises(ValueError, match="exists and is complete"):
        at.export(stopping(-1), puzzles(2), path, **options)


def test_an_export_killed_before_its_last_batches_are_merged_is_not_taken_for_complete(tmp_path, monkeypatch):
    path, options = tmp_path / "a.nc", {"restarts": 6, "depth": 9, "batch_size": 4}

    def killed(job, path, share):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["eqrlab.attractors.streaming.export"], "_finish", killed)
        with pytest.raises(SystemExit):
            at.export(stopping(-1), puzzles(2), path, flush_seconds=0, **options)
    assert status(path) == (3, 3, False), "all batches, but no whole archive"
    assert at.export(stopping(-1), puzzles(2), path, resume=True, **options).complete
    assert_same(path, at.sample(stopping(-1), puzzles(2), **options))


def test_an_unfinished_archive_holds_what_was_completed_and_says_what_is_missing(tmp_path):
    path, options = tmp_path / "a.nc", {"restarts": 6, "depth": 9, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        at.export(stopping(25), puzzles(2), path, **options)
    with at.open_ensemble(path) as opened:
        unfinished = opened.load()
    assert unfinished.attrs["complete"] == 0
    assert unfinished.sampled.values.tolist() == [[True] * 6, [True, True, False, False, False, False]]
    whole = at.sample(stopping(-1), puzzles(2), **options)
    there = unfinished.sampled.values
    np.testing.assert_array_equal(unfinished.residual.values[there], whole.residual.values[there])
    assert np.isnan(unfinished.residual.values[~there]).all() and (unfinished.fate.values[~there] == -1).all()
    for analysis in (at.basins, at.summary):
        with pytest.raises(ValueError, match="the ensemble is unfinished"):
            analysis(unfinished)
    part = at.completed_part(unfinished)
    assert part.fate.shape == (1, 6) and int(at.basins(part).restarts_used[0]) == 6
    np.testing.assert_array_equal(part.residual, whole.residual[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 10}, "was begun with depth 9, got 10"),
        ({"seed": 1}, "was begun with seed 0, got 1"),
        ({"batch_size": 3}, "was begun with batch_size 4, got 3"),
        ({"noise": 0.5}, "was begun with noise 0.0, got 0.5"),
        ({"inputs": puzzles(3)[1:]}, "was begun with inputs"),
        ({"shard": (2, 2)}, r"shard must be \(i, n\)"),
    ],
)
def test_other_arguments_are_not_mixed_in(change, message, tmp_path):
    arguments = {"inputs": puzzles(2), "restarts": 6, "depth": 9, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        at.export(stopping(25), path=tmp_path / "a.nc", **arguments)
    with pytest.raises(ValueError, match=message):
        at.export(stopping(-1), path=tmp_path / "a.nc", resume=True, **{**arguments, **change})


def test_averaged_and_raw_weights_of_one_file_are_two_models(tmp_path):
    file = write(tmp_path, training_state(small_eqr(), ema=small_eqr(seed=1)))
    average, raw = load(file, weights="ema"), load(file, weights="raw")
    tokens, size = torch.randint(0, 5, (2, 6)), {"restarts": 2, "depth": 3}
    for resume in (False, True):
        at.export(average, tokens, tmp_path / "x.nc", **size, resume=resume)
    with pytest.raises(ValueError, match="of an export with weights ema, got raw"):
        at.export(raw, tokens, tmp_path / "x.nc", **size, resume=True)
    ensemble = archive.read(tmp_path / "x.nc")["ensemble"].to_dataset()
    at.Run.of_ensemble(average, ensemble)
    with pytest.raises(ValueError, match="another system: its weights is ema, this one's raw"):
        at.Run.of_ensemble(raw, ensemble)
    asked = [
        request(model, PuzzleSet(tokens.numpy(), None, "generic-6-v5"), {}, False) for model in (average, raw)
    ]
    assert asked[0] != asked[1]


def test_a_damaged_part_is_found_and_computed_again(tmp_path):
    path, options = tmp_path / "a.nc", {"restarts": 6, "depth": 9, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        at.export(stopping(25), puzzles(2), path, flush_seconds=0, **options)
    part = sorted(parts.folder_of(path).glob("part-*"))[0]
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged, its batches are computed again"):
        at.export(stopping(-1), puzzles(2), path, resume=True, **options)
    assert_same(path, at.sample(stopping(-1), puzzles(2), **options))


def test_a_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    path = tmp_path / "a.nc"
    with (
        parts.claimed(path, parts.Shard()),
        pytest.raises(BlockingIOError, match="another process is writing"),
    ):
        at.export(stopping(-1), puzzles(1), path, restarts=2, depth=3)
    with parts.claimed(path, parts.Shard(0, 2)):
        with pytest.raises(BlockingIOError):
            at.export(stopping(-1), puzzles(1), path, restarts=2, depth=3)
        with pytest.raises(BlockingIOError):
            at.export(stopping(-1), puzzles(1), path, restarts=2, depth=3, shard=(0, 2))
        with pytest.raises(BlockingIOError):
            at.export(stopping(-1), puzzles(1), path, restarts=2, depth=3, shard=(1, 3))
    assert list(parts.folder_of(path).glob("*.lock")), "the files of dead locks lie about"
    assert at.export(stopping(-1), puzzles(1), path, restarts=2, depth=3).complete


def test_a_shard_that_comes_when_others_have_ended_the_export_begins_nothing_anew(tmp_path, monkeypatch):
    path, options = tmp_path / "a.nc", {"restarts": 5, "depth": 8, "batch_size": 3}
    claimed = parts.claimed

    def late(path, shard):
        monkeypatch.undo()
        at.export(stopping(-1), puzzles(3), path, **options)
        return claimed(path, shard)

    monkeypatch.setattr(parts, "claimed", late)
    assert at.export(stopping(20), puzzles(3), path, shard=(0, 2), **options).complete
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_in_any_order_make_one_archive(order, tmp_path):
    options = {"restarts": 5, "depth": 8, "batch_size": 3}
    for i in order:
        done = at.export(stopping(-1), puzzles(3), tmp_path / "a.nc", shard=(i, 3), **options)
        assert done.complete == (i == order[-1])
    assert_same(tmp_path / "a.nc", at.sample(stopping(-1), puzzles(3), **options))


def test_a_batch_too_big_for_memory_is_halved_with_a_warning(model, tmp_path, monkeypatch):
    run_rows = batches.run_rows

    def tight(recipe, rows, tick):
        if len(rows) > 3:
            tick(len(rows))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8e9 bytes.")
        return run_rows(recipe, rows, tick)

    monkeypatch.setattr(batches, "run_rows", tight)
    seen = []
    options = {"restarts": 5, "depth": 6, "dtype": "float64", "progress": lambda done, all: seen.append(done)}
    with pytest.warns(UserWarning, match="rows at once do not fit in memory: continuing with"):
        at.export(model, boards(2), tmp_path / "a.nc", batch_size=10, **options)
    assert seen[-1] == 60
    found = archive.read(tmp_path / "a.nc")["ensemble"]
    assert found.attrs["batch_size"] == 10 and found.attrs["batch_size_least"] == 3
    with pytest.warns(UserWarning, match="do not fit"):
        halved = at.sample(model, boards(2), batch_size=10, **options)
    np.testing.assert_allclose(found.residual, halved.residual, rtol=1e-10)


def test_other_errors_are_not_taken_for_memory(tmp_path):
    def step(z, x):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    system = MapSystem(step, lambda x, g: torch.zeros(len(x), 2))
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="mat1 and mat2"):
        at.sample(system, puzzles(2), restarts=3, depth=2)


def test_a_step_that_raises_loses_nothing_completed(tmp_path):
    path, options = tmp_path / "a.nc", {"restarts": 6, "depth": 9, "batch_size": 4}
    calls = iter(range(10**9))

    def step(z, x):
        if next(calls) == 25:
            raise ZeroDivisionError("the user's own")
        return z / 2

    system = MapSystem(step, lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64))
    with pytest.raises(ZeroDivisionError, match="the user's own") as failed:
        at.export(system, puzzles(2), path, **options)
    assert "2 of 3 batches are kept" in failed.value.__notes__[0]
    at.export(system, puzzles(2), path, resume=True, **options)
    assert_same(path, at.sample(stopping(-1), puzzles(2), **options))


def test_a_nan_stays_in_its_run(tmp_path):
    def step(z, x):
        return torch.where(z.abs() > 2.5, torch.nan, z / 2)

    system = MapSystem(step, lambda x, g: 2 * torch.randn((len(x), 1), generator=g, dtype=torch.float64))
    at.export(system, puzzles(), tmp_path / "a.nc", restarts=60, depth=60, batch_size=25)
    found = archive.read(tmp_path / "a.nc")["ensemble"]
    assert set(np.unique(found.fate)) == {0, 6}
    assert np.isfinite(found.residual.values[found.fate.values == 0]).all()


SCRIPT = """
import sys, torch
from eqrlab import attractors as at
from eqrlab.core import MapSystem
a = torch.tensor([[0.9, 0.5], [-0.3, 0.8]], dtype=torch.float64)
law = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
system = MapSystem(lambda z, x: torch.tanh(z @ a.T), law, lambda z, x: (z > 0).long() + 1)
options = dict(restarts=150, depth=40, batch_size=8, resume=True, flush_seconds=0.0, snapshot_seconds=0.05)
print("begin", flush=True)
at.export(system, torch.arange(3)[:, None], sys.argv[1], **options)
print("end", flush=True)
"""


def killed(path, seconds, how=signal.SIGKILL):
    """Run SCRIPT and kill it so many seconds after it began; return whether it was done by then."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "begin\n", child.stderr.read()
        time.sleep(seconds)
        child.send_signal(how)
        child.wait()
        return child.stdout.read() == "end\n"


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_archive(tmp_path):
    path, delays = tmp_path / "a.nc", iter([0.2, 1.0])
    done = -1
    for delay in delays:
        finished = killed(path, delay)
        for file in tmp_path.glob("*.nc"):
            with xr.open_dataset(file, group="ensemble", engine="netcdf4") as opened:
                opened.load()
        state = status(path)
        assert state is None or state.done >= done
        done = state.done if state else -1
        if finished:
            break
    system = {}
    exec(textwrap.dedent(SCRIPT).split("options")[0], system)
    at.export(
        system["system"], torch.arange(3)[:, None], path, restarts=150, depth=40, batch_size=8, resume=True
    )
    assert_same(
        path, at.sample(system["system"], torch.arange(3)[:, None], restarts=150, depth=40, batch_size=8)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"], "nothing is left lying about"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 800 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted by this user")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_export_and_after_making_room_it_goes_on(small_disk):
    path, options = small_disk / "a.nc", {"restarts": 120, "depth": 20, "batch_size": 16}
    (small_disk / "other").write_bytes(bytes(650_000))
    with pytest.raises(OSError, match="No space left on device") as failed:
        at.export(stopping(-1), puzzles(2), path, flush_seconds=0, **options)
    assert "batches are kept" in failed.value.__notes__[0]
    assert not list(small_disk.glob(".*.tmp")) and 0 < status(path).done < 15
    (small_disk / "other").unlink()
    at.export(stopping(-1), puzzles(2), path, resume=True, flush_seconds=0, **options)
    assert_same(path, at.sample(stopping(-1), puzzles(2), **options))


def test_a_read_only_place_is_named(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only file system") as failed:
        at.export(stopping(-1), puzzles(1), small_disk / "a.nc", restarts=2, depth=3)
    assert str(small_disk) in str(failed.value)


def test_lazy_opening_reads_what_is_used(tmp_path):
    path = tmp_path / "a.nc"
    at.export(stopping(-1), puzzles(2), path, restarts=6, depth=9)
    with at.open_ensemble(path) as opened:
        assert not opened.residual.variable._in_memory
        part = opened.isel(puzzle=slice(1)).load()
    assert int(at.basins(part).restarts_used[0]) == 6
    with pytest.raises(ValueError, match="group 'basins' cannot be read"):
        at.open_ensemble(path, group="basins")
    with pytest.raises(ValueError, match="no such file"):
        at.open_ensemble(tmp_path / "none.nc")


@pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")
def test_dask_works_on_pieces(tmp_path):
    pytest.importorskip("dask.array", reason="needs eqrlab[lazy]")
    at.export(stopping(-1), puzzles(2), tmp_path / "a.nc", restarts=6, depth=9)
    with at.open_ensemble(tmp_path / "a.nc", chunks={"puzzle": 1}) as opened:
        assert opened.residual.chunks[0] == (1, 1)
        assert float(opened.residual.mean()) == pytest.approx(
            float(archive.read(tmp_path / "a.nc")["ensemble"].residual.mean())
        )


def test_a_newer_schema_is_refused_with_a_reason(tmp_path):
    at.export(stopping(-1), puzzles(1), tmp_path / "a.nc", restarts=2, depth=3)
    tree = archive.read(tmp_path / "a.nc")
    group = tree["ensemble"].to_dataset().assign_attrs(schema_version=99)
    archive.write(tmp_path / "b.nc", {"ensemble": group})
    for reader in (archive.read, at.open_ensemble):
        with pytest.raises(ValueError, match="schema_version 99 is newer than this eqrlab"):
            reader(tmp_path / "b.nc")


def test_starts_that_differ_beyond_single_precision_are_other_starts(tmp_path):
    half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.zeros(len(x), 2, dtype=torch.float64))
    starts = torch.ones(1, 2, 2, dtype=torch.float64)
    at.export(half, puzzles(), tmp_path / "a.nc", restarts=2, depth=4, initial=starts)
    with pytest.raises(ValueError, match="is the complete archive of an export with starts"):
        at.export(
            half, puzzles(), tmp_path / "a.nc", restarts=2, depth=4, initial=starts + 1e-12, resume=True
        )
