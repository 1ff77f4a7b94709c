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
from asyncload.interfaces import Bounds

from ._hdf5_file import OpenFile, open_path
from ._hdf5_layout import Layouts
from ._hdf5_rows import Row
from ._hdf5_types import NoTensor

__all__ = ["text_of", "walk", "walk_file"]


def walk_file(
    path: str, version: str, base: int, length: int, uri: str, bounds: Bounds
) -> tuple[list[Row], dict[str, str]]:
    """Walk an HDF5 file that lies in another file; see `open_path` and `walk`."""
    with open_path(path, version, base, length, uri) as file:
        return walk(file, bounds)


def walk(file: OpenFile, bounds: Bounds) -> tuple[list[Row], dict[str, str]]:
    """Walk a file.

    Returns:
        Rows of the datasets, offsets counted from where the HDF5 file begins; and the paths of
        those that make no tensor, with the reason.

    Raises: as `index_hdf5` does.
    """
    uri = file.uri
    root = h5g.open(file.id, b"/")
    userblock = file.id.get_create_plist().get_userblock()
    layouts = Layouts(file.length, userblock, uri, bounds)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    seen: set[int] = set()
    for address, raw_name in _leaves(root, uri):
        found = h5o.open(root, raw_name)
        if isinstance(found, h5d.DatasetID):
            name = text_of(raw_name, uri)
            try:
                rows.append(layouts.row(found, name, again=address in seen))
            except NoTensor as reason:
                left_out[name] = reason.message
            seen.add(address)
        elif isinstance(found, h5g.GroupID) and found.get_num_objs():
            # HDF5 has entered it by its other name, and does so once.
            raise _loop(raw_name, uri)
    return rows, left_out


def _leaves(root: Any, uri: str) -> list[tuple[int, bytes]]:
    """Return all objects that are no groups, or are groups without members.

    Returns:
        Where each lies in the file, which is the same for one object by two names; and its path.
    """
    found: list[tuple[int, bytes]] = []

    def visit(name: bytes, link: Any) -> object:
        if link.type != h5l.TYPE_HARD:
            return _refused_link(name, link.type, uri)
        found.append((link.u, name))
        return None

    refusal = root.links.visit(visit, info=True)
    if refusal is not None:
        raise refusal
    return [
        each
        for each, (_, after) in pairwise([*found, (0, b"")])
        if not after.startswith(each[1] + b"/")
    ]


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
