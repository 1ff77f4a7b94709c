"""`Budget`: bytes that all loads of a Loader may have in flight, and that are kept of them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asyncload.interfaces import Urgency, on_demand
from asyncload.texts import printable

__all__ = ["Budget", "Kept", "Reclaim"]

Reclaim = Callable[[int], object]

_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """Bytes that somebody waits for.

    Attributes:
        nbytes: how many.
        urgency: tells how urgent it is by now.
        number: those that came earlier have lower ones.
        admitted: done once the bytes are its own.
        uri: of the load that they are for.
    """

    nbytes: int
    urgency: Callable[[], Urgency]
    number: int
    admitted: asyncio.Future[None]
    uri: str | None


class Budget:
    """A number of bytes that is shared out: the most urgent first, then first come, first served.

    Bytes are taken before the memory is, in one step, so that what is held does not go above the
    limit. Requests behind one that waits wait as well: a large one is not starved by small ones.

    Beside what is taken for the time of a load, there is what is kept of loads that are over: it
    counts, too, and goes only when its owner gives it back. Owners of what they could do without
    register with `reclaimable`, and are asked for it when a request on demand does not fit. A
    request that nobody needs yet waits instead.

    Nobody waits for ever: the request that is next is admitted, even above the limit, once nothing
    else is in flight and owners gave back what they could. What is kept then may belong to just
    those who wait for it. A request that nobody waits for is admitted so only if nothing is kept.

    A Budget is used from one event loop.

    Args:
        limit: bytes; ``None`` for no limit.

    Attributes:
        limit: as given.
        in_flight: bytes taken and not yet given back.
        kept: bytes that are kept of what was loaded.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"a budget cannot be negative: {limit}")
        self.limit = limit
        self.in_flight = 0
        self.kept = 0
        self._waiting: list[_Request] = []
        self._numbers = itertools.count()
        self._reclaims: list[Reclaim] = []
        self._admitting = False
        self._warned = False

    @property
    def held(self) -> int:
        """Bytes in flight and kept."""
        return self.in_flight + self.kept

    @property
    def waiting(self) -> int:
        """How many requests wait for their bytes."""
        return len(self._waiting)

    @property
    def is_needed(self) -> bool:
        """Whether somebody on demand waits for bytes."""
        return any(
            each.urgency() is Urgency.DEMAND and not each.admitted.done() for each in self._waiting
        )

    # --- in flight -----------------------------------------------------------------------

    @asynccontextmanager
    async def take(
        self,
        nbytes: int,
        urgency: Callable[[], Urgency] = on_demand,
        *,
        uri: str | None = None,
    ) -> AsyncIterator[None]:
        """Hold ``nbytes`` bytes for the time of the ``async with`` block, once they are free.

        Cancelling a request that waits takes it out of the queue.

        Args:
            nbytes: how many.
            urgency: tells how urgent it is; call `reconsider` when that changes.
            uri: of the load that takes them. The first one that goes above the limit is logged.
        """
        if nbytes < 0:
            raise ValueError(f"cannot take {nbytes} bytes")
        await self._acquire(nbytes, urgency, uri)
        try:
            yield
        finally:
            self.in_flight -= nbytes
            self.reconsider()

    async def _acquire(self, nbytes: int, urgency: Callable[[], Urgency], uri: str | None) -> None:
        admitted = asyncio.get_running_loop().create_future()
        request = _Request(nbytes, urgency, next(self._numbers), admitted, uri)
        self._waiting.append(request)
        self.reconsider()
        if admitted.done():
            return
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # admitted in the same turn of the loop
                self.in_flight -= nbytes
            elif request in self._waiting:
                self._waiting.remove(request)
            self.reconsider()
            raise

    # --- kept ----------------------------------------------------------------------------

    def keep(self, nbytes: int) -> Kept:
        """Count bytes that are there already, at once, until they are given back."""
        return Kept(self, nbytes)

    def reclaimable(self, reclaim: Reclaim) -> Callable[[], None]:
        """Register an owner of what is kept who can give some of it back.

        Args:
            reclaim: called on the loop's thread with the number of bytes that are missing. It
                releases what it can do without, of what it keeps, before it returns. It is asked
                again whenever something was given back and the request still does not fit. What
                could not be released when it was asked, and can be now, is to be announced with
                `reconsider`.

        Returns:
            What ends the registration.
        """
        self._reclaims.append(reclaim)

        def end() -> None:
            if reclaim in self._reclaims:
                self._reclaims.remove(reclaim)

        return end

    def count_kept(self, change: int) -> None:
        """Note that more bytes are kept, or fewer; `Kept` calls it."""
        self.kept += change
        if change < 0:
            self.reconsider()

    # --- who is next ---------------------------------------------------------------------

    def reconsider(self) -> None:
        """Admit who can be: bytes came free, could be reclaimed, or became more urgent."""
        if self._admitting:  # an owner gives back what it was asked for
            return
        self._admitting = True
        try:
            while (request := self._next()) is not None and self._has_room(request):
                self._waiting.remove(request)
                self._warn_above(request)
                self.in_flight += request.nbytes
                request.admitted.set_result(None)
        finally:
            self._admitting = False

    def _next(self) -> _Request | None:
        self._waiting = [each for each in self._waiting if not each.admitted.cancelled()]
        return min(self._waiting, key=lambda each: (each.urgency(), each.number), default=None)

    def _has_room(self, request: _Request) -> bool:
        if self._missing(request.nbytes) <= 0:
            return True
        urgency, alone = request.urgency(), self.in_flight == 0
        if urgency is Urgency.BACKGROUND:
            return self.held == 0
        if urgency is Urgency.DEMAND or alone:
            self._reclaim(request.nbytes)
        return alone or self._missing(request.nbytes) <= 0

    def _warn_above(self, request: _Request) -> None:
        if request.uri is None or self._warned or self._missing(request.nbytes) <= 0:
            return
        self._warned = True
        _logger.warning(
            "%s takes %s bytes of memory beside %s that are kept: more than the %s bytes that all "
            "loads of this Loader may take. It is loaded alone, above that limit, as are others "
            "like it. If there is memory for it, give Loader(memory=) more",
            printable(request.uri),
            *(f"{nbytes:,}" for nbytes in (request.nbytes, self.kept, self.limit or 0)),
        )

    def _missing(self, nbytes: int) -> int:
        return 0 if self.limit is None else self.held + nbytes - self.limit

    def _reclaim(self, nbytes: int) -> None:
        for reclaim in tuple(self._reclaims):
            missing = self._missing(nbytes)
            if missing <= 0 or not self.kept:
                return
            try:
                reclaim(missing)
            except Exception:
                _logger.exception("memory could not be reclaimed from %r", reclaim)


class Kept:
    """Bytes of a `Budget` that are kept until `release`. Made by `Budget.keep`.

    Args:
        budget: where they count.
        nbytes: how many.

    Attributes:
        nbytes: how many; 0 after `release`.
    """

    def __init__(self, budget: Budget, nbytes: int) -> None:
        self.nbytes = 0
        self._budget = budget
        self._released = False
        self.resize(nbytes)

    @property
    def released(self) -> bool:
        """Whether `release` was called."""
        return self._released

    def resize(self, nbytes: int) -> None:
        """Correct how many they are. More are counted even if the limit is reached: they are there.

        Raises:
            ValueError: it is negative, or they were released.
        """
        if nbytes < 0 or self._released:
            what = "released memory" if self._released else "memory kept"
            raise ValueError(f"{what} cannot be {nbytes} bytes")
        change, self.nbytes = nbytes - self.nbytes, nbytes
        self._budget.count_kept(change)

    def release(self) -> None:
        """Give them back; releasing twice is fine."""
        if not self._released:
            self.resize(0)
            self._released = True
