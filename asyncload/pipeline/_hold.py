"""A range of a remote file, fetched once into memory that workers see, too, and used meanwhile."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

import anyio

from asyncload.errors import SourceError
from asyncload.interfaces import Reader
from asyncload.manifest import memory_version
from asyncload.memory import SharedSlab
from asyncload.sources import LocalReader

from ._scope import end, run_together
from ._stretches import PartSize, Stretches, blocks

__all__ = ["HeldPart", "HeldRange"]

# Of the requests that a store takes at once: what is wanted out of turn must not wait for a slot.
_PARALLEL = 12


class HeldPart:
    """A range on its way into shared memory; made by `begin`. See `interfaces.HeldReader`.

    Args:
        whole: the file.
        offset: of the range in it.
        slab: of the range's length at least; given back after `aclose`.
        local: reads the slab.
        length: of the range.
        threads: where memory is given back.
    """

    def __init__(
        self,
        whole: Reader,
        offset: int,
        slab: SharedSlab,
        local: LocalReader,
        length: int,
        threads: Executor,
    ) -> None:
        self.uri = whole.uri
        self.name = whole.name
        self.size = length
        self.version = memory_version(slab.handle.inode, slab.nbytes)
        self.path: str | None = slab.handle.path
        self.parallel = local.parallel
        self._whole = whole
        self._offset = offset
        self._slab = slab
        self._local = local
        self._threads = threads
        self._there = Stretches()
        self._left = Stretches([(0, length)])
        self._came = self._asked = 0  # bytes
        self._waiting: set[asyncio.Future[None]] = set()
        self._error: Exception | None = None
        self._closed = False
        self._parts = PartSize(min(_PARALLEL, whole.parallel))
        self._task = asyncio.create_task(self._fetch(), name="asyncload-hold")

    @classmethod
    async def begin(
        cls,
        reader: Reader,
        offset: int,
        length: int,
        *,
        threads: Executor,
    ) -> HeldPart:
        """Begin to fetch a range of a file; the arguments are as those of the class.

        Raises:
            SourceError: the memory could not be opened.
            MemoryLimitExceeded: the system has no memory left for it.
        """
        slab = SharedSlab(max(length, 1))
        try:
            local = await LocalReader.open(slab.handle.path, uri=reader.uri, threads=threads)
        except BaseException:
            slab.close()
            raise
        return cls(reader, offset, slab, local, length, threads)

    # --- what has come -----------------------------------------------------------------

    def present(self) -> tuple[tuple[int, int], ...]:
        """Return what has come; see `interfaces.HeldReader.present`."""
        return tuple(self._there)

    async def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have spans come before others; see `interfaces.HeldReader.expect`."""
        wanted = list(blocks(spans, self.size))
        taken = [piece for begin, end in wanted for piece in self._left.within(begin, end)]
        for begin, stop in taken:
            self._left.remove(begin, stop)
        await run_together([functools.partial(self._bring, *piece) for piece in taken])
        await self._until(lambda: all(self._there.covers(*each) for each in wanted))

    async def more(self, nbytes: int) -> None:
        """Wait until more has come; see `interfaces.HeldReader.more`."""
        enough = min(self._came + nbytes, self.size)
        await self._until(lambda: self._came >= enough)

    async def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            if self._error is not None:
                raise self._error
            if self._closed:
                raise SourceError("this range was closed", uri=self.uri)
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    # --- fetching ----------------------------------------------------------------------

    async def _fetch(self) -> None:
        try:
            await run_together([self._drain] * min(_PARALLEL, self._whole.parallel))
        except Exception as error:  # noqa: BLE001  whoever waits for the bytes raises it
            self._error = error
            self._wake()

    async def _drain(self) -> None:
        while self._left:
            begin, stop = next(iter(self._left))
            stop = min(stop, begin + self._parts.next(self.size - self._asked))
            self._left.remove(begin, stop)
            started = time.monotonic()
            await self._bring(begin, stop)
            self._parts.ended(stop - begin, time.monotonic() - started)

    async def _bring(self, begin: int, stop: int) -> None:
        self._asked += stop - begin
        try:
            await self._whole.read_into(self._offset + begin, [self._slab.view[begin:stop]])
        except BaseException:
            self._left.add(begin, stop)
            raise
        self._there.add(begin, stop)
        self._came += stop - begin
        self._wake()

    # --- as a reader -------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        await self._until(lambda: self._there.covers(offset, offset + length))
        return await self._local.read(offset, length)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        stop = offset + sum(buffer.nbytes for buffer in buffers)
        await self._until(lambda: self._there.covers(offset, stop))
        await self._local.read_into(offset, buffers)

    async def check(self) -> None:
        """Raise `SourceChanged` if the file is no longer the version that was opened."""
        await self._whole.check()

    async def aclose(self) -> None:
        """Stop fetching, and give the memory back; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        await end(self._task)
        self._error = None
        with anyio.CancelScope(shield=True):
            await self._local.aclose()
        try:
            # Nobody waits for it: it takes a tenth of a second for 400 MB.
            self._threads.submit(self._slab.close)
        except RuntimeError:  # they have ended
            self._slab.close()


class HeldRange:
    """A remote file of which a range is here already, or comes. See `interfaces.Reader`.

    Args:
        whole: the file; what is asked of it stands in ``uri``, ``name``, ``size``, ``version``.
        part: reads that range.
        offset: of the range in the file.
    """

    def __init__(self, whole: Reader, part: HeldPart, offset: int) -> None:
        self.uri = whole.uri
        self.name = whole.name
        self.size = whole.size
        self.version = whole.version
        self.path = whole.path
        self.parallel = part.parallel
        self._whole = whole
        self._part = part
        self._begin = offset
        self._end = offset + part.size

    def held(self, offset: int, length: int) -> HeldPart | None:
        """Return the reader of a range, if it is the one that is here."""
        same = (offset, offset + length) == (self._begin, self._end)
        return self._part if same else None

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        if self._begin <= offset and offset + length <= self._end:
            return await self._part.read(offset - self._begin, length)
        return await self._whole.read(offset, length)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        length = sum(buffer.nbytes for buffer in buffers)
        if self._begin <= offset and offset + length <= self._end:
            await self._part.read_into(offset - self._begin, buffers)
        else:
            await self._whole.read_into(offset, buffers)

    async def check(self) -> None:
        """Raise `SourceChanged` if the file is no longer the version that was opened."""
        await self._whole.check()

    async def aclose(self) -> None:
        """Close the file, and free the range; closing twice is fine."""
        await self._part.aclose()
        await self._whole.aclose()
