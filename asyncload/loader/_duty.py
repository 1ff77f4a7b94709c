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
_HALF_BUSY = 0.5  # of all CPUs
# Loads that go fast keep a program from its work, which then looks less busy than it would be. So
# now and then they go slowly, and what it does in that time is what counts.
_LITTLE = 0.25  # of all CPUs: no program that wants half has that little, whatever loads do
_ENOUGH = 0.15  # seconds of looking at a program that does more than a little
_WHILE = 0.5  # seconds for which that holds; and for which it is looked at, at most


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
        leaves_half: whether it leaves half of them, and loads may go fast. Of a program whose
            threads cannot be told from those that load it is taken to be so.
    """

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)
        self._slow: deque[tuple[float, float]] = deque()  # samples while loads go slowly
        self._fast_since = 0.0
        self._were_fast = False
        self.leaves_half = False

    @property
    def _has_looked(self) -> bool:
        return self._slow[-1][0] - self._slow[0][0] >= _ENOUGH

    @property
    def is_known(self) -> bool:
        """Whether there were calls enough for an average."""
        return len(self._samples) == self._samples.maxlen

    def begin(self) -> None:
        """Forget what was before."""
        self._samples.clear()
        self.sample()
        self._slow_down(were_fast=False)

    def share(self) -> float:
        """Return what loads may take now: see `share_beside`.

        A program that does something is taken for a busy one until there is an average; and after
        loads went fast, until it was looked at while they hardly go at all.
        """
        busy = self.sample()
        self._decide(busy)
        if self._were_fast and not self.leaves_half and not self._has_looked:
            return LEAST
        return LEAST if busy > _IDLE and not self.is_known else share_beside(busy)

    def _decide(self, busy: float) -> None:
        now, _ = self._samples[-1]
        if self.leaves_half:
            if busy > _LITTLE and now - self._fast_since > _WHILE:
                self._slow_down(were_fast=True)
            return
        self._slow.append(self._samples[-1])
        while self._slow[1][0] < now - _WHILE:
            self._slow.popleft()
        found = self._busy_between(self._slow[0], self._slow[-1])
        is_idle = found <= _IDLE and not self._were_fast
        if is_idle or (self._has_looked and found < _HALF_BUSY):
            self.leaves_half = True
            self._fast_since = now if self._has_looked else now - _WHILE

    def _slow_down(self, *, were_fast: bool) -> None:
        """Have loads go slowly, and look at what the program does meanwhile."""
        self.leaves_half, self._were_fast = False, were_fast
        self._slow.clear()
        self._slow.append(self._samples[-1])

    def sample(self) -> float:
        """Return how busy it was in the last few intervals between calls, from 0 to 1."""
        self._samples.append((time.perf_counter(), program_seconds() or 0.0))
        return self._busy_between(self._samples[0], self._samples[-1])

    def _busy_between(self, begin: tuple[float, float], end: tuple[float, float]) -> float:
        elapsed = (end[0] - begin[0]) * self._cpus
        return min(1.0, max(0.0, (end[1] - begin[1]) / elapsed)) if elapsed > 0 else 0.0


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
