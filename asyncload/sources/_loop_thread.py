"""`LoopThread`: an event loop in a thread of its own, which takes nothing of the caller's loop."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

import uvloop

from asyncload.cpu_time import count_as_ours

from ._threads import end

__all__ = ["LoopThread"]

Result = TypeVar("Result")

_PATIENCE = 2.0  # seconds that the program's end waits for the thread
_POLL = 0.001  # seconds


class LoopThread:
    """Runs coroutines on a loop in a thread; both start with the first one.

    A thread that nobody closed ends with this object, or with the program.

    Args:
        name: of the thread.
        last: run there before the thread ends; refers to nothing that refers to this object.
    """

    def __init__(self, name: str, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name = name
        self._last = last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine there, and return what it returns.

        If the caller is cancelled, so is the coroutine, and it has ended when this raises.
        """
        call = _Call(self._started(), work)
        outcome = asyncio.wrap_future(call.future)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            call.cancel()
            await end(outcome)
            raise
        finally:
            del call, outcome  # they hold an error, whose traceback holds this frame

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = uvloop.new_event_loop()
            self._thread = threading.Thread(
                target=_serve, args=(self._loop,), name=self._name, daemon=True
            )
            weakref.finalize(self, _stop, self._loop, self._thread, self._last)
            self._thread.start()
        return self._loop

    async def aclose(self) -> None:
        """Cancel what runs there, and end the thread; closing twice is fine."""
        thread = self._thread
        self.end_soon()
        while thread is not None and thread.is_alive():  # noqa: ASYNC110  a thread's end wakes nobody
            await asyncio.sleep(_POLL)

    def end_soon(self) -> None:
        """Cancel what runs there, and have the thread end, which nobody waits for."""
        loop, self._loop, self._thread = self._loop, None, None
        if loop is not None:
            _finish(loop, self._last)


class _Call(Generic[Result]):
    """A coroutine that runs on another thread's loop, and what becomes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> None:
        self.future: Future[Result] = Future()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[Result] | None = None
        loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Cancel it; the future is done when it has ended."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._hand_over)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _hand_over(self, task: asyncio.Task[Result]) -> None:
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())
        self._task = None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    count_as_ours()
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _finish(loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def finish() -> None:
        try:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await last()
        finally:
            loop.stop()

    loop.call_soon_threadsafe(lambda: loop.create_task(finish()))


def _stop(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    last: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    with suppress(RuntimeError):  # it is closed already
        _finish(loop, last)
    if thread is not threading.current_thread():
        thread.join(_PATIENCE)
