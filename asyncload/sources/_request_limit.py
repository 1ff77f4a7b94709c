"""`RequestLimit`: how many requests to a store are in flight, found by trying."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

__all__ = ["Climb", "RequestLimit"]

START = 16  # requests; with parts of 8 MiB, what fills a link of 10 Gbit/s at 100 ms
LEAST, MOST = 4, 32  # requests
_SHORTEST = 0.05  # seconds that one trial takes at least
_BETTER, _WORSE = 1.1, 0.7  # of the best rate so far: what is more, or less, than noise
_STEP = 1.5
_REST = 16  # trials after one of more requests that did not pay, before the next


class Climb:
    """Decides how many requests to have in flight: more while that pays, fewer when it ceases to.

    More that do not pay cost: each has a buffer of its own, whose pages have to be made. A trial
    ends with as many requests as were in flight at once. What throttles us (503, 429) makes the
    client wait, and so shows as a lower rate.

    Attributes:
        limit: requests in flight at present.
    """

    def __init__(self) -> None:
        self.limit = START
        self._best = 0.0  # bytes per second
        self._before: int | None = None  # the limit that a trial of more goes back to
        self._rest = 1  # trials until the next one of more
        self._begin: float | None = None
        self._requests = 0
        self._nbytes = 0

    def ended(self, nbytes: int, now: float, *, full: bool) -> None:
        """Take note of a request that ended.

        Args:
            nbytes: that it brought.
            now: in seconds, of a clock that only goes forward.
            full: whether ``limit`` requests were in flight: no others say anything.
        """
        if not full or self._begin is None:
            self._begin, self._requests, self._nbytes = (now if full else None), 0, 0
            return
        self._requests += 1
        self._nbytes += nbytes
        elapsed = now - self._begin
        if self._requests >= self.limit and elapsed >= _SHORTEST:
            self._judge(self._nbytes / elapsed)
            self._begin, self._requests, self._nbytes = now, 0, 0

    def _judge(self, rate: float) -> None:
        if self._before is not None:
            if rate > self._best * _BETTER:
                self._try_more(rate)
            else:
                self.limit, self._before, self._rest = self._before, None, _REST
        elif rate < self._best * _WORSE:
            self._best = rate
            self.limit = max(int(self.limit / _STEP), LEAST)
        elif self._rest > 0:
            self._best = max(rate, self._best)
            self._rest -= 1
        else:
            self._try_more(rate)

    def _try_more(self, rate: float) -> None:
        self._best = rate
        self._before = self.limit if self.limit < MOST else None
        self.limit = min(int(self.limit * _STEP), MOST)


class RequestLimit:
    """Bounds the requests in flight to one store; used from one event loop.

    Args:
        fixed: how many; ``None`` to have it found.
        clock: in seconds.
    """

    def __init__(
        self, fixed: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = fixed
        self._climb = Climb()
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._climb.limit if self._fixed is None else self._fixed

    @property
    def most(self) -> int:
        """How many there may ever be."""
        return MOST if self._fixed is None else self._fixed

    @asynccontextmanager
    async def slot(self, nbytes: int) -> AsyncIterator[None]:
        """Have one request, of ``nbytes`` bytes, in flight for the time of the block."""
        await self._acquire()
        try:
            yield
            full = self.in_flight >= self.limit
            self._climb.ended(nbytes, self._clock(), full=full)
        finally:
            self.in_flight -= 1
            self._admit()

    async def _acquire(self) -> None:
        if not self._waiting and self.in_flight < self.limit:
            self.in_flight += 1
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(admitted)
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # admitted in the same turn of the loop
                self.in_flight -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            admitted = self._waiting.popleft()
            if not admitted.done():
                self.in_flight += 1
                admitted.set_result(None)
