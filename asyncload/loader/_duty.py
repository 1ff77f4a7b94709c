"""What loads in the background may take of the CPUs beside the program's own work."""

from __future__ import annotations

import threading
import time
from collections import deque

from asyncload.cpu_time import program_seconds

__all__ = ["LEAST", "Busyness", "Duty", "share_beside"]

LEAST = 0.03  # of one CPU: loads have to end some day
_IDLE = 0.15  # of all CPUs: that busy is as good as idle, as the loop's part in a load counts too
_STEEPNESS = 4  # measured with benchmarks/bench_serving.py; see `share_beside`
_SHORTEST = 0.0005  # seconds of one rest: less than that is put off
_LONGEST = 0.05  # seconds of one rest: cancelled loads wait for it
_OWED = 0.5  # seconds of rest, at most, that one stretch of work can put off

_SAMPLES = 5  # that are averaged: a single one sees a request, or none


def share_beside(busy: float) -> float:
    """Return the share of one CPU that loads may take beside a program.

    Requests wait for a CPU that loads have, and the longer the busier all CPUs are, out of
    proportion: at 70 % even a tenth of a CPU shows in the slowest hundredth of the answers.

    Args:
        busy: the program's CPU time, of all that there is, from 0 to 1.

    Returns:
        From 0.03 to 1.
    """
    free = (1 - busy) / (1 - _IDLE)
    return max(LEAST, min(1.0, free) ** _STEEPNESS) if free > 0 else LEAST


class Busyness:
    """How busy the program keeps the CPUs.

    Args:
        cpus: that it may use.
    """

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)

    @property
    def is_known(self) -> bool:
        """Whether there were calls enough for an average."""
        return len(self._samples) == self._samples.maxlen

    def begin(self) -> None:
        """Forget what was before."""
        self._samples.clear()
        self.sample()

    def share(self) -> float:
        """Return what loads may take now: see `share_beside`.

        A program that does something is taken for a busy one until there is an average.
        """
        busy = self.sample()
        return LEAST if busy > _IDLE and not self.is_known else share_beside(busy)

    def sample(self) -> float:
        """Return how busy it was in the last few intervals between calls, from 0 to 1."""
        seconds, now = program_seconds(), time.perf_counter()
        if seconds is None:
            return 0.0
        self._samples.append((now, seconds))
        begin, before = self._samples[0]
        elapsed = (now - begin) * self._cpus
        return min(1.0, max(0.0, (seconds - before) / elapsed)) if elapsed > 0 else 0.0


class Duty:
    """Divides a share of one CPU among threads: who has worked rests until others may work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = 0.0  # when the time that was worked so far has been rested for

    def rest(self, worked: float, share: float) -> float:
        """Return how many seconds a thread is to rest; of any thread.

        Args:
            worked: seconds of CPU time.
            share: of one CPU, for all threads together; 1 for no rest.
        """
        if share >= 1:
            return 0.0
        now = time.perf_counter()
        with self._lock:
            free = max(self._free, now - worked) + worked / share
            self._free = min(free, now + _OWED)
            owed = self._free - now
        return min(owed, _LONGEST) if owed >= _SHORTEST else 0.0
