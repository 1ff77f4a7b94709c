"""Walks an HDF5 file and tells where its datasets lie; runs in a worker process.

This uses h5py's low-level interface, which is five times faster here than its usual one. What
HDF5 lets a file do and a file of weights need not do is refused: reach other files, contain
itself, declare more than it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from h5py import h5d, h5f, h5fd, h5g, h5l, h5o, h5p

from asyncload.errors import AsyncloadError, Corrupt, SourceChanged, Unsafe
from asyncload.manifest import file_version

from ._hdf5_layout import Layouts
from ._hdf5_rows import Row
from ._hdf5_window import FileWindow

__all__ = ["walk_file"]

# What h5py makes of HDF5's errors, by their numbers.
_HDF5_ERRORS = (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError)


def walk_file(path: str, version: str, base: int, length: int, uri: str) -> list[Row]:
    """Walk an HDF5 file that lies in another file.

    Args:
        path: of the other file.
        version: that it must have, as `manifest.file_version` names it.
        base: its first byte in the other file.
        length: in bytes.
        uri: for messages.

    Returns:
        Rows of datasets, offsets counted from ``base``.

    Raises: as `index_hdf5` does.
    """
    with _opened(path, version, uri) as descriptor:
        window = FileWindow(descriptor, base, length, uri)
        try:
            return _walk(window, uri)
        except Corrupt:
            if window.error is not None:
                raise window.error from None
            raise


@contextmanager
def _opened(path: str, version: str, uri: str) -> Iterator[int]:
    changed = "was replaced or changed since it was opened; load it again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceChanged(changed, uri=uri) from error
    try:
        if file_version(os.fstat(descriptor)) != version:
            raise SourceChanged(changed, uri=uri)
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(window: FileWindow, uri: str) -> list[Row]:
    with _translated(uri), _hdf5(window) as file:
        root = h5g.open(file, b"/")
        layouts = Layouts(window.length, file.get_create_plist().get_userblock(), uri)
        rows: list[Row] = []
        for raw_name in _leaves(root, uri):
            found = h5o.open(root, raw_name)
            if isinstance(found, h5d.DatasetID):
                rows.append(layouts.row(found, _text(raw_name, uri)))
            elif isinstance(found, h5g.GroupID) and found.get_num_objs():
                # HDF5 has entered it by its other name, and does so once.
                raise _loop(raw_name, uri)
        return rows


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except AsyncloadError:
        raise
    except _HDF5_ERRORS as error:
        raise Corrupt(
            f"is no HDF5 file, or a damaged or truncated one; HDF5 says: {error}. Write or copy it "
            "again.",
            uri=uri,
        ) from error


@contextmanager
def _hdf5(window: FileWindow) -> Iterator[Any]:
    access = h5p.create(h5p.FILE_ACCESS)
    # What a failed walk still holds open is closed with the file.
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fileobj_driver(h5fd.fileobj_driver, window)
    # Closed here, not when collected: an error's traceback may hold it until the interpreter is
    # gone, and then HDF5, which closes what is left, calls into it and crashes the process.
    try:
        file = h5f.open(b"a window", h5f.ACC_RDONLY, access)
        try:
            yield file
        finally:
            file.close()
    finally:
        access.close()


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


def _text(name: bytes, uri: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"names a dataset {name!r}, which is not UTF-8", uri=uri) from error
