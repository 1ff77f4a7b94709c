"""Work that rests: as long as is said in the context that it was begun in, and no other."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asyncload.resting import (
    SPELL,
    carried,
    in_spells,
    is_resting,
    rest,
    rest_when_due,
    resting,
)


class Asked:
    """A `Rest` that notes what was worked."""

    def __init__(self, pause: float = 0.001, *, wanted: bool = True) -> None:
        self.worked: list[float] = []
        self.wanted = wanted
        self._pause = pause

    def is_wanted(self) -> bool:
        return self.wanted

    def after(self, worked: float) -> float:
        self.worked.append(worked)
        return self._pause if self.wanted else 0.0


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_work_rests_after_each_spell() -> None:
    asked = Asked()
    with resting(asked):
        for _ in in_spells(range(10)):
            work(2 * SPELL)
    assert len(asked.worked) == 10
    assert min(asked.worked) >= SPELL


def test_short_work_does_not_rest() -> None:
    asked = Asked()
    with resting(asked):
        assert rest()
        rest_when_due()
    assert len(asked.worked) == 1


def test_what_was_worked_is_rested_for_once() -> None:
    asked = Asked(0.01)
    with resting(asked):
        rest()
        work(4 * SPELL)
        rest()
        rest()
    assert asked.worked[1] >= 4 * SPELL
    assert asked.worked[2] < 4 * SPELL


def test_sleeping_is_no_work() -> None:
    asked = Asked()
    with resting(asked):
        rest()
        time.sleep(0.05)
        rest_when_due()
    assert asked.worked[-1] < 0.02


def test_it_sleeps_as_long_as_is_said() -> None:
    begin = time.perf_counter()
    with resting(Asked(0.05)):
        assert rest()
    assert time.perf_counter() - begin >= 0.05


@pytest.mark.parametrize("wanted", [False, True])
def test_whether_it_is_wanted_may_change(wanted: bool) -> None:
    asked = Asked(wanted=not wanted)
    with resting(asked):
        asked.wanted = wanted
        assert is_resting() is wanted
        assert rest() is wanted
    assert not is_resting()


def test_nothing_rests_where_nobody_said_so() -> None:
    assert not is_resting()
    assert not rest()
    assert list(in_spells(range(3))) == [0, 1, 2]


def test_threads_rest_only_for_what_was_carried_to_them() -> None:
    asked = Asked()
    with ThreadPoolExecutor(1) as threads:
        with resting(asked):
            carried_over, plain = carried(is_resting), is_resting
        assert threads.submit(carried_over).result()
        assert not threads.submit(plain).result()


def test_a_job_does_not_rest_for_the_one_before() -> None:
    asked = Asked()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work, 0.05).result()
        with resting(asked):
            threads.submit(carried(rest)).result()
    assert asked.worked[0] < 0.05


async def test_tasks_rest_as_the_one_that_began_them() -> None:
    async def look() -> bool:
        return is_resting()

    with resting(Asked()):
        inside = asyncio.create_task(look())
    assert await inside
    assert not await asyncio.create_task(look())


@pytest.mark.filterwarnings("error")
def test_a_coroutine_may_be_destroyed_in_another_context() -> None:
    async def wait() -> None:
        with resting(Asked()):
            await asyncio.sleep(60)

    def begin() -> Coroutine[Any, Any, None]:
        loop = asyncio.new_event_loop()
        waiting = wait()
        carried(waiting.send)(None)  # in a context of its own
        loop.close()
        return waiting

    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    try:
        loop.run_until_complete(_close(begin))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


async def _close(begin: Any) -> None:
    waiting = begin()
    waiting.close()
    gc.collect()
    assert not is_resting()
