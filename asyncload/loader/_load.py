"""`Load`: one load on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio

from asyncload.errors import LoaderClosed
from asyncload.events import Event, Finished, Progress
from asyncload.forks import Origin
from asyncload.interfaces import Urgency
from asyncload.texts import printable

from ._brief import brief, shorten
from ._options import Priority
from ._reports import Reports
from ._retained import Retained

__all__ = ["Load"]

Result = TypeVar("Result")


def _nothing() -> None:
    pass


class Load(Generic[Result]):
    """One load on its way, as `prefetch` returns it: await it for its result.

    Any number of tasks may await it. Cancelling one of them leaves the others waiting;
    when the last one that waited is cancelled, so is the load. A load that nobody has awaited
    yet goes on by itself. Whoever awaits it needs it now: it goes on as a load on demand. Whoever
    can wait awaits `patiently`.

    What is loaded is shared with all who asked for the same at the same time (see
    `Loader.load`): each has a `Load`, and the work goes on until the last of them was cancelled.

    Attributes:
        uri: what is being loaded, without credentials.
        priority: what it was asked for with: ``"demand"`` or ``"background"``.
        reports: where its events go.
    """

    def __init__(
        self,
        work: Callable[[Load[Result]], Awaitable[Result]],
        reports: Reports,
        *,
        priority: Priority = "demand",
        joins: bool = False,
    ) -> None:
        self.uri = reports.uri
        self.priority = priority
        self.reports = reports
        self._retained: list[Retained] = []
        self._work = work
        self._joins = joins  # work that reports its beginning and end itself
        self._future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope()
        self._origin = Origin("this load")
        self._failure: Exception | None = None
        self._waiting: list[Urgency] = []  # of each who waits
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._ended: Finished | None = None
        self._over = asyncio.Event()
        self._urgency_changed: Callable[[], None] = _nothing

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.reports.progress

    def __await__(self) -> Generator[Any, None, Result]:
        return self._wait(Urgency.DEMAND).__await__()

    @brief
    async def patiently(self) -> Result:
        """Await it, and leave it in the background: what the program does meanwhile goes first."""
        return await self._wait(Urgency.AWAITED)

    @brief
    async def _wait(self, urgency: Urgency) -> Result:
        self._origin.check(self.uri)
        self._waiting.append(urgency)
        self._urgency_changed()
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            if len(self._waiting) == 1:
                self.cancel()
            raise
        finally:
            self._waiting.remove(urgency)
            self._urgency_changed()

    @brief
    async def settled(self, *, patiently: bool = False) -> Result:
        """Await it; if that is cancelled, end when the work has: for what changes an object.

        Args:
            patiently: leave it in the background, as `patiently` does.
        """
        try:
            return await (self.patiently() if patiently else self)
        except asyncio.CancelledError:
            # Whoever gets this may look at the object.
            await self.over()
            raise

    async def over(self) -> None:
        """Wait until its work has ended, however often whoever waits is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            while not self._over.is_set():
                with suppress(asyncio.CancelledError):
                    await self._over.wait()

    @property
    def is_over(self) -> bool:
        """Whether its work has ended, or never will begin."""
        return self._over.is_set()

    @property
    def urgency(self) -> Urgency:
        """How urgent it is by now."""
        if self.priority == "demand":
            return Urgency.DEMAND
        return min(self._waiting, default=Urgency.BACKGROUND)

    def promote(self) -> None:
        """Make it as urgent as a load on demand: somebody needs it now."""
        self.priority = "demand"
        self._urgency_changed()

    def retain(self) -> Retained:
        """Have the memory of the result counted in the Loader's budget when the load is over.

        Called before the load has ended, it leaves no moment in which others could be given that
        memory. Whoever keeps the result for itself (a cache, a slot) releases it after the result.

        Returns:
            What is counted: nothing as long as the load goes on, and if it fails.
        """
        retained = Retained()
        self._retained.append(retained)
        return retained

    @property
    def retained(self) -> Sequence[Retained]:
        """What `retain` returned."""
        return self._retained

    def watch(self, urgency_changed: Callable[[], None] | None) -> None:
        """Have a function called whenever `urgency` may have changed; ``None`` for none."""
        self._urgency_changed = urgency_changed or _nothing

    def ends_with(self, event: Finished) -> None:
        """Take note of the event that the end is to be reported with, if it ends that way."""
        self._ended = event

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        """Have a function called, in one of the loop's next turns, when it has ended."""
        self._future.add_done_callback(callback)

    def done(self) -> bool:
        """Whether it has ended: with a result, an error, or cancelled."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop the load; whoever awaits it gets `asyncio.CancelledError`.

        Its reads stop, the results of its worker jobs are dropped, and its memory is returned. A
        load that has ended stays as it is. `events` ends when all of that is done.
        """
        self.stop()
        if not self._future.done():
            self._future.cancel()

    def stop(self) -> None:
        """Stop the work; whoever awaits the result gets `LoaderClosed`."""
        self._scope.cancel()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield every event of the load, from its first on, until it has ended."""
        seen = 0
        while True:
            while seen < len(self._events):
                event = self._events[seen]
                seen += 1
                yield event
                if isinstance(event, Finished):
                    return
            await self._news.wait()

    def emit(self, event: Event) -> None:
        """Report an event: to progress, to `events`, to observers."""
        self._events.append(event)
        self._news.set()
        self._news = asyncio.Event()
        self.reports.emit(event)

    async def run(self) -> None:
        """Do the work; the Loader calls it, in its own task group."""
        if not self._joins:
            self.emit(self.reports.started())
        try:
            with self._scope:
                self._settle(await self._work(self))
        except Exception as failure:  # noqa: BLE001 - it is handed to whoever awaits
            self._fail(failure)
        finally:
            if not self._future.done():  # the Loader was closed, and its task group cancelled
                self._close("the Loader was closed before this load had ended")
            self._finish()
            del self._work  # it refers to a model that was offered for reuse

    def _finish(self) -> None:
        error = self._error()
        if self._ended is None or self._ended.error != error:
            self._ended = self.reports.finished(error)
        self.emit(self._ended)
        self._over.set()

    def refuse(self) -> None:
        """End a load that was never begun because its Loader is closed."""
        self._close("the Loader was closed before this load had begun")
        self._finish()

    def _close(self, why: str) -> None:
        self._fail(LoaderClosed(why, uri=self.uri))
        if not self._future.cancelled():
            self._future.exception()  # closing is no news to log if nobody awaits it

    def _error(self) -> str | None:
        if self._future.cancelled():
            return asyncio.CancelledError.__name__
        return None if self._failure is None else type(self._failure).__name__

    def _settle(self, result: Result) -> None:
        if not self._future.done():
            self._future.set_result(result)

    def _fail(self, failure: Exception) -> None:
        if not self._future.done():
            self._failure = failure
            self.reports.failed(failure)
            shorten(failure)  # asyncio prints it where nobody awaits the load
            self._future.set_exception(failure)

    def __repr__(self) -> str:
        return f"<Load of {printable(self.uri)}: {self.progress.stage}>"
