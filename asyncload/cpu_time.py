"""CPUs, and how much of their time the program takes, apart from the threads that load for it."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterable

from asyncload.cgroups import cpu_quota
from asyncload.forks import OwnLock, in_each_fork

__all__ = [
    "allowed_cpus",
    "count_as_ours",
    "count_native",
    "loading_seconds",
    "native_threads",
    "program_seconds",
    "usable_cpus",
]


class _OurThreads:
    """CPU time of threads that said they are ours; it never shrinks when they end."""

    def __init__(self) -> None:
        self._lock = OwnLock()
        self.forget()

    def forget(self) -> None:
        """Begin anew, as in a forked process, where none of these threads is."""
        self._seconds: dict[int, float] = {}  # clock of a thread -> what it last said
        self._ended = 0.0

    def add(self, clock: int) -> None:
        with self._lock:
            self._seconds[clock] = 0.0

    def seconds(self) -> float:
        with self._lock:
            for clock in tuple(self._seconds):
                try:
                    self._seconds[clock] = time.clock_gettime(clock)
                except OSError:  # its thread has ended
                    self._ended += self._seconds.pop(clock)
            return self._ended + sum(self._seconds.values())


_ours = _OurThreads()
in_each_fork(_ours.forget)
_OF_A_THREAD = 0b110  # how Linux names the clock of a thread's CPU time: clock_getcpuclockid(3)
_CAN_TELL = hasattr(time, "pthread_getcpuclockid")  # macOS cannot


def count_as_ours() -> None:
    """Count the calling thread, from now on, as one that loads; a thread's initializer."""
    if _CAN_TELL:
        _ours.add(time.pthread_getcpuclockid(threading.get_ident()))


def native_threads(name: str) -> frozenset[int]:
    """Return the threads of this process that a native library gave a name; none but on Linux.

    Args:
        name: of 15 letters at most, as the kernel has it.

    Returns:
        Their numbers (`threading.get_native_id`).
    """
    found = set()
    with contextlib.suppress(OSError):  # no Linux
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as file:
                if file.read().rstrip("\n") == name:
                    found.add(int(thread))
    return frozenset(found)


def count_native(threads: Iterable[int]) -> None:
    """Count threads that `native_threads` found, from now on, as such that load."""
    for thread in threads:
        _ours.add(~thread << 3 | _OF_A_THREAD)


def loading_seconds() -> float | None:
    """Return the CPU time of the threads that load, since this process began.

    Returns:
        Seconds; ``None`` where the system does not tell threads apart.
    """
    return _ours.seconds() if _CAN_TELL else None


def program_seconds() -> float | None:
    """Return the CPU time of all of this process's threads but ours, since it began.

    Returns:
        Seconds; the difference of two calls says how busy the program was between. ``None`` where
        the system does not tell threads apart.
    """
    return time.process_time() - _ours.seconds() if _CAN_TELL else None


def usable_cpus() -> int:
    """Return how many CPUs this process may use at once, 1 at least."""
    return max(1, math.ceil(allowed_cpus()))


def allowed_cpus() -> float:
    """Return how many CPUs' time this process may use: of its affinity and its container.

    A container may have a part of a CPU, or 1.5 of them.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return cpus if quota is None else min(cpus, quota)
