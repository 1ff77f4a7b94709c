"""Task groups whose errors come out as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

__all__ = ["first_error"]


@asynccontextmanager
async def first_error() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Open a task group that raises its first error as it is, not in a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        context = error.__context__
        try:
            raise error from error.__cause__
        finally:
            error.__context__ = context  # the group says nothing new
