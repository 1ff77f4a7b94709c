"""`Pace`: how fast loads in the background go, so that others are not held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asyncload.events import Paced
from asyncload.interfaces import Urgency

from ._load import Load

__all__ = ["MAX_STALL_MS", "Pace", "next_pace"]

MAX_STALL_MS = 1.0  # a loop that has nothing to do is below, one that answers is not

_INTERVAL = 0.005  # seconds between two looks at the loop
_WINDOW = 20  # looks, after which the pace is set anew
_SLOWEST = 0.1
_SLOWER, _FASTER = 0.6, 0.1  # factor, and step: slow down at once, speed up with care
_STEP = 0.004  # seconds that a read takes, or a job; what the pause between two is measured by
_PATIENCE = 0.1  # seconds for which one step makes way for loads on demand, however many follow


def next_pace(pace: float, stall: float, most: float) -> float:
    """Return the pace after a look at the loop.

    Args:
        pace: so far, from 0.1 to 1.
        stall: the longest of late, seconds.
        most: that is allowed, seconds.
    """
    if stall > most:
        return max(_SLOWEST, pace * _SLOWER)
    return min(1.0, pace + _FASTER)


class Pace:
    """Has loads that are not urgent wait between their steps.

    They make way for loads on demand, but take a step now and then, so that they end even if
    there is always one on demand. And they go slower while the loop stalls, which is measured
    only while there are such loads.

    Args:
        max_stall_ms: that the loop is to stall at most; ``None`` to go on whatever it does.

    Attributes:
        value: the pace, from 0.1 to 1.
    """

    def __init__(self, max_stall_ms: float | None = MAX_STALL_MS) -> None:
        if max_stall_ms is not None and max_stall_ms <= 0:
            raise ValueError(f"max_stall_ms has to be more than 0, not {max_stall_ms}")
        self.value = 1.0
        self._stall = 0.0  # seconds, by which the pace was set
        self._most = None if max_stall_ms is None else max_stall_ms / 1000
        self._loads: set[Load[object]] = set()
        self._probe: asyncio.Task[None] | None = None

    @contextmanager
    def kept(self, load: Load[object] | None) -> Iterator[None]:
        """Count a load as under way until the block ends."""
        if load is None:
            yield
            return
        self._loads.add(load)
        if self.value < 1:
            self._tell(load)
        try:
            yield
        finally:
            self._loads.discard(load)
            if not self._loads and self._probe is not None:
                self._probe.cancel()
                self._probe = None

    async def step(self, urgency: Callable[[], Urgency]) -> None:
        """Wait until a load may take its next step: at once if it is on demand."""
        if urgency() is Urgency.DEMAND:
            return
        if self._probe is None and self._most is not None:
            self._probe = asyncio.create_task(self._watch(self._most), name="asyncload-pace")
        until = time.perf_counter() + _PATIENCE
        while self._is_demand_under_way() and time.perf_counter() < until:
            await asyncio.sleep(_INTERVAL)
            if urgency() is Urgency.DEMAND:
                return
        if self.value < 1:
            await asyncio.sleep(_STEP * (1 / self.value - 1))

    def _is_demand_under_way(self) -> bool:
        return any(load.urgency is Urgency.DEMAND for load in self._loads)

    async def _watch(self, most: float) -> None:
        """Measure how long the loop stalls, and set the pace."""
        while True:
            longest = 0.0
            for _ in range(_WINDOW):
                begin = time.perf_counter()
                await asyncio.sleep(_INTERVAL)
                longest = max(longest, time.perf_counter() - begin - _INTERVAL)
                if longest > most:
                    break
            pace = next_pace(self.value, longest, most)
            if pace != self.value:
                self.value, self._stall = pace, longest
                for load in tuple(self._loads):
                    self._tell(load)

    def _tell(self, load: Load[object]) -> None:
        if load.urgency is not Urgency.DEMAND:
            load.emit(Paced(uri=load.uri, pace=self.value, stall=self._stall))
