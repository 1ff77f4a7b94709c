"""What loads in the background may take of the CPUs beside the program's own work."""

from __future__ import annotations

import threading
import time
from collections import deque

from asyncload.cpu_time import program_seconds

__all__ = ["LEAST", "Busyness", "Duty", "share_beside"]

LEAST = 0.03  # of one CPU: loads have to end some day
_IDLE = 0.15  # of two CPUs: that busy is as good as idle, as the loop's part in a load counts too
_STEEPNESS = 4  # measured with benchmarks/bench_serving.py; see `share_beside`
_MEASURED = 2  # CPUs of the machines where that was done
_SHORTEST = 0.0005  # seconds of one rest: less than that is put off
_LONGEST = 0.05  # seconds of one rest: cancelled loads wait for it
_OWED = 0.5  # seconds of rest, at most, that one stretch of work can put off

_SAMPLES = 5  # that are averaged: a single one sees a request, or none


def share_beside(busy: float, cpus: int) -> float:
    """Return the share of one CPU that loads may take beside a program.

    Requests wait for a CPU that loads have, and the longer the busier all CPUs are, out of
    proportion: at 70 % of two even a tenth of one shows in the slowest hundredth of the answers.
    With more CPUs it is less likely that all have work at once: as likely as that of one, to the
    power of how many there are.

    Args:
        busy: the program's CPU time, of all that there is, from 0 to 1.
        cpus: that it may use.

    Returns:
        From 0.03 to 1.
    """
    as_of_two: float = min(1.0, busy) ** (cpus / _MEASURED)
    free = min(1.0, (1 - as_of_two) / (1 - _IDLE))
    return max(LEAST, free**_STEEPNESS)


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
        share = share_beside(self.sample(), self._cpus)
        return share if share >= 1 or self.is_known else LEAST

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
