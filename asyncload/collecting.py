"""The garbage collector, held while hundreds of thousands of objects are made that are no garbage.

A full collection visits all that the program ever made, and holds the GIL meanwhile: half a second
beside an index of 100,000 tensors. The setting belongs to the process, so whoever holds it counts
in and out, and the last one out restores what the first one found.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from asyncload.forks import OwnLock, in_each_fork

__all__ = ["collect_young", "collection_held"]

# Objects that are collected at once: 10,000 stop the loop for 10 ms and more beside a busy program.
_MANY = 2_000


class _Collector:
    """The garbage collector, off while anybody holds it."""

    def __init__(self) -> None:
        self._lock = OwnLock()
        self._holders = 0
        self._found = True

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._found = gc.isenabled()
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0 and self._found:
                    _promote_young_objects()
                    gc.enable()

    def forget(self) -> None:
        """Forget who held it: those threads stayed in the parent of this process."""
        if self._holders and self._found:
            gc.enable()
        self._holders = 0

    def collect_young(self) -> None:
        if self._holders and self._found and gc.get_count()[0] > _MANY:
            gc.collect(1)


def _promote_young_objects() -> None:
    # Enabled again, the collector would at once visit every object made meanwhile. Freezing
    # and thawing moves them to the oldest generation in constant time. A program that froze
    # objects of its own would have them thawed, so there the collection has to happen.
    if hasattr(gc, "get_freeze_count") and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()


_collector = _Collector()
in_each_fork(_collector.forget)


@contextmanager
def collection_held() -> Iterator[None]:
    """Hold the collector until the block ends; blocks may nest and overlap, in any threads."""
    with _collector.held():
        yield


def collect_young() -> None:
    """Collect what garbage the program made since the collector was held, or this last called.

    For work that goes on for long, as it rests: it calls this again and again. Nothing old is
    looked at, and nothing at all where the program has switched the collector off itself.
    """
    _collector.collect_young()
