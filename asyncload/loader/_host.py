"""`Host`: where the loads of one Loader run, from its first call until it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from asyncload.errors import LoaderClosed

from ._load import Load

__all__ = ["Host"]


class Host:
    """Runs loads, until it is closed, or the loop ends.

    It belongs to the loop that it was made in.

    Args:
        release: gives back what the loads used, once they have ended.
    """

    def __init__(self, release: Callable[[], Awaitable[None]]) -> None:
        self._release = release
        self._task: asyncio.Task[None] | None = None
        # No task group of anyio's: what the loop's end cancels before its first step, it never
        # begins, and tells nobody; a load has to end all the same, as others wait for that.
        self._loads: dict[asyncio.Task[None], Load[Any]] = {}
        self._spare: set[asyncio.Task[None]] = set()
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
        """Run a load; it ends whatever becomes of its task."""
        task = asyncio.create_task(load.run())
        self._loads[task] = load
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        load = self._loads.pop(task)
        if not load.is_over:  # cancelled before its first step
            load.refuse()

    def in_spare_time(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what no load waits for. Closing does, for some milliseconds."""
        if self._task is not None and not self.closed:
            task = asyncio.create_task(work())
            self._spare.add(task)
            task.add_done_callback(self._spare.discard)

    def _stop_loads(self) -> None:
        for load in self._loads.values():
            load.stop()

    async def _live(self) -> None:
        """Wait until closed, or until the loop cancels this, and end what runs."""
        try:
            await self._closing.wait()
        finally:
            self._closing.set()
            with anyio.CancelScope(shield=True):
                while self._loads or self._spare:
                    self._stop_loads()
                    await asyncio.wait([*self._loads, *self._spare])
                await self._release()
