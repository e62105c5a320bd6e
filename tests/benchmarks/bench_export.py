"""Exports: faults injected and what they cost, and the memory of a long export."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.attractors.streaming.batch_store import folder_of
from eqrlab.attractors.streaming.export import status
from eqrlab.core import MapSystem
from tests.benchmarks.ledger import record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
KILLS = 60
INPUTS = torch.arange(3)[:, None]
OPTIONS = {"restarts": 200, "depth": 40, "batch_size": 8}


def law(x, generator):
    return torch.randn((len(x), 2), generator=generator, dtype=torch.float64)


def system(fail=None):
    """Return a map of three puzzles with cycles and fixed points; `fail()` is called at every step."""
    a = torch.tensor([[0.9, 0.5], [-0.3, 0.8]], dtype=torch.float64)

    def step(z, x):
        if fail is not None:
            fail()
        for _ in range(4):  # inner cycles: computing takes its share of the time
            z = torch.tanh(z @ a.T)
        return z

    return MapSystem(step, law, lambda z, x: (z > 0).long() + 1)


@pytest.fixture(scope="module")
def reference():
    return at.sample(system(), INPUTS, **OPTIONS)


def same(path, reference):
    found = archive.read(path)["ensemble"]
    other = [n for n, v in reference.variables.items() if found[n].values.tobytes() != v.values.tobytes()]
    assert not other, (other, found.attrs["batch_size"], found.attrs["complete"])
    return True


def in_child(path, **more):
    """Run the export in a process of its own, which this one can kill."""
    child = os.fork()
    if not child:
        code = 1
        try:
            at.export(
                system(), INPUTS, path, resume=True, flush_seconds=0, snapshot_seconds=0, **OPTIONS, **more
            )
            code = 0
        finally:
            os._exit(code)
    return child


def phase(path):
    """Say what an export was doing when it was killed, by what it left."""
    if list(path.parent.glob(f".{path.name}.*.tmp")):
        return "writing the archive"
    if list(folder_of(path).glob(".*.tmp")):
        return "writing a part"
    return "computing" if folder_of(path).exists() else "starting or done"


def test_sigkill_at_random_moments(reference, tmp_path):
    """What is there opens and is right, no completed batch is lost, and the end is that without kills."""
    path, chance = tmp_path / "a.nc", random.Random(1)
    began = time.monotonic()
    os.waitpid(in_child(path), 0)
    whole = time.monotonic() - began
    assert same(path, reference)
    path.unlink()
    phases, finished, lost, before = Counter(), 0, 0, 0
    while sum(phases.values()) < KILLS or before:
        child = in_child(path)
        if sum(phases.values()) < KILLS:
            time.sleep(chance.uniform(0, whole / 2))
            os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if killed:
            phases[phase(path)] += 1
        if path.exists():
            with xr.open_dataset(path, group="ensemble", engine="netcdf4") as opened:
                there = opened.sampled.values if "sampled" in opened else np.ones((3, 200), bool)
                assert (opened.residual.values[there] == reference.residual.values[there]).all()
            validate(path)
        state = status(path)
        if state is not None and state.complete:
            assert same(path, reference)
            finished, before = finished + 1, 0
            at.export(system(), INPUTS, path, resume=True, **OPTIONS)
            assert os.listdir(tmp_path) == ["a.nc"]
            path.unlink()
        else:
            done = state.done if state else 0
            lost += max(before - done, 0)
            before = done
    record(
        "faults", "SIGKILL of an export at random moments", injected=sum(phases.values()),
        when=", ".join(f"{what} {count}" for what, count in phases.most_common()),
        lost=f"{lost} completed batches", outcome=f"{finished} exports ended, all equal to the uninterrupted one",
    )  # fmt: skip
    assert not lost and finished


def test_errors_and_interrupts_at_random_steps(reference, tmp_path):
    chance = random.Random(2)
    for kind, name in ((KeyboardInterrupt, "Ctrl-C"), (ZeroDivisionError, "a user's step that raises")):
        path, kept, kills = tmp_path / f"{kind.__name__}.nc", 0, 10
        for _ in range(kills):
            left = [chance.randrange(50, 400)]

            def fail(left=left, kind=kind):
                left[0] -= 1
                if left[0] == 0:
                    raise kind("injected")

            try:
                at.export(system(fail), INPUTS, path, resume=True, **OPTIONS)
            except kind as error:
                assert f"{status(path).done} of 75 batches are kept" in error.__notes__[-1]
                assert status(path).done >= kept
                kept = status(path).done
        at.export(system(), INPUTS, path, resume=True, **OPTIONS)
        assert same(path, reference)
        record("faults", name, injected=kills, when="any step of any batch", lost="0 completed batches",
               outcome="resumed: equal to the uninterrupted one")  # fmt: skip


def test_full_disk_at_many_sizes(reference, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    stops = 0
    for size in range(150, 1400, 50):
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=False
        ).returncode:
            pytest.skip("a small disk cannot be mounted by this user")
        try:
            path = disk / "a.nc"
            try:
                at.export(system(), INPUTS, path, flush_seconds=0, snapshot_seconds=0.2, **OPTIONS)
            except OSError as error:
                assert "No space left" in str(error) and not list(disk.glob(".*.tmp"))
                stops += 1
                if path.exists():
                    validate(path)
                subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
                at.export(system(), INPUTS, path, resume=True, **OPTIONS)
            assert same(path, reference)
        finally:
            # Lazily: where even closing fails for want of space, HDF5 holds the removed file until the process ends.
            subprocess.run(["umount", "--lazy", disk], check=True)
    record("faults", "Full disk", injected=stops, when="150 kB to 1.4 MB of a tmpfs", lost="0 completed batches",
           outcome="room made, resumed: equal to the uninterrupted one")  # fmt: skip
    assert stops > 5


MEMORY = """
import resource, sys, torch
from eqrlab import attractors as at
from eqrlab.core import MapSystem
law = lambda x, g: torch.randn((len(x), 32), generator=g)
system = MapSystem(lambda z, x: torch.tanh(1.5 * z), law, lambda z, x: (z[:, :4] > 0).long() + 1)
def run(restarts):
    options = dict(restarts=restarts, depth=64, batch_size=256, dtype="float32")
    if sys.argv[1] == "export":
        at.export(system, torch.zeros(1, 1, dtype=torch.long), f"{sys.argv[3]}/{restarts}.nc", **options)
    else:
        at.sample(system, torch.zeros(1, 1, dtype=torch.long), **options)
