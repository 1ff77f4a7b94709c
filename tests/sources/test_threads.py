"""A call in a thread has ended when its awaiter goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from asyncload.sources._threads import in_thread


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_returns_and_raises(threads: ThreadPoolExecutor) -> None:
    assert await in_thread(threads, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(threads, divmod, 7, 0)
    assert await in_thread(None, threading.get_ident) != threading.get_ident()


async def test_cancelled_while_it_runs(threads: ThreadPoolExecutor) -> None:
    begun, undone, log = threading.Event(), list[str](), list[str]()

    def work() -> str:
        begun.set()
        time.sleep(0.1)
        log.append("ended")
        return "result"

    task = asyncio.create_task(in_thread(threads, work, undo=undone.append))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    for _ in range(5):  # however often
        task.cancel()
        await asyncio.sleep(0.005)
    assert not task.done()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (log, undone) == (["ended"], ["result"])


async def test_cancelled_before_it_ran(threads: ThreadPoolExecutor) -> None:
    release, calls = threading.Event(), list[int]()
    blocked = asyncio.create_task(in_thread(threads, release.wait))
    task = asyncio.create_task(in_thread(threads, calls.append, 1))
    await asyncio.sleep(0.02)
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
    release.set()
    await blocked
    await in_thread(threads, calls.append, 2)
    assert calls == [2]


async def test_a_scope_that_is_cancelled_waits_too(threads: ThreadPoolExecutor) -> None:
    log = list[str]()

    def work() -> None:
        time.sleep(0.05)
        log.append("ended")

    with anyio.move_on_after(0.01) as scope:
        await in_thread(threads, work)
    assert scope.cancelled_caught
    assert log == ["ended"]


async def test_an_error_after_cancellation_is_dropped(threads: ThreadPoolExecutor) -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.03)
        raise OSError

    task = asyncio.create_task(in_thread(threads, work))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
