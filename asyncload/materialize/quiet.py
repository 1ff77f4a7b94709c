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
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

from asyncload.resting import is_resting

__all__ = ["Attention", "collect_young", "quiet", "responsive"]

# Measured with benchmarks/bench_loop.py: shorter gains nothing, longer shows in the p99.
SWITCH_INTERVAL = 0.00005  # seconds

# Objects that are collected at once: 10,000 stop the loop for 10 ms and more beside a busy program.
_MANY = 2_000


class _Held(ABC):
    """A setting of the process, held by any number of threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0

    def enter(self) -> None:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._change()

    def leave(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._restore()

    @abstractmethod
    def _change(self) -> None: ...

    @abstractmethod
    def _restore(self) -> None: ...

    @contextmanager
    def held(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


class _SwitchInterval(_Held):
    _found = 0.0

    def _change(self) -> None:
        self._found = sys.getswitchinterval()
        sys.setswitchinterval(min(self._found, SWITCH_INTERVAL))

    def _restore(self) -> None:
        sys.setswitchinterval(self._found)


class _Collector(_Held):
    _found = True

    def collect_young(self) -> None:
        if self._holders and self._found and gc.get_count()[0] > _MANY:
            gc.collect(1)

    def _change(self) -> None:
        self._found = gc.isenabled()
        gc.disable()

    def _restore(self) -> None:
        if self._found:
            _promote_young_objects()
            gc.enable()


def _promote_young_objects() -> None:
    # Enabled again, the collector would at once visit every object made meanwhile. Freezing
    # and thawing moves them to the oldest generation in constant time. A program that froze
    # objects of its own would have them thawed, so there the collection has to happen.
    if hasattr(gc, "get_freeze_count") and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()


_switch_interval = _SwitchInterval()
_collector = _Collector()


def collect_young() -> None:
    """Collect what garbage the program made since `quiet` began, or since this was last called.

    For work that goes on for long, as it rests: it calls this again and again. Nothing old is
    looked at, and nothing at all where the program has switched the collector off itself.
    """
    _collector.collect_young()


def responsive() -> AbstractContextManager[None]:
    """Switch threads more often until the block ends, so that the loop's thread gets its turn.

    Work that rests does not: its spells are short, and each switch costs the program's own threads
    (where those are idle, whoever sets the pace pays `Attention` for all that rests).

    Blocks may nest and overlap, in any threads; the interval found by the first to enter is
    back when the last has left. So it is with `quiet`.
    """
    return nullcontext() if is_resting() else _switch_interval.held()


class Attention:
    """`responsive` that goes on and off as wanted, and off when the block ends."""

    def __init__(self) -> None:
        self._is_paid = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pay(False)

    def pay(self, wanted: bool) -> None:
        """Switch threads often from now on, or no more."""
        if wanted and not self._is_paid:
            _switch_interval.enter()
        elif self._is_paid and not wanted:
            _switch_interval.leave()
        self._is_paid = wanted


@contextmanager
def quiet() -> Iterator[None]:
    """Be `responsive`, and hold garbage collection, until the block ends."""
    with responsive(), _collector.held():
        yield
