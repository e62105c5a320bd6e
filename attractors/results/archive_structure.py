"""Check of the structure of an HDF5 file before anything in it is used: links, storage, types, and declared sizes.

HDF5 has many features that archives do not need and hostile files can use: values in other files, circular links
between groups, declared terabytes that do not exist.  The allowed features are therefore listed; all else is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from h5py import h5a, h5d, h5f, h5g, h5o, h5s, h5t, h5z

DEPTH = 8  # groups within groups; archives have two
GROUPS, VARIABLES, ATTRIBUTES = 2_000, 20_000, 256  # in a file, in a file, of one object
NAME, TEXT = 255, 2**20  # bytes of a name, of an attribute
CHUNK = 2**28  # bytes of a chunk before compression
UNWRITTEN, HOLES = 2**24, 4_096  # bytes, and chunks, that may be declared and not be there
REFERENCE = 16  # bytes by which an entry of text tells where it is
INFLATION = 1_032  # the most that deflate can make of a byte
GROWTH = 1.01  # at most what deflate adds to bytes that it cannot shorten, 1 kB aside

NUMBERS = tuple(
    getattr(h5t, f"{kind}{bits}{end}")
    for end in ("LE", "BE")
    for kind, sizes in (("STD_I", (8, 16, 32, 64)), ("STD_U", (8, 16, 32, 64)), ("IEEE_F", (32, 64)))
    for bits in sizes
)
FILTERS = {h5z.FILTER_DEFLATE: "deflate", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
OF_THE_LIBRARY = {b"DIMENSION_LIST": h5t.VLEN, b"REFERENCE_LIST": h5t.COMPOUND}  # how netCDF keeps dimensions
CLASSES = {
    h5t.TIME: "time", h5t.BITFIELD: "bit field", h5t.OPAQUE: "opaque", h5t.COMPOUND: "compound",
    h5t.REFERENCE: "reference", h5t.ENUM: "enumeration", h5t.VLEN: "variable length", h5t.ARRAY: "array",
}  # fmt: skip


def look(path: str | Path, step: Callable[[], None] = lambda: None) -> int:
    """Check the structure of the file, without reading a value.

    Parameters
    ----------
    step
        Called before each object: a watchdog is told that there is progress.

    Returns
    -------
    int
        Bytes that all its variables have in memory.

    Raises
    ------
    ValueError
        For what no archive has, naming it.
    """
    return _Look(Path(path), step).bytes


class _Look:
    def __init__(self, path: Path, step: Callable[[], None]):
        self.size, self.step = path.stat().st_size, step
        self.bytes = self.stored = self.unwritten = self.holes = self.groups = self.variables = 0
        self.seen: set[int] = set()
        try:
            file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"not a readable NetCDF-4 archive ({error})") from None
        try:
            root = h5g.open(file, b"/")
            self.seen.add(h5o.get_info(root).addr)
            self.group(root, "", 0)
        except (OSError, RuntimeError, KeyError) as error:  # the library's own: a damaged header, for example
            raise ValueError(f"not a readable NetCDF-4 archive ({error})") from None
        finally:
            file.close()

    def group(self, group: Any, path: str, depth: int) -> None:
        self.groups += 1
        if self.groups > GROUPS:
            raise ValueError(f"has more than {GROUPS} groups")
        if depth > DEPTH:
            raise ValueError(f"group {path} is nested more than {DEPTH} deep")
        self.attributes(group, f"group {path or '/'}")
        links: list[tuple[bytes, Any]] = []

        def collect(name: bytes, info: Any) -> bool | None:
            links.append((bytes(name), info.type))
            return True if len(links) > VARIABLES else None  # True ends it

        proxy = group.links  # it keeps no hold of the group by itself
        proxy.iterate(collect, info=True)
        for raw, kind in links:
            name = f"{path}/{self.name(raw, path)}"
            if kind != h5py.h5l.TYPE_HARD:
                sort = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
                raise ValueError(
                    f"{name} is {sort.get(kind, 'a link of unknown kind')}; an archive must not have links"
                )
            self.object(group, raw, name, depth)

    def object(self, group: Any, raw: bytes, name: str, depth: int) -> None:
        self.step()
        found = h5o.get_info(group, raw)
        if found.addr in self.seen or found.rc != 1:
            raise ValueError(f"{name} is linked to more than once")
        self.seen.add(found.addr)
        if found.type == h5o.TYPE_GROUP:
            self.group(h5g.open(group, raw), name, depth + 1)
        elif found.type == h5o.TYPE_DATASET:
            self.variables += 1
            if self.variables > VARIABLES:
                raise ValueError(f"has more than {VARIABLES} variables")
            self.variable(h5d.open(group, raw), f"variable {name}")
        else:
            raise ValueError(f"{name} is a type definition; an archive must have numbers and text only")

    def name(self, raw: bytes, where: str) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{where or '/'}: the name {raw[:40]!r} is not UTF-8") from None
        if len(raw) > NAME or not text.isprintable():
            raise ValueError(
                f"{where or '/'}: the name {text[:40]!r} is not printable text of at most {NAME} bytes"
            )
        return text

    def attributes(self, thing: Any, where: str) -> None:
        count = h5a.get_num_attrs(thing)
        if count > ATTRIBUTES:
            raise ValueError(f"{where} has {count} attributes, at most {ATTRIBUTES} are read")
        names: list[bytes] = []
        h5a.iterate(thing, lambda name: names.append(bytes(name)))
        for raw in names:
            attribute, title = h5a.open(thing, raw), f"{where}, attribute {self.name(raw, where)!r}"
            kind, space = attribute.get_type(), attribute.get_space()
            if OF_THE_LIBRARY.get(raw) != kind.get_class():
                self.type(kind, title)
            if space.get_simple_extent_ndims() > 1:
                raise ValueError(f"{title} has more than one dimension")
            if space.get_simple_extent_npoints() * kind.get_size() > TEXT:
                raise ValueError(f"{title} is larger than {TEXT} bytes")

    def type(self, kind: Any, where: str) -> None:
        """Refuse all but integers, floats of 32 and 64 bits, and text."""
        found = kind.get_class()
        if found in (h5t.INTEGER, h5t.FLOAT):
            if any(kind.equal(known) for known in NUMBERS):
                return
            what = f"a number of {8 * kind.get_size()} bits in an unusual form"
        elif found == h5t.STRING:
            return
        else:
            what = f"of the type {CLASSES.get(found, 'complex')}"
        raise ValueError(f"{where} is {what}; only integers, floats of 32 and 64 bits and text are read")

    def variable(self, data: Any, where: str) -> None:
        kind, space, plan = data.get_type(), data.get_space(), data.get_create_plist()
        if plan.get_external_count():
            raise ValueError(f"{where} keeps its values in another file; an archive must hold them itself")
        layout = plan.get_layout()
        if layout == h5d.VIRTUAL:
            raise ValueError(
                f"{where} is put together from other files; an archive must hold its values itself"
            )
        self.type(kind, where)
        if space.get_simple_extent_type() == h5s.NULL:
            raise ValueError(f"{where} has no values and no shape")
        shape, item = space.get_simple_extent_dims(), kind.get_size()
        if kind.get_class() == h5t.STRING and kind.is_variable_str():
            item = REFERENCE  # in the file; get_size tells that of a pointer
        self.attributes(data, where)
        declared = math.prod(shape) * item
        self.bytes += declared
        if declared > UNWRITTEN + INFLATION * self.size:
            raise ValueError(
                f"{where} declares {declared:,} bytes, more than {self.size:,} bytes of file can hold"
            )
        if layout == h5d.CHUNKED:
            self.chunks(data, where, shape, plan.get_chunk(), item)
            self.filters(plan, where)
        elif layout == h5d.CONTIGUOUS:
            place = data.get_offset()
            if place is None:
                self.missing(where, declared, 1)
            elif place + declared > self.size:
                raise ValueError(f"{where} declares {declared:,} bytes, and the file ends before them")
            else:
                self.stored += declared
        elif layout != h5d.COMPACT:
            raise ValueError(f"{where} has a storage layout that is not known")
        if self.stored > self.size:
            raise ValueError(f"{where} and those before it share bytes of the file: it is damaged or forged")

    def filters(self, plan: Any, where: str) -> None:
        used = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        for number in used:
            if number not in FILTERS or used.count(number) > 1:
                known = ", ".join(FILTERS.values())
                raise ValueError(f"{where} is stored through filters {used}; {known}, once each, are read")

    def chunks(
        self, data: Any, where: str, shape: tuple[int, ...], chunk: tuple[int, ...], item: int
    ) -> None:
        """See that a variable's chunks lie in the file, once each, as many as its shape needs."""
        size = math.prod(chunk) * item
        needed = math.prod(-(-extent // step) for extent, step in zip(shape, chunk, strict=True))
        if size > CHUNK:
            raise ValueError(f"{where} is stored in chunks of {size:,} bytes, at most {CHUNK:,} are read")
        places: set[int] = set()
        fault: list[str] = []

        def check(found: Any) -> bool | None:
            if len(places) % 10_000 == 0:
                self.step()
            inside = all(
                o % c == 0 and o < s for o, c, s in zip(found.chunk_offset, chunk, shape, strict=True)
            )
            if not inside or found.byte_offset is None or found.byte_offset + found.size > self.size:
                fault.append("has a chunk outside of the file or of its shape")
            elif found.byte_offset in places or len(places) >= needed:
                fault.append("has the same chunk twice")
            elif found.size > size * GROWTH + 1024:
                fault.append(f"has a chunk of {found.size:,} bytes for {size:,}")
            places.add(found.byte_offset)
            self.stored += found.size
            return True if fault or self.stored > self.size else None

        if needed:
            data.chunk_iter(check)
        if fault:
            raise ValueError(f"{where} {fault[0]}: the file is damaged or forged")
        if self.stored <= self.size:
            self.missing(where, (needed - len(places)) * size, needed - len(places))

    def missing(self, where: str, size: int, holes: int) -> None:
        self.unwritten += size
        self.holes += holes
        if self.unwritten > UNWRITTEN or self.holes > HOLES:
            raise ValueError(
                f"{where} declares values that are not in the file ({self.unwritten:,} bytes with those before it)"
            )
