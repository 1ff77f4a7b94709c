"""A range on its way into shared memory: read while it comes, fetched once, and given back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncload.errors import SourceError, TransferFailed
from asyncload.pipeline import HeldPart, HeldRange

CONTENT = bytes(range(256)) * (32 << 10)  # 8 MiB
OFFSET = 1000
LENGTH = len(CONTENT) - 2 * OFFSET


class Remote:
    """A file that comes when it may."""

    def __init__(self) -> None:
        self.uri, self.name, self.size, self.version = "s3://b/k", "", len(CONTENT), "1"
        self.path: str | None = None
        self.parallel = 32
        self.asked: list[tuple[int, int]] = []
        self.allowed = asyncio.Semaphore(0)
        self.broken = False

    async def read(self, offset: int, length: int) -> bytes:
        return CONTENT[offset : offset + length]

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        self.asked.append((offset, sum(buffer.nbytes for buffer in buffers)))
        await self.allowed.acquire()
        if self.broken:
            raise TransferFailed("the link is down")
        for buffer in buffers:
            buffer[:] = CONTENT[offset : offset + buffer.nbytes]
            offset += buffer.nbytes

    def allow(self, requests: int) -> None:
        for _ in range(requests):
            self.allowed.release()

    async def check(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
async def remote() -> Remote:
    return Remote()


@pytest.fixture
async def part(remote: Remote, threads: ThreadPoolExecutor) -> AsyncIterator[HeldPart]:
    made = await HeldPart.begin(remote, OFFSET, LENGTH, threads=threads)
    try:
        yield made
    finally:
        await made.aclose()


async def test_all_of_it_once(remote: Remote, part: HeldPart) -> None:
    remote.allow(100)
    assert await part.read(5, LENGTH - 10) == CONTENT[OFFSET + 5 : OFFSET + LENGTH - 5]
    await part.more(LENGTH)
    assert part.present() == ((0, LENGTH),)
    assert sum(length for _, length in remote.asked) == LENGTH
    assert part.path is not None
    descriptor = os.open(part.path, os.O_RDONLY)  # as a worker does
    try:
        assert os.pread(descriptor, 100, 4000) == CONTENT[OFFSET + 4000 : OFFSET + 4100]
    finally:
        os.close(descriptor)


async def test_reads_wait_for_their_bytes(remote: Remote, part: HeldPart) -> None:
    reading = asyncio.create_task(part.read(3 << 20, 10))
    await asyncio.sleep(0.02)
    assert not reading.done()
    assert part.present() == ()
    remote.allow(2)
    await part.more(1)
    assert part.present() == ((0, 2 << 20),)
    remote.allow(100)
    assert await reading == CONTENT[OFFSET + (3 << 20) :][:10]


async def test_what_is_expected_comes_before_the_rest(remote: Remote, part: HeldPart) -> None:
    await asyncio.sleep(0.02)
    before = len(remote.asked)
    wanted = [(LENGTH - 7, 7), (LENGTH - 100, 20), (10, 10)]
    expecting = asyncio.create_task(part.expect(wanted))
    await asyncio.sleep(0.02)
    assert all(length <= 1 << 20 for _, length in remote.asked[before:])
    remote.allow(100)
    await expecting
    for offset, length in wanted:
        assert await part.read(offset, length) == CONTENT[OFFSET + offset :][:length]
    await part.more(LENGTH)
    assert sum(length for _, length in remote.asked) == LENGTH  # none of it twice


async def test_a_failure_reaches_all_who_wait(remote: Remote, part: HeldPart) -> None:
    waiting = [
        asyncio.create_task(part.more(LENGTH)),
        asyncio.create_task(part.read(LENGTH - 1, 1)),
        asyncio.create_task(part.expect([(LENGTH - 9, 9)])),
    ]
    await asyncio.sleep(0.02)
    remote.broken = True
    remote.allow(100)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, TransferFailed) for outcome in outcomes)
    with pytest.raises(TransferFailed):
        await part.read(LENGTH - 1, 1)


async def test_closing_ends_the_transfer(remote: Remote, part: HeldPart) -> None:
    reading = asyncio.create_task(part.read(LENGTH - 1, 1))
    await asyncio.sleep(0.02)
    await part.aclose()
    await part.aclose()
    with pytest.raises(SourceError, match="closed"):
        await reading
    asked = len(remote.asked)
    remote.allow(100)
    await asyncio.sleep(0.02)
    assert len(remote.asked) == asked


async def test_a_cancelled_wish_is_fetched_with_the_rest(remote: Remote, part: HeldPart) -> None:
    await asyncio.sleep(0.02)
    expecting = asyncio.create_task(part.expect([(LENGTH - 9, 9)]))
    await asyncio.sleep(0.02)
    expecting.cancel()
    await asyncio.wait([expecting])
    remote.allow(100)
    await part.more(LENGTH)
    assert part.present() == ((0, LENGTH),)


async def test_a_file_of_which_a_range_is_held(remote: Remote, part: HeldPart) -> None:
    held = HeldRange(remote, part, OFFSET)
    remote.allow(100)
    assert held.held(OFFSET, LENGTH) is part
    assert held.held(OFFSET, LENGTH - 1) is None
    target = bytearray(100)
    await held.read_into(OFFSET + 7, [memoryview(target)[:30], memoryview(target)[30:]])
    assert bytes(target) == CONTENT[OFFSET + 7 :][:100]
    asked = list(remote.asked)
    assert await held.read(0, 10) == CONTENT[:10]
    await held.read_into(OFFSET - 1, [memoryview(target)])
    assert bytes(target) == CONTENT[OFFSET - 1 :][:100]
    assert remote.asked == [*asked, (OFFSET - 1, 100)]
