"""`Arena`: private memory in huge pages, which ends or is reused with its last array."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from asyncload.errors import MemoryLimitExceeded

__all__ = ["ALIGNMENT", "HUGE_PAGE", "Arena", "ArenaPool"]

ALIGNMENT = 64  # bytes; what TensorFlow needs to take an array without a copy
HUGE_PAGE = 2 << 20  # bytes; x86-64, and arm64 with 4 KiB base pages
_WASTE = 8  # a kept mapping may be larger than what is needed by an eighth


class Arena:
    """Private anonymous memory that begins at a huge page's boundary.

    The system makes pages as they are first written; on Linux in huge pages, which takes a third
    of the time that small ones take. The memory lives as long as the Arena, any view of it, or
    any array made from a view (by `numpy.frombuffer`) does.

    Args:
        nbytes: how much.
        pool: where memory for it may be had, and where it goes when nothing refers to it any more.
            Memory from a pool holds arbitrary bytes, other memory zeros.

    Raises:
        MemoryLimitExceeded: the system refuses.
    """

    __slots__ = ("_view", "nbytes")

    def __init__(self, nbytes: int, pool: ArenaPool | None = None) -> None:
        self.nbytes = nbytes
        mapping = pool.take(nbytes) if pool is not None else None
        if mapping is None:
            mapping = _map_huge(nbytes)
        # All views are views of this object, so it goes when the last one does.
        owner = (ctypes.c_char * len(mapping)).from_buffer(mapping)
        if pool is not None:
            weakref.finalize(owner, pool.give_back, mapping).atexit = False
        start = -ctypes.addressof(owner) % HUGE_PAGE
        self._view = memoryview(owner).cast("B")[start : start + nbytes]

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return ``nbytes`` writable bytes from ``offset``; the view keeps the memory alive.

        Raises:
            ValueError: that is not inside the arena.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are not inside {self.nbytes}")
        return self._view[offset : offset + nbytes]


class ArenaPool:
    """Memory of arenas that nothing refers to any more, kept for the next ones.

    Pages that exist are written twice as fast as pages that the system has yet to make, and many
    times as fast where a hypervisor takes free memory back. What is kept is marked as free
    (``MADV_FREE``): the system takes it when it runs short, without asking.

    Arenas may end in any thread.

    Args:
        keep: bytes kept at most.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._idle: deque[mmap.mmap] = deque()  # the one given back last, last
        self._closed = False

    @property
    def idle_bytes(self) -> int:
        """Bytes that are kept for the next arenas."""
        return sum(len(mapping) for mapping in tuple(self._idle))

    def take(self, nbytes: int) -> mmap.mmap | None:
        """Return a mapping that an arena of ``nbytes`` bytes fits into without much waste."""
        need = _mapped_bytes(nbytes)
        fitting = [m for m in tuple(self._idle) if need <= len(m) <= need + need // _WASTE]
        for mapping in sorted(fitting, key=len):
            with suppress(ValueError):  # another thread took it
                self._idle.remove(mapping)
                return mapping
        return None

    def give_back(self, mapping: mmap.mmap) -> None:
        """Keep a mapping that nothing refers to any more, in the place of the oldest ones."""
        if self._closed or not HUGE_PAGE < len(mapping) <= self._keep:
            return
        _mark_as_free(mapping)
        self._idle.append(mapping)
        while self.idle_bytes > self._keep:
            with suppress(IndexError):
                self._idle.popleft()

    def close(self) -> None:
        """Give all of it back to the system, and what comes later when it comes."""
        self._closed = True
        self._idle.clear()


def _mark_as_free(mapping: mmap.mmap) -> None:
    # Not by its own madvise, which holds the interpreter's lock meanwhile: where the system found
    # no huge pages, 3 ms for 64 MB. A hint: memory that the program locked stays.
    if hasattr(mmap, "MADV_FREE"):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        madvise(_address(mapping), len(mapping), mmap.MADV_FREE)


def _address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).__array_interface__["data"][0])


def _map_huge(nbytes: int) -> mmap.mmap:
    mapping = _map_anonymous(_mapped_bytes(nbytes))
    huge = _huge_bytes(nbytes)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE, -_address(mapping) % HUGE_PAGE, huge)
    return mapping


def _mapped_bytes(nbytes: int) -> int:
    return _round_up(nbytes) + HUGE_PAGE


def _round_up(nbytes: int) -> int:
    return -(-nbytes // HUGE_PAGE) * HUGE_PAGE


def _huge_bytes(nbytes: int) -> int:
    """Return how much of ``nbytes`` to have in huge pages: a mostly empty last one is not."""
    tail = nbytes % HUGE_PAGE
    return nbytes - tail if tail < HUGE_PAGE // 2 else _round_up(nbytes)


def _map_anonymous(nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise MemoryLimitExceeded(
            f"the system refused {nbytes:,} bytes of memory ({reason}); free some, or raise the "
            "limit of this process or container"
        ) from error
