"""Calls of the obstore client, none of which outlives the interpreter.

obstore answers from threads of its own, which take the interpreter's lock to do so. One that waits
for it while the interpreter ends is ended in the middle of its work, and the process aborts
(SIGABRT), one short program in four. A call's future is referred to by such a thread for just as
long as it has business with the interpreter, so the last futures are waited for before it ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakSet

import obstore

from asyncload.cpu_time import count_native, native_threads
from asyncload.errors import SourceError

__all__ = ["call", "settle"]

Result = TypeVar("Result")

_PATIENCE = 2.0  # seconds that the program's end waits for calls, which take a millisecond
_POLL = 0.001  # seconds
_ABANDONED = 0.1  # seconds for calls whose futures somebody else keeps alive

# What obstore names its threads, and what other libraries with the same runtime name theirs: those
# that were there before its first call are not its own.
_THREADS = "tokio-rt-worker"

_under_way: WeakSet[asyncio.Future[Any]] = WeakSet()
_ending = False


async def call(function: Callable[..., Awaitable[Result]], *args: Any, **options: Any) -> Result:
    """Await ``function(*args, **options)``, one of obstore's.

    Raises:
        SourceError: the program is ending.
        Exception: whatever the call raised.
    """
    if _ending:
        raise SourceError("the program is ending, and nothing can be fetched any more")
    with _counted():
        future: Any = function(*args, **options)
        _under_way.add(future)
        try:
            result: Result = await future
            return result
        finally:
            del future  # not kept alive by a traceback that somebody holds


_are_counted = False


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """Count the client's threads as such that load; the first call starts them."""
    global _are_counted
    if _are_counted:
        yield
        return
    _are_counted, others = True, native_threads(_THREADS)
    try:
        yield
    finally:
        count_native(native_threads(_THREADS) - others)


async def settle() -> None:
    """Wait until the client has let go of calls that are over, and so of what they refer to."""
    deadline = time.monotonic() + _PATIENCE
    while any(future.done() for future in _under_way) and time.monotonic() < deadline:
        _let_go()
        await asyncio.sleep(_POLL)


def _let_go() -> None:
    """Have the client drop what it could not without the interpreter's lock."""
    obstore.parse_scheme("memory:///")  # any call does


def _drain() -> None:
    """Wait, with the interpreter's lock free, until no thread of obstore's wants it."""
    global _ending  # noqa: PLW0603  once, by the interpreter itself
    _ending = True
    abandoned = _abandon_all()
    deadline = time.monotonic() + _PATIENCE
    while len(_under_way) and time.monotonic() < deadline:
        time.sleep(_POLL)
        _let_go()
    if abandoned:
        time.sleep(_ABANDONED)


def _abandon_all() -> bool:
    """Cancel calls whose loop was left before their end; return whether there were any."""
    left = [future for future in _under_way if not future.done()]
    for future in left:
        _under_way.discard(future)
        _abandon(future)
    return bool(left)


def _abandon(future: asyncio.Future[Any]) -> None:
    callbacks = list(getattr(future, "_callbacks", None) or ())
    with contextlib.suppress(RuntimeError):  # the loop is closed
        future.cancel()
    for callback, _ in callbacks:
        if type(callback).__module__ == "builtins":  # the client's own, which stops the transfer
            callback(future)


atexit.register(_drain)
