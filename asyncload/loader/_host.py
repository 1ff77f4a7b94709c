"""`Host`: where the loads of one Loader run, from its first call until it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

import anyio

from asyncload.errors import LoaderClosed
from asyncload.forks import Origin

from ._load import Load

__all__ = ["Host", "abandon_those_of_closed_loops"]


class Host:
    """Runs loads, until it is closed, or the loop ends.

    It belongs to the loop that it was made in, or first used in, and to this process.

    Args:
        release: gives back what the loads used, once they have ended.
        abandon: gives it back when the loop was closed before they had.
    """

    def __init__(self, release: Callable[[], Awaitable[None]], abandon: Callable[[], None]) -> None:
        self._release = release
        self._abandon = abandon
        self._origin = Origin("this Loader")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: AsyncGenerator[None, None] | None = None
        # No task group of anyio's: what the loop's end cancels before its first step, it never
        # begins, and tells nobody; a load has to end all the same, as others wait for that.
        self._loads: dict[asyncio.Task[None], Load[Any]] = {}
        self._spare: set[Future[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._closed = False
        self._over = False  # and nothing is left of it
        self._loop_ends = False

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called, or the loop ended."""
        return self._closed or (self._loop is not None and self._loop.is_closed())

    @property
    def inherited(self) -> bool:
        """Whether another process made this, from which this one was forked."""
        return not self._origin.is_here

    def open(self) -> None:
        """Begin to run loads; opening twice is fine.

        Raises:
            LoaderClosed: it was closed.
            Forked: it belongs to another process.
        """
        self._origin.check()
        if self.closed:
            raise LoaderClosed("this Loader is closed; make a new one")
        self._begin()

    def _begin(self) -> None:
        if self._life is not None:
            return
        abandon_those_of_closed_loops()
        self._loop = asyncio.get_running_loop()
        self._life = self._until_the_loop_ends()
        with suppress(StopIteration):  # it yields at once, and so needs no task
            self._life.__anext__().__await__().send(None)
        _open.add(self)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # No task that waits: a loop that is closed without asyncio.run reports it as lost. Of its
        # asynchronous generators a loop tells each that it ends, and none is reported.
        try:
            yield
        finally:
            if not self._over:
                self._loop_ends = True
                await self.aclose()

    def _end_life(self) -> None:
        """End the generator, so that none is left for the collector to tell a loop of."""
        self._over = True
        if self._life is not None and not self._loop_ends:
            with suppress(StopAsyncIteration, StopIteration):  # nothing is left to wait for
                self._life.aclose().__await__().send(None)

    async def aclose(self) -> None:
        """Cancel the loads under way, and give back what they used; closing twice is fine."""
        if self.inherited or (self._closed and self._ending is None):
            return
        self._closed = True
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="asyncload-closing")
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._ending])

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            while self._loads or self._spare:
                self._stop_loads()
                spare = map(asyncio.wrap_future, tuple(self._spare))
                await asyncio.wait([*self._loads, *spare])
            await self._release()
        _open.discard(self)
        self._end_life()

    def start(self, load: Load[Any]) -> None:
        """Run a load; it ends whatever becomes of its task."""
        task = asyncio.create_task(load.run())
        self._loads[task] = load
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        load = self._loads.pop(task)
        if not load.is_over:  # cancelled before its first step
            load.refuse()

    def in_spare_time(self, threads: Executor, work: Callable[[], None]) -> None:
        """Do in a thread what no load waits for. Closing does, for some milliseconds."""
        if self._life is not None and not self.closed:
            future = threads.submit(work)
            self._spare.add(future)
            future.add_done_callback(self._spare_ended)

    def _spare_ended(self, future: Future[None]) -> None:
        self._spare.discard(future)
        if not future.cancelled():
            future.result()  # an error here is logged, and nobody else's

    def _stop_loads(self) -> None:
        for load in self._loads.values():
            load.stop()

    def abandon(self) -> None:
        """Give back what was used by loads of a loop that is closed; any thread may do this."""
        _open.discard(self)
        self._closed = True
        self._end_life()
        if not self.inherited:
            self._abandon()

    @property
    def is_orphaned(self) -> bool:
        """Whether its loop was closed and nobody closed this before."""
        return self._loop is not None and self._loop.is_closed()


_open: set[Host] = set()


def abandon_those_of_closed_loops() -> None:
    """Give back what Loaders have whose loops were closed without them."""
    for host in [host for host in tuple(_open) if host.is_orphaned]:
        host.abandon()
