"""`CacheEntry`: one version of one object on disk, as much of it as was ever read.

A file is a header, a slot for each block of the object, and the object itself with holes where
nothing was read yet::

    8 bytes  magic
    32       digest of place, path and version
    8        size of the object
    8 each   slots: bit 32 says that the block is there, the lower bits are its CRC-32
             (zeros up to a multiple of 4096)
             blocks

Numbers are little-endian. The CRC is isal's, which takes a third of the time of the CRC32C of
checkpoints. A block is written before its slot, and whoever reads it compares the two: so it takes
no lock, a process may be killed at any time, and several may write the same block, which they do
alike.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from isal import isal_zlib

from asyncload.cache_folder import expect_own

__all__ = ["BLOCK", "CacheEntry", "blocks_in"]

# Smaller ones cost more calls; of larger ones, more is read beside what is wanted.
BLOCK = 512 << 10  # bytes

_MAGIC = b"asyncobj"
_HEADER = struct.Struct("<8s32sQ")
_SLOTS_AT = 64
_PAGE = 4096
_THERE = 1 << 32
_IOV_MAX = 1024  # buffers in one call; what Linux and macOS both take

Views = list[memoryview]


class CacheEntry:
    """One version of one object; all methods block. Made by `open`.

    Attributes:
        size: of the object, in bytes.
        path: of its file.
        writable: whether blocks can be added.
        complete: whether all of the object was there when it was opened.
    """

    def __init__(self, descriptor: int, path: Path, size: int, *, writable: bool) -> None:
        self.size = size
        self.path = path
        self.writable = writable
        self._descriptor = descriptor
        self._data_at = _data_at(size)
        self._bad: set[int] = set()
        self.complete = bool(np.all(self._slots(0, -(-size // BLOCK))))

    @classmethod
    def open(cls, path: Path, digest: bytes, size: int, *, create: bool) -> CacheEntry | None:
        """Open an entry, or make an empty one.

        Args:
            path: of its file.
            digest: that it is to have.
            size: of the object, in bytes.
            create: make it, if there is none that can be used; otherwise that gives ``None``.

        Raises:
            OSError: it cannot be made.
        """
        for _ in range(2):
            descriptor, writable = _open(path, create)
            if descriptor is None:
                return None
            try:
                if _is_entry(descriptor, digest, size, create and writable):
                    with suppress(OSError):
                        os.utime(descriptor)
                    return cls(descriptor, path, size, writable=writable)
                if create:
                    path.unlink(missing_ok=True)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if not create:
                return None
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read(self, offset: int, buffers: Sequence[memoryview]) -> list[int]:
        """Fill ``buffers`` with the bytes from ``offset``, as far as they are there and undamaged.

        Returns:
            The numbers of the blocks that are not; where these lie, anything may be in the buffers.
        """
        wanted = list(blocks_in(offset, buffers))
        if not wanted:
            return []
        first = wanted[0][0]
        slots = self._slots(first, wanted[-1][0] + 1).tolist()
        return [
            index
            for index, begin, views in wanted
            if not self._read_block(index, begin, views, slots[index - first])
        ]

    def write(self, first: int, buffers: Sequence[memoryview]) -> None:
        """Add blocks, unless another process has removed the file.

        Args:
            first: number of the first one.
            buffers: their bytes; whole blocks together, but for the object's last one.

        Raises:
            OSError: they cannot be written.
        """
        if not os.fstat(self._descriptor).st_nlink:
            self.writable = False
            return
        found = []
        for _, begin, views in blocks_in(first * BLOCK, buffers):
            checksum = 0
            for view in views:
                checksum = isal_zlib.crc32(view, checksum)
            self._write_all(self._data_at + begin, views)
            found.append(_THERE | checksum)
        slots = np.array(found, "<u8").tobytes()
        self._write_all(_SLOTS_AT + 8 * first, [memoryview(slots)])
        self._bad.difference_update(range(first, first + len(found)))

    def _slots(self, first: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        data = os.pread(self._descriptor, 8 * (end - first), _SLOTS_AT + 8 * first)
        slots = np.zeros(end - first, "<u8")
        slots[: len(data) // 8] = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
        return slots

    def _read_block(self, index: int, begin: int, views: Views, slot: int) -> bool:
        """Read a block, or a part of it, from byte ``begin`` of the object on; whether it is so."""
        if not slot or index in self._bad:
            return False
        start = index * BLOCK
        length = min(BLOCK, self.size - start)
        whole = sum(view.nbytes for view in views) == length
        into = views if whole else [np.empty(length, np.uint8).data]
        if not self._read_all(self._data_at + start, into, slot):
            self._forget(index)
            return False
        if not whole:
            at = begin - start
            for view in views:
                part = np.frombuffer(into[0][at : at + view.nbytes], np.uint8)
                np.copyto(np.frombuffer(view, np.uint8), part)
                at += view.nbytes
        return True

    def _read_all(self, position: int, views: Views, slot: int) -> bool:
        checksum = 0
        for at in range(0, len(views), _IOV_MAX):
            some = views[at : at + _IOV_MAX]
            length = sum(view.nbytes for view in some)
            try:
                if os.preadv(self._descriptor, some, position) != length:
                    return False
            except OSError:  # the disk cannot read it
                return False
            position += length
            for view in some:
                checksum = isal_zlib.crc32(view, checksum)
        return slot == _THERE | checksum

    def _forget(self, index: int) -> None:
        """Have nobody read a damaged block any more."""
        self._bad.add(index)
        if self.writable:
            with suppress(OSError):
                os.pwrite(self._descriptor, bytes(8), _SLOTS_AT + 8 * index)

    def _write_all(self, position: int, views: Views) -> None:
        remaining = [view for view in views if view.nbytes]
        while remaining:
            written = os.pwritev(self._descriptor, remaining[:_IOV_MAX], position)
            position += written
            while remaining and written >= remaining[0].nbytes:
                written -= remaining.pop(0).nbytes
            if written:
                remaining[0] = remaining[0][written:]


def blocks_in(offset: int, buffers: Sequence[memoryview]) -> Iterator[tuple[int, int, Views]]:
    """Cut a stretch of an object where blocks meet.

    Args:
        offset: of its first byte in the object.
        buffers: where its bytes go, one after the other.

    Yields:
        A block's number, the offset in the object of its first byte here, and views for its bytes.
    """
    begin, left = offset, BLOCK - offset % BLOCK
    views: Views = []
    for buffer in buffers:
        rest = buffer.cast("B") if buffer.nbytes else buffer
        while rest.nbytes:
            view = rest[:left]
            views.append(view)
            left -= view.nbytes
            rest = rest[view.nbytes :]
            if not left:
                yield begin // BLOCK, begin, views
                begin, left, views = (begin // BLOCK + 1) * BLOCK, BLOCK, []
    if views:
        yield begin // BLOCK, begin, views


def _data_at(size: int) -> int:
    slots_end = _SLOTS_AT + 8 * -(-size // BLOCK)
    return -(-slots_end // _PAGE) * _PAGE


def _open(path: Path, create: bool) -> tuple[int | None, bool]:
    """Return a descriptor, and whether it can be written to."""
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if create and path.is_symlink():
        path.unlink()
    try:
        return os.open(path, os.O_RDWR | flags | (os.O_CREAT if create else 0), 0o600), True
    except OSError:
        try:
            return os.open(path, os.O_RDONLY | flags), False
        except OSError:
            if create:
                raise
            return None, False


def _is_entry(descriptor: int, digest: bytes, size: int, create: bool) -> bool:
    """Whether the file is the entry; an empty one is made one, which several may do at once."""
    status = os.fstat(descriptor)
    try:
        expect_own(status)
    except OSError:
        return False
    header = _HEADER.pack(_MAGIC, digest, size)
    nbytes = _data_at(size) + size
    if create and status.st_size == 0:
        os.ftruncate(descriptor, nbytes)
        os.pwrite(descriptor, header, 0)
        return True
    if status.st_size != nbytes:
        return False
    found = os.pread(descriptor, _HEADER.size, 0)
    if create and found == bytes(_HEADER.size):  # another process is about to write it
        os.pwrite(descriptor, header, 0)
        return True
    return found == header
