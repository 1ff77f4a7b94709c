"""`LoopProbe`: how long an event loop keeps a task waiting that is ready to run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["LoopProbe", "Stall"]

_INTERVAL = 0.001  # seconds; shorter ones would make the probe a load of its own
_SETTLE = 0.03  # seconds before the first sample counts


@dataclass(frozen=True, slots=True)
class Stall:
    """How late a task that slept a millisecond woke up.

    Attributes:
        p50: median, milliseconds.
        p99: 99th percentile, milliseconds.
        max: longest, milliseconds.
        samples: how often it slept.
    """

    p50: float
    p99: float
    max: float
    samples: int

    @classmethod
    def of(cls, lags: Sequence[float]) -> Stall:
        """Sum up lags, given in seconds."""
        ordered = sorted(lags)
        count = len(ordered)
        if not count:
            return cls(0.0, 0.0, 0.0, 0)
        p50, p99 = (ordered[min(count - 1, int(count * share))] for share in (0.5, 0.99))
        return cls(p50 * 1e3, p99 * 1e3, ordered[-1] * 1e3, count)


class LoopProbe:
    """An async context manager that samples the running loop while it is entered.

    Attributes:
        lags: seconds by which each sleep was too long.
    """

    def __init__(self) -> None:
        self.lags: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample(), name="loop-probe")
        await asyncio.sleep(_SETTLE)
        self.lags.clear()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            # One more sample: a stall that lasts until now is one as well.
            await asyncio.sleep(2 * _INTERVAL)
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def stall(self) -> Stall:
        """What was sampled so far."""
        return Stall.of(self.lags)

    async def _sample(self) -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(_INTERVAL)
            self.lags.append(max(0.0, time.perf_counter() - begin - _INTERVAL))
