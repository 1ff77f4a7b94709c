"""`Load` by itself: waiters, cancellation, progress, events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncload.errors import Corrupt, LoaderClosed
from asyncload.events import Event, Finished, Indexed, StageStarted, Started, TensorReady
from asyncload.loader._load import Load
from asyncload.loader._reports import Reports


async def started(work: Callable[[Load[Any]], Any], **options: Any) -> Load[Any]:
    load = Load(work, Reports("u", "load", [options.get("observer")]))
    load.task = asyncio.create_task(load.run())  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    return load


async def test_gives_its_result_to_every_waiter() -> None:
    async def work(load: Load[int]) -> int:
        await asyncio.sleep(0.01)
        return 7

    load = await started(work)
    assert list(await asyncio.gather(load, load)) == [7, 7]
    assert await load == 7
    assert load.done()


async def test_gives_its_error_to_every_waiter() -> None:
    async def work(load: Load[int]) -> int:
        raise Corrupt("broken", uri="u")

    load = await started(work)
    for _ in range(2):
        with pytest.raises(Corrupt, match="u: broken"):
            await load


async def test_one_waiter_cancelled_leaves_the_rest() -> None:
    async def work(load: Load[int]) -> int:
        await asyncio.sleep(0.02)
        return 7

    load = await started(work)
    first, second = (asyncio.ensure_future(load) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 7
    assert first.cancelled()


async def test_the_last_waiter_cancelled_cancels_the_load() -> None:
    stopped = asyncio.Event()

    async def work(load: Load[int]) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return 7

    load = await started(work)
    waiters = [asyncio.ensure_future(load) for _ in range(2)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    await asyncio.wait_for(stopped.wait(), 1)
    await load.task  # type: ignore[attr-defined]
    assert load.done()


async def test_cancelled_before_it_ran_does_no_work() -> None:
    ran: list[int] = []

    async def work(load: Load[int]) -> int:
        ran.append(1)
        await asyncio.sleep(60)
        return 7

    load = Load(work, Reports("u", "load"))
    load.cancel()
    await load.run()
    with pytest.raises(asyncio.CancelledError):
        await load
    events = [type(event).__name__ async for event in load.events()]
    assert events[-1] == "Finished"


async def test_cancel_after_the_end_changes_nothing() -> None:
    async def work(load: Load[int]) -> int:
        return 7

    load = await started(work)
    assert await load == 7
    load.cancel()
    assert await load == 7


async def test_progress_and_events_tell_the_same_story() -> None:
    async def work(load: Load[int]) -> int:
        load.emit(StageStarted(uri="u", stage="index"))
        load.emit(Indexed(uri="u", format="f", tensors=2, nbytes=30))
        await asyncio.sleep(0)
        load.emit(StageStarted(uri="u", stage="read"))
        load.emit(TensorReady(uri="u", name="a", nbytes=10))
        await asyncio.sleep(0.01)
        load.emit(TensorReady(uri="u", name="b", nbytes=20))
        return 7

    seen: list[Event] = []
    load = await started(work, observer=seen.append)
    mine = [event async for event in load.events()]
    assert mine == seen
    assert isinstance(mine[0], Started)
    assert isinstance(mine[-1], Finished)
    assert mine[-1].error is None
    assert load.progress.stage == "done"
    assert (load.progress.bytes_done, load.progress.bytes_total) == (30, 30)
    assert (load.progress.tensors_done, load.progress.tensors_total) == (2, 2)


async def test_an_observer_that_fails_does_not_fail_the_load(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work(load: Load[int]) -> int:
        return 7

    def observer(event: Event) -> None:
        raise KeyError(event)

    load = await started(work, observer=observer)
    assert await load == 7
    assert "an observer failed" in caplog.text


async def test_refused_when_its_loader_closed_first() -> None:
    async def work(load: Load[int]) -> int:
        return 7

    load = Load(work, Reports("u", "load"))
    load.refuse()
    with pytest.raises(LoaderClosed):
        await load
