"""`Budget`: bytes that all loads of a Loader may have in flight or hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Budget"]


class Budget:
    """A number of bytes that is shared out, first come, first served.

    Bytes are taken before the memory is, in one step, so that what is held never goes above the
    limit. One request larger than the whole limit is admitted too, once nothing else is held.
    Requests behind one that waits wait as well: a large one is not starved by small ones.

    A Budget is used from one event loop.

    Args:
        limit: bytes; ``None`` for no limit.

    Attributes:
        limit: as given.
        held: bytes taken and not yet given back.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"a budget cannot be negative: {limit}")
        self.limit = limit
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many requests wait for their bytes."""
        return len(self._waiting)

    @asynccontextmanager
    async def take(self, nbytes: int) -> AsyncIterator[None]:
        """Hold ``nbytes`` bytes for the time of the ``async with`` block, once they are free.

        Cancelling a request that waits takes it out of the queue.
        """
        if nbytes < 0:
            raise ValueError(f"cannot take {nbytes} bytes")
        await self._acquire(nbytes)
        try:
            yield
        finally:
            self.held -= nbytes
            self._admit()

    async def _acquire(self, nbytes: int) -> None:
        if not self._waiting and self._fits(nbytes):
            self.held += nbytes
            return
        admitted = asyncio.get_running_loop().create_future()
        request = (nbytes, admitted)
        self._waiting.append(request)
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # admitted in the same turn of the loop
                self.held -= nbytes
            elif request in self._waiting:
                self._waiting.remove(request)
            self._admit()
            raise

    def _fits(self, nbytes: int) -> bool:
        return self.limit is None or self.held == 0 or self.held + nbytes <= self.limit

    def _admit(self) -> None:
        while self._waiting:
            nbytes, admitted = self._waiting[0]
            if not admitted.cancelled():
                if not self._fits(nbytes):
                    return
                self.held += nbytes
                admitted.set_result(None)
            self._waiting.popleft()
