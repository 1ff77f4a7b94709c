"""Keep a load from stalling the event loop: garbage collector and thread switch interval.

Building a model makes hundreds of thousands of objects, none of them garbage. A full
collection in the middle of it holds the GIL for as long as it takes to visit everything
that TensorFlow and the program ever made, hundreds of milliseconds; and at CPython's
default switch interval of 5 ms, each return to the loop's thread waits that long.

Both settings belong to the process, so concurrent loads count themselves in and out, and
the last one out restores what the first one found.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Self

from asyncload.collecting import collect_young, collection_held
from asyncload.forks import OwnLock, in_each_fork
from asyncload.resting import is_resting
from asyncload.workers import await_turn

__all__ = ["Attention", "collect_young", "quiet", "responsive", "settle"]

# Seconds. Measured with benchmarks/bench_loop.py: shorter gains nothing, longer shows in the p99.
OFTEN = 0.00005
# Beside a busy program, whose own threads pay for each switch. Beside answers that keep 2 CPUs 0.7
# busy, the loop stalled for 1.71 ms (p99) with it, for 1.82 with the interpreter's own 5 ms.
SELDOM = 0.001


class _SwitchInterval:
    """The interpreter's switch interval: the shortest that anybody wants."""

    def __init__(self) -> None:
        self._lock = OwnLock()
        self._wanted: Counter[float] = Counter()
        self._found = 0.0

    def enter(self, seconds: float) -> None:
        with self._lock:
            if not self._wanted:
                self._found = sys.getswitchinterval()
            self._wanted[seconds] += 1
            self._set()

    def leave(self, seconds: float) -> None:
        with self._lock:
            self._wanted[seconds] -= 1
            self._wanted += Counter()  # without those that nobody wants any more
            self._set()

    def forget(self) -> None:
        """Forget the threads that wanted one: they stayed in the parent of this process."""
        if self._wanted:
            self._wanted.clear()
            self._set()

    def _set(self) -> None:
        sys.setswitchinterval(min([self._found, *self._wanted]))

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        self.enter(seconds)
        try:
            yield
        finally:
            self.leave(seconds)


_switch_interval = _SwitchInterval()
in_each_fork(_switch_interval.forget)


def responsive() -> AbstractContextManager[None]:
    """Switch threads often until the block ends, so that the loop's thread gets its turn.

    Work that rests does not: its spells are short, and each switch costs the program's own threads.
    Whoever sets the pace of all that rests pays `Attention` for it.

    Blocks may nest and overlap, in any threads; the interval found by the first to enter is
    back when the last has left. So it is with `quiet`.
    """
    return nullcontext() if is_resting() else _switch_interval.held(OFTEN)


class Attention:
    """Switch threads now and then until the block ends, and often as wanted."""

    def __init__(self) -> None:
        self._is_paid = False

    def __enter__(self) -> Self:
        _switch_interval.enter(SELDOM)
        return self

    def __exit__(self, *_: object) -> None:
        self.pay(False)
        _switch_interval.leave(SELDOM)

    def pay(self, wanted: bool) -> None:
        """Switch threads often from now on, or only now and then."""
        if wanted and not self._is_paid:
            _switch_interval.enter(OFTEN)
        elif self._is_paid and not wanted:
            _switch_interval.leave(OFTEN)
        self._is_paid = wanted


@contextmanager
def quiet() -> Iterator[None]:
    """Be `responsive`, and hold garbage collection, until the block ends."""
    with responsive(), collection_held():
        yield


def settle() -> None:
    """Have this thread await its turn whenever it wakes, from now on.

    TensorFlow's pools start first, if they have not: they would inherit that, and answers would
    wait behind whatever else computes on the machine (beside one process that does, their p99s were
    1.3 to 2.4 s instead of 0.4 to 0.7, measured on 2 CPUs).
    """
    import tensorflow as tf

    tf.config.list_logical_devices()
    await_turn()
