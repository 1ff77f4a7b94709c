"""What changes an object that others may look at: once begun in its thread, it is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import anyio

from asyncload.resting import carried

__all__ = ["run_to_end"]

Result = TypeVar("Result")


async def run_to_end(executor: Executor, function: Callable[..., Result], *args: Any) -> Result:
    """Run a function in a thread; if this is cancelled, end when the function has ended.

    A function that has not begun by then never does.
    """
    job = executor.submit(carried(function), *args)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        if not job.cancel():  # it has begun, and what it changes must not change later
            ended = asyncio.wrap_future(job)
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ended])
            ended.exception()  # taken note of, so that it is not logged as lost
        raise
