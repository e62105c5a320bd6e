"""Archives: NetCDF-4 files with one group for each dataset."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from eqrlab.attractors.results import schema
from eqrlab.core.errors import DAMAGE
from eqrlab.core.files import replaced_whole
from eqrlab.core.interrupts import interrupts_held
from eqrlab.core.kinds import HDF5, LOOKED_AT, kind_of
from eqrlab.core.messages import one_line

TRIES = 5  # at a file that others replace
SMALL = 2**25  # bytes of a file whose values are compared with their checksums whenever it is opened


def write(path: str | Path, groups: Mapping[str, xr.Dataset]) -> None:
    """Write datasets as groups of one NetCDF-4 file, whole or not at all.

    Parameters
    ----------
    path
        Where to write; an older file of that name stays until the new one is complete.
    groups
        Group name ("ensemble", or nested "model/ensemble") to dataset.  Complex variables are stored with a trailing
        dimension `ri` (real, imaginary), and are complex again in `read`.  Every variable gets the attribute `sha256`
        of its stored values, see SCHEMA.md.

    Raises
    ------
    OSError
        When the file cannot be written.
    """
    tree = xr.DataTree.from_dict({name: _with_checksums(_real(dataset)) for name, dataset in groups.items()})
    tree.attrs = _common([dataset.attrs for dataset in groups.values()])
    encoding = {
        f"/{name}": {
            str(v): _encoding(dataset[v]) for v in _real(dataset).data_vars if dataset[v].dtype.kind in "fiub"
        }
        for name, dataset in groups.items()
    }
    with interrupts_held(), replaced_whole(path) as temporary, netcdf_errors(path):
        tree.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


Signature = tuple[int, ...]
Opened = TypeVar("Opened", xr.DataTree, xr.Dataset)


def look(
    path: str | Path, *, values: bool | Sequence[str] = True, complete: bool = True, in_memory: bool = False
) -> dict[str, Any]:
    """Check in a separate process, before this one opens the file, that it is an archive as SCHEMA.md describes.

    Parameters
    ----------
    values
        Variables whose values are read, to check checksums, flags and ranges: all (True), those named, or only
        coordinates (False).
    complete
        False: check only checksums, codes and ranges of the variables present; the file may be a part of an archive.
    in_memory
        Refuse what does not fit into memory.

    Returns
    -------
    dict
        How many `groups` and `variables` there are, how many `checksums` were compared, and the variables of known
        groups that SCHEMA.md does not list: `unlisted`.

    Raises
    ------
    ValueError
        At the first fault, in a printable line that begins with the name of the file.

    Notes
    -----
    The structure of the file is checked first, without reading a value: nothing may be outside of it, linked twice, of
    a type that archives do not have, or declared larger than its bytes can hold.  The content is checked second.  The
    process may use 1 GB of memory, and 2 seconds of processor time without progress.  The check takes about 0.2 s for a
    small archive, plus the time to read the values once.  A file that has not changed since is not checked again.
    """
    most = _free_memory() // 2 if in_memory else None
    options = {"values": values if isinstance(values, bool) else sorted(values), "complete": complete}
    now = signature(path)
    try:
        return _looked(os.path.abspath(path), now, json.dumps({**options, "most": most}))
    except ValueError as error:
        raise ValueError(one_line(f"{path}: {error}", 1000)) from None


def signature(path: str | Path) -> Signature:
    """Return a signature that changes if a file is changed or replaced.

    Raises
    ------
    ValueError
        If it is not a regular file: pipes and devices may have no end.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise ValueError(
            one_line(f"{path}: no such file; expected an archive written by eqrlab", 1000)
        ) from None
    except (OSError, ValueError) as error:  # a circle of links, no permission, a zero byte in the name
        raise ValueError(one_line(f"{path}: cannot be read ({error})", 1000)) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ValueError(one_line(f"{path}: is {kind}; expected an archive written by eqrlab", 1000))
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(64)
def _looked(path: str, _: Signature, options: str) -> dict[str, Any]:
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        kind = kind_of(file.read(LOOKED_AT))
        if kind not in (None, HDF5):
            raise ValueError(f"this is {kind}; an archive written by eqrlab (NetCDF-4) is required")
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("archive_child.py")), path, options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        env={**os.environ, **one, "HDF5_PLUGIN_PRELOAD": "::"},  # "::": load no filters from elsewhere
    )  # fmt: skip
    try:
        answer = json.loads(child.stdout)
    except ValueError:
        raise ValueError(_ended(child.returncode)) from None
    if "broken" in answer:
        raise OSError(f"archives cannot be read: {answer['broken']}; install eqrlab again")
    if "fault" in answer:
        raise ValueError(" ".join(answer["fault"].split()))
    return answer["found"]


