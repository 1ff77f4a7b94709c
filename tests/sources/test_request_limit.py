"""How many requests are in flight: more while that pays, fewer when it ceases to."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.sources._object_reader import parts_of
from asyncload.sources._request_limit import LEAST, MOST, START, Climb, RequestLimit


class Link:
    """A link that is always full."""

    def __init__(self) -> None:
        self.climb = Climb()
        self.now = 0.0

    def drive(self, rate: float, requests: int = 400, *, each: float = math.inf) -> int:
        """Have requests of 8 MiB end; return the limit then.

        Args:
            rate: bytes per second that the link carries.
            requests: how many.
            each: bytes per second that one request gets at most.
        """
        for _ in range(requests):
            self.now += (8 << 20) / min(rate, self.climb.limit * each)
            self.climb.ended(8 << 20, self.now, full=True)
        return self.climb.limit


def test_grows_while_that_brings_more() -> None:
    link = Link()
    assert link.climb.limit == START
    assert link.drive(1e10, each=5e7) == MOST


def test_goes_back_when_more_bring_nothing() -> None:
    link = Link()
    limits = {link.drive(1e9, 1) for _ in range(600)}
    assert limits == {START, int(START * 1.5)}  # which is tried again now and then
    assert sum(link.drive(1e9, 1) > START for _ in range(1000)) < 200


def test_shrinks_when_the_rate_falls() -> None:
    link = Link()
    link.drive(1e9)
    limits = [link.drive(rate) for rate in (1e9, 5e8, 2.5e8, 1e8, 5e7, 2e7)]
    assert limits[-1] <= limits[2] < limits[0]
    while limits[-1] > LEAST:
        limits.append(link.drive(2e7 / len(limits) ** 2))
        assert len(limits) < 30


def test_learns_nothing_while_it_is_not_full() -> None:
    climb = Climb()
    for i in range(1000):
        climb.ended(1 << 20, i * 1.0, full=i % 10 > 0)
    assert climb.limit == START


@given(st.lists(st.tuples(st.floats(1e3, 1e11), st.integers(1, 100)), max_size=30))
def test_stays_within_bounds(rates: list[tuple[float, int]]) -> None:
    link = Link()
    for rate, requests in rates:
        assert LEAST <= link.drive(rate, requests) <= MOST


async def test_bounds_what_is_in_flight() -> None:
    limit = RequestLimit(3)
    seen = []

    async def request() -> None:
        async with limit.slot(10):
            seen.append(limit.in_flight)
            await asyncio.sleep(0)

    await asyncio.gather(*[request() for _ in range(50)])
    assert max(seen) == 3
    assert limit.in_flight == 0


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancelled_ones_leave_no_trace(turns: int) -> None:
    limit = RequestLimit(1)

    async def request() -> None:
        async with limit.slot(10):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(request()) for _ in range(9)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limit.in_flight == 0
    await asyncio.wait_for(request(), 1)


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60), st.integers(0, 1000))
def test_parts_cover_what_is_wanted(lengths: list[int], size: int, offset: int) -> None:
    whole = bytearray(sum(lengths))
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    buffers = [
        memoryview(whole)[end - length : end] for end, length in zip(ends, lengths, strict=True)
    ]
    position = offset
    for begin, part in parts_of(offset, buffers, size):
        assert begin == position
        taken = sum(buffer.nbytes for buffer in part)
        assert 0 < taken <= size
        for buffer in part:
            assert buffer.nbytes
            buffer[:] = bytes([7]) * buffer.nbytes
        position += taken
    assert position == offset + len(whole)
    assert whole == bytes([7]) * len(whole)
