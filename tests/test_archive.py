"""Archives: what is written comes back, whole or not at all."""

import gzip
import shutil
import subprocess

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.results import archive, schema
from tests.zoo import puzzles, selector


@pytest.fixture(scope="module")
def groups():
    ensemble = at.sample(
        selector([[0.0], [1.0]]), puzzles(2), labels=torch.full((2, 1), 2), restarts=20, depth=16
    )
    return {
        "ensemble": ensemble,
        "basins": at.basins(ensemble),
        "alignment": at.alignment(ensemble),
        "modes": at.modes(ensemble),
    }


def test_every_group_comes_back_equal(groups, tmp_path):
    archive.write(tmp_path / "a.nc", groups)
    tree = archive.read(tmp_path / "a.nc")
    assert set(tree.children) == set(groups)
    for name, dataset in groups.items():
        assert tree[name].to_dataset().equals(dataset)
        for variable in dataset.variables:
            assert tree[name][variable].attrs.get("long_name") == dataset[variable].attrs.get("long_name")
        assert {k: str(v) for k, v in dataset.attrs.items()} == {
            k: str(v) for k, v in tree[name].to_dataset().attrs.items()
        }


def test_plain_xarray_reads_it_too(groups, tmp_path):
    archive.write(tmp_path / "a.nc", groups)
    with xr.open_datatree(tmp_path / "a.nc") as tree:
        assert tree["modes"].mode.attrs["flag_meanings"] == "a b c d undecided"
        assert tree["ensemble"].attrs["Conventions"] == "CF-1.11" == tree.attrs["Conventions"]


@pytest.mark.skipif(shutil.which("ncdump") is None, reason="ncdump is not installed")
def test_ncdump_reads_it(groups, tmp_path):
    archive.write(tmp_path / "a.nc", groups)
    header = subprocess.run(
        ["ncdump", "-h", tmp_path / "a.nc"], capture_output=True, text=True, check=True
    ).stdout
    assert "group: ensemble {" in header and 'residual:units = "1"' in header


def test_complex_values_are_stored_as_pairs(tmp_path):
    values = np.array([[1 + 2j, -0.5j], [0, np.nan * 1j]])
    dataset = schema.dataset({"eigenvalue": (("point", "eig"), values, "eigenvalue")}, {"title": "t"})
    archive.write(tmp_path / "a.nc", {"spectrum": dataset})
    with xr.open_datatree(tmp_path / "a.nc") as raw:
        assert raw["spectrum"].eigenvalue.dims == ("point", "eig", "ri")
    back = archive.read(tmp_path / "a.nc")["spectrum"].to_dataset()
    np.testing.assert_array_equal(back.eigenvalue.values, values)


def test_a_failed_write_leaves_the_old_file(groups, tmp_path, monkeypatch):
    path = tmp_path / "a.nc"
    archive.write(path, groups)
    before = path.read_bytes()

    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", broken)
    with pytest.raises(OSError, match="No space"):
        archive.write(path, groups)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_foreign_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        archive.read(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.nc: not a readable NetCDF-4 archive"):
        archive.read(tmp_path / "text.nc")


@pytest.mark.parametrize("version", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
def test_netcdf_3_and_compressed_files_are_named_by_their_kind(groups, tmp_path, version):
    path, packed = tmp_path / "old.nc", tmp_path / "a.nc.gz"
    with netCDF4.Dataset(path, "w", format=version) as file:
        file.createDimension("puzzle", 2)
    archive.write(tmp_path / "a.nc", groups)
    packed.write_bytes(gzip.compress((tmp_path / "a.nc").read_bytes()))
    for wrong, kind in ((path, "a NetCDF-3 file"), (packed, "a gzip file")):
        with pytest.raises(ValueError, match=rf"{wrong.name}: this is {kind}; an archive .* is required$"):
            archive.read(wrong)