def _ended(code: int) -> str:
    """Say why the process that looked at a file gave no answer."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if name in ("SIGXCPU", "SIGALRM"):
        return "looking at it takes too long: the file is damaged or forged"
    if name == "SIGKILL":
        return "looking at it was ended by the system, for lack of memory or of time"
    return f"the library that reads it crashes ({name}): the file is damaged or forged"


def _free_memory() -> int:
    """Return the bytes of free memory, or a large number if the system does not report it."""
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return 2**63


@contextmanager
def open(
    path: str | Path, *, values: bool | Sequence[str] = True, complete: bool = True, in_memory: bool = False
) -> Iterator[xr.DataTree]:
    """Open an archive that `look` finds sound; its values are read where they are used, and Ctrl-C waits.

    Parameters
    ----------
    path, values, complete, in_memory
        See `look`.

    Raises
    ------
    ValueError
        See `look`; also when the file is changed meanwhile.
    """

    def opener() -> xr.DataTree:
        with refused(path):
            return xr.open_datatree(os.path.abspath(path), engine="netcdf4", decode_times=False)

    with interrupts_held():
        tree, before = _as_looked_at(path, opener, values=values, complete=complete, in_memory=in_memory)
        with tree:
            yield tree
    now = signature(path)
    if (
        now != before and now[:2] == before[:2]
    ):  # another file of that name does not change the one that was open
        raise ValueError(one_line(f"{path}: was changed while it was read", 1000))


def _as_looked_at(path: str | Path, opener: Callable[[], Opened], **how: Any) -> tuple[Opened, Signature]:
    """Open what was found sound: where another file took its name meanwhile, as exports do, that is looked at too."""
    for _ in range(TRIES):
        before = signature(path)
        look(path, **how)
        opened = opener()
        if signature(path) == before:
            return opened, before
        opened.close()
    raise ValueError(one_line(f"{path}: keeps changing while it is read", 1000))


@contextmanager
def refused(path: str | Path, what: str = "not a readable NetCDF-4 archive") -> Iterator[None]:
    """Turn errors caused by contents that archives cannot have into one printable line."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(one_line(f"{path}: {what} ({reason})", 1000)) from None


def read(path: str | Path, *, complete: bool = False) -> xr.DataTree:
    """Open an archive whole, in memory.

    Parameters
    ----------
    complete
        Require everything that SCHEMA.md requires; if False, the file may be a part of an archive, as `write` makes
        it from any groups.

    Raises
    ------
    ValueError
        When the file is missing, no archive, damaged, of a newer schema version, or too large for the memory, naming
        it.  See `look`.
    """
    with open(path, complete=complete, in_memory=True) as tree, refused(path):
        loaded = tree.load()
    with _named(path):
        loaded = loaded.map_over_datasets(schema.migrated)
        return loaded.map_over_datasets(_without_checksums).map_over_datasets(_complex)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Put the name of the file before a refusal."""
    try:
        yield
    except ValueError as error:
        raise ValueError(one_line(f"{path}: {(str(error).splitlines() or [''])[0]}", 1000)) from None


def open_ensemble(
    path: str | Path, *, group: str = "ensemble", chunks: Mapping[str, int] | None = None
) -> xr.Dataset:
    """Open a group of an archive without reading its values: they are read where they are used.

    Parameters
    ----------
    group
        Name of the group, such as "ensemble".
    chunks
        None: a part selected with `isel` is read by itself.  Otherwise dask arrays with these chunks, {} for those of
        the file, so that whole variables can be processed piece by piece; needs `eqrlab[lazy]`.

    Returns
    -------
    xarray.Dataset
        To be closed after use, best with `with`.

    Raises
    ------
    ValueError
        When the file is missing, no archive, of a newer schema version, or has no such group.

    Notes
    -----
    Analyses take whole puzzles: `basins(ensemble.isel(puzzle=slice(0, 100)).load())` needs the memory of 100 puzzles.

    The file is checked first; the values of files above 32 MB are not read for this.  `eqrlab verify` compares all
    values with their checksums.
    """

    def opener() -> xr.Dataset:
        with refused(path, f"group {group!r} cannot be read"):
            return xr.open_dataset(
                os.path.abspath(path), group=group, engine="netcdf4", chunks=chunks, decode_times=False
            )

    small = signature(path)[2] <= SMALL
    with interrupts_held():
        opened, _ = _as_looked_at(path, opener, values=small)
    with _named(path):
        return schema.migrated(opened)


def completed_part(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the largest complete ensemble in an unfinished export: some puzzles, all with the same first restarts.

    Raises
    ------
    ValueError
        When not one run is completed.
    """
    if "sampled" not in ensemble:
        return ensemble
    first = np.logical_and.accumulate(ensemble.sampled.values, axis=1).sum(1)  # (puzzle,)
    sizes = [int(r) * int((first >= r).sum()) for r in first]
    restarts = int(first[int(np.argmax(sizes))])
    if not restarts:
        raise ValueError("not one run of this ensemble is completed")
    part = ensemble.isel(puzzle=np.flatnonzero(first >= restarts), restart=slice(restarts))
    return part.drop_vars("sampled").assign_attrs(complete=1, restarts=restarts)


