"""Which of the event loop's stalls were caused by loads, and which by others."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from dataclasses import astuple, dataclass
from typing import Self

from asyncload.cpu_time import loading_seconds

__all__ = ["Passed", "Stalls", "caused"]

# Seconds beyond the interpreter's switch interval that one wait for its lock takes: the kernel's
# timer slack (50 us), and to wake up.
_SLACK = 0.0001


@dataclass(frozen=True, slots=True)
class Passed:
    """What passed between two looks at the loop, in seconds unless said otherwise.

    Attributes:
        worked: CPU time of the loop's thread.
        queued: time for which that thread was ready and had no CPU.
        switches: how often it went to sleep; a count.
        loaded: CPU time of all threads that load.
        spare: CPU time that this process may have and did not take.
    """

    worked: float
    queued: float
    switches: float
    loaded: float
    spare: float

    def __sub__(self, other: Passed) -> Passed:
        return Passed(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


def caused(late: float, passed: Passed, *, usual: float, interval: float) -> float:
    """Return for how many seconds loads kept the loop from going on.

    They do so in two ways: a thread that loads holds the interpreter's lock, or threads that load
    have the CPUs. All else is not theirs: what the program's own handlers compute, calls that
    block, other processes, the host, a container's quota.

    Args:
        late: seconds by which the loop came late to a look.
        passed: since the look before.
        usual: CPU seconds that loads take where the loop is not late.
        interval: seconds after which the interpreter switches threads.
    """
    idle = max(0.0, late - passed.worked - passed.queued)
    # A thread that waits for the lock wakes after each interval to ask for it. One that sleeps
    # does not.
    locked = min(idle, passed.switches * (interval + _SLACK))
    crowded = max(0.0, passed.queued - passed.spare)
    # A thread that was off its CPU while it held the lock was kept from working by others, too.
    return max(0.0, min(locked + crowded, passed.loaded - usual))


class Stalls:
    """Looks at the loop's thread, on which it is used.

    Args:
        cpus: that this process may use.
    """

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._queue = _Queue()
        self._before = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.close()

    def caused(self, late: float, usual: float) -> float:
        """Return for how many seconds loads held the loop up since this was last called.

        Args:
            late: seconds by which the loop is late.
            usual: CPU seconds that loads take where it is not.
        """
        before, self._before = self._before, self._look()
        passed = self._before - before
        return caused(late, passed, usual=usual, interval=sys.getswitchinterval())

    def _look(self) -> Passed:
        loaded = loading_seconds()
        return Passed(
            worked=time.thread_time(),
            queued=self._queue.seconds(),
            switches=_switches(),
            # Where the system cannot tell, all of it may be theirs: the clock goes as fast.
            loaded=time.perf_counter() if loaded is None else loaded,
            spare=time.perf_counter() * self._cpus - time.process_time(),
        )


def _switches() -> float:
    if not hasattr(resource, "RUSAGE_THREAD"):  # macOS
        return time.perf_counter() / sys.getswitchinterval()  # as if it waited for the lock
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class _Queue:
    """How long the calling thread has waited for a CPU: Documentation/scheduler/sched-stats.rst."""

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):  # no Linux, or one that does not say
            path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        if self._file is None:
            return 0.0
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