run(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(int(sys.argv[2]))
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("restarts", [1_000, 10_000, 100_000, 400_000])
def test_memory_is_flat_in_the_number_of_restarts(restarts, tmp_path):
    peak = {}
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    for how in ("export", "sample"):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, how, str(restarts), str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak[how] = [int(n) / 1024 for n in done.stdout.split()]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    file = tmp_path / f"{restarts}.nc"
    with netCDF4.Dataset(file) as opened:
        raw = sum(v.size * v.dtype.itemsize for v in opened["ensemble"].variables.values())
    record(
        "export", f"{restarts:,} restarts", **{
            "peak MB of at.export": f"{peak['export'][1]:.0f}",
            "above a small export": f"{peak['export'][1] - peak['export'][0]:.0f}",
            "peak MB of at.sample": f"{peak['sample'][1]:.0f}",
            "archive MB": f"{file.stat().st_size / 1e6:.1f}",
            "before compression": f"{raw / 1e6:.1f}",
            "CPU s of both": f"{spent:.0f}",
        },
    )  # fmt: skip


def test_writing_and_reading_rates(tmp_path):
    """Seconds of CPU, those of child processes too, to write, validate and read one archive of 27 MB."""
    spent = lambda: sum(os.times()[:4])
    ensemble = at.sample(system(), torch.arange(16)[:, None], restarts=500, depth=64, keep=("trajectory",))
    size = sum(v.nbytes for v in ensemble.variables.values()) / 1e6
    rates = {}
    for name, work in (
        ("write", lambda: archive.write(tmp_path / "r.nc", {"ensemble": ensemble})),
        ("validate, checksums", lambda: validate(tmp_path / "r.nc")),
        ("read", lambda: archive.read(tmp_path / "r.nc")),
    ):
        times = []
        for _ in range(3):
            if (tmp_path / "r.nc").exists():
                os.utime(tmp_path / "r.nc")  # an unchanged file would not be checked again
            began = spent()
            work()
            times.append(spent() - began)
        rates[name] = f"{size / sorted(times)[1]:.0f} MB/s"
    file = (tmp_path / "r.nc").stat().st_size / 1e6
    record("archives", "16 puzzles, 500 restarts, depth 64, trajectories of 2 numbers",
           **{"MB": f"{size:.1f}", "in the file": f"{file:.1f}", **rates})  # fmt: skip
