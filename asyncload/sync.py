"""asyncload for programs without an event loop: the same functions, which wait.

    model = asyncload.sync.load("model.keras")

Each takes what its namesake in `asyncload` takes, returns what that returns, and raises what that
raises. All of them share one event loop in a thread of its own (a blocking portal of anyio), and
so one Loader, whichever thread they are called from. A forked process gets a loop of its own.
Whoever has an event loop awaits the functions of `asyncload` instead.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, contextmanager
from typing import Any, ParamSpec, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal

from asyncload.forks import OwnLock, in_each_fork
from asyncload.loader import _default
from asyncload.loader._brief import Brief
from asyncload.materialize.caller import Asking

__all__ = [
    "close",
    "entered",
    "fetch",
    "inspect",
    "load",
    "load_into",
    "load_many",
    "load_weights",
    "ls",
    "map_parts",
    "run",
    "stream",
]

Params = ParamSpec("Params")
Result = TypeVar("Result")
Item = TypeVar("Item")


class _Loop:
    """The event loop of this process for whoever has none, started when first needed."""

    def __init__(self) -> None:
        self._changing = OwnLock()
        self._running: tuple[BlockingPortal, threading.Thread] | None = None

    def portal(self) -> BlockingPortal:
        """Return what takes calls.

        Raises:
            RuntimeError: this thread runs an event loop, which would stand still.
        """
        if _runs_a_loop():
            raise RuntimeError(
                "asyncload.sync would hold up the event loop of this thread; await the function of "
                "the same name in asyncload"
            )
        with self._changing:
            if self._running is None:
                self._running = _started()
            return self._running[0]

    def close(self) -> None:
        """End the loop, and with it the Loader; the next call starts another."""
        with self._changing:
            running, self._running = self._running, None
        if running is not None:
            portal, thread = running
            portal.call(portal.stop, True)
            thread.join()

    def forget(self) -> None:
        """Leave the loop to the process that this one was forked from."""
        self._running = None


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _started() -> tuple[BlockingPortal, threading.Thread]:
    ready: concurrent.futures.Future[BlockingPortal] = concurrent.futures.Future()

    async def live() -> None:
        async with BlockingPortal() as portal:
            ready.set_result(portal)
            await portal.sleep_until_stopped()

    # A daemon: a program that ends need not say so before.
    thread = threading.Thread(target=anyio.run, args=(live,), name="asyncload-sync", daemon=True)
    thread.start()
    return ready.result(), thread


_loop = _Loop()
in_each_fork(_loop.forget)


def close() -> None:
    """Cancel what is under way, and end the loop and its Loader; the next call starts others.

    A program that ends need not call this.
    """
    _loop.close()


def run(
    function: Callable[Params, Awaitable[Result]], *args: Params.args, **kwargs: Params.kwargs
) -> Result:
    """Call an async function on the loop, and return its result.

    For methods of what lives there: ``run(slot.run, predict, inputs)``.

    Args:
        function: such as a method of a `ModelSlot` that was `entered`.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        RuntimeError: this thread runs an event loop itself.
        Exception: whatever the function raised. If the wait for it is interrupted, as by Ctrl-C,
            it is cancelled.
    """
    portal = _loop.portal()
    asking = Asking()  # in the scopes of Keras and TensorFlow, which keep them by thread
    with asking.begun():
        future = portal.start_task_soon(functools.partial(function, *args, **kwargs))
    try:
        with Brief():
            return future.result()
    except BaseException:
        future.cancel()
        raise
    finally:
        asking.hand_back()


def entered(manager: AbstractAsyncContextManager[Item]) -> AbstractContextManager[Item]:
    """Return a context manager that enters an asynchronous one on the loop.

    ::

        with sync.entered(asyncload.ModelSlot("models/ranker/")) as slot:
            outputs = sync.run(slot.run, predict, inputs)

    Args:
        manager: such as a `ModelSlot` or a `ModelCache`.

    Raises:
        RuntimeError: this thread runs an event loop itself.
    """
    return _loop.portal().wrap_async_context_manager(manager)


def _blocking(
    function: Callable[Params, Coroutine[Any, Any, Result]],
) -> Callable[Params, Result]:
    """Return a function that waits for what an async one returns, and looks like it."""

    @functools.wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        with Brief():
            return run(function, *args, **kwargs)

    call.__module__ = __name__
    return cast("Callable[Params, Result]", call)


def _iterating(
    function: Callable[Params, AsyncGenerator[Item, None]],
) -> Callable[Params, Iterator[Item]]:
    """Return a function that yields what an asynchronous generator yields, and looks like it."""

    @functools.wraps(function)
    def call(*args: Params.args, **kwargs: Params.kwargs) -> Iterator[Item]:
        with Brief(), _pumped(functools.partial(function, *args, **kwargs)) as items:
            yield from items

    call.__module__ = __name__
    return cast("Callable[Params, Iterator[Item]]", call)


@contextmanager
def _pumped(make: Callable[[], AsyncGenerator[Item, None]]) -> Iterator[Iterator[Item]]:
    """Have one task iterate from begin to end, as what the generator holds belongs to a task."""
    portal = _loop.portal()
    give, take = anyio.create_memory_object_stream[Item](0)

    async def pump() -> None:
        async with give, aclosing(make()) as items:
            async for item in items:
                await give.send(item)

    def taken() -> Iterator[Item]:
        try:
            while True:
                yield portal.call(take.receive)
        except anyio.EndOfStream:
            pumping.result()  # raises what it raised

    pumping = portal.start_task_soon(pump)
    try:
        yield taken()
    finally:
        pumping.cancel()
        concurrent.futures.wait([pumping])
        take.close()


load = _blocking(_default.load)
load_many = _blocking(_default.load_many)
load_into = _blocking(_default.load_into)
load_weights = _blocking(_default.load_weights)
stream = _iterating(_default.stream)
map_parts = _iterating(_default.map_parts)
inspect = _blocking(_default.inspect)
ls = _blocking(_default.ls)
fetch = _blocking(_default.fetch)
