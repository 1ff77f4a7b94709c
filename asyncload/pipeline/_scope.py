"""Several coroutines in one scope, and tasks that are over when one goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio

__all__ = ["end", "run_together"]


async def run_together(functions: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Await all of ``functions`` at once.

    Raises:
        Exception: what the first that failed raised, as it is; the others were cancelled.
    """
    errors: list[Exception] = []

    async def follow(function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Exception as error:  # noqa: BLE001  raised below, without the group around it
            errors.append(error)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for function in functions:
                group.start_soon(follow, function)
        if errors:
            raise errors[0]
    finally:
        errors.clear()  # else its traceback and this frame keep each other, and arenas, alive


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended, however often the caller is cancelled."""
    task.cancel()
    with anyio.CancelScope(shield=True):
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # whoever wanted it has had it; this marks it as seen
