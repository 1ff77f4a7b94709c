"""Opens HDF5 files with the HDF5 library, in a worker process: they are untrusted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from h5py import h5f, h5fd, h5p

from asyncload.errors import AsyncloadError, Corrupt, SourceChanged
from asyncload.manifest import file_version, memory_version

from ._hdf5_window import BytesMissing, FileWindow

__all__ = ["OpenFile", "open_path"]

# What h5py makes of HDF5's errors, by their numbers.
_HDF5_ERRORS = (KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An HDF5 file that is open.

    Attributes:
        id: an `h5py.h5f.FileID`.
        window: through which HDF5 reads it.
        uri: for messages.
    """

    id: Any
    window: FileWindow
    uri: str

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return self.window.length


@contextmanager
def open_path(
    path: str,
    version: str,
    base: int,
    length: int,
    uri: str,
    present: Sequence[tuple[int, int]] | None = None,
) -> Iterator[OpenFile]:
    """Open an HDF5 file that lies in another file, until the block ends.

    Args:
        path: of the other file.
        version: that it must have, as `manifest.file_version` or `memory_version` names it.
        base: its first byte in the other file.
        length: in bytes.
        uri: for messages.
        present: what of it is there; see `FileWindow`.

    Raises:
        BytesMissing: so much of it is not there that it cannot be opened.
        SourceChanged: the other file is another now than the one that was opened.
        Corrupt: HDF5 failed, here or in the block.
    """
    with _opened(path, version, uri) as descriptor:
        window = FileWindow(descriptor, base, length, uri, present)
        with _hdf5(window, uri) as file:
            yield file


@contextmanager
def _opened(path: str, version: str, uri: str) -> Iterator[int]:
    changed = "was replaced or changed since it was opened; load it again"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceChanged(changed, uri=uri) from error
    try:
        status = os.fstat(descriptor)
        if version not in (file_version(status), memory_version(status.st_ino, status.st_size)):
            raise SourceChanged(changed, uri=uri)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _hdf5(window: FileWindow, uri: str) -> Iterator[OpenFile]:
    with _translated(window, uri):
        access = h5p.create(h5p.FILE_ACCESS)
        # What a failed walk still holds open is closed with the file.
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        access.set_fileobj_driver(h5fd.fileobj_driver, window)
        # Closed here, not when collected: an error's traceback may hold it until the interpreter
        # is gone, and then HDF5, which closes what is left, calls into it and crashes the process.
        try:
            file = h5f.open(b"a window", h5f.ACC_RDONLY, access)
            try:
                yield OpenFile(file, window, uri)
            finally:
                file.close()
        finally:
            access.close()


@contextmanager
def _translated(window: FileWindow, uri: str) -> Iterator[None]:
    try:
        yield
    except (AsyncloadError, BytesMissing):
        raise
    except _HDF5_ERRORS as error:
        if window.error is not None:
            raise window.error from None
        raise Corrupt(
            f"is no HDF5 file, or a damaged or truncated one; HDF5 says: {error}. Write or copy it "
            "again.",
            uri=uri,
        ) from error
