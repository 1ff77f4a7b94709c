"""Loads in the background make way for loads on demand, and for the loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import asyncload
from asyncload import resting
from asyncload.cpu_time import count_as_ours
from asyncload.events import Event, Paced, StageStarted
from asyncload.interfaces import Urgency
from asyncload.loader import _pace
from asyncload.loader._duty import LEAST
from asyncload.loader._pace import next_pace
from asyncload.materialize.quiet import SELDOM
from tests.busy import busy_program

SIZE = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("pace")
    arrays = {f"{index}": np.full(SIZE // 8, index, "uint8") for index in range(8)}
    for name in ("now", "later"):
        safetensors.numpy.save_file(arrays, tmp_path / f"{name}.safetensors")
    np.savez_compressed(tmp_path / "packed.npz", a=np.arange(1 << 20), b=np.ones(1 << 20))
    return tmp_path


@pytest.fixture
async def hasty() -> AsyncIterator[asyncload.Loader]:
    """A Loader whose loop is always too late for it."""
    async with asyncload.Loader(processes=1, max_stall_ms=1e-6) as made:
        yield made


@given(st.floats(LEAST, 1), st.floats(0, 1), st.floats(0.001, 1))
def test_the_pace_stays_in_bounds(pace: float, stall: float, most: float) -> None:
    after = next_pace(pace, stall, most)
    assert LEAST <= after <= 1
    assert after <= pace if stall > most else after >= pace


def hold_the_lock(ended: threading.Event) -> None:
    while not ended.is_set():
        sum(range(3_000_000))  # in one piece, with the interpreter's lock held
        time.sleep(0.01)


async def test_loads_that_hold_the_loop_up_are_slowed_down(folder: Path) -> None:
    ended = threading.Event()
    async with asyncload.Loader(processes=1, max_stall_ms=1) as loader:
        with ThreadPoolExecutor(1, initializer=count_as_ours) as threads, loader.pace.errand():
            threads.submit(hold_the_lock, ended)
            try:
                async with asyncio.timeout(60):
                    while loader.pace.value == 1:
                        await asyncio.sleep(0.001)
                load = loader.prefetch(folder / "later.safetensors")
                paced = [event async for event in load.events() if isinstance(event, Paced)]
                assert paced[0].pace < 1
            finally:
                ended.set()


async def test_what_is_needed_now_is_not_slowed_down(folder: Path, hasty: asyncload.Loader) -> None:
    load = hasty.prefetch(folder / "now.safetensors", priority="demand")
    await load
    assert load.progress.pace == 1


async def test_demand_goes_first_and_the_background_still_ends(folder: Path) -> None:
    async with asyncload.Loader(processes=1, max_stall_ms=None) as loader:
        later = loader.prefetch(folder / "later.safetensors")
        busy = True

        async def demand() -> None:
            while busy:
                await loader.load_weights(folder / "now.safetensors")

        others = asyncio.ensure_future(demand())
        try:
            async with asyncio.timeout(60):
                weights = await later
        finally:
            busy = False
            await others
        assert sum(array.nbytes for array in weights.values()) == SIZE


async def test_who_holds_what_is_needed_now_does_not_make_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "_PATIENCE", 60)
    others: list[asyncload.Load[Any]] = []

    def observe(event: Event) -> None:
        if not others and isinstance(event, StageStarted) and event.stage == "read":
            others.append(loader.prefetch(folder / "now.safetensors", priority="demand"))

    async with asyncload.Loader(processes=1, memory=SIZE, observer=observe) as loader:
        later = loader.prefetch(folder / "later.safetensors")
        while not loader.budget.is_needed:
            await asyncio.sleep(0)
        assert not later.done()
        async with asyncio.timeout(20):
            await others[0]
        assert later.done()
        assert later.priority == "background"


async def test_background_jobs_run_in_processes_that_give_way(folder: Path) -> None:
    async with asyncload.Loader(processes=1) as loader:
        workers = loader._resources.workers
        here = os.getpriority(os.PRIO_PROCESS, 0)
        assert await workers.run(_niceness) == here
        assert await workers.run(_niceness, polite=True) == min(here + 10, 19)
        assert await workers.run(_niceness) == here
        weights = await loader.prefetch(folder / "packed.npz")
        assert weights["a"][-1] == (1 << 20) - 1


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_promoted_load_waits_no_more(folder: Path, hasty: asyncload.Loader) -> None:
    load = hasty.prefetch(folder / "later.safetensors")
    load.promote()
    begin = time.perf_counter()
    await load
    assert time.perf_counter() - begin < 10
    assert load.priority == "demand"


@asynccontextmanager
async def beside_a_busy_program() -> AsyncIterator[asyncload.Loader]:
    with busy_program():
        async with asyncload.Loader(processes=1, max_stall_ms=1e6) as loader:
            with loader.pace.errand():
                while loader.pace.value > 0.3:
                    await asyncio.sleep(0.001)
                yield loader


async def test_a_busy_program_is_left_nearly_all(folder: Path) -> None:
    async def took(loader: asyncload.Loader) -> float:
        begin = time.perf_counter()
        load, paces = loader.prefetch(folder / "later.safetensors"), set()
        while not load.done():
            await asyncio.sleep(0.001)
            paces.add(load.progress.pace == loader.pace.value)
        assert True in paces
        return time.perf_counter() - begin

    async with asyncload.Loader(processes=1, max_stall_ms=None) as loader:
        alone = [await took(loader) for _ in range(4)]
    async with beside_a_busy_program() as loader:
        assert await took(loader) > 2 * min(alone)


async def test_what_is_needed_now_rests_for_nobody(folder: Path) -> None:
    async with beside_a_busy_program() as loader:
        needed = loader.prefetch(folder / "now.safetensors", priority="demand")
        shares = set()
        while not needed.done():
            shares.add(loader.pace.share(Urgency.BACKGROUND))
            await asyncio.sleep(0)
        assert 1 in shares
        await needed.over()
        assert loader.pace.share(Urgency.BACKGROUND) == loader.pace.value < 1
        assert loader.pace.share(Urgency.DEMAND) == 1


@pytest.mark.parametrize("most", [1e6, None])
async def test_threads_switch_often_while_an_idle_program_loads(
    folder: Path, most: float | None
) -> None:
    usual = sys.getswitchinterval()
    async with asyncload.Loader(processes=1, max_stall_ms=most) as loader:
        load = loader.prefetch(folder / "later.safetensors")
        found = set()
        while not load.done():
            found.add(sys.getswitchinterval())
            await asyncio.sleep(0)
        await load.over()
        await asyncio.sleep(0)
        assert min(found) < usual
        assert sys.getswitchinterval() == pytest.approx(usual)


async def test_threads_switch_less_often_beside_a_busy_program() -> None:
    usual = sys.getswitchinterval()
    async with beside_a_busy_program():
        assert sys.getswitchinterval() == pytest.approx(SELDOM)
    assert sys.getswitchinterval() == pytest.approx(usual)


async def test_an_errand_rests_as_loads_in_the_background() -> None:
    async with beside_a_busy_program() as loader:
        assert resting.is_resting()
        assert await asyncio.to_thread(resting.is_resting)
        assert loader.pace.value < 1
    assert not resting.is_resting()


async def test_nothing_rests_without_a_bound(folder: Path) -> None:
    with busy_program():
        async with asyncload.Loader(processes=1, max_stall_ms=None) as loader:
            load = loader.prefetch(folder / "later.safetensors")
            async for _ in load.events():
                assert load.progress.pace == 1


async def test_the_program_is_watched_only_while_something_loads(folder: Path) -> None:
    def watching() -> bool:
        return any(task.get_name() == "asyncload-pace" for task in asyncio.all_tasks())

    async with asyncload.Loader(processes=1) as loader:
        await loader.load_weights(folder / "now.safetensors")
        assert not watching()
        load = loader.prefetch(folder / "later.safetensors")
        seen = False
        while not load.done():
            seen = seen or watching()
            await asyncio.sleep(0)
        assert seen
        await asyncio.sleep(0)
        assert not watching()


@pytest.mark.parametrize("wrong", [0, -1])
async def test_a_wrong_bound(wrong: float) -> None:
    with pytest.raises(ValueError, match="max_stall_ms"):
        asyncload.Loader(max_stall_ms=wrong)
