"""`EarlyReads`: reads tensors of a load whose index is not complete yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from asyncload.interfaces import Manners, OpenFiles, WorkerPool
from asyncload.manifest import TensorEntry
from asyncload.memory import ArenaPool, SlabPool

from ._flow import Flow
from ._prepare import Array
from ._scope import end

__all__ = ["EarlyReads"]


class EarlyReads:
    """Reads tensors as they are found; a `Pipeline` takes them over when the index is complete.

    Args:
        files: the open files that entries refer to.
        workers: where encoded tensors are decoded.
        slabs: shared memory for them.
        arenas: memory for the tensors.
        manners: how it behaves beside other loads.
    """

    def __init__(
        self,
        files: OpenFiles,
        *,
        workers: WorkerPool,
        slabs: SlabPool,
        arenas: ArenaPool,
        manners: Manners,
    ) -> None:
        self._files = files
        self._workers = workers
        self._slabs = slabs
        self._arenas = arenas
        self._manners = manners
        self._begun: dict[str, TensorEntry] = {}
        self._read: list[tuple[TensorEntry, Array]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: Callable[[TensorEntry, Array], None] = self._keep

    def begin(self, tensors: Mapping[str, TensorEntry]) -> None:
        """Begin to read tensors."""
        self._begun.update(tensors)
        flow = Flow(
            self._files.readers,
            self._workers,
            self._slabs,
            self._arenas,
            self._hand_over,
            verify=True,
            manners=self._manners,
        )
        reading = flow.run(tuple(tensors.values()), self._files.entries())
        self._tasks.append(asyncio.create_task(reading, name="asyncload-early"))

    def has(self, entry: TensorEntry) -> bool:
        """Whether this tensor is being read, or was."""
        return self._begun.get(entry.name) == entry

    async def finish(self, ready: Callable[[TensorEntry, Array], None]) -> None:
        """Hand over all that was begun, on the loop's thread, and wait for the last.

        Raises: as `Pipeline.run` does.
        """
        self._ready = ready
        while self._read:
            ready(*self._read.pop())
        while self._tasks:
            await self._tasks[0]
            del self._tasks[0]

    def _hand_over(self, entry: TensorEntry, array: Array) -> None:
        self._ready(entry, array)

    def _keep(self, entry: TensorEntry, array: Array) -> None:
        self._read.append((entry, array))

    async def aclose(self) -> None:
        """Stop what still reads, and let go of what was read; closing twice is fine."""
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await end(self._tasks.pop())
        self._read.clear()
        self._ready = self._keep
