"""`ObjectReader`: one version of one object, read in ranges that come side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, contextmanager
from typing import NoReturn

import numpy as np

from asyncload.errors import SourceError, TransferFailed
from asyncload.interfaces import Checksum

from ._cache_key import digest_of
from ._object_stores import NoRanges, Store
from ._object_version import Version, changed
from ._threads import end, in_thread

__all__ = ["ObjectReader", "between", "parts_of"]

_HEAD = 64 << 10  # bytes; the first small read brings what headers take, in one round trip
_KEEP = 8 << 20  # bytes of small reads that are kept; an index is seldom larger
_SKIP = 1 << 20  # bytes that are read and dropped before a range, if the server knows none

Part = tuple[int, list[memoryview]]  # offset in the object, and where its bytes go


class ObjectReader:
    """One version of one object. See `interfaces.Reader`.

    Args:
        store: where it is.
        key: its name there.
        version: that it had when it was opened.
        uri: for messages, without credentials.
        name: relative to its source.
        threads: where bytes are copied; ``None`` for the loop's default executor.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        version: Version,
        *,
        uri: str,
        name: str,
        threads: Executor | None,
    ) -> None:
        self.uri = uri
        self.name = name
        self.size = version.size
        self.version = version.name
        self.path: str | None = None
        self.place = digest_of(store.place, key).hex()
        self.parallel = store.limit.most
        self._store = store
        self._key = key
        self._pinned = version
        self._threads = threads
        self._ranges = True
        self._kept: list[tuple[int, bytes]] = []  # (offset, bytes) of small reads: never read twice
        self._uses = 0
        self._closed = False
        self._released = asyncio.Event()

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        with self._use():
            await self._expect_within(offset, length)
            for begin, kept in self._kept:
                if begin <= offset and offset + length <= begin + len(kept):
                    return kept[offset - begin : offset - begin + length]
            wanted = length
            if offset == 0 and length < _HEAD:
                wanted = min(_HEAD, self.size)
            data = bytearray(wanted)
            await self._fill(offset, [memoryview(data)])
            content = await in_thread(self._threads, bytes, data)
            self._keep(offset, content)
            return content[:length]

    def _keep(self, offset: int, content: bytes) -> None:
        held = sum(len(kept) for _, kept in self._kept)
        if held + len(content) <= _KEEP:
            self._kept.append((offset, content))
            self._kept.sort(key=lambda piece: piece[0])

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        with self._use():
            await self._expect_within(offset, sum(buffer.nbytes for buffer in buffers))
            await self._fill(offset, buffers)

    @property
    def identity(self) -> tuple[str, Version]:
        """Its name in the store, and the version that it is pinned to."""
        return self._key, self._pinned

    @property
    def whole_only(self) -> bool:
        """Whether its server sends no ranges; see `interfaces.StreamReader`."""
        return not self._ranges

    async def checksum(self) -> Checksum | None:
        """Return what the store states; see `interfaces.CheckedReader.checksum`."""
        with self._use():
            return await self._store.checksum(self._key, self._pinned)

    async def stream(self) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield (offset, bytes) from begin to end; see `interfaces.StreamReader.stream`."""
        with self._use():
            pieces = self._store.fetch_from_start(self._key, self._pinned, self.size, self.uri)
            async with self._store.limit.slot(self.size), aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def check(self) -> None:
        """Raise `SourceChanged` if the object is no longer the version that was opened."""
        with self._use():
            try:
                present = await self._store.ask(self._key, self.uri)
            except FileNotFoundError as error:
                raise changed(self.uri, "was removed") from error
            if not self._pinned.is_same(present):
                raise changed(self.uri, "was replaced")

    async def aclose(self) -> None:
        """Close it once its reads have ended; closing twice is fine."""
        self.close_soon()
        await self._released.wait()

    def close_soon(self) -> None:
        """Take no more reads."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if self._closed and not self._uses:
            self._kept.clear()
            self._released.set()

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

    async def _expect_within(self, offset: int, length: int) -> None:
        if offset + length > self.size:
            await self._ended_early(offset, length)

    async def _ended_early(self, offset: int, length: int) -> NoReturn:
        await self.check()
        raise TransferFailed(
            f"{length:,} bytes from byte {offset:,} were wanted, but {self.size - offset:,} are "
            f"there; the object has {self.size:,} bytes and may have been cut short: upload it "
            "again",
            uri=self.uri,
        )

    # --- ranges ------------------------------------------------------------------------

    async def _fill(self, offset: int, buffers: Sequence[memoryview]) -> None:
        known, missing = _split(offset, buffers, self._kept)
        for content, targets in known:
            await in_thread(self._threads, _scatter, content, targets)
        size = self._store.options.part_size
        parts = [part for begin, targets in missing for part in parts_of(begin, targets, size)]
        if self._ranges:
            try:
                await self._fetch_all(parts)
                return
            except NoRanges:
                self._ranges = False
        await self._fetch_from_start(offset, buffers)

    async def _fetch_all(self, parts: list[Part]) -> None:
        if not parts:
            return
        if len(parts) == 1:  # the common case, and it needs no task
            await self._fetch(parts[0])
            return
        remaining = iter(parts)

        async def drain() -> None:
            for part in remaining:
                await self._fetch(part)

        # No task group of anyio's: of tasks that the loop's end cancels before their first step, it
        # leaves coroutines that were never awaited, and the interpreter complains.
        tasks = [asyncio.create_task(drain()) for _ in range(min(self.parallel, len(parts)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                await end(task)
            tasks.clear()  # else their errors' tracebacks and this frame keep each other alive

    async def _fetch(self, part: Part) -> None:
        start, buffers = part
        length = sum(buffer.nbytes for buffer in buffers)
        async with self._store.limit.slot(length):
            data = await self._store.fetch(self._key, self._pinned, start, start + length, self.uri)
            # Still within the slot, which so bounds the client's buffers, too.
            await in_thread(self._threads, _scatter, memoryview(data), buffers)

    async def _fetch_from_start(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Take the bytes out of the whole object, where a server sends nothing less."""
        if offset > _SKIP:
            raise TransferFailed(
                "its server sends whole files only, no ranges; copy it to disk (asyncload.fetch) "
                "and load that, or have it served with ranges (nginx, any object storage)",
                uri=self.uri,
            )
        stop = offset + sum(buffer.nbytes for buffer in buffers)
        pieces = self._store.fetch_from_start(self._key, self._pinned, stop, self.uri)
        async with self._store.limit.slot(stop), aclosing(pieces):
            async for position, piece in pieces:
                skipped = max(offset - position, 0)
                if skipped >= len(piece):
                    continue
                at = position + skipped - offset
                targets = [view for _, part in parts_of(0, buffers, stop) for view in part]
                await in_thread(self._threads, _scatter, piece[skipped:], _behind(targets, at))


def parts_of(offset: int, buffers: Sequence[memoryview], size: int) -> Iterator[Part]:
    """Cut what is to be read into parts of at most ``size`` bytes.

    Args:
        offset: of the first byte in the object.
        buffers: where its bytes go, one after the other.
        size: in bytes.
    """
    begin, taken = offset, 0
    part: list[memoryview] = []
    for buffer in buffers:
        rest = buffer.cast("B") if buffer.nbytes else buffer
        while rest.nbytes:
            piece = rest[: size - taken]
            part.append(piece)
            taken += piece.nbytes
            rest = rest[piece.nbytes :]
            if taken == size:
                yield begin, part
                begin, taken, part = begin + taken, 0, []
    if part:
        yield begin, part


def _split(
    offset: int, buffers: Sequence[memoryview], kept: Sequence[tuple[int, bytes]]
) -> tuple[list[tuple[memoryview, list[memoryview]]], list[Part]]:
    """Tell what of a read is known from what is still to be fetched.

    Args:
        offset: of the first byte in the object.
        buffers: where its bytes go, one after the other.
        kept: (offset, bytes) that are known, in order.

    Returns:
        Known bytes, each with the buffers that they belong into; and the rest.
    """
    end = offset + sum(buffer.nbytes for buffer in buffers)
    known, missing = [], []
    position = offset
    for begin, content in kept:
        start, stop = max(begin, position), min(begin + len(content), end)
        if start >= stop:
            continue
        if position < start:
            missing.append((position, between(buffers, position - offset, start - offset)))
        view = memoryview(content)[start - begin : stop - begin]
        known.append((view, between(buffers, start - offset, stop - offset)))
        position = stop
    if position < end:
        missing.append((position, between(buffers, position - offset, end - offset)))
    return known, missing


def between(buffers: Sequence[memoryview], start: int, stop: int) -> list[memoryview]:
    """Return views of bytes ``start`` to ``stop`` of all that ``buffers`` hold together."""
    found = []
    for buffer in buffers:
        view = (buffer.cast("B") if buffer.nbytes else buffer)[max(start, 0) : max(stop, 0)]
        if view.nbytes:
            found.append(view)
        start, stop = start - buffer.nbytes, stop - buffer.nbytes
    return found


def _behind(buffers: Sequence[memoryview], nbytes: int) -> list[memoryview]:
    """Return what is left of ``buffers`` behind their first ``nbytes`` bytes."""
    left = []
    for buffer in buffers:
        left.append(buffer[nbytes:])
        nbytes = max(nbytes - buffer.nbytes, 0)
    return left


def _scatter(data: memoryview, buffers: Sequence[memoryview]) -> None:
    """Copy bytes to buffers, one after the other, as many as there are."""
    position = 0
    for buffer in buffers:
        piece = data[position : position + buffer.nbytes]
        # NumPy lets other threads run meanwhile; assigning to a memoryview does not.
        target = np.frombuffer(buffer[: piece.nbytes], np.uint8)
        np.copyto(target, np.frombuffer(piece, np.uint8))
        position += piece.nbytes
