"""Memory that this process and its workers both see, reused where that pays.

A worker finds a slab by its path and makes sure, by inode and size, that it is the one meant: a
descriptor's number may have been given to another file since. On Linux a slab is an anonymous
file (memfd) that workers open through ``/proc``: nothing can be left behind, even by SIGKILL.
Elsewhere it is a temporary file, removed when the slab is closed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from asyncload.errors import DecodeError, MemoryLimitExceeded

from ._budget import Budget

__all__ = ["REUSED_UP_TO", "STAGING", "SharedSlab", "SlabHandle", "SlabPool", "attach", "slab_size"]

STAGING = 48 << 20  # bytes leased at once, unless one lease is larger
REUSED_UP_TO = 16 << 20  # bytes; a larger slab is not kept for another use
_SMALLEST = 256 << 10  # bytes; the smallest size class of the pool
_KEEP = 64 << 20  # bytes kept by a pool for another use
_KEEP_MAPPED = 128 << 20  # bytes of a pool's slabs that a worker keeps mapped
_HAS_MEMFD = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class SlabHandle:
    """What a worker needs to find a slab; small, and picklable.

    Attributes:
        path: where to open it.
        inode: what the file there must be.
        size: bytes it must hold.
        reusable: whether it is likely to be seen again, so that keeping it mapped pays.
    """

    path: str
    inode: int
    size: int
    reusable: bool = False


class SharedSlab:
    """Shared memory, zero-filled, that ends with its last user.

    `close` makes it unreachable for workers that have not attached it yet; the memory itself
    lives on while a view, an array made from one by `numpy.frombuffer`, or a worker has it.

    Args:
        nbytes: how much; at least 1.
        reusable: see `SlabHandle`.

    Attributes:
        handle: what a worker passes to `attach`.
        nbytes: as given.

    Raises:
        MemoryLimitExceeded: the system refuses.
    """

    def __init__(self, nbytes: int, *, reusable: bool = False) -> None:
        self.nbytes = nbytes
        try:
            descriptor, path, remove = _memfd(nbytes) if _HAS_MEMFD else _temporary_file(nbytes)
        except (OSError, OverflowError) as error:
            raise _refused(nbytes, error) from error
        self._finalizer = weakref.finalize(self, _forget, descriptor, remove)
        try:
            mapping = _map(descriptor, nbytes)
        except (OSError, OverflowError) as error:
            self._finalizer()
            raise _refused(nbytes, error) from error
        self._view: memoryview | None = memoryview(mapping)
        inode = os.fstat(descriptor).st_ino
        self.handle = SlabHandle(path, inode, nbytes, reusable)
        _own[self.handle] = self

    @property
    def view(self) -> memoryview:
        """All of the bytes, writable; the view keeps the memory alive."""
        if self._view is None:
            raise ValueError("this slab is closed")
        return self._view

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._view is None

    def close(self) -> None:
        """Let go of the memory; closing twice is fine."""
        self._view = None
        _own.pop(self.handle, None)
        self._finalizer()


# Slabs made by this process: its own threads need no second mapping of them.
_own: weakref.WeakValueDictionary[SlabHandle, SharedSlab] = weakref.WeakValueDictionary()


def _memfd(nbytes: int) -> tuple[int, str, str | None]:
    descriptor = os.memfd_create("asyncload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, nbytes)
        # No worker, whatever it parses, can shrink it and have us die of SIGBUS.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}", None


def _temporary_file(nbytes: int) -> tuple[int, str, str | None]:
    descriptor, path = tempfile.mkstemp(prefix="asyncload-")
    try:
        os.ftruncate(descriptor, nbytes)
    except BaseException:
        _forget(descriptor, path)
        raise
    return descriptor, path, path


def _forget(descriptor: int, remove: str | None) -> None:
    os.close(descriptor)
    if remove is not None:
        with suppress(FileNotFoundError):
            os.unlink(remove)


def _map(descriptor: int, nbytes: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):  # else the mapping holds a descriptor of its own
        return mmap.mmap(descriptor, nbytes, trackfd=False)
    return mmap.mmap(descriptor, nbytes)


def _refused(nbytes: int, error: Exception) -> MemoryLimitExceeded:
    return MemoryLimitExceeded(
        f"the system refused {nbytes:,} bytes of shared memory ({error}); free some, or raise the "
        "limits of this process or container on memory and open files"
    )


class SlabPool:
    """Slabs by size class, kept for another use: pages that exist need not be made again.

    A pool is used from one thread, and one event loop.

    Attributes:
        budget: bytes of slabs that all loads together may lease at once. Whoever leases takes
            them from it first; it is small, so that the same few slabs are used again and again.
    """

    def __init__(self) -> None:
        self.budget = Budget(STAGING)
        self._idle: defaultdict[int, list[SharedSlab]] = defaultdict(list)
        self._idle_bytes = 0
        self._leased: weakref.WeakSet[SharedSlab] = weakref.WeakSet()
        self._closed = False

    @property
    def idle_bytes(self) -> int:
        """Bytes of the slabs that are kept for another use."""
        return self._idle_bytes

    def lease(self, nbytes: int) -> SharedSlab:
        """Return a slab of at least ``nbytes`` bytes, whose content is arbitrary.

        It is the caller's until it goes to `give_back` or `discard`.

        Raises:
            MemoryLimitExceeded: the system refuses.
        """
        slab = self._lease(slab_size(nbytes))
        self._leased.add(slab)
        return slab

    def _lease(self, size: int) -> SharedSlab:
        if size > REUSED_UP_TO:
            return SharedSlab(size)
        if self._idle[size]:
            self._idle_bytes -= size
            return self._idle[size].pop()
        return SharedSlab(size, reusable=True)

    def give_back(self, slab: SharedSlab) -> None:
        """Take back a slab that nobody reads or writes any more."""
        size = slab.nbytes
        self._leased.discard(slab)
        if self._closed or not slab.handle.reusable or self._idle_bytes + size > _KEEP:
            slab.close()
            return
        self._idle_bytes += size
        self._idle[size].append(slab)

    def discard(self, slab: SharedSlab) -> None:
        """Take back a slab that somebody may still read or write: it is never reused."""
        slab.close()

    def abandon(self) -> None:
        """Close all slabs: nobody will give back those that are leased."""
        self.close()
        for slab in list(self._leased):
            slab.close()

    def close(self) -> None:
        """Close the idle slabs now, and leased ones when they come back."""
        self._closed = True
        for slabs in self._idle.values():
            for slab in slabs:
                slab.close()
        self._idle.clear()
        self._idle_bytes = 0


def slab_size(nbytes: int) -> int:
    """Return how large a slab `SlabPool.lease` gives for ``nbytes`` bytes."""
    if nbytes > REUSED_UP_TO:
        return nbytes
    return max(_SMALLEST, 1 << (nbytes - 1).bit_length())


class _Mappings:
    """A worker's mappings of slabs that it is likely to see again, the latest used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mapped: OrderedDict[SlabHandle, memoryview] = OrderedDict()
        self._bytes = 0

    def get(self, handle: SlabHandle) -> memoryview:
        if not handle.reusable:
            return _open_slab(handle)
        with self._lock:
            if handle in self._mapped:
                self._mapped.move_to_end(handle)
                return self._mapped[handle]
            view = self._mapped[handle] = _open_slab(handle)
            self._bytes += handle.size
            while self._bytes > _KEEP_MAPPED:
                oldest, _ = self._mapped.popitem(last=False)
                self._bytes -= oldest.size
            return view


_mappings = _Mappings()


@contextmanager
def attach(handle: SlabHandle) -> Iterator[memoryview]:
    """Map a slab, in a worker or in the process that made it, for the time of the block.

    Yields:
        All of its bytes, writable.

    Raises:
        DecodeError: the slab was closed, so that nobody waits for what is done with it.
    """
    own = _own.get(handle)
    if own is None:
        yield _mappings.get(handle)
    elif own.closed:
        raise _gone(handle)
    else:
        yield own.view


def _open_slab(handle: SlabHandle) -> memoryview:
    try:
        descriptor = os.open(handle.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _gone(handle) from error
    try:
        status = os.fstat(descriptor)
        if (status.st_ino, status.st_size) != (handle.inode, handle.size):
            raise _gone(handle)
        return memoryview(_map(descriptor, handle.size))
    finally:
        os.close(descriptor)


def _gone(handle: SlabHandle) -> DecodeError:
    return DecodeError(
        f"the shared memory at {handle.path} is gone: its load was cancelled, or its process ended"
    )
