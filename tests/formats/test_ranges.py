"""Small ranges: read once, together where they are near, and never beyond what was asked."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncload.errors import TransferFailed
from asyncload.formats._concurrent import for_each
from asyncload.formats._ranges import Held, merge, read_spans
from tests.formats.memory import BytesReader

SPANS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), max_size=12)


@settings(deadline=None)
@given(SPANS, st.integers(0, 30))
def test_merged_spans_cover_all_and_are_apart(spans: list[tuple[int, int]], gap: int) -> None:
    merged = merge(spans, gap)
    for offset, length in spans:
        assert any(o <= offset and offset + length <= o + n for o, n in merged)
    for (offset, length), (following, _) in pairwise(merged):
        assert following > offset + length + gap
    wanted = sum(length for _, length in spans)
    assert sum(length for _, length in merged) <= wanted + gap * len(spans)


@settings(deadline=None)
@given(SPANS, SPANS)
def test_what_was_read_is_held(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    content = bytes(range(256))

    async def read() -> Held:
        reader = BytesReader("x", "", content)
        held = await read_spans(reader, first)
        return await read_spans(reader, second, held)

    held = anyio.run(read)
    for offset, length in [*first, *second]:
        assert held.view(offset, length) == content[offset : offset + length]


def test_what_was_not_read_is_not_held() -> None:
    held = Held([(10, b"0123456789")])
    assert held.find(9, 2) is None
    assert held.find(15, 6) is None
    with pytest.raises(LookupError):
        held.view(0, 1)


async def test_results_come_in_the_order_of_the_items() -> None:
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001 * (5 - item % 5))
        running -= 1
        return item * 2

    assert await for_each(list(range(20)), work, limit=4) == [item * 2 for item in range(20)]
    assert most == 4


async def test_the_first_error_comes_as_it_is_and_cancels_the_others() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 2:
            raise TransferFailed("no", uri="x")
        await anyio.sleep(5)
        ended.append(item)

    with anyio.fail_after(2), pytest.raises(TransferFailed):
        await for_each(list(range(10)), work, limit=4)
    assert ended == []


async def test_cancelling_reaches_every_call() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        try:
            await anyio.sleep(5)
        finally:
            ended.append(item)

    with anyio.move_on_after(0.01) as scope:
        await for_each(list(range(10)), work, limit=4)
    assert scope.cancelled_caught
    assert sorted(ended) == [0, 1, 2, 3]
