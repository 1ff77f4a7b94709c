"""Readers of objects of which some, or all, is on this machine's disk."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import numpy as np

from asyncload.errors import NotFound, SourceError, TransferFailed
from asyncload.interfaces import Checksum

from ._cache_entry import BLOCK, CacheEntry
from ._object_cache import ObjectCache
from ._object_reader import ObjectReader, between
from ._reader import PARALLEL
from ._threads import end, in_thread

__all__ = ["CachedReader", "OfflineReader", "Traffic"]

_logger = logging.getLogger("asyncload")


@dataclass(slots=True)
class Traffic:
    """What the readers of one source have done.

    Attributes:
        fetched: whether bytes came from the store.
    """

    fetched: bool = False


class _KeptReader(ABC):
    """One version of one object, part of which is in an entry. See `interfaces.Reader`."""

    def __init__(
        self,
        entry: CacheEntry,
        cache: ObjectCache,
        *,
        uri: str,
        name: str,
        version: str,
        place: str,
        threads: Executor | None,
    ) -> None:
        self.place = place
        self.uri = uri
        self.name = name
        self.size = entry.size
        self.version = version
        # Nobody else compares checksums: what is to be read by a path is held in memory first.
        self.path: str | None = None
        self.parallel = PARALLEL
        self._entry: CacheEntry = entry
        self._cache = cache
        self._threads = threads
        self._uses = 0
        self._closed = False
        self._released = asyncio.Event()
        self._letting_go: asyncio.Future[None] | None = None

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        with self._use():
            await self._expect_within(offset, length)
            data = np.empty(length, np.uint8)
            await self._fill(offset, [data.data])
            return await in_thread(self._threads, data.tobytes)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        with self._use():
            await self._expect_within(offset, sum(buffer.nbytes for buffer in buffers))
            await self._fill(offset, buffers)

    async def _fill(self, offset: int, buffers: Sequence[memoryview]) -> None:
        missing = await in_thread(self._threads, self._entry.read, offset, buffers)
        if missing:
            await self._supply(missing, offset, buffers)

    @abstractmethod
    async def _supply(
        self, missing: list[int], offset: int, buffers: Sequence[memoryview]
    ) -> None: ...

    async def _expect_within(self, offset: int, length: int) -> None:
        if offset + length > self.size:
            await self.check()
            raise TransferFailed(
                f"{length:,} bytes from byte {offset:,} were wanted, but "
                f"{max(self.size - offset, 0):,} are there; the object has {self.size:,} bytes "
                "and may have been cut short: upload it again",
                uri=self.uri,
            )

    @abstractmethod
    async def check(self) -> None: ...

    async def aclose(self) -> None:
        """Close it once its reads have ended; closing twice is fine."""
        self.close_soon()
        with anyio.CancelScope(shield=True):
            await self._released.wait()
            if self._letting_go is not None:
                try:
                    await asyncio.shield(self._letting_go)
                except asyncio.CancelledError:
                    await end(self._letting_go)
                    raise

    def close_soon(self) -> None:
        """Take no more reads, and let go of the entry with the last one."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if not self._closed or self._uses or self._released.is_set():
            return
        self._released.set()
        # Whoever waits may be cancelled before a thread is free, and with it a task or a call that
        # it waits for; the descriptor, and the room that was kept, would then never be given back.
        try:
            self._letting_go = asyncio.get_running_loop().run_in_executor(
                self._threads, self._cache.release, self._entry
            )
        except RuntimeError:  # the threads have ended, or the loop has
            self._cache.release(self._entry)

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._closed:
            raise SourceError("this file was closed; open it again to read it", uri=self.uri)
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            self._release()


class OfflineReader(_KeptReader):
    """What is in an entry, and nothing else."""

    async def _supply(self, missing: list[int], offset: int, buffers: Sequence[memoryview]) -> None:
        del offset, buffers
        raise NotFound(
            f"only a part of it is in the cache, undamaged: {len(missing)} blocks from byte "
            f"{missing[0] * BLOCK:,} on are not, and offline=True asks no store; load it once with "
            "cache='read' and without offline=True",
            uri=self.uri,
        )

    async def check(self) -> None:
        """Say nothing: what is kept does not change."""
        with self._use():
            pass


