"""Checkpoints with a table of puzzle embeddings as large as the public ones, as files full of holes."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TABLE = "puzzle_emb.weights"


def write_sparse(
    path: Path, tensors: dict[str, Tensor], table: str, shape: tuple[int, int], rows: dict[int, Tensor]
) -> Path:
    """Write what torch.save writes of these tensors and a float32 table of a shape, zero but for some rows (width,).

    The bytes of the table are a hole in the file, but for the pages with the rows given.
    """
    small = io.BytesIO()
    torch.save({**tensors, table: torch.zeros(5, shape[1])}, small)
    with zipfile.ZipFile(small) as archive:
        names = archive.namelist()
        content = {name: archive.read(name) for name in names}
    pickle = next(name for name in names if name.endswith("/data.pkl"))
    # the one storage of 5 * width values and the one shape (5, width) become the large ones
    counted, large = 5 * shape[1], shape[0] * shape[1]
    count = (b"M" + struct.pack("<H", counted), b"J" + struct.pack("<i", large))
    shaped = (
        b"K\x05M" + struct.pack("<H", shape[1]),
        b"J" + struct.pack("<i", shape[0]) + b"M" + struct.pack("<H", shape[1]),
    )
    hole = next(n for n in names if "/data/" in n and len(content[n]) == counted * 4)
    for old, new in (count, shaped):
        assert content[pickle].count(old) == 1, "the table must be the only tensor of its size"
        content[pickle] = content[pickle].replace(old, new)
    directory = b""
    with open(path, "wb") as file:
        for name in names:
            start, data = file.tell(), content[name]
            size = large * 4 if name == hole else len(data)
            title, crc = name.encode(), 0 if name == hole else zlib.crc32(data)
            gap = -(start + 30 + len(title)) % 64  # torch.save aligns records
            fields = (20, 0, 0, 0, 0, crc, size, size, len(title))
            file.write(b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", *fields, gap) + title + bytes(gap))
            if name == hole:
                place = file.tell()
                for row, values in rows.items():
                    file.seek(place + row * shape[1] * 4)
                    file.write(values.numpy().astype(np.float32).tobytes())
                file.seek(place + size)
            else:
                file.write(data)
            directory += b"PK\x01\x02" + struct.pack(
                "<HHHHHHIIIHHHHHII", 20, *fields, 0, 0, 0, 0, 0, start
            ) + title  # fmt: skip
        end = file.tell()
        many = len(names)
        file.write(
            directory + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, many, many, len(directory), end, 0)
        )
    return path
