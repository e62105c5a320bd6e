"""Runs are kept while an ensemble is sampled: one that was stopped goes on, and comes to the same."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.streaming.row_store import RowStore, records_of
from eqrlab.core import MapSystem

PUZZLES = torch.tensor([[0], [1], [2]])
LABELS = torch.full((3, 1), 2)


def planted(stop_after=None):
    """Two attractors, of which puzzle 0 ends at the right one; and the rows of each evaluation of a step."""
    rows: list[int] = []

    def start(x, generator):
        u = torch.rand((len(x), 1), generator=generator, dtype=torch.float64)
        return torch.where((x.reshape(-1, 1) == 0) | (u < 0.6), 0.5 + u, -0.5 - u)

    def step(z, x):
        rows.append(len(z))
        if stop_after is not None and len(rows) > stop_after:
            raise KeyboardInterrupt
        return torch.tanh(3 * z)

    return MapSystem(step, start, lambda z, x: (z > 0).long() + 1), rows


def waves(system, folder):
    run = at.Run.of(system, PUZZLES, labels=LABELS, restarts=40, depth=24)
    store = RowStore(folder, every=0.0)
    return at.sample_until_decided(run, batch_size=6, store=store)


def test_a_stopped_run_goes_on_to_the_same_ensemble(tmp_path):
    system, every = planted()
    whole = waves(system, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        waves(planted(stop_after=len(every) // 2)[0], tmp_path / "rows")
    assert list((tmp_path / "rows").glob("*.npz"))
    system, left = planted()
    again = waves(system, tmp_path / "rows")
    assert sum(left) < 0.75 * sum(every)
    xr.testing.assert_equal(again, whole)
    assert again.attrs["waves"] == whole.attrs["waves"]


def test_what_is_kept_is_not_run_again_whatever_the_batches(tmp_path):
    system, rows = planted()
    run = at.Run.of(system, PUZZLES, labels=LABELS, restarts=4, depth=24)
    store = RowStore(tmp_path / "rows", every=0.0)
    first = records_of(run, np.arange(0, 12, 2), batch_size=2, store=store)
    rows.clear()
    every = records_of(run, np.arange(12), batch_size=5, store=store)
    assert (
        sum(rows) == 7 * 25
    )  # the odd rows and one that says what records look like, an evaluation more than steps
    for name, values in first.items():
        np.testing.assert_array_equal(every[name][::2], values)
    rows.clear()
    records_of(run, np.arange(12)[::-1], store=store)
    assert not rows


def test_a_damaged_file_is_run_again_and_short_runs_leave_none(tmp_path):
    system, rows = planted()
    run = at.Run.of(system, PUZZLES, labels=LABELS, restarts=4, depth=24)
    store = RowStore(tmp_path / "rows", every=0.0)
    whole = records_of(run, np.arange(12), batch_size=6, store=store)
    first, _ = sorted((tmp_path / "rows").glob("*.npz"))
    first.write_bytes(first.read_bytes()[:100])
    rows.clear()
    again = records_of(run, np.arange(12), batch_size=6, store=store)
    assert sum(rows) == 7 * 25
    np.testing.assert_array_equal(again["residual"], whole["residual"])
    store.remove()
    assert not (tmp_path / "rows").exists()
    records_of(run, np.arange(12), store=RowStore(tmp_path / "rows"))
    assert not (tmp_path / "rows").exists()


def test_what_is_written_late_is_whole(tmp_path):
    """Records of several waves may wait for one file; those of the first are taken apart meanwhile."""
    system, rows = planted()
    run = at.Run.of(system, PUZZLES, labels=LABELS, restarts=4, depth=24)
    store = RowStore(tmp_path / "rows", every=np.inf)
    records_of(run, np.arange(6), store=store)
    store.every = 0.0
    records_of(run, np.arange(6, 12), store=store)
    rows.clear()
    records_of(run, np.arange(12), store=store)
    assert sum(rows) == 25


def test_files_that_are_no_records_of_the_run_are_left_out_and_left_alone(tmp_path):
    """A pipe, a packed file, and records without rows, of rows beyond the run, of other names and of other shapes."""
    system, _ = planted()
    run = at.Run.of(system, PUZZLES, labels=LABELS, restarts=4, depth=24)
    whole = records_of(run, np.arange(12))
    folder = tmp_path / "rows"
    folder.mkdir()
    os.mkfifo(folder / "0-1.npz")
    sound = {"row": np.arange(12), **whole}
    np.savez_compressed(folder / "1-12.npz", **sound)
    np.savez(folder / "2-12.npz", **whole)
    np.savez(folder / "3-12.npz", **sound | {"row": np.arange(12) + 1})
    np.savez(folder / "4-12.npz", **sound, other=np.zeros(12))
    np.savez(folder / "5-12.npz", **sound | {"residual": whole["residual"][:, :3]})
    np.savez(folder / "6-12.npz", **sound | {"row": np.arange(12.0)})
    (folder / "7-12.npz").write_bytes(b"junk")
    store = RowStore(folder, every=np.inf)
    assert len(store.load(whole, 12)[0]) == 0
    again = records_of(run, np.arange(12), store=store)
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values)
    np.savez(folder / "8-12.npz", **sound)
    assert store.load(whole, 12)[0].tolist() == list(range(12))
    store.remove()
    assert [file.name for file in folder.iterdir()] == ["0-1.npz"]
