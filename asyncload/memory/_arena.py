"""`Arena`: private memory in huge pages, given back to the system with its last array."""

from __future__ import annotations

import mmap
import os

import numpy as np

from asyncload.errors import MemoryLimitExceeded

__all__ = ["ALIGNMENT", "HUGE_PAGE", "Arena"]

ALIGNMENT = 64  # bytes; what TensorFlow needs to take an array without a copy
HUGE_PAGE = 2 << 20  # bytes; x86-64, and arm64 with 4 KiB base pages


class Arena:
    """Private anonymous memory, zero-filled, that begins at a huge page's boundary.

    The system makes pages as they are first written; on Linux in huge pages, which takes a third
    of the time that small ones take. The memory lives as long as the Arena, any view of it, or
    any array made from a view (by `numpy.frombuffer`) does.

    Args:
        nbytes: how much.

    Raises:
        MemoryLimitExceeded: the system refuses.
    """

    __slots__ = ("_view", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        whole = _map_anonymous(_round_up(nbytes) + HUGE_PAGE)
        address = int(np.frombuffer(whole, np.uint8).__array_interface__["data"][0])
        start = -address % HUGE_PAGE
        huge = _huge_bytes(nbytes)
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            whole.madvise(mmap.MADV_HUGEPAGE, start, huge)
        self._view = memoryview(whole)[start : start + nbytes]

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return ``nbytes`` writable bytes from ``offset``; the view keeps the memory alive.

        Raises:
            ValueError: that is not inside the arena.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are not inside {self.nbytes}")
        return self._view[offset : offset + nbytes]


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
