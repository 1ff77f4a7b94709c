"""`Host`: where the loads of one Loader run, from its first call until it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from asyncload.errors import LoaderClosed

from ._load import Load

__all__ = ["Host"]


class Host:
    """Runs loads in a task group of its own, which ends when it is closed, or with the loop.

    It belongs to the loop that it was made in.

    Args:
        release: gives back what the loads used, once they have ended.
    """

    def __init__(self, release: Callable[[], Awaitable[None]]) -> None:
        self._release = release
        self._task: asyncio.Task[None] | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._waiting: list[Load[Any]] = []
        self._running: set[Load[Any]] = set()
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called, or the loop ended."""
        return self._closing.is_set()

    def open(self) -> None:
        """Begin to run loads; opening twice is fine.

        Raises:
            LoaderClosed: it was closed.
        """
        if self._closing.is_set():
            raise LoaderClosed("this Loader is closed; make a new one")
        self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._live(), name="asyncload-loader")

    async def aclose(self) -> None:
        """Cancel the loads under way, and give back what they used; closing twice is fine."""
        self._closing.set()
        self._begin()
        assert self._task is not None  # noqa: S101  it has begun
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])

    def start(self, load: Load[Any]) -> None:
        """Run a load."""
        if self._group is None:
            self._waiting.append(load)
        else:
            self._run_soon(self._group, load)

    def _run_soon(self, group: anyio.abc.TaskGroup, load: Load[Any]) -> None:
        self._running.add(load)
        group.start_soon(self._run, load)

    async def _run(self, load: Load[Any]) -> None:
        try:
            await load.run()
        finally:
            self._running.discard(load)

    def in_spare_time(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what no load waits for. Closing does, for some milliseconds."""
        if self._group is not None and not self.closed:
            self._group.start_soon(_finish, work)

    async def _live(self) -> None:
        """Hold the task group of all loads; ends when closed, or when the loop cancels it."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                while self._waiting:  # a variable for each would keep the last one's result alive
                    self._run_soon(group, self._waiting.pop(0))
                await self._closing.wait()
                group.cancel_scope.cancel()
        finally:
            self._closing.set()
            while self._waiting:
                self._waiting.pop(0).refuse()
            while self._running:  # cancelled before their first step
                self._running.pop().refuse()
            with anyio.CancelScope(shield=True):
                await self._release()


async def _finish(work: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await work()
