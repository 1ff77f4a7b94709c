"""Blocking calls that must be finished before their caller goes on, cancelled or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import anyio

from asyncload.cpu_time import count_as_ours
from asyncload.resting import carried

__all__ = ["in_own_thread", "to_its_end"]

Result = TypeVar("Result")


async def in_own_thread(function: Callable[[], Result]) -> Result:
    """Call ``function`` in a thread made for it, and wait for its end even if cancelled.

    Raises:
        CancelledError: once ``function`` has ended, if the caller was cancelled meanwhile.
    """
    with ThreadPoolExecutor(
        1, thread_name_prefix="asyncload-workers", initializer=count_as_ours
    ) as executor:
        return await to_its_end(function, executor)


async def to_its_end(function: Callable[[], Result], executor: Executor | None = None) -> Result:
    """Call ``function`` in a thread, and wait for its end even if cancelled.

    Args:
        function: what to call.
        executor: whose thread; ``None`` for the loop's default executor.

    Raises:
        CancelledError: once ``function`` has ended, if the caller was cancelled meanwhile.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, carried(function))
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # taken note of, so that it is not logged as lost
        raise cancelled
    return future.result()
