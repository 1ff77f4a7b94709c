"""Blocking calls in threads, through aiofiles, that have ended when their awaiter goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from aiofiles.os import wrap

from asyncload.resting import carried

__all__ = ["end", "in_thread"]

Result = TypeVar("Result")


async def in_thread(
    threads: Executor | None,
    function: Callable[..., Result],
    *args: Any,
    undo: Callable[[Result], None] | None = None,
) -> Result:
    """Call ``function(*args)`` in a thread, and never leave it running.

    A call that is cancelled before a thread takes it up is never made. One that is cancelled
    later is waited for: what it writes to, and the descriptor it reads from, are the caller's
    again when this raises.

    Args:
        threads: where to call it; ``None`` for the loop's default executor.
        function: what to call.
        args: its arguments.
        undo: called with the result of a call that was cancelled while it ran.
    """
    claim = threading.Lock()  # whoever takes it first decides: the thread, or cancellation
    outcome: list[Result] = []

    def call() -> None:
        if claim.acquire(blocking=False):
            outcome.append(function(*args))

    task = asyncio.ensure_future(wrap(carried(call))(executor=threads))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if claim.acquire(blocking=False):
            task.cancel()
        await end(task)
        if outcome and undo is not None:
            undo(outcome[0])
        raise
    return outcome[0]


async def end(task: asyncio.Future[Any]) -> None:
    """Wait until a task has ended, however often the caller is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # the cancellation comes first; this marks the error as seen
