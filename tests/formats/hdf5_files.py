"""HDF5 files indexed and read in this process, without a loop: for one test after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.codecs import decode, fill
from asyncload.errors import FormatError
from asyncload.formats._hdf5 import _entries
from asyncload.formats._hdf5_walk import walk_file
from asyncload.interfaces import Bounds
from asyncload.manifest import TensorEntry, file_version, numpy_dtype

__all__ = ["index_file", "read_file"]

Array = npt.NDArray[Any]


def index_file(path: Path, base: int = 0, length: int | None = None) -> dict[str, TensorEntry]:
    """Return the entries of a file, or of one within it."""
    status = path.stat()
    length = status.st_size - base if length is None else length
    where = str(path), file_version(status), base, length, path.name
    rows, left_out = walk_file(*where, Bounds())
    for name, reason in left_out.items():
        raise FormatError(reason, uri=path.name, tensor=name)
    return _entries(rows, 0, base)


def read_file(path: Path, base: int = 0, length: int | None = None) -> dict[str, Array]:
    """Return every tensor, decoded."""
    content = memoryview(path.read_bytes())
    return {name: _read(entry, content) for name, entry in index_file(path, base, length).items()}


def _read(entry: TensorEntry, content: memoryview) -> Array:
    out = bytearray(entry.nbytes)
    fill(entry, memoryview(out))
    stored = [content[offset : offset + length] for offset, length in entry.spans()]
    assert [len(piece) for piece in stored] == [length for _, length in entry.spans()]
    decode(entry, stored, memoryview(out))
    return np.frombuffer(out, numpy_dtype(entry.dtype)).reshape(entry.shape)
