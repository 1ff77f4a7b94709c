"""The same for many things at once, in one scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

__all__ = ["for_each"]

Item = TypeVar("Item")
Result = TypeVar("Result")


async def for_each(
    items: Sequence[Item], function: Callable[[Item], Awaitable[Result]], *, limit: int
) -> list[Result]:
    """Await ``function(item)`` for every item, up to ``limit`` at a time.

    Returns:
        The results, in the order of ``items``.

    Raises:
        Exception: what the first failing call raised, as it is; the others are cancelled.
    """
    if len(items) <= 1:  # the common case, and it needs no task
        return [await function(item) for item in items]
    results: dict[int, Result] = {}
    errors: list[Exception] = []
    remaining = iter(enumerate(items))

    async def drain() -> None:
        try:
            for index, item in remaining:
                results[index] = await function(item)
        except Exception as error:  # noqa: BLE001  raised below, without the group around it
            errors.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(limit, len(items))):
            group.start_soon(drain)
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(items))]
