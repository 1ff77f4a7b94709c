"""Keep a load from stalling the event loop: garbage collector and thread switch interval.

Building a model makes hundreds of thousands of objects, none of them garbage. A full
collection in the middle of it holds the GIL for as long as it takes to visit everything
that TensorFlow and the program ever made, hundreds of milliseconds; and at CPython's
default switch interval of 5 ms, each return to the loop's thread waits that long.

Both settings belong to the process, so concurrent loads count themselves in and out, and
the last one out restores what the first one found.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

# Measured with benchmarks/bench_loop.py: shorter gains nothing, longer shows in the p99.
SWITCH_INTERVAL = 0.0002  # seconds


class _Quiet:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads = 0
        self._collecting = True
        self._interval = 0.0

    def enter(self) -> None:
        with self._lock:
            self._loads += 1
            if self._loads == 1:
                self._collecting = gc.isenabled()
                self._interval = sys.getswitchinterval()
                gc.disable()
                sys.setswitchinterval(min(self._interval, SWITCH_INTERVAL))

    def leave(self) -> None:
        with self._lock:
            self._loads -= 1
            if self._loads == 0:
                sys.setswitchinterval(self._interval)
                if self._collecting:
                    _promote_young_objects()
                    gc.enable()


def _promote_young_objects() -> None:
    # Enabled again, the collector would at once visit every object made meanwhile. Freezing
    # and thawing moves them to the oldest generation in constant time. A program that froze
    # objects of its own would have them thawed, so there the collection has to happen.
    if hasattr(gc, "get_freeze_count") and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()


_quiet = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """Hold garbage collection, and switch threads more often, until the block ends.

    Blocks may nest and overlap, in any threads; the settings found by the first to enter
    are back when the last has left.
    """
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
