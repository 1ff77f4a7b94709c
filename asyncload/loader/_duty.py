"""What loads in the background may take of the CPUs beside the program's own work."""

from __future__ import annotations

import threading
import time
from collections import deque

from asyncload.cpu_time import program_seconds

__all__ = ["HALF", "LEAST", "Busyness", "Duty", "share_beside"]

LEAST = 0.03  # of one CPU: loads have to end some day
HALF = 0.6  # of each thread's time, at least, while the program leaves half of the CPUs
_IDLE = 0.15  # of all CPUs: that busy is as good as idle, as the loop's part in a load counts too
_STEEPNESS = 4  # measured with benchmarks/bench_serving.py; see `share_beside`
_SHORTEST = 0.0005  # seconds of one rest: less than that is put off
_LONGEST = 0.05  # seconds of one rest: cancelled loads wait for it
_OWED = 0.5  # seconds of rest, at most, that one stretch of work can put off
# Seconds of work in a row, at most, that make up for rests that lasted longer than asked for:
# beside busy neighbours, a thread that sleeps for 0.3 ms is back after 4.
_MADE_UP = 0.02

_SAMPLES = 5  # that are averaged: a single one sees a request, or none
_WHILE = 0.5  # seconds over which it is told whether a program leaves half of the CPUs
# A program leaves half until it is busier than the second, and does so again below the first: the
# loop's part in a load counts as the program's.
_LEAVES, _TAKES = 0.5, 0.6


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
        cpus: that it may use; not always a whole number.

    Attributes:
        leaves_half: whether it leaves half of them, in the last half second. Of a program whose
            threads cannot be told from those that load it is taken to be so.
    """

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._samples: deque[tuple[float, float]] = deque()
        self.leaves_half = False

    @property
    def is_known(self) -> bool:
        """Whether there were calls enough for an average."""
        return len(self._samples) >= _SAMPLES

    def begin(self) -> None:
        """Forget what was before."""
        self._samples.clear()
        self.leaves_half = False
        self.sample()

    def share(self) -> float:
        """Return what loads may take now: see `share_beside`.

        A program that does something is taken for a busy one until there is an average.
        """
        busy = self.sample()
        self.leaves_half = self._since(0) < (_TAKES if self.leaves_half else _LEAVES)
        return LEAST if busy > _IDLE and not self.is_known else share_beside(busy)

    def sample(self) -> float:
        """Return how busy it was in the last few intervals between calls, from 0 to 1."""
        seconds, now = program_seconds(), time.perf_counter()
        if seconds is None:
            seconds = 0.0
        while self.is_known and self._samples[1][0] < now - _WHILE:
            self._samples.popleft()
        self._samples.append((now, seconds))
        return self._since(-_SAMPLES)

    def _since(self, index: int) -> float:
        begin, before = self._samples[max(index, -len(self._samples))]
        now, seconds = self._samples[-1]
        elapsed = (now - begin) * self._cpus
        return min(1.0, max(0.0, (seconds - before) / elapsed)) if elapsed > 0 else 0.0


class _Debt:
    """CPU time that was worked, and is to be rested for.

    Args:
        made_up: seconds of work that make up for rests that were too long.
    """

    def __init__(self, made_up: float = 0.0) -> None:
        self._made_up = made_up
        self._owed = 0.0  # seconds of CPU time; less than none after a rest that was too long
        self._at = time.perf_counter()

    def rest(self, worked: float, share: float) -> float:
        now = time.perf_counter()
        left = self._owed - (now - self._at) * share
        # What is made up for was there before the work was.
        self._owed = min(max(left, -worked * share - self._made_up) + worked, _OWED * share)
        self._at = now
        return self._owed / share


class _Own(threading.local):
    """The debt of each thread."""

    def __init__(self) -> None:
        self.debt = _Debt(_MADE_UP)


class Duty:
    """Says how long threads rest that work for what is not urgent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared = _Debt()
        self._own = _Own()

    def rest(self, worked: float, share: float, *, each: bool = False) -> float:
        """Return how many seconds a thread is to rest; of any thread.

        Args:
            worked: seconds of CPU time.
            share: of one CPU, for all threads together: who has worked rests until others may
                work; 1 for no rest.
            each: for each thread, of its own time, and not for all together.
        """
        if share >= 1:
            return 0.0
        if each:
            rest = self._own.debt.rest(worked, share)
        else:
            with self._lock:
                rest = self._shared.rest(worked, share)
        return min(rest, _LONGEST) if rest >= _SHORTEST else 0.0
