"""`Load`: one load on its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

import anyio

from asyncload.errors import LoaderClosed
from asyncload.events import Event, Finished, Observer, Progress, Started, advance

__all__ = ["Load"]

Result = TypeVar("Result")
_logger = logging.getLogger("asyncload")


class Load(Generic[Result]):
    """One load on its way, as `prefetch` returns it: await it for its result.

    Any number of tasks may await it. Cancelling one of them leaves the others waiting;
    when the last one that waited is cancelled, so is the load. A load that nobody has awaited
    yet goes on by itself.

    Attributes:
        uri: what is being loaded, without credentials.
        progress: how far it is, as a `Progress`.
    """

    def __init__(
        self,
        uri: str,
        work: Callable[[Load[Result]], Awaitable[Result]],
        observer: Observer | None,
    ) -> None:
        self.uri = uri
        self.progress = Progress()
        self._work = work
        self._observer = observer
        self._future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._scope = anyio.CancelScope()
        self._failure: Exception | None = None
        self._waiters = 0
        self._events: list[Event] = []
        self._news = asyncio.Event()

    def __await__(self) -> Generator[Any, None, Result]:
        return self._wait().__await__()

    async def _wait(self) -> Result:
        self._waiters += 1
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            if self._waiters == 1:
                self.cancel()
            raise
        finally:
            self._waiters -= 1

    def done(self) -> bool:
        """Whether it has ended: with a result, an error, or cancelled."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop the load; whoever awaits it gets `asyncio.CancelledError`.

        Its reads stop, the results of its worker jobs are dropped, and its memory is returned. A
        load that has ended stays as it is.
        """
        self._scope.cancel()
        if not self._future.done():
            self._future.cancel()

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
        """Report an event: to progress, to `events`, to the Loader's observer."""
        self.progress = advance(self.progress, event)
        self._events.append(event)
        self._news.set()
        self._news = asyncio.Event()
        if self._observer is not None:
            try:
                self._observer(event)
            except Exception:
                _logger.exception("an observer failed on %s; the load goes on", event)

    async def run(self) -> None:
        """Do the work; the Loader calls it, in its own task group."""
        self.emit(Started(uri=self.uri))
        try:
            with self._scope:
                self._settle(await self._work(self))
        except Exception as failure:  # noqa: BLE001 - it is handed to whoever awaits
            self._fail(failure)
        finally:
            if not self._future.done():  # the Loader was closed, and its task group cancelled
                self._close("the Loader was closed before this load had ended")
            self.emit(Finished(uri=self.uri, error=self._error()))
            del self._work  # it refers to a model that was offered for reuse

    def refuse(self) -> None:
        """End a load that was never begun because its Loader is closed."""
        self._close("the Loader was closed before this load had begun")
        self.emit(Finished(uri=self.uri, error=self._error()))

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
            self._future.set_exception(failure)

    def __repr__(self) -> str:
        return f"<Load of {self.uri}: {self.progress.stage}>"