def _real(dataset: xr.Dataset) -> xr.Dataset:
    for name, variable in dataset.data_vars.items():
        if variable.dtype.kind == "c":
            parts = xr.concat([variable.real, variable.imag], dim="ri").transpose(..., "ri")
            dataset = dataset.assign(
                {name: parts.assign_attrs({**variable.attrs, "complex": "real and imaginary part"})}
            )
            dataset = dataset.assign_coords(
                ri=("ri", ["real", "imaginary"], {"long_name": "part of a complex number"})
            )
    return dataset


def _complex(dataset: xr.Dataset) -> xr.Dataset:
    if "ri" not in dataset.dims:
        return dataset
    for name, variable in dataset.data_vars.items():
        if "ri" in variable.dims:
            joined = variable.isel(ri=0, drop=True) + 1j * variable.isel(ri=1, drop=True)
            attrs = {k: v for k, v in variable.attrs.items() if k != "complex"}
            dataset = dataset.assign({name: joined.assign_attrs(attrs)})
    return dataset.drop_vars("ri")


@contextmanager
def netcdf_errors(path: str | Path) -> Iterator[None]:
    """Turn the RuntimeError with which the NetCDF library says that a file cannot be written into an OSError."""
    try:
        yield
    except RuntimeError as error:
        code = errno.ENOSPC if shutil.disk_usage(Path(path).parent).free < 2**20 else errno.EIO
        raise OSError(code, f"{os.strerror(code)} ({error})", str(path)) from None


def stored(values: np.ndarray) -> np.ndarray:
    """Return values as they stand in a file: C order, little-endian, booleans as int8."""
    values = values.astype(np.int8) if values.dtype == bool else values
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(values.shape)


def checksum(values: np.ndarray) -> str:
    """Return the SHA-256 of a variable's stored values; of text that of its UTF-8, a zero byte after each entry."""
    if values.dtype.kind in "OU":
        return hashlib.sha256(b"".join(str(v).encode() + b"\0" for v in values.reshape(-1))).hexdigest()
    return hashlib.sha256(stored(values).tobytes()).hexdigest()


def _with_checksums(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy()
    for variable in dataset.variables.values():
        variable.attrs["sha256"] = checksum(variable.values)
    return dataset


def _without_checksums(dataset: xr.Dataset) -> xr.Dataset:
    dataset = dataset.copy()
    for variable in dataset.variables.values():
        variable.attrs.pop("sha256", None)
    return dataset


def _encoding(variable: xr.DataArray) -> dict[str, object]:
    encoding: dict[str, object] = {"zlib": True, "complevel": 4, "shuffle": True} if variable.ndim else {}
    if variable.dtype.kind == "f" and np.isfinite(variable.values).all():
        encoding["_FillValue"] = None
    return encoding


def _common(attributes: list[dict]) -> dict:
    """Return the attributes that all groups share."""
    first, *others = attributes
    return {k: v for k, v in first.items() if all(str(o.get(k)) == str(v) for o in others)}