class CachedReader(_KeptReader):
    """One version of one object: from its entry, and what is not there from its store, once.

    Args:
        inner: reads the store.
        entry: of that version.
        cache: where it is.
        traffic: of all readers of a source.
        threads: where disks are read; ``None`` for the loop's default executor.
    """

    def __init__(
        self,
        inner: ObjectReader,
        entry: CacheEntry,
        cache: ObjectCache,
        *,
        traffic: Traffic,
        threads: Executor | None,
    ) -> None:
        super().__init__(
            entry,
            cache,
            uri=inner.uri,
            name=inner.name,
            version=inner.version,
            place=inner.place,
            threads=threads,
        )
        self.parallel = PARALLEL if entry.complete else inner.parallel
        self._inner = inner
        self._traffic = traffic
        self._claims: dict[int, asyncio.Future[None]] = {}  # blocks that are being fetched
        self._came: set[int] = set()  # blocks that were fetched, and are kept
        # Blocks that could not be kept, and of which some bytes were not wanted yet.
        self._loose: dict[int, bytes] = {}
        self._unread: dict[int, int] = {}  # how many, of each of these
        self._fetched = 0  # bytes

    async def check(self) -> None:
        """Raise `SourceChanged` if the object is no longer the version that was opened.

        Where nothing was fetched it is not asked for again: its version was current when it was
        opened, which is some milliseconds ago.
        """
        with self._use():
            if self._traffic.fetched:
                await self._inner.check()

    @property
    def whole_only(self) -> bool:
        """Whether its server sends no ranges; see `interfaces.StreamReader`."""
        return self._inner.whole_only

    async def checksum(self) -> Checksum | None:
        """Return what the store states; see `interfaces.CheckedReader.checksum`."""
        return await self._inner.checksum()

    def stream(self) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield (offset, bytes) from the store; see `interfaces.StreamReader.stream`."""
        self._traffic.fetched = True
        return self._inner.stream()

    async def aclose(self) -> None:
        """Close it once its reads have ended; closing twice is fine."""
        if not self._released.is_set():
            _logger.debug("object cache: %s: %d bytes were fetched", self.uri, self._fetched)
        await super().aclose()
        self._loose.clear()
        await self._inner.aclose()

    # --- blocks ------------------------------------------------------------------------

    async def _supply(self, missing: list[int], offset: int, buffers: Sequence[memoryview]) -> None:
        """Fetch blocks, unless others are about to or just have: no byte is fetched twice."""
        while missing:
            mine = [i for i in missing if not (i in self._claims or i in self._came)]
            mine = [i for i in mine if i not in self._loose]
            others = [i for i in missing if i not in mine]
            if mine:
                await self._bring(mine, offset, buffers)
            claims = {self._claims[i] for i in others if i in self._claims}
            if claims:
                await asyncio.wait(claims)
            if not others:
                return
            held = {i: self._loose[i] for i in others if i in self._loose}
            missing = await in_thread(
                self._threads, _read_again, self._entry, held, others, offset, buffers
            )
            self._came.difference_update(missing)
            for index in held:
                self._spend(index, _overlap(index, offset, buffers))

    async def _bring(self, indices: list[int], offset: int, buffers: Sequence[memoryview]) -> None:
        claim: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claims.update(dict.fromkeys(indices, claim))
        try:
            for first, end in _runs(indices):
                await self._fetch(first, end, offset, buffers)
        finally:
            for index in indices:
                del self._claims[index]
            claim.set_result(None)

    async def _fetch(
        self, first: int, end: int, offset: int, buffers: Sequence[memoryview]
    ) -> None:
        """Fetch blocks ``first`` to ``end``, exclusive, and keep them."""
        begin, stop = first * BLOCK, min(end * BLOCK, self.size)
        wanted = between(buffers, begin - offset, stop - offset)
        before = max(offset - begin, 0)
        behind = stop - begin - before - sum(view.nbytes for view in wanted)
        # Whole blocks alone have checksums: what is not wanted of the outer ones comes with them.
        views = [_room(before), *wanted, _room(behind)]
        self._traffic.fetched = True
        await self._inner.read_into(begin, views)
        self._fetched += stop - begin
        if await in_thread(self._cache.writer, self._cache.write, self._entry, first, views):
            self._came.update(range(first, end))
            return
        outer = {first} if before else set()
        outer |= {end - 1} if behind else set()
        for index in outer:
            at = index * BLOCK - begin
            nbytes = min(BLOCK, self.size - index * BLOCK)
            self._unread[index] = nbytes - _overlap(index, offset, buffers)
            self._loose[index] = await in_thread(
                self._threads, b"".join, between(views, at, at + BLOCK)
            )

    def _spend(self, index: int, nbytes: int) -> None:
        """Forget a block that is not kept once all of it was wanted: memory is bounded, too."""
        if index in self._loose:
            self._unread[index] -= nbytes
            if self._unread[index] <= 0:
                del self._loose[index], self._unread[index]


def _overlap(index: int, offset: int, buffers: Sequence[memoryview]) -> int:
    """Return how many bytes of a block lie in ``buffers``."""
    stop = offset + sum(buffer.nbytes for buffer in buffers)
    return min((index + 1) * BLOCK, stop) - max(index * BLOCK, offset)


def _room(nbytes: int) -> memoryview:
    return np.empty(nbytes, np.uint8).data


def _runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, the one behind the last) of numbers that follow one another."""
    first = end = -1
    for index in indices:
        if index != end:
            if end > first:
                yield first, end
            first = index
        end = index + 1
    if end > first:
        yield first, end


def _read_again(
    entry: CacheEntry,
    held: Mapping[int, bytes],
    indices: Sequence[int],
    offset: int,
    buffers: Sequence[memoryview],
) -> list[int]:
    """Fill what of ``buffers`` is in some blocks; return those that still are not there."""
    missing = []
    stop = offset + sum(buffer.nbytes for buffer in buffers)
    for index in indices:
        begin = max(index * BLOCK, offset)
        views = between(buffers, begin - offset, min((index + 1) * BLOCK, stop) - offset)
        if index in held:
            at = begin - index * BLOCK
            for view in views:
                view[:] = held[index][at : at + view.nbytes]
                at += view.nbytes
        else:
            missing += entry.read(begin, views)
    return missing
