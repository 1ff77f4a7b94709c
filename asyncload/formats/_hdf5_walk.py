"""Walks an HDF5 file and tells where its datasets lie; runs in a worker process.

This uses h5py's low-level interface, which is five times faster here than its usual one. What
HDF5 lets a file do and a file of weights need not do is refused: reach other files, contain
itself, declare more than it holds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from h5py import h5d, h5g, h5l, h5o

from asyncload.errors import Corrupt, Unsafe

from ._hdf5_file import OpenFile, open_path
from ._hdf5_layout import Layouts
from ._hdf5_rows import Row

__all__ = ["text_of", "walk", "walk_file"]


def walk_file(path: str, version: str, base: int, length: int, uri: str) -> list[Row]:
    """Walk an HDF5 file that lies in another file; see `open_path` and `walk`."""
    with open_path(path, version, base, length, uri) as file:
        return walk(file)


def walk(file: OpenFile) -> list[Row]:
    """Return rows of the datasets, offsets counted from where the HDF5 file begins.

    Raises: as `index_hdf5` does.
    """
    uri = file.uri
    root = h5g.open(file.id, b"/")
    layouts = Layouts(file.length, file.id.get_create_plist().get_userblock(), uri)
    rows: list[Row] = []
    for raw_name in _leaves(root, uri):
        found = h5o.open(root, raw_name)
        if isinstance(found, h5d.DatasetID):
            rows.append(layouts.row(found, text_of(raw_name, uri)))
        elif isinstance(found, h5g.GroupID) and found.get_num_objs():
            # HDF5 has entered it by its other name, and does so once.
            raise _loop(raw_name, uri)
    return rows


def _leaves(root: Any, uri: str) -> list[bytes]:
    """Return the paths of all objects that are no groups, or are groups without members."""
    names: list[bytes] = []

    def visit(name: bytes, link: Any) -> object:
        if link.type != h5l.TYPE_HARD:
            return _refused_link(name, link.type, uri)
        names.append(name)
        return None

    refusal = root.links.visit(visit, info=True)
    if refusal is not None:
        raise refusal
    return [name for name, after in pairwise([*names, b""]) if not after.startswith(name + b"/")]


def _refused_link(name: bytes, kind: int, uri: str) -> Unsafe:
    known = {h5l.TYPE_SOFT: "soft", h5l.TYPE_EXTERNAL: "external"}
    return Unsafe(
        f"holds {name.decode(errors='replace')!r}, which is a link of {known.get(kind, 'unknown')} "
        "kind; only objects of the file itself are read. Copy what it points to into the file.",
        uri=uri,
    )


def _loop(name: bytes, uri: str) -> Unsafe:
    return Unsafe(
        f"holds the group {name.decode(errors='replace')!r} in more than one place, so that it may "
        "contain itself; expected a tree. Copy the group instead of linking it.",
        uri=uri,
    )


def text_of(name: bytes, uri: str) -> str:
    """Return a dataset's path as text."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"names a dataset {name!r}, which is not UTF-8", uri=uri) from error
