"""Several coroutines in one scope, and tasks that are over when one goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import anyio

__all__ = ["end", "run_together"]


async def run_together(functions: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Await all of ``functions`` at once.

    Raises:
        Exception: what the first that failed raised, as it is; the others were cancelled.
    """
    # No task group of anyio's: of tasks that the loop's end cancels before their first step, it
    # leaves coroutines that were never awaited, and the interpreter complains.
    tasks = [asyncio.create_task(function()) for function in functions]
    errors: list[BaseException] = []
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        errors += filter(None, (_error(task) for task in tasks if task.done()))
        if errors:
            raise errors[0]
    except asyncio.CancelledError as error:
        # Frames of asyncio.wait hold the tasks, whose frames hold memory that is to be freed.
        raise error.with_traceback(None)  # noqa: B904  it is the same one
    finally:
        await _end_all(tasks)
        tasks.clear()
        errors.clear()  # else its traceback and this frame keep each other, and arenas, alive


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        await end(task)


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended, however often the caller is cancelled."""
    task.cancel()
    with anyio.CancelScope(shield=True):
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # whoever wanted it has had it; this marks it as seen
